//! Persistent dirty bitmaps: their directory, and the tables that lead to their bits.
//!
//! QEMU `docs/interop/qcow2.txt`, "Bitmaps".

use rehost_block::{Error, Fields, Result, Storage};

use super::areas::BitmapDirectory;
use super::entry::{Geometry, OFFSET_MASK, amount, index};
use super::header::{Header, past_end};
use super::tables::words;
use crate::Bitmap;

/// Bytes of a directory. QEMU's: `QCOW2_MAX_BITMAP_DIRECTORY_SIZE`.
const MAX_DIRECTORY: u64 = 0x1_0000 * 0x440;
/// Bytes of one bitmap's bits that are counted. Ours: QEMU's limit for a whole bitmap is 512 MiB.
const MAX_BITS: u64 = 512 << 20;
/// Entries of a bitmap table: 32 MiB of memory. Ours: with 512 byte clusters, more bits than QEMU's
/// limit for a whole bitmap has room for.
const MAX_TABLE: u64 = 4 << 20;

pub(super) const IN_USE: u32 = 1;
pub(super) const AUTO: u32 = 2;
/// Bit 0 of a table entry without an offset: all bits are set.
pub(super) const ALL_ONES: u64 = 1;

/// One entry of the directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) table: u64,
    pub(super) table_entries: u64,
    pub(super) flags: u32,
    pub(super) kind: u8,
    pub(super) granularity_bits: u8,
    pub(super) name: Vec<u8>,
    /// Where the entry is in the file; its flags are 12 bytes on.
    pub(super) place: u64,
}

/// The bitmaps of `directory`, in its order.
pub(super) fn read(
    directory: &BitmapDirectory,
    geometry: &Geometry,
    storage: &dyn Storage,
) -> Result<Vec<Entry>> {
    let area = directory.area;
    let fault = |what: &str| {
        Error::corrupt(what)
            .in_structure("bitmap directory")
            .at(area.offset)
    };
    if !geometry.is_aligned(area.offset) || area.offset == 0 {
        return Err(fault("is not at a cluster boundary"));
    }
    if area.len > MAX_DIRECTORY {
        return Err(fault("is too long").mismatch(format!("at most {MAX_DIRECTORY}"), area.len));
    }
    let end = area.offset.saturating_add(area.len);
    if end > storage.size() {
        return Err(past_end(
            fault("lies outside the file"),
            end,
            storage.size(),
        ));
    }
    let mut bytes = vec![0; index(area.len)];
    storage.read_at(&mut bytes, area.offset)?;
    let fields = Fields::new(&bytes, "bitmap directory", area.offset);
    let mut entries = Vec::new();
    let mut at = 0usize;
    // Ends because each entry takes at least 24 bytes of a directory that has an end.
    while at < bytes.len() {
        let field = |skip: usize| at.saturating_add(skip);
        let name_len = usize::from(fields.u16_be(field(18))?);
        let extra = usize::try_from(fields.u32_be(field(20))?).unwrap_or(usize::MAX);
        let name_at = field(24).saturating_add(extra);
        entries.push(Entry {
            table: fields.u64_be(field(0))?,
            table_entries: u64::from(fields.u32_be(field(8))?),
            flags: fields.u32_be(field(12))?,
            kind: fields.u8(field(16))?,
            granularity_bits: fields.u8(field(17))?,
            name: fields.bytes(name_at, name_len)?.to_vec(),
            place: fields.offset_of(at),
        });
        at = name_at
            .saturating_add(name_len)
            .checked_next_multiple_of(8)
            .unwrap_or(usize::MAX);
    }
    if amount(entries.len()) != u64::from(directory.count) {
        return Err(fault("does not have as many bitmaps as the header says")
            .mismatch(directory.count, entries.len()));
    }
    Ok(entries)
}

impl Entry {
    /// The table's entries, offset and flag together.
    pub(super) fn table(&self, geometry: &Geometry, storage: &dyn Storage) -> Result<Vec<u64>> {
        let fault = |what: &str| {
            Error::corrupt(what)
                .in_structure("bitmap directory")
                .at(self.place)
        };
        let end = self
            .table
            .saturating_add(self.table_entries.saturating_mul(8));
        if !geometry.is_aligned(self.table) {
            return Err(fault("bitmap table is not at a cluster boundary"));
        }
        if self.table_entries > MAX_TABLE || end > storage.size() {
            return Err(past_end(
                fault("bitmap table lies outside the file"),
                end,
                storage.size(),
            ));
        }
        words(storage, self.table, self.table_entries)
            .map_err(|error| error.in_structure("bitmap table"))
    }

    /// Guest bytes per bit.
    pub(super) fn granularity(&self) -> Result<u64> {
        1u64.checked_shl(u32::from(self.granularity_bits))
            .filter(|granularity| *granularity >= 512)
            .ok_or_else(|| {
                Error::corrupt("granularity of a bitmap is out of range")
                    .in_structure("bitmap directory")
                    .at(self.place.saturating_add(17))
            })
    }

    /// How many bits are set for a disk of `size` bytes.
    fn count(&self, geometry: &Geometry, size: u64, storage: &dyn Storage) -> Result<u64> {
        let granularity = self.granularity()?;
        let mut left = size.div_ceil(granularity);
        if left.div_ceil(8) > MAX_BITS {
            return Err(Error::unsupported("bitmap is too long to count its bits")
                .in_structure("bitmap directory")
                .at(self.place));
        }
        let per_cluster = geometry.cluster_size().saturating_mul(8);
        let mut count = 0u64;
        let mut cluster = vec![0; index(geometry.cluster_size())];
        for entry in self.table(geometry, storage)? {
            let bits = left.min(per_cluster);
            left = left.saturating_sub(bits);
            let offset = entry & OFFSET_MASK;
            if offset != 0 {
                storage
                    .read_at(&mut cluster, offset)
                    .map_err(|error| error.in_structure("bitmap"))?;
                count = count.saturating_add(ones(&cluster, bits));
            } else if entry & ALL_ONES != 0 {
                count = count.saturating_add(bits);
            }
        }
        Ok(count)
    }
}

/// Set bits among the first `bits`; bit 0 is the lowest of a byte.
fn ones(bytes: &[u8], bits: u64) -> u64 {
    let whole = index(bits / 8).min(bytes.len());
    let mut count: u64 = bytes
        .get(..whole)
        .unwrap_or_default()
        .iter()
        .map(|byte| u64::from(byte.count_ones()))
        .sum();
    let rest = u32::try_from(bits % 8).unwrap_or(0);
    if let Some(last) = bytes.get(whole) {
        let mask = 1u8.checked_shl(rest).unwrap_or(0).saturating_sub(1);
        count = count.saturating_add(u64::from((last & mask).count_ones()));
    }
    count
}

/// What the image's bitmaps are, for reports.
pub(super) fn describe(header: &Header, storage: &dyn Storage) -> Result<Vec<Bitmap>> {
    let Some(directory) = header.areas.bitmap_directory()? else {
        return Ok(Vec::new());
    };
    let entries = read(&directory, &header.geometry, storage)?;
    entries
        .iter()
        .map(|entry| {
            let in_use = entry.flags & IN_USE != 0;
            Ok(Bitmap {
                name: String::from_utf8_lossy(&entry.name).into_owned(),
                granularity: 1u64
                    .checked_shl(u32::from(entry.granularity_bits))
                    .unwrap_or(0),
                recording: entry.flags & AUTO != 0,
                in_use,
                // What an interrupted writer left says nothing.
                bits_set: if in_use {
                    None
                } else {
                    Some(entry.count(&header.geometry, header.size, storage)?)
                },
            })
        })
        .collect()
}
