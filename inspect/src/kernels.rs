//! The kernels of a guest: every module tree and every bootable image, with what each can drive.
//!
//! The module tree is authoritative (not packages). A kernel is listed once for each image that can
//! be booted with it, so that rescue images with an initramfs of their own are seen.

use rehost_block::Fields;

use crate::initramfs::Initramfs;
use crate::model::{
    BootEntry, DriverFound, DriverState, Finding, Generator, InitramfsFound, InitramfsHint, Kernel,
    Place, SegmentFound, Severity,
};
use crate::modules::{Dependencies, ModuleName, parse_names};
use crate::reader::Reader;
use crate::text::compare_versions;

/// The drivers that decide where a kernel boots: buses, disks, networks, root filesystems.
pub const DRIVERS: [&str; 29] = [
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
    "vmw_pvscsi",
    "mptspi",
    "mptsas",
    "vmxnet3",
    "e1000",
    "e1000e",
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

/// Files inside an initramfs that fix a root or resume device.
const HINTS: [&str; 6] = [
    "conf/param.conf",
    "conf/conf.d/resume",
    "conf/conf.d/zz-resume-auto",
    "etc/fstab",
    "etc/crypttab",
    "etc/lvm/devices/system.devices",
];

/// Largest hint that is kept. Ours.
const MOST_HINT: usize = 64 << 10;

/// Bytes of a kernel image in which its version is looked for: the real-mode part, at most 64
/// sectors.
const IMAGE_START: usize = 64 << 10;

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
pub(crate) fn find(reader: &Reader<'_>, entries: &[BootEntry]) -> Vec<Kernel> {
    let boot = reader.names("/boot");
    let mut kernels = Vec::new();
    for version in versions(reader) {
        let tree = ModuleTree::read(reader, &version);
        let mut pairs = pairs(reader, &boot, entries, &version);
        if pairs.is_empty() {
            pairs.push((None, None));
        }
        for (image, initramfs) in pairs {
            let initramfs = initramfs.map(|path| unpack(reader, &path, &version));
            kernels.push(Kernel {
                drivers: drivers(&tree, initramfs.as_ref()),
                config: Some(format!("/boot/config-{version}")).filter(|path| reader.exists(path)),
                modules: reader.canonical(&format!("/lib/modules/{version}")),
                version: version.clone(),
                image,
                initramfs,
            });
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
fn versions(reader: &Reader<'_>) -> Vec<String> {
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
fn image_version(start: &[u8]) -> Option<String> {
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
    let mut found = InitramfsFound {
        path: path.to_owned(),
        size: reader.size(path).unwrap_or_default(),
        generator: Generator::Unknown,
        segments: Vec::new(),
        modules: Vec::new(),
        hints: Vec::new(),
        error: None,
    };
    let parsed = match reader.tree.read(path) {
        Ok(Some(bytes)) => Initramfs::parse(bytes),
        Ok(None) => {
            found.error = Some("not a file".to_owned());
            return found;
        }
        Err(error) => Err(error),
    };
    let initramfs = match parsed {
        Ok(initramfs) => initramfs,
        Err(error) => {
            reader.find(Finding {
                severity: Severity::Problem,
                id: "initramfs-unreadable",
                what: format!("cannot read the initramfs {path}: {error}"),
                evidence: vec![Place::file(path)],
                fix: Some("rebuild it inside the guest".to_owned()),
            });
            found.error = Some(error.to_string());
            return found;
        }
    };
    found.segments = initramfs
        .segments()
        .iter()
        .map(|segment| SegmentFound {
            offset: segment.offset,
            len: segment.len,
            compression: segment.compression.name().to_owned(),
            entries: u64::try_from(segment.entries.len()).unwrap_or(u64::MAX),
        })
        .collect();
    found.generator = generator(&initramfs);
    let modules = initramfs.modules(version);
    found.modules = modules
        .into_iter()
        .map(|module| module.name.as_str().to_owned())
        .collect();
    found.modules.sort();
    found.modules.dedup();
    found.hints = hints(&initramfs);
    found
}

/// What made it, by files that only that generator leaves.
fn generator(initramfs: &Initramfs) -> Generator {
    let has = |path: &str| initramfs.read(path.as_bytes()).is_some();
    if has("conf/initramfs.conf") || has("scripts/functions") {
        Generator::InitramfsTools
    } else if has("usr/lib/dracut/build-parameter.txt")
        || has("lib/dracut/build-parameter.txt")
        || has("usr/lib/dracut-lib.sh")
        || has("lib/dracut-lib.sh")
    {
        Generator::Dracut
    } else if has("init_functions") && has("config") {
        Generator::Mkinitcpio
    } else if has("init") && has("bin/busybox") && initramfs.node(b"etc/mkinitfs").is_some()
        || has("sbin/nlplug-findfs")
    {
        Generator::Mkinitfs
    } else {
        Generator::Unknown
    }
}

/// The files inside that fix a root or resume device.
fn hints(initramfs: &Initramfs) -> Vec<InitramfsHint> {
    let cmdline = initramfs.files().filter_map(|(path, _)| {
        let path = std::str::from_utf8(path).ok()?;
        let below = |folder: &str| path.strip_prefix(folder).is_some_and(|n| !n.contains('/'));
        (below("etc/cmdline.d/") || below("conf/conf.d/")).then(|| path.to_owned())
    });
    let mut paths: Vec<String> = HINTS.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(cmdline);
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter_map(|path| {
            let text = initramfs.text(&path)?;
            (text.len() <= MOST_HINT && !text.trim().is_empty()).then(|| InitramfsHint {
                text: text.into_owned(),
                path,
            })
        })
        .collect()
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
