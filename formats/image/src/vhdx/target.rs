//! Writing a dynamic VHDX: blocks in the order in which they are first written to.
//!
//! \[MS-VHDX\] §2.1. The layout is Hyper-V's: headers, log, metadata, block allocation table, blocks,
//! each at a multiple of 1 MiB. The log is there and empty. Only two states of blocks are used, not
//! present and fully present. The table has its place from the start, so an entry is written as soon
//! as its block has a place. Headers and identifier, without which the file is nothing, come last.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut};
use uuid::Uuid;

use super::header::{HEADERS, Header, SIGNATURE};
use super::metadata::{Geometry, Metadata};
use super::region::{Region, Regions, TABLES};
use super::{KIB64, MAX_SIZE, MIB, amount, length};
use crate::create::TargetSpec;
use crate::options::{VhdxOptions, VhdxSubformat};
use crate::target::{Order, Payload, Target, Written, empty};

/// Bytes per block when nothing else is asked for: the least, so that little room is lost on small
/// islands of data.
const DEFAULT_BLOCK: u32 = 1 << 20;

/// Bytes per logical sector when nothing else is asked for.
const DEFAULT_SECTOR: u32 = 512;

/// Bytes per physical sector, as Hyper-V makes it.
const PHYSICAL_SECTOR: u32 = 4096;

/// Bytes per unit: finer than a block, so that holes in blocks stay holes of the file.
const UNIT: NonZeroU64 = NonZeroU64::new(KIB64).unwrap();

/// Where the log is, and how long: as Hyper-V has it.
const LOG: Region = Region {
    offset: MIB,
    len: MIB,
};

const METADATA: Region = Region {
    offset: 2 * MIB,
    len: MIB,
};

const BAT: u64 = 3 * MIB;

/// The low bits of a table entry whose block is all there.
const FULLY_PRESENT: u64 = 6;

/// An empty VHDX as `options` ask for.
///
/// # Errors
/// Usage for what a VHDX cannot do; Io when the storage fails.
pub(crate) fn create(
    spec: &TargetSpec,
    options: VhdxOptions,
    storage: Arc<dyn StorageMut>,
) -> Result<Box<dyn Target>> {
    spec.refuse_compression("VHDX images")?;
    spec.refuse_backing("VHDX images")?;
    match options.kind {
        VhdxSubformat::Dynamic => Ok(Box::new(VhdxTarget::create(
            storage,
            spec.size,
            options.block_size,
            options.logical_sector,
        )?)),
        VhdxSubformat::Fixed => Err(Error::unsupported("fixed VHDX images cannot be written")),
    }
}

/// A dynamic VHDX being written.
#[derive(Debug)]
struct VhdxTarget {
    storage: Arc<dyn StorageMut>,
    metadata: Metadata,
    bat_len: u64,
    blocks: Mutex<Blocks>,
    /// Guest bytes stored.
    stored: AtomicU64,
}

#[derive(Debug)]
struct Blocks {
    /// Where each block is, in MiB; 0 for those without a place. 4 bytes per block, which is
    /// touched only where data comes.
    places: Vec<u32>,
    /// The first byte that no block has yet.
    next: u64,
}

impl VhdxTarget {
    /// An empty disk of `size` bytes, rounded up to whole sectors, on `storage`.
    ///
    /// # Errors
    /// Usage for sizes that cannot be; Io when the storage fails.
    fn create(
        storage: Arc<dyn StorageMut>,
        size: u64,
        block: Option<u32>,
        sector: Option<u32>,
    ) -> Result<Self> {
        let block = u64::from(block.unwrap_or(DEFAULT_BLOCK));
        let sector = u64::from(sector.unwrap_or(DEFAULT_SECTOR));
        if !matches!(sector, 512 | 4096) {
            return Err(Error::usage("sector size cannot be that of a VHDX")
                .mismatch("512 or 4096", sector));
        }
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(Error::usage("block size cannot be that of a VHDX")
                .mismatch("a power of two from 1 MiB to 256 MiB", block));
        }
        let geometry = size
            .checked_next_multiple_of(sector)
            .and_then(|size| Geometry::new(size, block, sector))
            .ok_or_else(|| {
                Error::usage("size cannot be that of a VHDX")
                    .mismatch(format!("1 to {MAX_SIZE} bytes"), size)
            })?;
        empty(&*storage)?;
        if storage.size() != 0 {
            return Err(Error::usage("a VHDX is a file and cannot be a device")
                .in_file(storage.name())
                .hint("write raw to a device"));
        }
        let bat_len = geometry
            .entries(false)
            .saturating_mul(8)
            .next_multiple_of(MIB);
        let next = BAT.saturating_add(bat_len);
        // Entries of blocks that never come must read as zeroes.
        storage.set_size(next)?;
        Ok(Self {
            storage,
            metadata: Metadata {
                geometry,
                leave_allocated: false,
                disk_id: Uuid::new_v4(),
                physical_sector: PHYSICAL_SECTOR,
                parent: None,
            },
            bat_len,
            blocks: Mutex::new(Blocks {
                places: vec![0; length(geometry.blocks())?],
                next,
            }),
            stored: AtomicU64::new(0),
        })
    }

    /// Where `block` is; gives it a place first where it has none.
    fn place(&self, block: u64) -> Result<u64> {
        let geometry = &self.metadata.geometry;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let Blocks { places, next } = &mut *blocks;
        let place = usize::try_from(block)
            .ok()
            .and_then(|block| places.get_mut(block))
            .ok_or_else(|| Error::internal("a block past the end of the disk"))?;
        if *place == 0 {
            // Block sizes are whole MiB, and 2^32 of them are more than any disk has.
            *place = u32::try_from(*next / MIB)
                .map_err(|_| Error::internal("more blocks than a disk can have"))?;
            let entry = *next | FULLY_PRESENT;
            let at = BAT.saturating_add(geometry.payload_entry(block).saturating_mul(8));
            self.storage.write_at(&entry.to_le_bytes(), at)?;
            *next = next.saturating_add(geometry.block.get());
        }
        Ok(u64::from(*place).saturating_mul(MIB))
    }
}

impl Target for VhdxTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("this target takes plain bytes only").at(offset));
        };
        let geometry = &self.metadata.geometry;
        let end = offset.saturating_add(amount(bytes.len()));
        if end > geometry.size || offset % UNIT != 0 {
            return Err(Error::usage("data lies outside the disk or off its units").at(offset));
        }
        let mut at = offset;
        let mut rest = bytes;
        // Ends because every round takes at least one byte: to the end of a block.
        while !rest.is_empty() {
            let within = at % geometry.block;
            let room = length(geometry.block.get().saturating_sub(within))?;
            let (part, tail) = rest.split_at(room.min(rest.len()));
            let place = self.place(at / geometry.block)?;
            self.storage.write_at(part, place.saturating_add(within))?;
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        self.stored
            .fetch_add(amount(bytes.len()), Ordering::Relaxed);
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        let file_bytes = self
            .blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next;
        // What was not put of the last blocks reads as zeroes.
        self.storage.set_size(file_bytes)?;
        self.storage
            .write_at(&self.metadata.encode(), METADATA.offset)?;
        let regions = Regions {
            bat: Region {
                offset: BAT,
                len: self.bat_len,
            },
            metadata: METADATA,
        };
        for at in TABLES {
            self.storage.write_at(&regions.encode(), at)?;
        }
        self.storage.sync()?;
        let header = Header {
            sequence: 0,
            file_write: Uuid::new_v4(),
            data_write: Uuid::new_v4(),
            log_offset: LOG.offset,
            log_len: LOG.len,
            log: Uuid::nil(),
        };
        for (at, sequence) in HEADERS.into_iter().zip(1..) {
            let header = Header { sequence, ..header };
            self.storage.write_at(&header.encode(), at)?;
        }
        let creator = concat!("rehost ", env!("CARGO_PKG_VERSION"));
        let identifier: Vec<u8> = SIGNATURE
            .iter()
            .copied()
            .chain(creator.encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        self.storage.write_at(&identifier, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.stored.load(Ordering::Relaxed),
            file_bytes,
        })
    }
}
