//! The L1 and L2 tables of an image being written.
//!
//! An L2 table exists only where something is stored, and only so many are in memory at once: when
//! there are more, the oldest goes to its place in the file and comes back if it is needed again. So
//! memory stays bounded whatever the disk's size.

use std::collections::VecDeque;
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::allocator::Allocator;
use super::entry::{COPIED, Geometry, Raw};

/// Bytes of L2 tables in memory. Ours: with 64 KiB clusters they map 256 GiB.
const RESIDENT_BYTES: u64 = 32 << 20;
/// At least this many tables, whatever their size.
const MIN_RESIDENT: u64 = 4;
/// Tables that lie together go out in writes of about this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// Both levels.
#[derive(Debug)]
pub(super) struct Mapping {
    geometry: Geometry,
    storage: Arc<dyn StorageMut>,
    tables: Vec<Table>,
    /// L1 indexes of the tables in memory, the oldest first.
    resident: VecDeque<usize>,
    most_resident: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// Its place in the file; 0 while it has none.
    host: u64,
    words: Option<Vec<u64>>,
}

impl Mapping {
    /// An empty mapping for a disk of `size` bytes.
    pub(super) fn new(geometry: Geometry, size: u64, storage: Arc<dyn StorageMut>) -> Self {
        let entries = usize::try_from(geometry.l1_entries(size).max(1)).unwrap_or(usize::MAX);
        let most = RESIDENT_BYTES
            .checked_div(geometry.cluster_size())
            .unwrap_or(0)
            .max(MIN_RESIDENT);
        Self {
            geometry,
            storage,
            tables: std::iter::repeat_with(Table::default)
                .take(entries)
                .collect(),
            resident: VecDeque::new(),
            most_resident: usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// Maps `count` guest clusters from the one at guest byte `offset`: the first to `entry`, each
    /// next to `step` more; `bitmap` is that of each, where entries are extended.
    ///
    /// # Errors
    /// Internal when one of them is mapped already; Io when a table cannot be moved.
    pub(super) fn set(
        &mut self,
        offset: u64,
        count: u64,
        entry: Raw,
        step: u64,
        allocator: &mut Allocator,
    ) -> Result<()> {
        let width = self.width();
        let cluster = self.geometry.cluster_size();
        let mut entry = entry;
        let mut at = offset;
        let mut left = count;
        // Ends because every round maps at least one cluster, or fails.
        while left > 0 {
            let position = self.geometry.position(at);
            let room = self.geometry.l2_entries().saturating_sub(position.l2);
            let part = left.min(room);
            let from = usize::try_from(position.l2)
                .unwrap_or(usize::MAX)
                .saturating_mul(width);
            let len = usize::try_from(part).unwrap_or(0).saturating_mul(width);
            let words = self
                .table(position.l1, allocator)?
                .get_mut(from..from.saturating_add(len))
                .filter(|words| !words.is_empty())
                .ok_or_else(|| Error::internal("an L2 index reaches past its table"))?;
            for words in words.chunks_mut(width) {
                if words.iter().any(|word| *word != 0) {
                    return Err(Error::internal("a cluster was put twice").at(at));
                }
                for (word, value) in words.iter_mut().zip([entry.descriptor, entry.bitmap]) {
                    *word = value;
                }
                entry.descriptor = entry.descriptor.wrapping_add(step);
                at = at.saturating_add(cluster);
            }
            left = left.saturating_sub(part);
        }
        Ok(())
    }

    /// Maps what was left out, each cluster where `place` says (given the guest offset of the first
    /// of some that lie together, and how many they are).
    ///
    /// # Errors
    /// As [`Mapping::set`], and what `place` gives.
    pub(super) fn set_rest(
        &mut self,
        clusters: u64,
        allocator: &mut Allocator,
        place: impl Fn(&mut Allocator, u64, u64) -> Result<u64>,
    ) -> Result<()> {
        let cluster = self.geometry.cluster_size();
        let entries = self.geometry.l2_entries();
        let width = self.width();
        let bitmap = if self.geometry.extended() {
            u64::from(u32::MAX)
        } else {
            0
        };
        let mut first = 0u64;
        // Ends because every round goes on by one table.
        while first < clusters {
            let offset = first.saturating_mul(cluster);
            let l1 = self.geometry.position(offset).l1;
            let here = entries.min(clusters.saturating_sub(first));
            let free: Vec<u64> = self
                .table(l1, allocator)?
                .chunks(width)
                .zip(0..here)
                .filter(|(words, _)| words.iter().all(|word| *word == 0))
                .map(|(_, index)| index)
                .collect();
            for run in free.chunk_by(|left, right| left.checked_add(1) == Some(*right)) {
                let Some(from) = run.first() else { continue };
                let count = u64::try_from(run.len()).unwrap_or(0);
                let at = from.saturating_mul(cluster).saturating_add(offset);
                let entry = Raw {
                    descriptor: place(allocator, at, count)? | COPIED,
                    bitmap,
                };
                self.set(at, count, entry, cluster, allocator)?;
            }
            first = first.saturating_add(entries);
        }
        Ok(())
    }

    /// Words per entry.
    fn width(&self) -> usize {
        if self.geometry.extended() { 2 } else { 1 }
    }

    fn table(&mut self, l1: u64, allocator: &mut Allocator) -> Result<&mut Vec<u64>> {
        let index = usize::try_from(l1).unwrap_or(usize::MAX);
        let past = || Error::internal("an L1 index reaches past its table");
        let table = self.tables.get(index).ok_or_else(past)?;
        if table.words.is_none() {
            let host = table.host;
            if self.resident.len() >= self.most_resident {
                self.spill_oldest(allocator)?;
            }
            let words = if host == 0 {
                let entries = usize::try_from(self.geometry.l2_entries()).unwrap_or(0);
                vec![0; entries.saturating_mul(self.width())]
            } else {
                self.reload(host)?
            };
            self.resident.push_back(index);
            self.tables.get_mut(index).ok_or_else(past)?.words = Some(words);
        }
        self.tables
            .get_mut(index)
            .and_then(|table| table.words.as_mut())
            .ok_or_else(past)
    }

    fn spill_oldest(&mut self, allocator: &mut Allocator) -> Result<()> {
        let oldest = self.resident.pop_front();
        let Some(table) = oldest.and_then(|index| self.tables.get_mut(index)) else {
            return Ok(());
        };
        if table.host == 0 {
            table.host = allocator.whole(1)?;
        }
        let mut bytes = Vec::new();
        for word in table.words.take().unwrap_or_default() {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        self.storage.write_at(&bytes, table.host)
    }

    fn reload(&self, host: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; usize::try_from(self.geometry.cluster_size()).unwrap_or(0)];
        self.storage.read_at(&mut bytes, host)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }

    /// Writes every table that is still in memory and then the L1 table; gives the place and the
    /// entries of the latter.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn publish(&mut self, allocator: &mut Allocator) -> Result<(u64, u64)> {
        let mut writer = Appender::new(&*self.storage);
        for table in &mut self.tables {
            if let Some(words) = table.words.take() {
                if table.host == 0 {
                    table.host = allocator.whole(1)?;
                }
                writer.append(table.host, &words)?;
            }
        }
        self.resident.clear();
        let entries = u64::try_from(self.tables.len()).unwrap_or(u64::MAX);
        let bytes = entries.saturating_mul(8);
        let clusters = bytes.div_ceil(self.geometry.cluster_size());
        let l1 = allocator.whole(clusters)?;
        let mut words: Vec<u64> = self
            .tables
            .iter()
            .map(|table| {
                if table.host == 0 {
                    0
                } else {
                    table.host | COPIED
                }
            })
            .collect();
        // Whole clusters, so that nothing old shows on a device.
        let whole = clusters.saturating_mul(self.geometry.cluster_size()) / 8;
        words.resize(usize::try_from(whole).unwrap_or(words.len()), 0);
        writer.append(l1, &words)?;
        writer.finish()?;
        Ok((l1, entries))
    }
}

/// Joins tables that lie together into large writes.
pub(super) struct Appender<'a> {
    storage: &'a dyn StorageMut,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Appender<'a> {
    pub(super) fn new(storage: &'a dyn StorageMut) -> Self {
        Self {
            storage,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// Writes `words` big-endian at `offset`, sooner or later.
    pub(super) fn append(&mut self, offset: u64, words: &[u64]) -> Result<()> {
        self.append_bytes(offset, words.iter().flat_map(|word| word.to_be_bytes()))
    }

    /// Writes `bytes` at `offset`, sooner or later.
    pub(super) fn append_bytes(
        &mut self,
        offset: u64,
        bytes: impl Iterator<Item = u8>,
    ) -> Result<()> {
        let len = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        if self.bytes.len() >= WRITE_BYTES || self.start.checked_add(len) != Some(offset) {
            self.flush()?;
            self.start = offset;
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            self.storage.write_at(&self.bytes, self.start)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
