//! Names of disks and filesystems in a guest's configuration, and what they mean on these disks.
//!
//! Names follow systemd's and util-linux's rules: tags (`UUID=`, `LABEL=`, `PARTUUID=`,
//! `PARTLABEL=`), `/dev/disk/by-*` links, and kernel names (`/dev/sda1`, `/dev/nvme0n1p2`).
//! Kernel names count disks in the order in which they were given, whatever their bus.
//! Left out on purpose: device-mapper and MD names, which no volume here answers to.

use rehost_volume::{Table, Volume};

use crate::model::{Content, FilesystemRef};

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
    /// Anything else: `tmpfs`, `/dev/mapper/…`, `host:/export`.
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
struct Named {
    at: FilesystemRef,
    label: Option<String>,
    partuuid: Option<String>,
    partlabel: Option<String>,
    table: Table,
}

/// All volumes of all disks, to look names up in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Devices {
    disks: usize,
    volumes: Vec<Named>,
}

impl Devices {
    /// Adds a disk; its volumes follow with [`Devices::add`].
    pub(crate) fn add_disk(&mut self) {
        self.disks = self.disks.saturating_add(1);
    }

    /// Adds a volume of the disk added last.
    pub(crate) fn add(&mut self, table: Table, volume: &Volume, content: &Content) {
        self.volumes.push(Named {
            at: FilesystemRef {
                disk: self.disks.saturating_sub(1),
                volume: volume.number,
                uuid: content.uuid().map(str::to_owned),
            },
            label: content.label().map(str::to_owned),
            partuuid: volume.partuuid.clone(),
            partlabel: volume.name.clone(),
            table,
        });
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
                .find(|v| v.at.disk == disk && v.at.volume == volume)
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
            DeviceSpec::Link(_) | DeviceSpec::Other => None,
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

    /// GRUB's name for it: `hd0,msdos1`, `hd0,gpt2`, `hd0`.
    pub(crate) fn grub_name(&self, at: &FilesystemRef) -> Option<String> {
        let volume = self.volume(at)?;
        Some(match volume.table {
            Table::Mbr => format!("hd{},msdos{}", at.disk, at.volume),
            Table::Gpt => format!("hd{},gpt{}", at.disk, at.volume),
            Table::None => format!("hd{}", at.disk),
        })
    }

    /// What GRUB 2 calls `hd0,msdos1`, `hd0,gpt2`, `hd0,1` or `hd0`.
    pub(crate) fn by_grub_name(&self, name: &str) -> Option<&FilesystemRef> {
        let rest = name.trim_matches(['(', ')']).strip_prefix("hd")?;
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
            .find(|at| at.disk == disk && at.volume == number)
    }

    fn volume(&self, at: &FilesystemRef) -> Option<&Named> {
        self.volumes
            .iter()
            .find(|v| v.at.disk == at.disk && v.at.volume == at.volume)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One MBR disk: ext4 (labelled `root disk`) on partition 1, swap on 5.
    pub(crate) fn devices() -> Devices {
        let volume = |number, partuuid: &str| Volume {
            number,
            range: 0..512,
            kind: "0x83".to_owned(),
            partuuid: Some(partuuid.to_owned()),
            name: None,
            bootable: false,
        };
        let content = |kind: &str, uuid: &str, label: Option<&str>| Content::Recognised {
            kind: kind.to_owned(),
            uuid: Some(uuid.to_owned()),
            label: label.map(str::to_owned),
        };
        let mut devices = Devices::default();
        devices.add_disk();
        devices.add(
            Table::Mbr,
            &volume(1, "b1e2e3d4-01"),
            &content(
                "ext4",
                "5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f",
                Some("root disk"),
            ),
        );
        devices.add(
            Table::Mbr,
            &volume(5, "b1e2e3d4-05"),
            &content("swap", "aaaaaaaa-0000-4000-8000-bbbbbbbbbbbb", None),
        );
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
            "proc",
        ] {
            assert!(!DeviceSpec::parse(name).depends_on_bus(), "{name}");
        }
        assert_eq!(DeviceSpec::parse("/dev/sdaa3"), DeviceSpec::Kernel(26, 3));
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
        fn arbitrary_names_never_panic(name in "(/dev/)?(sd|nvme|cciss/c|mmcblk|disk/by-label/)?.{0,20}") {
            devices().resolve(&name);
            devices().by_grub_name(&name);
        }
    }
}
