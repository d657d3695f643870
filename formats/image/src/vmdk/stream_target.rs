//! Writing `streamOptimized`: one compressed file in a single pass, as OVAs carry it.
//!
//! VMware "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents". Each grain is a
//! marker and a zlib stream; a grain table follows the last grain it covers; the grain directory,
//! the footer and the end-of-stream marker close the file. ESXi's importers refuse streams without
//! a footer, so one is always written, and the header's grain directory offset is all ones.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut};

use super::codec::deflate;
use super::header::{Draft, GD_AT_END, GTES_PER_GT, Grains};
use super::sparse_file::{GRAIN, GRAIN_SECTORS, GT_COVERS, GT_SECTORS, capacity, entry, le_bytes};
use super::text::{DESCRIPTOR_SECTORS, ExtentLine, descriptor, embedded};
use super::{SECTOR, amount, length};
use crate::create::TargetSpec;
use crate::options::VmdkOptions;
use crate::target::{Order, Payload, Target, Written, empty};

/// The first sector after header and descriptor. VMware's number.
const OVERHEAD: u64 = 128;

/// Marker types.
const MARKER_EOS: u32 = 0;
const MARKER_GT: u32 = 1;
const MARKER_GD: u32 = 2;
const MARKER_FOOTER: u32 = 3;

/// A `streamOptimized` image being written.
#[derive(Debug)]
pub(crate) struct StreamTarget {
    storage: Arc<dyn StorageMut>,
    capacity: u64,
    level: i32,
    descriptor: Vec<u8>,
    stream: Mutex<Stream>,
}

/// How far the stream is.
#[derive(Debug)]
struct Stream {
    /// The next free sector of the file.
    next: u64,
    /// The first grain that may still come.
    grain: u64,
    /// The table being filled, and its place in the directory.
    table: Vec<u32>,
    number: u64,
    /// The sectors of the tables written; 0 for those without a grain.
    directory: Vec<u32>,
    stored: u64,
}

impl StreamTarget {
    /// Deflate level when none is asked for. Measured on program files with libdeflate: 138 MB/s
    /// and 2.55 to 1; level 6 makes 2.61 of it at 101 MB/s.
    pub(crate) const DEFAULT_LEVEL: u8 = 4;

    /// An empty image as `spec` and `options` ask for on `storage`, compressed with deflate level
    /// `level`.
    ///
    /// # Errors
    /// Usage for a size, name or level that cannot be; Io when the storage fails.
    pub(crate) fn create(
        storage: Arc<dyn StorageMut>,
        spec: &TargetSpec,
        options: &VmdkOptions,
        level: u8,
    ) -> Result<Self> {
        if !(1..=9).contains(&level) {
            return Err(Error::usage("compression level is out of range").mismatch("1 to 9", level));
        }
        let capacity = capacity(spec.size)?;
        let extent = ExtentLine {
            sectors: capacity,
            kind: "SPARSE",
            file: spec.name.clone(),
        };
        let descriptor = embedded(descriptor(spec, options, "streamOptimized", &[extent])?)?;
        empty(&*storage)?;
        storage.set_size(OVERHEAD.saturating_mul(SECTOR))?;
        Ok(Self {
            storage,
            capacity,
            level: level.into(),
            descriptor,
            stream: Mutex::new(Stream {
                next: OVERHEAD,
                grain: 0,
                table: no_entries(),
                number: 0,
                directory: Vec::new(),
                stored: 0,
            }),
        })
    }

    /// Writes the current table behind its marker, if it has a grain, and starts the next.
    fn close_table(&self, stream: &mut Stream) -> Result<()> {
        let at = if stream.table.iter().all(|entry| *entry == 0) {
            0
        } else {
            let table = le_bytes(&stream.table);
            entry(self.write_marked(stream, MARKER_GT, GT_SECTORS, table)?)?
        };
        stream.directory.push(at);
        stream.table = no_entries();
        stream.number = stream.number.saturating_add(1);
        Ok(())
    }

    /// Writes a metadata marker and `body`, padded to `sectors`; gives the body's sector.
    fn write_marked(
        &self,
        stream: &mut Stream,
        kind: u32,
        sectors: u64,
        body: Vec<u8>,
    ) -> Result<u64> {
        let mut bytes = Vec::new();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.resize(length(SECTOR)?, 0);
        bytes.extend(body);
        bytes.resize(length(sectors.saturating_add(1).saturating_mul(SECTOR))?, 0);
        self.storage
            .write_at(&bytes, stream.next.saturating_mul(SECTOR))?;
        let at = stream.next.saturating_add(1);
        stream.next = at.saturating_add(sectors);
        Ok(at)
    }

    fn header(&self, gd: u64) -> Vec<u8> {
        Draft {
            grains: Grains::Compressed,
            zeroed_grains: false,
            capacity: self.capacity,
            grain: GRAIN_SECTORS,
            descriptor: (1, DESCRIPTOR_SECTORS),
            rgd: 0,
            gd,
            overhead: OVERHEAD,
        }
        .encode()
    }
}

fn no_entries() -> Vec<u32> {
    vec![0; usize::try_from(GTES_PER_GT.get()).unwrap_or(0)]
}

impl Target for StreamTarget {
    fn unit(&self) -> std::num::NonZeroU64 {
        GRAIN
    }

    fn order(&self) -> Order {
        Order::Ascending
    }

    fn pack<'a>(&self, offset: u64, plain: &'a [u8]) -> Result<Payload<'a>> {
        let whole = length(GRAIN.get())?;
        let mut lba = offset / SECTOR;
        let mut units = Vec::new();
        for grain in plain.chunks(whole) {
            if rehost_block::is_zero(grain) {
                units.push(Cow::Borrowed(&[][..]));
            } else {
                // The marker's length field is filled in afterwards.
                let mut unit = Vec::new();
                unit.extend(lba.to_le_bytes());
                unit.extend([0; 4]);
                let len = if grain.len() == whole {
                    deflate(self.level, grain, &mut unit)?
                } else {
                    // The end of a disk that is no multiple of the grain: stored whole.
                    let mut padded = grain.to_vec();
                    padded.resize(whole, 0);
                    deflate(self.level, &padded, &mut unit)?
                };
                let len = u32::try_from(len)
                    .map_err(|_| Error::internal("a compressed grain of 4 GiB"))?;
                if let Some(field) = unit.get_mut(8..12) {
                    field.copy_from_slice(&len.to_le_bytes());
                }
                unit.resize(unit.len().next_multiple_of(length(SECTOR)?), 0);
                units.push(Cow::Owned(unit));
            }
            lba = lba.saturating_add(GRAIN_SECTORS);
        }
        Ok(Payload::Packed(units))
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let units = match payload {
            Payload::Packed(units) => units,
            Payload::Zero(_) => return Ok(()),
            Payload::Plain(plain) => match self.pack(offset, plain)? {
                Payload::Packed(units) => units,
                Payload::Plain(_) | Payload::Zero(_) => {
                    return Err(Error::internal("pack gave plain bytes"));
                }
            },
        };
        let first = offset / GRAIN;
        let end = first.saturating_add(amount(units.len()));
        if offset % GRAIN != 0 || end > self.capacity.div_ceil(GRAIN_SECTORS) {
            return Err(Error::usage("data lies outside the disk or off its grains").at(offset));
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if first < stream.grain {
            return Err(Error::internal("a stream takes grains in ascending order").at(offset));
        }
        let mut pending = Vec::new();
        let mut start = stream.next;
        // Both loops end because grains and tables are finitely many, each passed once.
        for (grain, unit) in (first..end).zip(units) {
            let number = grain / GTES_PER_GT;
            while stream.number < number {
                self.storage
                    .write_at(&pending, start.saturating_mul(SECTOR))?;
                pending.clear();
                self.close_table(&mut stream)?;
                start = stream.next;
            }
            if unit.is_empty() {
                continue;
            }
            let sector = entry(stream.next)?;
            let nth = usize::try_from(grain % GTES_PER_GT).unwrap_or(0);
            if let Some(slot) = stream.table.get_mut(nth) {
                *slot = sector;
            }
            stream.next = stream.next.saturating_add(amount(unit.len()) / SECTOR);
            let left = self
                .capacity
                .saturating_mul(SECTOR)
                .saturating_sub(grain.saturating_mul(GRAIN.get()));
            stream.stored = stream.stored.saturating_add(left.min(GRAIN.get()));
            pending.extend_from_slice(&unit);
        }
        self.storage
            .write_at(&pending, start.saturating_mul(SECTOR))?;
        stream.grain = end;
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = self.capacity.div_ceil(GT_COVERS);
        // Ends because each round closes one table.
        while stream.number < tables {
            self.close_table(&mut stream)?;
        }
        let directory = le_bytes(&stream.directory);
        let sectors = amount(directory.len()).div_ceil(SECTOR);
        let gd = self.write_marked(&mut stream, MARKER_GD, sectors, directory)?;
        entry(gd)?;
        self.write_marked(&mut stream, MARKER_FOOTER, 1, self.header(gd))?;
        self.write_marked(&mut stream, MARKER_EOS, 0, Vec::new())?;
        self.storage.write_at(&self.descriptor, SECTOR)?;
        self.storage.sync()?;
        self.storage.write_at(&self.header(GD_AT_END), 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: stream.stored,
            file_bytes: stream.next.saturating_mul(SECTOR),
        })
    }
}
