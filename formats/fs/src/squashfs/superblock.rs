//! The superblock: 96 bytes at the start of the disk.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst` and `fs/squashfs/squashfs_fs.h` (field
//! offsets only).

use rehost_block::{Disk, Error, Fields, Result};

use super::codec::Compressor;

pub(super) const NAME: &str = "superblock";

/// What a table's place holds when there is none.
const NONE: u64 = u64::MAX;

/// What can be done about an image that is cut off.
const CUT: &str = "the image may be cut off: compare its size with the original";

/// The fields that reading needs.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) compressor: Compressor,
    /// Number of fragment blocks.
    pub(super) fragments: u32,
    /// Number of owners.
    pub(super) ids: u16,
    pub(super) root: u64,
    /// Bytes of the filesystem.
    pub(super) used: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: Option<u64>,
    pub(super) inode_table: u64,
    pub(super) dir_table: u64,
    pub(super) fragment_table: Option<u64>,
}

impl Superblock {
    pub(super) fn read(disk: &dyn Disk) -> Result<Self> {
        let mut raw = [0; 96];
        if disk.size() < 96 {
            return Err(Error::corrupt("disk is smaller than a superblock").in_structure(NAME));
        }
        disk.read_at(&mut raw, 0)?;
        let f = Fields::new(&raw, NAME, 0);
        if f.bytes(0, 4)? != b"hsqs" {
            return Err(f.corrupt(0, "no squashfs superblock"));
        }
        let (major, minor) = (f.u16_le(28)?, f.u16_le(30)?);
        if (major, minor) != (4, 0) {
            return Err(f.unsupported(28, format!("squashfs version {major}.{minor}")));
        }
        let block_size = f.u32_le(12)?;
        let log = u32::from(f.u16_le(22)?);
        if !(4096..=1 << 20).contains(&block_size) || 1u32.checked_shl(log) != Some(block_size) {
            return Err(f
                .corrupt(12, "impossible block size")
                .mismatch("a power of two from 4 KiB to 1 MiB", block_size));
        }
        let present = |place: u64| (place != NONE).then_some(place);
        let sb = Self {
            block_size,
            compressor: Compressor::parse(&f, 20)?,
            fragments: f.u32_le(16)?,
            ids: f.u16_le(26)?,
            root: f.u64_le(32)?,
            used: f.u64_le(40)?,
            id_table: f.u64_le(48)?,
            xattr_table: present(f.u64_le(56)?),
            inode_table: f.u64_le(64)?,
            dir_table: f.u64_le(72)?,
            fragment_table: present(f.u64_le(80)?),
        };
        sb.check(&f, disk.size())?;
        Ok(sb)
    }

    fn check(&self, f: &Fields<'_>, disk_size: u64) -> Result<()> {
        if self.used > disk_size {
            return Err(f
                .corrupt(40, "filesystem is larger than its disk")
                .mismatch(format!("at most {disk_size} bytes"), self.used)
                .hint(CUT));
        }
        for (at, place) in [
            (48, Some(self.id_table)),
            (56, self.xattr_table),
            (64, Some(self.inode_table)),
            (72, Some(self.dir_table)),
            (80, self.fragment_table),
        ] {
            if place.is_some_and(|place| place < 96 || place >= self.used) {
                return Err(f.corrupt(at, "a table lies outside the filesystem"));
            }
        }
        if self.inode_table >= self.dir_table {
            return Err(f.corrupt(72, "the directory table lies before the inodes"));
        }
        Ok(())
    }
}
