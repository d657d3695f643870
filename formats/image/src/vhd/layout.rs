//! `VhdLayout`: where the blocks of a VHD being written go, and the bitmaps before them.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut, round_up};

use super::SECTOR;
use super::header::bitmap_len;
use super::sparse::UNUSED;
use crate::blocks::{Beneath, Layout};

/// Where data is aligned.
pub(super) const PAGE: u64 = 4096;

/// Blocks one after the other.
#[derive(Debug)]
pub(super) struct VhdLayout {
    storage: Arc<dyn StorageMut>,
    beneath: Beneath,
    block: u64,
    /// Bytes of the bitmap before each block.
    bitmap: u64,
    /// From the beginning of one bitmap to that of the next.
    stride: u64,
    /// Where the first bitmap begins, and the next one.
    first: u64,
    next: AtomicU64,
    /// Where blocks must end.
    limit: u64,
    marking: Mutex<()>,
}

impl VhdLayout {
    /// Blocks of `block` bytes after `table_end` and before `limit`.
    pub(super) fn new(
        storage: Arc<dyn StorageMut>,
        beneath: Beneath,
        block: NonZeroU32,
        table_end: u64,
        limit: u64,
    ) -> Self {
        let block = u64::from(block.get());
        let bitmap = bitmap_len(block);
        let first = first_place(table_end, bitmap);
        Self {
            storage,
            beneath,
            block,
            bitmap,
            stride: bitmap.saturating_add(block).next_multiple_of(PAGE),
            first,
            next: AtomicU64::new(first),
            limit,
            marking: Mutex::new(()),
        }
    }

    /// Where the next bitmap would begin.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Where the last block ends; nothing when there is none.
    pub(super) fn end(&self) -> Option<u64> {
        let next = self.next();
        let gap = self
            .stride
            .saturating_sub(self.bitmap.saturating_add(self.block));
        (next > self.first).then(|| next.saturating_sub(gap))
    }
}

/// The first place from `from` at which a bitmap of `bitmap` bytes can begin so that the data after
/// it is aligned.
pub(super) fn first_place(from: u64, bitmap: u64) -> u64 {
    round_up(from.saturating_add(bitmap), PAGE).saturating_sub(bitmap)
}

/// The sector number of byte `at`, as the table has it.
///
/// # Errors
/// Unsupported when the table cannot hold it.
pub(super) fn table_entry(at: u64) -> Result<u32> {
    u32::try_from(at / SECTOR)
        .ok()
        .filter(|sector| *sector != UNUSED)
        .ok_or_else(|| {
            Error::unsupported("image would grow past 2 TiB, the most that VHD files hold")
                .hint("choose another target format")
        })
}

impl Layout for VhdLayout {
    fn allocate(&self) -> Result<u32> {
        let start = self.next.fetch_add(self.stride, Ordering::Relaxed);
        let entry = table_entry(start)?;
        let end = start.saturating_add(self.bitmap).saturating_add(self.block);
        if end > self.limit {
            return Err(Error::usage("device is too small for the data")
                .in_file(self.storage.name())
                .mismatch(
                    format!("at least {} bytes", end.saturating_add(SECTOR)),
                    self.limit.saturating_add(SECTOR),
                ));
        }
        // Without a parent all bits: a sector of a stored block is never anybody else's.
        let bits = match self.beneath {
            Beneath::Zeroes => 0xff,
            Beneath::Parent => 0,
        };
        let bitmap = vec![bits; usize::try_from(self.bitmap).unwrap_or(0)];
        self.storage.write_at(&bitmap, start)?;
        Ok(entry)
    }

    fn data(&self, entry: u32) -> u64 {
        u64::from(entry)
            .saturating_mul(SECTOR)
            .saturating_add(self.bitmap)
    }

    fn mark(&self, entry: u32, within: u64, len: u64) -> Result<()> {
        if self.beneath == Beneath::Zeroes {
            return Ok(());
        }
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let at = u64::from(entry).saturating_mul(SECTOR);
        let sectors = within / SECTOR..within.saturating_add(len).div_ceil(SECTOR);
        set_bits(&*self.storage, at, sectors, Bit::Set)
    }
}

/// What to make of a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bit {
    Set,
    Clear,
}

/// Sets or clears the bits of `sectors` in the bitmap at `at` of `storage`.
///
/// # Errors
/// Io when the storage fails.
pub(super) fn set_bits(
    storage: &dyn StorageMut,
    at: u64,
    sectors: std::ops::Range<u64>,
    to: Bit,
) -> Result<()> {
    if sectors.is_empty() {
        return Ok(());
    }
    let from = sectors.start / 8;
    let len = sectors.end.div_ceil(8).saturating_sub(from);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let at = at.saturating_add(from);
    storage.read_at(&mut bytes, at)?;
    let before = bytes.clone();
    for (nth, byte) in (from..).zip(&mut bytes) {
        // The first sector of a byte is its most significant bit.
        let first = nth.saturating_mul(8);
        let skip = sectors.start.saturating_sub(first).min(8);
        let end = sectors.end.saturating_sub(first).min(8);
        let bits = (0xff00u16 >> end) & (0x00ffu16 >> skip);
        let [_, bits] = bits.to_be_bytes();
        match to {
            Bit::Set => *byte |= bits,
            Bit::Clear => *byte &= !bits,
        }
    }
    if bytes == before {
        return Ok(());
    }
    storage.write_at(&bytes, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Memory;

    #[test]
    fn bits_are_set_and_cleared_one_by_one_and_in_rows() {
        for (from, to) in [(0, 1), (7, 8), (3, 13), (0, 64), (8, 16), (9, 15), (20, 20)] {
            let memory = Memory::new("bits", vec![0; 10]);
            set_bits(&memory, 1, from..to, Bit::Set).unwrap();
            let bytes = memory.to_vec();
            for sector in 0..64 {
                let bit = bytes[1 + sector / 8] >> (7 - sector % 8) & 1;
                let inside = (from..to).contains(&(sector as u64));
                assert_eq!(bit == 1, inside, "{from}..{to}: {sector}");
            }
            assert_eq!((bytes[0], bytes[9]), (0, 0));
            set_bits(&memory, 1, from..to, Bit::Clear).unwrap();
            assert_eq!(memory.to_vec(), [0; 10]);
        }
    }
}
