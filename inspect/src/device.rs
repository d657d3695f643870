//! Names of disks and filesystems in a guest's configuration, and what they mean on these disks.
//!
//! Names follow systemd's and util-linux's rules: tags (`UUID=`, `LABEL=`, `PARTUUID=`,
//! `PARTLABEL=`), `/dev/disk/by-*` links, kernel names (`/dev/sda1`, `/dev/nvme0n1p2`), and those
//! of volumes on others (`/dev/mapper/vg-lv`, `/dev/vg/lv`, `/dev/md0`).
//! Kernel names count disks in the order in which they were given, whatever their bus.
//! Left out on purpose: `/dev/dm-0`, whose number is another one at every boot.

mod link;

use rehost_volume::Table;

use crate::model::FilesystemRef;
pub(crate) use link::{array_links, crypt_links, logical_links};

/// What a configuration file calls a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceSpec {
    /// `UUID=` or `/dev/disk/by-uuid/`.
    Uuid(String),
    /// `LABEL=` or `/dev/disk/by-label/`.
    Label(String),
    /// `PARTUUID=` or `/dev/disk/by-partuuid/`.
    PartUuid(String),
    /// `PARTLABEL=` or `/dev/disk/by-partlabel/`.
    PartLabel(String),
    /// A kernel name: the index of the disk on its bus, and the partition (0: the whole disk).
    Kernel(usize, u32),
    /// `/dev/disk/by-id/` or `by-path/`: names the bus or the vendor, so only its partition
    /// number (0: the whole disk) can be used.
    Link(u32),
    /// A volume on others, by a name below `/dev`: `mapper/vg-lv`, `vg/lv`, `md0`.
    Stacked(String),
    /// Anything else: `tmpfs`, `host:/export`.
    Other,
}

impl DeviceSpec {
    /// Understands one name, as it stands in fstab or after `root=`.
    pub(crate) fn parse(name: &str) -> Self {
        let tag = |tag: &str| {
            let value = name.strip_prefix(tag)?;
            Some(value.trim_matches(['"', '\'']).to_owned())
        };
        let link = |folder: &str| {
            let value = name.strip_prefix("/dev/disk/")?.strip_prefix(folder)?;
            Some(unescape_hex(value))
        };
        if let Some(value) = tag("UUID=").or_else(|| link("by-uuid/")) {
            Self::Uuid(value)
        } else if let Some(value) = tag("LABEL=").or_else(|| link("by-label/")) {
            Self::Label(value)
        } else if let Some(value) = tag("PARTUUID=").or_else(|| link("by-partuuid/")) {
            Self::PartUuid(value)
        } else if let Some(value) = tag("PARTLABEL=").or_else(|| link("by-partlabel/")) {
            Self::PartLabel(value)
        } else if let Some(link) = name.strip_prefix("/dev/").and_then(link::stacked) {
            Self::Stacked(link)
        } else if name.starts_with("/dev/disk/by-id/") || name.starts_with("/dev/disk/by-path/") {
            let partition = name
                .rsplit_once("-part")
                .and_then(|(_, number)| number.parse().ok());
            Self::Link(partition.unwrap_or_default())
        } else {
            name.strip_prefix("/dev/")
                .and_then(kernel_name)
                .map_or(Self::Other, |(disk, partition)| {
                    Self::Kernel(disk, partition)
                })
        }
    }

    /// Whether the name changes when the disk moves to another bus.
    pub(crate) const fn depends_on_bus(&self) -> bool {
        matches!(self, Self::Kernel(..) | Self::Link(_))
    }

    /// Whether it names a local disk or filesystem that could be looked for here.
    pub(crate) const fn names_disk(&self) -> bool {
        !matches!(self, Self::Other)
    }
}

/// `sda1`, `vdb`, `nvme0n1p2`, `mmcblk0p1`, `cciss/c0d0p1` as (disk, partition).
fn kernel_name(name: &str) -> Option<(usize, u32)> {
    if let Some(rest) = name.strip_prefix("nvme") {
        let (controller, rest) = rest.split_once('n')?;
        let (_namespace, partition) = numbered(rest, 'p')?;
        return Some((controller.parse().ok()?, partition));
    }
    if let Some(rest) = name.strip_prefix("mmcblk") {
        let (disk, partition) = numbered(rest, 'p')?;
        return Some((disk, partition));
    }
    if let Some(rest) = name.strip_prefix("cciss/c") {
        let (_controller, rest) = rest.split_once('d')?;
        return numbered(rest, 'p');
    }
    let rest = ["xvd", "sd", "hd", "vd"]
        .iter()
        .find_map(|bus| name.strip_prefix(bus))?;
    let letters: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
    let number = rest.strip_prefix(letters.as_str())?;
    // Bounded: `sda` to `sdzz`. No guest has more disks than two letters count.
    if letters.is_empty() || letters.len() > 2 {
        return None;
    }
    let disk = letters.bytes().fold(0usize, |count, letter| {
        count
            .saturating_mul(26)
            .saturating_add(usize::from(letter.saturating_sub(b'a')))
            .saturating_add(1)
    });
    let partition = if number.is_empty() {
        0
    } else {
        number.parse().ok()?
    };
    Some((disk.saturating_sub(1), partition))
}

/// `0`, or `0p1` where `separator` is `p`.
fn numbered(text: &str, separator: char) -> Option<(usize, u32)> {
    match text.split_once(separator) {
        Some((disk, partition)) => Some((disk.parse().ok()?, partition.parse().ok()?)),
        None => Some((text.parse().ok()?, 0)),
    }
}

/// udev writes bytes of a label that are unsafe in a file name as `\x20`.
fn unescape_hex(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(part.get(2..).unwrap_or_default());
            }
            None => {
                out.push_str("\\x");
                out.push_str(part);
            }
        }
    }
    out
}

/// One volume, with every name it answers to.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) at: FilesystemRef,
    pub(crate) label: Option<String>,
    pub(crate) partuuid: Option<String>,
    pub(crate) partlabel: Option<String>,
    /// How the disk is divided that it is a partition of.
    pub(crate) table: Table,
    /// Names below `/dev` of a volume that lies on others.
    pub(crate) links: Vec<String>,
    /// GRUB's names for such a one; the first is the one that is given out.
    pub(crate) grub: Vec<String>,
    /// The encrypted volume that it is the plain side of.
    pub(crate) within: Option<FilesystemRef>,
}

/// All volumes of all disks, to look names up in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Devices {
    disks: usize,
    volumes: Vec<Named>,
}

impl Devices {
    /// Adds a volume.
    pub(crate) fn add(&mut self, volume: Named) {
        self.disks = self.disks.max(volume.at.disk.saturating_add(1));
        self.volumes.push(volume);
    }

    /// The guest calls the plain side of the encrypted volume `within` by this name.
    pub(crate) fn name_unlocked(&mut self, within: &FilesystemRef, name: &str) {
        let inside = |volume: &&mut Named| {
            let outer = volume.within.as_ref();
            outer.is_some_and(|outer| outer.is(within))
        };
        if let Some(volume) = self.volumes.iter_mut().find(inside) {
            volume.links.push(format!("mapper/{name}"));
        }
    }

    /// The guest calls the array with this UUID by this name below `/dev`.
    pub(crate) fn name_array(&mut self, uuid: &str, name: &str) {
        let known = format!("md-uuid-{}", link::colons(uuid));
        let array = |volume: &&mut Named| volume.links.contains(&known);
        if let Some(volume) = self.volumes.iter_mut().find(array) {
            volume.links.push(name.to_owned());
        }
    }

    /// The volume that `name` (as written in a configuration file) means here.
    pub(crate) fn resolve(&self, name: &str) -> Option<FilesystemRef> {
        self.named(&DeviceSpec::parse(name)).map(|v| v.at.clone())
    }

    /// The volume with this filesystem UUID.
    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<&FilesystemRef> {
        self.named(&DeviceSpec::Uuid(uuid.to_owned()))
            .map(|v| &v.at)
    }

    /// The volume with this filesystem label.
    pub(crate) fn by_label(&self, label: &str) -> Option<&FilesystemRef> {
        self.named(&DeviceSpec::Label(label.to_owned()))
            .map(|v| &v.at)
    }

    fn named(&self, spec: &DeviceSpec) -> Option<&Named> {
        let same = |have: &Option<String>, want: &str| {
            have.as_deref()
                .is_some_and(|have| have.eq_ignore_ascii_case(want))
        };
        let at = |disk: usize, volume: u32| {
            self.volumes
                .iter()
                .find(|v| v.at.disk == disk && v.at.volume == volume && v.at.name.is_none())
        };
        match spec {
            DeviceSpec::Uuid(uuid) => self.volumes.iter().find(|v| same(&v.at.uuid, uuid)),
            DeviceSpec::Label(label) => self
                .volumes
                .iter()
                .find(|v| v.label.as_deref() == Some(label.as_str())),
            DeviceSpec::PartUuid(uuid) => self.volumes.iter().find(|v| same(&v.partuuid, uuid)),
            DeviceSpec::PartLabel(name) => self
                .volumes
                .iter()
                .find(|v| v.partlabel.as_deref() == Some(name.as_str())),
            DeviceSpec::Kernel(disk, partition) => at(*disk, *partition),
            // A vendor string cannot be looked up, but one disk is certainly that disk.
            DeviceSpec::Link(partition) if self.disks == 1 => at(0, *partition),
            DeviceSpec::Stacked(name) => self.stacked(name),
            DeviceSpec::Link(_) | DeviceSpec::Other => None,
        }
    }

    fn stacked(&self, name: &str) -> Option<&Named> {
        let known = self
            .volumes
            .iter()
            .find(|volume| volume.links.iter().any(|link| link == name));
        // The kernel numbers arrays as it finds them where their names tell nothing else.
        let mut arrays = self.volumes.iter().filter(|volume| {
            volume
                .links
                .first()
                .is_some_and(|link| link.starts_with("md-uuid-"))
        });
        match (known, arrays.next(), arrays.next()) {
            (None, Some(only), None) if link::is_array_number(name) => Some(only),
            _ => known,
        }
    }

    /// A name for the same volume that holds on any bus: `UUID=…`, else `PARTUUID=…`.
    pub(crate) fn stable(&self, at: &FilesystemRef) -> Option<String> {
        let volume = self.volume(at)?;
        match (&volume.at.uuid, &volume.partuuid) {
            (Some(uuid), _) => Some(format!("UUID={uuid}")),
            (None, Some(partuuid)) => Some(format!("PARTUUID={partuuid}")),
            (None, None) => None,
        }
    }

    /// A name that the kernel itself understands without an initramfs: `PARTUUID=…`.
    pub(crate) fn stable_for_kernel(&self, at: &FilesystemRef) -> Option<String> {
        let partuuid = self.volume(at)?.partuuid.as_ref()?;
        Some(format!("PARTUUID={partuuid}"))
    }

    /// GRUB's name for it: `hd0,msdos1`, `hd0,gpt2`, `hd0`, `lvm/vg-lv`.
    pub(crate) fn grub_name(&self, at: &FilesystemRef) -> Option<String> {
        let volume = self.volume(at)?;
        if at.name.is_some() {
            return volume.grub.first().cloned();
        }
        Some(match volume.table {
            Table::Mbr => format!("hd{},msdos{}", at.disk, at.volume),
            Table::Gpt => format!("hd{},gpt{}", at.disk, at.volume),
            Table::None => format!("hd{}", at.disk),
        })
    }

    /// What GRUB 2 calls `hd0,msdos1`, `hd0,gpt2`, `hd0,1`, `hd0`, `lvm/vg-lv`, `mduuid/…`.
    pub(crate) fn by_grub_name(&self, name: &str) -> Option<&FilesystemRef> {
        let name = name.trim_matches(['(', ')']);
        let Some(rest) = name.strip_prefix("hd") else {
            // `lvmid/GROUP/VOLUME`: the volume's UUID is enough.
            let name = match name.strip_prefix("lvmid/") {
                Some(ids) => format!("lvmid/{}", ids.rsplit('/').next().unwrap_or(ids)),
                None => name.to_owned(),
            };
            let mut volumes = self.volumes.iter();
            return volumes
                .find(|volume| volume.grub.contains(&name))
                .map(|volume| &volume.at);
        };
        let (disk, part) = rest.split_once(',').unwrap_or((rest, ""));
        let disk: usize = disk.parse().ok()?;
        let digits = part.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number: u32 = if part.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
        self.volumes
            .iter()
            .map(|volume| &volume.at)
            .find(|at| at.disk == disk && at.volume == number && at.name.is_none())
    }

    fn volume(&self, at: &FilesystemRef) -> Option<&Named> {
        self.volumes.iter().find(|v| v.at.is(at))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One MBR disk: ext4 (labelled `root disk`) on partition 1, swap on 5.
    pub(crate) fn devices() -> Devices {
        let partition = |number, partuuid: &str, uuid: &str, label: Option<&str>| Named {
            at: FilesystemRef {
                disk: 0,
                volume: number,
                name: None,
                subvolume: None,
                uuid: Some(uuid.to_owned()),
            },
            label: label.map(str::to_owned),
            partuuid: Some(partuuid.to_owned()),
            partlabel: None,
            table: Table::Mbr,
            links: Vec::new(),
            grub: Vec::new(),
            within: None,
        };
        let mut devices = Devices::default();
        devices.add(partition(
            1,
            "b1e2e3d4-01",
            "5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f",
            Some("root disk"),
        ));
        devices.add(partition(
            5,
            "b1e2e3d4-05",
            "aaaaaaaa-0000-4000-8000-bbbbbbbbbbbb",
            None,
        ));
        devices
    }

    #[test]
    fn every_way_to_name_a_partition_finds_it() {
        let devices = devices();
        for name in [
            "UUID=5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f",
            "UUID=\"5E4DDD4C-11F5-4c95-ae23-6b1d0a4d9e1f\"",
            "LABEL=root disk",
            "PARTUUID=b1e2e3d4-01",
            "/dev/disk/by-uuid/5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f",
            "/dev/disk/by-label/root\\x20disk",
            "/dev/disk/by-partuuid/b1e2e3d4-01",
            "/dev/disk/by-id/scsi-36000c29f6c0b-part1",
            "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1",
            "/dev/sda1",
            "/dev/hda1",
            "/dev/vda1",
            "/dev/xvda1",
            "/dev/nvme0n1p1",
            "/dev/mmcblk0p1",
            "/dev/cciss/c0d0p1",
        ] {
            assert_eq!(devices.resolve(name).map(|at| at.volume), Some(1), "{name}");
        }
        assert_eq!(devices.resolve("/dev/sda5").map(|at| at.volume), Some(5));
        for name in [
            "tmpfs",
            "/dev/sdb1",
            "/dev/sda2",
            "/dev/sda",
            "/dev/mapper/vg-root",
            "nas:/export",
            "/dev/sd",
            "/dev/sdaaa1",
            "/dev/sda99999999999",
            "UUID=",
            "/dev/nvme0",
            "",
        ] {
            assert_eq!(devices.resolve(name), None, "{name}");
        }
    }

    #[test]
    fn only_kernel_names_and_vendor_links_depend_on_the_bus() {
        for name in [
            "/dev/sda1",
            "/dev/disk/by-path/pci-0",
            "/dev/disk/by-id/ata-VMware_1",
        ] {
            assert!(DeviceSpec::parse(name).depends_on_bus(), "{name}");
        }
        for name in [
            "UUID=1",
            "LABEL=x",
            "/dev/disk/by-uuid/1",
            "/dev/mapper/a-b",
            "/dev/vg/lv",
            "/dev/md0",
            "proc",
        ] {
            assert!(!DeviceSpec::parse(name).depends_on_bus(), "{name}");
        }
        assert_eq!(DeviceSpec::parse("/dev/sdaa3"), DeviceSpec::Kernel(26, 3));
    }

    /// A volume that lies on others.
    fn stacked(name: &str, (links, grub): (Vec<String>, Vec<String>)) -> Named {
        Named {
            at: FilesystemRef {
                disk: 0,
                volume: 0,
                name: Some(name.to_owned()),
                subvolume: None,
                uuid: Some(format!("uuid of {name}")),
            },
            label: None,
            partuuid: None,
            partlabel: None,
            table: Table::None,
            links,
            grub,
            within: None,
        }
    }

    #[test]
    fn volumes_on_others_answer_to_the_names_that_udev_makes() {
        let mut devices = devices();
        let id = "Abcdef-ghij-klmn-opqr-stuv-wxyz-012345";
        devices.add(stacked("my-vg/root", logical_links("my-vg/root", Some(id))));
        let array = "c04c3dd1-7a35-0f35-2cff-2a2bd7bc1ba4";
        devices.add(stacked("md0", array_links(array, Some("host:0"))));
        let crypt = "5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f";
        let mut plain = stacked("luks", crypt_links(crypt));
        plain.within = devices.resolve("/dev/sda5");
        devices.add(plain);
        for (name, expected) in [
            ("/dev/mapper/my--vg-root", "my-vg/root"),
            ("/dev/my-vg/root", "my-vg/root"),
            ("/dev/disk/by-id/dm-name-my--vg-root", "my-vg/root"),
            (
                "/dev/disk/by-id/dm-uuid-LVM-00000000000000000000000000000000Abcdefghijklmnopqrstuvwxyz012345",
                "my-vg/root",
            ),
            ("/dev/md0", "md0"),
            ("/dev/md/0", "md0"),
            ("/dev/md127", "md0"),
            ("/dev/disk/by-id/md-name-host:0", "md0"),
            (
                "/dev/disk/by-id/md-uuid-c04c3dd1:7a350f35:2cff2a2b:d7bc1ba4",
                "md0",
            ),
            (
                "/dev/mapper/luks-5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f",
                "luks",
            ),
            (
                "/dev/disk/by-id/dm-uuid-CRYPT-LUKS2-5e4ddd4c11f54c95ae236b1d0a4d9e1f-secret",
                "luks",
            ),
        ] {
            let found = devices.resolve(name).and_then(|at| at.name);
            assert_eq!(found.as_deref(), Some(expected), "{name}");
            assert!(!DeviceSpec::parse(name).depends_on_bus(), "{name}");
        }
        for name in ["/dev/mapper/my-vg-root", "/dev/dm-0", "/dev/md_data"] {
            assert_eq!(devices.resolve(name), None, "{name}");
        }
        // What the guest's own files call them.
        let outer = devices.resolve("/dev/sda5").unwrap();
        devices.name_unlocked(&outer, "secret");
        devices.name_array(array, "md/data");
        for name in ["/dev/mapper/secret", "/dev/md/data"] {
            assert!(devices.resolve(name).is_some(), "{name}");
        }
        for name in [
            "lvm/my--vg-root",
            "lvmid/some-group/Abcdef-ghij-klmn-opqr-stuv-wxyz-012345",
            "mduuid/c04c3dd17a350f352cff2a2bd7bc1ba4",
            "md/0",
            "cryptouuid/5e4ddd4c11f54c95ae236b1d0a4d9e1f",
        ] {
            let at = devices.by_grub_name(name).unwrap();
            let given = devices.grub_name(at).unwrap();
            assert_eq!(devices.by_grub_name(&given), Some(at), "{name}");
        }
    }

    #[test]
    fn grub_names_go_both_ways() {
        let devices = devices();
        let root = devices.resolve("/dev/sda1").unwrap();
        assert_eq!(devices.grub_name(&root).as_deref(), Some("hd0,msdos1"));
        for name in ["hd0,msdos1", "(hd0,1)", "hd0,gpt1"] {
            assert_eq!(devices.by_grub_name(name), Some(&root), "{name}");
        }
        assert_eq!(devices.by_grub_name("hd1,msdos1"), None);
        assert_eq!(devices.by_grub_name("cd0"), None);
        assert_eq!(
            devices.stable(&root).as_deref(),
            Some("UUID=5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f")
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn arbitrary_names_never_panic(name in "(/dev/)?(sd|nvme|cciss/c|mmcblk|disk/by-label/|mapper/|md)?.{0,20}") {
            devices().resolve(&name);
            devices().by_grub_name(&name);
        }
    }
}
