//! `VhdLayout`: where the blocks of a VHD being written go, and the bitmaps before them.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut, round_up};

use super::SECTOR;
use super::header::bitmap_len;
use super::sparse::UNUSED;
use crate::blocks::{Beneath, Layout};
use crate::room::too_small;
use crate::sector_bits::{Bit, BitOrder};

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
            stride: round_up(bitmap.saturating_add(block), PAGE),
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
            return Err(too_small(
                &*self.storage,
                end.saturating_add(SECTOR),
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
        BitOrder::HighFirst.mark(&*self.storage, at, sectors, Bit::Set)
    }
}
