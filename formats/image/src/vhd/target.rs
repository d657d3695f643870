//! Writing VHDs: fixed, dynamic and differencing. The footers, without which the file is nothing,
//! come last.
//!
//! Specification 1.0. Sizes are exact (`current_size`), or whole MiB where Azure is to take the disk;
//! the geometry is computed and nobody who knows the creator obeys it. Blocks are laid so that their
//! data begins at multiples of 4 KiB, with the bitmap in the sectors before.
//!
//! On a device, which has an end of its own, the footer is in the device's last sector, where
//! readers look for it.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::footer::{DiskType, Footer, NOWHERE};
use super::layout::{PAGE, VhdLayout};
use super::naming::Naming;
use super::sparse::UNUSED;
use super::{SECTOR, header};
use crate::blocks::{Beneath, Blocks, Ground, Shape, amount};
use crate::create::TargetSpec;
use crate::options::{VhdKind, VhdOptions};
use crate::raw::RawTarget;
use crate::target::{Order, Payload, Placed, Target, Written};

/// Guest bytes per block when nothing else is asked for: the specification's default.
const DEFAULT_BLOCK: u32 = 2 << 20;

/// Block sizes that can be asked for.
const BLOCKS: std::ops::RangeInclusive<u32> = 512 << 10..=256 << 20;

/// Guest bytes per unit of a dynamic disk, at most: what the copy engine has buffers for.
const MOST_UNIT: u32 = 2 << 20;

/// Where the dynamic disk header is, and where what follows it is.
const HEADER_AT: u64 = SECTOR;
const AFTER_HEADER: u64 = 1536;

/// The largest disk: 2040 GiB, the format's limit in the products that read it.
const MAX_SECTORS: u64 = 0xff00_0000;

/// What Azure wants sizes to be a multiple of.
const AZURE: u64 = 1 << 20;

/// A size in whole sectors, in bytes.
pub(super) fn whole(size: u64) -> Result<u64> {
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
    let size = whole(spec.size)?;
    if options.azure {
        spec.refuse_backing("VHDs for Azure")?;
        return fixed(storage, whole(size.next_multiple_of(AZURE))?);
    }
    match options.kind {
        VhdKind::Dynamic => Ok(Box::new(DynamicTarget::create(
            spec, options, size, storage,
        )?)),
        VhdKind::Fixed => {
            spec.refuse_backing("fixed VHDs")?;
            fixed(storage, size)
        }
    }
}

/// The last sector of a device, where its footer goes.
fn device_footer(storage: &dyn StorageMut) -> u64 {
    let end = storage.size().saturating_sub(SECTOR);
    end.saturating_sub(end % SECTOR)
}

/// A fixed disk being written: a raw one, with a footer after it.
#[derive(Debug)]
struct FixedTarget {
    raw: RawTarget,
    storage: Arc<dyn StorageMut>,
    size: u64,
    footer_at: u64,
}

/// An empty fixed VHD of `size` bytes on `storage`.
///
/// # Errors
/// Usage when a device is too small; Io when the storage fails.
fn fixed(storage: Arc<dyn StorageMut>, size: u64) -> Result<Box<dyn Target>> {
    let ground = Ground::prepare(&*storage)?;
    let footer_at = match ground {
        Ground::Fresh => size,
        Ground::Used => device_footer(&*storage),
    };
    if footer_at < size {
        return Err(too_small(&*storage, size.saturating_add(SECTOR)));
    }
    ground.clear(&*storage, footer_at, SECTOR)?;
    Ok(Box::new(FixedTarget {
        raw: RawTarget::create(Arc::clone(&storage), size)?,
        storage,
        size,
        footer_at,
    }))
}

fn too_small(storage: &dyn StorageMut, needed: u64) -> Error {
    Error::usage("device is too small")
        .in_file(storage.name())
        .mismatch(format!("at least {needed} bytes"), storage.size())
}

impl Target for FixedTarget {
    fn unit(&self) -> NonZeroU64 {
        self.raw.unit()
    }

    fn order(&self) -> Order {
        self.raw.order()
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        match payload {
            Payload::Zero(_) => Ok(()),
            payload => self.raw.put(offset, payload),
        }
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        self.raw.place(offset, len)
    }

    fn publish(&self) -> Result<Written> {
        let written = self.raw.publish()?;
        let footer = Footer::new(DiskType::Fixed, self.size, NOWHERE).encode();
        self.storage.write_at(&footer, self.footer_at)?;
        self.storage.sync()?;
        Ok(Written {
            file_bytes: self.size.saturating_add(SECTOR),
            ..written
        })
    }
}

/// A dynamic or differencing disk being written.
#[derive(Debug)]
struct DynamicTarget {
    storage: Arc<dyn StorageMut>,
    ground: Ground,
    /// The block allocation table: the sector of each block, at most some millions.
    blocks: Blocks<VhdLayout>,
    block: NonZeroU32,
    unit: NonZeroU64,
    /// Where the block allocation table is.
    table: u64,
    parent: Option<Naming>,
    /// Where the footer of a device is.
    limit: u64,
}

impl DynamicTarget {
    /// An empty disk of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage for a block size or a parent that cannot be; Io when the storage fails.
    fn create(
        spec: &TargetSpec,
        options: VhdOptions,
        size: u64,
        storage: Arc<dyn StorageMut>,
    ) -> Result<Self> {
        let asked = options.block_size.unwrap_or(DEFAULT_BLOCK);
        let block = NonZeroU32::new(asked)
            .filter(|block| block.is_power_of_two() && BLOCKS.contains(&asked))
            .ok_or_else(|| {
                Error::usage("block size cannot be that of a VHD")
                    .mismatch("a power of two from 512 KiB to 256 MiB", asked)
            })?;
        let parent = spec.backing.as_ref().map(Naming::of).transpose()?;
        let (beneath, unit) = match parent {
            // Only what differs is marked as the child's, and file systems have no smaller blocks.
            Some(_) => (Beneath::Parent, NonZeroU64::new(PAGE)),
            None => (
                Beneath::Zeroes,
                NonZeroU64::new(u64::from(asked.min(MOST_UNIT))),
            ),
        };
        let unit = unit.ok_or_else(|| Error::internal("a unit of no bytes"))?;
        let ground = Ground::prepare(&*storage)?;
        let names = parent.as_ref().map(Naming::names).unwrap_or_default();
        let table = AFTER_HEADER.saturating_add(amount(&names));
        let entries = size.div_ceil(u64::from(asked));
        let table_end = table.saturating_add(entries.saturating_mul(4));
        let limit = match ground {
            Ground::Fresh => u64::MAX,
            Ground::Used => device_footer(&*storage),
        };
        let layout = VhdLayout::new(Arc::clone(&storage), beneath, block, table_end, limit);
        let first = layout.next();
        if first > limit {
            return Err(too_small(&*storage, first.saturating_add(SECTOR)));
        }
        storage.set_size(first)?;
        ground.clear(&*storage, 0, first)?;
        if ground == Ground::Used {
            storage.zero_at(limit, SECTOR)?;
        }
        Ok(Self {
            blocks: Blocks::new(
                Arc::clone(&storage),
                ground,
                beneath,
                Shape { size, block, unit },
                UNUSED,
                layout,
            ),
            storage,
            ground,
            block,
            unit,
            table,
            parent,
            limit,
        })
    }

    /// On a file: right after the last block, whole, or the table. A program that adds a block
    /// (QEMU) puts it there, over the footer, and takes what follows for zeroes.
    fn footer_at(&self) -> u64 {
        match self.ground {
            Ground::Used => self.limit,
            Ground::Fresh => self
                .blocks
                .layout()
                .end()
                .unwrap_or_else(|| self.table.saturating_add(amount(&self.table_bytes()))),
        }
    }

    /// The block allocation table, padded to whole sectors.
    fn table_bytes(&self) -> Vec<u8> {
        let mut bytes = self.blocks.map_bytes(u32::to_be_bytes);
        bytes.resize(bytes.len().next_multiple_of(512), 0xff);
        bytes
    }
}

impl Target for DynamicTarget {
    fn unit(&self) -> NonZeroU64 {
        self.unit
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
        let footer_at = self.footer_at();
        let file_bytes = footer_at.saturating_add(SECTOR);
        self.storage.set_size(file_bytes)?;
        self.storage.write_at(&self.table_bytes(), self.table)?;
        let mut header = header::encode(self.table, self.blocks.count()?, self.block.get());
        let disk_type = match &self.parent {
            None => DiskType::Dynamic,
            Some(parent) => {
                parent.describe(&mut header, AFTER_HEADER);
                self.storage.write_at(&parent.names(), AFTER_HEADER)?;
                DiskType::Differencing
            }
        };
        self.storage.write_at(&header, HEADER_AT)?;
        self.storage.sync()?;
        let footer = Footer::new(disk_type, self.blocks.size(), HEADER_AT).encode();
        self.storage.write_at(&footer, footer_at)?;
        self.storage.write_at(&footer, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.blocks.stored(),
            file_bytes,
        })
    }
}
