//! One sparse extent being written: its layout, its tables, and grains in the order in which they
//! come.
//!
//! VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents". The layout is the one of VMware
//! Workstation: header, descriptor, redundant directory and tables, directory and tables, grains.
//! All tables have their place from the start, so an entry is written as soon as its grain is, and
//! memory does not grow with the disk. The header, without which the file is nothing, comes last.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::header::{Draft, GTES_PER_GT, Grains};
use super::{SECTOR, amount, length};
use crate::target::{Placed, empty};

/// Sectors per grain. VMware's default.
pub(super) const GRAIN_SECTORS: u64 = 128;

/// The same in bytes.
pub(super) const GRAIN: NonZeroU64 = NonZeroU64::new(GRAIN_SECTORS * SECTOR).unwrap();

/// Guest sectors that one grain table covers.
pub(super) const GT_COVERS: u64 = GRAIN_SECTORS * GTES_PER_GT.get();

/// Sectors of one grain table.
pub(super) const GT_SECTORS: u64 = GTES_PER_GT.get() * 4 / SECTOR;

/// The largest disk: QEMU's and our reader's limit of 8 Mi grain directory entries.
const MAX_SECTORS: u64 = GT_COVERS * (8 << 20);

/// Directory or table entries written at a time.
const ENTRIES_PART: u64 = 1 << 16;

/// Grain table entry of a grain of zeroes, where the header's flag allows it.
pub(super) const ZEROED: u32 = 1;

/// A sparse extent being written. Offsets are the extent's own, in bytes.
#[derive(Debug)]
pub(super) struct SparseFile {
    storage: Arc<dyn StorageMut>,
    layout: Layout,
    /// The first sector that no grain has yet.
    next: AtomicU64,
    /// Guest bytes stored.
    stored: AtomicU64,
    /// Whether an entry says that its grain is zeroes.
    zeroed: AtomicBool,
}

/// Where everything is, in sectors.
#[derive(Debug, Clone, Copy)]
struct Layout {
    capacity: u64,
    descriptor: u64,
    gd_entries: u64,
    rgd: u64,
    rgts: u64,
    gd: u64,
    gts: u64,
    grains: u64,
}

impl Layout {
    fn new(capacity: u64, descriptor: u64) -> Self {
        let gd_entries = capacity.div_ceil(GT_COVERS);
        // Below 2^24 entries (MAX_SECTORS), so nothing here comes near 64 bits.
        let gd_sectors = gd_entries.saturating_mul(4).div_ceil(SECTOR);
        let gt_sectors = gd_entries.saturating_mul(GT_SECTORS);
        let rgd = descriptor.saturating_add(1);
        let rgts = rgd.saturating_add(gd_sectors);
        let gd = rgts.saturating_add(gt_sectors);
        let gts = gd.saturating_add(gd_sectors);
        Self {
            capacity,
            descriptor,
            gd_entries,
            rgd,
            rgts,
            gd,
            gts,
            grains: gts
                .saturating_add(gt_sectors)
                .next_multiple_of(GRAIN_SECTORS),
        }
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

impl SparseFile {
    /// An empty extent of `capacity` sectors on `storage`, with room for a descriptor of
    /// `descriptor` sectors (0: none).
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn create(
        storage: Arc<dyn StorageMut>,
        capacity: u64,
        descriptor: u64,
    ) -> Result<Self> {
        let layout = Layout::new(capacity, descriptor);
        // Tables of the grains that never come must read as zeroes.
        empty(&*storage)?;
        storage.set_size(layout.grains.saturating_mul(SECTOR))?;
        Ok(Self {
            storage,
            next: AtomicU64::new(layout.grains),
            stored: AtomicU64::new(0),
            zeroed: AtomicBool::new(false),
            layout,
        })
    }

    /// Stores `bytes`, which begin at a grain.
    pub(super) fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.allocate(offset, amount(bytes.len()), Filled::Before(bytes))?;
        debug_assert!(at % GRAIN == 0, "grains are aligned");
        Ok(())
    }

    /// Gives `len` bytes from `offset` room in one piece.
    pub(super) fn place(&self, offset: u64, len: u64) -> Result<Placed> {
        let at = self.allocate(offset, len, Filled::ByTheCaller)?;
        Ok(Placed {
            storage: Arc::clone(&self.storage),
            offset: at,
            len,
        })
    }

    /// Room for `len` bytes, where it begins, and the table entries that say so.
    fn allocate(&self, offset: u64, len: u64, filled: Filled<'_>) -> Result<u64> {
        let count = len.div_ceil(GRAIN.get());
        let sectors = count.saturating_mul(GRAIN_SECTORS);
        let start = self.next.fetch_add(sectors, Ordering::Relaxed);
        entry(start.saturating_add(sectors))?;
        let at = start.saturating_mul(SECTOR);
        if let Filled::Before(bytes) = filled {
            self.storage.write_at(bytes, at)?;
        }
        self.enter(offset / GRAIN, count, |nth| {
            entry(start.saturating_add(nth.saturating_mul(GRAIN_SECTORS)))
        })?;
        self.stored.fetch_add(len, Ordering::Relaxed);
        Ok(at)
    }

    /// Says that `len` bytes from `offset` are zeroes, whatever a parent has there.
    pub(super) fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.zeroed.store(true, Ordering::Relaxed);
        self.enter(offset / GRAIN, len.div_ceil(GRAIN.get()), |_| Ok(ZEROED))
    }

    /// Writes the entries of `count` grains from `first` into both sets of tables.
    fn enter(&self, first: u64, count: u64, value: impl Fn(u64) -> Result<u32>) -> Result<()> {
        let mut done = 0;
        // Ends because `done` grows by at least one every round.
        while done < count {
            let end = count.min(done.saturating_add(ENTRIES_PART));
            let mut entries = Vec::new();
            for nth in done..end {
                entries.extend(value(nth)?.to_le_bytes());
            }
            // The tables follow each other, so entry n of the extent is at 4n.
            let place = first.saturating_add(done).saturating_mul(4);
            for tables in [self.layout.rgts, self.layout.gts] {
                let at = tables.saturating_mul(SECTOR).saturating_add(place);
                self.storage.write_at(&entries, at)?;
            }
            done = end;
        }
        Ok(())
    }

    /// A grain directory whose tables follow each other from sector `tables`, written at `at`.
    fn write_directory(&self, at: u64, tables: u64) -> Result<()> {
        let mut first = 0;
        // Ends because `first` grows by at least one every round.
        while first < self.layout.gd_entries {
            let end = self
                .layout
                .gd_entries
                .min(first.saturating_add(ENTRIES_PART));
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

    /// Writes everything but the header, and gives the file's length.
    pub(super) fn finish(&self, descriptor: &[u8]) -> Result<u64> {
        if amount(descriptor.len()) > self.layout.descriptor.saturating_mul(SECTOR) {
            return Err(Error::internal("a descriptor without room"));
        }
        let file_bytes = self.next.load(Ordering::Relaxed).saturating_mul(SECTOR);
        // The last grain of a disk may have been put short: its room is whole.
        self.storage.set_size(file_bytes)?;
        self.write_directory(self.layout.rgd, self.layout.rgts)?;
        self.write_directory(self.layout.gd, self.layout.gts)?;
        self.storage.write_at(descriptor, SECTOR)?;
        self.storage.sync()?;
        Ok(file_bytes)
    }

    /// Writes the header, which makes the file an extent.
    pub(super) fn write_header(&self) -> Result<()> {
        let header = Draft {
            grains: Grains::Plain,
            zeroed_grains: self.zeroed.load(Ordering::Relaxed),
            capacity: self.layout.capacity,
            grain: GRAIN_SECTORS,
            descriptor: match self.layout.descriptor {
                0 => (0, 0),
                sectors => (1, sectors),
            },
            rgd: self.layout.rgd,
            gd: self.layout.gd,
            overhead: self.layout.grains,
        };
        self.storage.write_at(&header.encode(), 0)?;
        self.storage.sync()
    }

    /// Guest bytes stored.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// Who writes the data of new room.
#[derive(Debug, Clone, Copy)]
enum Filled<'a> {
    /// It is written before the tables name it.
    Before(&'a [u8]),
    /// The caller of `place` does.
    ByTheCaller,
}

/// Table entries as they are on disk.
pub(super) fn le_bytes(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_le_bytes()).collect()
}

/// Splits `offset..offset + len` at multiples of `every`: the part's number, its offset in it, its
/// length.
pub(super) fn split(offset: u64, len: u64, every: NonZeroU64) -> Vec<(usize, u64, u64)> {
    let mut parts = Vec::new();
    let (mut at, mut left) = (offset, len);
    // Ends because every part is at least a byte long.
    while left > 0 {
        let within = at % every;
        let part = every.get().saturating_sub(within).min(left);
        parts.push((length(at / every).unwrap_or(usize::MAX), within, part));
        at = at.saturating_add(part);
        left = left.saturating_sub(part);
    }
    parts
}
