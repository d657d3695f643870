//! The superblock: geometry, features, and the arithmetic of addresses.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Superblocks"; Linux
//! `fs/xfs/libxfs/xfs_format.h` for the feature bits. Block and inode numbers hold the allocation
//! group in their high bits; here they become block numbers of the disk as soon as they are read.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

use super::check::{self, HEADER_HINT};
use crate::number::{div, length, rem};

const NAME: &str = "superblock";

/// Bits of `sb_features_incompat`.
mod incompat {
    pub(super) const FTYPE: u32 = 1 << 0;
    pub(super) const SPARSE_INODES: u32 = 1 << 1;
    pub(super) const META_UUID: u32 = 1 << 2;
    pub(super) const BIGTIME: u32 = 1 << 3;
    pub(super) const NEEDSREPAIR: u32 = 1 << 4;
    pub(super) const NREXT64: u32 = 1 << 5;
    pub(super) const PARENT: u32 = 1 << 7;
    pub(super) const METADIR: u32 = 1 << 8;
    pub(super) const ZONED: u32 = 1 << 9;
    pub(super) const ZONE_GAPS: u32 = 1 << 10;
    /// ftype, sparse inodes, metadata uuid, bigtime, 64-bit extent counts, exchange range, parent
    /// pointers, metadata directory.
    pub(super) const READ: u32 = 0b1_1110_1111;
}

/// Bits of `sb_versionnum`.
mod version {
    pub(super) const NUMBER: u16 = 0xf;
    pub(super) const LOGV2: u16 = 0x0400;
    pub(super) const DIRV2: u16 = 0x2000;
    pub(super) const BORG: u16 = 0x4000;
    pub(super) const MOREBITS: u16 = 0x8000;
}

/// Bits of `sb_features_ro_compat`.
mod ro_compat {
    pub(super) const FREE_INODES: u32 = 1 << 0;
    pub(super) const OWNERS: u32 = 1 << 1;
    pub(super) const SHARED: u32 = 1 << 2;
    pub(super) const INODE_BLOCKS: u32 = 1 << 3;
}

/// `sb_features2`: directory entries of a version 4 filesystem say what they name.
const FEATURES2_FTYPE: u32 = 0x200;

/// What a writer has to keep up to date, or to leave alone.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each feature bit of the format"
)]
pub(super) struct Features {
    /// A tree of the chunks that have free inodes.
    pub(super) free_inodes: bool,
    /// A tree of which block belongs to whom (reverse map).
    pub(super) owners: bool,
    /// A tree of shared blocks (reflink).
    pub(super) shared: bool,
    /// Chunks of inodes may have holes.
    pub(super) sparse_inodes: bool,
    pub(super) bigtime: bool,
    pub(super) nrext64: bool,
    /// Every name is also an attribute of what it names.
    pub(super) parent: bool,
    /// Metadata files have a directory of their own.
    pub(super) metadir: bool,
    /// Blocks and inodes are counted for quotas.
    pub(super) quota: bool,
    /// Bits of `sb_features_ro_compat` that are unknown here.
    pub(super) unknown_ro: u32,
    /// Records of the log have version 2.
    pub(super) log_v2: bool,
    /// Bytes that a record of the log is a multiple of.
    pub(super) log_unit: u32,
}

/// What the superblock says, checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) sector_size: u16,
    /// Blocks of the data device.
    pub(super) blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) ag_blocks: u32,
    pub(super) ag_count: u32,
    pub(super) ag_block_log: u8,
    pub(super) inode_size: u16,
    pub(super) inodes_per_block_log: u8,
    pub(super) root: u64,
    /// Version 5: checksums, and blocks that name their owner.
    pub(super) v5: bool,
    pub(super) ftype: bool,
    /// Names of a directory are looked up without regard to ASCII case.
    pub(super) ascii_ci: bool,
    pub(super) log_incompat: u32,
    /// log2 of the blocks of a directory block.
    pub(super) dir_block_log: u8,
    pub(super) uuid: [u8; 16],
    /// The UUID that metadata carries.
    pub(super) meta_uuid: [u8; 16],
    pub(super) label: Vec<u8>,
    /// First block of the log, as a block of the disk.
    pub(super) log_start: u64,
    pub(super) log_blocks: u32,
    pub(super) features: Features,
}

impl Superblock {
    /// Reads the primary superblock of `disk`. `verify` is off for one that a log has changed,
    /// because the log carries no checksum of the whole.
    pub(super) fn read(disk: &Arc<dyn Disk>, verify: check::Verify) -> Result<Self> {
        let mut raw = vec![0; 512];
        if disk.size() < 512 {
            return Err(Error::corrupt("disk is smaller than a superblock").in_structure(NAME));
        }
        disk.read_at(&mut raw, 0)?;
        let sector = Fields::new(&raw, NAME, 0).u16_be(102)?;
        if !(512..=32_768).contains(&sector) || !sector.is_power_of_two() {
            return Err(Fields::new(&raw, NAME, 0).corrupt(102, "impossible sector size"));
        }
        raw.resize(usize::from(sector), 0);
        if disk.size() < u64::from(sector) {
            return Err(Error::corrupt("disk is smaller than a superblock").in_structure(NAME));
        }
        disk.read_at(&mut raw, 0)?;
        Self::parse(&raw, disk.size(), verify)
    }

    fn parse(raw: &[u8], disk_size: u64, verify: check::Verify) -> Result<Self> {
        let f = Fields::new(raw, NAME, 0);
        if f.bytes(0, 4)? != b"XFSB" {
            return Err(f.corrupt(0, "no XFS superblock").mismatch("XFSB", "other"));
        }
        let version = f.u16_be(100)?;
        let v5 = match version & version::NUMBER {
            4 => false,
            5 => true,
            other => {
                return Err(f.unsupported(100, format!("XFS version {other}")));
            }
        };
        if v5 {
            check::crc(raw, 224, verify, NAME, 0)?;
        } else if version & version::DIRV2 == 0 {
            return Err(f.unsupported(100, "directories of version 1"));
        }
        check_features(&f, v5)?;
        let sb = Self::fields(&f, v5, version)?;
        sb.check_geometry(&f, disk_size)?;
        Ok(sb)
    }

    fn fields(f: &Fields<'_>, v5: bool, version: u16) -> Result<Self> {
        let features2 = if version & version::MOREBITS == 0 {
            0
        } else {
            f.u32_be(200)?
        };
        let incompat = if v5 { f.u32_be(216)? } else { 0 };
        let uuid = f.array::<16>(32)?;
        let label = f.bytes(108, 12)?;
        let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut sb = Self {
            block_size: f.u32_be(4)?,
            sector_size: f.u16_be(102)?,
            blocks: f.u64_be(8)?,
            free_blocks: f.u64_be(144)?,
            ag_blocks: f.u32_be(84)?,
            ag_count: f.u32_be(88)?,
            ag_block_log: f.u8(124)?,
            inode_size: f.u16_be(104)?,
            inodes_per_block_log: f.u8(123)?,
            root: f.u64_be(56)?,
            v5,
            ftype: if v5 {
                incompat & incompat::FTYPE != 0
            } else {
                features2 & FEATURES2_FTYPE != 0
            },
            ascii_ci: version & version::BORG != 0,
            log_incompat: if v5 { f.u32_be(220)? } else { 0 },
            dir_block_log: f.u8(192)?,
            uuid,
            meta_uuid: if incompat & incompat::META_UUID == 0 {
                uuid
            } else {
                f.array::<16>(248)?
            },
            label: label.to_vec(),
            log_start: f.u64_be(48)?,
            log_blocks: f.u32_be(96)?,
            features: features(f, v5, version, incompat)?,
        };
        if sb.log_start == 0 {
            return Err(f.unsupported(48, "log on another device"));
        }
        let logs = (f.u8(120)?, f.u8(122)?, f.u8(121)?);
        sb.check_sizes(f, logs)?;
        let last = u64::from(sb.log_blocks.max(1));
        sb.log_start = sb
            .run(sb.log_start, last)
            .ok_or_else(|| f.corrupt(48, "log lies outside the filesystem"))?;
        Ok(sb)
    }

    /// Sizes and their logarithms, which must agree before anything is shifted by them.
    fn check_sizes(&self, f: &Fields<'_>, logs: (u8, u8, u8)) -> Result<()> {
        let (block_log, inode_log, sector_log) = logs;
        let power = |size: u32, log: u8| 1u32.checked_shl(u32::from(log)) == Some(size);
        if !(512..=65_536).contains(&self.block_size) || !power(self.block_size, block_log) {
            return Err(f.corrupt(4, "impossible block size"));
        }
        if !(256..=2048).contains(&self.inode_size)
            || !power(u32::from(self.inode_size), inode_log)
            || block_log.checked_sub(inode_log) != Some(self.inodes_per_block_log)
        {
            return Err(f.corrupt(104, "impossible inode size"));
        }
        if !power(u32::from(self.sector_size), sector_log) {
            return Err(f.corrupt(102, "impossible sector size"));
        }
        let covers = 1u64
            .checked_shl(u32::from(self.ag_block_log))
            .is_some_and(|most| most >= u64::from(self.ag_blocks));
        if self.ag_blocks == 0 || self.ag_block_log > 31 || !covers {
            return Err(f.corrupt(84, "impossible size of allocation groups"));
        }
        if self.dir_block_log > 7 || self.dir_block_size() > 65_536 {
            return Err(f.corrupt(192, "impossible size of directory blocks"));
        }
        Ok(())
    }

    fn check_geometry(&self, f: &Fields<'_>, disk_size: u64) -> Result<()> {
        let groups = self.blocks.div_ceil(u64::from(self.ag_blocks.max(1)));
        if self.ag_count == 0 || groups != u64::from(self.ag_count) {
            return Err(f
                .corrupt(88, "allocation groups do not cover the filesystem")
                .mismatch(groups, self.ag_count));
        }
        let size = self.blocks.checked_mul(u64::from(self.block_size));
        if size.is_none_or(|size| size > disk_size) {
            return Err(f
                .corrupt(8, "filesystem is larger than its disk")
                .mismatch(
                    format!("at most {} blocks", div(disk_size, self.block_size.into())),
                    self.blocks,
                )
                .hint("the image may be cut off: compare its size with the original"));
        }
        Ok(())
    }

    /// Bytes of a directory block.
    pub(super) fn dir_block_size(&self) -> u32 {
        self.block_size
            .checked_shl(u32::from(self.dir_block_log))
            .unwrap_or(u32::MAX)
    }

    /// The first block on the disk of `count` blocks that begin at filesystem block `number`,
    /// where all of them are in one allocation group of the filesystem.
    pub(super) fn run(&self, number: u64, count: u64) -> Option<u64> {
        let group = number.checked_shr(u32::from(self.ag_block_log))?;
        let mask = 1u64
            .checked_shl(u32::from(self.ag_block_log))?
            .checked_sub(1)?;
        let within = number & mask;
        let inside = group < u64::from(self.ag_count)
            && within.checked_add(count)? <= u64::from(self.ag_blocks);
        let first = group
            .checked_mul(u64::from(self.ag_blocks))?
            .checked_add(within)?;
        (inside && first.checked_add(count)? <= self.blocks).then_some(first)
    }

    /// The number that the filesystem gives to a block of the disk.
    pub(super) fn number_of(&self, block: u64) -> u64 {
        let per = u64::from(self.ag_blocks);
        let high = div(block, per)
            .checked_shl(u32::from(self.ag_block_log))
            .unwrap_or(0);
        high | rem(block, per)
    }

    /// The block on the disk that holds inode `number`, and the byte in it where the inode begins.
    pub(super) fn place(&self, number: u64) -> Option<(u64, u64)> {
        let log = u32::from(self.inodes_per_block_log);
        let block = self.run(number.checked_shr(log)?, 1)?;
        let nth = number & 1u64.checked_shl(log)?.checked_sub(1)?;
        Some((block, nth.checked_mul(u64::from(self.inode_size))?))
    }

    /// A directory block's first byte that belongs to its index, in blocks of the file.
    pub(super) fn leaf_block(&self) -> u64 {
        div(32 << 30, u64::from(self.block_size))
    }

    /// Block size as a buffer's length.
    pub(super) fn block_len(&self) -> Result<usize> {
        length(u64::from(self.block_size))
    }
}

fn features(f: &Fields<'_>, v5: bool, version: u16, incompat: u32) -> Result<Features> {
    let ro = if v5 { f.u32_be(212)? } else { 0 };
    let known =
        ro_compat::FREE_INODES | ro_compat::OWNERS | ro_compat::SHARED | ro_compat::INODE_BLOCKS;
    let log_v2 = version & version::LOGV2 != 0;
    let (log_sector, log_unit) = (u32::from(f.u16_be(194)?), f.u32_be(196)?);
    Ok(Features {
        free_inodes: ro & ro_compat::FREE_INODES != 0,
        owners: ro & ro_compat::OWNERS != 0,
        shared: ro & ro_compat::SHARED != 0,
        sparse_inodes: incompat & incompat::SPARSE_INODES != 0,
        bigtime: incompat & incompat::BIGTIME != 0,
        nrext64: incompat & incompat::NREXT64 != 0,
        parent: incompat & incompat::PARENT != 0,
        metadir: incompat & incompat::METADIR != 0,
        quota: f.u16_be(176)? != 0,
        unknown_ro: ro & !known,
        log_v2,
        log_unit: log_sector.max(if log_v2 { log_unit } else { 0 }).max(512),
    })
}

fn check_features(f: &Fields<'_>, v5: bool) -> Result<()> {
    if f.u8(126)? != 0 {
        return Err(f
            .corrupt(126, "mkfs did not finish this filesystem")
            .hint("make it again"));
    }
    if f.u64_be(16)? != 0 {
        return Err(f.unsupported(16, "realtime section"));
    }
    if !v5 {
        return Ok(());
    }
    let bits = f.u32_be(216)?;
    if bits & incompat::NEEDSREPAIR != 0 {
        return Err(f
            .unsupported(216, "filesystem is marked as needing repair")
            .hint("run xfs_repair on a copy of the original"));
    }
    if bits & (incompat::ZONED | incompat::ZONE_GAPS) != 0 {
        return Err(f.unsupported(216, "zoned realtime section"));
    }
    let unknown = bits & !incompat::READ;
    if unknown != 0 {
        return Err(f
            .unsupported(216, format!("unknown incompatible features {unknown:#x}"))
            .hint(HEADER_HINT));
    }
    Ok(())
}
