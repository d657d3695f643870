//! A sparse extent: a grain directory, grain tables, and grains, plain or compressed.
//!
//! VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse
//! Extents" and "ESX Server Sparse Extents"; for seSparse see [`se_sparse`](super::se_sparse).
//! Tables are read when they are needed and a bounded number of them is kept.
//!
//! Leaves out on purpose: the redundant grain directory (see [`header`](super::header)), and a
//! search for grains shared by two table entries, which is a check and not a read.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Codec, Error, Fields, Located, Packed, Result, Run, Storage};

use super::codec::Zlib;
use super::entries::Grain;
use super::header::{Grains, HEADER_LEN, Header, STRUCTURE};
use super::{SECTOR, amount, cowd, entries, length, se_sparse};

/// Memory for grain tables per extent: those of 32 GiB of a hosted disk.
const KEPT_BYTES: u64 = 4 << 20;

/// Grain tables looked at for one answer, so that none takes long: 512 MiB of usual grains.
const TABLES_PER_ANSWER: u32 = 16;

/// Length of a grain marker before its data, in bytes: the grain's first sector, the data's length.
const MARKER_LEN: u64 = 12;

/// `size` and `type` of the marker before a footer.
const FOOTER_MARKER: (u32, u32) = (0, 3);

/// What a range without a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Zeroes: there is no parent.
    Zero,
    /// The parent's business.
    Below,
}

/// An opened sparse extent.
#[derive(Debug)]
pub(super) struct SparseExtent {
    storage: Arc<dyn Storage>,
    file_size: u64,
    header: Header,
    /// The sector of each grain table, or its number counted from 1; 0 where there is none.
    directory: Vec<u32>,
    tables: Vec<Mutex<Option<Kept>>>,
    absent: Absent,
    codec: Arc<dyn Codec>,
}

/// A grain table and its place in the directory.
#[derive(Debug)]
struct Kept {
    index: u64,
    table: Arc<Vec<u64>>,
}

impl SparseExtent {
    /// Reads the header of `storage`, whose first bytes say of what kind it is, and for a stream its
    /// footer.
    ///
    /// # Errors
    /// Corrupt or Unsupported as the kind's parser says; Corrupt for a stream without its footer.
    pub(super) fn header(storage: &dyn Storage) -> Result<Header> {
        let size = storage.size();
        let mut bytes = [0; HEADER_LEN];
        let len = HEADER_LEN.min(usize::try_from(size).unwrap_or(HEADER_LEN));
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        storage.read_at(bytes, 0)?;
        if bytes.starts_with(cowd::MAGIC) {
            return cowd::header(storage);
        }
        if bytes.starts_with(&se_sparse::MAGIC.to_le_bytes()) {
            return se_sparse::header(storage);
        }
        let header = Header::parse(bytes, 0, size)?;
        match header.gd {
            Some(_) => Ok(header),
            None => footer(storage, size),
        }
    }

    /// Opens the extent behind `header`, which came from the same `storage`.
    ///
    /// # Errors
    /// Corrupt when the grain directory lies outside the file.
    pub(super) fn open(storage: Arc<dyn Storage>, header: Header, absent: Absent) -> Result<Self> {
        let gd = header
            .gd
            .ok_or_else(|| Error::internal("a sparse extent without a grain directory"))?;
        // Its length was compared with the file's by the header.
        let mut bytes = vec![0; length(header.gd_len())?];
        storage.read_at(&mut bytes, gd)?;
        let directory = entries::parse(header.entries, &bytes)
            .zip((gd..).step_by(length(header.entries.len())?))
            .map(|(entry, at)| {
                entries::table(header.entries, entry)
                    .map_err(|error| error.at(at).in_file(storage.name()))
            })
            .collect::<Result<_>>()?;
        let fit = KEPT_BYTES / header.gtes_per_gt / 8;
        let kept = header.gd_entries.min(fit);
        Ok(Self {
            file_size: storage.size(),
            directory,
            tables: (0..kept).map(|_| Mutex::default()).collect(),
            codec: Arc::new(Zlib::new(header.grain)),
            storage,
            header,
            absent,
        })
    }

    /// What lies at byte `offset` of the extent, for at most `want` bytes; both inside it.
    ///
    /// # Errors
    /// Corrupt when a table or a grain lies outside the file or over other metadata.
    pub(super) fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let want = want.min(self.header.capacity.saturating_sub(offset));
        let grain = self.header.grain.get();
        let per_table = self.header.gtes_per_gt.get();
        let within = offset % self.header.grain;
        let first = offset / self.header.grain;
        let mut table = self.table(first / self.header.gtes_per_gt)?;
        let start = self.grain(&table, first)?;
        if let (Grain::Stored(at), Grains::Compressed) = (start, self.header.grains) {
            return self.compressed(first, at, within, want);
        }
        let mut tables = 1;
        let mut count = 1u64;
        // Ends because `count` grows every round and `want` is finite.
        while count.saturating_mul(grain).saturating_sub(within) < want {
            let index = first.saturating_add(count);
            if index % self.header.gtes_per_gt == 0 {
                let number = index / self.header.gtes_per_gt;
                if self.entry(number) == 0 {
                    if start != Grain::Absent {
                        break;
                    }
                    count = count.saturating_add(per_table);
                    continue;
                }
                tables = u32::saturating_add(tables, 1);
                if tables > TABLES_PER_ANSWER {
                    break;
                }
                table = self.table(number)?;
            }
            let next = self.grain(&table, index)?;
            let follows = match (start, next) {
                (Grain::Stored(a), Grain::Stored(b)) => {
                    b == a.saturating_add(count.saturating_mul(grain))
                }
                (a, b) => a == b,
            };
            if !follows {
                break;
            }
            count = count.saturating_add(1);
        }
        let len = count.saturating_mul(grain).saturating_sub(within).min(want);
        Ok(match start {
            Grain::Absent => Located::new(self.nothing(), len),
            Grain::Zero => Located::new(Run::Zero, len),
            Grain::Stored(at) => {
                let at = at.saturating_add(within);
                Located::new(
                    Run::At {
                        storage: Arc::clone(&self.storage),
                        offset: at,
                    },
                    self.inside(at, len, grain)?,
                )
            }
        })
    }

    const fn nothing(&self) -> Run {
        match self.absent {
            Absent::Zero => Run::Zero,
            Absent::Below => Run::Below,
        }
    }

    /// How many of the `len` bytes at `at` can be given out: all of them, or the whole grains
    /// before the one that the end of the file cuts, so that the error names that one.
    fn inside(&self, at: u64, len: u64, grain: u64) -> Result<u64> {
        let left = self.file_size.saturating_sub(at);
        if left >= len {
            return Ok(len);
        }
        match left.checked_div(grain).unwrap_or(0) {
            0 => Err(self.truncated("grain", at, len.min(grain))),
            whole => Ok(whole.saturating_mul(grain)),
        }
    }

    fn truncated(&self, structure: &'static str, at: u64, len: u64) -> Error {
        Error::corrupt("lies past the end of the file")
            .in_structure(structure)
            .in_file(self.storage.name())
            .at(at)
            .mismatch(
                format!("an end of at most {}", self.file_size),
                at.saturating_add(len),
            )
            .hint("the file is truncated or damaged: copy it again from its origin")
    }

    /// The run of a compressed grain, from the marker before its data.
    fn compressed(&self, index: u64, at: u64, within: u64, want: u64) -> Result<Located> {
        const MARKER: &str = "grain marker";
        let grain = self.header.grain.get();
        if self.file_size.saturating_sub(at) < MARKER_LEN {
            return Err(self.truncated(MARKER, at, MARKER_LEN));
        }
        let mut bytes = [0; 12];
        self.storage.read_at(&mut bytes, at)?;
        let marker = Fields::new(&bytes, MARKER, at);
        let start = index.saturating_mul(grain);
        let lba = marker.u64_le(0)?;
        if lba != start / SECTOR {
            return Err(marker
                .corrupt(0, "marker is for another grain")
                .mismatch(format!("sector {}", start / SECTOR), lba)
                .in_file(self.storage.name()));
        }
        let len = u64::from(marker.u32_le(8)?);
        // QEMU's limit: no encoder makes a grain twice as long.
        if len == 0 || len > grain.saturating_mul(2) {
            return Err(marker
                .corrupt(8, "length of a compressed grain is out of range")
                .mismatch(format!("1 to {}", grain.saturating_mul(2)), len)
                .in_file(self.storage.name()));
        }
        let data = at.saturating_add(MARKER_LEN);
        if self.file_size.saturating_sub(data) < len {
            return Err(self.truncated("grain", data, len));
        }
        let unit = grain.min(self.header.capacity.saturating_sub(start));
        let packed = Packed {
            storage: Arc::clone(&self.storage),
            offset: data,
            len,
            codec: Arc::clone(&self.codec),
            unit: unit
                .try_into()
                .map_err(|_| Error::internal("a grain past the end of its extent").at(start))?,
            skip: within,
        };
        let len = unit.saturating_sub(within).min(want);
        Ok(Located::new(Run::Packed(packed), len))
    }

    /// The sector of grain table `number`, 0 where there is none.
    fn entry(&self, number: u64) -> u32 {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.directory.get(number))
            .copied()
            .unwrap_or(0)
    }

    /// Grain table `number`; empty where the directory has none.
    fn table(&self, number: u64) -> Result<Arc<Vec<u64>>> {
        let sector = self.entry(number);
        if sector == 0 {
            return Ok(Arc::default());
        }
        let slots = amount(self.tables.len()).max(1);
        let slot = number
            .checked_rem(slots)
            .and_then(|slot| self.tables.get(usize::try_from(slot).ok()?))
            .ok_or_else(|| Error::internal("a grain table past the directory"))?;
        let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(kept) if kept.index == number => Ok(Arc::clone(&kept.table)),
            _ => {
                let at = entries::table_at(&self.header, sector).unwrap_or(0);
                let table = Arc::new(self.read_table(at)?);
                *kept = Some(Kept {
                    index: number,
                    table: Arc::clone(&table),
                });
                Ok(table)
            }
        }
    }

    fn read_table(&self, at: u64) -> Result<Vec<u64>> {
        const TABLE: &str = "grain table";
        let len = self.header.gt_len();
        if self.file_size.saturating_sub(at) < len {
            return Err(self.truncated(TABLE, at, len));
        }
        self.check_overlap(TABLE, at, len)?;
        let mut bytes = vec![0; length(len)?];
        self.storage.read_at(&mut bytes, at)?;
        Ok(entries::parse(self.header.entries, &bytes).collect())
    }

    /// What the table that covers it says of grain `index`.
    fn grain(&self, table: &[u64], index: u64) -> Result<Grain> {
        let entry = usize::try_from(index % self.header.gtes_per_gt)
            .ok()
            .and_then(|nth| table.get(nth))
            .copied()
            .unwrap_or(0);
        let at = match entries::grain(&self.header, entry) {
            Some(Grain::Stored(at)) => at,
            Some(grain) => return Ok(grain),
            None => {
                return Err(
                    Error::corrupt(format!("entry of grain {index} is not known"))
                        .in_structure("grain table")
                        .in_file(self.storage.name())
                        .mismatch("type 0 to 3", format!("{entry:#018x}")),
                );
            }
        };
        let len = match self.header.grains {
            Grains::Plain => self.header.grain.get(),
            Grains::Compressed => MARKER_LEN,
        };
        self.check_overlap("grain", at, len)?;
        Ok(Grain::Stored(at))
    }

    /// Nothing may lie over the header, the descriptor or the grain directory.
    fn check_overlap(&self, structure: &'static str, at: u64, len: u64) -> Result<()> {
        let end = at.saturating_add(len);
        let over = |taken: &Range<u64>| at < taken.end && taken.start < end;
        let descriptor = self.header.descriptor.unwrap_or((0, SECTOR));
        let taken = [
            (STRUCTURE, (0, SECTOR)),
            ("descriptor", descriptor),
            (
                "grain directory",
                (self.header.gd.unwrap_or(0), self.header.gd_len()),
            ),
        ];
        for (name, (start, taken)) in taken {
            if over(&(start..start.saturating_add(taken))) {
                return Err(Error::corrupt(format!("lies over the {name}"))
                    .in_structure(structure)
                    .in_file(self.storage.name())
                    .at(at));
            }
        }
        Ok(())
    }
}

/// The footer: a copy of the header with the real grain directory offset, between its marker and
/// the end-of-stream marker, in the last three sectors.
fn footer(storage: &dyn Storage, size: u64) -> Result<Header> {
    const FOOTER: &str = "footer";
    let missing = |at: u64| {
        Error::corrupt("stream has no footer")
            .in_structure(FOOTER)
            .at(at)
            .hint("the file is truncated or still being written: copy it again from its origin")
    };
    let start = size
        .checked_sub(3 * SECTOR)
        .filter(|start| *start >= SECTOR)
        .ok_or_else(|| missing(size))?;
    let mut bytes = vec![0; 3 * HEADER_LEN];
    storage.read_at(&mut bytes, start)?;
    let tail = Fields::new(&bytes, FOOTER, start);
    let marker = (tail.u64_le(0)?, (tail.u32_le(8)?, tail.u32_le(12)?));
    let header = tail.bytes(HEADER_LEN, HEADER_LEN)?;
    let end = tail.bytes(2 * HEADER_LEN, 16)?;
    if marker != (1, FOOTER_MARKER) || end.iter().any(|byte| *byte != 0) {
        return Err(missing(start));
    }
    let base = start.saturating_add(SECTOR);
    let header = Header::parse(header, base, size).map_err(|error| error.in_structure(FOOTER))?;
    if header.gd.is_none() {
        return Err(
            Error::corrupt("footer does not say where the grain directory is")
                .in_structure(FOOTER)
                .at(base.saturating_add(56)),
        );
    }
    Ok(header)
}
