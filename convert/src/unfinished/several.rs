//! `UnfinishedFiles`: an image and the further files that it is made of, which get their names
//! together.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, File, Result, StorageMut};
use rehost_image::TargetFiles;

use super::{Existing, Flush, Unfinished, flush_names, folder_of};
use crate::write::spare_sources;

/// An image being written and its extents or its data file, in the image's folder.
#[derive(Debug)]
pub struct UnfinishedFiles {
    name: PathBuf,
    existing: Existing,
    sources: Vec<PathBuf>,
    image: Unfinished,
    further: Mutex<Vec<Unfinished>>,
    flush: Flush,
}

impl UnfinishedFiles {
    /// Starts writing the image that will be called `name`; none of its files may be one of
    /// `sources`.
    ///
    /// # Errors
    /// As [`Unfinished::create`]; Usage when it would replace a source.
    pub fn create(
        name: &Path,
        existing: Existing,
        sources: &[PathBuf],
    ) -> Result<(Self, Arc<File>)> {
        spare_sources(name, sources)?;
        let (image, file) = Unfinished::create(name, existing)?;
        Ok((Self::of(name, existing, sources, image), file))
    }

    /// As [`UnfinishedFiles::create`], with `flush` for all its files.
    ///
    /// # Errors
    /// As [`UnfinishedFiles::create`].
    pub fn create_flushed(
        name: &Path,
        existing: Existing,
        sources: &[PathBuf],
        flush: Flush,
    ) -> Result<(Self, Arc<File>)> {
        let (mut files, file) = Self::create(name, existing, sources)?;
        files.flush = flush;
        if flush == Flush::Later {
            file.leave_flushing();
        }
        Ok((files, file))
    }

    /// Goes on writing an image that a killed run left.
    ///
    /// # Errors
    /// As [`Unfinished::reopen`]; Usage when it would replace a source.
    pub fn reopen(
        name: &Path,
        existing: Existing,
        sources: &[PathBuf],
    ) -> Result<(Self, Arc<File>)> {
        spare_sources(name, sources)?;
        let (image, file) = Unfinished::reopen(name, existing)?;
        Ok((Self::of(name, existing, sources, image), file))
    }

    fn of(name: &Path, existing: Existing, sources: &[PathBuf], image: Unfinished) -> Self {
        Self {
            name: name.to_owned(),
            existing,
            sources: sources.to_owned(),
            image,
            further: Mutex::default(),
            flush: Flush::Before,
        }
    }

    /// Leaves the image under its partial name, for another run to go on with.
    pub fn keep(self) {
        self.image.keep();
    }

    /// Gives all files their names, the image last: while it is missing, the others are nobody's.
    /// Everything must be on stable storage already.
    ///
    /// # Errors
    /// Io when one cannot be renamed; the rest are removed then.
    pub fn finish(self) -> Result<()> {
        let further = self
            .further
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for file in further {
            file.give_name()?;
        }
        self.image.give_name()?;
        if self.flush == Flush::Later {
            return Ok(());
        }
        flush_names(folder_of(&self.name))
    }
}

impl TargetFiles for UnfinishedFiles {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        // The name may come from the command line (a data file); the image says it to every reader.
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            return Err(
                Error::usage(format!("{name:?} is no file name for a part of the image"))
                    .hint("name a file without a folder: it is made beside the image"),
            );
        };
        let path = folder_of(&self.name).join(name);
        if path.file_name() == self.name.file_name() {
            return Err(
                Error::usage("is the image itself, and cannot be a part of it")
                    .in_file(path)
                    .hint("choose another name"),
            );
        }
        spare_sources(&path, &self.sources)?;
        let (unfinished, file) = Unfinished::create(&path, self.existing)?;
        if self.flush == Flush::Later {
            file.leave_flushing();
        }
        self.further
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(unfinished);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_files_of_an_image_get_their_names_together() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.vmdk");
        let (files, image) = UnfinishedFiles::create(&name, Existing::Keep, &[]).unwrap();
        image.write_at(b"descriptor", 0).unwrap();
        let extent = files.create("disk-flat.vmdk").unwrap();
        extent.write_at(b"extent", 0).unwrap();
        assert_eq!(
            names(folder.path()),
            ["disk-flat.vmdk.partial", "disk.vmdk.partial"]
        );
        files.finish().unwrap();
        assert_eq!(names(folder.path()), ["disk-flat.vmdk", "disk.vmdk"]);
        let extent = fs::read(folder.path().join("disk-flat.vmdk")).unwrap();
        assert_eq!(extent, b"extent");
    }

    #[test]
    fn a_failed_run_leaves_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.vmdk");
        let (files, _image) = UnfinishedFiles::create(&name, Existing::Keep, &[]).unwrap();
        files.create("disk-s001.vmdk").unwrap();
        drop(files);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn an_extent_replaces_nothing_unasked_and_never_a_source() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("disk-flat.vmdk");
        fs::write(&old, b"old").unwrap();
        let name = folder.path().join("disk.vmdk");
        let sources = [old.clone()];
        for (existing, sources, says) in [
            (Existing::Keep, &[][..], "exists already"),
            (Existing::Replace, &sources[..], "belongs to the source"),
        ] {
            let (files, _image) = UnfinishedFiles::create(&name, existing, sources).unwrap();
            let error = files.create("disk-flat.vmdk").unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            for outside in ["../x", "/tmp/x", "a/b", "..", "", "disk.vmdk"] {
                assert!(files.create(outside).is_err(), "{outside:?}");
            }
        }
        assert_eq!(fs::read(&old).unwrap(), b"old");
    }
}
