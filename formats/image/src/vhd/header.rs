//! The dynamic disk header: where the block allocation table is, and who the parent is.
//!
//! Specification 1.0, "Dynamic Disk Header Format".

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage};

use super::footer::{NOWHERE, VERSION, seal};
use super::{SECTOR, checksum};

/// Length in bytes.
pub(super) const HEADER_LEN: usize = 1024;

pub(super) const STRUCTURE: &str = "dynamic disk header";

const HEADER_COOKIE: &[u8; 8] = b"cxsparse";

/// Byte of the checksum.
pub(super) const CHECKSUM_AT: usize = 36;

/// Parent locator entries: how many, where, and how long each is.
const LOCATORS: usize = 8;
pub(super) const LOCATORS_AT: usize = 576;
pub(super) const LOCATOR_LEN: usize = 24;

/// Table entries that are kept in memory (64 MiB), for disks of 32 TiB in usual blocks. Ours.
const MAX_ENTRIES: u64 = 16 << 20;

/// A dynamic disk header, checked.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// Where it is.
    pub(super) at: u64,
    /// Where the block allocation table is.
    pub(super) table: u64,
    /// Entries of the table that the disk needs.
    pub(super) entries: u64,
    /// Guest bytes per block, a power of two.
    pub(super) block: NonZeroU64,
    pub(super) parent: Parent,
}

/// What a differencing disk says of its parent.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    pub(super) unique_id: [u8; 16],
    /// Seconds since 2000; 0 when not recorded.
    pub(super) timestamp: u32,
    /// UTF-16, big endian.
    pub(super) unicode_name: Vec<u8>,
    pub(super) locators: Vec<Locator>,
}

/// One of several names of the parent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locator {
    /// Where in the file the entry is.
    pub(super) entry: u64,
    pub(super) code: [u8; 4],
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Header {
    /// The header at byte `at` of `storage`, for a disk of `size` bytes.
    ///
    /// # Errors
    /// Corrupt when it is not there, its checksum fails, or its table is too short or outside the
    /// file.
    pub(super) fn read(storage: &dyn Storage, at: u64, size: u64) -> Result<Self> {
        let mut bytes = vec![0; HEADER_LEN];
        if storage.size().saturating_sub(at) < 1024 {
            return Err(Fields::new(&[], STRUCTURE, at)
                .corrupt(0, "lies past the end of the file")
                .mismatch(format!("an end of at most {}", storage.size()), at));
        }
        storage.read_at(&mut bytes, at)?;
        let fields = Fields::new(&bytes, STRUCTURE, at);
        if fields.array(0)? != *HEADER_COOKIE {
            return Err(fields.corrupt(0, "cookie is not \"cxsparse\""));
        }
        let (computed, stored) = (checksum(&bytes, CHECKSUM_AT), fields.u32_be(CHECKSUM_AT)?);
        if computed != stored {
            return Err(fields
                .corrupt(CHECKSUM_AT, "checksum does not match")
                .mismatch(format!("{computed:#010x}"), format!("{stored:#010x}")));
        }
        Self::parse(&fields, at, size, storage.size())
    }

    fn parse(fields: &Fields<'_>, at: u64, size: u64, file_size: u64) -> Result<Self> {
        let version = fields.u32_be(24)?;
        if version >> 16 != VERSION >> 16 {
            return Err(fields
                .unsupported(24, "header version is unknown")
                .mismatch("1.0", format!("{}.{}", version >> 16, version & 0xffff)));
        }
        let block = u64::from(fields.u32_be(32)?);
        let block = NonZeroU64::new(block)
            .filter(|block| block.is_power_of_two() && block.get() >= SECTOR)
            .ok_or_else(|| {
                fields
                    .corrupt(32, "block size is out of range")
                    .mismatch("a power of two from 512", block)
            })?;
        let table = fields.u64_be(16)?;
        let max = u64::from(fields.u32_be(28)?);
        let entries = size.div_ceil(block.get());
        if entries > max {
            return Err(fields
                .corrupt(28, "block allocation table is too short for the disk")
                .mismatch(format!("at least {entries} entries"), max));
        }
        if entries > MAX_ENTRIES {
            return Err(fields
                .unsupported(28, "block allocation table is too long")
                .mismatch(format!("at most {MAX_ENTRIES} entries"), entries));
        }
        let end = table.saturating_add(entries.saturating_mul(4));
        if end > file_size {
            return Err(fields
                .corrupt(16, "block allocation table lies past the end of the file")
                .mismatch(format!("an end of at most {file_size}"), end)
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        Ok(Self {
            at,
            table,
            entries,
            block,
            parent: Parent::parse(fields)?,
        })
    }

    /// Length in bytes of the sector bitmap before each block.
    pub(super) fn bitmap_len(&self) -> u64 {
        bitmap_len(self.block.get())
    }
}

/// Length in bytes of the sector bitmap before a block of `block` bytes.
pub(super) const fn bitmap_len(block: u64) -> u64 {
    (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}

impl Parent {
    /// The parent that the header in `fields` describes.
    ///
    /// # Errors
    /// Corrupt when the header is too short.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let mut locators = Vec::new();
        for nth in 0..LOCATORS {
            let at = nth.saturating_mul(LOCATOR_LEN).saturating_add(LOCATORS_AT);
            let entry = Fields::new(
                fields.bytes(at, LOCATOR_LEN)?,
                STRUCTURE,
                fields.offset_of(at),
            );
            let locator = Locator {
                entry: entry.offset_of(0),
                code: entry.array(0)?,
                len: u64::from(entry.u32_be(8)?),
                offset: entry.u64_be(16)?,
            };
            if locator.code != [0; 4] {
                locators.push(locator);
            }
        }
        Ok(Self {
            unique_id: fields.array(40)?,
            timestamp: fields.u32_be(56)?,
            unicode_name: fields.bytes(64, 512)?.to_vec(),
            locators,
        })
    }
}

/// The header of a new dynamic disk.
pub(super) fn encode(table: u64, entries: u32, block: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    bytes.extend(HEADER_COOKIE);
    bytes.extend(NOWHERE.to_be_bytes());
    bytes.extend(table.to_be_bytes());
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend(entries.to_be_bytes());
    bytes.extend(block.to_be_bytes());
    bytes.resize(HEADER_LEN, 0);
    seal(bytes, CHECKSUM_AT)
}
