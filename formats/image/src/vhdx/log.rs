//! The log: finding its active sequence and replaying it in memory.
//!
//! \[MS-VHDX\] §2.3. The log is a ring of entries, each a header, descriptors and sectors of data,
//! under one checksum. A crash leaves torn and old entries; the active sequence is, of those that
//! hold their own tail, the one with the greatest sequence number.

use std::sync::Arc;

use rehost_block::{Error, Fields, Result, Storage};
use uuid::Uuid;

use super::header::Header;
use super::patched::{LOG_SECTOR, Patched};
use super::{amount, checksum, length};

/// The longest log that is read, in bytes. Ours; Hyper-V and QEMU make logs of 1 MiB.
const MAX_LOG: u64 = 64 << 20;

/// Bytes of entries that are looked at, as a multiple of the log's length: real entries overlap
/// none, so that this is a limit for forged ones only. Ours.
const MAX_OVERLAP: u64 = 16;

/// Length of an entry's header and of each descriptor, in bytes.
const ENTRY_HEADER: u64 = 64;
const DESCRIPTOR: u64 = 32;

/// Bytes of a log sector, as a buffer's length.
const SECTOR_LEN: usize = 4096;

const STRUCTURE: &str = "log";

/// The file behind `storage` once the log that `header` names is replayed, and how many entries
/// that took.
///
/// # Errors
/// Corrupt when the log holds no valid sequence, or lies about the file's length.
pub(super) fn replay(storage: Arc<dyn Storage>, header: &Header) -> Result<(Patched, usize)> {
    let mut patched = Patched::new(Arc::clone(&storage));
    if header.log.is_nil() {
        return Ok((patched, 0));
    }
    let fault = |what: &str| {
        Error::corrupt(what)
            .in_structure(STRUCTURE)
            .at(header.log_offset)
    };
    if header.log_len == 0 || header.log_len > MAX_LOG {
        return Err(fault("length of a log in use is out of range")
            .mismatch(format!("1 MiB to {MAX_LOG}"), header.log_len));
    }
    let size = storage.size();
    if header.log_offset.saturating_add(header.log_len) > size {
        return Err(fault("lies past the end of the file").mismatch(
            format!("an end of at most {size}"),
            header.log_offset.saturating_add(header.log_len),
        ));
    }
    let mut bytes = vec![0; length(header.log_len)?];
    storage.read_at(&mut bytes, header.log_offset)?;
    let mut log = Log::new(&bytes, header.log);
    let Some(sequence) = log.active()? else {
        return Err(
            fault("holds changes that the disk needs and no valid entry to replay").hint(
                "the image is damaged: take it from a backup, or copy it again from its origin",
            ),
        );
    };
    if let Some(head) = sequence.last() {
        if size < head.flushed_file_offset {
            return Err(Error::corrupt("file ends before what its log relies on")
                .in_structure(STRUCTURE)
                .at(size)
                .mismatch(format!("at least {} bytes", head.flushed_file_offset), size)
                .hint("the file is truncated: copy it again from its origin"));
        }
        patched.grow(head.last_file_offset);
    }
    for entry in &sequence {
        let bytes = log.bytes(entry.at, entry.len);
        let changes = changes(&bytes, entry.sequence)
            .ok_or_else(|| Error::internal("a checked log entry cannot be read again"))?;
        for change in changes {
            match change {
                Change::Zero { at, len } => patched.zero(at, at.saturating_add(len)),
                Change::Sector { at, bytes } => patched.write(at, bytes),
            }
        }
    }
    Ok((patched, sequence.len()))
}

/// One entry, checked. Offsets are in the log, in bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    flushed_file_offset: u64,
    last_file_offset: u64,
}

/// What one descriptor changes in the file.
#[derive(Debug)]
enum Change {
    Zero { at: u64, len: u64 },
    Sector { at: u64, bytes: Vec<u8> },
}

/// The bytes of a log in use.
struct Log<'a> {
    bytes: &'a [u8],
    guid: Uuid,
    /// By log sector: what was found there, once it was looked at.
    entries: Vec<Option<Option<Entry>>>,
    looked_at: u64,
}

impl<'a> Log<'a> {
    fn new(bytes: &'a [u8], guid: Uuid) -> Self {
        Self {
            entries: vec![None; bytes.len().div_ceil(SECTOR_LEN)],
            bytes,
            guid,
            looked_at: 0,
        }
    }

    fn len(&self) -> u64 {
        amount(self.bytes.len())
    }

    /// The active sequence from its tail to its head (§2.3.2).
    fn active(&mut self) -> Result<Option<Vec<Entry>>> {
        let mut best: Option<Vec<Entry>> = None;
        let mut tail = 0;
        // Ends because `tail` grows every round: a sequence has at least one sector.
        while tail < self.len() {
            let mut run = self.run_from(tail)?;
            let first = run
                .last()
                .and_then(|head| run.iter().position(|entry| entry.at == head.tail));
            let end = run.last().map(|head| head.sequence);
            let (Some(first), Some(sequence)) = (first, end) else {
                tail = tail.saturating_add(LOG_SECTOR);
                continue;
            };
            let len = run
                .iter()
                .map(|entry| entry.len)
                .fold(0, u64::saturating_add);
            tail = tail.saturating_add(len);
            let known = best.as_ref().and_then(|best| best.last());
            if known.is_none_or(|head| head.sequence < sequence) {
                run.drain(..first);
                best = Some(run);
            }
        }
        Ok(best)
    }

    /// The entries that follow each other from `tail`, with consecutive sequence numbers.
    fn run_from(&mut self, tail: u64) -> Result<Vec<Entry>> {
        let mut run: Vec<Entry> = Vec::new();
        let mut taken = 0u64;
        // Ends because every entry takes room and all of them together have no more than the log.
        while taken < self.len() {
            let at = tail
                .saturating_add(taken)
                .checked_rem(self.len())
                .unwrap_or(0);
            let Some(entry) = self.entry(at)? else {
                break;
            };
            let follows = run
                .last()
                .is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            taken = taken.saturating_add(entry.len);
            if !follows || taken > self.len() {
                break;
            }
            run.push(entry);
        }
        Ok(run)
    }

    /// The valid entry at `at`, a multiple of the sector.
    fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        let slot = length(at / LOG_SECTOR)?;
        if let Some(Some(known)) = self.entries.get(slot) {
            return Ok(*known);
        }
        let found = self.parse(at)?;
        if let Some(slot) = self.entries.get_mut(slot) {
            *slot = Some(found);
        }
        Ok(found)
    }

    fn parse(&mut self, at: u64) -> Result<Option<Entry>> {
        let header = self.bytes(at, ENTRY_HEADER);
        if !header.starts_with(b"loge") {
            return Ok(None);
        }
        let fields = Fields::new(&header, "log entry", at);
        let entry = Entry {
            at,
            len: u64::from(fields.u32_le(8)?),
            tail: u64::from(fields.u32_le(12)?),
            sequence: fields.u64_le(16)?,
            flushed_file_offset: fields.u64_le(48)?,
            last_file_offset: fields.u64_le(56)?,
        };
        let guid = Uuid::from_bytes_le(fields.array(32)?);
        let placed = entry.len >= LOG_SECTOR
            && entry.len.is_multiple_of(LOG_SECTOR)
            && entry.len <= self.len()
            && entry.tail.is_multiple_of(LOG_SECTOR)
            && entry.tail < self.len();
        if guid != self.guid || entry.sequence == 0 || !placed {
            return Ok(None);
        }
        self.looked_at = self.looked_at.saturating_add(entry.len);
        if self.looked_at > self.len().saturating_mul(MAX_OVERLAP) {
            return Err(Error::corrupt("log entries lie over each other")
                .in_structure(STRUCTURE)
                .mismatch(
                    format!("at most {} bytes of them", self.len()),
                    self.looked_at,
                ));
        }
        let bytes = self.bytes(at, entry.len);
        let whole = fields.u32_le(4)? == checksum(&bytes);
        Ok((whole && changes(&bytes, entry.sequence).is_some()).then_some(entry))
    }

    /// `len` bytes from `at`, around the end of the ring.
    fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        let at = usize::try_from(at)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        let (front, back) = self.bytes.split_at(at);
        let len = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        back.iter().chain(front).take(len).copied().collect()
    }
}

/// What the entry changes; nothing when its descriptors or data contradict it, which makes it
/// invalid (§2.3.1).
fn changes(entry: &[u8], sequence: u64) -> Option<Vec<Change>> {
    let fields = Fields::new(entry, "log entry", 0);
    let count = u64::from(fields.u32_le(24).ok()?);
    let head = ENTRY_HEADER.checked_add(count.checked_mul(DESCRIPTOR)?)?;
    let head = usize::try_from(head.next_multiple_of(LOG_SECTOR)).ok()?;
    let descriptors = entry.get(..head)?;
    let mut sectors = entry.get(head..)?.chunks_exact(SECTOR_LEN);
    let (_, descriptors) = descriptors.split_at_checked(64)?;
    descriptors
        .chunks_exact(32)
        .take(usize::try_from(count).ok()?)
        .map(|descriptor| {
            let fields = Fields::new(descriptor, "log descriptor", 0);
            let at = fields.u64_le(16).ok()?;
            if !at.is_multiple_of(LOG_SECTOR) || fields.u64_le(24).ok()? != sequence {
                return None;
            }
            match &fields.array::<4>(0).ok()? {
                b"zero" => {
                    let len = fields.u64_le(8).ok()?;
                    at.checked_add(len)?;
                    (len.is_multiple_of(LOG_SECTOR)).then_some(Change::Zero { at, len })
                }
                b"desc" => {
                    at.checked_add(LOG_SECTOR)?;
                    let bytes = sector(sectors.next()?, sequence, descriptor)?;
                    Some(Change::Sector { at, bytes })
                }
                _ => None,
            }
        })
        .collect()
}

/// The sector that belongs to a data descriptor, with the bytes back in place that the log put
/// there to know torn writes (§2.3.1.4).
fn sector(data: &[u8], sequence: u64, descriptor: &[u8]) -> Option<Vec<u8>> {
    let fields = Fields::new(data, "log data sector", 0);
    let [low @ .., h0, h1, h2, h3] = sequence.to_le_bytes();
    let whole = fields.array::<4>(0).ok()? == *b"data"
        && fields.array::<4>(4).ok()? == [h0, h1, h2, h3]
        && fields.array::<4>(4092).ok()? == low;
    let trailing = descriptor.get(4..8)?;
    let leading = descriptor.get(8..16)?;
    let middle = data.get(8..4092)?;
    whole.then(|| [leading, middle, trailing].concat())
}
