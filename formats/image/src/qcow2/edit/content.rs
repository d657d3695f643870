//! Guest bytes of an image being changed: stored, zeroed, forgotten.

use std::sync::Arc;

use rehost_block::{Result, StorageMut};

use super::super::entry::{COMPRESSED, COPIED, OFFSET_MASK, Raw, ZERO, amount, index};
use super::{Edit, Group, NOTHING};

/// All subclusters are stored.
const ALL_STORED: u64 = 0xffff_ffff;
/// All subclusters are zero.
const ALL_ZERO: u64 = 0xffff_ffff_0000_0000;
/// Zeroes written at once where the format cannot say zero.
const ZEROES: u64 = 1 << 20;

impl Edit {
    fn plain_storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(self.data.as_ref().unwrap_or(&self.file))
    }

    /// The entry of a cluster that is wholly stored at `host`.
    fn stored(&self, host: u64) -> Raw {
        Raw {
            descriptor: host | COPIED,
            bitmap: if self.rules.geometry.extended() {
                ALL_STORED
            } else {
                0
            },
        }
    }

    /// Where the cluster of `raw` may be written over.
    fn own_host(&self, raw: Raw, guest: u64) -> Option<u64> {
        if self.rules.data_file {
            // Every cluster has its place there.
            return Some(guest);
        }
        let host = raw.descriptor & OFFSET_MASK;
        let own = raw.descriptor & COMPRESSED == 0 && raw.descriptor & COPIED != 0 && host != 0;
        own.then_some(host)
    }

    pub(super) fn put_range(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        for group in self.groups(offset, amount(plain.len())) {
            let l2 = self.own_l2(group.l1)?;
            let mut at = group.first;
            // Ends because every round stores at least one cluster.
            while at < group.end {
                at = self.put_run(l2, at, group, offset, plain)?;
            }
        }
        Ok(())
    }

    /// Stores from entry `at` on, as far as that is one write; gives the next entry.
    fn put_run(
        &mut self,
        l2: u64,
        at: u64,
        group: Group,
        offset: u64,
        plain: &[u8],
    ) -> Result<u64> {
        let geometry = self.rules.geometry;
        let cluster = geometry.cluster_size();
        let guest_of = |at: u64| {
            let skip = at.saturating_sub(group.first).saturating_mul(cluster);
            group.guest.saturating_add(skip)
        };
        let raw = self.entry(l2, at)?;
        let old = self.own_host(raw, guest_of(at));
        // The run: entries whose clusters lie together already, or entries that have none.
        let mut end = at.saturating_add(1);
        while end < group.end {
            let raw = self.entry(l2, end)?;
            let follows = match (old, self.own_host(raw, guest_of(end))) {
                (Some(first), Some(host)) => {
                    let skip = end.saturating_sub(at).saturating_mul(cluster);
                    first.checked_add(skip) == Some(host)
                }
                (None, None) => true,
                _ => false,
            };
            if !follows {
                break;
            }
            end = end.saturating_add(1);
        }
        let host = match old {
            Some(host) => host,
            None => {
                let (host, count) = self.room.take_some(end.saturating_sub(at))?;
                end = at.saturating_add(count);
                host
            }
        };
        let from = index(guest_of(at).saturating_sub(offset));
        let to = index(guest_of(end).saturating_sub(offset)).min(plain.len());
        let part = plain.get(from..to).unwrap_or_default();
        let storage = self.plain_storage();
        storage.write_at(part, host)?;
        let tail = guest_of(end)
            .saturating_sub(guest_of(at))
            .saturating_sub(amount(part.len()));
        if tail > 0 && !self.rules.data_file {
            // The rest of the disk's last cluster.
            let place = host.saturating_add(amount(part.len()));
            storage.write_at(&vec![0; index(tail)], place)?;
        }
        for at_entry in at..end {
            let before = self.entry(l2, at_entry)?;
            let skip = at_entry.saturating_sub(at).saturating_mul(cluster);
            let after = self.stored(host.saturating_add(skip));
            if before != after {
                self.set_entry(l2, at_entry, after)?;
            }
            if old.is_none() {
                self.release(before)?;
            }
        }
        Ok(end)
    }

    pub(super) fn zero_range(&mut self, offset: u64, len: u64) -> Result<()> {
        if !self.rules.zero_clusters {
            return self.zero_in_version_2(offset, len);
        }
        let after = if self.rules.geometry.extended() {
            Raw {
                descriptor: 0,
                bitmap: ALL_ZERO,
            }
        } else {
            Raw {
                descriptor: ZERO,
                bitmap: 0,
            }
        };
        self.clear_data_file(offset, len)?;
        for group in self.groups(offset, len) {
            let l2 = self.own_l2(group.l1)?;
            self.replace(l2, group, after)?;
        }
        Ok(())
    }

    /// Version 2 cannot say zero: over a backing file zeroes are stored.
    fn zero_in_version_2(&mut self, offset: u64, len: u64) -> Result<()> {
        if self.header.backing_file.is_none() {
            return self.forget_range(offset, len);
        }
        let step = self.rules.geometry.round_up(ZEROES);
        let zeroes = vec![0; index(step.min(len))];
        let end = offset.saturating_add(len);
        let mut at = offset;
        // Ends because every round goes on by at least a cluster.
        while at < end {
            let part = step.min(end.saturating_sub(at));
            self.put_range(at, zeroes.get(..index(part)).unwrap_or(&zeroes))?;
            at = at.saturating_add(part);
        }
        Ok(())
    }

    pub(super) fn forget_range(&mut self, offset: u64, len: u64) -> Result<()> {
        self.clear_data_file(offset, len)?;
        for group in self.groups(offset, len) {
            let Some(l2) = self.l2(group.l1) else {
                continue;
            };
            let whole = group.first == 0 && group.end >= self.rules.geometry.l2_entries();
            if whole {
                self.drop_l2(group.l1)?;
            } else if self.stores_any(l2, group)? {
                let l2 = self.own_l2(group.l1)?;
                self.replace(l2, group, NOTHING)?;
            }
        }
        Ok(())
    }

    /// Forgets a whole L2 table.
    pub(super) fn drop_l2(&mut self, l1: u64) -> Result<()> {
        if let Some(l2) = self.l2(l1) {
            self.set_l1(l1, 0)?;
            self.release_l2(l2)?;
        }
        Ok(())
    }

    fn stores_any(&mut self, l2: u64, group: Group) -> Result<bool> {
        for at in group.first..group.end {
            if self.entry(l2, at)? != NOTHING {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn replace(&mut self, l2: u64, group: Group, after: Raw) -> Result<()> {
        for at in group.first..group.end {
            let before = self.entry(l2, at)?;
            if before != after {
                self.set_entry(l2, at, after)?;
                self.release(before)?;
            }
        }
        Ok(())
    }

    /// What is cleared in the image reads as zeroes in its data file, too: that may be a raw disk.
    fn clear_data_file(&self, offset: u64, len: u64) -> Result<()> {
        match &self.data {
            Some(data) => {
                let end = offset.saturating_add(len).min(data.size());
                match end.checked_sub(offset) {
                    Some(len) if len > 0 => data.zero_at(offset, len),
                    _ => Ok(()),
                }
            }
            None => Ok(()),
        }
    }
}
