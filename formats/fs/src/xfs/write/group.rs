//! Allocation groups' headers, and the superblock's counters.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Allocation Groups".

use rehost_block::{Error, Fields, Result};

use super::super::check::{self, Verify};
use super::change::Change;
use super::stamp::{Kind, put32, put64};
use crate::number::index;

/// One of a group's two headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    FreeSpace,
    Inodes,
}

impl Header {
    const fn name(self) -> &'static str {
        match self {
            Self::FreeSpace => "header of free space",
            Self::Inodes => "header of inodes",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::FreeSpace => Kind::FreeSpace,
            Self::Inodes => Kind::Inodes,
        }
    }
}

/// Places in the header of free space.
pub(super) mod free_space {
    pub(in super::super) const FREE: usize = 52;
    pub(in super::super) const LONGEST: usize = 56;
}

/// Places in the header of inodes.
pub(super) mod inodes {
    pub(in super::super) const COUNT: usize = 16;
    pub(in super::super) const FREE: usize = 28;
    /// The first inode of the chunk that was made last.
    pub(in super::super) const NEWEST: usize = 32;
}

/// Counters of the superblock.
pub(super) mod counter {
    pub(in super::super) const INODES: usize = 128;
    pub(in super::super) const FREE_INODES: usize = 136;
    pub(in super::super) const FREE_BLOCKS: usize = 144;
}

impl Change<'_> {
    fn header_place(&self, group: u32, header: Header) -> (u64, usize) {
        let sector = u64::from(self.fs.sb.sector_size);
        let nth = match header {
            Header::FreeSpace => 1,
            Header::Inodes => 2u64,
        };
        let start = self.fs.blocks.offset(self.group_start(group));
        let at = start.saturating_add(sector.saturating_mul(nth));
        (at, usize::from(self.fs.sb.sector_size))
    }

    /// The first block on the disk of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(group).saturating_mul(self.fs.sb.ag_blocks.into())
    }

    /// A header, checked.
    pub(super) fn header(&self, group: u32, header: Header) -> Result<Vec<u8>> {
        if group >= self.fs.sb.ag_count {
            return Err(Error::internal("no such allocation group"));
        }
        let (at, len) = self.header_place(group, header);
        let raw = self.read(at, len)?;
        let f = Fields::new(&raw, header.name(), at);
        let (magic, sum, uuid): (&[u8], _, _) = match header {
            Header::FreeSpace => (b"XAGF", 216, 64),
            Header::Inodes => (b"XAGI", 312, 296),
        };
        if f.bytes(0, 4)? != magic || f.u32_be(8)? != group {
            return Err(f
                .corrupt(0, "no header of this group")
                .hint(check::HEADER_HINT));
        }
        if self.fs.sb.v5 {
            check::crc(&raw, sum, Verify::Stored, header.name(), at)?;
            if f.array::<16>(uuid)? != self.fs.sb.meta_uuid {
                return Err(f.corrupt(uuid, "belongs to another filesystem"));
            }
        }
        Ok(raw)
    }

    /// A number of a header.
    pub(super) fn header_u32(&self, group: u32, header: Header, at: usize) -> Result<u32> {
        let raw = self.header(group, header)?;
        Fields::new(&raw, header.name(), 0).u32_be(at)
    }

    /// Sets a number of a header.
    pub(super) fn set_header_u32(
        &mut self,
        group: u32,
        header: Header,
        at: usize,
        value: u32,
    ) -> Result<()> {
        let mut raw = self.header(group, header)?;
        put32(&mut raw, at, value)?;
        let (place, _) = self.header_place(group, header);
        self.put(header.kind(), place, raw)
    }

    /// Adds to a number of a header.
    pub(super) fn count_in_header(
        &mut self,
        group: u32,
        header: Header,
        at: usize,
        by: i64,
    ) -> Result<()> {
        let now = i64::from(self.header_u32(group, header, at)?);
        let then = now
            .checked_add(by)
            .and_then(|count| u32::try_from(count).ok())
            .ok_or_else(|| {
                Error::corrupt("counter of a group is wrong")
                    .in_structure(header.name())
                    .hint(check::HEADER_HINT)
            })?;
        self.set_header_u32(group, header, at, then)
    }

    /// The superblock's bytes as this change sees them.
    pub(super) fn superblock(&self) -> Result<Vec<u8>> {
        self.read(0, usize::from(self.fs.sb.sector_size))
    }

    pub(super) fn put_superblock(&mut self, raw: Vec<u8>) -> Result<()> {
        self.put(Kind::Superblock, 0, raw)
    }

    /// A counter of the superblock.
    pub(super) fn counter(&self, at: usize) -> Result<u64> {
        Fields::new(&self.superblock()?, "superblock", 0).u64_be(at)
    }

    /// Adds to a counter of the superblock.
    pub(super) fn count(&mut self, at: usize, by: i64) -> Result<()> {
        let mut raw = self.superblock()?;
        let now = Fields::new(&raw, "superblock", 0).u64_be(at)?;
        let then = now.checked_add_signed(by).ok_or_else(|| {
            Error::corrupt("counter is wrong")
                .in_structure("superblock")
                .at(u64::try_from(at).unwrap_or(0))
                .hint(check::HEADER_HINT)
        })?;
        put64(&mut raw, at, then)?;
        self.put_superblock(raw)
    }

    /// Bytes of a block, as a length.
    pub(super) fn block_len(&self) -> usize {
        index(self.fs.sb.block_size)
    }
}
