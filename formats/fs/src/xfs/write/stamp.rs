//! Checked stores into the bytes of an on-disk structure, and what each structure carries of itself.

use rehost_block::{Error, Result};

use super::super::check;

/// Stores `value` at byte `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    at.checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end))
        .ok_or_else(|| Error::internal(format!("a field at byte {at} exceeds its structure")))?
        .copy_from_slice(value);
    Ok(())
}

pub(super) fn put8(bytes: &mut [u8], at: usize, value: u8) -> Result<()> {
    put(bytes, at, &[value])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Result<()> {
    put(bytes, at, &value.to_be_bytes())
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) -> Result<()> {
    put(bytes, at, &value.to_be_bytes())
}

pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) -> Result<()> {
    put(bytes, at, &value.to_be_bytes())
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Superblock,
    /// Header of a group's free space.
    FreeSpace,
    /// Header of a group's inodes.
    Inodes,
    /// A block of a group's tree.
    Tree,
    /// A block of inodes; each is stamped on its own.
    InodeTable,
    /// A directory of one block.
    DirBlock,
    /// Names of a directory with an index.
    DirData,
    /// The index of such a directory, while it fits into one block.
    DirLeaf,
    /// A part of a larger index.
    DirLeafOfMany,
    /// What is above the parts of a larger index.
    DirNode,
    /// Where the data blocks have room.
    DirFree,
}

impl Kind {
    /// `XFS_BLFT_*`.
    pub(super) const fn logged_as(self) -> u16 {
        match self {
            Self::Tree => 4,
            Self::FreeSpace => 5,
            Self::Inodes => 7,
            Self::InodeTable => 8,
            Self::DirBlock => 10,
            Self::DirData => 11,
            Self::DirFree => 12,
            Self::DirLeaf => 13,
            Self::DirLeafOfMany => 14,
            Self::DirNode => 15,
            Self::Superblock => 18,
        }
    }

    /// Where the sequence number and the checksum of a version 5 structure are.
    const fn places(self) -> Option<(usize, usize)> {
        match self {
            Self::Superblock => Some((240, 224)),
            Self::FreeSpace => Some((208, 216)),
            Self::Inodes => Some((320, 312)),
            Self::Tree => Some((24, 52)),
            Self::InodeTable => None,
            Self::DirBlock | Self::DirData | Self::DirFree => Some((16, 4)),
            Self::DirLeaf | Self::DirLeafOfMany | Self::DirNode => Some((24, 12)),
        }
    }

    /// Gives a version 5 structure its sequence number and its checksum.
    pub(super) fn seal(self, raw: &mut [u8], lsn: u64) -> Result<()> {
        match self.places() {
            Some((at, sum)) => seal(raw, at, sum, lsn),
            None => Ok(()),
        }
    }
}

/// Gives an inode of version 3 its sequence number and its checksum.
pub(super) fn seal_inode(raw: &mut [u8], lsn: u64) -> Result<()> {
    seal(raw, 112, 100, lsn)
}

fn seal(raw: &mut [u8], at: usize, sum_at: usize, lsn: u64) -> Result<()> {
    put64(raw, at, lsn)?;
    let sum = check::sum(raw, sum_at);
    put(raw, sum_at, &sum.to_le_bytes())
}
