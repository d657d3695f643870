//! What ext2, ext3 and ext4 do not use: the clear bits of the block bitmaps.
//!
//! Source: Linux `Documentation/filesystems/ext4/bitmaps.rst` and `group_descr.rst`. A bitmap that was
//! never written (`BLOCK_UNINIT`) means that nothing of its group is used but metadata. What holds
//! metadata is kept in any case, whatever the bitmaps say of it.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

use super::Ext4;
use super::checksum::crc32c;
use super::features::{incompat, ro_compat};
use super::group::{BLOCK_UNINIT, Group};
use crate::number::{div_up, index};
use crate::unused::{push, subtract};

/// `s_state`: unmounted cleanly; errors were found.
const VALID: u16 = 1;
const ERRORS: u16 = 2;

/// What can be done about a filesystem whose state is in doubt.
const HINT: &str = "run e2fsck on a copy, or mount and unmount it once";

/// The byte ranges of `disk`, an ext filesystem, that it does not use, in order.
pub(crate) fn unused(disk: Arc<dyn Disk>) -> Result<Vec<Range<u64>>> {
    let fs = Ext4::open_as_it_is(disk)?;
    let doubt = |what: &str| {
        Err(Error::unsupported(what)
            .in_structure("superblock")
            .hint(HINT))
    };
    if fs.sb.features.incompat(incompat::RECOVER) {
        return doubt("its journal holds changes");
    }
    if fs.sb.state & ERRORS != 0 {
        return doubt("it is marked as having errors");
    }
    if fs.sb.state & VALID == 0 {
        return doubt("it was not unmounted cleanly");
    }
    let mut free = Vec::new();
    for group in 0..fs.sb.groups {
        fs.free_of(group, &mut free)?;
    }
    let size = u64::from(fs.sb.block_size);
    let bytes = |run: Range<u64>| run.start.saturating_mul(size)..run.end.saturating_mul(size);
    let free = subtract(free, fs.metadata()?);
    Ok(free.into_iter().map(bytes).collect())
}

impl Ext4 {
    fn has_uninit(&self) -> bool {
        self.sb.has_checksums() || self.sb.features.ro_compat(ro_compat::GDT_CSUM)
    }

    /// Adds the free blocks of a group.
    fn free_of(&self, group: u32, free: &mut Vec<Range<u64>>) -> Result<()> {
        let sb = &self.sb;
        let desc = self.groups.get(sb, group)?;
        let (start, len) = (sb.group_start(group), u64::from(sb.group_len(group)));
        let end = start.saturating_add(len);
        if self.has_uninit() && desc.flags & BLOCK_UNINIT != 0 {
            push(free, start..end);
            return Ok(());
        }
        let bitmap = self.blocks.read(desc.block_bitmap, "block bitmap")?;
        self.check_sum(&bitmap, group, &desc)?;
        let ratio = u64::from(sb.cluster_ratio.max(1));
        let clusters = div_up(len, ratio);
        let mut counted = 0u64;
        for bit in 0..clusters {
            let (at, mask) = (
                bit >> 3,
                1u8.rotate_left(u32::from(bit.to_le_bytes()[0] & 7)),
            );
            let byte = usize::try_from(at).ok().and_then(|at| bitmap.get(at));
            if byte.is_some_and(|byte| byte & mask == 0) {
                counted = counted.saturating_add(1);
                let first = start.saturating_add(bit.saturating_mul(ratio));
                push(free, first..first.saturating_add(ratio).min(end));
            }
        }
        if counted == u64::from(desc.free_blocks) {
            return Ok(());
        }
        Err(
            Error::corrupt(format!("free blocks of group {group} are miscounted"))
                .in_structure("block bitmap")
                .at(self.blocks.offset(desc.block_bitmap))
                .mismatch(desc.free_blocks, counted)
                .hint("run e2fsck on the original"),
        )
    }

    fn check_sum(&self, bitmap: &[u8], group: u32, desc: &Group) -> Result<()> {
        if !self.sb.has_checksums() {
            return Ok(());
        }
        let covered = index(self.sb.clusters_per_group / 8);
        let mut sum = crc32c(self.sb.seed, bitmap.get(..covered).unwrap_or_default());
        if self.sb.desc_size < 64 {
            sum &= 0xffff;
        }
        if sum == desc.block_bitmap_csum {
            return Ok(());
        }
        Err(
            Error::corrupt(format!("checksum of group {group} does not match"))
                .in_structure("block bitmap")
                .at(self.blocks.offset(desc.block_bitmap))
                .hint("run e2fsck on the original"),
        )
    }

    /// The blocks of every group's metadata: copies of the superblock and of descriptors with what is
    /// reserved for more of them, bitmaps, inode tables.
    fn metadata(&self) -> Result<Vec<Range<u64>>> {
        let sb = &self.sb;
        let per_block = sb.descriptors_per_block();
        let tables = u32::try_from(div_up(u64::from(sb.groups), u64::from(per_block)));
        let tables = tables.unwrap_or(u32::MAX);
        let reserved = u64::from(Fields::new(&sb.raw, "superblock", 1024).u16_le(0xce)?);
        let copies = u64::from(tables).saturating_add(reserved).saturating_add(1);
        let meta = sb.features.incompat(incompat::META_BG);
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut keep = |start: u64, len: u64| found.push(start..start.saturating_add(len));
        for group in 0..sb.groups {
            let desc = self.groups.get(sb, group)?;
            keep(desc.block_bitmap, 1);
            keep(desc.inode_bitmap, 1);
            keep(desc.inode_table, sb.inode_table_blocks());
            if sb.has_super(group) {
                keep(sb.group_start(group), copies);
            } else if meta {
                // The first, second and last group of a meta group hold its descriptors.
                keep(sb.group_start(group), 1);
            }
        }
        for nth in 0..tables {
            keep(sb.descriptor_block(nth), 1);
        }
        Ok(found)
    }
}
