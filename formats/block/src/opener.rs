//! `Opener`: the gate through which an image may name another file.
//!
//! A backing file, extent, parent or data file is a path that a stranger wrote. The default,
//! [`SameFolder`], opens only what lies in the folder of the file that names it, after symbolic
//! links are followed; [`AllowedFolders`] adds folders the user named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, File, Result, Storage};

/// A file that was let through.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Where it really is, links followed.
    pub path: PathBuf,
    /// Its bytes, read-only.
    pub storage: Arc<dyn Storage>,
}

/// Decides whether a file named by another file may be opened, and opens it.
pub trait Opener: Send + Sync + fmt::Debug {
    /// Opens `named`, as written in `from` (a relative name is relative to `from`'s folder).
    ///
    /// # Errors
    /// Usage when the gate refuses; Io when the file cannot be opened.
    fn open(&self, named: &Path, from: &Path) -> Result<Opened>;

    /// Folders that the user named. A file that is known by its identity alone, not by a name (the
    /// parent of a VDI), is looked for in them.
    fn folders(&self) -> &[PathBuf] {
        &[]
    }
}

/// Lets through files in the folder of the file that names them, and below it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameFolder;

impl Opener for SameFolder {
    fn open(&self, named: &Path, from: &Path) -> Result<Opened> {
        AllowedFolders::default().open(named, from)
    }
}

/// As [`SameFolder`], and also lets through files below the given folders.
#[derive(Debug, Clone, Default)]
pub struct AllowedFolders {
    folders: Vec<PathBuf>,
}

impl AllowedFolders {
    /// Allows `folders` (and what lies below them) besides the naming file's own.
    ///
    /// # Errors
    /// Io when one of them does not exist.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let folders = folders
            .into_iter()
            .map(|folder| canonical(&folder))
            .collect::<Result<_>>()?;
        Ok(Self { folders })
    }
}

impl Opener for AllowedFolders {
    fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    fn open(&self, named: &Path, from: &Path) -> Result<Opened> {
        let from = canonical(from)?;
        let home = from.parent().unwrap_or(Path::new("/"));
        let path = canonical(&home.join(named))
            .map_err(|error| error.hint(format!("it is named by {}", from.display())))?;
        let allowed = path.starts_with(home) || self.folders.iter().any(|f| path.starts_with(f));
        if !allowed {
            return Err(Error::usage(format!(
                "names {}, which lies outside its folder",
                path.display()
            ))
            .in_file(&from)
            .hint(format!(
                "if you trust it, allow it with --allow-path {}",
                path.parent().unwrap_or(&path).display()
            )));
        }
        let storage = Arc::new(File::open(&path)?);
        Ok(Opened { path, storage })
    }
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| Error::io("cannot open", error).in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use std::fs;

    #[test]
    fn a_link_out_of_the_folder_is_refused_unless_allowed() {
        let home = tempfile::tempdir().unwrap();
        let away = tempfile::tempdir().unwrap();
        let secret = away.path().join("secret");
        fs::write(&secret, b"x").unwrap();
        let image = home.path().join("image");
        fs::write(&image, b"x").unwrap();
        std::os::unix::fs::symlink(&secret, home.path().join("link")).unwrap();

        for named in ["link", secret.to_str().unwrap()] {
            let error = SameFolder.open(Path::new(named), &image).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{error}");
            let gate = AllowedFolders::new([away.path().to_owned()]).unwrap();
            assert!(gate.open(Path::new(named), &image).is_ok());
        }
    }
}
