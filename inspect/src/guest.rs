//! `inspect`: disks become a [`Guest`], its inspection and its file trees.
//!
//! Which system is meant when there are several is decided here, by fixed rules, and said; nothing
//! is ever asked.

use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result};
use rehost_volume::{Layout, Table, Volume};

use crate::boot::{self, Context};
use crate::device::Devices;
use crate::model::{
    Content, DiskFound, FilesystemFound, FilesystemRef, Finding, Firmware, GuestSystem, Inspection,
    Mount, SCHEMA, Severity,
};
use crate::reader::Reader;
use crate::tree::{GuestTree, OpenedFilesystem};
use crate::{findings, kernels, names, network, system};

/// Types of MBR partitions that hold other partitions.
pub(crate) const EXTENDED: [&str; 3] = ["0x5", "0xf", "0x85"];

/// The GPT type of an EFI system partition, and its MBR counterpart.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// The GPT type of the partition that GRUB for BIOS keeps its core image in.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// What holds other volumes or memory pages: recognised, never opened as a filesystem.
const CONTAINERS: [&str; 4] = ["swap", "LVM2_member", "crypto_LUKS", "linux_raid_member"];

/// What the caller knows better.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The volume (disk, number) whose system is meant, when there are several.
    pub root: Option<(usize, u32)>,
}

/// Disks, inspected: the values, and the file trees to read on.
#[derive(Debug)]
pub struct Guest {
    /// What was found.
    pub inspection: Inspection,
    /// One per system, in the order of `inspection.systems`.
    trees: Vec<GuestTree>,
    filesystems: Vec<OpenedFilesystem>,
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
        &self.filesystems
    }
}

/// Inspects `disks`, given in the order in which the machine counts them. What is damaged or
/// unknown becomes a finding; the inspection goes on with the rest.
///
/// # Errors
/// Io when a disk cannot be read; Usage when `options.root` names a volume without a system.
pub fn inspect(disks: &[Arc<dyn Disk>], options: &Options) -> Result<Guest> {
    let mut scanned = Scanned::default();
    for disk in disks {
        scanned.add(disk)?;
    }
    let firmware = firmware(&scanned.disks);
    let boot_code = scanned.disks.iter().find_map(|disk| disk.boot_code);
    let mut systems = Vec::new();
    let mut trees = Vec::new();
    for root in &scanned.filesystems {
        if !system::is_root(root.fs.as_ref()).unwrap_or_default() {
            continue;
        }
        let (system, tree) = look_at(root, &scanned, firmware, boot_code);
        systems.push(system);
        trees.push(tree);
    }
    let (chosen, choice) = choose(&systems, options, &scanned)?;
    if chosen.is_none() {
        scanned.findings.push(Finding {
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
            disks: scanned.disks,
            systems,
            chosen,
            choice,
            findings: scanned.findings,
        },
        trees,
        filesystems: scanned.filesystems,
    })
}

/// The disks with their volumes, before any system is looked at.
#[derive(Default)]
struct Scanned {
    disks: Vec<DiskFound>,
    devices: Devices,
    filesystems: Vec<OpenedFilesystem>,
    findings: Vec<Finding>,
}

impl Scanned {
    fn add(&mut self, disk: &Arc<dyn Disk>) -> Result<()> {
        let number = self.disks.len();
        let layout = match rehost_volume::scan(disk) {
            Ok(layout) => layout,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                self.note(
                    Severity::Problem,
                    "partition-table-unreadable",
                    format!("disk {number}: {error}"),
                );
                Layout {
                    table: Table::None,
                    id: None,
                    sector: 512,
                    volumes: Vec::new(),
                    damage: Vec::new(),
                }
            }
        };
        for damage in &layout.damage {
            self.note(
                Severity::Warning,
                "partition-table-damaged",
                format!("disk {number}: {damage}"),
            );
        }
        self.devices.add_disk();
        let mut filesystems = Vec::new();
        for volume in &layout.volumes {
            let (content, opened) = self.content(disk, number, &layout, volume)?;
            self.devices.add(layout.table, volume, &content);
            self.filesystems.extend(opened);
            filesystems.push(FilesystemFound {
                volume: volume.number,
                content,
            });
        }
        self.disks.push(DiskFound {
            size: disk.size(),
            boot_code: boot_code(disk)?,
            layout,
            filesystems,
        });
        Ok(())
    }

    fn note(&mut self, severity: Severity, id: &'static str, what: String) {
        self.findings.push(Finding {
            severity,
            id,
            what,
            evidence: Vec::new(),
            fix: None,
        });
    }

    fn content(
        &mut self,
        disk: &Arc<dyn Disk>,
        number: usize,
        layout: &Layout,
        volume: &Volume,
    ) -> Result<(Content, Option<OpenedFilesystem>)> {
        if EXTENDED.contains(&volume.kind.as_str()) {
            return Ok((Content::Unknown, None));
        }
        let name = FilesystemRef {
            disk: number,
            volume: volume.number,
            uuid: None,
        };
        let detected = layout
            .open(disk, volume.number)
            .and_then(|window| Ok((rehost_fs::detect(&window)?, window)));
        let (kind, window) = match detected {
            Ok((Some(kind), window)) => (kind, window),
            Ok((None, _)) => return Ok((Content::Unknown, None)),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                self.note(
                    Severity::Warning,
                    "volume-unreadable",
                    format!("{name}: {error}"),
                );
                return Ok((Content::Unknown, None));
            }
        };
        if CONTAINERS.contains(&kind.name) {
            self.report_container(&name, kind.name);
            let content = Content::Recognised {
                kind: kind.name.to_owned(),
                uuid: kind.uuid,
                label: kind.label,
            };
            return Ok((content, None));
        }
        match rehost_fs::open(window) {
            Ok(fs) => {
                let identity = fs.identity();
                let at = FilesystemRef {
                    uuid: identity.uuid.clone(),
                    ..name
                };
                let opened = OpenedFilesystem { at, fs };
                Ok((Content::Filesystem(identity), Some(opened)))
            }
            Err(error) if error.kind() == Kind::Io => Err(error),
            Err(error) => {
                self.note(
                    Severity::Warning,
                    "filesystem-not-read",
                    format!("{name}: {error}"),
                );
                let content = Content::Broken {
                    kind: kind.name.to_owned(),
                    uuid: kind.uuid,
                    label: kind.label,
                    error: error.to_string(),
                };
                Ok((content, None))
            }
        }
    }

    fn report_container(&mut self, name: &FilesystemRef, kind: &str) {
        let what = match kind {
            "crypto_LUKS" => "is encrypted (LUKS): what is inside is not read",
            "LVM2_member" => "belongs to an LVM volume group: what is inside is not read",
            "linux_raid_member" => "belongs to a Linux RAID: what is inside is not read",
            _ => return,
        };
        self.note(
            Severity::Warning,
            "volume-not-opened",
            format!("{name} {what}"),
        );
    }
}

/// Whose code is in sector 0, by the text that its authors left in it.
fn boot_code(disk: &Arc<dyn Disk>) -> Result<Option<&'static str>> {
    const TEXTS: [(&[u8], &str); 6] = [
        (b"GRUB", "GRUB"),
        (b"LILO", "LILO"),
        (b"isolinux", "SYSLINUX"),
        (b"SYSLINUX", "SYSLINUX"),
        (b"Missing operating system.", "SYSLINUX"),
        (b"Invalid partition table", "Windows"),
    ];
    if disk.size() < 512 {
        return Ok(None);
    }
    let mut sector = [0; 440];
    disk.read_at(&mut sector, 0)?;
    Ok(TEXTS
        .iter()
        .find(|(text, _)| sector.windows(text.len()).any(|part| part == *text))
        .map(|(_, name)| *name))
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
    scanned: &Scanned,
    firmware: Firmware,
    boot_code: Option<&'static str>,
) -> (GuestSystem, GuestTree) {
    let alone = GuestTree::new(root.clone());
    let reader = Reader::new(&alone);
    let mounts = system::fstab(&reader, &scanned.devices);
    let tree = assemble(&alone, &mounts, scanned, &reader);
    let mut all_findings = reader.into_findings();

    let reader = Reader::new(&tree);
    let boot = boot::read(&Context {
        reader: &reader,
        devices: &scanned.devices,
        filesystems: &scanned.filesystems,
        firmware,
        boot_code,
    });
    let mut system = GuestSystem {
        os: system::release(&reader),
        hostname: system::hostname(&reader),
        architecture: system::architecture(&reader),
        init: system::init(&reader),
        root: root.at.clone(),
        kernels: kernels::find(&reader, &boot.entries),
        mounts,
        boot,
        network: network::find(&reader),
        resume: system::resume(&reader, &scanned.devices),
        device_names: Vec::new(),
        tools: system::tools(&reader),
        packages: system::packages(&reader),
        selinux: system::selinux(&reader),
        cloud_init: system::cloud_init(&reader),
        findings: Vec::new(),
    };
    system.device_names = names::find(&reader, &scanned.devices, &system);
    findings::derive(&reader, &scanned.devices, &system);
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
    system.findings = all_findings;
    (system, tree)
}

/// The tree with everything mounted that fstab mounts and that could be opened.
fn assemble(
    root: &GuestTree,
    mounts: &[Mount],
    scanned: &Scanned,
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
        let opened = mount.resolved.as_ref().and_then(|at| {
            scanned
                .filesystems
                .iter()
                .find(|opened| opened.at.disk == at.disk && opened.at.volume == at.volume)
        });
        let Some(opened) = opened else {
            continue;
        };
        if let Err(error) = tree.mount(&mount.point, opened.clone()) {
            reader.find(Finding {
                severity: Severity::Warning,
                id: "mount-failed",
                what: format!("cannot mount {}: {error}", mount.point),
                evidence: vec![mount.place.clone()],
                fix: None,
            });
        }
    }
    tree
}

/// Which system is meant: the one asked for; else the first that can boot; else the first.
fn choose(
    systems: &[GuestSystem],
    options: &Options,
    scanned: &Scanned,
) -> Result<(Option<usize>, String)> {
    let name = |system: &GuestSystem| format!("{} on {}", system.os.pretty_name, system.root);
    if let Some((disk, volume)) = options.root {
        let asked = systems
            .iter()
            .position(|system| system.root.disk == disk && system.root.volume == volume);
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
        let kinds: Vec<String> = scanned
            .disks
            .iter()
            .flat_map(|disk| &disk.filesystems)
            .filter_map(|found| found.content.kind().map(str::to_owned))
            .collect();
        // What could not be opened may well be the root.
        let not_read: Vec<String> = scanned
            .disks
            .iter()
            .flat_map(|disk| &disk.filesystems)
            .filter_map(|found| match &found.content {
                Content::Broken { kind, error, .. } => Some(format!("{kind}: {error}")),
                _ => None,
            })
            .collect();
        return Ok((
            None,
            if kinds.is_empty() {
                "the disks hold nothing known".to_owned()
            } else {
                let kinds = kinds.join(", ");
                let why = not_read
                    .first()
                    .map_or_else(String::new, |why| format!(": {why}"));
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
