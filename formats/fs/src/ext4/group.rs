//! Group descriptors: where each group's bitmaps and inode table are.
//!
//! Source: Linux `Documentation/filesystems/ext4/group_descr.rst`. The table is kept as stored;
//! fields are taken through [`Groups`], which checks each descriptor's checksum once, at opening,
//! and reports it where the group is used.

use rehost_block::{Disk, Error, Fields, Result};

use super::checksum::{crc16, crc32c};
use super::features::ro_compat;
use super::superblock::Superblock;
use crate::number::{index, join, join16, length, wide};

/// Flags of a group.
pub(super) const INODE_UNINIT: u16 = 0x1;
pub(super) const BLOCK_UNINIT: u16 = 0x2;

/// The whole table.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    /// Descriptors, back to back.
    pub(super) table: Vec<u8>,
    size: usize,
    damaged: Vec<bool>,
}

/// One descriptor, its halves joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    pub(super) used_dirs: u32,
    pub(super) flags: u16,
    pub(super) itable_unused: u32,
    pub(super) block_bitmap_csum: u32,
    pub(super) inode_bitmap_csum: u32,
}

impl Groups {
    /// Reads the table.
    pub(super) fn read(disk: &dyn Disk, sb: &Superblock) -> Result<Self> {
        let size = usize::from(sb.desc_size);
        let total = wide(size).saturating_mul(u64::from(sb.groups));
        // Bounded by the disk: a table is never larger than the filesystem it describes.
        if total > disk.size() {
            return Err(Error::corrupt("table is larger than the disk")
                .in_structure("group descriptor table"));
        }
        let mut table = vec![0; length(total)?];
        let block = index(sb.block_size);
        for (nth, part) in (0..).zip(table.chunks_mut(block)) {
            let at = sb
                .descriptor_block(nth)
                .saturating_mul(u64::from(sb.block_size));
            disk.read_at(part, at)
                .map_err(|error| error.in_structure("group descriptor table"))?;
        }
        let mut groups = Self {
            table,
            size,
            damaged: Vec::new(),
        };
        groups.damaged = (0..sb.groups)
            .map(|group| !groups.checksum_matches(sb, group))
            .collect();
        Ok(groups)
    }

    pub(super) fn descriptor(&self, group: u32) -> &[u8] {
        let start = index(group).saturating_mul(self.size);
        self.table
            .get(start..start.saturating_add(self.size))
            .unwrap_or_default()
    }

    pub(super) fn descriptor_mut(&mut self, group: u32) -> &mut [u8] {
        let start = index(group).saturating_mul(self.size);
        self.table
            .get_mut(start..start.saturating_add(self.size))
            .unwrap_or_default()
    }

    /// The descriptor of `group`.
    pub(super) fn get(&self, sb: &Superblock, group: u32) -> Result<Group> {
        let nth = group
            .checked_div(sb.descriptors_per_block())
            .unwrap_or_default();
        let within = group
            .checked_rem(sb.descriptors_per_block())
            .unwrap_or_default();
        let base = sb
            .descriptor_block(nth)
            .saturating_mul(u64::from(sb.block_size))
            .saturating_add(u64::from(within).saturating_mul(wide(self.size)));
        let raw = self.descriptor(group);
        let f = Fields::new(raw, "group descriptor", base);
        if self.damaged.get(index(group)).copied().unwrap_or(true) {
            return Err(f
                .corrupt(0x1e, format!("checksum of group {group} does not match"))
                .hint("run e2fsck on the original"));
        }
        let far = self.size >= 64;
        let hi32 = |at| if far { f.u32_le(at) } else { Ok(0) };
        let hi16 = |at| if far { f.u16_le(at) } else { Ok(0) };
        let found = Group {
            block_bitmap: join(f.u32_le(0)?, hi32(0x20)?),
            inode_bitmap: join(f.u32_le(4)?, hi32(0x24)?),
            inode_table: join(f.u32_le(8)?, hi32(0x28)?),
            free_blocks: join16(f.u16_le(0xc)?, hi16(0x2c)?),
            free_inodes: join16(f.u16_le(0xe)?, hi16(0x2e)?),
            used_dirs: join16(f.u16_le(0x10)?, hi16(0x30)?),
            flags: f.u16_le(0x12)?,
            itable_unused: join16(f.u16_le(0x1c)?, hi16(0x32)?),
            block_bitmap_csum: join16(f.u16_le(0x18)?, hi16(0x38)?),
            inode_bitmap_csum: join16(f.u16_le(0x1a)?, hi16(0x3a)?),
        };
        let end = found.inode_table.saturating_add(sb.inode_table_blocks());
        let first = u64::from(sb.first_data_block);
        if found.inode_table <= first || end > sb.blocks_count {
            return Err(f
                .corrupt(8, "inode table lies outside the filesystem")
                .mismatch(format!("blocks below {}", sb.blocks_count), end));
        }
        Ok(found)
    }

    fn checksum_matches(&self, sb: &Superblock, group: u32) -> bool {
        let raw = self.descriptor(group);
        match self.checksum(sb, group) {
            None => true,
            Some(sum) => Fields::new(raw, "group descriptor", 0)
                .u16_le(0x1e)
                .is_ok_and(|stored| stored == sum),
        }
    }

    /// What the checksum field of a group must hold; `None` where there is none.
    pub(super) fn checksum(&self, sb: &Superblock, group: u32) -> Option<u16> {
        let raw = self.descriptor(group);
        let (head, tail) = (raw.get(..0x1e)?, raw.get(0x20..)?);
        if sb.has_checksums() {
            let crc = crc32c(sb.seed, &group.to_le_bytes());
            let crc = crc32c(crc, head);
            let crc = crc32c(crc, &[0, 0]);
            let [a, b, ..] = crc32c(crc, tail).to_le_bytes();
            Some(u16::from_le_bytes([a, b]))
        } else if sb.features.ro_compat(ro_compat::GDT_CSUM) {
            let crc = crc16(!0, &sb.uuid);
            let crc = crc16(crc, &group.to_le_bytes());
            let crc = crc16(crc, head);
            Some(crc16(crc, tail))
        } else {
            None
        }
    }
}
