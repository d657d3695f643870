//! From a file's blocks to the disk's: extent trees and block maps.
//!
//! Source: Linux `Documentation/filesystems/ext4/ifork.rst`. Both kinds come out as one list of
//! [`Extent`]s in file order. Every tree or indirect block is visited once at most, so a hostile
//! map ends; tree depth is limited to 5, as in Linux.

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Error, Fields, Result};

use super::Ext4;
use super::checksum::crc32c;
use super::inode::{MAP_LEN, Node, flag};
use super::superblock::checksum_error;
use crate::number::{index, join};

/// Deepest extent tree (`EXT4_MAX_EXTENT_DEPTH`).
pub(super) const MOST_DEPTH: u16 = 5;

/// Magic of an extent tree's node.
pub(super) const MAGIC: u16 = 0xf30a;

/// Longest written extent; a longer length marks an unwritten one.
pub(super) const MOST_LEN: u32 = 32_768;

/// A run of a file's blocks that lie together on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block of the file.
    pub(super) file: u64,
    /// How many.
    pub(super) len: u64,
    /// First block of the disk.
    pub(super) disk: u64,
    /// False for preallocated blocks, which read as zeroes.
    pub(super) written: bool,
}

impl Extent {
    /// First block of the file after it.
    pub(super) const fn end(&self) -> u64 {
        self.file.saturating_add(self.len)
    }
}

/// All that an inode maps: its content, and the blocks that hold the map itself.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// In file order.
    pub(super) extents: Vec<Extent>,
    /// Tree nodes or indirect blocks, outside the inode.
    pub(super) nodes: BTreeSet<u64>,
}

impl Mapping {
    fn visit(&mut self, block: u64, node: &Node) -> Result<()> {
        if self.nodes.insert(block) {
            Ok(())
        } else {
            Err(node.corrupt(&format!("block {block} is used twice by the block map")))
        }
    }

    /// Adds a run, which must follow what is there.
    fn push(&mut self, run: Extent, node: &Node, count: u64, first: u64) -> Result<()> {
        let end = run.disk.saturating_add(run.len);
        if run.len == 0 || run.disk <= first || end > count {
            return Err(node
                .corrupt("content lies outside the filesystem")
                .mismatch(format!("blocks below {count}"), end));
        }
        if let Some(last) = self.extents.last_mut() {
            if run.file < last.end() {
                return Err(node.corrupt("extents overlap or are out of order"));
            }
            if run.file == last.end()
                && run.disk == last.disk.saturating_add(last.len)
                && run.written == last.written
            {
                last.len = last.len.saturating_add(run.len);
                return Ok(());
            }
        }
        self.extents.push(run);
        Ok(())
    }
}

/// A node of an extent tree.
pub(super) struct TreeNode {
    pub(super) entries: u16,
    pub(super) most: u16,
    pub(super) depth: u16,
}

impl TreeNode {
    pub(super) fn parse(f: &Fields<'_>) -> Result<Self> {
        if f.u16_le(0)? != MAGIC {
            return Err(f.corrupt(0, "extent node has no magic"));
        }
        let found = Self {
            entries: f.u16_le(2)?,
            most: f.u16_le(4)?,
            depth: f.u16_le(6)?,
        };
        let room = f.len().saturating_sub(12) / 12;
        if found.entries > found.most || usize::from(found.most) > room {
            return Err(f
                .corrupt(2, "extent node holds more entries than fit")
                .mismatch(format!("at most {room}"), found.most));
        }
        if found.depth > MOST_DEPTH {
            return Err(f
                .corrupt(6, "extent tree is too deep")
                .mismatch(format!("at most {MOST_DEPTH}"), found.depth));
        }
        Ok(found)
    }
}

impl Ext4 {
    /// The content map of an inode, from a small cache where possible.
    pub(super) fn mapping(&self, node: &Node) -> Result<Arc<Mapping>> {
        if let Some(found) = self.mappings.get(node.number) {
            return Ok(found);
        }
        let mapping = Arc::new(self.map_now(node)?);
        self.mappings.put(node.number, &mapping);
        Ok(mapping)
    }

    fn map_now(&self, node: &Node) -> Result<Mapping> {
        let mut mapping = Mapping::default();
        let map = node.map()?;
        if node.has(flag::EXTENTS) {
            let f = Fields::new(map, "extent tree", node.at.saturating_add(0x28));
            let root = TreeNode::parse(&f)?;
            self.tree(&f, &root, node, 0, &mut mapping)?;
        } else {
            self.block_map(map, node, &mut mapping)?;
        }
        Ok(mapping)
    }

    /// Walks one node of an extent tree. `from` is the first file block it may map.
    fn tree(
        &self,
        f: &Fields<'_>,
        header: &TreeNode,
        node: &Node,
        from: u64,
        mapping: &mut Mapping,
    ) -> Result<()> {
        let (count, first) = (self.sb.blocks_count, u64::from(self.sb.first_data_block));
        for nth in 0..usize::from(header.entries) {
            let at = nth.saturating_mul(12).saturating_add(12);
            let file = u64::from(f.u32_le(at)?);
            if file < from {
                return Err(f.corrupt(at, "extents overlap or are out of order"));
            }
            if header.depth == 0 {
                let len = u32::from(f.u16_le(at.saturating_add(4))?);
                let (len, written) = match len.checked_sub(MOST_LEN) {
                    Some(more) if more > 0 => (more, false),
                    _ => (len, true),
                };
                let hi = f.u16_le(at.saturating_add(6))?;
                let run = Extent {
                    file,
                    len: u64::from(len),
                    disk: join(f.u32_le(at.saturating_add(8))?, u32::from(hi)),
                    written,
                };
                mapping.push(run, node, count, first)?;
                continue;
            }
            let hi = f.u16_le(at.saturating_add(8))?;
            let block = join(f.u32_le(at.saturating_add(4))?, u32::from(hi));
            mapping.visit(block, node)?;
            let bytes = self.blocks.read(block, "extent tree")?;
            let child = Fields::new(&bytes, "extent tree", self.blocks.offset(block));
            let below = TreeNode::parse(&child)?;
            if Some(below.depth) != header.depth.checked_sub(1) {
                return Err(child.corrupt(6, "extent node has the wrong depth"));
            }
            self.check_tree_sum(&child, &below, &bytes, node)?;
            // Depth falls by one with each call, so this ends after MOST_DEPTH of them.
            self.tree(&child, &below, node, file, mapping)?;
        }
        Ok(())
    }

    fn check_tree_sum(
        &self,
        f: &Fields<'_>,
        header: &TreeNode,
        bytes: &[u8],
        node: &Node,
    ) -> Result<()> {
        if !self.sb.has_checksums() {
            return Ok(());
        }
        let tail = usize::from(header.most)
            .saturating_mul(12)
            .saturating_add(12);
        let computed = crc32c(node.seed, bytes.get(..tail).unwrap_or_default());
        let stored = f.u32_le(tail)?;
        if computed == stored {
            Ok(())
        } else {
            Err(checksum_error(f, tail, computed, stored))
        }
    }

    fn block_map(&self, map: &[u8], node: &Node, mapping: &mut Mapping) -> Result<()> {
        let f = Fields::new(map, "block map", node.at.saturating_add(0x28));
        let per_block = u64::from(self.sb.block_size / 4);
        let mut file = 0;
        for nth in 0..MAP_LEN / 4 {
            let block = u64::from(f.u32_le(nth.saturating_mul(4))?);
            let depth = u32::try_from(nth.saturating_sub(11)).unwrap_or(0);
            file = self.indirect(block, depth, file, per_block, node, mapping)?;
        }
        Ok(())
    }

    /// Walks one pointer of a block map; gives the file block after what it covers.
    fn indirect(
        &self,
        block: u64,
        depth: u32,
        file: u64,
        per_block: u64,
        node: &Node,
        mapping: &mut Mapping,
    ) -> Result<u64> {
        let covered = per_block.saturating_pow(depth);
        let end = file.saturating_add(covered);
        if block == 0 {
            return Ok(end);
        }
        if depth == 0 {
            let run = Extent {
                file,
                len: 1,
                disk: block,
                written: true,
            };
            let first = u64::from(self.sb.first_data_block);
            mapping.push(run, node, self.sb.blocks_count, first)?;
            return Ok(end);
        }
        mapping.visit(block, node)?;
        let bytes = self.blocks.read(block, "indirect block")?;
        let f = Fields::new(&bytes, "indirect block", self.blocks.offset(block));
        let mut at = file;
        for nth in 0..index(self.sb.block_size / 4) {
            let next = u64::from(f.u32_le(nth.saturating_mul(4))?);
            // Depth falls by one with each call, so this ends.
            at = self.indirect(next, depth.saturating_sub(1), at, per_block, node, mapping)?;
        }
        Ok(end)
    }

    /// The disk block of one block of a file; `None` for a hole or an unwritten block.
    pub(super) fn block_of(mapping: &Mapping, file: u64) -> Option<u64> {
        let after = mapping.extents.partition_point(|run| run.file <= file);
        let run = mapping.extents.get(after.checked_sub(1)?)?;
        if !run.written || file >= run.end() {
            return None;
        }
        run.disk.checked_add(file.checked_sub(run.file)?)
    }

    /// A corrupt-input error: the inode maps nothing where something must be.
    pub(super) fn hole(node: &Node, what: &str) -> Error {
        node.corrupt(&format!("{what} has a hole"))
    }
}
