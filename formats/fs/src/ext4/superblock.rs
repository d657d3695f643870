//! The superblock: features, geometry and identity.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`. Leaves out the backup superblocks on
//! purpose: a filesystem whose primary is damaged needs `e2fsck`, and the error says so.

use rehost_block::{Disk, Error, Fields, Result};

use super::checksum::crc32c;
use super::features::{Features, compat, incompat, ro_compat};
use crate::number::{div_up, join, wide};

/// Byte offset of the superblock.
pub(super) const AT: u64 = 1024;

/// Its length.
pub(super) const LEN: usize = 1024;

/// Largest block: 64 KiB (`EXT4_MAX_BLOCK_LOG_SIZE`).
const MOST_LOG_BLOCK: u32 = 6;

/// What the superblock says, checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// All of it, as stored.
    pub(super) raw: Vec<u8>,
    pub(super) features: Features,
    pub(super) inodes_count: u32,
    pub(super) blocks_count: u64,
    pub(super) first_data_block: u32,
    pub(super) block_size: u32,
    /// Blocks per cluster; 1 without `bigalloc`.
    pub(super) cluster_ratio: u32,
    pub(super) blocks_per_group: u32,
    pub(super) clusters_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) desc_size: u16,
    pub(super) first_ino: u32,
    pub(super) groups: u32,
    pub(super) first_meta_bg: u32,
    pub(super) uuid: [u8; 16],
    pub(super) label: Vec<u8>,
    /// The seed of every metadata checksum.
    pub(super) seed: u32,
    pub(super) hash_seed: [u32; 4],
    pub(super) hash_version: u8,
    /// Whether directory hashes take characters as unsigned.
    pub(super) hash_unsigned: bool,
    pub(super) journal_inum: u32,
    pub(super) last_orphan: u32,
    pub(super) state: u16,
    pub(super) mmp_block: u64,
    pub(super) want_extra_isize: u16,
}

impl Superblock {
    /// Reads and checks the superblock of `disk`.
    pub(super) fn read(disk: &dyn Disk) -> Result<Self> {
        if disk.size() < AT.saturating_add(wide(LEN)) {
            return Err(Error::corrupt("disk is too small for a superblock")
                .in_structure("superblock")
                .mismatch("at least 2048 bytes", disk.size()));
        }
        let mut raw = vec![0; LEN];
        disk.read_at(&mut raw, AT)?;
        let parsed = Self::parse(raw)?;
        let bytes = parsed
            .blocks_count
            .saturating_mul(u64::from(parsed.block_size));
        if bytes > disk.size() {
            return Err(Error::corrupt("filesystem is larger than its disk")
                .in_structure("superblock")
                .at(AT.saturating_add(4))
                .mismatch(format!("at most {} bytes", disk.size()), bytes)
                .hint("the image may be truncated: compare its size with the original disk"));
        }
        Ok(parsed)
    }

    fn parse(raw: Vec<u8>) -> Result<Self> {
        let f = Fields::new(&raw, "superblock", AT);
        if f.u16_le(0x38)? != 0xef53 {
            return Err(f
                .corrupt(0x38, "not an ext2, ext3 or ext4 filesystem")
                .mismatch("magic 0xef53", format!("{:#x}", f.u16_le(0x38)?)));
        }
        let dynamic = f.u32_le(0x4c)? >= 1;
        let features = if dynamic {
            Features {
                compat: f.u32_le(0x5c)?,
                incompat: f.u32_le(0x60)?,
                ro_compat: f.u32_le(0x64)?,
            }
        } else {
            Features {
                compat: 0,
                incompat: 0,
                ro_compat: 0,
            }
        };
        // The name of an unknown feature says more than a checksum in an unknown place.
        features.check_readable(AT.saturating_add(0x60))?;
        if features.ro_compat(ro_compat::METADATA_CSUM) {
            if f.u8(0x175)? != 1 {
                return Err(f.unsupported(0x175, "checksum algorithm other than crc32c"));
            }
            let computed = crc32c(!0, f.bytes(0, 0x3fc)?);
            if computed != f.u32_le(0x3fc)? {
                return Err(checksum_error(&f, 0x3fc, computed, f.u32_le(0x3fc)?)
                    .hint("run e2fsck on the original"));
            }
        }
        let wide64 = features.incompat(incompat::BIT64);
        let log_block = f.u32_le(0x18)?;
        if log_block > MOST_LOG_BLOCK {
            return Err(f.corrupt(0x18, "block size exceeds 64 KiB"));
        }
        let block_size = 1024u32.checked_shl(log_block).unwrap_or(1024);
        let hi = |at: usize| if wide64 { f.u32_le(at) } else { Ok(0) };
        let uuid = f.array::<16>(0x68)?;
        let seed = if features.incompat(incompat::CSUM_SEED) {
            f.u32_le(0x270)?
        } else {
            crc32c(!0, &uuid)
        };
        let label: Vec<u8> = f
            .bytes(0x78, 16)?
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect();
        let bigalloc = features.ro_compat(ro_compat::BIGALLOC);
        let cluster_ratio = if bigalloc {
            let log = f.u32_le(0x1c)?;
            match log.checked_sub(log_block) {
                Some(shift) if shift <= 24 => 1u32.checked_shl(shift).unwrap_or(1),
                _ => return Err(f.corrupt(0x1c, "cluster size makes no sense")),
            }
        } else {
            1
        };
        let mut sb = Self {
            features,
            inodes_count: f.u32_le(0)?,
            blocks_count: join(f.u32_le(4)?, hi(0x150)?),
            first_data_block: f.u32_le(0x14)?,
            block_size,
            cluster_ratio,
            blocks_per_group: f.u32_le(0x20)?,
            clusters_per_group: if bigalloc {
                f.u32_le(0x24)?
            } else {
                f.u32_le(0x20)?
            },
            inodes_per_group: f.u32_le(0x28)?,
            inode_size: if dynamic { f.u16_le(0x58)? } else { 128 },
            desc_size: if wide64 { f.u16_le(0xfe)? } else { 32 },
            first_ino: if dynamic { f.u32_le(0x54)? } else { 11 },
            groups: 0,
            first_meta_bg: f.u32_le(0x104)?,
            uuid,
            label,
            seed,
            hash_seed: [
                f.u32_le(0xec)?,
                f.u32_le(0xf0)?,
                f.u32_le(0xf4)?,
                f.u32_le(0xf8)?,
            ],
            hash_version: f.u8(0xfc)?,
            hash_unsigned: f.u32_le(0x160)? & 2 != 0,
            journal_inum: f.u32_le(0xe0)?,
            last_orphan: f.u32_le(0xe8)?,
            state: f.u16_le(0x3a)?,
            mmp_block: f.u64_le(0x168)?,
            want_extra_isize: f.u16_le(0x15e)?,
            raw: Vec::new(),
        };
        sb.check_geometry(&f)?;
        sb.raw = raw;
        Ok(sb)
    }

    fn check_geometry(&mut self, f: &Fields<'_>) -> Result<()> {
        let bits = self.block_size.saturating_mul(8);
        let bad = |at: usize, what: &str, found: u64| {
            Err(f.corrupt(at, what).mismatch("a possible value", found))
        };
        if self.blocks_per_group == 0
            || self.blocks_per_group > bits.saturating_mul(self.cluster_ratio)
        {
            return bad(0x20, "blocks per group", u64::from(self.blocks_per_group));
        }
        if self.clusters_per_group == 0
            || self.clusters_per_group > bits
            || u64::from(self.clusters_per_group).saturating_mul(u64::from(self.cluster_ratio))
                != u64::from(self.blocks_per_group)
        {
            return bad(
                0x24,
                "clusters per group",
                u64::from(self.clusters_per_group),
            );
        }
        if self.inodes_per_group == 0 || self.inodes_per_group > bits {
            return bad(0x28, "inodes per group", u64::from(self.inodes_per_group));
        }
        if self.inode_size < 128
            || !self.inode_size.is_power_of_two()
            || u32::from(self.inode_size) > self.block_size
        {
            return bad(0x58, "inode size", u64::from(self.inode_size));
        }
        let descriptor = self.features.incompat(incompat::BIT64);
        if descriptor && (self.desc_size < 64 || !self.desc_size.is_power_of_two())
            || self.desc_size > 1024
        {
            return bad(0xfe, "group descriptor size", u64::from(self.desc_size));
        }
        let first = u64::from(self.first_data_block);
        if self.blocks_count <= first || (self.block_size > 1024 && first != 0) || first > 1 {
            return bad(0x14, "first data block", first);
        }
        let groups = div_up(
            self.blocks_count.saturating_sub(first),
            u64::from(self.blocks_per_group),
        );
        let Ok(groups) = u32::try_from(groups) else {
            return bad(0x4, "number of block groups", groups);
        };
        self.groups = groups;
        let most = u64::from(groups).saturating_mul(u64::from(self.inodes_per_group));
        if u64::from(self.inodes_count) > most || self.inodes_count < 10 {
            return bad(0x0, "number of inodes", u64::from(self.inodes_count));
        }
        Ok(())
    }

    pub(super) const fn has_checksums(&self) -> bool {
        self.features.ro_compat(ro_compat::METADATA_CSUM)
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(group)
            .saturating_mul(u64::from(self.blocks_per_group))
            .saturating_add(u64::from(self.first_data_block))
    }

    /// Blocks in a group; fewer in the last.
    pub(super) fn group_len(&self, group: u32) -> u32 {
        let left = self.blocks_count.saturating_sub(self.group_start(group));
        u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(self.blocks_per_group)
    }

    /// Whether a group starts with a copy of the superblock.
    pub(super) fn has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.compat(compat::SPARSE_SUPER2) {
            let f = Fields::new(&self.raw, "superblock", AT);
            return [0x24c, 0x250]
                .iter()
                .any(|at| f.u32_le(*at).is_ok_and(|backup| backup == group));
        }
        if group == 1 || !self.features.ro_compat(ro_compat::SPARSE_SUPER) {
            return true;
        }
        [3u32, 5, 7].iter().any(|base| {
            let mut power = *base;
            // Ends because it grows to `group` or past it, or stops at the width of the number.
            while power < group {
                match power.checked_mul(*base) {
                    Some(next) => power = next,
                    None => return false,
                }
            }
            power == group
        })
    }

    /// The block that holds part `nth` of the group descriptor table.
    pub(super) fn descriptor_block(&self, nth: u32) -> u64 {
        let sb_block = u64::from(self.block_size == 1024);
        if !self.features.incompat(incompat::META_BG) || nth < self.first_meta_bg {
            return sb_block.saturating_add(1).saturating_add(u64::from(nth));
        }
        let group = nth.saturating_mul(self.descriptors_per_block());
        let mut skip = u64::from(self.has_super(group));
        if self.block_size == 1024 && nth == 0 && self.first_data_block == 0 {
            skip = skip.saturating_add(1);
        }
        self.group_start(group).saturating_add(skip)
    }

    pub(super) fn descriptors_per_block(&self) -> u32 {
        self.block_size
            .checked_div(u32::from(self.desc_size))
            .unwrap_or(1)
            .max(1)
    }

    /// Blocks of one group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        div_up(
            u64::from(self.inodes_per_group).saturating_mul(u64::from(self.inode_size)),
            u64::from(self.block_size),
        )
    }

    /// Free blocks, as the superblock says.
    pub(super) fn free_blocks(&self) -> u64 {
        let f = Fields::new(&self.raw, "superblock", AT);
        let hi = if self.features.incompat(incompat::BIT64) {
            f.u32_le(0x158).unwrap_or(0)
        } else {
            0
        };
        join(f.u32_le(0xc).unwrap_or(0), hi).saturating_mul(u64::from(self.cluster_ratio))
    }

    /// The UUID as blkid prints it.
    pub(super) fn uuid_text(&self) -> Option<String> {
        uuid_text(&self.uuid)
    }
}

/// `ext2`, `ext3`, `ext4`, or `jbd` for an external journal, of a superblock's bytes.
pub(crate) fn kind_of_raw(f: &Fields<'_>) -> Result<&'static str> {
    let features = Features {
        compat: f.u32_le(0x5c)?,
        incompat: f.u32_le(0x60)?,
        ro_compat: f.u32_le(0x64)?,
    };
    Ok(if features.incompat(incompat::JOURNAL_DEV) {
        "jbd"
    } else {
        features.kind()
    })
}

/// A UUID in its usual form; `None` when it is all zeroes.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> Option<String> {
    if uuid.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (nth, byte) in uuid.iter().enumerate() {
        if matches!(nth, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

/// "Checksum does not match", with both values.
pub(super) fn checksum_error(f: &Fields<'_>, at: usize, computed: u32, stored: u32) -> Error {
    f.corrupt(at, "checksum does not match")
        .mismatch(format!("{computed:#010x}"), format!("{stored:#010x}"))
}
