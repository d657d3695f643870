//! The ring of 512-byte blocks that the log is, and the records in it that are still live.
//!
//! Every block begins with the cycle (the pass over the ring) in which it was written, so the head
//! is where the cycle steps back; what a record's blocks began with lies in its headers. The last
//! record before the head names the tail. A crash can tear the last records: as Linux does, a bad
//! one among the last eight cuts the log there, and one further back is an error.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

use super::super::superblock::Superblock;
use super::{NAME, corrupt, unsupported};
use crate::number::{div, halves, index, length, rem, wide};

pub(super) const BB: u64 = 512;
pub(super) const MAGIC: u32 = 0xfeed_babe;
/// Bytes of a record whose first words one header block holds.
pub(super) const PER_HEADER: u32 = 32 << 10;
/// Bytes of a record, at most (`XLOG_MAX_RECORD_BSIZE`).
const MOST_RECORD: u32 = 256 << 10;
/// Blocks of the largest record with its headers.
const MOST_BLOCKS: u64 = 520;
/// Records that can be in flight (`XLOG_MAX_ICLOGS`).
const IN_FLIGHT: u64 = 8;
/// Live log that is held in memory, at most: our limit, an eighth of the largest log.
const MOST_LIVE: u64 = 256 << 20;
/// `h_fmt` of a little-endian Linux.
pub(super) const LITTLE_ENDIAN: u32 = 1;
/// `oh_flags` of the operation that says the filesystem was unmounted.
pub(super) const UNMOUNT: u8 = 0x20;

/// One record, its content as it was before it was cut into stamped blocks.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) lsn: u64,
    /// The block of its header.
    at: u64,
    tail: u64,
    pub(super) operations: u32,
    pub(super) body: Vec<u8>,
    intact: bool,
    little_endian: bool,
    next: u64,
}

impl Record {
    /// The one operation of a clean unmount.
    fn is_unmount(&self) -> bool {
        self.operations == 1 && self.body.get(9).is_some_and(|flags| flags & UNMOUNT != 0)
    }
}

/// The log.
pub(super) struct Ring<'a> {
    sb: &'a Superblock,
    disk: &'a Arc<dyn Disk>,
    /// Its first byte on the disk, and its blocks of 512 bytes.
    base: u64,
    blocks: u64,
}

impl<'a> Ring<'a> {
    pub(super) fn new(sb: &'a Superblock, disk: &'a Arc<dyn Disk>) -> Self {
        let size = u64::from(sb.block_size);
        Self {
            sb,
            disk,
            base: sb.log_start.saturating_mul(size),
            blocks: div(u64::from(sb.log_blocks).saturating_mul(size), BB),
        }
    }

    /// What the log holds, and where it goes on.
    pub(super) fn survey(&self) -> Result<Survey> {
        if self.blocks < MOST_BLOCKS {
            return Err(corrupt("is smaller than a record")
                .mismatch(format!("at least {MOST_BLOCKS} blocks"), self.blocks));
        }
        let Some(mut head) = self.head()? else {
            // As if a record had ended just before the ring's first block.
            return Ok(Survey {
                live: None,
                position: Position { head: 0, cycle: 1 },
                torn: None,
            });
        };
        let found = head;
        // Each cut takes the tail from another record, so the walk starts again.
        for _ in 0..=IN_FLIGHT {
            let last = self.last_before(head)?;
            let survey = |live| Survey {
                live,
                position: self.after(&last, head),
                torn: (head != found).then_some(found),
            };
            if last.is_unmount() && last.next == head && last.intact {
                return Ok(survey(None));
            }
            match self.walk(last.tail, head)? {
                Walk::Whole(records) => return Ok(survey(Some(records))),
                Walk::Torn(at) if at != head => head = at,
                Walk::Torn(_) => break,
            }
        }
        Err(corrupt("has no intact record before its head"))
    }

    /// The place `head` with the cycle that is written there after `last`.
    fn after(&self, last: &Record, head: u64) -> Position {
        let (_, cycle) = halves(last.lsn);
        let cycle = if head > last.at {
            cycle
        } else {
            cycle.saturating_add(1)
        };
        Position { head, cycle }
    }

    /// Block number `at` of the ring, for `at` below twice its length.
    fn wrap(&self, at: u64) -> u64 {
        rem(at, self.blocks)
    }

    /// Blocks from `from` on to `to`.
    fn distance(&self, from: u64, to: u64) -> u64 {
        self.wrap(to.saturating_add(self.blocks).saturating_sub(from))
    }

    fn offset(&self, block: u64) -> u64 {
        self.base.saturating_add(block.saturating_mul(BB))
    }

    /// `count` blocks from `from` on, around the end of the ring.
    fn read(&self, from: u64, count: u64) -> Result<Vec<u8>> {
        let mut raw = vec![0; length(count.saturating_mul(BB))?];
        let until_end = self.blocks.saturating_sub(from).min(count);
        let (first, rest) = raw.split_at_mut(length(until_end.saturating_mul(BB))?);
        self.disk.read_at(first, self.offset(from))?;
        if !rest.is_empty() {
            self.disk.read_at(rest, self.base)?;
        }
        Ok(raw)
    }

    /// The cycles of `count` blocks from `from` on.
    fn cycles(&self, from: u64, count: u64) -> Result<Vec<u32>> {
        let raw = self.read(from, count)?;
        let f = Fields::new(&raw, NAME, self.offset(from));
        (0..raw.len())
            .step_by(512)
            .map(|at| match f.u32_be(at)? {
                // A header keeps its cycle behind its magic.
                MAGIC => f.u32_be(at.saturating_add(4)),
                cycle => Ok(cycle),
            })
            .collect()
    }

    fn cycle(&self, block: u64) -> Result<u32> {
        Ok(self.cycles(block, 1)?.first().copied().unwrap_or(0))
    }

    /// The block that would be written next; `None` for a log that was never written.
    fn head(&self) -> Result<Option<u64>> {
        let last = self.blocks.saturating_sub(1);
        let (new, old) = (self.cycle(0)?, self.cycle(last)?);
        if new == 0 {
            return Ok(None);
        }
        if old != 0 && old != new && old.checked_add(1) != Some(new) {
            return Err(corrupt("has cycles that do not follow each other")
                .mismatch(format!("{new} or one less"), old));
        }
        let mut head = if old == new {
            self.blocks
        } else {
            let (mut written, mut next) = (0, last);
            // Ends because the distance is halved in every round.
            while next.saturating_sub(written) > 1 {
                let middle = written.midpoint(next);
                if self.cycle(middle)? == old {
                    next = middle;
                } else {
                    written = middle;
                }
            }
            next
        };
        // Records in flight are written in any order, so that there may be holes before the head.
        let window = IN_FLIGHT.saturating_mul(BB).min(self.blocks);
        let stale = new.saturating_sub(1);
        let from_start = window.min(head);
        let before_end = window.saturating_sub(from_start);
        let start = head.saturating_sub(from_start);
        let hole = |from: u64, count: u64, cycle: u32| -> Result<Option<u64>> {
            let cycles = self.cycles(from, count)?;
            let found = cycles.iter().position(|one| *one == cycle);
            Ok(found.map(|nth| from.saturating_add(wide(nth))))
        };
        if let Some(found) = hole(start, from_start, if old == 0 { 0 } else { stale })? {
            head = found;
        }
        // The end of the ring, one pass older, can have holes of the pass before that.
        if before_end > 0 && old != 0 && old != new {
            let from = self.blocks.saturating_sub(before_end);
            if let Some(found) = hole(from, before_end, old.saturating_sub(1))? {
                head = found;
            }
        }
        Ok(Some(self.wrap(head)))
    }

    /// The last record whose header lies before `head`.
    fn last_before(&self, head: u64) -> Result<Record> {
        let from = self.wrap(head.saturating_add(self.blocks).saturating_sub(MOST_BLOCKS));
        let raw = self.read(from, MOST_BLOCKS)?;
        for (block, nth) in raw.chunks(512).rev().zip(1u64..) {
            let nth = MOST_BLOCKS.saturating_sub(nth);
            if !block.starts_with(&MAGIC.to_be_bytes()) {
                continue;
            }
            if let Some(record) = self.record(self.wrap(from.saturating_add(nth)))? {
                return Ok(record);
            }
        }
        Err(corrupt("has no record before its head"))
    }

    /// The records from that at `tail` up to `head`.
    fn walk(&self, tail: u64, head: u64) -> Result<Walk> {
        let tail = self.wrap(tail & u64::from(u32::MAX));
        let span = self.distance(tail, head);
        if span.saturating_mul(BB) > MOST_LIVE {
            return Err(unsupported(format!("has more than {MOST_LIVE} live bytes")));
        }
        let mut records = Vec::new();
        let mut torn = None;
        let mut at = tail;
        // Ends because every record moves `at` towards `head`, and none past it.
        while at != head {
            let left = self.distance(at, head);
            let record = self.record(at)?.filter(|record| {
                let len = self.distance(at, record.next);
                len != 0 && len <= left
            });
            let Some(record) = record.filter(|record| record.intact) else {
                torn = Some(at);
                break;
            };
            if !record.little_endian && !record.is_unmount() {
                return Err(unsupported("was written by a big-endian host".to_owned()));
            }
            at = record.next;
            records.push(record);
        }
        match torn {
            None => Ok(Walk::Whole(records)),
            Some(at) if self.distance(at, head) <= IN_FLIGHT.saturating_mul(MOST_BLOCKS) => {
                Ok(Walk::Torn(at))
            }
            Some(at) => Err(corrupt("has a damaged record").at(self.offset(at))),
        }
    }

    /// The record whose header is block `at`; `None` where there is none of this filesystem.
    fn record(&self, at: u64) -> Result<Option<Record>> {
        let raw = self.read(at, 1)?;
        let f = Fields::new(&raw, "log record", self.offset(at));
        let (version, len, size) = (f.u32_be(8)?, f.u32_be(12)?, f.u32_be(320)?);
        let known = matches!(version, 1 | 2) && f.u32_be(0)? == MAGIC;
        let owned = f.array::<16>(304)? == self.sb.uuid;
        if !known || !owned || len == 0 || len > MOST_RECORD || size > MOST_RECORD {
            return Ok(None);
        }
        let headers = if version == 2 {
            u64::from(size.div_ceil(PER_HEADER).max(1))
        } else {
            1
        };
        let blocks = u64::from(len).div_ceil(BB);
        let more = self.read(self.wrap(at.saturating_add(1)), headers.saturating_sub(1))?;
        let body = self.read(self.wrap(at.saturating_add(headers)), blocks)?;
        let intact = !self.sb.v5 || Self::intact(&f, &more, &body, index(len))?;
        let next = self.wrap(at.saturating_add(headers).saturating_add(blocks));
        Ok(Some(Record {
            lsn: f.u64_be(16)?,
            at,
            tail: f.u64_be(24)?,
            operations: f.u32_be(40)?,
            little_endian: f.u32_be(300)? == LITTLE_ENDIAN,
            body: unstamped(&f, &more, body, index(len))?,
            intact,
            next,
        }))
    }

    /// Whether the checksum of a record fits. mkfs writes none.
    fn intact(f: &Fields<'_>, more: &[u8], body: &[u8], len: usize) -> Result<bool> {
        let stored = f.u32_le(32)?;
        let sum_of = |header: usize| -> Result<u32, Error> {
            let mut head = f.bytes(0, header)?.to_vec();
            head.get_mut(32..36).unwrap_or_default().fill(0);
            let mut sum = crc32c::crc32c(&head);
            // Only the header blocks that the content needs are covered.
            let needed = len.div_ceil(index(PER_HEADER)).saturating_sub(1);
            for block in more.chunks(512).take(needed) {
                sum = crc32c::crc32c_append(sum, block.get(..260).unwrap_or_default());
            }
            let body = body.get(..len).unwrap_or_default();
            Ok(crc32c::crc32c_append(sum, body))
        };
        // The header is 4 bytes shorter on hosts that align 64-bit numbers to 4 bytes.
        Ok(stored == 0 || sum_of(328)? == stored || sum_of(324)? == stored)
    }
}

/// Where the log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Position {
    /// The block that is written next.
    pub(in super::super) head: u64,
    /// The pass over the ring in which it is written.
    pub(in super::super) cycle: u32,
}

/// What a log holds.
pub(super) struct Survey {
    /// The records from the tail to the head; `None` when there is nothing to replay.
    pub(super) live: Option<Vec<Record>>,
    pub(super) position: Position,
    /// Where the log ended before damaged records were cut off.
    pub(super) torn: Option<u64>,
}

/// How a walk over the live records went.
enum Walk {
    Whole(Vec<Record>),
    /// A record is missing or damaged at this block, near enough to the head.
    Torn(u64),
}

/// The content of a record, with the words back in place that the cycle replaced.
fn unstamped(f: &Fields<'_>, more: &[u8], mut body: Vec<u8>, len: usize) -> Result<Vec<u8>> {
    let own = f.bytes(44, 256)?;
    let others = more
        .chunks(512)
        .map(|block| block.get(4..260).unwrap_or_default());
    let words = std::iter::once(own)
        .chain(others)
        .flat_map(|part| part.as_chunks::<4>().0);
    let mut stamped = body.len() / 512;
    for (block, word) in body.chunks_mut(512).zip(words) {
        block.get_mut(..4).unwrap_or_default().copy_from_slice(word);
        stamped = stamped.saturating_sub(1);
    }
    if stamped != 0 {
        return Err(f.corrupt(12, "record is longer than its headers cover"));
    }
    body.truncate(len);
    Ok(body)
}
