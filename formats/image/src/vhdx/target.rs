//! Writing a VHDX: fixed, dynamic or differencing.
//!
//! \[MS-VHDX\] §2.1. The layout is Hyper-V's: headers, log, metadata, block allocation table, blocks,
//! each at a multiple of 1 MiB. The log is there and empty. Headers and identifier, without which
//! the file is nothing, come last.
//!
//! Leaves out on purpose: the `volume_path` key of parent locators, as no volume of this machine
//! has such a name.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut};
use uuid::Uuid;

use super::header::{HEADERS, Header, SIGNATURE};
use super::layout::{Blocks, Kind};
use super::locator;
use super::metadata::{Geometry, Metadata};
use super::region::{Region, Regions, TABLES};
use super::{KIB64, MAX_SIZE, MIB, amount};
use crate::blocks::{Beneath, Ground};
use crate::create::TargetSpec;
use crate::options::{VhdxOptions, VhdxSubformat};
use crate::target::{Order, Payload, Placed, Target, Written};

/// Bytes per block when nothing else is asked for: the least, so that little room is lost on small
/// islands of data.
const DEFAULT_BLOCK: u32 = 1 << 20;

/// Bytes per logical sector when nothing else is asked for.
const DEFAULT_SECTOR: u32 = 512;

/// Bytes per physical sector when nothing else is asked for, as Hyper-V makes it.
const DEFAULT_PHYSICAL_SECTOR: u32 = 4096;

/// Bytes per unit: finer than a block, so that holes in blocks stay holes of the file.
const UNIT: NonZeroU64 = NonZeroU64::new(KIB64).unwrap();

/// Bytes per unit over a parent: only what differs is stored, and a sector is no longer than that.
const UNIT_OVER_PARENT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

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
    let parent = match &spec.backing {
        None => None,
        Some(backing) => {
            if options.kind == VhdxSubformat::Fixed {
                spec.refuse_backing("fixed VHDX images")?;
            }
            Some(locator::encode(backing)?)
        }
    };
    Ok(Box::new(VhdxTarget::create(
        storage, spec.size, options, parent,
    )?))
}

/// A VHDX being written.
#[derive(Debug)]
struct VhdxTarget {
    storage: Arc<dyn StorageMut>,
    metadata: Metadata,
    /// The parent locator of a differencing disk.
    parent: Option<Vec<u8>>,
    bat_len: u64,
    blocks: Blocks,
    /// Guest bytes stored.
    stored: AtomicU64,
}

/// The sizes that are asked for.
///
/// # Errors
/// Usage for what a VHDX cannot have.
fn geometry(size: u64, options: VhdxOptions) -> Result<Geometry> {
    let block = u64::from(options.block_size.unwrap_or(DEFAULT_BLOCK));
    let sector = u64::from(options.logical_sector.unwrap_or(DEFAULT_SECTOR));
    let physical = options.physical_sector.unwrap_or(DEFAULT_PHYSICAL_SECTOR);
    if !matches!(sector, 512 | 4096) {
        return Err(
            Error::usage("sector size cannot be that of a VHDX").mismatch("512 or 4096", sector)
        );
    }
    if !matches!(physical, 512 | 4096) {
        return Err(
            Error::usage("physical sector size cannot be that of a VHDX")
                .mismatch("512 or 4096", physical),
        );
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(Error::usage("block size cannot be that of a VHDX")
            .mismatch("a power of two from 1 MiB to 256 MiB", block));
    }
    size.checked_next_multiple_of(sector)
        .and_then(|size| Geometry::new(size, block, sector))
        .ok_or_else(|| {
            Error::usage("size cannot be that of a VHDX")
                .mismatch(format!("1 to {MAX_SIZE} bytes"), size)
        })
}

impl VhdxTarget {
    /// An empty disk of `size` bytes, rounded up to whole sectors, on `storage`.
    ///
    /// # Errors
    /// Usage for sizes that cannot be; Io when the storage fails.
    fn create(
        storage: Arc<dyn StorageMut>,
        size: u64,
        options: VhdxOptions,
        parent: Option<Vec<u8>>,
    ) -> Result<Self> {
        let geometry = geometry(size, options)?;
        let ground = Ground::prepare(&*storage)?;
        let bat_len = geometry
            .entries(parent.is_some())
            .saturating_mul(8)
            .next_multiple_of(MIB);
        let first = BAT.saturating_add(bat_len);
        // Entries of blocks that never come must read as zeroes.
        storage.set_size(first)?;
        ground.clear(&*storage, 0, first)?;
        let kind = match (options.kind, &parent) {
            (_, Some(_)) => Kind::Differencing,
            (VhdxSubformat::Dynamic, None) => Kind::Dynamic,
            (VhdxSubformat::Fixed, None) => Kind::Fixed,
        };
        let blocks = Blocks::new(Arc::clone(&storage), ground, kind, geometry, BAT, first)?;
        if kind == Kind::Fixed {
            blocks.take_all()?;
        }
        Ok(Self {
            storage,
            metadata: Metadata {
                geometry,
                leave_allocated: kind == Kind::Fixed,
                disk_id: Uuid::new_v4(),
                physical_sector: options.physical_sector.unwrap_or(DEFAULT_PHYSICAL_SECTOR),
                parent: None,
            },
            parent,
            bat_len,
            blocks,
            stored: AtomicU64::new(0),
        })
    }

    fn beneath(&self) -> Beneath {
        match self.parent {
            Some(_) => Beneath::Parent,
            None => Beneath::Zeroes,
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        if end > self.metadata.geometry.size || offset % self.unit() != 0 {
            return Err(Error::usage("data lies outside the disk or off its units").at(offset));
        }
        Ok(())
    }

    fn count(&self, len: u64) {
        self.stored.fetch_add(len, Ordering::Relaxed);
    }
}

impl Target for VhdxTarget {
    fn unit(&self) -> NonZeroU64 {
        match self.beneath() {
            Beneath::Zeroes => UNIT,
            Beneath::Parent => UNIT_OVER_PARENT,
        }
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        match payload {
            Payload::Plain(bytes) => {
                self.check(offset, amount(bytes.len()))?;
                let mut rest = bytes;
                for part in self.metadata.geometry.parts(offset, amount(bytes.len())) {
                    let len = usize::try_from(part.len).unwrap_or(usize::MAX);
                    let (plain, tail) = rest.split_at(len.min(rest.len()));
                    rest = tail;
                    let place = self.blocks.place(&part)?;
                    self.storage.write_at(plain, place)?;
                }
                self.count(amount(bytes.len()));
                Ok(())
            }
            Payload::Zero(len) => {
                self.check(offset, len)?;
                if self.beneath() == Beneath::Parent {
                    for part in self.metadata.geometry.parts(offset, len) {
                        self.blocks.hide(&part)?;
                    }
                }
                Ok(())
            }
            Payload::Packed(_) => {
                Err(Error::internal("this target takes plain bytes only").at(offset))
            }
        }
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        self.check(offset, len)?;
        let placed = self.blocks.place_all(offset, len)?;
        if let Some(placed) = &placed {
            self.count(placed.len);
        }
        Ok(placed)
    }

    fn publish(&self) -> Result<Written> {
        let file_bytes = self.blocks.end();
        // What was not put of the last blocks reads as zeroes.
        self.storage.set_size(file_bytes)?;
        let metadata = self.metadata.encode(self.parent.as_deref());
        self.storage.write_at(&metadata, METADATA.offset)?;
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
