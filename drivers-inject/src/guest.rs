//! What the planner asks of a guest's files, and the answer for a file tree.

use rehost_block::{Error, Result};
use rehost_fs::path::LastLink;
use rehost_fs::{FileKind, FileSystem, Inode};
use rehost_inspect::model::FilesystemRef;
use rehost_inspect::{GuestTree, Location};

/// A regular file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// Absolute path in that filesystem, without links.
    pub path: String,
    /// Whether every byte is stored in blocks of its own, so that it can be overwritten in place.
    pub plain: bool,
}

impl FoundFile {
    /// Whether both are one file, whatever paths lead to it.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.at.is_view(&other.at) && self.path == other.path
    }
}

/// A directory that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDirectory {
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// Absolute path in that filesystem, without links.
    pub path: String,
}

/// A guest's files, by absolute path in the guest. Links are followed.
pub trait GuestFiles {
    /// The content of a regular file; `None` when there is none.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// Where a regular file is.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn file(&self, path: &str) -> Result<Option<FoundFile>>;

    /// Where a directory is.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn directory(&self, path: &str) -> Result<Option<FoundDirectory>>;

    /// The names in a directory, sorted; none when there is none.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn names(&self, path: &str) -> Result<Vec<String>>;

    /// What is at `path`, a link at its end not followed.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn kind(&self, path: &str) -> Result<Option<FileKind>>;

    /// Where the symbolic link at `path` leads; `None` when there is none.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn link(&self, path: &str) -> Result<Option<String>>;

    /// Whether the file or directory at `path` has an SELinux label.
    ///
    /// # Errors
    /// As the guest's filesystems.
    fn is_labelled(&self, path: &str) -> Result<bool>;
}

impl GuestFiles for GuestTree {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Self::read(self, path)
    }

    fn file(&self, path: &str) -> Result<Option<FoundFile>> {
        let Some((at, location, fs)) = opened(self, path)? else {
            return Ok(None);
        };
        if fs.attributes(location.inode)?.kind != FileKind::Regular {
            return Ok(None);
        }
        Ok(Some(FoundFile {
            at,
            path: utf8(location.path)?,
            // Btrfs puts new content elsewhere, also where it fits.
            plain: fs.identity().kind != "btrfs" && is_plain(fs, location.inode),
        }))
    }

    fn directory(&self, path: &str) -> Result<Option<FoundDirectory>> {
        let Some((at, location, fs)) = opened(self, path)? else {
            return Ok(None);
        };
        if fs.attributes(location.inode)?.kind != FileKind::Directory {
            return Ok(None);
        }
        Ok(Some(FoundDirectory {
            at,
            path: utf8(location.path)?,
        }))
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        let entries = self.read_dir(path)?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| String::from_utf8(entry.name).ok())
            .collect())
    }

    fn kind(&self, path: &str) -> Result<Option<FileKind>> {
        let Some(location) = self.find(path.as_bytes(), LastLink::Keep)? else {
            return Ok(None);
        };
        let (_, fs) = filesystem(self, &location)?;
        Ok(Some(fs.attributes(location.inode)?.kind))
    }

    fn link(&self, path: &str) -> Result<Option<String>> {
        Self::read_link(self, path)?.map(utf8).transpose()
    }

    fn is_labelled(&self, path: &str) -> Result<bool> {
        let Some((_, location, fs)) = opened(self, path)? else {
            return Ok(false);
        };
        let xattrs = fs.xattrs(location.inode)?;
        Ok(xattrs.iter().any(|(name, _)| name == b"security.selinux"))
    }
}

type Opened<'a> = (FilesystemRef, Location, &'a dyn FileSystem);

fn opened<'a>(tree: &'a GuestTree, path: &str) -> Result<Option<Opened<'a>>> {
    let Some(location) = tree.locate(path)? else {
        return Ok(None);
    };
    let (at, fs) = filesystem(tree, &location)?;
    Ok(Some((at, location, fs)))
}

fn filesystem<'a>(
    tree: &'a GuestTree,
    location: &Location,
) -> Result<(FilesystemRef, &'a dyn FileSystem)> {
    let (_, opened) = tree
        .mounts()
        .find(|(_, opened)| opened.at.is_view(&location.at))
        .ok_or_else(|| Error::internal("a file on a filesystem that is not mounted"))?;
    Ok((opened.at.clone(), opened.fs.as_ref()))
}

/// Whether the content of a file lies in blocks of its own. A file whose blocks cannot be told is
/// not, and is replaced instead.
fn is_plain(fs: &dyn FileSystem, inode: Inode) -> bool {
    fs.stored(inode)
        .is_ok_and(|parts| parts.iter().all(|part| part.disk.is_some()))
}

fn utf8(path: Vec<u8>) -> Result<String> {
    String::from_utf8(path)
        .map_err(|_| Error::unsupported("a path of the guest that is to be changed is not UTF-8"))
}
