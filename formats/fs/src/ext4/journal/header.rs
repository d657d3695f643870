//! The journal's own superblock (big endian, like all of the journal).

use rehost_block::{Error, Fields, Result};

use super::super::checksum::crc32c;
use super::super::superblock::checksum_error;

/// Magic of every block that the journal itself wrote.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// Length of the superblock, whatever the block size.
const LEN: usize = 1024;

const COMPAT_CHECKSUM: u32 = 1;
const REVOKE: u32 = 1;
const BIT64: u32 = 2;
const ASYNC_COMMIT: u32 = 4;
const CSUM_V2: u32 = 8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;

/// Blocks of the fast commit area where the superblock leaves it open (`JBD2_DEFAULT_FAST_COMMIT_BLOCKS`).
const FAST_DEFAULT: u32 = 256;

/// How transactions are checksummed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    None,
    /// One crc32 in the commit block.
    V1,
    /// crc32c of every block, 16 bits of it in the tags.
    V2,
    /// crc32c of every block, all of it in the tags.
    V3,
}

impl Checksums {
    pub(super) const fn in_every_block(self) -> bool {
        matches!(self, Self::V2 | Self::V3)
    }
}

/// What the superblock says, checked.
#[derive(Debug)]
pub(super) struct JournalHeader {
    raw: Vec<u8>,
    /// First block of the ring.
    pub(super) first: u32,
    /// Block after the ring.
    pub(super) end: u32,
    /// Block at which the log starts; 0 when it is empty.
    pub(super) start: u32,
    /// Sequence number of the first transaction in the log.
    pub(super) sequence: u32,
    pub(super) checksums: Checksums,
    /// Seed of the crc32c checksums.
    pub(super) seed: u32,
    pub(super) bit64: bool,
    pub(super) async_commit: bool,
    /// First block of the fast commit area, where there is one.
    pub(super) fast: Option<u32>,
    /// Errors that the journal recorded.
    pub(super) errno: u32,
}

impl JournalHeader {
    pub(super) fn parse(raw: Vec<u8>, at: u64, block_size: u32, blocks: u64) -> Result<Self> {
        let f = Fields::new(&raw, "journal superblock", at);
        if f.u32_be(0)? != MAGIC {
            return Err(f.corrupt(0, "journal superblock has no magic"));
        }
        let version = f.u32_be(4)?;
        if !matches!(version, 3 | 4) {
            return Err(f
                .corrupt(4, "journal superblock is of an unknown type")
                .mismatch("3 or 4", version));
        }
        let (compat, incompat) = if version == 4 {
            (f.u32_be(0x24)?, f.u32_be(0x28)?)
        } else {
            (0, 0)
        };
        let known = REVOKE | BIT64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;
        if incompat & !known != 0 {
            return Err(f.unsupported(
                0x28,
                format!("journal has unknown features {:#x}", incompat & !known),
            ));
        }
        let checksums = match (
            incompat & CSUM_V3 != 0,
            incompat & CSUM_V2 != 0,
            compat & COMPAT_CHECKSUM != 0,
        ) {
            (true, false, false) => Checksums::V3,
            (false, true, false) => Checksums::V2,
            (false, false, true) => Checksums::V1,
            (false, false, false) => Checksums::None,
            _ => return Err(f.corrupt(0x28, "journal has several kinds of checksums")),
        };
        if checksums.in_every_block() {
            if f.u8(0x50)? != 4 {
                return Err(f.unsupported(0x50, "journal checksums are not crc32c"));
            }
            let computed = sum(f.bytes(0, LEN)?);
            if computed != f.u32_be(0xfc)? {
                return Err(checksum_error(&f, 0xfc, computed, f.u32_be(0xfc)?));
            }
        }
        if f.u32_be(0xc)? != block_size {
            return Err(f
                .corrupt(0xc, "journal has another block size")
                .mismatch(block_size, f.u32_be(0xc)?));
        }
        let len = f.u32_be(0x10)?;
        if u64::from(len) > blocks {
            return Err(f
                .corrupt(0x10, "journal is longer than its file")
                .mismatch(format!("at most {blocks} blocks"), len));
        }
        let fast = if incompat & FAST_COMMIT != 0 {
            let count = match f.u32_be(0x54)? {
                0 => FAST_DEFAULT,
                count => count,
            };
            let start = len.checked_sub(count);
            Some(start.ok_or_else(|| f.corrupt(0x54, "fast commit area exceeds the journal"))?)
        } else {
            None
        };
        let end = fast.unwrap_or(len);
        // The block between the ring and the area stays unused (`j_fc_first = j_last + 1`).
        let fast = fast
            .map(|block| block.saturating_add(1))
            .filter(|block| *block < len);
        let first = f.u32_be(0x14)?;
        let start = f.u32_be(0x1c)?;
        if first == 0 || first >= end || start != 0 && !(first..end).contains(&start) {
            return Err(f
                .corrupt(0x14, "journal starts outside itself")
                .mismatch(format!("a block below {end}"), first.max(start)));
        }
        let uuid = f.array::<16>(0x30)?;
        Ok(Self {
            first,
            end,
            start,
            sequence: f.u32_be(0x18)?,
            checksums,
            seed: crc32c(!0, &uuid),
            bit64: incompat & BIT64 != 0,
            async_commit: incompat & ASYNC_COMMIT != 0,
            fast,
            errno: f.u32_be(0x20)?,
            raw,
        })
    }

    /// The superblock of the same journal without content.
    pub(super) fn emptied(&self, next: u32) -> Result<Vec<u8>> {
        let mut bytes = self.raw.clone();
        let mut put = |at: usize, value: u32| -> Result<()> {
            bytes
                .get_mut(at..at.saturating_add(4))
                .ok_or_else(|| Error::internal("journal superblock is too short"))?
                .copy_from_slice(&value.to_be_bytes());
            Ok(())
        };
        put(0x18, next)?;
        put(0x1c, 0)?;
        if self.checksums.in_every_block() {
            let computed = sum(bytes.get(..LEN).unwrap_or_default());
            bytes
                .get_mut(0xfc..0x100)
                .ok_or_else(|| Error::internal("journal superblock is too short"))?
                .copy_from_slice(&computed.to_be_bytes());
        }
        Ok(bytes)
    }
}

/// The checksum of the superblock: what its field must hold.
fn sum(raw: &[u8]) -> u32 {
    let crc = crc32c(!0, raw.get(..0xfc).unwrap_or_default());
    let crc = crc32c(crc, &[0; 4]);
    crc32c(crc, raw.get(0x100..).unwrap_or_default())
}
