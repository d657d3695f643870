//! Writing FAT: allocation, both tables, directory entries, dirty flags, the free-cluster summary.
//!
//! FAT has no log. Each change is written in an order, with `sync` between its steps, that keeps
//! every other file whole wherever it breaks off: the dirty flags; content into free clusters; its
//! chain, in the first table and then the second; the one 32-byte entry that makes it valid; only
//! then the old chain is freed; the summary; the flags. What a failure leaves is lost clusters, a
//! difference between the tables or pieces of a long name, which `fsck.fat -a` clears away.
//!
//! One exception: where the new content of a file fits only into the clusters that the old one
//! has, it is written over it, and a failure halfway leaves that one file with parts of both.
//!
//! A filesystem that was dirty before is written, when a survey of all of it finds nothing wrong,
//! and stays marked: guests keep the EFI system partition mounted, and a snapshot of one is dirty.

mod alloc;
mod change;
mod marks;
mod slots;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rehost_block::{Disk, DiskMut, Error, Result};

use self::change::Change;
pub(in crate::fat) use self::marks::is_summary;
use super::check::Survey;
use super::entry::{ARCHIVE, READ_ONLY};
use super::{Fat, inode_at};
use crate::content::{self, Content};
use crate::{FileSystem, FileSystemMut, Identity, Inode};

/// A FAT filesystem, open for writing.
#[derive(Debug)]
pub struct FatMut {
    disk: Arc<dyn DiskMut>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    fs: Fat,
    survey: Survey,
    /// Where the search for free clusters begins.
    hint: u32,
    /// Whether it was marked clean when it was opened.
    clean: bool,
    /// Set once a write failed in the middle of a change.
    broken: bool,
}

impl FatMut {
    /// Opens the filesystem on `disk`, after a look at every directory and chain; writes nothing.
    ///
    /// # Errors
    /// As [`Fat::open`]; Corrupt where it contradicts itself so that writing could lose more;
    /// Unsupported when its tables are not kept equal.
    pub fn open(disk: Arc<dyn DiskMut>) -> Result<Self> {
        let readable: Arc<dyn Disk> = disk.clone();
        let fs = Fat::open(readable)?;
        if !fs.boot.mirrored {
            return Err(
                Error::unsupported("only one of the file allocation tables is in use")
                    .in_structure("boot sector")
                    .at(40),
            );
        }
        let survey = fs.survey()?;
        let clean = fs.is_clean()?;
        let state = State {
            fs,
            survey,
            hint: 2,
            clean,
            broken: false,
        };
        Ok(Self {
            disk,
            state: RwLock::new(state),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(
                Error::usage("an earlier write to this filesystem failed halfway")
                    .hint("run fsck.fat, or start again from the original"),
            );
        }
        let mut change = Change::new(&mut state, &*self.disk);
        let made = act(&mut change);
        let begun = change.begun;
        state.fs.forget();
        if made.is_err() && begun {
            state.broken = true;
        }
        made
    }
}

/// Refuses what FAT cannot store of a new file or directory.
fn check_access(mode: u16, (uid, gid): (u32, u32)) -> Result<()> {
    if (uid, gid) != (0, 0) {
        return Err(
            Error::unsupported(format!("FAT has no owners: {uid}:{gid} cannot be kept"))
                .hint("give it to 0:0"),
        );
    }
    if mode & 0o7000 != 0 || mode & 0o444 != 0o444 {
        return Err(Error::unsupported(format!(
            "FAT has no permissions: mode {mode:04o} cannot be kept"
        ))
        .hint("everyone may read what is on FAT; use mode 0644 or 0755"));
    }
    Ok(())
}

impl FileSystem for FatMut {
    fn identity(&self) -> Identity {
        let state = self.read();
        let free = u64::from(state.survey.free).saturating_mul(state.fs.boot.cluster);
        Identity {
            free,
            ..state.fs.identity()
        }
    }

    crate::filesystem::reads_from_state!();
}

impl FileSystemMut for FatMut {
    fn overwrite(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (short, at) = state.regular_known(inode)?;
        if content.size() != u64::from(short.size) {
            return Err(
                Error::usage("content of another length cannot be overwritten")
                    .mismatch(format!("{} bytes", short.size), content.size()),
            );
        }
        let rows = state.fs.rows(&short, at)?;
        // No metadata changes: a failure halfway leaves a filesystem that is still consistent.
        for (from, disk, len) in state.fs.spans(&rows, u64::from(short.size)) {
            let part = from..from.saturating_add(len);
            content::put(content, &part, &*self.disk, disk)?;
        }
        Ok(())
    }

    fn replace(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        self.change(|change| change.replace(inode, content))
    }

    fn create(
        &self,
        dir: Inode,
        name: &[u8],
        mode: u16,
        owner: (u32, u32),
        content: &dyn Content,
    ) -> Result<Inode> {
        check_access(mode, owner)?;
        let fixed = if mode & 0o200 == 0 { READ_ONLY } else { 0 };
        self.change(|change| change.create(dir, name, ARCHIVE | fixed, content))
            .map(inode_at)
    }

    fn create_dir(&self, dir: Inode, name: &[u8], mode: u16, owner: (u32, u32)) -> Result<Inode> {
        check_access(mode, owner)?;
        self.change(|change| change.create_directory(dir, name))
            .map(inode_at)
    }

    fn create_link(&self, _: Inode, _: &[u8], _: &[u8], _: (u32, u32)) -> Result<Inode> {
        Err(Error::unsupported("FAT has no symbolic links"))
    }

    fn remove(&self, dir: Inode, name: &[u8]) -> Result<()> {
        self.change(|change| change.remove(dir, name))
    }

    fn set_xattr(&self, _: Inode, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Error::unsupported("FAT has no extended attributes"))
    }
}
