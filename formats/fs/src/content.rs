//! What a file is to hold: bytes in memory, or a file of the host that is read while it is written.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use rehost_block::{DiskMut, Error, File, Kind, Result, Storage};

use crate::number::{length, wide};

/// Bytes that are copied at a time.
pub(crate) const PIECE: u64 = 1 << 20;

/// The content that a file is to have.
pub trait Content: fmt::Debug {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// Corrupt when the content ends before `offset + buf.len()`; Io when it cannot be read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

/// Content of nothing, for changes that have none.
pub(crate) const NOTHING: &dyn Content = &[0u8; 0];

impl Content for &[u8] {
    fn size(&self) -> u64 {
        wide(self.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let from = length(offset)?;
        let part = self.get(from..from.saturating_add(buf.len()));
        let part = part.ok_or_else(|| Error::corrupt("content is cut off").at(offset))?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

impl<const LEN: usize> Content for [u8; LEN] {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.as_slice().read_at(buf, offset)
    }
}

impl Content for &dyn Content {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
}

impl Content for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.as_slice().read_at(buf, offset)
    }
}

/// A file of the host, as long as it was when it was opened: the writers ask for its length more than once.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    size: u64,
}

impl HostFile {
    /// The file at `path`.
    ///
    /// # Errors
    /// Io when it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let size = file.size();
        Ok(Self { file, size })
    }
}

impl Content for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = Storage::read_at(&self.file, buf, offset);
        // It was longer when it was opened.
        read.map_err(|error| match error.kind() {
            Kind::Corrupt => changed(),
            _ => error,
        })
    }
}

/// What is said of content that is no more what it was.
pub(crate) fn changed() -> Error {
    Error::usage("content changed while it was read").hint("copy it when nothing writes to it")
}

/// The whole content, which is short.
pub(crate) fn whole(content: &dyn Content) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length(content.size())?];
    content.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Gives the bytes of `part` in order, at most `most` at a time, with how far into the part they are.
pub(crate) fn in_pieces(
    content: &dyn Content,
    part: &Range<u64>,
    most: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let len = part.end.saturating_sub(part.start);
    let mut piece = vec![0; length(most.min(len))?];
    let mut at = 0;
    // Ends because every round takes at least one byte.
    while at < len {
        let want = most.clamp(1, len.saturating_sub(at));
        let bytes = piece
            .get_mut(..length(want)?)
            .ok_or_else(|| Error::internal("a piece longer than its buffer"))?;
        content.read_at(bytes, part.start.saturating_add(at))?;
        take(at, bytes)?;
        at = at.saturating_add(want);
    }
    Ok(())
}

/// Writes `part` of the content to `disk` at `offset`; gives how many bytes these are.
pub(crate) fn put(
    content: &dyn Content,
    part: &Range<u64>,
    disk: &(impl DiskMut + ?Sized),
    offset: u64,
) -> Result<u64> {
    in_pieces(content, part, PIECE, |at, bytes| {
        disk.write_at(bytes, offset.saturating_add(at))
    })?;
    Ok(part.end.saturating_sub(part.start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_host_keeps_its_length_and_says_when_it_is_cut() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, [7; 5000]).unwrap();
        let content = HostFile::open(path.path()).unwrap();
        std::fs::write(&path, [7; 9000]).unwrap();
        assert_eq!(content.size(), 5000);
        assert_eq!(whole(&content).unwrap(), [7; 5000]);
        std::fs::write(&path, [7; 4999]).unwrap();
        assert_eq!(content.size(), 5000);
        let error = whole(&content).unwrap_err();
        assert!(
            error.to_string().contains("changed while it was read"),
            "{error}"
        );
    }

    #[test]
    fn parts_are_given_whole_and_in_order() {
        let content: Vec<u8> = (0..=255).collect();
        let mut seen = Vec::new();
        in_pieces(&content, &(3..250), 100, |at, bytes| {
            assert_eq!(at, wide(seen.len()));
            seen.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, content[3..250]);
        assert!(in_pieces(&content, &(3..257), 100, |_, _| Ok(())).is_err());
    }
}
