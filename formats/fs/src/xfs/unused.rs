//! What XFS does not use: the free extents of each allocation group, by its tree of them.
//!
//! Source: "XFS Algorithms & Data Structures", chapters "AG Free Space Management" and "AG Free Space
//! B+trees". Blocks on a group's free list (AGFL) belong to the trees and are kept.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

use super::check::{self, HEADER_HINT, Verify};
use super::{Xfs, log, superblock::Superblock};
use crate::number::{length, wide};
use crate::unused::push;

/// Where there is no block.
const NONE: u32 = u32::MAX;

/// Levels of the tree, at most (`XFS_BTREE_MAXLEVELS`).
const MOST_LEVELS: u32 = 9;

/// What one group says of its free space.
struct Header {
    /// Blocks in the group.
    length: u32,
    root: u32,
    levels: u32,
    free: u32,
}

/// The byte ranges of `disk`, an XFS filesystem, that it does not use, in order.
pub(crate) fn unused(disk: Arc<dyn Disk>) -> Result<Vec<Range<u64>>> {
    let sb = Superblock::read(&disk, Verify::Stored)?;
    if log::replay(&sb, &disk)?.is_some() {
        return Err(Error::unsupported("its log holds changes")
            .in_structure("log")
            .hint("mount and unmount it once"));
    }
    let fs = Xfs::open(disk)?;
    let mut free = Vec::new();
    for group in 0..fs.sb.ag_count {
        fs.free_of(group, &mut free)?;
    }
    Ok(free)
}

impl Xfs {
    /// First block of a group.
    fn group_start(&self, group: u32) -> u64 {
        u64::from(group).saturating_mul(u64::from(self.sb.ag_blocks))
    }

    fn header(&self, group: u32) -> Result<Header> {
        let sector = u64::from(self.sb.sector_size);
        let at = self
            .blocks
            .offset(self.group_start(group))
            .saturating_add(sector);
        let mut raw = vec![0; length(sector)?];
        self.blocks.disk().read_at(&mut raw, at)?;
        let f = Fields::new(&raw, "AGF", at);
        if f.bytes(0, 4)? != b"XAGF" || f.u32_be(8)? != group {
            return Err(f.corrupt(0, "no header of free space").hint(HEADER_HINT));
        }
        if self.sb.v5 {
            check::crc(&raw, 216, Verify::Stored, "AGF", at)?;
            if f.array::<16>(64)? != self.sb.meta_uuid {
                return Err(f.corrupt(64, "belongs to another filesystem"));
            }
        }
        let left = self.sb.blocks.saturating_sub(self.group_start(group));
        let header = Header {
            length: f.u32_be(12)?,
            root: f.u32_be(16)?,
            levels: f.u32_be(28)?,
            free: f.u32_be(52)?,
        };
        if u64::from(header.length) != left.min(u64::from(self.sb.ag_blocks)) {
            return Err(f.corrupt(12, "a group has another length than the filesystem says"));
        }
        if header.levels == 0 || header.levels > MOST_LEVELS {
            return Err(f
                .corrupt(28, "impossible height of a tree")
                .mismatch(format!("1 to {MOST_LEVELS}"), header.levels));
        }
        Ok(header)
    }

    /// Adds the free extents of a group, which must be as many blocks as its header counts.
    fn free_of(&self, group: u32, free: &mut Vec<Range<u64>>) -> Result<()> {
        let header = self.header(group)?;
        let mut block = header.root;
        // Down to the first leaf: ends because every round goes down one level.
        for level in (1..header.levels).rev() {
            block = self.first_child(group, &header, block, level)?;
        }
        let mut total = 0u64;
        let mut end = 0u32;
        // Along the leaves: ends because extents must come in order, and each leaf has one.
        while block != NONE {
            let raw = self.tree_block(group, &header, block, 0)?;
            let at = self.place(group, block);
            let f = Fields::new(&raw, "free space tree", at);
            let records = usize::from(f.u16_be(6)?);
            if records == 0 && header.levels > 1 {
                return Err(f.corrupt(6, "an empty leaf").hint(HEADER_HINT));
            }
            for nth in 0..records {
                let here = self.head().saturating_add(nth.saturating_mul(8));
                let (start, count) = (f.u32_be(here)?, f.u32_be(here.saturating_add(4))?);
                let stop = start.saturating_add(count);
                if start < end || count == 0 || stop > header.length {
                    return Err(f.corrupt(here, "extents out of order").hint(HEADER_HINT));
                }
                end = stop;
                total = total.saturating_add(u64::from(count));
                let size = u64::from(self.sb.block_size);
                let from = self.place(group, start);
                push(
                    free,
                    from..from.saturating_add(u64::from(count).saturating_mul(size)),
                );
            }
            // The right neighbour; a tree without free space is one empty leaf.
            block = if records == 0 { NONE } else { f.u32_be(12)? };
        }
        if total == u64::from(header.free) {
            return Ok(());
        }
        Err(
            Error::corrupt(format!("free blocks of group {group} are miscounted"))
                .in_structure("free space tree")
                .at(self.place(group, header.root))
                .mismatch(header.free, total)
                .hint(HEADER_HINT),
        )
    }

    /// Byte offset of a block of a group.
    fn place(&self, group: u32, block: u32) -> u64 {
        let number = self.group_start(group).saturating_add(u64::from(block));
        self.blocks.offset(number)
    }

    /// Bytes of a tree block before its records.
    const fn head(&self) -> usize {
        if self.sb.v5 { 56 } else { 16 }
    }

    /// A block of the tree at `level`, its own marks checked.
    fn tree_block(&self, group: u32, header: &Header, block: u32, level: u32) -> Result<Vec<u8>> {
        if block >= header.length {
            return Err(Error::corrupt("points outside its group")
                .in_structure("free space tree")
                .mismatch(format!("a block below {}", header.length), block));
        }
        let number = self.group_start(group).saturating_add(u64::from(block));
        let raw = self.blocks.read(number, "free space tree")?;
        let at = self.place(group, block);
        let f = Fields::new(&raw, "free space tree", at);
        let magic: &[u8] = if self.sb.v5 { b"AB3B" } else { b"ABTB" };
        if f.bytes(0, 4)? != magic || u32::from(f.u16_be(4)?) != level {
            return Err(f.corrupt(0, "no such block").hint(HEADER_HINT));
        }
        if self.sb.v5 {
            check::crc(&raw, 52, Verify::Stored, "free space tree", at)?;
            let own = f.array::<16>(32)? == self.sb.meta_uuid && f.u32_be(48)? == group;
            if !own || f.u64_be(16)? != at >> 9 {
                return Err(f.corrupt(16, "was written for another place"));
            }
        }
        Ok(raw)
    }

    /// The first child of a block above the leaves.
    fn first_child(&self, group: u32, header: &Header, block: u32, level: u32) -> Result<u32> {
        let raw = self.tree_block(group, header, block, level)?;
        let f = Fields::new(&raw, "free space tree", self.place(group, block));
        // Keys of 8 bytes for as many children as there is room for, then their numbers.
        let room = raw.len().saturating_sub(self.head()) / 12;
        let at = self.head().saturating_add(room.saturating_mul(8));
        if f.u16_be(6)? == 0 || wide(at) >= wide(raw.len()) {
            return Err(f.corrupt(6, "has no children").hint(HEADER_HINT));
        }
        f.u32_be(at)
    }
}
