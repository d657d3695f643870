//! Records appended to the log: one with a whole transaction, one that says "unmounted".
//!
//! The reverse of `ring` and `transaction`. A change is logged as buffers: of each the 128-byte chunks
//! that differ from the disk. That is what Linux logs for everything but inodes, and its recovery
//! takes inodes in this form too (it does so for fresh chunks of them).

use rehost_block::{Error, Result};

use super::super::superblock::Superblock;
use super::ring::{BB, LITTLE_ENDIAN, MAGIC, PER_HEADER, Position, UNMOUNT};
use super::transaction::{self, CLIENT_LOG, CLIENT_TRANSACTION, flag, kind};
use crate::number::{div, index, length, rem, wide};

/// Bytes that one bit of a buffer's map stands for.
const CHUNK: usize = 128;
/// Header blocks of the smaller and of the larger records that are written.
const HEADERS: [u32; 2] = [1, 8];
/// `th_type` of a checkpoint (`XFS_TRANS_CHECKPOINT`).
const CHECKPOINT: u32 = 40;
/// `XLOG_UNMOUNT_TYPE`.
const UNMOUNT_TYPE: u16 = 0x556e;
/// The number of our transactions: there is only one in a record.
const NUMBER: u32 = 0x7265_686f;

/// A buffer that changes.
#[derive(Debug)]
pub(in super::super) struct Changed {
    /// Byte offset on the disk.
    pub(in super::super) offset: u64,
    /// `XFS_BLFT_*`, which tells the recovery how to check it.
    pub(in super::super) kind: u16,
    pub(in super::super) old: Vec<u8>,
    pub(in super::super) new: Vec<u8>,
}

/// Bytes to be written, in order, and where the log goes on after them.
#[derive(Debug)]
pub(in super::super) struct Appended {
    pub(in super::super) writes: Vec<(u64, Vec<u8>)>,
    pub(in super::super) next: Position,
}

/// Operations of one record.
#[derive(Debug, Default)]
struct Operations {
    body: Vec<u8>,
    count: u32,
}

impl Operations {
    fn push(&mut self, client: u8, flags: u8, region: &[u8]) -> Result<()> {
        let len = u32::try_from(region.len())
            .map_err(|_| Error::internal("a region of the log exceeds 4 GiB"))?;
        self.body.extend(NUMBER.to_be_bytes());
        self.body.extend(len.to_be_bytes());
        self.body.extend([client, flags, 0, 0]);
        self.body.extend(region);
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

/// The sequence number of what is written at `position`.
pub(in super::super) fn lsn(position: Position) -> u64 {
    (u64::from(position.cycle) << 32) | position.head
}

/// A record with one committed transaction, of these buffers.
pub(in super::super) fn transaction(
    sb: &Superblock,
    position: Position,
    buffers: &[Changed],
) -> Result<Appended> {
    let mut items = Vec::new();
    for buffer in buffers {
        items.extend(item(buffer)?);
    }
    let mut ops = Operations::default();
    ops.push(CLIENT_TRANSACTION, flag::START, &[])?;
    let count = u32::try_from(buffers.len()).unwrap_or(u32::MAX);
    let header: Vec<u8> = [transaction::MAGIC, CHECKPOINT, NUMBER, count]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    ops.push(CLIENT_TRANSACTION, 0, &header)?;
    for region in &items {
        ops.push(CLIENT_TRANSACTION, 0, region)?;
    }
    ops.push(CLIENT_TRANSACTION, flag::COMMIT, &[])?;
    record(sb, position, ops)
}

/// The record of a clean unmount.
pub(in super::super) fn unmount(sb: &Superblock, position: Position) -> Result<Appended> {
    let mut region = UNMOUNT_TYPE.to_le_bytes().to_vec();
    region.resize(8, 0);
    let mut ops = Operations::default();
    ops.push(CLIENT_LOG, UNMOUNT, &region)?;
    record(sb, position, ops)
}

/// The regions of a buffer's item; none when nothing differs.
fn item(buffer: &Changed) -> Result<Vec<Vec<u8>>> {
    let chunks = buffer.old.chunks(CHUNK).zip(buffer.new.chunks(CHUNK));
    let mut map = Vec::new();
    let mut regions: Vec<Vec<u8>> = Vec::new();
    let mut before = false;
    for (nth, (old, new)) in chunks.enumerate() {
        if nth % 8 == 0 {
            map.push(0u8);
        }
        let differs = old != new;
        if differs {
            if let Some(byte) = map.last_mut() {
                *byte |= 1u8
                    .checked_shl(u32::try_from(nth % 8).unwrap_or(0))
                    .unwrap_or(0);
            }
            match regions.last_mut() {
                Some(run) if before => run.extend(new),
                _ => regions.push(new.to_vec()),
            }
        }
        before = differs;
    }
    if regions.is_empty() {
        return Ok(Vec::new());
    }
    let narrow = |value: usize| {
        u16::try_from(value).map_err(|_| Error::internal("a logged buffer is too large"))
    };
    // The map is one of 32-bit words.
    map.resize(map.len().next_multiple_of(4), 0);
    let mut format = Vec::with_capacity(map.len().saturating_add(20));
    format.extend(kind::BUFFER.to_le_bytes());
    format.extend(narrow(regions.len().saturating_add(1))?.to_le_bytes());
    format.extend((buffer.kind << 11).to_le_bytes());
    format.extend(narrow(buffer.new.len() / 512)?.to_le_bytes());
    format.extend(div(buffer.offset, BB).to_le_bytes());
    let words = u32::try_from(map.len() / 4).unwrap_or(u32::MAX);
    format.extend(words.to_le_bytes());
    format.extend(map);
    regions.insert(0, format);
    Ok(regions)
}

/// A record of these operations, cut into blocks that begin with their cycle.
fn record(sb: &Superblock, position: Position, ops: Operations) -> Result<Appended> {
    let unit = index(sb.features.log_unit);
    let version = if sb.features.log_v2 { 2u32 } else { 1 };
    let sizes = if sb.features.log_v2 {
        &HEADERS[..]
    } else {
        HEADERS.get(..1).unwrap_or_default()
    };
    let fitting = sizes.iter().find_map(|headers| {
        let head = index(*headers).saturating_mul(512);
        let whole = head
            .saturating_add(ops.body.len())
            .next_multiple_of(unit.max(1));
        let len = whole.saturating_sub(head);
        let most = headers.saturating_mul(PER_HEADER);
        (len <= index(most)).then_some((*headers, len, most))
    });
    let Some((headers, len, most)) = fitting else {
        return Err(
            Error::unsupported("change is larger than one record of the log")
                .hint("make it in smaller steps"),
        );
    };
    let size = u64::from(sb.log_blocks).saturating_mul(sb.block_size.into());
    let blocks = div(size, BB);
    let mut body = ops.body;
    body.resize(len, 0);
    let head_blocks = u64::from(headers);
    let cycle_of = |nth: u64| {
        if position.head.saturating_add(nth) >= blocks {
            position.cycle.saturating_add(1)
        } else {
            position.cycle
        }
    };
    let mut raw = vec![0; index(headers).saturating_mul(512)];
    let own = lsn(position).to_be_bytes();
    let fields: [(usize, &[u8]); 10] = [
        (0, &MAGIC.to_be_bytes()),
        (4, &position.cycle.to_be_bytes()),
        (8, &version.to_be_bytes()),
        (12, &u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()),
        (16, &own),
        (24, &own),
        (36, &u32::MAX.to_be_bytes()),
        (40, &ops.count.to_be_bytes()),
        (300, &LITTLE_ENDIAN.to_be_bytes()),
        (320, &most.to_be_bytes()),
    ];
    for (at, bytes) in fields {
        put(&mut raw, at, bytes)?;
    }
    put(&mut raw, 304, &sb.uuid)?;
    for nth in 1..head_blocks {
        put(
            &mut raw,
            length(nth.saturating_mul(BB))?,
            &cycle_of(nth).to_be_bytes(),
        )?;
    }
    for (block, nth) in body.chunks_mut(512).zip(0u64..) {
        let slot = rem(nth, 64).saturating_mul(4);
        let at = match div(nth, 64) {
            0 => 44u64.saturating_add(slot),
            header => header
                .saturating_mul(BB)
                .saturating_add(4)
                .saturating_add(slot),
        };
        let word = block.get(..4).unwrap_or_default();
        put(&mut raw, length(at)?, word)?;
        put(
            block,
            0,
            &cycle_of(head_blocks.saturating_add(nth)).to_be_bytes(),
        )?;
    }
    let sum = checksum(&raw, &body);
    put(&mut raw, 32, &sum.to_le_bytes())?;
    raw.extend(body);
    let count = div(wide(raw.len()), BB);
    if count.saturating_mul(2) > blocks {
        return Err(Error::unsupported("change is larger than half of the log"));
    }
    let base = sb.log_start.saturating_mul(sb.block_size.into());
    let place = base.saturating_add(position.head.saturating_mul(BB));
    let until_end = blocks.saturating_sub(position.head).min(count);
    let rest = raw.split_off(length(until_end.saturating_mul(BB))?);
    let mut writes = vec![(place, raw)];
    if !rest.is_empty() {
        writes.push((base, rest));
    }
    let end = position.head.saturating_add(count);
    let next = Position {
        head: rem(end, blocks),
        cycle: cycle_of(count),
    };
    Ok(Appended { writes, next })
}

/// The checksum of a record: header (its own field as zero), the further headers that the content
/// needs, content.
fn checksum(headers: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(headers.get(..328).unwrap_or_default());
    let needed = body.len().div_ceil(index(PER_HEADER)).saturating_sub(1);
    for block in headers.chunks(512).skip(1).take(needed) {
        sum = crc32c::crc32c_append(sum, block.get(..260).unwrap_or_default());
    }
    crc32c::crc32c_append(sum, body)
}

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    at.checked_add(bytes.len())
        .and_then(|end| raw.get_mut(at..end))
        .ok_or_else(|| Error::internal("a field exceeds its record of the log"))?
        .copy_from_slice(bytes);
    Ok(())
}
