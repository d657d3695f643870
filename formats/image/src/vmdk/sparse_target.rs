//! Writing `monolithicSparse`: one growable file, grains in the order in which they come.
//!
//! VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents". The layout is the one of VMware
//! Workstation: header, descriptor, redundant directory and tables, directory and tables, grains.
//! All tables have their place from the start, so an entry is written as soon as its grain is, and
//! memory does not grow with the disk. The header, without which the file is nothing, comes last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::header::{Draft, GTES_PER_GT, Grains};
use super::text::{DESCRIPTOR_SECTORS, descriptor};
use super::{SECTOR, amount};
use crate::options::Adapter;
use crate::target::{Order, Payload, Target, Written, empty};

/// Sectors per grain. VMware's default.
pub(super) const GRAIN_SECTORS: u64 = 128;

/// The same in bytes.
pub(super) const GRAIN: std::num::NonZeroU64 =
    std::num::NonZeroU64::new(GRAIN_SECTORS * SECTOR).unwrap();

/// Guest sectors that one grain table covers.
pub(super) const GT_COVERS: u64 = GRAIN_SECTORS * GTES_PER_GT.get();

/// Sectors of one grain table.
pub(super) const GT_SECTORS: u64 = GTES_PER_GT.get() * 4 / SECTOR;

/// The largest disk: QEMU's and our reader's limit of 8 Mi grain directory entries.
const MAX_SECTORS: u64 = GT_COVERS * (8 << 20);

/// Grain directory entries written at a time.
const GD_PART: u64 = 1 << 16;

/// A `monolithicSparse` image being written.
#[derive(Debug)]
pub(crate) struct SparseTarget {
    storage: Arc<dyn StorageMut>,
    layout: Layout,
    descriptor: Vec<u8>,
    /// The first sector that no grain has yet.
    next: AtomicU64,
    /// Guest bytes stored.
    stored: AtomicU64,
}

/// Where everything is, in sectors.
#[derive(Debug, Clone, Copy)]
struct Layout {
    capacity: u64,
    gd_entries: u64,
    rgd: u64,
    rgts: u64,
    gd: u64,
    gts: u64,
    grains: u64,
}

impl Layout {
    fn new(size: u64) -> Result<Self> {
        let capacity = capacity(size)?;
        let gd_entries = capacity.div_ceil(GT_COVERS);
        // Below 2^24 entries (MAX_SECTORS), so nothing here comes near 64 bits.
        let gd_sectors = gd_entries.saturating_mul(4).div_ceil(SECTOR);
        let gt_sectors = gd_entries.saturating_mul(GT_SECTORS);
        let rgd = DESCRIPTOR_SECTORS.saturating_add(1);
        let rgts = rgd.saturating_add(gd_sectors);
        let gd = rgts.saturating_add(gt_sectors);
        let gts = gd.saturating_add(gd_sectors);
        Ok(Self {
            capacity,
            gd_entries,
            rgd,
            rgts,
            gd,
            gts,
            grains: gts
                .saturating_add(gt_sectors)
                .next_multiple_of(GRAIN_SECTORS),
        })
    }
}

/// A size in sectors, rounded up: VMDK knows no other unit.
pub(super) fn capacity(size: u64) -> Result<u64> {
    let sectors = size.div_ceil(SECTOR);
    if sectors == 0 || sectors > MAX_SECTORS {
        return Err(
            Error::usage("size cannot be that of a sparse VMDK").mismatch(
                format!("1 to {} bytes", MAX_SECTORS.saturating_mul(SECTOR)),
                size,
            ),
        );
    }
    Ok(sectors)
}

/// A sector number as tables hold it.
pub(super) fn entry(sector: u64) -> Result<u32> {
    u32::try_from(sector).map_err(|_| {
        Error::unsupported("image would grow past 2 TiB, the most that sparse VMDK files hold")
            .hint("choose another target format")
    })
}

impl SparseTarget {
    /// An empty image of `size` bytes on `storage`, to be called `name`.
    ///
    /// # Errors
    /// Usage for a size or name that cannot be; Io when the storage fails.
    pub(crate) fn create(
        storage: Arc<dyn StorageMut>,
        size: u64,
        name: &str,
        adapter: Adapter,
    ) -> Result<Self> {
        let layout = Layout::new(size)?;
        let descriptor = descriptor("monolithicSparse", name, layout.capacity, adapter)?;
        // Tables of the grains that never come must read as zeroes.
        empty(&*storage)?;
        storage.set_size(layout.grains.saturating_mul(SECTOR))?;
        Ok(Self {
            storage,
            next: AtomicU64::new(layout.grains),
            stored: AtomicU64::new(0),
            layout,
            descriptor,
        })
    }

    /// A grain directory whose tables follow each other from sector `tables`, written at `at`.
    fn write_directory(&self, at: u64, tables: u64) -> Result<()> {
        let mut first = 0;
        // Ends because `first` grows by at least one every round.
        while first < self.layout.gd_entries {
            let end = self.layout.gd_entries.min(first.saturating_add(GD_PART));
            let mut bytes = Vec::new();
            for nth in first..end {
                let sector = tables.saturating_add(nth.saturating_mul(GT_SECTORS));
                bytes.extend(entry(sector)?.to_le_bytes());
            }
            let offset = at
                .saturating_mul(SECTOR)
                .saturating_add(first.saturating_mul(4));
            self.storage.write_at(&bytes, offset)?;
            first = end;
        }
        Ok(())
    }
}

impl Target for SparseTarget {
    fn unit(&self) -> std::num::NonZeroU64 {
        GRAIN
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("this target takes plain grains only").at(offset));
        };
        let len = amount(bytes.len());
        let end = offset.saturating_add(len);
        if end > self.layout.capacity.saturating_mul(SECTOR) || offset % GRAIN != 0 {
            return Err(Error::usage("data lies outside the disk or off its grains").at(offset));
        }
        let count = len.div_ceil(GRAIN.get());
        let sectors = count.saturating_mul(GRAIN_SECTORS);
        let start = self.next.fetch_add(sectors, Ordering::Relaxed);
        entry(start.saturating_add(sectors))?;
        self.storage.write_at(bytes, start.saturating_mul(SECTOR))?;

        let mut entries = Vec::new();
        for nth in 0..count {
            let sector = start.saturating_add(nth.saturating_mul(GRAIN_SECTORS));
            entries.extend(entry(sector)?.to_le_bytes());
        }
        // The tables follow each other, so entry n of the disk is at 4n.
        let place = (offset / GRAIN).saturating_mul(4);
        for tables in [self.layout.rgts, self.layout.gts] {
            let at = tables.saturating_mul(SECTOR).saturating_add(place);
            self.storage.write_at(&entries, at)?;
        }
        self.stored.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        let file_bytes = self.next.load(Ordering::Relaxed).saturating_mul(SECTOR);
        // The last grain of a disk may have been put short: its room is whole.
        self.storage.set_size(file_bytes)?;
        self.write_directory(self.layout.rgd, self.layout.rgts)?;
        self.write_directory(self.layout.gd, self.layout.gts)?;
        self.storage.write_at(&self.descriptor, SECTOR)?;
        self.storage.sync()?;
        let header = Draft {
            grains: Grains::Plain,
            capacity: self.layout.capacity,
            grain: GRAIN_SECTORS,
            descriptor: (1, DESCRIPTOR_SECTORS),
            rgd: self.layout.rgd,
            gd: self.layout.gd,
            overhead: self.layout.grains,
        };
        self.storage.write_at(&header.encode(), 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.stored.load(Ordering::Relaxed),
            file_bytes,
        })
    }
}
