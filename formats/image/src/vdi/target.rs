//! Writing a VDI: blocks in the order in which they come (dynamic), or each at its own place
//! (static); the header comes last.
//!
//! Map and blocks begin at multiples of 1 MiB, as `VirtualBox` lays them. Nothing in the file
//! depends on its length, so that a device will do as well.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::header::{Draft, HEADER_LEN, MAX_BLOCKS};
use crate::blocks::{Beneath, Blocks, Ground, Layout, Shape};
use crate::create::TargetSpec;
use crate::options::{VdiKind, VdiOptions};
use crate::target::{Order, Payload, Placed, Target, Written};

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
    Ok(Box::new(VdiTarget::create(
        storage,
        spec.size,
        options.kind,
    )?))
}

/// Where the blocks of the file are.
#[derive(Debug)]
struct Dense {
    /// Where the first is.
    data: u32,
    /// Blocks that have room.
    next: AtomicU32,
}

impl Layout for Dense {
    fn allocate(&self) -> Result<u32> {
        Ok(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn data(&self, entry: u32) -> u64 {
        u64::from(entry)
            .saturating_mul(UNIT.get())
            .saturating_add(u64::from(self.data))
    }
}

/// A VDI being written.
#[derive(Debug)]
struct VdiTarget {
    storage: Arc<dyn StorageMut>,
    kind: VdiKind,
    blocks: Blocks<Dense>,
}

impl VdiTarget {
    /// An empty image of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage for a size that cannot be, or a device that is too small; Io when the storage fails.
    fn create(storage: Arc<dyn StorageMut>, size: u64, kind: VdiKind) -> Result<Self> {
        let entries = size.div_ceil(UNIT.get());
        if entries == 0 || entries > MAX_BLOCKS {
            let most = MAX_BLOCKS.saturating_mul(UNIT.get());
            return Err(Error::usage("size cannot be that of a VDI")
                .mismatch(format!("1 to {most} bytes"), size)
                .hint("choose another target format"));
        }
        let ground = Ground::prepare(&*storage)?;
        let map_end = u64::from(MAP_AT).saturating_add(entries.saturating_mul(4));
        let data = map_end.next_multiple_of(UNIT.get());
        let layout = Dense {
            data: u32::try_from(data)
                .map_err(|_| Error::internal("a block map past the format's limit"))?,
            next: AtomicU32::new(0),
        };
        let header_len = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
        ground.clear(&*storage, 0, header_len)?;
        storage.set_size(data)?;
        let blocks = Blocks::new(
            Arc::clone(&storage),
            ground,
            Beneath::Zeroes,
            // The format counts in sectors.
            Shape {
                size: size.next_multiple_of(512),
                block: BLOCK,
                unit: UNIT,
            },
            FREE,
            layout,
        );
        if kind == VdiKind::Static {
            blocks.take_all()?;
            let end = blocks.layout().data(blocks.count()?);
            storage.set_size(end)?;
        }
        Ok(Self {
            storage,
            kind,
            blocks,
        })
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
        self.blocks.put(offset, payload)
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        self.blocks.place(offset, len)
    }

    fn publish(&self) -> Result<Written> {
        let layout = self.blocks.layout();
        let allocated = layout.next.load(Ordering::Relaxed);
        let file_bytes = layout.data(allocated);
        // The last block of a disk may have been put short: its room is whole.
        self.storage.set_size(file_bytes)?;
        let map = self.blocks.map_bytes(u32::to_le_bytes);
        self.storage.write_at(&map, u64::from(MAP_AT))?;
        self.storage.sync()?;
        let header = Draft {
            kind: self.kind,
            map: MAP_AT,
            data: layout.data,
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
