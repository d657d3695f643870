//! The L1 table in memory and a bounded cache of L2 tables.
//!
//! The cache is direct-mapped by L1 index: bounded, without bookkeeping, and right for readers that
//! go forward or stay in one region, which is all that copying and booting do.

use std::sync::{Arc, PoisonError, RwLock};

use rehost_block::{Error, Result, Storage};

use super::entry::{Geometry, OFFSET_MASK, Raw};
use super::header::{Header, past_end};

/// Bytes of L2 tables kept. Ours: with 64 KiB clusters they map 64 GiB.
const CACHE_BYTES: u64 = 8 << 20;
/// At least this many tables are kept, whatever their size (2 MiB at most).
const MIN_SLOTS: u64 = 4;
/// At most this many: more gains nothing and small clusters would make it thousands.
const MAX_SLOTS: u64 = 1024;

/// Both levels of one image.
#[derive(Debug)]
pub(super) struct Tables {
    storage: Arc<dyn Storage>,
    file_size: u64,
    geometry: Geometry,
    clusters: u64,
    l1_offset: u64,
    l1: Vec<u64>,
    slots: Vec<RwLock<Option<Arc<L2Table>>>>,
}

/// One L2 table, as far as the disk reaches.
#[derive(Debug)]
pub(super) struct L2Table {
    l1_index: u64,
    offset: u64,
    words: Vec<u64>,
    extended: bool,
}

impl L2Table {
    /// Entry `index`.
    pub(super) fn entry(&self, index: u64) -> Result<Raw> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let found = if self.extended {
            self.words
                .as_chunks::<2>()
                .0
                .get(index)
                .map(|[descriptor, bitmap]| Raw {
                    descriptor: *descriptor,
                    bitmap: *bitmap,
                })
        } else {
            self.words.get(index).map(|descriptor| Raw {
                descriptor: *descriptor,
                bitmap: 0,
            })
        };
        found.ok_or_else(|| Error::internal("an L2 index reaches past its table"))
    }

    /// Where entry `index` is in the file.
    pub(super) fn offset_of(&self, index: u64) -> u64 {
        let bytes = if self.extended { 16 } else { 8 };
        self.offset.saturating_add(index.saturating_mul(bytes))
    }
}

impl Tables {
    /// Reads the L1 table. Its length was compared with the file's when `header` was read.
    pub(super) fn read(header: &Header, storage: Arc<dyn Storage>) -> Result<Self> {
        let geometry = header.geometry;
        let needed = geometry.l1_entries(header.size).min(header.l1_entries);
        let l1 = words(&*storage, header.l1_offset, needed)
            .map_err(|error| error.in_structure("L1 table"))?;
        let slots = CACHE_BYTES
            .checked_div(geometry.cluster_size())
            .unwrap_or(MIN_SLOTS)
            .clamp(MIN_SLOTS, MAX_SLOTS);
        Ok(Self {
            file_size: storage.size(),
            storage,
            geometry,
            clusters: header.size.div_ceil(geometry.cluster_size()),
            l1_offset: header.l1_offset,
            l1,
            slots: (0..slots).map(|_| RwLock::default()).collect(),
        })
    }

    /// The L2 table of L1 entry `index`; none when nothing of it is allocated.
    pub(super) fn l2(&self, index: u64) -> Result<Option<Arc<L2Table>>> {
        let place = self.l1_offset.saturating_add(index.saturating_mul(8));
        let fault = |what: &str| Error::corrupt(what).in_structure("L1 table").at(place);
        let offset = usize::try_from(index)
            .ok()
            .and_then(|index| self.l1.get(index))
            .ok_or_else(|| Error::internal("an L1 index reaches past its table"))?
            & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        let slots = u64::try_from(self.slots.len()).unwrap_or(1);
        let slot = usize::try_from(index.checked_rem(slots).unwrap_or(0)).unwrap_or(0);
        let slot = self
            .slots
            .get(slot)
            .ok_or_else(|| Error::internal("the L2 cache has no slots"))?;
        if let Some(table) = &*slot.read().unwrap_or_else(PoisonError::into_inner)
            && table.l1_index == index
        {
            return Ok(Some(Arc::clone(table)));
        }

        if !self.geometry.is_aligned(offset) {
            return Err(fault("L2 table offset is not at a cluster boundary"));
        }
        let first = index.saturating_mul(self.geometry.l2_entries());
        let entries = self
            .clusters
            .saturating_sub(first)
            .min(self.geometry.l2_entries());
        let bytes = entries.saturating_mul(self.geometry.entry_bytes());
        let end = offset.saturating_add(bytes);
        if end > self.file_size {
            return Err(past_end(
                fault("L2 table lies outside the file"),
                end,
                self.file_size,
            ));
        }
        let table = Arc::new(L2Table {
            l1_index: index,
            offset,
            words: words(&*self.storage, offset, bytes / 8)
                .map_err(|error| error.in_structure("L2 table"))?,
            extended: self.geometry.extended(),
        });
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&table));
        Ok(Some(table))
    }
}

/// `count` big-endian words at `offset`. The caller has checked that the file has them.
pub(super) fn words(storage: &dyn Storage, offset: u64, count: u64) -> Result<Vec<u64>> {
    let bytes = usize::try_from(count.saturating_mul(8))
        .map_err(|_| Error::unsupported("table exceeds this machine's memory"))?;
    let mut raw = vec![0; bytes];
    storage.read_at(&mut raw, offset)?;
    Ok(raw
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_be_bytes(*word))
        .collect())
}
