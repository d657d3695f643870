//! `apply`: carries out an [`EditPlan`] on writable disks, checked before and after.
//!
//! No edit is made until every file is found to be what the plan was made for; all that may happen
//! before is that a filesystem's own journal is replayed. Afterwards each
//! filesystem is opened anew and every file read back; an initramfs is unpacked once more. The
//! [`Ledger`] says what was changed, down to the bytes of the disks.
//!
//! Left out on purpose: undoing. The disks are copy-on-write views, so the undo of a failed edit is to
//! drop the view.

mod record;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use rehost_block::{DiskMut, Error, Kind, Result, WindowMut};
use rehost_fs::path::{self, LastLink};
use rehost_fs::{FileKind, FileSystem, FileSystemMut, Inode};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::FilesystemRef;
use rehost_luks::Secret;
use rehost_volume::Layout;
use rehost_volume::stack::Stack;
use serde::Serialize;

use crate::plan::{Change, Digest, Edit, EditPlan, How};
use record::Record;

/// A disk of the guest that may be written: a copy-on-write view of the original.
#[derive(Debug, Clone)]
pub struct WritableDisk {
    /// The view.
    pub disk: Arc<dyn DiskMut>,
    /// How it is divided, from the inspection.
    pub layout: Layout,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger {
    /// Filesystems whose journal had to be replayed before they could be written.
    pub replayed: Vec<Replayed>,
    /// The files, in the order in which they were written.
    pub files: Vec<Written>,
}

/// A filesystem that was not unmounted cleanly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Which one.
    pub at: FilesystemRef,
    /// The bytes of the disk that its journal wrote.
    pub ranges: Vec<Range<u64>>,
    /// The same on other disks, where the volume lies on several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
}

/// What was written to a further disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// Its number.
    pub disk: usize,
    /// The bytes of it.
    pub ranges: Vec<Range<u64>>,
}

/// One file that was changed or created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Its absolute path in the guest.
    pub path: String,
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// How it was written.
    pub how: How,
    /// What it was; `None` for a new file.
    pub before: Option<Digest>,
    /// What it is; `None` for a removed one.
    pub after: Option<Digest>,
    /// The bytes of the disk that were written for it, metadata included.
    pub ranges: Vec<Range<u64>>,
    /// The same on other disks, where the volume lies on several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
}

/// An edit that its filesystem cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file's absolute path in the guest.
    pub path: String,
    /// How it was to be written.
    pub how: How,
    /// The filesystem's reason.
    pub why: String,
}

/// The volumes with edits on them.
#[derive(Default)]
struct Volumes(BTreeMap<Key, Volume>);

/// Disk, number of the partition, and the name of what lies on others.
type Key = (usize, u32, Option<String>);

fn key(at: &FilesystemRef) -> Key {
    (at.disk, at.volume, at.name.clone())
}

impl Volume {
    /// What was written since the last call: to disk `own`, and to others.
    fn take(&self, own: usize) -> (Vec<Range<u64>>, Vec<Elsewhere>) {
        let mut ranges = Vec::new();
        let mut elsewhere = Vec::new();
        for (disk, record) in &self.records {
            match record.take() {
                written if *disk == own => ranges = written,
                written if written.is_empty() => {}
                written => elsewhere.push(Elsewhere {
                    disk: *disk,
                    ranges: written,
                }),
            }
        }
        (ranges, elsewhere)
    }
}

/// A volume with edits on it.
struct Volume {
    /// What was written, by number of the disk.
    records: Vec<(usize, Arc<Record>)>,
    window: Arc<dyn DiskMut>,
    fs: Arc<dyn FileSystemMut>,
}

/// Carries out `plan` on `disks` (in the order of the inspection). Encrypted volumes are opened with
/// the first of `secrets` that fits.
///
/// # Errors
/// Usage, before any edit is written, when a file is not what the plan was made for; otherwise as the
/// filesystems. After an error the disks hold a part of the edits and are to be dropped.
pub fn apply(plan: &EditPlan, disks: &[WritableDisk], secrets: &[Secret]) -> Result<Ledger> {
    let mut volumes = Volumes::default();
    let mut replayed = Vec::new();
    for edit in &plan.edits {
        replayed.extend(volumes.open(disks, secrets, &edit.at)?);
    }
    for edit in &plan.edits {
        let fs: &dyn FileSystem = volumes.of(edit)?.fs.as_ref();
        check_before(fs, edit).map_err(|error| error.in_file(&edit.path))?;
    }
    let mut files = Vec::new();
    for edit in &plan.edits {
        let volume = volumes.of(edit)?;
        write(volume.fs.as_ref(), edit).map_err(|error| error.in_file(&edit.path))?;
        let (ranges, elsewhere) = volume.take(edit.at.disk);
        files.push(Written {
            path: edit.path.clone(),
            at: edit.at.clone(),
            how: edit.how,
            before: edit.before.clone(),
            after: edit.after.clone(),
            ranges,
            elsewhere,
        });
    }
    for volume in volumes.0.values() {
        volume.window.sync()?;
    }
    for edit in &plan.edits {
        let window: Arc<dyn DiskMut> = Arc::clone(&volumes.of(edit)?.window);
        let fs = rehost_fs::open(window)?;
        check_after(fs.as_ref(), edit).map_err(|error| error.in_file(&edit.path))?;
    }
    Ok(Ledger { replayed, files })
}

/// Tries the edits of `plan` on `disks`, which are to be dropped afterwards, and gives those that a
/// filesystem cannot take, in order, each with its reason.
///
/// # Errors
/// As [`apply`], but for what is given.
pub fn try_out(
    plan: &EditPlan,
    disks: &[WritableDisk],
    secrets: &[Secret],
) -> Result<Vec<Refusal>> {
    let mut volumes = Volumes::default();
    let mut refusals = Vec::new();
    for edit in &plan.edits {
        let tried = volumes.open(disks, secrets, &edit.at).and_then(|_| {
            let fs = &volumes.of(edit)?.fs;
            check_before(fs.as_ref(), edit)?;
            write(fs.as_ref(), edit)
        });
        match tried {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Io) => {
                refusals.push(Refusal {
                    path: edit.path.clone(),
                    how: edit.how,
                    why: error.to_string(),
                });
            }
            Err(error) => return Err(error.in_file(&edit.path)),
        }
    }
    Ok(refusals)
}

impl Volumes {
    /// Opens the volume `at`, where it is not open yet; gives what its journal had to write.
    fn open(
        &mut self,
        disks: &[WritableDisk],
        secrets: &[Secret],
        at: &FilesystemRef,
    ) -> Result<Option<Replayed>> {
        let Entry::Vacant(vacant) = self.0.entry(key(at)) else {
            return Ok(None);
        };
        let volume = vacant.insert(open(disks, secrets, at)?);
        let (ranges, elsewhere) = volume.take(at.disk);
        let none = ranges.is_empty() && elsewhere.is_empty();
        Ok((!none).then(|| Replayed {
            at: at.clone(),
            ranges,
            elsewhere,
        }))
    }

    fn of(&self, edit: &Edit) -> Result<&Volume> {
        self.0
            .get(&key(&edit.at))
            .ok_or_else(|| Error::internal("an edit on a volume that was not opened"))
    }
}

fn open(disks: &[WritableDisk], secrets: &[Secret], at: &FilesystemRef) -> Result<Volume> {
    if let Some(name) = &at.name {
        return open_stacked(disks, secrets, name);
    }
    let disk = disks.get(at.disk).ok_or_else(|| {
        Error::usage(format!("the plan is for another machine: there is no {at}"))
    })?;
    let record = Arc::new(Record::new(Arc::clone(&disk.disk)));
    let volume = disk
        .layout
        .volumes
        .iter()
        .find(|volume| volume.number == at.volume);
    let window: Arc<dyn DiskMut> = match volume {
        Some(volume) => {
            let len = volume.range.end.saturating_sub(volume.range.start);
            let whole: Arc<dyn DiskMut> = record.clone();
            Arc::new(WindowMut::new(whole, volume.range.start, len)?)
        }
        None if at.volume == 0 => record.clone(),
        None => {
            return Err(Error::usage(format!(
                "the plan is for another machine: there is no {at}"
            )));
        }
    };
    let fs = rehost_fs::open_mut(Arc::clone(&window))?;
    Ok(Volume {
        records: vec![(at.disk, record)],
        window,
        fs,
    })
}

/// Opens a volume that lies on others: every disk may be written for it.
fn open_stacked(disks: &[WritableDisk], secrets: &[Secret], name: &str) -> Result<Volume> {
    let records: Vec<(usize, Arc<Record>)> = disks
        .iter()
        .map(|disk| Arc::new(Record::new(Arc::clone(&disk.disk))))
        .enumerate()
        .collect();
    let named: Vec<(String, Arc<dyn DiskMut>)> = records
        .iter()
        .map(|(nth, record)| {
            (
                format!("disk {nth}"),
                Arc::clone(record) as Arc<dyn DiskMut>,
            )
        })
        .collect();
    let window = Stack::find_mut(&named, secrets)?.writer(name)?;
    let fs = rehost_fs::open_mut(Arc::clone(&window))?;
    Ok(Volume {
        records,
        window,
        fs,
    })
}

fn find(fs: &dyn FileSystem, edit: &Edit) -> Result<Option<Inode>> {
    path::find(fs, edit.inner_path.as_bytes(), LastLink::Keep)
}

/// The file is what the plan was made for, or is not there yet when it is to be created.
fn check_before(fs: &dyn FileSystem, edit: &Edit) -> Result<()> {
    let comes_whole = edit
        .after
        .as_ref()
        .is_none_or(|after| Digest::of(&edit.content) == *after);
    if !comes_whole {
        return Err(Error::usage("the plan came without its contents")
            .hint("a plan can be applied by the run that made it"));
    }
    let found = find(fs, edit)?;
    match (&edit.before, found) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::usage("file is there, and the plan is to create it")
            .hint("plan again: the guest has changed")),
        (Some(_), None) => {
            Err(Error::usage("file of the plan is not there")
                .hint("plan again: the guest has changed"))
        }
        (Some(before), Some(inode)) => {
            let is = Digest::of(&path::read_inode(fs, inode)?);
            if is == *before {
                Ok(())
            } else {
                Err(Error::usage("file is not what the plan was made for")
                    .mismatch(before, is)
                    .hint("plan again: the guest has changed"))
            }
        }
    }
}

fn write(fs: &dyn FileSystemMut, edit: &Edit) -> Result<()> {
    let content = edit.content.as_slice();
    if edit.how == How::Create {
        return create(fs, edit);
    }
    let inode = find(fs, edit)?.ok_or_else(|| Error::internal("file vanished while editing"))?;
    match edit.how {
        How::Overwrite => fs.overwrite(inode, content),
        How::Allocate | How::Create => fs.replace(inode, content),
        How::Remove => {
            let (parent, name) = edit.inner_path.rsplit_once('/').unwrap_or_default();
            let parent = path::find(fs, parent.as_bytes(), LastLink::Keep)?
                .ok_or_else(|| Error::internal("file vanished while editing"))?;
            fs.remove(parent, name.as_bytes())
        }
    }
}

/// Creates the file or link with its missing directories. Each takes owner and SELinux label from
/// the directory it is put into.
fn create(fs: &dyn FileSystemMut, edit: &Edit) -> Result<()> {
    let mut here = fs.root();
    let mut names = edit
        .inner_path
        .split('/')
        .filter(|name| !name.is_empty())
        .peekable();
    // Ends because every round takes one name.
    while let Some(name) = names.next() {
        let name = name.as_bytes();
        let parent = fs.attributes(here)?;
        let owner = (parent.uid, parent.gid);
        let made = if names.peek().is_none() {
            match &edit.change {
                Change::Link { .. } => fs.create_link(here, name, &edit.content, owner)?,
                Change::Create { mode } => fs.create(here, name, *mode, owner, &edit.content)?,
                _ => fs.create(here, name, 0o644, owner, &edit.content)?,
            }
        } else if let Some(found) = fs.lookup(here, name)? {
            if fs.attributes(found)?.kind != FileKind::Directory {
                return Err(Error::usage("a directory of the new file is not one"));
            }
            here = found;
            continue;
        } else {
            fs.create_dir(here, name, 0o755, owner)?
        };
        let label = fs
            .xattrs(here)?
            .into_iter()
            .find(|(name, _)| name == b"security.selinux");
        if let Some((name, value)) = label {
            fs.set_xattr(made, &name, &value)?;
        }
        here = made;
    }
    Ok(())
}

/// What a fresh reader finds is what the plan says.
fn check_after(fs: &dyn FileSystem, edit: &Edit) -> Result<()> {
    let (after, inode) = match (&edit.after, find(fs, edit)?) {
        (Some(after), Some(inode)) => (after, inode),
        (None, None) => return Ok(()),
        (Some(_), None) => {
            return Err(Error::internal(
                "the edited file is not there when read back",
            ));
        }
        (None, Some(_)) => {
            return Err(Error::internal("the removed file is there when read back"));
        }
    };
    let content = match &edit.change {
        Change::Link { .. } => fs.read_link(inode)?,
        _ => path::read_inode(fs, inode)?,
    };
    let is = Digest::of(&content);
    if is != *after {
        return Err(Error::internal("the edited file reads back differently").mismatch(after, is));
    }
    if let Change::Initramfs { modules, .. } = &edit.change {
        let initramfs = Initramfs::parse(content)?;
        for module in modules {
            let size = initramfs
                .read(module.path.as_bytes())
                .map_or(0, <[u8]>::len);
            if size as u64 != module.size {
                return Err(Error::internal(format!(
                    "the edited initramfs lacks {} when read back",
                    module.path
                )));
            }
        }
    }
    Ok(())
}
