//! Writing fixed and dynamic VHDs. The footers, without which the file is nothing, come last.
//!
//! Specification 1.0. Sizes are exact (`current_size`); the geometry is computed and nobody who
//! knows the creator obeys it. Blocks are laid so that their data begins at multiples of 4 KiB: the
//! bitmap is the sector before, and 3.5 KiB between blocks stay empty.
//!
//! Leaves out on purpose: block devices as targets, refused by name. Readers look for the footer at
//! the end of the device, and that is not the end of the disk.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::footer::{DiskType, Footer, NOWHERE};
use super::sparse::UNUSED;
use super::{SECTOR, header};
use crate::blocks::{Blocks, Place, amount};
use crate::create::TargetSpec;
use crate::options::{VhdKind, VhdOptions};
use crate::raw::RawTarget;
use crate::target::{Order, Payload, Target, Written, empty};

/// Guest bytes per block: the specification's default.
const BLOCK: NonZeroU32 = NonZeroU32::new(2 << 20).unwrap();
const UNIT: NonZeroU64 = NonZeroU64::new(2 << 20).unwrap();

/// Where data is aligned.
const PAGE: u64 = 4096;

/// From the beginning of one block to that of the next.
const STRIDE: u64 = 2 * 1024 * 1024 + PAGE;

/// Where the dynamic disk header and the block allocation table are.
const HEADER_AT: u64 = SECTOR;
const TABLE_AT: u64 = 1536;

/// The largest disk: 2040 GiB, the format's limit in the products that read it.
const MAX_SECTORS: u64 = 0xff00_0000;

/// A size in whole sectors, in bytes.
fn whole(size: u64) -> Result<u64> {
    let sectors = size.div_ceil(SECTOR);
    if sectors == 0 || sectors > MAX_SECTORS {
        return Err(Error::usage("size cannot be that of a VHD")
            .mismatch(
                format!("1 to {} bytes", MAX_SECTORS.saturating_mul(SECTOR)),
                size,
            )
            .hint("choose another target format"));
    }
    Ok(sectors.saturating_mul(SECTOR))
}

fn refuse_device(storage: &dyn StorageMut) -> Result<()> {
    empty(storage)?;
    if storage.size() == 0 {
        return Ok(());
    }
    Err(Error::usage("a VHD cannot be written to a device")
        .in_file(storage.name())
        .hint("write it to a file, or write raw to the device"))
}

/// An empty VHD as `options` ask for.
///
/// # Errors
/// Usage for what a VHD cannot do; Io when the storage fails.
pub(crate) fn create(
    spec: &TargetSpec,
    options: VhdOptions,
    storage: Arc<dyn StorageMut>,
) -> Result<Box<dyn Target>> {
    spec.refuse_compression("VHDs")?;
    spec.refuse_backing("VHDs")?;
    match options.kind {
        VhdKind::Dynamic => Ok(Box::new(DynamicTarget::create(storage, spec.size)?)),
        VhdKind::Fixed => fixed(storage, spec.size),
    }
}

/// A fixed disk being written: a raw one, with a footer after it.
#[derive(Debug)]
struct FixedTarget {
    raw: RawTarget,
    storage: Arc<dyn StorageMut>,
    size: u64,
}

/// An empty fixed VHD of `size` bytes on `storage`.
///
/// # Errors
/// Usage for a size that cannot be, or a device; Io when the storage fails.
fn fixed(storage: Arc<dyn StorageMut>, size: u64) -> Result<Box<dyn Target>> {
    let size = whole(size)?;
    refuse_device(&*storage)?;
    Ok(Box::new(FixedTarget {
        raw: RawTarget::create(Arc::clone(&storage), size)?,
        storage,
        size,
    }))
}

impl Target for FixedTarget {
    fn unit(&self) -> NonZeroU64 {
        self.raw.unit()
    }

    fn order(&self) -> Order {
        self.raw.order()
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        self.raw.put(offset, payload)
    }

    fn publish(&self) -> Result<Written> {
        let written = self.raw.publish()?;
        let footer = Footer::new(DiskType::Fixed, self.size, NOWHERE).encode();
        self.storage.write_at(&footer, self.size)?;
        self.storage.sync()?;
        Ok(Written {
            file_bytes: self.size.saturating_add(SECTOR),
            ..written
        })
    }
}

/// A dynamic disk being written.
#[derive(Debug)]
struct DynamicTarget {
    storage: Arc<dyn StorageMut>,
    /// The block allocation table: the sector of each block, at most a million.
    blocks: Blocks,
    /// Where the first block begins, and the next one.
    first: u64,
    next: AtomicU64,
}

impl DynamicTarget {
    /// An empty dynamic VHD of `size` bytes on `storage`.
    ///
    /// # Errors
    /// As [`fixed`].
    fn create(storage: Arc<dyn StorageMut>, size: u64) -> Result<Self> {
        let size = whole(size)?;
        refuse_device(&*storage)?;
        let entries = size.div_ceil(UNIT.get());
        let table_end = TABLE_AT.saturating_add(entries.saturating_mul(4));
        let first = table_end
            .saturating_add(SECTOR)
            .next_multiple_of(PAGE)
            .saturating_sub(SECTOR);
        storage.set_size(first)?;
        Ok(Self {
            storage,
            blocks: Blocks::new(size, BLOCK, UNUSED),
            first,
            next: AtomicU64::new(first),
        })
    }

    /// Right after the last block, whole, or the table: a program that adds a block (QEMU) puts it
    /// there, over the footer, and takes what follows for zeroes.
    fn footer_at(&self) -> u64 {
        match self.next.load(Ordering::Relaxed) {
            next if next == self.first => TABLE_AT.saturating_add(amount(&self.table_bytes())),
            next => next.saturating_sub(PAGE.saturating_sub(SECTOR)),
        }
    }

    /// The block allocation table, padded to whole sectors.
    fn table_bytes(&self) -> Vec<u8> {
        let mut bytes = self.blocks.map_bytes(u32::to_be_bytes);
        let sector = usize::try_from(SECTOR).unwrap_or(512);
        bytes.resize(bytes.len().next_multiple_of(sector), 0xff);
        bytes
    }

    /// Room for one more block, whose bitmap is written.
    fn allocate(&self) -> Result<Place> {
        let start = self.next.fetch_add(STRIDE, Ordering::Relaxed);
        let sector = u32::try_from(start / SECTOR)
            .ok()
            .filter(|sector| *sector != UNUSED)
            .ok_or_else(|| {
                Error::unsupported("image would grow past 2 TiB, the most that VHD files hold")
                    .hint("choose another target format")
            })?;
        // All bits: a sector of a stored block is never anybody else's.
        self.storage.write_at(&[0xff; 512], start)?;
        Ok(Place {
            entry: sector,
            data: start.saturating_add(SECTOR),
        })
    }
}

impl Target for DynamicTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        self.blocks
            .put(&*self.storage, offset, payload, || self.allocate())
    }

    fn publish(&self) -> Result<Written> {
        let footer_at = self.footer_at();
        let file_bytes = footer_at.saturating_add(SECTOR);
        self.storage.set_size(file_bytes)?;
        self.storage.write_at(&self.table_bytes(), TABLE_AT)?;
        let entries = self.blocks.count()?;
        self.storage
            .write_at(&header::encode(TABLE_AT, entries, BLOCK.get()), HEADER_AT)?;
        self.storage.sync()?;
        let footer = Footer::new(DiskType::Dynamic, self.blocks.size(), HEADER_AT).encode();
        self.storage.write_at(&footer, footer_at)?;
        self.storage.write_at(&footer, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.blocks.stored(),
            file_bytes,
        })
    }
}
