//! Allocation of blocks and inodes: bitmaps, descriptors and counters.
//!
//! Groups whose bitmaps were never written (`BLOCK_UNINIT`, `INODE_UNINIT`) get them when they are
//! first used, as in Linux.

use rehost_block::{Error, Kind, Result};

use super::super::checksum::crc32c;
use super::super::features::incompat;
use super::super::group::{BLOCK_UNINIT, Group, INODE_UNINIT};
use super::change::Change;
use super::stamp::{Bit, clear_run, mark, put16, set};
use crate::FileKind;
use crate::number::{div, div_up, halves16, index, rem};

/// Blocks that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) disk: u64,
    pub(super) len: u64,
}

/// Free inodes, used directories and never used inodes of a group.
type InodeCounts = (u32, u32, u32);

/// Shortest runs taken, pass by pass: long ones first, so that files stay in few extents.
const PASSES: [u64; 4] = [16_384, 1024, 64, 1];

fn full() -> Error {
    Error::new(Kind::Io, "filesystem is full")
        .hint("free some space in the guest, or enlarge the filesystem")
}

impl Change<'_> {
    fn group(&self, group: u32) -> Result<Group> {
        self.fs.groups.get(&self.fs.sb, group)
    }

    /// Whether descriptors say which bitmaps were never written.
    fn has_uninit(&self) -> bool {
        use super::super::features::ro_compat;
        self.fs.sb.has_checksums() || self.fs.sb.features.ro_compat(ro_compat::GDT_CSUM)
    }

    /// The group that a block lies in, and its place in it.
    pub(super) fn group_of(&self, block: u64) -> Result<(u32, u32)> {
        let sb = &self.fs.sb;
        let from = block
            .checked_sub(u64::from(sb.first_data_block))
            .filter(|_| block < sb.blocks_count)
            .ok_or_else(|| Error::corrupt(format!("block {block} is not in any group")))?;
        let per_group = u64::from(sb.blocks_per_group);
        let group = u32::try_from(div(from, per_group)).unwrap_or(u32::MAX);
        let within = u32::try_from(rem(from, per_group)).unwrap_or(u32::MAX);
        Ok((group, within))
    }

    /// Allocates `count` blocks near `goal`, in as few runs as are free.
    pub(super) fn allocate(&mut self, count: u64, goal: u64) -> Result<Vec<Run>> {
        if count > self.free_blocks() {
            return Err(full());
        }
        let mut runs = Vec::new();
        let mut left = count;
        let start = self.group_of(goal).unwrap_or((0, 0));
        for least in PASSES {
            if left == 0 {
                break;
            }
            for step in 0..=self.fs.sb.groups {
                if left == 0 {
                    break;
                }
                let group = start
                    .0
                    .saturating_add(step)
                    .checked_rem(self.fs.sb.groups)
                    .unwrap_or(0);
                // The goal's group is visited twice: after the goal, and all of it at the end.
                let from = if step == 0 { start.1 } else { 0 };
                left = self.take(group, from, least.min(left), left, &mut runs)?;
            }
        }
        if left > 0 {
            return Err(full());
        }
        runs.sort_by_key(|run| run.disk);
        Ok(merge(runs))
    }

    /// Takes runs of at least `least` blocks from one group; gives what is left to find.
    fn take(
        &mut self,
        group: u32,
        from: u32,
        least: u64,
        want: u64,
        runs: &mut Vec<Run>,
    ) -> Result<u64> {
        let free = self.group(group)?.free_blocks;
        if u64::from(free) < least || free == 0 {
            return Ok(want);
        }
        let mut bitmap = self.block_bitmap(group)?;
        let end = self.fs.sb.group_len(group);
        let base = self.fs.sb.group_start(group);
        let (mut left, mut at, mut taken) = (want, from, 0u32);
        // Ends because `at` grows to the end of the group.
        while left > 0 {
            let most = u32::try_from(left).unwrap_or(u32::MAX);
            let Some((bit, len)) = clear_run(&bitmap, at, end, most) else {
                break;
            };
            at = bit.saturating_add(len);
            if u64::from(len) < least.min(left) {
                continue;
            }
            mark(&mut bitmap, bit, len, Bit::Used)?;
            taken = taken.saturating_add(len);
            left = left.saturating_sub(u64::from(len));
            runs.push(Run {
                disk: base.saturating_add(u64::from(bit)),
                len: u64::from(len),
            });
        }
        if taken > 0 {
            let free = free.checked_sub(taken).ok_or_else(|| counts_wrong(group))?;
            self.store_block_bitmap(group, bitmap, free)?;
            let left = self
                .free_blocks()
                .checked_sub(u64::from(taken))
                .ok_or_else(|| counts_wrong(group))?;
            self.set_free_blocks(left)?;
        }
        Ok(left)
    }

    /// Allocates one block for metadata.
    pub(super) fn allocate_one(&mut self, goal: u64) -> Result<u64> {
        self.allocate(1, goal)?
            .first()
            .map(|run| run.disk)
            .ok_or_else(full)
    }

    /// Frees blocks.
    pub(super) fn release(&mut self, run: Run) -> Result<()> {
        let (mut at, mut left) = (run.disk, run.len);
        // Ends because every round frees at least one block.
        while left > 0 {
            let (group, within) = self.group_of(at)?;
            let room = self.fs.sb.group_len(group).saturating_sub(within);
            let len = u32::try_from(left).unwrap_or(u32::MAX).min(room).max(1);
            let mut bitmap = self.block_bitmap(group)?;
            mark(&mut bitmap, within, len, Bit::Free)?;
            let free = self.group(group)?.free_blocks.saturating_add(len);
            self.store_block_bitmap(group, bitmap, free)?;
            self.set_free_blocks(self.free_blocks().saturating_add(u64::from(len)))?;
            at = at.saturating_add(u64::from(len));
            left = left.saturating_sub(u64::from(len));
        }
        for block in run.disk..run.disk.saturating_add(run.len) {
            self.drop_block(block);
        }
        Ok(())
    }

    /// The block bitmap of a group, made up where it was never written.
    fn block_bitmap(&self, group: u32) -> Result<Vec<u8>> {
        let desc = self.group(group)?;
        if self.has_uninit() && desc.flags & BLOCK_UNINIT != 0 {
            return self.fresh_block_bitmap(group, &desc);
        }
        let bitmap = self.fs.blocks.read(desc.block_bitmap, "block bitmap")?;
        let used = index(self.fs.sb.clusters_per_group / 8);
        self.check_bitmap(&bitmap, used, desc.block_bitmap_csum, "block bitmap", group)?;
        Ok(bitmap)
    }

    fn check_bitmap(
        &self,
        bitmap: &[u8],
        used: usize,
        stored: u32,
        structure: &'static str,
        group: u32,
    ) -> Result<()> {
        if !self.fs.sb.has_checksums() {
            return Ok(());
        }
        let sum = crc32c(self.fs.sb.seed, bitmap.get(..used).unwrap_or_default());
        let known = if self.fs.sb.desc_size >= 64 {
            sum
        } else {
            sum & 0xffff
        };
        if known == stored {
            Ok(())
        } else {
            Err(
                Error::corrupt(format!("checksum of group {group} does not match"))
                    .in_structure(structure)
                    .mismatch(format!("{known:#010x}"), format!("{stored:#010x}"))
                    .hint("run e2fsck on the original"),
            )
        }
    }

    fn store_block_bitmap(&mut self, group: u32, bitmap: Vec<u8>, free: u32) -> Result<()> {
        let desc = self.group(group)?;
        let used = index(self.fs.sb.clusters_per_group / 8);
        let sum = self.bitmap_sum(&bitmap, used);
        let uninit = self.has_uninit();
        self.put_block(desc.block_bitmap, bitmap)?;
        self.edit_group(group, |raw| {
            Self::put_count(raw, 0xc, 0x2c, free)?;
            if uninit {
                put16(raw, 0x12, desc.flags & !BLOCK_UNINIT)?;
            }
            put_sum(raw, 0x18, 0x38, sum)
        })
    }

    fn bitmap_sum(&self, bitmap: &[u8], used: usize) -> Option<u32> {
        self.fs
            .sb
            .has_checksums()
            .then(|| crc32c(self.fs.sb.seed, bitmap.get(..used).unwrap_or_default()))
    }

    /// What the bitmap of an untouched group is: only its own metadata is in use.
    fn fresh_block_bitmap(&self, group: u32, desc: &Group) -> Result<Vec<u8>> {
        let sb = &self.fs.sb;
        let mut bitmap = vec![0; self.block_len()];
        for bit in 0..self.base_blocks(group) {
            set(&mut bitmap, bit, Bit::Used);
        }
        let tables = [
            (desc.block_bitmap, 1),
            (desc.inode_bitmap, 1),
            (desc.inode_table, sb.inode_table_blocks()),
        ];
        for (start, len) in tables {
            for block in start..start.saturating_add(len) {
                if let Ok((owner, bit)) = self.group_of(block)
                    && owner == group
                {
                    set(&mut bitmap, bit, Bit::Used);
                }
            }
        }
        for bit in sb.group_len(group)..sb.block_size.saturating_mul(8) {
            set(&mut bitmap, bit, Bit::Used);
        }
        Ok(bitmap)
    }

    /// Blocks at the start of a group that hold copies of the superblock and of descriptors.
    fn base_blocks(&self, group: u32) -> u32 {
        let sb = &self.fs.sb;
        let per_block = sb.descriptors_per_block();
        let all = u32::try_from(div_up(u64::from(sb.groups), u64::from(per_block))).unwrap_or(0);
        let copy = sb.has_super(group);
        let meta = sb.features.incompat(incompat::META_BG);
        if !meta || group < sb.first_meta_bg.saturating_mul(per_block) {
            if !copy {
                return 0;
            }
            let reserved = u32::from(
                rehost_block::Fields::new(&sb.raw, "superblock", 1024)
                    .u16_le(0xce)
                    .unwrap_or(0),
            );
            let table = if meta { sb.first_meta_bg } else { all };
            return table.saturating_add(reserved).saturating_add(1);
        }
        // In a meta group the first, second and last group hold the descriptor block.
        let within = group.checked_rem(per_block).unwrap_or(0);
        let holds = within <= 1 || within == per_block.saturating_sub(1);
        u32::from(copy).saturating_add(u32::from(holds))
    }

    /// Allocates an inode near `parent`'s.
    pub(super) fn allocate_inode(&mut self, parent: u32, kind: FileKind) -> Result<u32> {
        let per_group = self.fs.sb.inodes_per_group;
        let home = parent
            .saturating_sub(1)
            .checked_div(per_group)
            .unwrap_or_default();
        for step in 0..self.fs.sb.groups {
            let group = home
                .saturating_add(step)
                .checked_rem(self.fs.sb.groups)
                .unwrap_or(0);
            let desc = self.group(group)?;
            if desc.free_inodes == 0 {
                continue;
            }
            let mut bitmap = self.inode_bitmap(group, &desc)?;
            let first = if group == 0 {
                self.fs.sb.first_ino.saturating_sub(1)
            } else {
                0
            };
            let Some((bit, _)) = clear_run(&bitmap, first, per_group, 1) else {
                continue;
            };
            let number = group
                .saturating_mul(per_group)
                .saturating_add(bit)
                .saturating_add(1);
            if number > self.fs.sb.inodes_count {
                continue;
            }
            if self.has_uninit() && desc.flags & BLOCK_UNINIT != 0 {
                let blocks = self.fresh_block_bitmap(group, &desc)?;
                self.store_block_bitmap(group, blocks, desc.free_blocks)?;
            }
            mark(&mut bitmap, bit, 1, Bit::Used)?;
            let next = bit.saturating_add(1);
            let dirs = u32::from(kind == FileKind::Directory);
            self.store_inode_bitmap(group, bitmap, &|desc| {
                let seen = if desc.flags & INODE_UNINIT != 0 {
                    0
                } else {
                    per_group.saturating_sub(desc.itable_unused)
                };
                Some((
                    desc.free_inodes.checked_sub(1)?,
                    desc.used_dirs.saturating_add(dirs),
                    per_group.saturating_sub(seen.max(next)),
                ))
            })?;
            let left = self.free_inodes()?.checked_sub(1);
            self.set_free_inodes(left.ok_or_else(|| counts_wrong(group))?)?;
            return Ok(number);
        }
        Err(Error::new(Kind::Io, "filesystem has no free inode")
            .hint("remove some files in the guest"))
    }

    /// Frees an inode's number.
    pub(super) fn release_inode(&mut self, number: u32, kind: FileKind) -> Result<()> {
        let per_group = self.fs.sb.inodes_per_group;
        let at = number.saturating_sub(1);
        let group = at.checked_div(per_group).unwrap_or_default();
        let bit = at.checked_rem(per_group).unwrap_or_default();
        let desc = self.group(group)?;
        let mut bitmap = self.inode_bitmap(group, &desc)?;
        mark(&mut bitmap, bit, 1, Bit::Free)?;
        let dirs = u32::from(kind == FileKind::Directory);
        self.store_inode_bitmap(group, bitmap, &|desc| {
            Some((
                desc.free_inodes.saturating_add(1),
                desc.used_dirs.checked_sub(dirs)?,
                desc.itable_unused,
            ))
        })?;
        self.set_free_inodes(self.free_inodes()?.saturating_add(1))
    }

    fn inode_bitmap(&self, group: u32, desc: &Group) -> Result<Vec<u8>> {
        let per_group = self.fs.sb.inodes_per_group;
        if self.has_uninit() && desc.flags & INODE_UNINIT != 0 {
            let mut bitmap = vec![0; self.block_len()];
            for bit in per_group..self.fs.sb.block_size.saturating_mul(8) {
                set(&mut bitmap, bit, Bit::Used);
            }
            return Ok(bitmap);
        }
        let bitmap = self.fs.blocks.read(desc.inode_bitmap, "inode bitmap")?;
        let used = index(per_group.div_ceil(8));
        self.check_bitmap(&bitmap, used, desc.inode_bitmap_csum, "inode bitmap", group)?;
        Ok(bitmap)
    }

    /// Stores an inode bitmap and the counters `count` makes of the old ones: free inodes, used
    /// directories, inodes of the table never used.
    fn store_inode_bitmap(
        &mut self,
        group: u32,
        bitmap: Vec<u8>,
        count: &dyn Fn(&Group) -> Option<InodeCounts>,
    ) -> Result<()> {
        let desc = self.group(group)?;
        let used = index(self.fs.sb.inodes_per_group.div_ceil(8));
        let sum = self.bitmap_sum(&bitmap, used);
        let uninit = self.has_uninit();
        let (free, dirs, unused) = count(&desc).ok_or_else(|| counts_wrong(group))?;
        self.put_block(desc.inode_bitmap, bitmap)?;
        self.edit_group(group, |raw| {
            Self::put_count(raw, 0xe, 0x2e, free)?;
            Self::put_count(raw, 0x10, 0x30, dirs)?;
            if uninit {
                Self::put_count(raw, 0x1c, 0x32, unused)?;
                put16(raw, 0x12, desc.flags & !INODE_UNINIT)?;
            }
            put_sum(raw, 0x1a, 0x3a, sum)
        })
    }
}

fn put_sum(raw: &mut [u8], lo: usize, hi: usize, sum: Option<u32>) -> Result<()> {
    let Some(sum) = sum else {
        return Ok(());
    };
    let (low, high) = halves16(sum);
    put16(raw, lo, low)?;
    if raw.len() >= 64 {
        put16(raw, hi, high)?;
    }
    Ok(())
}

fn counts_wrong(group: u32) -> Error {
    Error::corrupt(format!("counters of group {group} contradict its bitmaps"))
        .in_structure("group descriptor")
        .hint("run e2fsck on the original")
}

/// Joins runs that lie together.
fn merge(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if last.disk.saturating_add(last.len) == run.disk => {
                last.len = last.len.saturating_add(run.len);
            }
            _ => merged.push(run),
        }
    }
    merged
}
