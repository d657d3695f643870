//! `Overlay`: copy-on-write changes over a disk that is never written.
//!
//! Changes are kept in blocks of 4 KiB in a second storage (memory for a handful of
//! edits, an unlinked file for a booting guest). A block written in part is filled from the disk
//! below first. The index is a tree keyed by block number, so that `locate` can give long runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::disk::{Disk, DiskMut, Located, Run, amount, check_range, length};
use crate::{Error, Memory, Result, Storage, StorageMut};

/// Bytes per block of change.
const BLOCK: u64 = 4096;

/// Where a changed block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// At this block of the store.
    Stored(u64),
    /// Zeroed.
    Zero,
}

#[derive(Debug, Default)]
struct Index {
    slots: BTreeMap<u64, Slot>,
    stored: u64,
}

/// A writable view of a read-only disk.
#[derive(Debug)]
pub struct Overlay {
    base: Arc<dyn Disk>,
    store: Arc<dyn StorageMut>,
    readable: Arc<dyn Storage>,
    index: RwLock<Index>,
}

impl Overlay {
    /// Changes to `base` go to `store`, which must be empty.
    #[must_use]
    pub fn new<S: StorageMut + 'static>(base: Arc<dyn Disk>, store: Arc<S>) -> Self {
        let readable: Arc<dyn Storage> = store.clone();
        Self {
            base,
            store,
            readable,
            index: RwLock::default(),
        }
    }

    /// Changes to `base` stay in memory: for edits, whose size is bounded by the plan.
    #[must_use]
    pub fn in_memory(base: Arc<dyn Disk>) -> Self {
        Self::new(base, Arc::new(Memory::new("(edits in memory)", Vec::new())))
    }

    /// The disk below.
    #[must_use]
    pub fn base(&self) -> &Arc<dyn Disk> {
        &self.base
    }

    /// The byte ranges that were written, in order, neighbours merged, to whole blocks of
    /// 4 KiB. The bytes in them need not differ from the base.
    #[must_use]
    pub fn written(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for block in self.reading().slots.keys() {
            let start = block.saturating_mul(BLOCK);
            let end = start.saturating_add(BLOCK).min(self.base.size());
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }

    fn reading(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores `data` (at most one block, inside the block) at `within` of `block`.
    fn write_part(&self, index: &mut Index, block: u64, within: u64, data: &[u8]) -> Result<()> {
        if let Some(Slot::Stored(slot)) = index.slots.get(&block) {
            return self
                .store
                .write_at(data, position(*slot)?.saturating_add(within));
        }
        let start = position(block)?;
        let size = length(self.base.size().saturating_sub(start).min(BLOCK))?;
        let mut whole = vec![0; size];
        if !index.slots.contains_key(&block) {
            self.base.read_at(&mut whole, start)?;
        }
        let from = length(within)?;
        from.checked_add(data.len())
            .and_then(|end| whole.get_mut(from..end))
            .ok_or_else(|| Error::internal("a write crosses its block").at(start))?
            .copy_from_slice(data);
        // The store keeps whole blocks, so that the next slot starts at a block's multiple.
        whole.resize(length(BLOCK)?, 0);
        self.append(index, block, &whole)
    }

    /// Stores whole blocks from `block` on in new slots.
    fn append(&self, index: &mut Index, block: u64, data: &[u8]) -> Result<()> {
        let slot = index.stored;
        self.store.write_at(data, position(slot)?)?;
        let count = amount(data.len()) / BLOCK;
        for nth in 0..count {
            index.slots.insert(
                block.saturating_add(nth),
                Slot::Stored(slot.saturating_add(nth)),
            );
        }
        index.stored = slot.saturating_add(count);
        Ok(())
    }
}

/// Byte position of a block or slot.
fn position(block: u64) -> Result<u64> {
    block
        .checked_mul(BLOCK)
        .ok_or_else(|| Error::usage("block number exceeds the address space"))
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size().saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let block = offset / BLOCK;
        let within = offset % BLOCK;
        let index = self.reading();
        let mut changed = index.slots.range(block..);
        let (run, blocks) = match changed.next() {
            Some((first, slot)) if *first == block => {
                let mut count = 1u64;
                // Ends because a tree's keys are finite; stops early once `want` is covered.
                for (next, other) in changed {
                    let follows = *next == block.saturating_add(count)
                        && match (slot, other) {
                            (Slot::Stored(a), Slot::Stored(b)) => *b == a.saturating_add(count),
                            (Slot::Zero, Slot::Zero) => true,
                            _ => false,
                        };
                    if !follows || count.saturating_mul(BLOCK) >= want.saturating_add(within) {
                        break;
                    }
                    count = count.saturating_add(1);
                }
                let run = match slot {
                    Slot::Zero => Run::Zero,
                    Slot::Stored(slot) => Run::At {
                        storage: Arc::clone(&self.readable),
                        offset: position(*slot)?.saturating_add(within),
                    },
                };
                (run, count)
            }
            next => {
                let until = next.map_or(u64::MAX, |(first, _)| first.saturating_mul(BLOCK));
                drop(index);
                return self
                    .base
                    .locate(offset, want.min(until.saturating_sub(offset)));
            }
        };
        let len = blocks
            .saturating_mul(BLOCK)
            .saturating_sub(within)
            .min(want);
        Ok(Located::new(run, len))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round consumes at least one byte of `rest`. Unchanged stretches go
        // to the base's own `read_at`, which may cache decoded units.
        while !rest.is_empty() {
            let block = at / BLOCK;
            let changed = self
                .reading()
                .slots
                .range(block..)
                .next()
                .map(|(block, _)| *block);
            let until = match changed {
                Some(next) if next == block => None,
                Some(next) => Some(next.saturating_mul(BLOCK)),
                None => Some(u64::MAX),
            };
            let want = amount(rest.len());
            let (len, found) = match until {
                Some(until) => (until.saturating_sub(at).min(want), None),
                None => {
                    let located = self.locate(at, want)?;
                    (located.len, Some(located.run))
                }
            };
            let (part, tail) = rest.split_at_mut(length(len)?.max(1).min(rest.len()));
            match found {
                None => self.base.read_at(part, at)?,
                Some(Run::At { storage, offset }) => storage.read_at(part, offset)?,
                Some(_) => part.fill(0),
            }
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        Ok(())
    }
}

impl DiskMut for Overlay {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, data.len())?;
        let mut index = self.writing();
        let mut at = offset;
        let mut rest = data;
        // Ends because every round consumes at least one byte of `rest`.
        while !rest.is_empty() {
            let block = at / BLOCK;
            let within = at % BLOCK;
            let whole = amount(rest.len()) / BLOCK;
            let fresh = if within == 0 {
                // How many whole blocks from here have no slot yet: they go out in one write.
                let stored = index
                    .slots
                    .range(block..block.saturating_add(whole))
                    .find(|(_, slot)| matches!(slot, Slot::Stored(_)));
                stored.map_or(whole, |(next, _)| next.saturating_sub(block))
            } else {
                0
            };
            let len = if fresh > 0 {
                fresh.saturating_mul(BLOCK)
            } else {
                BLOCK.saturating_sub(within).min(amount(rest.len()))
            };
            let (part, tail) = rest.split_at(length(len)?);
            if fresh > 0 {
                self.append(&mut index, block, part)?;
            } else {
                self.write_part(&mut index, block, within, part)?;
            }
            at = at.saturating_add(len);
            rest = tail;
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, length(len)?)?;
        let end = offset.saturating_add(len);
        let first = offset.div_ceil(BLOCK);
        let last = if end == self.size() {
            end.div_ceil(BLOCK)
        } else {
            end / BLOCK
        };
        let mut index = self.writing();
        let zeroes = vec![0; length(BLOCK)?];
        let head_end = first.saturating_mul(BLOCK).min(end);
        if head_end > offset {
            let part = zeroes
                .get(..length(head_end.saturating_sub(offset))?)
                .unwrap_or(&zeroes);
            self.write_part(&mut index, offset / BLOCK, offset % BLOCK, part)?;
        }
        for block in first..last {
            index.slots.insert(block, Slot::Zero);
        }
        let tail = last.saturating_mul(BLOCK).max(head_end);
        if tail < end {
            let part = zeroes
                .get(..length(end.saturating_sub(tail))?)
                .unwrap_or(&zeroes);
            self.write_part(&mut index, tail / BLOCK, tail % BLOCK, part)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.store.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StorageDisk;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Change {
        Write(u64, Vec<u8>),
        Zero(u64, u64),
    }

    fn change(size: u64) -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..size, prop::collection::vec(any::<u8>(), 1..9000))
                .prop_map(|(at, d)| Change::Write(at, d)),
            (0..size, 1..12_000u64).prop_map(|(at, len)| Change::Zero(at, len)),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_reads_like_a_plain_array(
            changes in prop::collection::vec(change(50_000), 1..20),
            odd in 0..5000usize,
        ) {
            let mut plain: Vec<u8> = (0..50_000usize + odd).map(|i| (i % 251) as u8).collect();
            let base = Arc::new(StorageDisk::new(Arc::new(Memory::new("base", plain.clone()))));
            let overlay = Overlay::in_memory(base);
            for change in changes {
                match change {
                    Change::Write(at, mut data) => {
                        let at = at as usize;
                        data.truncate(plain.len() - at);
                        overlay.write_at(&data, at as u64).unwrap();
                        plain[at..at + data.len()].copy_from_slice(&data);
                    }
                    Change::Zero(at, len) => {
                        let end = (at + len).min(plain.len() as u64);
                        overlay.zero_at(at, end - at).unwrap();
                        plain[at as usize..end as usize].fill(0);
                    }
                }
            }
            let mut whole = vec![1; plain.len()];
            overlay.read_at(&mut whole, 0).unwrap();
            prop_assert_eq!(&whole, &plain);
            // The same through `locate` alone.
            let mut located = vec![1; plain.len()];
            crate::disk::read_located(&overlay, &mut located, 0, &|p| p.decode().map(Arc::new)).unwrap();
            prop_assert_eq!(&located, &plain);
        }
    }

    #[test]
    fn written_ranges_are_merged_and_the_base_is_untouched() {
        let bytes = Arc::new(Memory::new("base", vec![7; 40_960]));
        let overlay = Overlay::in_memory(Arc::new(StorageDisk::new(bytes.clone())));
        overlay.write_at(&[1; 10], 4090).unwrap();
        overlay.write_at(&[1; 4096], 20_480).unwrap();
        assert_eq!(overlay.written(), vec![0..8192, 20_480..24_576]);
        assert!(bytes.to_vec().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_write_past_the_end_is_refused() {
        let base = Arc::new(StorageDisk::new(Arc::new(Memory::new(
            "base",
            vec![0; 100],
        ))));
        assert!(Overlay::in_memory(base).write_at(&[1; 2], 99).is_err());
    }
}
