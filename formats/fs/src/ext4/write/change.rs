//! One change: everything it will write, held back until all of it is known.
//!
//! Metadata goes to the pending blocks of the reader, so that later steps of the change see
//! earlier ones; descriptors and the superblock are changed in memory. [`Change::commit`] writes
//! content first (to blocks that nothing refers to yet), then metadata, then the superblock. A change
//! that fails before that leaves no trace.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{DiskMut, Error, Fields, Result, round_up};

use super::super::Ext4;
use super::super::checksum::crc32c;
use super::super::features::incompat;
use super::super::inode::{self, Node};
use super::super::superblock::AT;
use super::stamp::{put, put16, put32};
use crate::content::{self, Content};
use crate::number::{halves, halves16, index, join, length, wide};

/// A change in the making.
pub(super) struct Change<'a> {
    pub(super) fs: &'a mut Ext4,
    /// The new content of a file, if any.
    content: &'a dyn Content,
    /// Which part of it goes where on the disk.
    writes: Vec<(u64, Range<u64>)>,
    /// Descriptors and superblock as they were.
    old_groups: BTreeMap<u32, Vec<u8>>,
    old_superblock: Vec<u8>,
    /// Seconds since 1970.
    pub(super) now: u64,
}

impl<'a> Change<'a> {
    pub(super) fn begin(fs: &'a mut Ext4, content: &'a dyn Content) -> Self {
        let old_superblock = fs.sb.raw.clone();
        Self {
            fs,
            content,
            writes: Vec::new(),
            old_groups: BTreeMap::new(),
            old_superblock,
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |passed| passed.as_secs()),
        }
    }

    pub(super) const fn content(&self) -> &'a dyn Content {
        self.content
    }

    pub(super) fn block_size(&self) -> u64 {
        u64::from(self.fs.sb.block_size)
    }

    /// Bytes of a block, as a length.
    pub(super) fn block_len(&self) -> usize {
        index(self.fs.sb.block_size)
    }

    /// Plans to write a part of the content at byte `offset` of the disk.
    pub(super) fn plan_write(&mut self, offset: u64, part: Range<u64>) {
        self.writes.push((offset, part));
    }

    /// Puts a whole block in place of what was there.
    pub(super) fn put_block(&mut self, block: u64, bytes: Vec<u8>) -> Result<()> {
        if bytes.len() != self.block_len() || block >= self.fs.sb.blocks_count {
            return Err(Error::internal("a change puts no block"));
        }
        self.fs.blocks.pending.insert(block, bytes);
        Ok(())
    }

    /// Forgets a pending block: it was freed.
    pub(super) fn drop_block(&mut self, block: u64) {
        self.fs.blocks.pending.remove(&block);
    }

    /// Changes the descriptor of a group.
    pub(super) fn edit_group(
        &mut self,
        group: u32,
        edit: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        self.old_groups
            .entry(group)
            .or_insert_with(|| self.fs.groups.descriptor(group).to_vec());
        edit(self.fs.groups.descriptor_mut(group))?;
        if let Some(sum) = self.fs.groups.checksum(&self.fs.sb, group) {
            put16(self.fs.groups.descriptor_mut(group), 0x1e, sum)?;
        }
        Ok(())
    }

    /// Stores a counter of a descriptor that has a low half at `lo` and a high one at `hi`.
    pub(super) fn put_count(raw: &mut [u8], lo: usize, hi: usize, value: u32) -> Result<()> {
        let (low, high) = halves16(value);
        put16(raw, lo, low)?;
        if raw.len() >= 64 {
            put16(raw, hi, high)?;
        } else if high != 0 {
            return Err(Error::internal("a counter exceeds its field"));
        }
        Ok(())
    }

    /// Free blocks by the superblock.
    pub(super) fn free_blocks(&self) -> u64 {
        self.fs.sb.free_blocks()
    }

    /// Sets the superblock's count of free blocks.
    pub(super) fn set_free_blocks(&mut self, count: u64) -> Result<()> {
        let (lo, hi) = halves(count);
        put32(&mut self.fs.sb.raw, 0xc, lo)?;
        if self.fs.sb.features.incompat(incompat::BIT64) {
            put32(&mut self.fs.sb.raw, 0x158, hi)?;
        }
        Ok(())
    }

    /// Free inodes by the superblock.
    pub(super) fn free_inodes(&self) -> Result<u32> {
        Fields::new(&self.fs.sb.raw, "superblock", AT).u32_le(0x10)
    }

    pub(super) fn set_free_inodes(&mut self, count: u32) -> Result<()> {
        put32(&mut self.fs.sb.raw, 0x10, count)
    }

    /// Sets a compatible feature bit.
    pub(super) fn set_compat(&mut self, bit: u32) -> Result<()> {
        self.fs.sb.features.compat |= bit;
        let word = self.fs.sb.features.compat;
        put32(&mut self.fs.sb.raw, 0x5c, word)
    }

    /// Stores inode `number`, its checksum made anew.
    pub(super) fn put_inode(&mut self, number: u32, mut raw: Vec<u8>) -> Result<()> {
        if self.fs.sb.has_checksums() {
            let generation = Fields::new(&raw, "inode", 0).u32_le(0x64)?;
            let seed = self.fs.inode_seed(number, generation);
            let (lo, hi) = halves16(inode::checksum(seed, &raw));
            put16(&mut raw, 0x7c, lo)?;
            if inode::has_high_checksum(&raw) {
                put16(&mut raw, 0x82, hi)?;
            }
        }
        let place = self.fs.place(number)?;
        let mut block = self.fs.blocks.read(place.block, "inode table")?;
        put(&mut block, length(place.within)?, &raw)?;
        self.fs.mappings.forget();
        self.put_block(place.block, block)
    }

    /// Sets change times of an inode's bytes; the modification time too where asked.
    pub(super) fn touch(&self, raw: &mut [u8], stamps: &[Stamp]) -> Result<()> {
        let (seconds, epoch) = halves(self.now);
        let extra = Fields::new(raw, "inode", 0);
        let room = if raw.len() > 128 {
            usize::from(extra.u16_le(0x80)?).saturating_add(128)
        } else {
            128
        };
        for stamp in stamps {
            let (at, more): (usize, usize) = match stamp {
                Stamp::Accessed => (0x8, 0x8c),
                Stamp::Changed => (0xc, 0x84),
                Stamp::Modified => (0x10, 0x88),
                Stamp::Created => (0x90, 0x94),
            };
            if *stamp == Stamp::Created && room < 0x98 {
                continue;
            }
            put32(raw, at, seconds)?;
            if room >= more.saturating_add(4) {
                // Bit 31 of the seconds is a sign; the two epoch bits make up for it.
                let carry = if seconds & 0x8000_0000 != 0 { 1 } else { 0 };
                put32(raw, more, epoch.wrapping_add(carry) & 3)?;
            }
        }
        Ok(())
    }

    /// An inode as this change sees it.
    pub(super) fn node(&self, number: u32) -> Result<Node> {
        self.fs.node(number)
    }

    /// What was planned to be written of the content, and nothing else.
    pub(super) fn into_writes(self) -> Vec<(u64, Range<u64>)> {
        self.writes
    }

    /// Undoes the change in memory.
    pub(super) fn roll_back(self) -> Result<()> {
        self.fs.blocks.pending.clear();
        self.fs.mappings.forget();
        for (group, raw) in &self.old_groups {
            put(self.fs.groups.descriptor_mut(*group), 0, raw)?;
        }
        self.fs.sb.raw = self.old_superblock;
        self.fs.sb.last_orphan = Fields::new(&self.fs.sb.raw, "superblock", AT).u32_le(0xe8)?;
        self.fs.sb.features.compat = Fields::new(&self.fs.sb.raw, "superblock", AT).u32_le(0x5c)?;
        Ok(())
    }

    /// Writes the change.
    pub(super) fn commit(mut self, disk: &dyn DiskMut) -> Result<()> {
        self.place_groups()?;
        let size = self.block_size();
        for (offset, part) in &self.writes {
            let len = content::put(self.content, part, disk, *offset)?;
            self.fs.blocks.forget(*offset, len);
            // The rest of the last block must not show what was there before.
            let end = offset.saturating_add(len);
            let slack = round_up(end, size).saturating_sub(end);
            if slack > 0 {
                disk.write_at(&vec![0; length(slack)?], end)?;
            }
        }
        for (start, bytes) in self.runs() {
            let at = start.saturating_mul(size);
            disk.write_at(&bytes, at)?;
            self.fs.blocks.forget(at, wide(bytes.len()));
        }
        self.place_superblock()?;
        disk.write_at(&self.fs.sb.raw, AT)?;
        self.fs.blocks.forget(AT, wide(self.fs.sb.raw.len()));
        self.fs.blocks.pending.clear();
        self.fs.mappings.forget();
        Ok(())
    }

    /// Changed descriptors become pending blocks.
    fn place_groups(&mut self) -> Result<()> {
        let per_block = self.fs.sb.descriptors_per_block();
        let groups: Vec<u32> = self.old_groups.keys().copied().collect();
        for group in groups {
            let nth = group.checked_div(per_block).unwrap_or_default();
            let within = group.checked_rem(per_block).unwrap_or_default();
            let block = self.fs.sb.descriptor_block(nth);
            let mut bytes = self.fs.blocks.read(block, "group descriptor table")?;
            let raw = self.fs.groups.descriptor(group);
            put(&mut bytes, index(within).saturating_mul(raw.len()), raw)?;
            self.put_block(block, bytes)?;
        }
        Ok(())
    }

    /// Pending blocks that lie together, as one write each.
    fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut next = None;
        for (block, bytes) in &self.fs.blocks.pending {
            match runs.last_mut() {
                Some((_, run)) if next == Some(*block) => run.extend_from_slice(bytes),
                _ => runs.push((*block, bytes.clone())),
            }
            next = block.checked_add(1);
        }
        runs
    }

    fn place_superblock(&mut self) -> Result<()> {
        let (seconds, high) = halves(self.now);
        put32(&mut self.fs.sb.raw, 0x30, seconds)?;
        let [byte, ..] = high.to_le_bytes();
        put(&mut self.fs.sb.raw, 0x274, &[byte])?;
        let sealed = self.fs.sb.has_checksums();
        seal_superblock(&mut self.fs.sb.raw, sealed)
    }
}

/// A time of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    Accessed,
    Changed,
    Modified,
    Created,
}

/// Stamps for a new inode.
pub(super) const NEW: &[Stamp] = &[
    Stamp::Accessed,
    Stamp::Changed,
    Stamp::Modified,
    Stamp::Created,
];

/// Renews the checksum of a superblock's bytes.
pub(super) fn seal_superblock(raw: &mut [u8], has_checksums: bool) -> Result<()> {
    if has_checksums {
        let sum = crc32c(!0, raw.get(..0x3fc).unwrap_or_default());
        put32(raw, 0x3fc, sum)?;
    }
    Ok(())
}

/// The number that two fields of `raw` make up.
pub(super) fn blocks_of(raw: &[u8]) -> Result<u64> {
    let f = Fields::new(raw, "inode", 0);
    Ok(join(f.u32_le(0x1c)?, u32::from(f.u16_le(0x74)?)))
}
