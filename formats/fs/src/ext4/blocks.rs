//! Access to metadata: a bounded cache over the disk, and the blocks a change has not yet written.
//!
//! Metadata is read in aligned chunks, because inodes and directory blocks that lie together are
//! asked for together. File content does not pass through here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Result};

use crate::number::{div, length, rem, wide};

/// Bytes read at a time.
const CHUNK: u64 = 16 << 10;

/// Chunks in each of the cache's two generations: at most 32 MiB are held.
const MOST_CHUNKS: usize = 1024;

/// Recently used chunks: when the young generation is full it becomes the old one, and what the
/// old one held is dropped.
#[derive(Debug, Default)]
struct Cache {
    young: HashMap<u64, Arc<Vec<u8>>>,
    old: HashMap<u64, Arc<Vec<u8>>>,
}

impl Cache {
    fn get(&mut self, chunk: u64) -> Option<Arc<Vec<u8>>> {
        if let Some(found) = self.young.get(&chunk) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(&chunk)?;
        self.put(chunk, Arc::clone(&found));
        Some(found)
    }

    fn put(&mut self, chunk: u64, bytes: Arc<Vec<u8>>) {
        if self.young.len() >= MOST_CHUNKS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(chunk, bytes);
    }
}

/// The blocks of one filesystem.
#[derive(Debug)]
pub(crate) struct Blocks {
    disk: Arc<dyn Disk>,
    block_size: u32,
    count: u64,
    cache: Mutex<Cache>,
    /// Blocks that a change in progress has made; whole blocks, by number.
    pub(crate) pending: BTreeMap<u64, Vec<u8>>,
}

impl Blocks {
    pub(crate) fn new(disk: Arc<dyn Disk>, block_size: u32, count: u64) -> Self {
        Self {
            disk,
            block_size,
            count,
            cache: Mutex::default(),
            pending: BTreeMap::new(),
        }
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Byte offset of a block on the disk.
    pub(crate) fn offset(&self, block: u64) -> u64 {
        block.saturating_mul(u64::from(self.block_size))
    }

    /// One whole block. `structure` names what it should be.
    pub(crate) fn read(&self, block: u64, structure: &'static str) -> Result<Vec<u8>> {
        if block >= self.count {
            return Err(Error::corrupt("points outside the filesystem")
                .in_structure(structure)
                .mismatch(format!("a block below {}", self.count), block));
        }
        if let Some(changed) = self.pending.get(&block) {
            return Ok(changed.clone());
        }
        let mut bytes = vec![0; length(u64::from(self.block_size))?];
        self.cached(&mut bytes, self.offset(block))
            .map_err(|error| error.in_structure(structure))?;
        Ok(bytes)
    }

    /// Fills `buf`, which must not cross a block's end, from byte `within` of `block`.
    pub(crate) fn read_part(&self, block: u64, within: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(changed) = self.pending.get(&block) {
            let from = length(within)?;
            let part = from
                .checked_add(buf.len())
                .and_then(|end| changed.get(from..end))
                .ok_or_else(|| Error::internal("a read crosses its block"))?;
            buf.copy_from_slice(part);
            return Ok(());
        }
        self.cached(buf, self.offset(block).saturating_add(within))
    }

    fn cached(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round fills at least one byte of `rest`, or fails.
        while !rest.is_empty() {
            let chunk = self.chunk(div(at, CHUNK))?;
            let from = length(rem(at, CHUNK))?;
            let there = chunk.get(from..).unwrap_or_default();
            let len = there.len().min(rest.len());
            if len == 0 {
                return Err(Error::corrupt("disk ends inside a structure").at(at));
            }
            let (part, tail) = rest.split_at_mut(len);
            part.copy_from_slice(there.get(..len).unwrap_or_default());
            at = at.saturating_add(wide(len));
            rest = tail;
        }
        Ok(())
    }

    fn chunk(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let cached = self
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(number);
        if let Some(found) = cached {
            return Ok(found);
        }
        let start = number.saturating_mul(CHUNK);
        let len = self.disk.size().saturating_sub(start).min(CHUNK);
        let mut bytes = vec![0; length(len)?];
        self.disk.read_at(&mut bytes, start)?;
        let bytes = Arc::new(bytes);
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(number, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Forgets what was read of a range, because the disk has changed there.
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let first = div(offset, CHUNK);
        let last = div(offset.saturating_add(len).saturating_sub(1), CHUNK);
        if last.saturating_sub(first) > wide(MOST_CHUNKS) {
            *cache = Cache::default();
            return;
        }
        for chunk in first..=last {
            cache.young.remove(&chunk);
            cache.old.remove(&chunk);
        }
    }
}
