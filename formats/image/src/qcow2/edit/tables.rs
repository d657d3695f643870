//! L1 and L2 tables of an image being changed: a table that a snapshot shares is copied first.

use std::sync::Arc;

use rehost_block::{Error, Result};

use super::super::entry::{COMPRESSED, COPIED, OFFSET_MASK, Raw, index};
use super::Edit;

/// Entry `at` of a table's bytes.
pub(super) fn entry_of(bytes: &[u8], extended: bool, at: u64) -> Result<Raw> {
    let word = |at: u64| {
        let from = index(at.saturating_mul(8));
        bytes
            .get(from..)
            .and_then(|rest| rest.first_chunk())
            .map(|word| u64::from_be_bytes(*word))
            .ok_or_else(|| Error::internal("an L2 index reaches past its table"))
    };
    if extended {
        let at = at.saturating_mul(2);
        Ok(Raw {
            descriptor: word(at)?,
            bitmap: word(at.saturating_add(1))?,
        })
    } else {
        Ok(Raw {
            descriptor: word(at)?,
            bitmap: 0,
        })
    }
}

fn set_entry(bytes: &mut [u8], extended: bool, at: u64, raw: Raw) -> Result<()> {
    let size = if extended { 16 } else { 8 };
    let from = index(at.saturating_mul(size));
    let place = bytes
        .get_mut(from..from.saturating_add(index(size)))
        .ok_or_else(|| Error::internal("an L2 index reaches past its table"))?;
    let (descriptor, bitmap) = place.split_at_mut(8);
    descriptor.copy_from_slice(&raw.descriptor.to_be_bytes());
    if extended {
        bitmap.copy_from_slice(&raw.bitmap.to_be_bytes());
    }
    Ok(())
}

impl Edit {
    /// The active L1 entry.
    pub(super) fn l1_entry(&self, l1: u64) -> u64 {
        self.l1.get(index(l1)).copied().unwrap_or(0)
    }

    pub(super) fn set_l1(&mut self, l1: u64, entry: u64) -> Result<()> {
        let slot = self
            .l1
            .get_mut(index(l1))
            .ok_or_else(|| Error::internal("an L1 index reaches past its table"))?;
        *slot = entry;
        let place = self.header.l1_offset.saturating_add(l1.saturating_mul(8));
        self.file.write_at(&entry.to_be_bytes(), place)
    }

    /// Entry `at` of the table at `l2`.
    pub(super) fn entry(&mut self, l2: u64, at: u64) -> Result<Raw> {
        let extended = self.rules.geometry.extended();
        let file = Arc::clone(&self.file);
        entry_of(self.pages().read(&*file, l2)?, extended, at)
    }

    /// Every entry of the table at `l2`.
    pub(super) fn entries(&mut self, l2: u64) -> Result<Vec<Raw>> {
        let extended = self.rules.geometry.extended();
        let entries = self.rules.geometry.l2_entries();
        let file = Arc::clone(&self.file);
        let bytes = self.pages().read(&*file, l2)?;
        (0..entries)
            .map(|at| entry_of(bytes, extended, at))
            .collect()
    }

    /// Changes entry `at` of the table at `l2`.
    pub(super) fn set_entry(&mut self, l2: u64, at: u64, raw: Raw) -> Result<()> {
        let extended = self.rules.geometry.extended();
        let file = Arc::clone(&self.file);
        set_entry(self.pages().change(&*file, l2)?, extended, at, raw)
    }

    /// The L2 table of an L1 entry, none where there is none.
    pub(super) fn l2(&self, l1: u64) -> Option<u64> {
        let offset = self.l1_entry(l1) & OFFSET_MASK;
        (offset != 0).then_some(offset)
    }

    /// The L2 table of an L1 entry, the active layer's own.
    pub(super) fn own_l2(&mut self, l1: u64) -> Result<u64> {
        let entry = self.l1_entry(l1);
        let offset = entry & OFFSET_MASK;
        if offset != 0 && entry & COPIED != 0 {
            return Ok(offset);
        }
        let own = self.room.take(1)?;
        let file = Arc::clone(&self.file);
        let bytes = if offset == 0 {
            vec![0; index(self.rules.geometry.cluster_size())]
        } else {
            self.pages().read(&*file, offset)?.to_vec()
        };
        self.pages().put(&*file, own, bytes)?;
        self.set_l1(l1, own | COPIED)?;
        if offset != 0 {
            self.let_go_of_table(offset)?;
        }
        Ok(own)
    }

    fn let_go_of_table(&mut self, l2: u64) -> Result<()> {
        let cluster = self.rules.geometry.cluster_of(l2);
        if self.room.lower(cluster)? == 0 {
            self.pages().forget(l2);
        }
        Ok(())
    }

    /// The clusters of its file that an entry refers to.
    pub(super) fn clusters_of(&self, raw: Raw) -> std::ops::Range<u64> {
        let geometry = self.rules.geometry;
        if raw.descriptor & COMPRESSED != 0 {
            let (offset, len) = geometry.packed_extent(raw.descriptor);
            return self.room.clusters(offset, len);
        }
        let host = raw.descriptor & OFFSET_MASK;
        if host == 0 || self.rules.data_file {
            return 0..0;
        }
        self.room.clusters(host, geometry.cluster_size())
    }

    /// One reference less to everything that an entry refers to.
    pub(super) fn release(&mut self, raw: Raw) -> Result<()> {
        for cluster in self.clusters_of(raw) {
            self.room.lower(cluster)?;
        }
        Ok(())
    }

    /// One reference less to an L2 table and everything in it.
    pub(super) fn release_l2(&mut self, l2: u64) -> Result<()> {
        for raw in self.entries(l2)? {
            self.release(raw)?;
        }
        self.let_go_of_table(l2)
    }

    /// One more reference to an L2 table and everything in it.
    pub(super) fn retain_l2(&mut self, l2: u64) -> Result<()> {
        for raw in self.entries(l2)? {
            for cluster in self.clusters_of(raw) {
                self.room.raise(cluster)?;
            }
        }
        self.room.raise(self.rules.geometry.cluster_of(l2))
    }
}
