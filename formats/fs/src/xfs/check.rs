//! What every version 5 structure carries: a CRC32C, the filesystem's UUID and its owner.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Self-Describing Metadata". The checksum is
//! stored little endian and covers the structure with its own four bytes as zero.

use rehost_block::{Fields, Result};

use super::superblock::Superblock;

/// What can be done about a structure that fails its own checks.
pub(super) const HEADER_HINT: &str = "run xfs_repair on a copy of the original";

/// Whether a checksum counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// It was written with the rest of the structure.
    Stored,
    /// A replayed log changed a part of the structure; the log's own checksum covers the change.
    Replayed,
}

/// Compares the checksum at byte `at` of `raw`, a `structure` at byte `offset` of the disk.
pub(super) fn crc(
    raw: &[u8],
    at: usize,
    verify: Verify,
    structure: &'static str,
    offset: u64,
) -> Result<()> {
    if verify == Verify::Replayed {
        return Ok(());
    }
    let f = Fields::new(raw, structure, offset);
    let stored = f.u32_le(at)?;
    let sum = sum(raw, at);
    if sum == stored {
        return Ok(());
    }
    Err(f
        .corrupt(at, "checksum does not match")
        .mismatch(format!("{sum:#010x}"), format!("{stored:#010x}"))
        .hint(HEADER_HINT))
}

/// The checksum of a structure that keeps it at byte `at`.
pub(super) fn sum(raw: &[u8], at: usize) -> u32 {
    let before = raw.get(..at).unwrap_or_default();
    let after = raw.get(at.saturating_add(4)..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, after)
}

/// Where a version 5 block keeps what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) crc: usize,
    pub(super) uuid: usize,
    pub(super) owner: usize,
    /// Its own address, in units of 512 bytes.
    pub(super) address: usize,
}

/// Directory data blocks.
pub(super) const DIR: Places = Places {
    crc: 4,
    uuid: 24,
    owner: 40,
    address: 8,
};
/// Nodes and leaves of attribute trees.
pub(super) const TREE: Places = Places {
    crc: 12,
    uuid: 32,
    owner: 48,
    address: 16,
};
/// Remote attribute values and symbolic links.
pub(super) const REMOTE: Places = Places {
    crc: 12,
    uuid: 16,
    owner: 32,
    address: 40,
};
/// Blocks of extent trees.
pub(super) const EXTENTS: Places = Places {
    crc: 64,
    uuid: 40,
    owner: 56,
    address: 24,
};

/// A block as read, with what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) raw: &'a [u8],
    pub(super) structure: &'static str,
    /// Byte offset on the disk.
    pub(super) offset: u64,
    pub(super) verify: Verify,
}

impl<'a> Block<'a> {
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields::new(self.raw, self.structure, self.offset)
    }

    /// Checks checksum, UUID, owner and address of a version 5 block of inode `owner`.
    pub(super) fn check(&self, places: Places, sb: &Superblock, owner: u64) -> Result<()> {
        crc(
            self.raw,
            places.crc,
            self.verify,
            self.structure,
            self.offset,
        )?;
        let f = self.fields();
        if f.array::<16>(places.uuid)? != sb.meta_uuid {
            return Err(f.corrupt(places.uuid, "belongs to another filesystem"));
        }
        let found = f.u64_be(places.owner)?;
        if found != owner {
            return Err(f
                .corrupt(places.owner, "belongs to another file")
                .mismatch(format!("inode {owner}"), found));
        }
        let address = f.u64_be(places.address)?;
        if address != self.offset >> 9 {
            return Err(f
                .corrupt(places.address, "was written for another place")
                .mismatch(self.offset >> 9, address));
        }
        Ok(())
    }
}
