//! ext2, ext3 and ext4, written.
//!
//! [`Ext4Mut`] makes each operation one [`Change`](change::Change): planned in memory, written as a
//! whole at its end, not written at all when planning fails. Writes do not go through the journal; it
//! is empty while this program writes, and content is written before what refers to it.
//!
//! Left out on purpose, and refused by name: filesystems with quota, bigalloc, snapshots, shared
//! blocks or features unknown to this program; ones that record errors, are mounted elsewhere (MMP)
//! or were not unmounted and have no journal; encrypted, case-insensitive, immutable, append-only and
//! verity files; growth of indexes of three levels; attributes in inodes of their own. New files inherit no
//! default ACL and no security label: callers set attributes themselves.

mod alloc;
mod attrs;
mod change;
mod files;
mod index;
mod layout;
mod names;
mod orphans;
mod stamp;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rehost_block::{Disk, DiskMut, Error, Fields, Kind, Result};

use self::change::{Change, seal_superblock};
use self::files::Owner;
use self::stamp::put32;
use super::Ext4;
use super::features::{compat, incompat};
use super::journal::Journal;
use super::superblock::AT;
use crate::content::{self, Content, NOTHING};
use crate::{FileSystem, FileSystemMut, Identity, Inode};

/// MMP sequence number of a filesystem that nobody uses.
const MMP_CLEAN: u32 = 0xff4d_4d50;

/// State bits: cleanly unmounted, errors found.
const STATE_VALID: u16 = 1;
const STATE_ERROR: u16 = 2;

/// An ext2, ext3 or ext4 filesystem, open for writing.
#[derive(Debug)]
pub struct Ext4Mut {
    disk: Arc<dyn DiskMut>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    fs: Ext4,
    /// Set once a write failed in the middle of a change.
    broken: bool,
}

impl Ext4Mut {
    /// Opens the filesystem on `disk`. A journal that needs recovery is replayed onto the disk.
    ///
    /// # Errors
    /// As [`Ext4::open`]; Unsupported, by name, for what is listed above.
    pub fn open(disk: Arc<dyn DiskMut>) -> Result<Self> {
        let readable: Arc<dyn Disk> = disk.clone();
        let fs = Ext4::open_as_it_is(Arc::clone(&readable))?;
        check_writable(&fs)?;
        let replayed = fs.sb.features.incompat(incompat::RECOVER);
        if replayed {
            recover(&fs, &*disk)?;
        }
        let mut fs = Ext4::open_as_it_is(readable)?.with_root()?;
        fs.replayed = replayed;
        check_writable(&fs)?;
        let orphans = fs.sb.last_orphan != 0;
        let opened = Self {
            disk,
            state: RwLock::new(State { fs, broken: false }),
        };
        if orphans {
            match opened.change(&[], |change| change.clear_orphans()) {
                // What this program cannot clear stays on the list, for the guest's kernel.
                Err(error) if error.kind() == Kind::Unsupported => {}
                other => other?,
            }
        }
        Ok(opened)
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
        let mut change = Change::begin(&mut state.fs, content);
        match act(&mut change) {
            Ok(made) => {
                let written = change.commit(&*self.disk);
                if let Err(error) = written {
                    state.broken = true;
                    return Err(error);
                }
                Ok(made)
            }
            Err(error) => {
                change.roll_back()?;
                Err(error)
            }
        }
    }
}

/// Refuses, before anything is written, a filesystem that this program must not write.
fn check_writable(fs: &Ext4) -> Result<()> {
    fs.sb.features.check_writable()?;
    let f = Fields::new(&fs.sb.raw, "superblock", AT);
    if fs.sb.state & STATE_ERROR != 0 {
        return Err(f
            .unsupported(0x3a, "filesystem records errors")
            .hint("run e2fsck in the source machine first"));
    }
    let journal = fs.sb.features.compat(compat::HAS_JOURNAL);
    if fs.sb.state & STATE_VALID == 0 && !journal {
        return Err(f
            .unsupported(0x3a, "filesystem was not unmounted and has no journal")
            .hint("shut the source machine down, or run e2fsck on a copy"));
    }
    if fs.sb.features.incompat(incompat::MMP) && fs.sb.mmp_block != 0 {
        let bytes = fs.blocks.read(fs.sb.mmp_block, "MMP block")?;
        let at = fs.blocks.offset(fs.sb.mmp_block);
        let mmp = Fields::new(&bytes, "MMP block", at);
        if mmp.u32_le(0)? != 0x004d_4d50 {
            return Err(mmp.corrupt(0, "MMP block has no magic"));
        }
        if mmp.u32_le(4)? != MMP_CLEAN {
            return Err(mmp
                .unsupported(4, "filesystem is in use elsewhere (multi-mount protection)")
                .hint("unmount it there first"));
        }
    }
    Ok(())
}

/// Replays the journal onto the disk and marks it, and the filesystem, as recovered.
fn recover(fs: &Ext4, disk: &dyn DiskMut) -> Result<()> {
    let journal = Journal::open(fs)?;
    journal.check_errno()?;
    let next = journal.next_sequence()?;
    journal.replay(disk)?;
    disk.sync()?;
    journal.mark_empty(disk, next)?;
    disk.sync()?;
    // The superblock may itself have been replayed: read it again.
    let readable = ReadBack(disk);
    let mut sb = super::superblock::Superblock::read(&readable)?;
    let incompat = sb.features.incompat & !incompat::RECOVER;
    put32(&mut sb.raw, 0x60, incompat)?;
    let sealed = sb.has_checksums();
    seal_superblock(&mut sb.raw, sealed)?;
    disk.write_at(&sb.raw, AT)?;
    disk.sync()
}

/// A disk behind a reference, to be read.
#[derive(Debug)]
struct ReadBack<'a>(&'a dyn DiskMut);

impl Disk for ReadBack<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<rehost_block::Located> {
        self.0.locate(offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
}

impl FileSystem for Ext4Mut {
    fn identity(&self) -> Identity {
        self.read().fs.identity()
    }

    crate::filesystem::reads_from_state!();
}

impl FileSystemMut for Ext4Mut {
    fn overwrite(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        let number = Ext4::number(inode)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change::begin(&mut state.fs, content);
        let planned = change.plan_overwrite(number);
        let writes = change.into_writes();
        planned?;
        // No metadata changes: a failure halfway leaves a filesystem that is still consistent.
        for (offset, part) in writes {
            let len = content::put(content, &part, &*self.disk, offset)?;
            state.fs.blocks.forget(offset, len);
        }
        Ok(())
    }

    fn replace(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        let number = Ext4::number(inode)?;
        self.change(content, |change| change.replace_content(number))
    }

    fn create(
        &self,
        dir: Inode,
        name: &[u8],
        mode: u16,
        owner: (u32, u32),
        content: &dyn Content,
    ) -> Result<Inode> {
        let dir = Ext4::number(dir)?;
        let owner = owned(mode, owner);
        self.change(content, |change| change.create_file(dir, name, owner))
            .map(as_inode)
    }

    fn create_dir(&self, dir: Inode, name: &[u8], mode: u16, owner: (u32, u32)) -> Result<Inode> {
        let dir = Ext4::number(dir)?;
        let owner = owned(mode, owner);
        self.change(NOTHING, |change| change.create_directory(dir, name, owner))
            .map(as_inode)
    }

    fn create_link(
        &self,
        dir: Inode,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Inode> {
        let dir = Ext4::number(dir)?;
        let owner = owned(0o777, owner);
        self.change(NOTHING, |change| {
            change.create_symlink(dir, name, target, owner)
        })
        .map(as_inode)
    }

    fn remove(&self, dir: Inode, name: &[u8]) -> Result<()> {
        let dir = Ext4::number(dir)?;
        self.change(NOTHING, |change| change.remove_file(dir, name))
    }

    fn set_xattr(&self, inode: Inode, name: &[u8], value: &[u8]) -> Result<()> {
        let number = Ext4::number(inode)?;
        self.change(NOTHING, |change| {
            let node = change.node(number)?;
            change.set_attribute(&node, name, value)
        })
    }
}

const fn owned(mode: u16, (uid, gid): (u32, u32)) -> Owner {
    Owner { mode, uid, gid }
}

fn as_inode(number: u32) -> Inode {
    Inode(u64::from(number))
}
