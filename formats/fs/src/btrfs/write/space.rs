//! Free space: block groups, what of them is in use, and what the free space tree says of it.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `BLOCK_GROUP_ITEM`, `EXTENT_ITEM`, `METADATA_ITEM`,
//! `FREE_SPACE_INFO`. Room is looked for in the extent tree, which is never wrong about it; what a transaction
//! frees is not used again in it. Superblocks lie in the middle of block groups and are kept out of the way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rehost_block::{Error, Result, round_up};

use super::super::Volume;
use super::super::bytes::{put32, put64};
use super::super::chunk::{Chunk, Profile};
use super::super::key::Key;
use super::super::names::Edited;
use super::super::superblock::{COPIES, TreeRoot};
use super::items;
use crate::number::{div, rem, wide};

/// Bytes of a stripe, and of what the kernel leaves free around a superblock.
const STRIPE: u64 = 64 << 10;

/// The longest data extent: `BTRFS_MAX_EXTENT_SIZE`.
const MOST_EXTENT: u64 = 128 << 20;

/// A change of what is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) taken: Vec<Range<u64>>,
    pub(super) freed: Vec<Range<u64>>,
}

/// Room that was looked for.
#[derive(Debug)]
pub(super) struct Space<'a> {
    volume: &'a Volume,
    extents: TreeRoot,
    /// Free ranges of the block groups that were looked at, by their start.
    free: BTreeMap<u64, Vec<Range<u64>>>,
}

impl<'a> Space<'a> {
    pub(super) const fn new(volume: &'a Volume, extents: TreeRoot) -> Self {
        Self {
            volume,
            extents,
            free: BTreeMap::new(),
        }
    }

    /// Room for one tree block.
    pub(super) fn block(&mut self) -> Result<u64> {
        let node = u64::from(self.volume.nodes.sb.node);
        let found = self.first(super::super::chunk::usage::METADATA, node, node)?;
        found.ok_or_else(|| full("metadata"))
    }

    /// Room for `len` bytes of data, a multiple of a sector: in as few pieces as there are.
    pub(super) fn data(&mut self, len: u64) -> Result<Vec<Range<u64>>> {
        let sector = u64::from(self.volume.nodes.sb.sector);
        let mut found = Vec::new();
        let mut left = len;
        // Ends because every piece has at least one sector.
        while left > 0 {
            let mut want = left.min(MOST_EXTENT);
            // Ends because what is wanted becomes smaller each time.
            let start = loop {
                let usage = super::super::chunk::usage::DATA;
                match self.first(usage, want, sector)? {
                    Some(start) => break start,
                    None if want <= sector => return Err(full("data")),
                    None => want = round_up(div(want, 2), sector),
                }
            };
            found.push(start..start.saturating_add(want));
            left = left.saturating_sub(want);
        }
        Ok(found)
    }

    /// Takes the first `len` bytes, aligned, of a block group for `usage`.
    fn first(&mut self, usage: u64, len: u64, align: u64) -> Result<Option<u64>> {
        let volume = self.volume;
        for chunk in volume.nodes.pool.chunks.iter() {
            if chunk.usage & usage == 0 || chunk.len < len {
                continue;
            }
            if matches!(chunk.profile, Profile::Parity(_)) {
                continue;
            }
            if !self.free.contains_key(&chunk.logical) {
                let ranges = self.ranges(chunk)?;
                self.free.insert(chunk.logical, ranges);
            }
            let Some(ranges) = self.free.get_mut(&chunk.logical) else {
                continue;
            };
            let fit = ranges.iter().position(|range| {
                round_up(range.start, align)
                    .checked_add(len)
                    .is_some_and(|end| end <= range.end)
            });
            let Some(nth) = fit else { continue };
            let range = ranges.swap_remove(nth);
            let start = round_up(range.start, align);
            let end = start.saturating_add(len);
            for rest in [range.start..start, end..range.end] {
                if !rest.is_empty() {
                    ranges.push(rest);
                }
            }
            ranges.sort_unstable_by_key(|range| range.start);
            return Ok(Some(start));
        }
        Ok(None)
    }

    /// The free ranges of a block group.
    fn ranges(&self, chunk: &Chunk) -> Result<Vec<Range<u64>>> {
        let mut used = used(self.volume, self.extents, chunk)?;
        used.extend(reserved(chunk));
        used.sort_unstable_by_key(|range| range.start);
        Ok(gaps(whole(chunk), &used))
    }
}

/// The logical addresses of a block group.
pub(in super::super) fn whole(chunk: &Chunk) -> Range<u64> {
    chunk.logical..chunk.logical.saturating_add(chunk.len)
}

/// What is in use of a block group, in order.
pub(in super::super) fn used(
    volume: &Volume,
    extents: TreeRoot,
    chunk: &Chunk,
) -> Result<Vec<Range<u64>>> {
    let Range { start, end } = whole(chunk);
    let mut used = Vec::new();
    let last = Key::new(end.saturating_sub(1), u8::MAX, u64::MAX);
    let mut extents = volume.tree(extents).range(Key::new(start, 0, 0), last)?;
    // Ends because a walk through a tree does.
    while let Some(item) = extents.next()? {
        let len = match item.key.kind {
            items::EXTENT_ITEM => item.key.offset,
            items::METADATA_ITEM => u64::from(volume.nodes.sb.node),
            _ => continue,
        };
        used.push(item.key.id..item.key.id.saturating_add(len));
    }
    Ok(used)
}

/// What lies between sorted ranges in `whole`.
pub(in super::super) fn gaps(whole: Range<u64>, used: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = whole.start;
    for range in used {
        if range.start > at {
            found.push(at..range.start.min(whole.end));
        }
        at = at.max(range.end);
    }
    if at < whole.end {
        found.push(at..whole.end);
    }
    found
}

fn full(what: &str) -> Error {
    Error::io(
        format!("no room for {what} in the block groups there are"),
        std::io::Error::from(std::io::ErrorKind::StorageFull),
    )
}

/// Logical ranges of a chunk that lie on superblocks.
fn reserved(chunk: &Chunk) -> Vec<Range<u64>> {
    let wide = chunk.data_stripes();
    let on_device = div(chunk.len, wide);
    let mut found = Vec::new();
    for (place, _) in &chunk.stripes {
        for copy in COPIES {
            let end = place.offset.saturating_add(on_device);
            if copy.saturating_add(STRIPE) <= place.offset || copy >= end {
                continue;
            }
            // Whole rows of stripes.
            let row = div(copy.saturating_sub(place.offset), STRIPE);
            let step = wide.saturating_mul(STRIPE);
            let start = chunk.logical.saturating_add(row.saturating_mul(step));
            found.push(start..start.saturating_add(step.saturating_mul(2)));
        }
    }
    found
}

/// Changes the accounts of all block groups by `delta`; gives by how much more is used.
pub(super) fn account(
    volume: &Volume,
    groups: &mut Edited<'_>,
    delta: &Delta,
) -> Result<(u64, u64)> {
    let (mut taken, mut freed) = (0u64, 0u64);
    for (ranges, sum, is_taken) in [
        (&delta.taken, &mut taken, Sign::Taken),
        (&delta.freed, &mut freed, Sign::Freed),
    ] {
        for range in ranges {
            let chunk = chunk_of(volume, range)?;
            let len = range.end.saturating_sub(range.start);
            *sum = sum.saturating_add(len);
            let key = Key::new(chunk.logical, items::BLOCK_GROUP_ITEM, chunk.len);
            let mut raw = groups
                .bytes(key)?
                .ok_or_else(|| items::corrupt("a block group has no account"))?;
            let used = rehost_block::Fields::new(&raw, "block group item", 0).u64_le(0)?;
            let used = match is_taken {
                Sign::Taken => used.checked_add(len),
                Sign::Freed => used.checked_sub(len),
            };
            let used = used.ok_or_else(|| items::corrupt("a block group's account is wrong"))?;
            put64(&mut raw, 0, used)?;
            groups.set(key, raw)?;
        }
    }
    Ok((taken, freed))
}

#[derive(Debug, Clone, Copy)]
enum Sign {
    Taken,
    Freed,
}

fn chunk_of<'v>(volume: &'v Volume, range: &Range<u64>) -> Result<&'v Chunk> {
    let chunk = volume.nodes.pool.chunks.at(range.start);
    chunk
        .filter(|chunk| range.end <= chunk.logical.saturating_add(chunk.len))
        .ok_or_else(|| items::corrupt("an extent lies in no block group"))
}

/// Changes the free space tree by `delta`.
pub(super) fn free_space(volume: &Volume, tree: &mut Edited<'_>, delta: &Delta) -> Result<()> {
    let mut groups: BTreeMap<u64, Delta> = BTreeMap::new();
    let empty = || Delta {
        taken: Vec::new(),
        freed: Vec::new(),
    };
    for range in &delta.taken {
        let start = chunk_of(volume, range)?.logical;
        let group = groups.entry(start).or_insert_with(empty);
        group.taken.push(range.clone());
    }
    for range in &delta.freed {
        let start = chunk_of(volume, range)?.logical;
        let group = groups.entry(start).or_insert_with(empty);
        group.freed.push(range.clone());
    }
    for (start, delta) in groups {
        let chunk = chunk_of(volume, &(start..start.saturating_add(1)))?;
        let whole = start..start.saturating_add(chunk.len);
        group(volume, tree, whole, &delta)?;
    }
    Ok(())
}

/// One block group of the free space tree.
fn group(volume: &Volume, tree: &mut Edited<'_>, whole: Range<u64>, delta: &Delta) -> Result<()> {
    let len = whole.end.saturating_sub(whole.start);
    let head = Key::new(whole.start, items::FREE_SPACE_INFO, len);
    let mut raw = tree
        .bytes(head)?
        .ok_or_else(|| items::corrupt("the free space tree lacks a block group"))?;
    let sector = u64::from(volume.nodes.sb.sector);
    let mut free: Vec<Range<u64>> = Vec::new();
    let mut bitmaps: Vec<Key> = Vec::new();
    let mut extents: Vec<Key> = Vec::new();
    let last = Key::new(whole.end.saturating_sub(1), u8::MAX, u64::MAX);
    let mut found = tree.tree().range(Key::new(whole.start, 0, 0), last)?;
    // Ends because a walk through a tree does.
    while let Some(item) = found.next()? {
        let key = item.key;
        match key.kind {
            items::FREE_SPACE_EXTENT => {
                extents.push(key);
                free.push(key.id..key.id.saturating_add(key.offset));
            }
            items::FREE_SPACE_BITMAP => {
                bitmaps.push(key);
                for (nth, byte) in item.bytes().iter().enumerate() {
                    for bit in (0..8u8).filter(|bit| byte >> bit & 1 != 0) {
                        let sectors = wide(nth).saturating_mul(8).saturating_add(bit.into());
                        let at = key.id.saturating_add(sectors.saturating_mul(sector));
                        free.push(at..at.saturating_add(sector));
                    }
                }
            }
            _ => {}
        }
    }
    drop(found);
    free.extend(delta.freed.iter().cloned());
    free.sort_unstable_by_key(|range| range.start);
    let mut taken = delta.taken.clone();
    taken.sort_unstable_by_key(|range| range.start);
    let free = without(&joined(&free)?, &taken)?;
    if rehost_block::Fields::new(&raw, "free space item", 0).u32_le(4)? & 1 == 0 {
        let key = |range: &Range<u64>| {
            let len = range.end.saturating_sub(range.start);
            Key::new(range.start, items::FREE_SPACE_EXTENT, len)
        };
        let wanted: BTreeSet<Key> = free.iter().map(key).collect();
        let there: BTreeSet<Key> = extents.into_iter().collect();
        for key in there.difference(&wanted) {
            tree.delete(*key)?;
        }
        for key in wanted.difference(&there) {
            tree.set(*key, Vec::new())?;
        }
    } else {
        for key in bitmaps {
            let bits = bitmap(key, &free, sector)?;
            tree.set(key, bits)?;
        }
    }
    put32(&mut raw, 0, u32::try_from(free.len()).unwrap_or(u32::MAX))?;
    tree.set(head, raw)
}

/// The bits of a bitmap: which of its sectors are free.
fn bitmap(key: Key, free: &[Range<u64>], sector: u64) -> Result<Vec<u8>> {
    let sectors = div(key.offset, sector);
    let mut bits = vec![0u8; crate::number::length(sectors.div_ceil(8))?];
    let end = key.id.saturating_add(key.offset);
    for range in free {
        let mut at = range.start.max(key.id);
        // Ends because every round goes on by a sector.
        while at < range.end.min(end) {
            let nth = div(at.saturating_sub(key.id), sector);
            let byte = usize::try_from(nth / 8).unwrap_or(usize::MAX);
            if let Some(byte) = bits.get_mut(byte) {
                *byte |= 1u8
                    .checked_shl(u32::try_from(rem(nth, 8)).unwrap_or(0))
                    .unwrap_or(0);
            }
            at = at.saturating_add(sector);
        }
    }
    Ok(bits)
}

/// Sorted ranges, neighbours made one.
fn joined(ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    let mut made: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match made.last_mut() {
            Some(last) if last.end > range.start => {
                return Err(items::corrupt("the free space tree has something twice"));
            }
            Some(last) if last.end == range.start => last.end = range.end,
            _ => made.push(range.clone()),
        }
    }
    Ok(made)
}

/// Sorted ranges without others, each of which must lie in one of them.
fn without(ranges: &[Range<u64>], gone: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    let mut made = Vec::new();
    let mut gone = gone.iter().peekable();
    for range in ranges {
        let mut at = range.start;
        // Ends because every round takes a range.
        while let Some(next) = gone.next_if(|next| next.start < range.end) {
            if next.start < at || next.end > range.end {
                return Err(items::corrupt(
                    "the free space tree contradicts the extent tree",
                ));
            }
            if at < next.start {
                made.push(at..next.start);
            }
            at = next.end;
        }
        if at < range.end {
            made.push(at..range.end);
        }
    }
    match gone.next() {
        None => Ok(made),
        Some(_) => Err(items::corrupt(
            "the free space tree contradicts the extent tree",
        )),
    }
}
