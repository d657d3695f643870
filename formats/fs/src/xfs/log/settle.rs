//! Replay of a log onto the disk itself, so that the filesystem can be written.
//!
//! Everything is made in memory first: what the log changes is sealed again (a log has no checksums of
//! whole structures), and the superblock's counters, which are not logged one by one, are counted anew.
//! Then it is written, and the log marked as that of an unmounted filesystem. Interrupted before
//! that, the log is still there to be replayed.
//!
//! Refused by name: intents of any kind that are not finished, quotas, and files that were deleted while
//! they were open; finishing those takes the kernel's own transactions.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Fields, Result};

use super::super::check;
use super::super::superblock::Superblock;
use super::append;
use super::apply::{QUOTAS, Replay};
use super::ring::{BB, LITTLE_ENDIAN, MAGIC, Position, Ring};
use super::transaction::{Item, kind};
use super::{check_intents, replayed, unsupported};
use crate::number::{length, wide};

/// Buckets of a group's list of unlinked inodes.
const BUCKETS: usize = 64;

/// Makes the log of `sb` empty; where it goes on, and whether anything was replayed onto `disk`.
pub(in super::super) fn settle(
    sb: &Superblock,
    disk: &Arc<dyn DiskMut>,
) -> Result<(Position, bool)> {
    let readable: Arc<dyn Disk> = disk.clone();
    let survey = Ring::new(sb, &readable).survey()?;
    let Some(records) = survey.live else {
        return Ok((survey.position, false));
    };
    if !sb.v5 {
        return Err(unsupported(
            "is not clean, on a version 4 filesystem that is to be written".to_owned(),
        ));
    }
    let mut replay = replayed(sb, &readable, &records, check_all)?;
    drop(records);
    let last = append::lsn(survey.position);
    seal(&mut replay)?;
    check_unlinked(&replay)?;
    count(&mut replay, last)?;
    let end = append::unmount(sb, survey.position)?;
    let (view, sectors) = replay.finish();
    if let Some(torn) = survey.torn {
        clear(sb, &**disk, survey.position, torn)?;
    }
    let mut sectors = sectors.into_iter().peekable();
    // Ends because every round takes at least one sector.
    while let Some(first) = sectors.next() {
        let mut len = 1u64;
        // Ends because sectors are in order, and each is taken once.
        while sectors.next_if_eq(&first.saturating_add(len)).is_some() {
            len = len.saturating_add(1);
        }
        let mut raw = vec![0; length(len.saturating_mul(BB))?];
        let offset = first.saturating_mul(BB);
        view.read_at(&mut raw, offset)?;
        disk.write_at(&raw, offset)?;
    }
    disk.sync()?;
    for (offset, bytes) in &end.writes {
        disk.write_at(bytes, *offset)?;
    }
    disk.sync()?;
    Ok((end.next, true))
}

/// Fails when the log holds what this program does not finish.
fn check_all(items: &[Vec<Item<'_>>]) -> Result<()> {
    check_intents(items, kind::NOTICED)?;
    check_intents(items, kind::UNFINISHED)?;
    for item in items.iter().flatten() {
        let quota = kind::QUOTAS.contains(&item.kind)
            || (item.kind == kind::BUFFER && item.format()?.u16_le(4)? & QUOTAS != 0);
        if quota {
            return Err(unsupported("changes quotas".to_owned()));
        }
    }
    Ok(())
}

/// Gives everything that changed its sequence number and its checksum.
fn seal(replay: &mut Replay<'_>) -> Result<()> {
    let size = usize::from(replay.sb.inode_size);
    for (offset, (len, lsn)) in std::mem::take(&mut replay.buffers) {
        let mut raw = replay.read(offset, len)?;
        if raw.starts_with(b"IN") {
            // Each inode is sealed on its own; its number is that of the transaction it was in.
            for one in raw.chunks_mut(size) {
                if one.starts_with(b"IN") {
                    put_sum(one, 100)?;
                }
            }
        } else {
            let (at, sum) = places(&raw, offset)?;
            put(&mut raw, at, &lsn.to_be_bytes())?;
            put_sum(&mut raw, sum)?;
        }
        replay.write(offset, &raw)?;
    }
    for (offset, lsn) in std::mem::take(&mut replay.inodes) {
        let mut raw = replay.read(offset, size)?;
        if raw.starts_with(b"IN") {
            if lsn != 0 {
                put(&mut raw, 112, &lsn.to_be_bytes())?;
            }
            put_sum(&mut raw, 100)?;
            replay.write(offset, &raw)?;
        }
    }
    Ok(())
}

/// Where a structure keeps its sequence number and its checksum.
fn places(raw: &[u8], offset: u64) -> Result<(usize, usize)> {
    let f = Fields::new(raw, "metadata block", offset);
    Ok(match (f.bytes(0, 4)?, f.u16_be(8)?) {
        (b"XFSB", _) => (240, 224),
        (b"XAGF", _) => (208, 216),
        (b"XAGI", _) => (320, 312),
        (b"XAFL", _) => (24, 32),
        (b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC", _) => (24, 52),
        (b"BMA3", _) => (32, 64),
        (b"XDB3" | b"XDD3" | b"XDF3", _) => (16, 4),
        (b"XSLM", _) => (48, 12),
        (_, 0x3df1 | 0x3dff | 0x3ebe | 0x3bee) => (24, 12),
        _ => return Err(f.unsupported(0, "log changes a structure that is unknown here")),
    })
}

/// The two headers of a group, read from the replayed disk.
fn header(replay: &Replay<'_>, group: u32, nth: u64) -> Result<(Vec<u8>, u64)> {
    let sector = u64::from(replay.sb.sector_size);
    let start = u64::from(group)
        .saturating_mul(replay.sb.ag_blocks.into())
        .saturating_mul(replay.sb.block_size.into());
    let at = start.saturating_add(sector.saturating_mul(nth));
    Ok((replay.read(at, length(sector)?)?, at))
}

/// Fails when files are left that were deleted while they were open.
fn check_unlinked(replay: &Replay<'_>) -> Result<()> {
    for group in 0..replay.sb.ag_count {
        let (raw, at) = header(replay, group, 2)?;
        let f = Fields::new(&raw, "header of inodes", at);
        for bucket in (40usize..).step_by(4).take(BUCKETS) {
            if f.u32_be(bucket)? != u32::MAX {
                return Err(unsupported(
                    "holds files that were deleted while they were open".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

/// Counts inodes and free blocks from the groups' headers, as Linux does after a recovery.
fn count(replay: &mut Replay<'_>, lsn: u64) -> Result<()> {
    let (mut inodes, mut free_inodes, mut free) = (0u64, 0u64, 0u64);
    for group in 0..replay.sb.ag_count {
        let (raw, at) = header(replay, group, 1)?;
        let f = Fields::new(&raw, "header of free space", at);
        // Free extents, the list of spare blocks, and blocks of the trees of free space.
        for field in [52, 48, 60] {
            free = free.saturating_add(f.u32_be(field)?.into());
        }
        let (raw, at) = header(replay, group, 2)?;
        let f = Fields::new(&raw, "header of inodes", at);
        inodes = inodes.saturating_add(f.u32_be(16)?.into());
        free_inodes = free_inodes.saturating_add(f.u32_be(28)?.into());
    }
    let mut raw = replay.read(0, usize::from(replay.sb.sector_size))?;
    let old = raw.clone();
    for (at, value) in [(128, inodes), (136, free_inodes), (144, free)] {
        put(&mut raw, at, &value.to_be_bytes())?;
    }
    if raw == old {
        return Ok(());
    }
    put(&mut raw, 240, &lsn.to_be_bytes())?;
    put_sum(&mut raw, 224)?;
    replay.write(0, &raw)
}

/// Makes the damaged records from the head up to `torn` ones of the pass before, so that nobody takes
/// them for what follows the head.
fn clear(sb: &Superblock, disk: &dyn DiskMut, position: Position, torn: u64) -> Result<()> {
    let size = u64::from(sb.log_blocks).saturating_mul(sb.block_size.into());
    let blocks = size / BB;
    let base = sb.log_start.saturating_mul(sb.block_size.into());
    let mut at = position.head;
    // Ends because it goes once around the ring at most.
    for _ in 0..blocks {
        if at == torn {
            return Ok(());
        }
        let cycle = if at < position.head {
            position.cycle
        } else {
            position.cycle.saturating_sub(1)
        };
        let own = (u64::from(cycle) << 32) | at;
        let mut raw = vec![0; 512];
        put(&mut raw, 0, &MAGIC.to_be_bytes())?;
        put(&mut raw, 4, &cycle.to_be_bytes())?;
        put(&mut raw, 8, &2u32.to_be_bytes())?;
        put(&mut raw, 16, &own.to_be_bytes())?;
        put(&mut raw, 24, &own.to_be_bytes())?;
        put(&mut raw, 300, &LITTLE_ENDIAN.to_be_bytes())?;
        put(&mut raw, 304, &sb.uuid)?;
        disk.write_at(&raw, base.saturating_add(at.saturating_mul(BB)))?;
        at = at.saturating_add(1);
        if at >= blocks {
            at = 0;
        }
    }
    Ok(())
}

fn put_sum(raw: &mut [u8], at: usize) -> Result<()> {
    let sum = check::sum(raw, at);
    put(raw, at, &sum.to_le_bytes())
}

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    at.checked_add(bytes.len())
        .and_then(|end| raw.get_mut(at..end))
        .ok_or_else(|| {
            Error::internal(format!(
                "a field at byte {at} exceeds a structure of {} bytes",
                wide(bytes.len())
            ))
        })?
        .copy_from_slice(bytes);
    Ok(())
}
