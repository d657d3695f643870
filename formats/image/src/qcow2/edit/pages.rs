//! A bounded cache of clusters that hold tables: L2 tables and refcount blocks, written back when
//! they leave it.

use std::collections::HashMap;

use rehost_block::{Error, Result, StorageMut};

use super::super::entry::{Geometry, index};

/// Bytes kept. Ours.
const CACHE_BYTES: u64 = 16 << 20;
/// At least this many tables are kept, whatever their size.
const MIN_PAGES: u64 = 4;
/// At most this many.
const MAX_PAGES: u64 = 256;

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    changed: bool,
    used: u64,
}

/// Tables by their offset in the file.
#[derive(Debug)]
pub(super) struct Pages {
    len: usize,
    most: usize,
    pages: HashMap<u64, Page>,
    clock: u64,
}

impl Pages {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let most = CACHE_BYTES
            .checked_div(geometry.cluster_size())
            .unwrap_or(MIN_PAGES)
            .clamp(MIN_PAGES, MAX_PAGES);
        Self {
            len: index(geometry.cluster_size()),
            most: index(most),
            pages: HashMap::new(),
            clock: 0,
        }
    }

    /// The table at `offset`, to read.
    pub(super) fn read(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&[u8]> {
        self.load(storage, offset).map(|page| &*page.bytes)
    }

    /// The table at `offset`, to change.
    pub(super) fn change(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&mut [u8]> {
        let page = self.load(storage, offset)?;
        page.changed = true;
        Ok(&mut page.bytes)
    }

    /// A new table at `offset`; whatever was there before is not read.
    pub(super) fn put(
        &mut self,
        storage: &dyn StorageMut,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<()> {
        self.make_room(storage)?;
        self.clock = self.clock.saturating_add(1);
        let page = Page {
            bytes,
            changed: true,
            used: self.clock,
        };
        self.pages.insert(offset, page);
        Ok(())
    }

    /// Drops what is known of the cluster at `offset`, which is no table any more.
    pub(super) fn forget(&mut self, offset: u64) {
        self.pages.remove(&offset);
    }

    /// Writes every changed table.
    pub(super) fn flush(&mut self, storage: &dyn StorageMut) -> Result<()> {
        let mut changed: Vec<_> = self
            .pages
            .iter_mut()
            .filter(|(_, page)| page.changed)
            .collect();
        changed.sort_unstable_by_key(|(offset, _)| **offset);
        for (offset, page) in changed {
            storage.write_at(&page.bytes, *offset)?;
            page.changed = false;
        }
        Ok(())
    }

    fn load(&mut self, storage: &dyn StorageMut, offset: u64) -> Result<&mut Page> {
        self.clock = self.clock.saturating_add(1);
        if !self.pages.contains_key(&offset) {
            self.make_room(storage)?;
            let mut bytes = vec![0; self.len];
            storage.read_at(&mut bytes, offset)?;
            let page = Page {
                bytes,
                changed: false,
                used: 0,
            };
            self.pages.insert(offset, page);
        }
        let clock = self.clock;
        let page = self
            .pages
            .get_mut(&offset)
            .ok_or_else(|| Error::internal("a table left the cache too early"))?;
        page.used = clock;
        Ok(page)
    }

    fn make_room(&mut self, storage: &dyn StorageMut) -> Result<()> {
        if self.pages.len() < self.most {
            return Ok(());
        }
        let oldest = self.pages.iter().min_by_key(|(_, page)| page.used);
        let Some(offset) = oldest.map(|(offset, _)| *offset) else {
            return Ok(());
        };
        if let Some(page) = self.pages.remove(&offset)
            && page.changed
        {
            storage.write_at(&page.bytes, offset)?;
        }
        Ok(())
    }
}
