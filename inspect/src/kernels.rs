//! The kernels of a guest: every module tree and every bootable image, with what each can drive.
//!
//! The module tree is authoritative (not packages). A kernel is listed once for each image that can
//! be booted with it, so that rescue images with an initramfs of their own are seen.

mod contents;

use rehost_block::Fields;

use crate::initramfs::Initramfs;
use crate::model::{
    BootEntry, BootLoader, DriverFound, DriverState, Finding, InitramfsFound, Kernel, Place,
    Severity, UnifiedKernel,
};
use crate::modules::{Dependencies, ModuleName, parse_names};
use crate::reader::Reader;
use crate::text::compare_versions;
pub(crate) use contents::{describe, unread};

/// The drivers that decide where a kernel boots: buses, disks, networks, root filesystems.
pub const DRIVERS: [&str; 44] = [
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "scsi_mod",
    "sd_mod",
    "libata",
    "ahci",
    "ata_piix",
    "nvme",
    "megaraid_sas",
    "mpt3sas",
    "hpsa",
    "smartpqi",
    "aacraid",
    "vmw_pvscsi",
    "mptspi",
    "mptsas",
    "vmxnet3",
    "e1000",
    "e1000e",
    "igb",
    "igc",
    "ixgbe",
    "i40e",
    "ice",
    "tg3",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "r8169",
    "hv_vmbus",
    "hv_storvsc",
    "hv_netvsc",
    "xen_blkfront",
    "xen_netfront",
    "ext4",
    "xfs",
    "btrfs",
    "dm_mod",
    "raid1",
    "vfat",
];

/// Bytes of a kernel image in which its version is looked for: the real-mode part, at most 64
/// sectors.
pub(crate) const IMAGE_START: usize = 64 << 10;

/// Image names: what comes before the version.
const IMAGES: [&str; 6] = [
    "vmlinuz-", "vmlinux-", "kernel-", "bzImage-", "Image-", "vmlinuz",
];

/// Initramfs names, `*` for the version.
const INITRAMFS: [&str; 7] = [
    "initrd.img-*",
    "initramfs-*.img",
    "initrd-*",
    "initrd-*.img",
    "initramfs-*",
    "initramfs.img-*",
    "initrd.img-*.gz",
];

/// Finds the kernels, the newest first.
pub(crate) fn find(reader: &Reader<'_>, loader: &BootLoader) -> Vec<Kernel> {
    let boot = reader.names("/boot");
    let mut kernels = Vec::new();
    for version in versions(reader, &loader.unified) {
        let tree = ModuleTree::read(reader, &version);
        let kernel = |image: Option<String>, initramfs: Option<InitramfsFound>| Kernel {
            drivers: drivers(&tree, initramfs.as_ref()),
            config: Some(format!("/boot/config-{version}")).filter(|path| reader.exists(path)),
            modules: reader.canonical(&format!("/lib/modules/{version}")),
            version: version.clone(),
            image,
            initramfs,
        };
        let before = kernels.len();
        for (image, initramfs) in pairs(reader, &boot, &loader.entries, &version) {
            let initramfs = initramfs.map(|path| unpack(reader, &path, &version));
            kernels.push(kernel(image, initramfs));
        }
        for image in &loader.unified {
            if image.version.as_deref() == Some(version.as_str()) {
                kernels.push(kernel(Some(image.path.clone()), image.initramfs.clone()));
            }
        }
        if kernels.len() == before {
            kernels.push(kernel(None, None));
        }
    }
    for name in boot.iter().filter(|name| name.contains("kdump")) {
        reader.find(Finding {
            severity: Severity::Note,
            id: "kdump-left-alone",
            what: "an initramfs for crash dumps; it is left as it is".to_owned(),
            evidence: vec![Place::file(format!("/boot/{name}"))],
            fix: None,
        });
    }
    kernels
}

/// Kernel versions with a module index, and those of images without one, the newest first.
fn versions(reader: &Reader<'_>, unified: &[UnifiedKernel]) -> Vec<String> {
    let mut versions: Vec<String> = reader
        .names("/lib/modules")
        .into_iter()
        .filter(|version| reader.exists(&format!("/lib/modules/{version}/modules.dep")))
        .collect();
    if versions.is_empty() {
        // A kernel without modules boots as well.
        versions = reader
            .names("/boot")
            .iter()
            .filter(|name| is_image(name))
            .filter_map(|name| image_version(&reader.start(&format!("/boot/{name}"), IMAGE_START)?))
            .chain(unified.iter().filter_map(|image| image.version.clone()))
            .collect();
        versions.sort();
        versions.dedup();
    }
    versions.sort_by(|a, b| compare_versions(b, a));
    versions
}

fn is_image(name: &str) -> bool {
    IMAGES.iter().any(|prefix| name.starts_with(prefix))
        && ![
            ".old",
            ".bak",
            ".dpkg-old",
            ".dpkg-new",
            ".rpmsave",
            ".rpmnew",
            ".sig",
            ".hmac",
        ]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

type Pair = (Option<String>, Option<String>);

/// The images of kernel `version` with their initramfs: by name in `/boot` and beside the modules,
/// and what the boot menu pairs.
fn pairs(reader: &Reader<'_>, boot: &[String], entries: &[BootEntry], version: &str) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    let own = [
        format!("/lib/modules/{version}/vmlinuz"),
        format!("/usr/lib/modules/{version}/vmlinuz"),
    ];
    let named = IMAGES
        .iter()
        .filter(|prefix| prefix.ends_with('-'))
        .map(|prefix| format!("/boot/{prefix}{version}"));
    if let Some(image) = named.chain(own).find(|path| reader.exists(path)) {
        let initramfs = INITRAMFS
            .iter()
            .map(|pattern| format!("/boot/{}", pattern.replace('*', version)))
            .find(|path| reader.exists(path));
        let initramfs = initramfs.or_else(|| menu_initramfs(reader, entries, &image));
        pairs.push((Some(image), initramfs));
    }
    // Images whose name does not tell: Alpine's vmlinuz-virt, Arch's vmlinuz-linux, rescue images.
    let in_menu = entries.iter().filter_map(|entry| entry.kernel.clone());
    let in_boot = boot
        .iter()
        .filter(|name| is_image(name))
        .map(|name| format!("/boot/{name}"));
    for path in in_menu.chain(in_boot) {
        let Some(image) = reader.canonical(&path) else {
            continue;
        };
        let known = |pair: &Pair| {
            let have = pair.0.as_deref().and_then(|have| reader.canonical(have));
            have.as_deref() == Some(&image)
        };
        if pairs.iter().any(known) {
            continue;
        }
        let start = reader.start(&image, IMAGE_START);
        if start.and_then(|start| image_version(&start)).as_deref() != Some(version) {
            continue;
        }
        let suffix = image.rsplit_once("vmlinuz-").map(|(_, suffix)| suffix);
        let initramfs = menu_initramfs(reader, entries, &image).or_else(|| {
            let suffix = suffix?;
            INITRAMFS
                .iter()
                .map(|pattern| format!("/boot/{}", pattern.replace('*', suffix)))
                .find(|path| reader.exists(path))
        });
        pairs.push((Some(image), initramfs));
    }
    pairs
}

/// The initramfs that the boot menu loads with `image`; microcode archives come before it.
fn menu_initramfs(reader: &Reader<'_>, entries: &[BootEntry], image: &str) -> Option<String> {
    let image = reader.canonical(image)?;
    entries
        .iter()
        .filter(|entry| {
            let kernel = entry
                .kernel
                .as_deref()
                .and_then(|path| reader.canonical(path));
            kernel.as_deref() == Some(&image)
        })
        .filter_map(|entry| entry.initrds.iter().rfind(|path| !path.contains("ucode")))
        .find_map(|path| reader.canonical(path))
}

/// `uname -r` from the setup header of an x86 kernel image (Linux `Documentation/arch/x86/boot.rst`,
/// field `kernel_version`).
pub(crate) fn image_version(start: &[u8]) -> Option<String> {
    let fields = Fields::new(start, "kernel setup header", 0);
    if fields.bytes(0x202, 4).ok()? != b"HdrS" {
        return None;
    }
    let at = usize::from(fields.u16_le(0x20e).ok()?).checked_add(0x200)?;
    let text = start.get(at..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(text.get(..end)?).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// What a module directory lists.
struct ModuleTree {
    builtin: std::collections::BTreeSet<ModuleName>,
    modules: Dependencies,
}

impl ModuleTree {
    fn read(reader: &Reader<'_>, version: &str) -> Self {
        let text = |name: &str| {
            let path = format!("/lib/modules/{version}/{name}");
            let bytes = reader.bytes_at_most(&path, MOST_INDEX);
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        Self {
            builtin: parse_names(&text("modules.builtin")),
            modules: Dependencies::parse(&text("modules.dep")),
        }
    }

    fn state(&self, name: &ModuleName) -> DriverState {
        if self.builtin.contains(name) {
            DriverState::Builtin
        } else if self.modules.get(name).is_some() {
            DriverState::Module
        } else {
            DriverState::Absent
        }
    }
}

/// Largest module index that is read. Ours: `modules.dep` of a full kernel has 600 KiB.
const MOST_INDEX: u64 = 16 << 20;

fn drivers(tree: &ModuleTree, initramfs: Option<&InitramfsFound>) -> Vec<DriverFound> {
    let readable = initramfs.filter(|found| found.error.is_none());
    DRIVERS
        .iter()
        .map(|name| DriverFound {
            name,
            kernel: tree.state(&ModuleName::new(name)),
            in_initramfs: readable.map(|found| found.modules.iter().any(|have| have == name)),
        })
        .collect()
}

/// Reads an initramfs; one that cannot be read is listed with its error.
fn unpack(reader: &Reader<'_>, path: &str, version: &str) -> InitramfsFound {
    let size = reader.size(path).unwrap_or_default();
    let parsed = match reader.tree.read(path) {
        Ok(Some(bytes)) => Initramfs::parse(bytes),
        Ok(None) => {
            return InitramfsFound {
                error: Some("not a file".to_owned()),
                ..unread(path, size)
            };
        }
        Err(error) => Err(error),
    };
    match parsed {
        Ok(initramfs) => describe(&initramfs, path, version, size),
        Err(error) => {
            reader.find(Finding {
                severity: Severity::Problem,
                id: "initramfs-unreadable",
                what: format!("cannot read the initramfs {path}: {error}"),
                evidence: vec![Place::file(path)],
                fix: Some("rebuild it inside the guest".to_owned()),
            });
            InitramfsFound {
                error: Some(error.to_string()),
                ..unread(path, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_image_comes_from_its_setup_header() {
        let mut image = vec![0u8; 0x1000];
        assert_eq!(image_version(&image), None);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x600u16.to_le_bytes());
        let text = b"6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP\0";
        image[0x800..0x800 + text.len()].copy_from_slice(text);
        assert_eq!(image_version(&image).as_deref(), Some("6.1.0-18-amd64"));
        image[0x20e..0x210].copy_from_slice(&0xffffu16.to_le_bytes());
        assert_eq!(image_version(&image), None);
        assert_eq!(image_version(&image[..0x204]), None);
    }
}
