//! What a Btrfs does not use: its device less its block groups, and these less their extents.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `BLOCK_GROUP_ITEM`, `EXTENT_ITEM`. Superblocks, and the first MiB, which is the boot
//! loader's, are kept. Blocks of the commits before the last, which a rescue could use, are not.
//!
//! Left out on purpose, and refused by name: filesystems on several devices, with a log to replay, without metadata or
//! content (`btrfs-image`).

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Fields, Result};

use super::Btrfs;
use super::chunk::Chunk;
use super::key::Key;
use super::superblock::{COPIES, flags};
use super::write::space::{gaps, used, whole};
use super::write::{accounts, items};
use crate::number::div;
use crate::unused::{push, subtract};

/// Bytes at the start of a device that are not for block groups (`BTRFS_DEVICE_RANGE_RESERVED`).
const HEAD: u64 = 1 << 20;

/// Bytes kept at a superblock.
const SUPERBLOCK: u64 = 64 << 10;

/// The byte ranges of `disk`, a Btrfs filesystem, that it does not use, in order.
pub(crate) fn unused(disk: Arc<dyn Disk>) -> Result<Vec<Range<u64>>> {
    let size = disk.size();
    let fs = Btrfs::open(disk)?;
    let volume = &*fs.volume;
    let sb = &volume.nodes.sb;
    let f = Fields::new(&sb.raw, "superblock", sb.at);
    if sb.num_devices != 1 || sb.at != COPIES[0] || sb.flags & flags::METADUMP != 0 {
        return Err(f.unsupported(
            0x88,
            "it is on several devices, damaged, or a dump of metadata",
        ));
    }
    if sb.log_root.is_some() {
        return Err(f
            .unsupported(0x60, "its log holds changes")
            .hint("mount and unmount it once"));
    }
    let accounts = accounts(volume)?;
    let mut taken = Vec::new();
    let mut free = Vec::new();
    for chunk in volume.nodes.pool.chunks.iter() {
        let used = used(volume, accounts.extents, chunk)?;
        let sum = used.iter().fold(0u64, |sum, range| {
            sum.saturating_add(range.end.saturating_sub(range.start))
        });
        let key = Key::new(chunk.logical, items::BLOCK_GROUP_ITEM, chunk.len);
        let group = volume
            .tree(accounts.groups.unwrap_or(accounts.extents))
            .get(key)?
            .ok_or_else(|| items::corrupt("a block group has no account"))?;
        let f = group.fields("block group item");
        if f.u64_le(0)? != sum {
            return Err(f
                .corrupt(0, "used bytes of a block group are miscounted")
                .mismatch(sum, f.u64_le(0)?));
        }
        taken.extend(on_device(chunk));
        for range in gaps(whole(chunk), &used) {
            let mut at = range.start;
            // Ends because every piece has at least one byte.
            while at < range.end {
                let piece = volume
                    .nodes
                    .pool
                    .chunks
                    .piece(at, range.end.saturating_sub(at))?;
                let len = piece.len.max(1);
                for place in piece.copies {
                    free.push(place.offset..place.offset.saturating_add(len));
                }
                at = at.saturating_add(len);
            }
        }
    }
    let device = f.u64_le(0xc9 + 8)?.min(size);
    taken.sort_unstable_by_key(|range: &Range<u64>| range.start);
    if taken
        .windows(2)
        .any(|pair| matches!(pair, [one, next] if one.end > next.start))
    {
        return Err(items::corrupt("block groups overlap on the device"));
    }
    free.extend(gaps(HEAD..device.max(HEAD), &taken));
    free.sort_unstable_by_key(|range| range.start);
    let mut ranges = Vec::new();
    for range in free {
        if range.end > size {
            return Err(items::corrupt(
                "a block group lies past the end of the device",
            ));
        }
        push(&mut ranges, range);
    }
    let supers = COPIES.map(|at| at..at.saturating_add(SUPERBLOCK));
    Ok(subtract(ranges, supers.to_vec()))
}

/// The ranges that a chunk has on its device.
fn on_device(chunk: &Chunk) -> impl Iterator<Item = Range<u64>> {
    let len = div(chunk.len, chunk.data_stripes());
    let places = chunk.stripes.iter().map(|(place, _)| place.offset);
    places.map(move |at| at..at.saturating_add(len))
}
