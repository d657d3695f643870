//! `Unfinished`: a file that is being written, under a name that says so.
//!
//! The bytes go to `NAME.partial`; [`Unfinished::finish`] gives the file its name once all of it is
//! on stable storage. A run that fails removes the partial file, a killed one leaves it: either way
//! nothing called `NAME` exists that is not whole. The partial file is locked while it is written, so
//! that a second run for the same name does not take it for a leftover. An image of several files
//! gets its names in one go, the file that names the others last ([`UnfinishedFiles`]).

mod several;

use std::fs::{self, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, File, Result, Storage, StorageMut};

pub use several::UnfinishedFiles;

/// Whether an existing file of the final name may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Keep,
    /// It is replaced when the new one is whole, not before.
    Replace,
}

/// Who sees to it that what is written reaches stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flush {
    /// The run: a file has its name only when it would survive a crash.
    #[default]
    Before,
    /// The operating system, in its own time.
    Later,
}

impl Existing {
    /// `--force` as typed.
    #[must_use]
    pub const fn from_force(force: bool) -> Self {
        if force { Self::Replace } else { Self::Keep }
    }
}

/// A file being written.
#[derive(Debug)]
pub struct Unfinished {
    name: PathBuf,
    partial: PathBuf,
    /// Keeps the lock that tells other runs that somebody is at it.
    _file: Arc<File>,
    finished: bool,
}

/// The name that `name` has while it is written.
#[must_use]
pub fn partial_name(name: &Path) -> PathBuf {
    let mut partial = name.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

impl Unfinished {
    /// Starts writing the file that will be called `name`.
    ///
    /// # Errors
    /// Usage when `name` exists and must be kept, is a folder, or is being written by another run;
    /// Io when the partial file cannot be created.
    pub fn create(name: &Path, existing: Existing) -> Result<(Self, Arc<File>)> {
        let partial = partial_for(name, existing)?;
        clear(&partial)?;
        let file = Arc::new(File::create_new(&partial)?);
        Self::locked(name, partial, file)
    }

    /// Goes on writing the file that a killed run left.
    ///
    /// # Errors
    /// As [`Unfinished::create`]; Io when there is none.
    pub fn reopen(name: &Path, existing: Existing) -> Result<(Self, Arc<File>)> {
        let partial = partial_for(name, existing)?;
        let file = Arc::new(File::open_mut(&partial)?);
        Self::locked(name, partial, file)
    }

    fn locked(name: &Path, partial: PathBuf, file: Arc<File>) -> Result<(Self, Arc<File>)> {
        lock(&file, &partial)?;
        let unfinished = Self {
            name: name.to_owned(),
            partial,
            _file: Arc::clone(&file),
            finished: false,
        };
        Ok((unfinished, file))
    }

    /// Leaves the file under its partial name.
    pub fn keep(mut self) {
        self.finished = true;
    }

    /// Gives the file its name. Everything must be on stable storage already.
    ///
    /// # Errors
    /// Io when it cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let name = self.name.clone();
        self.give_name()?;
        // The new name must survive a crash too.
        flush_names(folder_of(&name))
    }

    /// Gives the file its name, and leaves it to the operating system when that is on stable
    /// storage: for copies that are made again if need be.
    ///
    /// # Errors
    /// Io when it cannot be renamed.
    pub fn give_name(mut self) -> Result<()> {
        fs::rename(&self.partial, &self.name)
            .map_err(|error| Error::io("cannot be renamed", error).in_file(&self.partial))?;
        self.finished = true;
        Ok(())
    }

    /// Writes a small file whole.
    ///
    /// # Errors
    /// As [`Unfinished::create`] and [`Unfinished::finish`].
    pub fn write(name: &Path, existing: Existing, content: &[u8]) -> Result<()> {
        let (unfinished, file) = Self::create(name, existing)?;
        file.write_at(content, 0)?;
        file.sync()?;
        unfinished.finish()
    }
}

/// The partial name of `name`, which must be free or may be replaced.
fn partial_for(name: &Path, existing: Existing) -> Result<PathBuf> {
    if existing == Existing::Keep && name.symlink_metadata().is_ok() {
        return Err(Error::usage("exists already")
            .in_file(name)
            .hint("choose another name or replace it with --force"));
    }
    if name.is_dir() {
        return Err(Error::usage("is a folder")
            .in_file(name)
            .hint("name the file to write in it"));
    }
    Ok(partial_name(name))
}

/// The folder that holds `name`.
pub(crate) fn folder_of(name: &Path) -> &Path {
    match name.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Returns once the names in `folder` are on stable storage.
fn flush_names(folder: &Path) -> Result<()> {
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("cannot flush the folder", error).in_file(folder))
}

/// Removes what a killed run left; its content is worth nothing. A run that is still at it holds the
/// file's lock.
fn clear(partial: &Path) -> Result<()> {
    let left = match partial.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        left => left.map_err(|error| Error::io("cannot create", error).in_file(partial))?,
    };
    if !left.is_file() {
        return Err(Error::usage("is in the way, and is no file")
            .in_file(partial)
            .hint("remove it or choose another name"));
    }
    let failed =
        |error| Error::io("cannot remove what an earlier run left", error).in_file(partial);
    let left = fs::File::open(partial).map_err(failed)?;
    if matches!(left.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(busy(partial));
    }
    // While `left` is locked: another run that comes now is told so.
    fs::remove_file(partial).map_err(failed)
}

/// Locks the new file. Another run may have taken it for a leftover and removed it before that.
fn lock(file: &File, partial: &Path) -> Result<()> {
    let failed = |error| Error::io("cannot be examined", error).in_file(partial);
    let Some(file) = file.as_file() else {
        return Ok(());
    };
    // A file system without locks has no such protection.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(busy(partial));
    }
    let ours = file.metadata().map_err(failed)?;
    match partial.symlink_metadata() {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(()),
        _ => Err(busy(partial)),
    }
}

fn busy(partial: &Path) -> Error {
    Error::usage("is being written by another run")
        .in_file(partial)
        .hint("wait for it or choose another name")
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the name says that it is incomplete anyway.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.raw");
        let (unfinished, file) = Unfinished::create(&name, Existing::Keep).unwrap();
        file.write_at(b"x", 0).unwrap();
        assert!(!name.exists());
        unfinished.finish().unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"x");
        assert!(Unfinished::create(&name, Existing::Keep).is_err());
    }

    #[test]
    fn a_failed_run_leaves_the_old_file_and_no_partial_one() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.raw");
        fs::write(&name, b"old").unwrap();
        let (unfinished, _file) = Unfinished::create(&name, Existing::Replace).unwrap();
        drop(unfinished);
        assert_eq!(fs::read(&name).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_run_for_the_same_name_leaves_the_first_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.raw");
        let (first, file) = Unfinished::create(&name, Existing::Keep).unwrap();
        file.write_at(b"first", 0).unwrap();
        let error = Unfinished::create(&name, Existing::Replace).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
        drop(file);
        first.finish().unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"first");
    }

    #[test]
    fn what_a_killed_run_left_is_replaced_and_a_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.raw");
        fs::write(partial_name(&name), b"left").unwrap();
        Unfinished::write(&name, Existing::Keep, b"whole").unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"whole");
        let error = Unfinished::write(folder.path(), Existing::Replace, b"x").unwrap_err();
        assert!(error.to_string().contains("is a folder"), "{error}");
    }
}
