//! The log: its transactions, and what is left of them after revocation.
//!
//! One pass collects every committed transaction; what a later or the same transaction revokes is
//! then dropped. The loop over the log ends because it may not come back to where it began.

use std::collections::BTreeMap;

use rehost_block::{Error, Fields, Result};

use super::super::checksum::{crc32_be, crc32c};
use super::super::superblock::checksum_error;
use super::Place;
use super::header::{Checksums, JournalHeader, MAGIC};
use crate::number::join;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const DELETED: u32 = 4;
const LAST: u32 = 8;

/// A block's new content, in the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    /// Block of the journal.
    at: u32,
    /// Whether its first four bytes were the journal's magic.
    escaped: bool,
    sequence: u32,
}

/// A tag of a descriptor block.
#[derive(Debug, Clone, Copy)]
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
}

/// What one transaction has so far.
#[derive(Default)]
struct Transaction {
    copies: Vec<(u64, Copy)>,
    revoked: Vec<u64>,
    /// Checksums that did not match: fatal if the transaction turns out to be committed.
    broken: Option<Error>,
    /// Running version 1 checksum.
    sum: u32,
}

/// All committed transactions.
#[derive(Debug)]
pub(super) struct Log {
    newest: BTreeMap<u64, Copy>,
    revoked: BTreeMap<u64, u32>,
    /// Sequence number of the first transaction that is not there.
    pub(super) end: u32,
}

/// Whether sequence `a` comes after `b`; numbers wrap.
fn after(a: u32, b: u32) -> bool {
    let distance = a.wrapping_sub(b);
    distance != 0 && distance < 0x8000_0000
}

/// The place in the ring.
struct Walk<'a> {
    header: &'a JournalHeader,
    place: &'a Place,
    at: u32,
    left: u32,
}

impl Walk<'_> {
    /// The next block's number in the journal; moves on.
    fn next(&mut self) -> Result<u32> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Error::corrupt("log runs into its own beginning").in_structure("journal")
        })?;
        let here = self.at;
        self.at = self.at.saturating_add(1);
        if self.at >= self.header.end {
            self.at = self.header.first;
        }
        Ok(here)
    }
}

impl Log {
    /// Reads the log from its start to the first transaction that was not committed.
    pub(super) fn scan(header: &JournalHeader, place: &Place) -> Result<Self> {
        let mut log = Self {
            newest: BTreeMap::new(),
            revoked: BTreeMap::new(),
            end: header.sequence,
        };
        let mut walk = Walk {
            header,
            place,
            at: header.start,
            left: header.end.saturating_sub(header.first),
        };
        let mut open = Transaction::fresh();
        let mut last_commit_time = 0;
        // Ends because `walk` gives every block of the ring once.
        loop {
            if walk.left == 0 {
                break;
            }
            let here = walk.next()?;
            let bytes = place.read(here)?;
            let f = Fields::new(&bytes, "journal", place.offset(here)?);
            if f.u32_be(0)? != MAGIC || f.u32_be(8)? != log.end {
                break;
            }
            match f.u32_be(4)? {
                DESCRIPTOR => open.descriptor(&f, &bytes, &mut walk, log.end)?,
                REVOKE => open.revoke(&f, &bytes, header)?,
                COMMIT => {
                    let time = f.u64_be(0x30)?;
                    let wrong = open.commit_error(&f, &bytes, header).or(open.broken.take());
                    if let Some(error) = wrong {
                        // A block of an older life of the journal can carry the right number;
                        // its commit is not newer than the one before. With asynchronous commits
                        // a commit block may be on disk before what it commits.
                        if header.async_commit || last_commit_time != 0 && time < last_commit_time {
                            break;
                        }
                        return Err(error
                            .hint("the journal is damaged: run e2fsck on a copy of the original"));
                    }
                    last_commit_time = time;
                    log.take(std::mem::replace(&mut open, Transaction::fresh()));
                }
                _ => break,
            }
        }
        log.check_fast(header, place)?;
        let revoked = std::mem::take(&mut log.revoked);
        log.newest.retain(|block, copy| {
            revoked
                .get(block)
                .is_none_or(|at| after(copy.sequence, *at))
        });
        Ok(log)
    }

    fn take(&mut self, done: Transaction) {
        for block in done.revoked {
            self.revoked.insert(block, self.end);
        }
        for (block, copy) in done.copies {
            self.newest.insert(block, copy);
        }
        self.end = self.end.wrapping_add(1);
    }

    /// Refuses a log that is continued in the fast commit area.
    fn check_fast(&self, header: &JournalHeader, place: &Place) -> Result<()> {
        const HEAD: u16 = 9;
        let Some(first) = header.fast else {
            return Ok(());
        };
        let bytes = place.read(first)?;
        let f = Fields::new(&bytes, "fast commit area", place.offset(first)?);
        if f.u16_le(0)? == HEAD && f.u32_le(8)? == self.end {
            return Err(f
                .unsupported(0, "fast commits (fast_commit) cannot be replayed")
                .hint("mount the original once, or run e2fsck on a copy of it"));
        }
        Ok(())
    }

    /// Blocks to write and where their content is, in order of blocks.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, Copy)> {
        self.newest.iter().map(|(block, copy)| (*block, *copy))
    }

    /// The content of one block.
    pub(super) fn content(&self, copy: Copy, place: &Place) -> Result<Vec<u8>> {
        let mut bytes = place.read(copy.at)?;
        if copy.escaped
            && let Some(head) = bytes.first_chunk_mut::<4>()
        {
            *head = MAGIC.to_be_bytes();
        }
        Ok(bytes)
    }
}

impl Transaction {
    fn fresh() -> Self {
        Self {
            sum: !0,
            ..Self::default()
        }
    }

    fn descriptor(
        &mut self,
        f: &Fields<'_>,
        bytes: &[u8],
        walk: &mut Walk<'_>,
        sequence: u32,
    ) -> Result<()> {
        let header = walk.header;
        if let Err(error) = check_tail(f, bytes, header) {
            // Without the tags the length of the transaction is unknown.
            self.broken.get_or_insert(error);
        }
        if header.checksums == Checksums::V1 {
            self.sum = crc32_be(self.sum, bytes);
        }
        for tag in tags(f, header)? {
            if walk.left == 0 && self.broken.is_some() {
                // Not a descriptor, but an old block that looks like one: the log ends here.
                return Ok(());
            }
            if walk.left == 0 {
                return Err(f.corrupt(0, "transaction is longer than the journal"));
            }
            let at = walk.next()?;
            let content = walk.place.read(at)?;
            match header.checksums {
                Checksums::V1 => self.sum = crc32_be(self.sum, &content),
                Checksums::V2 | Checksums::V3 => {
                    let crc = crc32c(header.seed, &sequence.to_be_bytes());
                    let mut computed = crc32c(crc, &content);
                    if header.checksums == Checksums::V2 {
                        computed &= 0xffff;
                    }
                    if computed != tag.checksum {
                        let offset = walk.place.offset(at)?;
                        let f = Fields::new(&content, "journal", offset);
                        let error = checksum_error(&f, 0, computed, tag.checksum);
                        self.broken.get_or_insert(error);
                    }
                }
                Checksums::None => {}
            }
            if tag.flags & DELETED == 0 {
                let copy = Copy {
                    at,
                    escaped: tag.flags & ESCAPED != 0,
                    sequence,
                };
                self.copies.push((tag.block, copy));
            }
        }
        Ok(())
    }

    fn revoke(&mut self, f: &Fields<'_>, bytes: &[u8], header: &JournalHeader) -> Result<()> {
        if let Err(error) = check_tail(f, bytes, header) {
            self.broken.get_or_insert(error);
            return Ok(());
        }
        let tail = if header.checksums.in_every_block() {
            4
        } else {
            0
        };
        let end = usize::try_from(f.u32_be(12)?).unwrap_or(usize::MAX);
        if end > f.len().saturating_sub(tail) || end < 16 {
            let error = f
                .corrupt(12, "revoke block says that it is longer than a block")
                .mismatch(format!("at most {}", f.len()), end);
            self.broken.get_or_insert(error);
            return Ok(());
        }
        let record = if header.bit64 { 8 } else { 4 };
        let mut at = 16usize;
        // Ends because a block is finite.
        while at.saturating_add(record) <= end {
            self.revoked.push(if header.bit64 {
                f.u64_be(at)?
            } else {
                u64::from(f.u32_be(at)?)
            });
            at = at.saturating_add(record);
        }
        Ok(())
    }

    /// What is wrong with a commit block, if anything.
    fn commit_error(&self, f: &Fields<'_>, bytes: &[u8], header: &JournalHeader) -> Option<Error> {
        let stored = f.u32_be(0x10).ok()?;
        match header.checksums {
            Checksums::None => None,
            Checksums::V1 => {
                let (kind, size) = (f.u8(0xc).ok()?, f.u8(0xd).ok()?);
                let none = kind == 0 && size == 0 && stored == 0;
                let right = kind == 1 && size == 4 && stored == self.sum;
                (!none && !right).then(|| checksum_error(f, 0x10, self.sum, stored))
            }
            Checksums::V2 | Checksums::V3 => {
                let crc = crc32c(header.seed, bytes.get(..0x10).unwrap_or_default());
                let crc = crc32c(crc, &[0; 4]);
                let computed = crc32c(crc, bytes.get(0x14..).unwrap_or_default());
                (computed != stored).then(|| checksum_error(f, 0x10, computed, stored))
            }
        }
    }
}

/// Checks the checksum at the end of a descriptor or revoke block.
fn check_tail(f: &Fields<'_>, bytes: &[u8], header: &JournalHeader) -> Result<()> {
    if !header.checksums.in_every_block() {
        return Ok(());
    }
    let tail = f.len().saturating_sub(4);
    let crc = crc32c(header.seed, bytes.get(..tail).unwrap_or_default());
    let computed = crc32c(crc, &[0; 4]);
    let stored = f.u32_be(tail)?;
    if computed == stored {
        Ok(())
    } else {
        Err(checksum_error(f, tail, computed, stored))
    }
}

/// The tags of a descriptor block.
fn tags(f: &Fields<'_>, header: &JournalHeader) -> Result<Vec<Tag>> {
    // The odd 10 and 14 bytes of version 2 are what Linux writes (`journal_tag_bytes`).
    let len = match (header.checksums, header.bit64) {
        (Checksums::V3, _) => 16,
        (Checksums::V2, true) => 14,
        (Checksums::V2, false) => 10,
        (_, true) => 12,
        (_, false) => 8,
    };
    let tail = if header.checksums.in_every_block() {
        4
    } else {
        0
    };
    let end = f.len().saturating_sub(tail);
    let mut found = Vec::new();
    let mut at = 12usize;
    // Ends because every tag is at least 8 bytes long and the block is finite.
    while at.saturating_add(len) <= end {
        let lo = f.u32_be(at)?;
        let v3 = header.checksums == Checksums::V3;
        let flags = if v3 {
            f.u32_be(at.saturating_add(4))?
        } else {
            u32::from(f.u16_be(at.saturating_add(6))?)
        };
        let hi = if header.bit64 {
            f.u32_be(at.saturating_add(8))?
        } else {
            0
        };
        let checksum = if v3 {
            f.u32_be(at.saturating_add(12))?
        } else {
            u32::from(f.u16_be(at.saturating_add(4))?)
        };
        found.push(Tag {
            block: join(lo, hi),
            flags,
            checksum,
        });
        at = at.saturating_add(len);
        if flags & SAME_UUID == 0 {
            at = at.saturating_add(16);
        }
        if flags & LAST != 0 {
            break;
        }
    }
    Ok(found)
}
