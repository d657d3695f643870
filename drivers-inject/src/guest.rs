//! What the planner asks of a guest's files, and the answer for a file tree.

use rehost_block::Result;
use rehost_inspect::model::FilesystemRef;

/// A regular file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// Absolute path in that filesystem, without links.
    pub path: String,
    /// Bytes per block of that filesystem.
    pub block: u32,
    /// Whether every byte is stored in blocks of its own, so that it can be overwritten in place.
    pub plain: bool,
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
}
