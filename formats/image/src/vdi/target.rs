//! Writing a dynamic VDI: blocks in the order in which they come; the header comes last.
//!
//! Map and blocks begin at multiples of 1 MiB, as `VirtualBox` lays them.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::header::{Draft, MAX_BLOCKS};
use crate::blocks::{Blocks, Place};
use crate::create::TargetSpec;
use crate::options::{VdiKind, VdiOptions};
use crate::target::{Order, Payload, Target, Written, empty};

/// Guest bytes per block: `VirtualBox`'s default, and the only size that QEMU reads.
const BLOCK: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();
const UNIT: NonZeroU64 = NonZeroU64::new(1 << 20).unwrap();

/// Where the block map is.
const MAP_AT: u32 = BLOCK.get();

/// A map entry without a block.
const FREE: u32 = u32::MAX;

/// An empty VDI as `options` ask for.
///
/// # Errors
/// Usage for what a VDI cannot do; Io when the storage fails.
pub(crate) fn create(
    spec: &TargetSpec,
    options: VdiOptions,
    storage: Arc<dyn StorageMut>,
) -> Result<Box<dyn Target>> {
    spec.refuse_compression("VDIs")?;
    spec.refuse_backing("VDIs")?;
    match options.kind {
        VdiKind::Dynamic => Ok(Box::new(VdiTarget::create(storage, spec.size)?)),
        VdiKind::Static => Err(Error::unsupported("static VDIs cannot be written")),
    }
}

/// A dynamic VDI being written.
#[derive(Debug)]
struct VdiTarget {
    storage: Arc<dyn StorageMut>,
    blocks: Blocks,
    /// Where the blocks begin.
    data: u32,
    /// Blocks stored.
    next: AtomicU32,
}

impl VdiTarget {
    /// An empty image of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage for a size that cannot be, or a device; Io when the storage fails.
    fn create(storage: Arc<dyn StorageMut>, size: u64) -> Result<Self> {
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
            blocks: Blocks::new(size.next_multiple_of(512), BLOCK, FREE),
            data: u32::try_from(data)
                .map_err(|_| Error::internal("a block map past the format's limit"))?,
            next: AtomicU32::new(0),
        })
    }

    /// Where block `number` of the file begins.
    fn place(&self, number: u32) -> u64 {
        u64::from(number)
            .saturating_mul(UNIT.get())
            .saturating_add(u64::from(self.data))
    }

    /// Room for one more block.
    fn allocate(&self) -> Place {
        let entry = self.next.fetch_add(1, Ordering::Relaxed);
        Place {
            entry,
            data: self.place(entry),
        }
    }
}

impl Target for VdiTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        self.blocks
            .put(&*self.storage, offset, payload, || Ok(self.allocate()))
    }

    fn publish(&self) -> Result<Written> {
        let allocated = self.next.load(Ordering::Relaxed);
        let file_bytes = self.place(allocated);
        // The last block of a disk may have been put short: its room is whole.
        self.storage.set_size(file_bytes)?;
        let map = self.blocks.map_bytes(u32::to_le_bytes);
        self.storage.write_at(&map, u64::from(MAP_AT))?;
        self.storage.sync()?;
        let header = Draft {
            map: MAP_AT,
            data: self.data,
            disk_size: self.blocks.size(),
            block: BLOCK.get(),
            entries: self.blocks.count()?,
            allocated,
        };
        self.storage.write_at(&header.encode(), 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.blocks.stored(),
            file_bytes,
        })
    }
}
