//! Directory records: where a file is, and what it is called in ISO 9660 and Joliet.
//!
//! Source: ECMA-119, 4th edition, section 9.1; Joliet specification, sections 2 and 3.

use rehost_block::{Disk, Error, Fields, Result};

use super::time;
use crate::number::{index, length};

pub(super) const STRUCTURE: &str = "directory record";

/// Bytes before the name.
const HEAD: usize = 33;

/// The longest record.
const MOST: u64 = 255;

/// File flags.
const DIRECTORY: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const CONTINUES: u8 = 0x80;

/// One record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Byte offset of it on the disk.
    pub(super) at: u64,
    /// Its length in bytes.
    pub(super) len: usize,
    /// First block of the content.
    pub(super) first: u64,
    /// Bytes of content.
    pub(super) size: u32,
    flags: u8,
    interleaved: bool,
    pub(super) modified: i64,
    pub(super) name: Vec<u8>,
    /// What the system may use: Rock Ridge does.
    pub(super) system: Vec<u8>,
}

impl Record {
    /// The record at byte `at` of `disk`.
    pub(super) fn read(disk: &dyn Disk, at: u64) -> Result<Self> {
        let left = disk.size().saturating_sub(at);
        let mut raw = vec![0; length(left.min(MOST))?];
        if raw.len() < HEAD {
            return Err(Error::corrupt("lies past the end of the disk")
                .in_structure(STRUCTURE)
                .at(at));
        }
        disk.read_at(&mut raw, at)?;
        Self::parse(&raw, at)
    }

    /// The record at the start of `raw`, which is at byte `at` of the disk.
    pub(super) fn parse(raw: &[u8], at: u64) -> Result<Self> {
        let f = Fields::new(raw, STRUCTURE, at);
        let len = usize::from(f.u8(0)?);
        let name_len = usize::from(f.u8(32)?);
        // The name is padded to an even place.
        let system = HEAD.saturating_add(name_len | 1);
        if name_len == 0 || HEAD.saturating_add(name_len) > len {
            return Err(f.corrupt(0, "a name reaches past its record"));
        }
        let whole = f.bytes(0, len)?;
        Ok(Self {
            at,
            len,
            first: u64::from(f.u32_le(2)?).saturating_add(u64::from(f.u8(1)?)),
            size: f.u32_le(10)?,
            flags: f.u8(25)?,
            interleaved: f.u8(26)? != 0 || f.u8(27)? != 0,
            modified: time::short(f.bytes(18, 7)?),
            name: f.bytes(HEAD, name_len)?.to_vec(),
            system: whole.get(system..).unwrap_or_default().to_vec(),
        })
    }

    pub(super) const fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Whether it is a companion of another file (a resource fork), which Linux does not show.
    pub(super) const fn is_associated(&self) -> bool {
        self.flags & ASSOCIATED != 0
    }

    /// Whether the next record goes on with the same file.
    pub(super) const fn continues(&self) -> bool {
        self.flags & CONTINUES != 0
    }

    /// Whether it is that of the directory itself, or of its parent.
    pub(super) fn is_dot(&self) -> bool {
        matches!(self.name.as_slice(), [0 | 1])
    }

    /// Refuses what this program cannot read.
    pub(super) fn check(&self) -> Result<()> {
        if self.interleaved {
            return Err(self.unsupported("interleaved file"));
        }
        Ok(())
    }

    /// The byte offset of the content on a disk of `size` bytes that holds all of it.
    pub(super) fn place(&self, block: u64, size: u64) -> Result<u64> {
        let start = self.first.saturating_mul(block);
        let end = start.saturating_add(u64::from(self.size));
        if self.size == 0 || end <= size {
            return Ok(start);
        }
        Err(self
            .corrupt("content lies past the end of the disk")
            .mismatch(format!("an end of at most {size}"), end)
            .hint("the image may be cut off: compare its size with the original"))
    }

    /// The name in a tree without Rock Ridge: as stored, without the version and the dot of an
    /// empty extension.
    pub(super) fn plain_name(&self) -> Vec<u8> {
        trimmed(&self.name)
    }

    /// The name in Joliet's tree, as UTF-8.
    pub(super) fn joliet_name(&self) -> Vec<u8> {
        let (pairs, _) = self.name.as_chunks::<2>();
        let wide: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
        trimmed(String::from_utf16_lossy(&wide).as_bytes())
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(what).in_structure(STRUCTURE).at(self.at)
    }

    pub(super) fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(what).in_structure(STRUCTURE).at(self.at)
    }

    /// Where the next record of a directory would be.
    pub(super) fn end(&self) -> u64 {
        self.at
            .saturating_add(u64::try_from(self.len).unwrap_or(u64::MAX))
    }
}

/// The places in `raw`, a directory's bytes, at which records begin.
pub(super) fn starts(raw: &[u8], block: u32) -> Vec<usize> {
    let block = index(block);
    let mut found = Vec::new();
    let mut at = 0usize;
    // Ends because every round goes on by at least one byte: a length of 0 means that the rest of the
    // block is empty.
    while let Some(len) = raw.get(at).copied() {
        if len == 0 {
            at = at
                .saturating_add(1)
                .checked_next_multiple_of(block)
                .unwrap_or(usize::MAX);
        } else {
            found.push(at);
            at = at.saturating_add(usize::from(len));
        }
    }
    found
}

/// Without `;1`, and without the dot of a name that has no extension.
fn trimmed(name: &[u8]) -> Vec<u8> {
    let mut name = name;
    if let Some(at) = name.iter().rposition(|byte| *byte == b';') {
        let (head, version) = name.split_at(at);
        if version.iter().skip(1).all(u8::is_ascii_digit) {
            name = head;
        }
    }
    if let Some(head) = name.strip_suffix(b".")
        && !head.is_empty()
    {
        name = head;
    }
    name.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_version_and_empty_extension() {
        for (stored, shown) in [
            (&b"A.TXT;1"[..], &b"A.TXT"[..]),
            (b"A.;12", b"A"),
            (b"A;B", b"A;B"),
            (b"DIR", b"DIR"),
            (b".;1", b"."),
        ] {
            assert_eq!(trimmed(stored), shown);
        }
    }

    #[test]
    fn records_begin_after_each_other_and_at_blocks() {
        let mut raw = vec![0; 4096];
        raw[0] = 34;
        raw[34] = 40;
        raw[2048] = 34;
        assert_eq!(starts(&raw, 2048), [0, 34, 2048]);
        assert_eq!(starts(&[0; 512], 2048), Vec::<usize>::new());
    }
}
