//! `inspect`: disks become a [`Guest`], its inspection and its file trees.
//!
//! Which system is meant when there are several is decided here, by fixed rules, and said; nothing
//! is ever asked.

use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use crate::boot::{self, Context};
use crate::device::Devices;
use crate::model::{
    Content, DiskFound, Finding, Firmware, GuestSystem, Inspection, Mount, Readiness, SCHEMA,
    Severity,
};
use crate::reader::Reader;
use crate::tree::{GuestTree, OpenedFilesystem};
use crate::volumes::Volumes;
use crate::{findings, kernels, names, network, packages, system};

/// The GPT type of an EFI system partition, and its MBR counterpart.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// The GPT type of the partition that GRUB for BIOS keeps its core image in.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// What the caller knows better.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The partition (disk, number) whose system is meant, when there are several.
    pub root: Option<(usize, u32)>,
}

/// Disks, inspected: the values, and the file trees to read on.
#[derive(Debug)]
pub struct Guest {
    /// What was found.
    pub inspection: Inspection,
    /// One per system, in the order of `inspection.systems`.
    trees: Vec<GuestTree>,
    volumes: Volumes,
}

impl Guest {
    /// The chosen system.
    ///
    /// # Errors
    /// Unsupported when no operating system was found, or none that is known.
    pub fn system(&self) -> Result<&GuestSystem> {
        self.inspection.system().ok_or_else(|| {
            Error::unsupported(format!(
                "no operating system was found: {}",
                self.inspection.choice
            ))
            .hint("`rehost inspect` shows what the disks hold")
        })
    }

    /// The file tree of the chosen system.
    ///
    /// # Errors
    /// As [`Guest::system`].
    pub fn tree(&self) -> Result<&GuestTree> {
        self.system()?;
        let chosen = self.inspection.chosen.and_then(|at| self.trees.get(at));
        chosen.ok_or_else(|| Error::internal("a system without its file tree"))
    }

    /// The file tree of system `index` of `inspection.systems`.
    #[must_use]
    pub fn tree_of(&self, index: usize) -> Option<&GuestTree> {
        self.trees.get(index)
    }

    /// Every filesystem that was opened, in disk and volume order.
    #[must_use]
    pub fn filesystems(&self) -> &[OpenedFilesystem] {
        &self.volumes.filesystems
    }

    /// The disks and all that lies on them.
    #[must_use]
    pub const fn volumes(&self) -> &Volumes {
        &self.volumes
    }
}

/// Inspects `disks`, given in the order in which the machine counts them. What is damaged or
/// unknown becomes a finding; the inspection goes on with the rest.
///
/// # Errors
/// Io when a disk cannot be read; Usage when `options.root` names a volume without a system.
pub fn inspect(disks: &[Arc<dyn Disk>], options: &Options) -> Result<Guest> {
    inspect_volumes(Volumes::find(disks, &[])?, options)
}

/// As [`inspect`], for disks whose volumes were found before.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_volumes(mut volumes: Volumes, options: &Options) -> Result<Guest> {
    let firmware = firmware(&volumes.disks);
    let boot_code = volumes.disks.iter().find_map(|disk| disk.boot_code);
    let mut systems: Vec<GuestSystem> = Vec::new();
    let mut trees = Vec::new();
    for root in roots(&volumes) {
        let (system, tree) = look_at(&root, &volumes, firmware, boot_code);
        systems.push(system);
        trees.push(tree);
    }
    for system in &systems {
        volumes.mounted(&system.root, &system.mounts);
    }
    let (chosen, choice) = choose(&systems, options, &volumes)?;
    if chosen.is_none() {
        volumes.findings.push(Finding {
            severity: Severity::Problem,
            id: "no-system",
            what: format!("no operating system was found: {choice}"),
            evidence: Vec::new(),
            fix: None,
        });
    }
    Ok(Guest {
        inspection: Inspection {
            schema: SCHEMA,
            disks: volumes.disks.clone(),
            volumes: volumes.found.clone(),
            systems,
            chosen,
            choice,
            findings: volumes.findings.clone(),
        },
        trees,
        volumes,
    })
}

/// Says of each volume where the systems on the disks mount it; reads no more of them than that.
pub fn find_mounts(volumes: &mut Volumes) {
    for root in roots(volumes) {
        let alone = GuestTree::new(root.clone());
        let reader = Reader::new(&alone);
        let devices = own_names(&reader, &volumes.devices);
        let mounts = system::fstab(&reader, &devices);
        volumes.mounted(&root.at, &mounts);
    }
}

/// The files of the system on the disks, when there is exactly one; its mounts are looked at, and
/// nothing else of it.
#[must_use]
pub fn only_tree(volumes: &Volumes) -> Option<GuestTree> {
    let roots = roots(volumes);
    let [root] = &roots[..] else {
        return None;
    };
    let alone = GuestTree::new(root.clone());
    let reader = Reader::new(&alone);
    let devices = own_names(&reader, &volumes.devices);
    let mounts = system::fstab(&reader, &devices);
    Some(assemble(&alone, &mounts, volumes, &reader))
}

/// The filesystems that are the root of a system.
fn roots(volumes: &Volumes) -> Vec<OpenedFilesystem> {
    let is_root =
        |opened: &OpenedFilesystem| system::is_root(opened.fs.as_ref()).unwrap_or_default();
    let filesystems = volumes.filesystems.iter();
    filesystems
        .filter_map(|opened| {
            if is_root(opened) {
                return Some(opened.clone());
            }
            // Distributions put it into a subvolume of its own: `@`, `root`, `@rootfs`.
            volumes.subvolumes(&opened.at).into_iter().find(is_root)
        })
        .collect()
}

/// The devices, also by the names that the guest itself gives to encrypted volumes and arrays.
fn own_names(reader: &Reader<'_>, devices: &Devices) -> Devices {
    let mut devices = devices.clone();
    for (name, spec) in system::crypttab(reader) {
        if let Some(within) = devices.resolve(&spec) {
            devices.name_unlocked(&within, &name);
        }
    }
    for (name, uuid) in system::arrays(reader) {
        devices.name_array(&uuid, &name);
    }
    devices
}

impl Inspection {
    /// Which firmware would start the disks, whatever system is on them.
    #[must_use]
    pub fn firmware(&self) -> Firmware {
        firmware(&self.disks)
    }
}

/// Which firmware would start these disks.
fn firmware(disks: &[DiskFound]) -> Firmware {
    let volumes = || disks.iter().flat_map(|disk| &disk.layout.volumes);
    let uefi = volumes().any(|volume| ESP.contains(&volume.kind.as_str()));
    let bios = disks.iter().any(|disk| disk.boot_code.is_some())
        || volumes().any(|volume| volume.kind == BIOS_BOOT);
    match (bios, uefi) {
        (true, true) => Firmware::Either,
        (true, false) => Firmware::Bios,
        (false, true) => Firmware::Uefi,
        (false, false) => Firmware::Unknown,
    }
}

/// Mounts what the fstab of `root` mounts, and reads everything.
fn look_at(
    root: &OpenedFilesystem,
    volumes: &Volumes,
    firmware: Firmware,
    boot_code: Option<&'static str>,
) -> (GuestSystem, GuestTree) {
    let alone = GuestTree::new(root.clone());
    let reader = Reader::new(&alone);
    let devices = own_names(&reader, &volumes.devices);
    let mounts = system::fstab(&reader, &devices);
    let tree = assemble(&alone, &mounts, volumes, &reader);
    let mut all_findings = reader.into_findings();

    let reader = Reader::new(&tree);
    let boot = boot::read(&Context {
        reader: &reader,
        devices: &devices,
        filesystems: &volumes.filesystems,
        firmware,
        boot_code,
    });
    let packages = packages::find(&reader);
    let mut system = GuestSystem {
        os: system::release(&reader),
        hostname: system::hostname(&reader),
        architecture: system::architecture(&reader),
        init: system::init(&reader),
        root: root.at.clone(),
        kernels: kernels::find(&reader, &boot),
        verified: system::verified(&reader, &boot.entries, &mounts),
        mounts,
        boot,
        crypttab: system::crypt_mappings(&reader, &devices),
        arrays: system::configured_arrays(&reader, &devices),
        multipath: system::multipath(&reader),
        lvm: system::lvm(&reader),
        network: network::find(&reader),
        resume: system::resume(&reader, &devices),
        device_names: Vec::new(),
        tools: system::tools(&reader, packages.as_ref()),
        packages,
        selinux: system::selinux(&reader),
        cloud_init: system::cloud_init(&reader),
        findings: Vec::new(),
        readiness: Readiness::of(&[]),
    };
    system.device_names = names::find(&reader, &devices, &system);
    findings::derive(&reader, &devices, &system);
    all_findings.extend(reader.into_findings());
    if root.fs.identity().replayed {
        all_findings.push(Finding {
            severity: Severity::Warning,
            id: "not-shut-down",
            what: format!(
                "{} was not unmounted: its journal was replayed in memory to read it",
                root.at
            ),
            evidence: Vec::new(),
            fix: Some("shut the guest down before the final copy".to_owned()),
        });
    }
    all_findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    system.readiness = Readiness::of(&all_findings);
    system.findings = all_findings;
    (system, tree)
}

/// The tree with everything mounted that fstab mounts and that could be opened.
fn assemble(
    root: &GuestTree,
    mounts: &[Mount],
    volumes: &Volumes,
    reader: &Reader<'_>,
) -> GuestTree {
    let mut tree = root.clone();
    let mut wanted: Vec<&Mount> = mounts
        .iter()
        .filter(|mount| mount.point.starts_with('/') && !mount.point.trim_matches('/').is_empty())
        .collect();
    // Parents first, whatever the order of the lines.
    wanted.sort_by_key(|mount| mount.point.trim_matches('/').split('/').count());
    for mount in wanted {
        let opened = mount
            .resolved
            .as_ref()
            .and_then(|at| volumes.view(at, &mount.options));
        let Some(opened) = opened else {
            continue;
        };
        if let Err(error) = opened.and_then(|opened| tree.mount(&mount.point, opened)) {
            reader.find(Finding {
                severity: Severity::Warning,
                id: "mount-failed",
                what: format!("cannot mount {}: {error}", mount.point),
                evidence: vec![mount.place.clone()],
                fix: None,
            });
        }
    }
    boot::esp::mount_unlisted(&mut tree, &volumes.filesystems);
    tree
}

/// Which system is meant: the one asked for; else the first that can boot; else the first.
fn choose(
    systems: &[GuestSystem],
    options: &Options,
    volumes: &Volumes,
) -> Result<(Option<usize>, String)> {
    let name = |system: &GuestSystem| format!("{} on {}", system.os.pretty_name, system.root);
    if let Some((disk, volume)) = options.root {
        let asked = systems.iter().position(|system| {
            let root = &system.root;
            (root.disk, root.volume) == (disk, volume) && root.name.is_none()
        });
        return match asked {
            Some(at) => Ok((Some(at), "it was asked for".to_owned())),
            None => {
                let known: Vec<String> = systems.iter().map(name).collect();
                Err(Error::usage(format!(
                    "there is no operating system on disk {disk} partition {volume}"
                ))
                .hint(if known.is_empty() {
                    "none was found at all".to_owned()
                } else {
                    format!("found: {}", known.join(", "))
                }))
            }
        };
    }
    let Some(first) = systems.first() else {
        let kinds: Vec<&str> = volumes
            .found
            .iter()
            .filter_map(|found| found.content.kind())
            .collect();
        // What could not be opened may well be the root.
        let not_read = volumes.found.iter().find_map(|found| match &found.content {
            Content::Broken { kind, error, .. } => Some(format!("{kind}: {error}")),
            _ if found.kind == rehost_volume::stack::Kind::Disk => None,
            _ => {
                let damage = found.damage.last()?;
                Some(format!("{}: {damage}", found.at))
            }
        });
        return Ok((
            None,
            if kinds.is_empty() {
                "the disks hold nothing known".to_owned()
            } else {
                let kinds = kinds.join(", ");
                let why = not_read.map_or_else(String::new, |why| format!(": {why}"));
                format!("no root directory in what the disks hold ({kinds}){why}")
            },
        ));
    };
    if systems.len() == 1 {
        return Ok((Some(0), "it is the only one".to_owned()));
    }
    let bootable = systems
        .iter()
        .position(|system| !system.boot.entries.is_empty() && system.default_boot().is_ok());
    let count = systems.len();
    Ok(match bootable {
        Some(at) => (
            Some(at),
            format!("of {count} systems, the first in disk order with a boot menu that starts it"),
        ),
        None => (
            Some(0),
            format!(
                "of {count} systems none has a boot menu; {} is the first in disk order",
                name(first)
            ),
        ),
    })
}
