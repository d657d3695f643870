//! Internal snapshots of an image being changed.
//!
//! A snapshot is a copy of the L1 table; everything below is shared, and counted once more.

use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{Error, Result};

use super::super::entry::{COMPRESSED, COPIED, OFFSET_MASK, amount, index};
use super::super::snapshot_table::{Entry, MAX_SNAPSHOTS};
use super::super::tables::words;
use super::{Change, Edit};
use crate::in_place::LayerMut;
use crate::snapshots::{Snapshot, Snapshots};

/// Bytes of a snapshot's name. QEMU's: `QEMUSnapshotInfo` has room for that many.
const MAX_NAME: usize = 255;

impl Edit {
    /// The L2 tables that a table leads to.
    fn l2s(table: &[u64]) -> impl Iterator<Item = u64> {
        table
            .iter()
            .map(|entry| entry & OFFSET_MASK)
            .filter(|offset| *offset != 0)
    }

    /// Makes every copied flag of the active layer say what the refcounts do.
    fn set_copied_flags(&mut self) -> Result<()> {
        let geometry = self.rules.geometry;
        for l1 in 0..amount(self.l1.len()) {
            let Some(l2) = self.l2(l1) else {
                continue;
            };
            let only = self.room.count(geometry.cluster_of(l2))? == 1;
            let entry = if only { l2 | COPIED } else { l2 };
            if entry != self.l1_entry(l1) {
                self.set_l1(l1, entry)?;
            }
            for (at, mut raw) in self.entries(l2)?.into_iter().enumerate() {
                let host = raw.descriptor & OFFSET_MASK;
                if raw.descriptor & COMPRESSED != 0 || host == 0 {
                    continue;
                }
                let before = raw;
                raw.descriptor &= !COPIED;
                if self.room.count(geometry.cluster_of(host))? == 1 {
                    raw.descriptor |= COPIED;
                }
                if raw != before {
                    self.set_entry(l2, amount(at), raw)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the table of snapshots to a new place.
    fn write_snapshots(&mut self) -> Result<()> {
        let old = (self.header.areas.snapshots, self.snapshots.len);
        let mut bytes = self.snapshots.encode();
        self.snapshots.len = amount(bytes.len());
        self.header.areas.snapshots = 0;
        if !bytes.is_empty() {
            let geometry = self.rules.geometry;
            let len = geometry.round_up(amount(bytes.len()));
            bytes.resize(index(len), 0);
            let offset = self.room.take(geometry.cluster_of(len))?;
            self.file.write_at(&bytes, offset)?;
            self.header.areas.snapshots = offset;
        }
        self.write_header()?;
        if old.1 > 0 {
            self.room.lower_all(old.0, old.1)?;
        }
        Ok(())
    }

    fn next_id(&self) -> Result<String> {
        let highest = self
            .snapshots
            .entries
            .iter()
            .filter_map(|entry| std::str::from_utf8(&entry.id).ok()?.parse::<u64>().ok())
            .max()
            .unwrap_or(0);
        let id = highest
            .checked_add(1)
            .ok_or_else(|| Error::unsupported("image has no snapshot id left"))?;
        Ok(id.to_string())
    }

    fn refuse_name(&self, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::usage("name of a snapshot is too long or empty")
                .mismatch(format!("1 to {MAX_NAME} bytes"), name.len()));
        }
        let taken = |entry: &Entry| entry.name == name.as_bytes() || entry.id == name.as_bytes();
        if self.snapshots.entries.iter().any(taken) {
            return Err(Error::usage(format!(
                "image has a snapshot {name:?} already"
            )));
        }
        Ok(())
    }
}

impl Snapshots for Edit {
    fn list(&self) -> Vec<Snapshot> {
        self.snapshots
            .entries
            .iter()
            .map(|entry| entry.describe(self.header.size))
            .collect()
    }

    fn create(&mut self, name: &str, date: SystemTime) -> Result<Snapshot> {
        self.refuse_name(name)?;
        if self.rules.data_file {
            return Err(
                Error::unsupported("an image with a data file cannot have snapshots")
                    .hint("convert it into an image without one"),
            );
        }
        if self.room.most() < 2 {
            return Err(
                Error::unsupported("refcounts of 1 bit leave no room for snapshots")
                    .hint("convert it into an image with wider refcounts"),
            );
        }
        if self.snapshots.entries.len() >= index(u64::from(MAX_SNAPSHOTS)) {
            return Err(Error::unsupported("image has too many snapshots")
                .mismatch(format!("at most {MAX_SNAPSHOTS}"), "one more"));
        }
        self.begin(Change::Content)?;
        let since = date.duration_since(UNIX_EPOCH).unwrap_or_default();
        let needed = self.rules.geometry.l1_entries(self.header.size);
        let mut table = self.l1.clone();
        table.truncate(index(needed));
        for entry in &mut table {
            *entry &= OFFSET_MASK;
        }
        for l2 in Self::l2s(&table) {
            self.retain_l2(l2)?;
        }
        let entry = Entry {
            l1_offset: self.write_l1(&table)?,
            l1_entries: needed,
            id: self.next_id()?.into_bytes(),
            name: name.as_bytes().to_vec(),
            date_seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
            date_nanoseconds: since.subsec_nanos(),
            vm_clock: 0,
            vm_state_size: 0,
            disk_size: Some(self.header.size),
            more: Vec::new(),
            place: 0,
        };
        let described = entry.describe(self.header.size);
        self.snapshots.entries.push(entry);
        self.write_snapshots()?;
        self.set_copied_flags()?;
        Ok(described)
    }

    fn apply(&mut self, id_or_name: &str) -> Result<()> {
        let at = self.snapshots.find(id_or_name)?;
        let entry = self
            .snapshots
            .entries
            .get(at)
            .cloned()
            .ok_or_else(|| Error::internal("a snapshot was lost"))?;
        let then = entry.as_of(&self.header, self.file.size())?;
        self.begin(Change::Content)?;
        if then.size != self.header.size {
            self.begin(Change::Size)?;
        }
        // Memory and device state lie behind the disk, and stay the snapshot's.
        let needed = self.rules.geometry.l1_entries(then.size);
        let mut table = words(&*self.file, entry.l1_offset, needed)?;
        for l2 in Self::l2s(&table) {
            self.retain_l2(l2)?;
        }
        let before = self.l1.clone();
        let len = self.l1.len().max(table.len());
        table.resize(len, 0);
        for word in &mut table {
            *word &= OFFSET_MASK;
        }
        self.move_l1(table)?;
        for l2 in Self::l2s(&before) {
            self.release_l2(l2)?;
        }
        self.header.size = then.size;
        self.write_header()?;
        self.set_copied_flags()
    }

    fn delete(&mut self, id_or_name: &str) -> Result<()> {
        let at = self.snapshots.find(id_or_name)?;
        self.begin(Change::Content)?;
        let entry = self.snapshots.entries.remove(at);
        let table = words(&*self.file, entry.l1_offset, entry.l1_entries)?;
        self.write_snapshots()?;
        for l2 in Self::l2s(&table) {
            self.release_l2(l2)?;
        }
        self.room
            .lower_all(entry.l1_offset, entry.l1_entries.saturating_mul(8))?;
        self.set_copied_flags()
    }

    fn flush(&mut self) -> Result<()> {
        LayerMut::flush(self)
    }
}
