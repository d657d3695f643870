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

use rehost_block::{Disk, DiskMut, Error, Result, WindowMut};
use rehost_fs::path::{self, LastLink};
use rehost_fs::{Ext4Mut, FileKind, FileSystem, FileSystemMut, Inode};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::FilesystemRef;
use rehost_volume::Layout;
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
    /// What it is.
    pub after: Digest,
    /// The bytes of the disk that were written for it, metadata included.
    pub ranges: Vec<Range<u64>>,
}

type Volumes = BTreeMap<(usize, u32), Volume>;

/// A volume with edits on it.
struct Volume {
    record: Arc<Record>,
    window: Arc<dyn DiskMut>,
    fs: Box<dyn FileSystemMut>,
}

/// Carries out `plan` on `disks` (in the order of the inspection).
///
/// # Errors
/// Usage, before any edit is written, when a file is not what the plan was made for; otherwise as the
/// filesystems. After an error the disks hold a part of the edits and are to be dropped.
pub fn apply(plan: &EditPlan, disks: &[WritableDisk]) -> Result<Ledger> {
    let mut volumes = Volumes::new();
    let mut replayed = Vec::new();
    for edit in &plan.edits {
        let key = (edit.at.disk, edit.at.volume);
        if let Entry::Vacant(vacant) = volumes.entry(key) {
            let volume = vacant.insert(open(disks, &edit.at)?);
            let ranges = volume.record.take();
            if !ranges.is_empty() {
                let at = edit.at.clone();
                replayed.push(Replayed { at, ranges });
            }
        }
    }
    let volume = |edit: &Edit| {
        volumes
            .get(&(edit.at.disk, edit.at.volume))
            .ok_or_else(|| Error::internal("an edit on a volume that was not opened"))
    };
    for edit in &plan.edits {
        let fs: &dyn FileSystem = volume(edit)?.fs.as_ref();
        check_before(fs, edit).map_err(|error| error.in_file(&edit.path))?;
    }
    let mut files = Vec::new();
    for edit in &plan.edits {
        let volume = volume(edit)?;
        write(volume.fs.as_ref(), edit).map_err(|error| error.in_file(&edit.path))?;
        files.push(Written {
            path: edit.path.clone(),
            at: edit.at.clone(),
            how: edit.how,
            before: edit.before.clone(),
            after: edit.after.clone(),
            ranges: volume.record.take(),
        });
    }
    for volume in volumes.values() {
        volume.window.sync()?;
    }
    for edit in &plan.edits {
        let window: Arc<dyn DiskMut> = Arc::clone(&volume(edit)?.window);
        let fs = rehost_fs::open(window)?;
        check_after(fs.as_ref(), edit).map_err(|error| error.in_file(&edit.path))?;
    }
    Ok(Ledger { replayed, files })
}

fn open(disks: &[WritableDisk], at: &FilesystemRef) -> Result<Volume> {
    let disk = disks.get(at.disk).ok_or_else(|| {
        Error::usage(format!("the plan is for another machine: there is no {at}"))
    })?;
    if let Some(name) = &at.name {
        return Err(Error::unsupported(format!(
            "{name} lies on other volumes, and cannot be written yet"
        )));
    }
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
    let fs = open_writable(&window)?;
    Ok(Volume { record, window, fs })
}

fn open_writable(window: &Arc<dyn DiskMut>) -> Result<Box<dyn FileSystemMut>> {
    let readable: Arc<dyn Disk> = Arc::clone(window) as Arc<dyn Disk>;
    match rehost_fs::detect(&readable)? {
        Some(kind) if ["ext2", "ext3", "ext4"].contains(&kind.name) => {
            Ok(Box::new(Ext4Mut::open(Arc::clone(window))?))
        }
        Some(kind) => Err(Error::unsupported(format!(
            "holds {}, which cannot be written",
            kind.name
        ))),
        None => Err(Error::usage("holds no known filesystem")),
    }
}

fn find(fs: &dyn FileSystem, edit: &Edit) -> Result<Option<Inode>> {
    path::find(fs, edit.inner_path.as_bytes(), LastLink::Keep)
}

/// The file is what the plan was made for, or is not there yet when it is to be created.
fn check_before(fs: &dyn FileSystem, edit: &Edit) -> Result<()> {
    if Digest::of(&edit.content) != edit.after {
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
    if let Change::Create { mode } = &edit.change {
        return create(fs, edit, *mode);
    }
    let inode = find(fs, edit)?.ok_or_else(|| Error::internal("file vanished while editing"))?;
    match edit.how {
        How::Overwrite => fs.overwrite(inode, content),
        How::Allocate | How::Create => fs.replace(inode, content),
    }
}

/// Creates the file with its missing directories. Each takes owner and SELinux label from the
/// directory it is put into.
fn create(fs: &dyn FileSystemMut, edit: &Edit, mode: u16) -> Result<()> {
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
            fs.create(here, name, mode, owner, &edit.content)?
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
    let inode = find(fs, edit)?
        .ok_or_else(|| Error::internal("the edited file is not there when read back"))?;
    let content = path::read_inode(fs, inode)?;
    let is = Digest::of(&content);
    if is != edit.after {
        return Err(
            Error::internal("the edited file reads back differently").mismatch(&edit.after, is)
        );
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
