//! `Unfinished`: a file that is being written, under a name that says so.
//!
//! The bytes go to `NAME.partial`; [`Unfinished::finish`] gives the file its name once all of it is
//! on stable storage. A run that fails removes the partial file, a killed one leaves it: either way
//! nothing called `NAME` exists that is not whole.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, File, Result};

/// Whether an existing file of the final name may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Keep,
    /// It is replaced when the new one is whole, not before.
    Replace,
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
    finished: bool,
}

impl Unfinished {
    /// Starts writing the file that will be called `name`.
    ///
    /// # Errors
    /// Usage when `name` exists and must be kept; Io when the partial file cannot be created.
    pub fn create(name: &Path, existing: Existing) -> Result<(Self, Arc<File>)> {
        if existing == Existing::Keep && name.symlink_metadata().is_ok() {
            return Err(Error::usage("exists already")
                .in_file(name)
                .hint("choose another name or replace it with --force"));
        }
        let mut partial = name.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // Left by a killed run; its content is worth nothing.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(
                    Error::io("cannot remove what an earlier run left", error).in_file(&partial)
                );
            }
            _ => {}
        }
        let file = Arc::new(File::create_new(&partial)?);
        Ok((
            Self {
                name: name.to_owned(),
                partial,
                finished: false,
            },
            file,
        ))
    }

    /// Where the bytes are until then.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the file its name. Everything must be on stable storage already.
    ///
    /// # Errors
    /// Io when it cannot be renamed.
    pub fn finish(mut self) -> Result<()> {
        fs::rename(&self.partial, &self.name)
            .map_err(|error| Error::io("cannot be renamed", error).in_file(&self.partial))?;
        self.finished = true;
        // The new name must survive a crash too.
        let folder = match self.name.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| Error::io("cannot flush the folder", error).in_file(folder))
    }

    /// Writes a small file whole.
    ///
    /// # Errors
    /// As [`Unfinished::create`] and [`Unfinished::finish`].
    pub fn write(name: &Path, existing: Existing, content: &[u8]) -> Result<()> {
        let (unfinished, file) = Self::create(name, existing)?;
        drop(file);
        let io = |error| Error::io("cannot write", error).in_file(&unfinished.partial);
        let mut file = fs::File::create(&unfinished.partial).map_err(io)?;
        file.write_all(content).map_err(io)?;
        file.sync_all().map_err(io)?;
        unfinished.finish()
    }
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
    use rehost_block::StorageMut;

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
}
