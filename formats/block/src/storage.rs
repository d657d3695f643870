//! `Storage`: bytes that can be read at any position, and `StorageMut`, which can be written too.
//!
//! The split is what makes a source read-only by type: a source is opened as `dyn Storage`, which
//! has no method that writes.

use std::fmt;
use std::path::Path;

use crate::Result;

/// Whether a stretch of a storage holds bytes or is a hole that reads as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Bytes are stored; they may still be zero.
    Data,
    /// Nothing is stored: the stretch reads as zeroes without being read.
    Hole,
}

/// A byte container with positional reads. Many threads may read at once.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The name for messages: a path where there is one.
    fn name(&self) -> &Path;

    /// Length in bytes, as it was when the storage was opened.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// Corrupt when the storage ends before `offset + buf.len()` (a truncated file is never read
    /// as zeroes); Io when the operating system fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// What lies at `offset`, and for how many bytes at least (at most `want`, at least 1 where
    /// `want` is and `offset` lies inside the storage).
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        let _ = offset;
        Ok((Presence::Data, want))
    }

    /// The file behind it, for sharing blocks (`FICLONERANGE`, `copy_file_range`).
    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// A storage that can be written at any position. Many threads may write at once, to ranges that
/// do not overlap.
pub trait StorageMut: Storage {
    /// Writes all of `data` at `offset`, growing the storage where needed.
    ///
    /// # Errors
    /// Io when the operating system fails (a full disk among others).
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Cuts or grows (with zeroes) to `size` bytes.
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn set_size(&self, size: u64) -> Result<()>;

    /// Makes the range read as zeroes, by a hole where the storage can have one.
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn zero_at(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns once everything written is on stable storage.
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn sync(&self) -> Result<()>;
}
