//! Persistent bitmaps on their way from one image into another.
//!
//! QEMU `docs/interop/qcow2.txt`, "Bitmaps". Bits are streamed cluster by cluster: a bitmap may be
//! hundreds of MiB long.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Error, Result, Storage, StorageMut, is_zero};

use super::allocator::Allocator;
use super::bitmap::{ALL_ONES, AUTO, Entry, IN_USE, read};
use super::entry::{Geometry, OFFSET_MASK, amount, index};
use super::header::Header;
use super::new_header::Directory;

/// Type of a dirty bitmap in a directory entry.
const DIRTY_TRACKING: u8 = 1;

/// A bitmap that another image is to have too.
#[derive(Clone)]
pub struct KeptBitmap {
    entry: Entry,
    /// The table's entries.
    table: Vec<u64>,
    geometry: Geometry,
    storage: Arc<dyn Storage>,
    /// Bytes of bits.
    len: u64,
}

impl fmt::Debug for KeptBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptBitmap")
            .field("name", &self.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The bitmaps of an image that mean something: what an interrupted writer left does not.
pub(super) fn keep(storage: &Arc<dyn Storage>) -> Result<Vec<KeptBitmap>> {
    let header = Header::read_any(&**storage)?;
    let Some(directory) = header.areas.bitmap_directory()? else {
        return Ok(Vec::new());
    };
    let geometry = header.geometry;
    let entries = read(&directory, &geometry, &**storage)?;
    let sound = entries
        .into_iter()
        .filter(|entry| entry.flags & IN_USE == 0 && entry.kind == DIRTY_TRACKING);
    sound
        .map(|entry| {
            let bits = header.size.div_ceil(entry.granularity()?);
            Ok(KeptBitmap {
                table: entry.table(&geometry, &**storage)?,
                entry,
                geometry,
                storage: Arc::clone(storage),
                len: bits.div_ceil(8),
            })
        })
        .collect()
}

impl KeptBitmap {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.entry.name).into_owned()
    }

    /// Fills `bytes` with the bits from byte `at` on; behind the last one there are zeroes.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let cluster = self.geometry.unit();
        bytes.fill(0);
        let mut at = at;
        let mut rest = bytes;
        // Ends because every round takes at least one byte: to the end of a cluster.
        while !rest.is_empty() && at < self.len {
            let within = at % cluster;
            let len = index(cluster.get().saturating_sub(within)).min(rest.len());
            let (part, tail) = rest.split_at_mut(len);
            let entry = self.table.get(index(at / cluster)).copied().unwrap_or(0);
            let offset = entry & OFFSET_MASK;
            if offset != 0 {
                self.storage
                    .read_at(part, offset.saturating_add(within))
                    .map_err(|error| error.in_structure("bitmap"))?;
            } else if entry & ALL_ONES != 0 {
                part.fill(0xff);
            }
            at = at.saturating_add(amount(len));
            rest = tail;
        }
        Ok(())
    }

    /// Writes its bits and its table; gives the place and the entries of the latter.
    fn write(
        &self,
        geometry: &Geometry,
        allocator: &mut Allocator,
        storage: &dyn StorageMut,
    ) -> Result<(u64, u64)> {
        let cluster = geometry.unit();
        let mut bytes = vec![0; index(cluster.get())];
        let entries = self.len.div_ceil(cluster.get());
        let mut table = Vec::new();
        for number in 0..entries {
            self.read(&mut bytes, number.saturating_mul(cluster.get()))?;
            table.push(if is_zero(&bytes) {
                0
            } else if bytes.iter().all(|byte| *byte == 0xff) {
                ALL_ONES
            } else {
                let place = allocator.whole(1)?;
                storage.write_at(&bytes, place)?;
                place
            });
        }
        let mut words: Vec<u8> = table.iter().flat_map(|word| word.to_be_bytes()).collect();
        let clusters = amount(words.len()).div_ceil(cluster.get()).max(1);
        words.resize(index(clusters.saturating_mul(cluster.get())), 0);
        let place = allocator.whole(clusters)?;
        storage.write_at(&words, place)?;
        Ok((place, entries))
    }
}

/// Writes `bitmaps` and their directory.
///
/// # Errors
/// Io when a storage fails.
pub(super) fn publish(
    bitmaps: &[KeptBitmap],
    geometry: &Geometry,
    allocator: &mut Allocator,
    storage: &dyn StorageMut,
) -> Result<Option<Directory>> {
    if bitmaps.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    for bitmap in bitmaps {
        let (table, entries) = bitmap.write(geometry, allocator, storage)?;
        let too_long = || Error::unsupported("bitmap is too long for these clusters");
        bytes.extend_from_slice(&table.to_be_bytes());
        let entries = u32::try_from(entries).map_err(|_| too_long())?;
        bytes.extend_from_slice(&entries.to_be_bytes());
        bytes.extend_from_slice(&(bitmap.entry.flags & AUTO).to_be_bytes());
        bytes.extend_from_slice(&[DIRTY_TRACKING, bitmap.entry.granularity_bits]);
        let name = &bitmap.entry.name;
        let name_len = u16::try_from(name.len()).map_err(|_| too_long())?;
        bytes.extend_from_slice(&name_len.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]); // no extra data
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let len = amount(bytes.len());
    let clusters = len.div_ceil(geometry.cluster_size());
    bytes.resize(index(clusters.saturating_mul(geometry.cluster_size())), 0);
    let offset = allocator.whole(clusters)?;
    storage.write_at(&bytes, offset)?;
    Ok(Some(Directory {
        count: u32::try_from(bitmaps.len()).unwrap_or(u32::MAX),
        len,
        offset,
    }))
}
