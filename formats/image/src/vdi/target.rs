//! Writing a dynamic VDI: blocks in the order in which they come; the header comes last.
//!
//! Map and blocks begin at multiples of 1 MiB, as `VirtualBox` lays them.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut, is_zero};

use super::header::{Draft, MAX_BLOCKS};
use crate::target::{Order, Payload, Target, Written, empty};

/// Guest bytes per block: `VirtualBox`'s default, and the only size that QEMU reads.
const BLOCK: u32 = 1 << 20;
const UNIT: NonZeroU64 = NonZeroU64::new(1 << 20).unwrap();

/// Where the block map is.
const MAP_AT: u32 = BLOCK;

/// A map entry without a block.
const FREE: u32 = u32::MAX;

/// What is looked at for zeroes, and left a hole where there are only such.
const PIECE: usize = 64 << 10;

/// A dynamic VDI being written.
#[derive(Debug)]
pub(crate) struct VdiTarget {
    storage: Arc<dyn StorageMut>,
    size: u64,
    /// Where the blocks begin.
    data: u32,
    map: Vec<AtomicU32>,
    /// Blocks stored.
    next: AtomicU32,
    stored: AtomicU64,
}

impl VdiTarget {
    /// An empty image of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage for a size that cannot be, or a device; Io when the storage fails.
    pub(crate) fn create(storage: Arc<dyn StorageMut>, size: u64) -> Result<Self> {
        let entries = size.div_ceil(UNIT.get());
        if entries == 0 || entries > MAX_BLOCKS {
            let most = MAX_BLOCKS.saturating_mul(UNIT.get());
            return Err(Error::usage("size cannot be that of a VDI")
                .mismatch(format!("1 to {most} bytes"), size)
                .hint("choose another target format"));
        }
        empty(&*storage)?;
        if storage.size() != 0 {
            return Err(Error::usage("a VDI cannot be written to a device")
                .in_file(storage.name())
                .hint("write it to a file, or write raw to the device"));
        }
        let map_end = u64::from(MAP_AT).saturating_add(entries.saturating_mul(4));
        let data = map_end.next_multiple_of(UNIT.get());
        storage.set_size(data)?;
        Ok(Self {
            storage,
            // The format counts in sectors.
            size: size.next_multiple_of(512),
            data: u32::try_from(data)
                .map_err(|_| Error::internal("a block map past the format's limit"))?,
            map: (0..entries).map(|_| AtomicU32::new(FREE)).collect(),
            next: AtomicU32::new(0),
            stored: AtomicU64::new(0),
        })
    }

    /// Where block `number` of the file begins.
    fn place(&self, number: u32) -> u64 {
        u64::from(number)
            .saturating_mul(UNIT.get())
            .saturating_add(u64::from(self.data))
    }

    fn put_block(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let entry = usize::try_from(offset / UNIT)
            .ok()
            .and_then(|index| self.map.get(index))
            .ok_or_else(|| Error::usage("data lies past the end of the disk").at(offset))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut at = self.place(number);
        for piece in bytes.chunks(PIECE) {
            if !is_zero(piece) {
                self.storage.write_at(piece, at)?;
            }
            at = at.saturating_add(amount(piece));
        }
        entry.store(number, Ordering::Relaxed);
        self.stored.fetch_add(amount(bytes), Ordering::Relaxed);
        Ok(())
    }
}

fn amount(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Target for VdiTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("this target takes plain blocks only").at(offset));
        };
        let end = offset.saturating_add(amount(bytes));
        if end > self.size || offset % UNIT != 0 {
            return Err(Error::usage("data lies outside the disk or off its blocks").at(offset));
        }
        let mut at = offset;
        for block in bytes.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX)) {
            if !is_zero(block) {
                self.put_block(at, block)?;
            }
            at = at.saturating_add(amount(block));
        }
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        let allocated = self.next.load(Ordering::Relaxed);
        let file_bytes = self.place(allocated);
        // The last block of a disk may have been put short: its room is whole.
        self.storage.set_size(file_bytes)?;
        let entries = self.map.iter();
        let map: Vec<u8> = entries
            .flat_map(|entry| entry.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        self.storage.write_at(&map, u64::from(MAP_AT))?;
        self.storage.sync()?;
        let header = Draft {
            map: MAP_AT,
            data: self.data,
            disk_size: self.size,
            block: BLOCK,
            entries: u32::try_from(self.map.len())
                .map_err(|_| Error::internal("a block map past the format's limit"))?,
            allocated,
        };
        self.storage.write_at(&header.encode(), 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.stored.load(Ordering::Relaxed),
            file_bytes,
        })
    }
}
