//! The volumes that a plan writes to: partitions, and what lies on several disks.
//!
//! Volumes are found on the disks as inspection found them, in the same order, so that a name of the
//! plan (`md0`, `vg/root`) means what it meant there. A Btrfs filesystem is opened once, from its top,
//! with all its members: the files of each subvolume are below its path.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Result};
use rehost_fs::{Btrfs, BtrfsMut, FileSystem, FileSystemMut, Subvol, Subvolume};
use rehost_inspect::Inspection;
use rehost_inspect::model::{FilesystemRef, VolumeFound};
use rehost_luks::Secret;
use rehost_volume::stack::Stack;

use super::edits::Target;
use super::ledger::{Elsewhere, Replayed};
use super::record::Record;
use crate::plan::Edit;

const BTRFS: &str = "btrfs";

/// The volumes of a guest, open for writing as far as edits reached them.
pub(super) struct Volumes<'a> {
    guest: &'a Inspection,
    secrets: &'a [Secret],
    /// The disks, in the order of the inspection.
    records: Vec<Arc<Record>>,
    /// What is on them, once that was needed.
    stack: Option<Stack>,
    open: Vec<Volume>,
}

/// A filesystem with edits on it.
pub(super) struct Volume {
    pub(super) at: FilesystemRef,
    /// What it lies on: several for a Btrfs of several devices.
    members: Vec<Arc<dyn DiskMut>>,
    /// Those of a Btrfs; `None` elsewhere.
    subvolumes: Option<Vec<Subvolume>>,
    pub(super) fs: Arc<dyn FileSystemMut>,
}

impl<'a> Volumes<'a> {
    pub(super) fn over(
        guest: &'a Inspection,
        disks: &[Arc<dyn DiskMut>],
        secrets: &'a [Secret],
    ) -> Self {
        let record = |disk: &Arc<dyn DiskMut>| Arc::new(Record::new(Arc::clone(disk)));
        Self {
            guest,
            secrets,
            records: disks.iter().map(record).collect(),
            stack: None,
            open: Vec::new(),
        }
    }

    /// Opens the filesystem `at`, where it is not open yet; gives what its journal had to write.
    pub(super) fn open(&mut self, at: &FilesystemRef) -> Result<Option<Replayed>> {
        if self.open.iter().any(|volume| volume.at.is(at)) {
            return Ok(None);
        }
        let members = self.members(at)?;
        let volume = Volume::open(at, members).map_err(|error| error.in_file(at.to_string()))?;
        self.open.push(volume);
        let (ranges, elsewhere) = self.take(at.disk);
        let none = ranges.is_empty() && elsewhere.is_empty();
        Ok((!none).then(|| Replayed {
            at: at.clone(),
            ranges,
            elsewhere,
        }))
    }

    /// The open filesystem that an edit is on, and where in it.
    pub(super) fn of<'e>(&self, edit: &'e Edit) -> Result<(&Volume, Target<'e>)> {
        let volume = self
            .open
            .iter()
            .find(|volume| volume.at.is(&edit.at))
            .ok_or_else(|| Error::internal("an edit on a volume that was not opened"))?;
        let path = volume.path(edit)?;
        Ok((volume, Target { edit, path }))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.open.iter()
    }

    /// What was written since the last call: to disk `own`, and to others.
    pub(super) fn take(&self, own: usize) -> (Vec<Range<u64>>, Vec<Elsewhere>) {
        let mut ranges = Vec::new();
        let mut elsewhere = Vec::new();
        for (disk, record) in self.records.iter().enumerate() {
            match record.take() {
                written if disk == own => ranges = written,
                written if written.is_empty() => {}
                written => elsewhere.push(Elsewhere {
                    disk,
                    ranges: written,
                }),
            }
        }
        (ranges, elsewhere)
    }

    /// The volumes that the filesystem `at` lies on, to be written through to the disks.
    fn members(&mut self, at: &FilesystemRef) -> Result<Vec<Arc<dyn DiskMut>>> {
        let guest = self.guest;
        let found = guest.volumes.iter().find(|volume| volume.at.is(at));
        let found = found.ok_or_else(|| other_machine(at))?;
        let stack = self.stack()?;
        if stack.nodes.len() != guest.volumes.len() {
            return Err(other_machine(at));
        }
        let uuid = found.content.uuid().filter(|_| is_btrfs(found));
        let belongs = |other: &VolumeFound| {
            let member = uuid.is_some() && other.content.uuid() == uuid && is_btrfs(other);
            other.at.is(at) || member
        };
        guest
            .volumes
            .iter()
            .zip(&stack.nodes)
            .filter(|(other, _)| belongs(other))
            .map(|(_, node)| node.writer())
            .collect()
    }

    fn stack(&mut self) -> Result<&Stack> {
        if self.stack.is_none() {
            let named: Vec<(String, Arc<dyn DiskMut>)> = (0..)
                .map(|nth: usize| format!("disk {nth}"))
                .zip(&self.records)
                .map(|(name, record)| (name, Arc::clone(record) as Arc<dyn DiskMut>))
                .collect();
            self.stack = Some(Stack::find_mut(&named, self.secrets)?);
        }
        self.stack
            .as_ref()
            .ok_or_else(|| Error::internal("a search for volumes without a result"))
    }
}

impl Volume {
    fn open(at: &FilesystemRef, members: Vec<Arc<dyn DiskMut>>) -> Result<Self> {
        let first = members.first().cloned();
        let first = first.ok_or_else(|| Error::internal("a filesystem on no volume"))?;
        let readable: Arc<dyn Disk> = first.clone();
        let is_btrfs = rehost_fs::detect(&readable)?.is_some_and(|kind| kind.name == BTRFS);
        let (subvolumes, fs): (_, Arc<dyn FileSystemMut>) = if is_btrfs {
            let fs = BtrfsMut::open_many(members.clone(), Subvol::Top)?;
            (Some(btrfs(&members)?.subvolumes()?), Arc::new(fs))
        } else {
            (None, rehost_fs::open_mut(first)?)
        };
        Ok(Self {
            at: at.clone(),
            members,
            subvolumes,
            fs,
        })
    }

    /// Where the file of `edit` is in the filesystem as it is open here.
    fn path(&self, edit: &Edit) -> Result<Vec<u8>> {
        let inner = edit.inner_path.as_bytes();
        let Some(subvolumes) = &self.subvolumes else {
            return Ok(inner.to_vec());
        };
        let meant = |one: &&Subvolume| match edit.at.subvolume.as_deref() {
            None => one.default,
            Some(name) => match name.strip_prefix('#').map(str::parse::<u64>) {
                Some(Ok(id)) => one.id == id,
                _ => one.path == name.as_bytes(),
            },
        };
        let found = subvolumes.iter().find(meant);
        let found = found.ok_or_else(|| other_machine(&edit.at))?;
        Ok(match found.path.as_slice() {
            b"" => inner.to_vec(),
            top => [b"/", top, inner].concat(),
        })
    }

    /// Makes what was written safe.
    pub(super) fn sync(&self) -> Result<()> {
        self.members.iter().try_for_each(|member| member.sync())
    }

    /// The filesystem, opened anew for reading.
    pub(super) fn reader(&self) -> Result<Arc<dyn FileSystem>> {
        match (&self.subvolumes, self.members.first()) {
            (Some(_), _) => Ok(Arc::new(btrfs(&self.members)?.subvolume(&Subvol::Top)?)),
            (None, Some(member)) => rehost_fs::open(Arc::<dyn DiskMut>::clone(member)),
            (None, None) => Err(Error::internal("a filesystem on no volume")),
        }
    }
}

/// Whether it is a Btrfs, or a member of one.
fn is_btrfs(volume: &VolumeFound) -> bool {
    volume.usage.is_none() && volume.content.kind() == Some(BTRFS)
}

/// The Btrfs on `members`, for reading.
fn btrfs(members: &[Arc<dyn DiskMut>]) -> Result<Btrfs> {
    let readable = |member: &Arc<dyn DiskMut>| -> Arc<dyn Disk> { member.clone() };
    Btrfs::open_many(members.iter().map(readable).collect())
}

fn other_machine(at: &FilesystemRef) -> Error {
    Error::usage(format!("the plan is for another machine: there is no {at}"))
}
