//! Dynamic and differencing disks: a block allocation table, and blocks behind sector bitmaps.
//!
//! Specification 1.0, "Block Allocation Table and Data Blocks". A sector whose bit is clear is the
//! parent's, or zero where there is none, whatever the file holds at its place.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Layer, Located, Result, Run, Storage};

use super::SECTOR;
use super::header::{HEADER_LEN, Header};

/// Bitmaps kept: at most so many, of at most so many bytes together.
const KEPT_BITMAPS: u64 = 1024;
const KEPT_BYTES: u64 = 4 << 20;

/// A table entry without a block.
pub(super) const UNUSED: u32 = u32::MAX;

/// What a sector that is not stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Zero,
    Below,
}

/// An opened dynamic or differencing disk.
#[derive(Debug)]
pub(super) struct Sparse {
    storage: Arc<dyn Storage>,
    pub(super) header: Header,
    pub(super) size: u64,
    /// Where blocks must end: at the footer, or the end of the file.
    pub(super) end: u64,
    pub(super) bitmap_len: u64,
    /// The sector of each block.
    pub(super) table: Vec<u32>,
    pub(super) absent: Absent,
    kept: Vec<Mutex<Option<Kept>>>,
}

/// The bitmap of a block.
#[derive(Debug)]
struct Kept {
    index: u64,
    bitmap: Arc<Vec<u8>>,
}

/// The block allocation table: the sector of each block.
///
/// # Errors
/// Io or Corrupt when it cannot be read.
pub(super) fn table(storage: &dyn Storage, header: &Header) -> Result<Vec<u32>> {
    // The header compared its length with the file's.
    let len = usize::try_from(header.entries.saturating_mul(4))
        .map_err(|_| Error::unsupported("table exceeds this machine's memory"))?;
    let mut bytes = vec![0; len];
    storage.read_at(&mut bytes, header.table)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| u32::from_be_bytes(*word)).collect())
}

impl Sparse {
    /// The disk of `size` bytes behind `header`, in the bytes of `storage` before `end`.
    ///
    /// # Errors
    /// Io or Corrupt when the table cannot be read.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        header: Header,
        size: u64,
        end: u64,
        absent: Absent,
    ) -> Result<Self> {
        let table = table(&*storage, &header)?;
        let bitmap_len = header.bitmap_len();
        let slots = KEPT_BYTES
            .checked_div(bitmap_len)
            .unwrap_or(1)
            .clamp(1, KEPT_BITMAPS.min(header.entries.max(1)));
        Ok(Self {
            storage,
            size,
            end,
            bitmap_len,
            table,
            absent,
            kept: (0..slots).map(|_| Mutex::default()).collect(),
            header,
        })
    }

    /// The sector of block `index`, or [`UNUSED`].
    pub(super) fn entry(&self, index: u64) -> u32 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get(index))
            .copied()
            .unwrap_or(UNUSED)
    }

    /// Changes the sector of block `index`.
    pub(super) fn set_entry(&mut self, index: u64, sector: u32) {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get_mut(index));
        if let Some(entry) = entry {
            *entry = sector;
        }
    }

    /// Has the bitmap of block `index` read again.
    pub(super) fn forget_bitmap(&mut self, index: u64) {
        let slots = u64::try_from(self.kept.len()).unwrap_or(1).max(1);
        let slot = index
            .checked_rem(slots)
            .and_then(|slot| self.kept.get_mut(usize::try_from(slot).ok()?));
        if let Some(slot) = slot {
            *slot.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn nothing(&self, len: u64) -> Located {
        let run = match self.absent {
            Absent::Zero => Run::Zero,
            Absent::Below => Run::Below,
        };
        Located::new(run, len)
    }

    fn fault(&self, index: u64, what: impl Into<String>) -> Error {
        Error::corrupt(what)
            .in_structure("block allocation table")
            .in_file(self.storage.name())
            .at(self.header.table.saturating_add(index.saturating_mul(4)))
    }

    fn past_end(&self, index: u64, end: u64) -> Error {
        self.fault(index, "block lies past the end of the data")
            .mismatch(format!("an end of at most {}", self.end), end)
            .hint("the file is truncated or damaged: copy it again from its origin")
    }

    /// Where block `index` begins, whose entry is `sector`.
    ///
    /// # Errors
    /// Corrupt when it lies past the end or over a structure.
    pub(super) fn block(&self, index: u64, sector: u32) -> Result<u64> {
        let at = u64::from(sector).saturating_mul(SECTOR);
        let data = at.saturating_add(self.bitmap_len);
        if data >= self.end {
            return Err(self.past_end(index, data.saturating_add(SECTOR)));
        }
        let header_len = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
        let taken = [
            ("footer's copy", 0, SECTOR),
            ("dynamic disk header", self.header.at, header_len),
            (
                "block allocation table",
                self.header.table,
                self.header.entries.saturating_mul(4),
            ),
        ];
        let end = data.saturating_add(self.header.block.get());
        for (name, start, len) in taken {
            if at < start.saturating_add(len) && start < end {
                return Err(self.fault(index, format!("block lies over the {name}")));
            }
        }
        Ok(at)
    }

    /// The bitmap of block `index`, which is at byte `at`.
    fn bitmap(&self, index: u64, at: u64) -> Result<Arc<Vec<u8>>> {
        let slots = u64::try_from(self.kept.len()).unwrap_or(1).max(1);
        let slot = index
            .checked_rem(slots)
            .and_then(|slot| self.kept.get(usize::try_from(slot).ok()?))
            .ok_or_else(|| Error::internal("a bitmap without a slot"))?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*slot
            && kept.index == index
        {
            return Ok(Arc::clone(&kept.bitmap));
        }
        let mut bytes = vec![0; usize::try_from(self.bitmap_len).unwrap_or(0)];
        self.storage.read_at(&mut bytes, at)?;
        let bitmap = Arc::new(bytes);
        *slot = Some(Kept {
            index,
            bitmap: Arc::clone(&bitmap),
        });
        Ok(bitmap)
    }
}

/// Whether bit `sector` is set, and for how many sectors that holds, to `until` at most.
pub(super) fn stretch(bitmap: &[u8], sector: u64, until: u64) -> (bool, u64) {
    let byte = |at: u64| -> u8 {
        usize::try_from(at / 8)
            .ok()
            .and_then(|at| bitmap.get(at))
            .copied()
            .unwrap_or(0)
    };
    // The first sector of a byte is its most significant bit.
    let bit = |at: u64| {
        byte(at)
            & 0x80u8
                .checked_shr(u32::try_from(at % 8).unwrap_or(0))
                .unwrap_or(0)
            != 0
    };
    let set = bit(sector);
    let same = if set { 0xff } else { 0 };
    let mut next = sector.saturating_add(1);
    // Ends because `next` grows every round.
    while next < until {
        if next.is_multiple_of(8) && byte(next) == same {
            next = next.saturating_add(8);
        } else if bit(next) == set {
            next = next.saturating_add(1);
        } else {
            break;
        }
    }
    (set, next.min(until).saturating_sub(sector))
}

impl Layer for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let block: NonZeroU64 = self.header.block;
        let (index, within) = (offset / block, offset % block);
        let sector = self.entry(index);
        if sector == UNUSED {
            let mut blocks = 1u64;
            // Ends because `blocks` grows every round and `want` is finite.
            while blocks.saturating_mul(block.get()).saturating_sub(within) < want
                && self.entry(index.saturating_add(blocks)) == UNUSED
            {
                blocks = blocks.saturating_add(1);
            }
            let len = blocks.saturating_mul(block.get()).saturating_sub(within);
            return Ok(self.nothing(len.min(want)));
        }
        let at = self.block(index, sector)?;
        let bitmap = self.bitmap(index, at)?;
        let want = want.min(block.get().saturating_sub(within));
        let until = within.saturating_add(want).div_ceil(SECTOR);
        let (stored, sectors) = stretch(&bitmap, within / SECTOR, until);
        let len = sectors
            .saturating_mul(SECTOR)
            .saturating_sub(within % SECTOR)
            .min(want);
        if !stored {
            return Ok(self.nothing(len));
        }
        let data = at.saturating_add(self.bitmap_len).saturating_add(within);
        // Whole sectors before the one that the end cuts can be had.
        let there = self.end.saturating_sub(data);
        let len = if there >= len {
            len
        } else {
            let whole = there.saturating_sub(there % SECTOR);
            if whole == 0 {
                return Err(self.past_end(index, data.saturating_add(len)));
            }
            whole
        };
        let run = Run::At {
            storage: Arc::clone(&self.storage),
            offset: data,
        };
        Ok(Located::new(run, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_most_significant() {
        let bitmap = [0xff, 0xe0, 0, 0x01];
        assert_eq!(stretch(&bitmap, 0, 32), (true, 11));
        assert_eq!(stretch(&bitmap, 3, 9), (true, 6));
        assert_eq!(stretch(&bitmap, 11, 32), (false, 20));
        assert_eq!(stretch(&bitmap, 31, 32), (true, 1));
    }
}
