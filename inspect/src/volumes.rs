//! `Volumes`: what is on the disks of a machine, before any system is looked at.
//!
//! The stack that [`rehost_volume::stack`] finds, with what each volume holds and every name that a
//! guest, or a person, may call it by. What cannot be read costs only what needs it, and says why.

mod disks;
mod naming;
mod subvolumes;
mod tokens;

use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result};
use rehost_fs::{Btrfs, FileSystem};
use rehost_luks::Secret;
use rehost_volume::stack::{self, Node, Stack, Use};

use crate::device::Devices;
use crate::model::{Content, DiskFound, FilesystemRef, Finding, Mount, Severity, VolumeFound};
use crate::tree::OpenedFilesystem;
use naming::{known, parent_table, place};
use subvolumes::{Pools, Shared};

/// What holds other volumes or memory pages: recognised, never opened as a filesystem.
const CONTAINERS: [&str; 5] = [
    "swap",
    "swsuspend",
    "LVM2_member",
    "crypto_LUKS",
    "linux_raid_member",
];

/// The disks of a machine with all that lies on them.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    /// The disks, in the order they were given.
    pub disks: Vec<DiskFound>,
    /// Disks, partitions and volumes; what lies on others comes after them.
    pub found: Vec<VolumeFound>,
    /// Every filesystem that was opened, in that order.
    pub filesystems: Vec<OpenedFilesystem>,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
    /// What can be read of each of `found`.
    contents: Vec<Option<Arc<dyn Disk>>>,
    /// Btrfs filesystems, to be seen from other subvolumes.
    btrfs: Vec<Shared>,
    pub(crate) devices: Devices,
}

impl Volumes {
    /// Finds what is on `disks`, given in the order in which the machine counts them. Encrypted
    /// volumes are opened with the first of `secrets` that fits.
    ///
    /// # Errors
    /// Io when a disk cannot be read.
    pub fn find(disks: &[Arc<dyn Disk>], secrets: &[Secret]) -> Result<Self> {
        let named: Vec<(String, Arc<dyn Disk>)> = (0..)
            .map(|nth: usize| format!("disk {nth}"))
            .zip(disks.iter().cloned())
            .collect();
        let stack = Stack::find(&named, secrets)?;
        let mut volumes = Self::default();
        let pools = subvolumes::pools(&stack.nodes)?;
        for node in &stack.nodes {
            volumes.add(node, &pools)?;
        }
        for (number, disk) in disks.iter().enumerate() {
            volumes.add_disk(number, disk)?;
        }
        for damage in stack.damage {
            volumes.note(Severity::Warning, "volume-group-damaged", damage, None);
        }
        volumes.find_tokens();
        Ok(volumes)
    }

    /// The volume that `name` means: as [`VolumeFound::name`] gives it, or as the guest would write
    /// it (`/dev/sda1`, `/dev/mapper/vg-lv`, `UUID=…`).
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&VolumeFound> {
        let by_name = self.found.iter().find(|volume| volume.name == name);
        by_name.or_else(|| {
            let by_number = name.strip_prefix("0:").unwrap_or(name);
            let at = self
                .devices
                .resolve(name)
                .or_else(|| self.devices.resolve(&format!("/dev/{by_number}")));
            self.found
                .iter()
                .find(|volume| volume.name == by_number || at.as_ref() == Some(&volume.at))
        })
    }

    /// The volume at a place.
    #[must_use]
    pub fn at(&self, at: &FilesystemRef) -> Option<&VolumeFound> {
        self.found.iter().find(|volume| volume.at.is(at))
    }

    /// The filesystem on a volume.
    ///
    /// # Errors
    /// Why it cannot be read; Usage where there is none.
    pub fn filesystem(&self, volume: &VolumeFound) -> Result<Arc<dyn FileSystem>> {
        let opened = self.filesystems.iter().find(|fs| fs.at.is(&volume.at));
        if let Some(opened) = opened {
            return Ok(Arc::clone(&opened.fs));
        }
        let place = self.found.iter().position(|other| other.at.is(&volume.at));
        let disk = place.and_then(|nth| self.contents.get(nth).cloned().flatten());
        match (volume.usage, disk) {
            // It says what is there instead, or why it is not opened.
            (None, Some(disk)) => rehost_fs::open(disk),
            (usage, _) => {
                let what = match (usage, volume.damage.last()) {
                    (_, Some(damage)) => damage.clone(),
                    (Some(Use::Mbr | Use::Gpt), None) => "is divided into partitions".to_owned(),
                    (Some(_), None) => "holds other volumes".to_owned(),
                    (None, None) => "cannot be read".to_owned(),
                };
                Err(Error::usage(format!(
                    "volume {} holds no filesystem: {what}",
                    volume.name
                ))
                .hint("`rehost lsblk` shows what there is"))
            }
        }
    }

    /// What the fstab of the system on `root` says of each volume.
    pub(crate) fn mounted(&mut self, root: &FilesystemRef, mounts: &[Mount]) {
        let points = mounts.iter().filter_map(|mount| {
            let point = if mount.is_swap() {
                "[SWAP]"
            } else {
                mount.point.as_str()
            };
            Some((mount.resolved.as_ref()?, point))
        });
        for (at, point) in std::iter::once((root, "/")).chain(points) {
            let volume = self.found.iter_mut().find(|volume| volume.at.is(at));
            if let Some(volume) = volume.filter(|volume| !volume.mounted.iter().any(|p| p == point))
            {
                volume.mounted.push(point.to_owned());
            }
        }
    }

    fn note(&mut self, severity: Severity, id: &'static str, what: String, fix: Option<String>) {
        self.findings.push(Finding {
            severity,
            id,
            what,
            evidence: Vec::new(),
            fix,
        });
    }

    fn add(&mut self, node: &Node, pools: &Pools) -> Result<()> {
        let parent = node.parents.first().and_then(|nth| self.found.get(*nth));
        let name = self.name(node, parent);
        let at = place(node, &name, parent, self.found.len());
        let within = parent.map(|parent| parent.at.clone());
        let (content, opened) = self.content(node, &at, pools)?;
        let at = FilesystemRef {
            uuid: content.uuid().map(str::to_owned),
            ..at
        };
        self.filesystems
            .extend(opened.map(|fs| OpenedFilesystem { at: at.clone(), fs }));
        let found = VolumeFound {
            kind: node.kind,
            name,
            at,
            size: node.size,
            uuid: node.uuid.clone(),
            label: node.label.clone(),
            form: node.form.clone(),
            usage: node.usage,
            usage_uuid: node.usage_uuid.clone(),
            parents: node.parents.clone(),
            content,
            mounted: Vec::new(),
            damage: node.damage.clone(),
        };
        self.tell_damage(&found);
        if !matches!(found.usage, Some(Use::Mbr | Use::Gpt)) {
            self.devices
                .add(known(node, &found, parent_table(&self.found, node), within));
        }
        self.contents.push(node.disk.clone());
        self.found.push(found);
        Ok(())
    }

    /// What a node holds; opened where it is a filesystem that can be read.
    fn content(
        &mut self,
        node: &Node,
        at: &FilesystemRef,
        pools: &Pools,
    ) -> Result<(Content, Option<Arc<dyn FileSystem>>)> {
        let kind_of_use = node.usage.and_then(container);
        let Some(disk) = node.disk.as_ref() else {
            let content = kind_of_use.map_or(Content::Unknown, |kind| Content::Recognised {
                kind: kind.to_owned(),
                uuid: node.usage_uuid.clone(),
                label: None,
            });
            return Ok((content, None));
        };
        if matches!(node.usage, Some(Use::Mbr | Use::Gpt | Use::Extended)) {
            return Ok((Content::Unknown, None));
        }
        let detected = match rehost_fs::detect(disk) {
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let what = format!("{at}: {error}");
                self.note(Severity::Warning, "volume-unreadable", what, None);
                None
            }
            Ok(detected) => detected,
        };
        if let Some(kind) = kind_of_use {
            let same = detected.filter(|detected| detected.name == kind);
            let content = Content::Recognised {
                kind: kind.to_owned(),
                uuid: node.usage_uuid.clone(),
                label: same.and_then(|same| same.label),
            };
            return Ok((content, None));
        }
        let Some(kind) = detected else {
            return Ok((Content::Unknown, None));
        };
        if CONTAINERS.contains(&kind.name) {
            let content = Content::Recognised {
                kind: kind.name.to_owned(),
                uuid: kind.uuid,
                label: kind.label,
            };
            return Ok((content, None));
        }
        let opened = if kind.name == "btrfs" {
            match pools.led_by(disk) {
                // Another member stands for all of them.
                None => {
                    let content = Content::Recognised {
                        kind: kind.name.to_owned(),
                        uuid: kind.uuid,
                        label: kind.label,
                    };
                    return Ok((content, None));
                }
                Some(pool) => Btrfs::open_many(pool.members.clone()).map(|fs| {
                    self.btrfs.push(Shared {
                        at: at.clone(),
                        fs: fs.clone(),
                        members: pool.places.clone(),
                    });
                    let fs: Arc<dyn FileSystem> = Arc::new(fs);
                    fs
                }),
            }
        } else {
            rehost_fs::open(Arc::clone(disk))
        };
        match opened {
            Ok(fs) => Ok((Content::Filesystem(fs.identity()), Some(fs))),
            Err(error) if error.kind() == Kind::Io => Err(error),
            Err(error) => {
                let what = format!("{at}: {error}");
                self.note(Severity::Warning, "filesystem-not-read", what, None);
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

    fn tell_damage(&mut self, volume: &VolumeFound) {
        for damage in &volume.damage {
            let (severity, id, fix) = match (volume.kind, volume.usage) {
                (_, Some(Use::Luks)) => (
                    Severity::Warning,
                    "volume-locked",
                    Some("give its key with --key-file, or its passphrase".to_owned()),
                ),
                (stack::Kind::Disk, Some(Use::Mbr | Use::Gpt)) => {
                    (Severity::Warning, "partition-table-damaged", None)
                }
                (stack::Kind::Disk, None) => {
                    (Severity::Problem, "partition-table-unreadable", None)
                }
                _ => (Severity::Warning, "volume-damaged", None),
            };
            let what = format!("{}: {damage}", volume.at);
            self.note(severity, id, what, fix);
        }
    }
}

/// What blkid calls a volume that others lie on.
const fn container(usage: Use) -> Option<&'static str> {
    match usage {
        Use::Lvm | Use::Raid | Use::Luks | Use::ThinPool => Some(usage.as_str()),
        Use::Mbr | Use::Gpt | Use::Extended => None,
    }
}
