//! XFS, written.
//!
//! [`XfsMut`] makes each operation one [`Change`](change::Change): planned in memory, refused as a
//! whole or written through the filesystem's own log, which is empty before and after each. So whoever
//! mounts after an interruption finds the state before or after the operation, never one between
//! (content that is overwritten in place excepted).
//!
//! Left out on purpose, and refused by name: whatever would make a block of an allocation group's tree,
//! an extent tree or a directory's index split or join; attributes and targets of
//! links that do not fit into the inode, ACLs; blocks that are shared (reflink), on a realtime section, or
//! in a file's tree of extents; filesystems with quotas, parent pointers, a metadata directory or names
//! without case, where nothing is allocated or no name changed. Version 4 is only overwritten, and
//! not when its log is to be replayed. New files inherit no default ACL and no security label: callers set
//! attributes themselves.

mod attrs;
mod btree;
mod change;
mod chunk;
mod core;
mod dirblock;
mod dirleaf;
mod dirmany;
mod files;
mod group;
mod inodes;
mod names;
mod space;
mod stamp;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rehost_block::{Disk, DiskMut, Error, Result};

use self::change::Change;
use self::core::Ownership;
use super::Xfs;
use super::log::{self, Position};
use crate::content::{self, Content, NOTHING};
use crate::{FileSystem, FileSystemMut, Identity, Inode};

/// An XFS filesystem, open for writing.
#[derive(Debug)]
pub struct XfsMut {
    disk: Arc<dyn DiskMut>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    fs: Xfs,
    /// Where the log goes on.
    position: Position,
    /// Set once a write failed in the middle of a change.
    broken: bool,
}

impl XfsMut {
    /// Opens the filesystem on `disk`. A log that is not clean is replayed onto the disk.
    ///
    /// # Errors
    /// As [`Xfs::open`]; Unsupported, by name, for what is listed above.
    pub fn open(disk: Arc<dyn DiskMut>) -> Result<Self> {
        let readable: Arc<dyn Disk> = disk.clone();
        let sb = super::Superblock::read(&readable, super::Verify::Stored)?;
        if sb.features.unknown_ro != 0 {
            let unknown = sb.features.unknown_ro;
            return Err(Error::unsupported(format!(
                "has features {unknown:#x}, which are unknown to this program, and can only be read"
            ))
            .in_structure("superblock"));
        }
        let (position, replayed) = log::settle(&sb, &disk)?;
        let mut fs = Xfs::open(readable)?;
        fs.settled = replayed;
        Ok(Self {
            disk,
            state: RwLock::new(State {
                fs,
                position,
                broken: false,
            }),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a change with `act` and writes it.
    fn change<T>(
        &self,
        content: &dyn Content,
        act: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(
                Error::usage("an earlier write to this filesystem failed halfway")
                    .hint("start again from the original"),
            );
        }
        let position = state.position;
        let mut change = Change::begin(&mut state.fs, position, content);
        let planned = act(&mut change).and_then(|made| Ok((made, change.prepare()?)));
        match planned {
            Ok((made, prepared)) => match change.commit(&prepared, &*self.disk) {
                Ok(next) => {
                    state.position = next;
                    Ok(made)
                }
                Err(error) => {
                    state.broken = true;
                    Err(error)
                }
            },
            Err(error) => {
                change.roll_back();
                Err(error)
            }
        }
    }
}

const fn owned(mode: u16, (uid, gid): (u32, u32)) -> Ownership {
    Ownership { mode, uid, gid }
}

impl FileSystem for XfsMut {
    fn identity(&self) -> Identity {
        self.read().fs.identity()
    }

    crate::filesystem::reads_from_state!();
}

impl FileSystemMut for XfsMut {
    fn overwrite(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let position = state.position;
        let mut change = Change::begin(&mut state.fs, position, content);
        change.overwrite(inode.0)?;
        let writes = change.into_writes();
        // No metadata changes: a failure halfway leaves a filesystem that is still consistent.
        for (offset, part) in writes {
            let len = content::put(content, &part, &*self.disk, offset)?;
            state.fs.blocks.forget(offset, len);
        }
        Ok(())
    }

    fn replace(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        self.change(content, |change| change.replace(inode.0))
    }

    fn create(
        &self,
        dir: Inode,
        name: &[u8],
        mode: u16,
        owner: (u32, u32),
        content: &dyn Content,
    ) -> Result<Inode> {
        let owner = owned(mode, owner);
        self.change(content, |change| change.create(dir.0, name, owner))
    }

    fn create_dir(&self, dir: Inode, name: &[u8], mode: u16, owner: (u32, u32)) -> Result<Inode> {
        let owner = owned(mode, owner);
        self.change(NOTHING, |change| change.create_dir(dir.0, name, owner))
    }

    fn create_link(
        &self,
        dir: Inode,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Inode> {
        let owner = owned(0o777, owner);
        self.change(NOTHING, |change| {
            change.create_link(dir.0, name, target, owner)
        })
    }

    fn remove(&self, dir: Inode, name: &[u8]) -> Result<()> {
        self.change(NOTHING, |change| change.remove_file(dir.0, name))
    }

    fn set_xattr(&self, inode: Inode, name: &[u8], value: &[u8]) -> Result<()> {
        self.change(NOTHING, |change| change.set_attribute(inode.0, name, value))
    }
}
