//! `Storage`: bytes that can be read at any position, and `StorageMut`, which can be written too.
//!
//! The split is what makes a source read-only by type: a source is opened as `dyn Storage`, which
//! has no method that writes.

use std::fmt;
use std::path::Path;

use crate::disk::amount;
use crate::{Error, Result};

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

    /// Takes room for the range on the medium, so that writing to it later does not fail for want of
    /// space. What it reads as does not change.
    ///
    /// # Errors
    /// Io when the operating system fails (a full disk among others).
    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        fill_holes(self, offset, len)
    }

    /// Returns once everything written is on stable storage.
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn sync(&self) -> Result<()>;
}

/// Zeroes written at a time into a hole.
const ZEROES: usize = 1 << 20;

/// Writes zeroes wherever the range is a hole: takes room for it the slow way, and has the medium
/// prove that it is there.
///
/// # Errors
/// Io when the storage fails.
pub fn fill_holes<S: StorageMut + ?Sized>(storage: &S, offset: u64, len: u64) -> Result<()> {
    let end = offset
        .checked_add(len)
        .ok_or_else(|| Error::usage("range reaches past the address space").at(offset))?;
    let zeroes = vec![0; ZEROES];
    let mut at = offset;
    // Ends because every round goes forward by at least one byte.
    while at < end {
        let want = end.saturating_sub(at);
        let (presence, found) = storage.presence(at, want)?;
        let found = found.clamp(1, want);
        match presence {
            Presence::Data => at = at.saturating_add(found),
            Presence::Hole => {
                let part = usize::try_from(found).unwrap_or(ZEROES).min(ZEROES);
                storage.write_at(zeroes.get(..part).unwrap_or(&zeroes), at)?;
                at = at.saturating_add(amount(part));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::File;

    #[test]
    fn reserved_room_is_taken_and_reads_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let fast: fn(&File) = |file| file.reserve(0, 3 << 20).unwrap();
        let slow: fn(&File) = |file| fill_holes(file, 0, 3 << 20).unwrap();
        for (name, reserve) in [("fast", fast), ("slow", slow)] {
            let path = folder.path().join(name);
            let file = File::create_new(&path).unwrap();
            file.set_size(3 << 20).unwrap();
            file.write_at(b"there", 1_500_000).unwrap();
            reserve(&file);
            file.sync().unwrap();
            assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 3 << 20);
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 3 << 20);
            assert_eq!(&bytes[1_500_000..1_500_005], b"there");
            assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 5);
        }
    }
}
