//! SQLite's write-ahead log: pages that were committed and not yet copied into the database.
//!
//! <https://www.sqlite.org/fileformat2.html>, section 4. A machine that was not shut down, or was copied
//! while rpm ran, has one. Frames count up to the last commit whose checksums hold, as SQLite's own
//! recovery has it.

use std::collections::BTreeMap;

use rehost_block::{Fields, Result};

use super::super::super::Bytes;
use super::super::exactly;

const HEAD: usize = 32;
const FRAME: usize = 24;
const VERSION: u32 = 3_007_000;

/// The pages that a log lays over its database.
pub(super) struct Log<'a> {
    file: &'a dyn Bytes,
    /// Page number to the offset of its content in the log.
    pages: BTreeMap<u32, u64>,
    /// Length of the database in pages, after the last commit.
    size: u32,
}

impl<'a> Log<'a> {
    /// Reads the log of a database with pages of `page` bytes; `None` when it commits nothing.
    pub(super) fn open(file: &'a dyn Bytes, page: usize) -> Result<Option<Self>> {
        if file.size() < u64::try_from(HEAD).unwrap_or(u64::MAX) {
            return Ok(None);
        }
        let head = exactly(file, 0, HEAD, "sqlite write-ahead log")?;
        let fields = Fields::new(&head, "sqlite write-ahead log", 0);
        // The lowest bit says in which byte order words are summed.
        let words = match fields.u32_be(0)? {
            0x377f_0682 => u32::from_le_bytes,
            0x377f_0683 => u32::from_be_bytes,
            // A log that was reset begins with zeroes.
            _ => return Ok(None),
        };
        let version = fields.u32_be(4)?;
        if version != VERSION {
            return Err(fields
                .unsupported(4, "another version of the write-ahead log")
                .mismatch(VERSION, version));
        }
        let salts = (fields.u32_be(16)?, fields.u32_be(20)?);
        let mut sum = checksum((0, 0), fields.bytes(0, 24)?, words);
        let own = usize::try_from(fields.u32_be(8)?).unwrap_or(usize::MAX);
        if sum != (fields.u32_be(24)?, fields.u32_be(28)?) || own != page {
            return Ok(None);
        }
        let mut log = Self {
            file,
            pages: BTreeMap::new(),
            size: 0,
        };
        let mut uncommitted: Vec<(u32, u64)> = Vec::new();
        let step = FRAME.saturating_add(page);
        let mut at = u64::try_from(HEAD).unwrap_or(u64::MAX);
        let step_bytes = u64::try_from(step).unwrap_or(u64::MAX);
        // Ends because every round goes on by a frame, and the file has an end.
        while at.saturating_add(step_bytes) <= file.size() {
            let frame = exactly(file, at, step, "sqlite write-ahead log")?;
            let fields = Fields::new(&frame, "sqlite write-ahead log", at);
            if (fields.u32_be(8)?, fields.u32_be(12)?) != salts {
                break;
            }
            sum = checksum(sum, fields.bytes(0, 8)?, words);
            sum = checksum(sum, fields.bytes(FRAME, page)?, words);
            if sum != (fields.u32_be(16)?, fields.u32_be(20)?) {
                break;
            }
            let content = at.saturating_add(u64::try_from(FRAME).unwrap_or(u64::MAX));
            uncommitted.push((fields.u32_be(0)?, content));
            let size = fields.u32_be(4)?;
            if size != 0 {
                log.size = size;
                log.pages.extend(uncommitted.drain(..));
            }
            at = at.saturating_add(step_bytes);
        }
        Ok((log.size != 0).then_some(log))
    }

    /// How many pages the database has.
    pub(super) const fn pages(&self) -> u32 {
        self.size
    }

    /// The file and place of page `number`, when the log has it.
    pub(super) fn find(&self, number: u32) -> Option<(&'a dyn Bytes, u64)> {
        self.pages.get(&number).map(|at| (self.file, *at))
    }
}

/// Section 4.2, "Checksum algorithm".
fn checksum(start: (u32, u32), bytes: &[u8], words: fn([u8; 4]) -> u32) -> (u32, u32) {
    let (pairs, _) = bytes.as_chunks::<8>();
    pairs.iter().fold(start, |(first, second), pair| {
        let [a, b, c, d, e, f, g, h] = *pair;
        let first = first.wrapping_add(words([a, b, c, d])).wrapping_add(second);
        let second = second.wrapping_add(words([e, f, g, h])).wrapping_add(first);
        (first, second)
    })
}
