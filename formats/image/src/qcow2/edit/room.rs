//! Refcounts of an image being changed: finds free clusters, and makes the refcounts' own tables
//! grow with the file.
//!
//! QEMU `docs/interop/qcow2.txt`, "Host cluster management".

use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::super::bits::{MAX_TABLE_BYTES, Width};
use super::super::entry::{Geometry, amount, index};
use super::super::header::Header;
use super::super::tables::words;
use super::pages::Pages;

/// The refcounts, and where to look for room.
#[derive(Debug)]
pub(super) struct Room {
    storage: Arc<dyn StorageMut>,
    geometry: Geometry,
    width: Width,
    per_block: u64,
    /// Offsets of the refcount blocks; 0 where there is none.
    blocks: Vec<u64>,
    /// The refcount table: its offset and its clusters, which the header is to say.
    pub(super) table: u64,
    pub(super) table_clusters: u64,
    pages: Pages,
    /// No cluster before this one is free.
    hint: u64,
}

impl Room {
    /// The refcounts of a sound image.
    pub(super) fn read(header: &Header, storage: Arc<dyn StorageMut>) -> Result<Self> {
        let geometry = header.geometry;
        let width = Width::new(header.areas.refcount_order);
        let table_clusters = u64::from(header.areas.refcount_clusters);
        let entries = geometry.offset_of(table_clusters) / 8;
        let blocks = words(&*storage, header.areas.refcount_table, entries)?;
        Ok(Self {
            per_block: width.per_block(geometry.cluster_size()).max(1),
            table: header.areas.refcount_table,
            table_clusters,
            pages: Pages::new(&geometry),
            hint: 1,
            storage,
            geometry,
            width,
            blocks,
        })
    }

    /// The highest count that the image can hold.
    pub(super) fn most(&self) -> u64 {
        self.width.most()
    }

    fn split(&self, cluster: u64) -> (u64, u64) {
        let block = cluster.checked_div(self.per_block).unwrap_or(0);
        (block, cluster.checked_rem(self.per_block).unwrap_or(0))
    }

    fn block(&self, number: u64) -> u64 {
        self.blocks.get(index(number)).copied().unwrap_or(0)
    }

    /// References of `cluster`.
    pub(super) fn count(&mut self, cluster: u64) -> Result<u64> {
        let (block, at) = self.split(cluster);
        match self.block(block) {
            0 => Ok(0),
            offset => {
                let bytes = self.pages.read(&*self.storage, offset)?;
                Ok(self.width.get(bytes, at))
            }
        }
    }

    fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let (block, at) = self.split(cluster);
        let offset = self.block(block);
        if offset == 0 {
            return Err(Error::internal("a refcount has no block"));
        }
        let width = self.width;
        let bytes = self.pages.change(&*self.storage, offset)?;
        width.set(bytes, at, count);
        Ok(())
    }

    /// Makes the count of `cluster` what `to` makes of it; gives the new one.
    fn update(&mut self, cluster: u64, to: impl Fn(u64) -> Result<u64>) -> Result<u64> {
        let (block, at) = self.split(cluster);
        let offset = self.block(block);
        if offset == 0 {
            // No block: the count is 0.
            to(0)?;
            return Err(Error::internal("a refcount has no block"));
        }
        let width = self.width;
        let bytes = self.pages.change(&*self.storage, offset)?;
        let count = to(width.get(bytes, at))?;
        width.set(bytes, at, count);
        Ok(count)
    }

    /// One more reference to `cluster`.
    pub(super) fn raise(&mut self, cluster: u64) -> Result<()> {
        let most = self.width.most();
        self.update(cluster, |count| {
            if count < most {
                return Ok(count.saturating_add(1));
            }
            Err(Error::unsupported(format!(
                "refcounts of this image end at {most}: it cannot have more snapshots"
            ))
            .hint("convert it into an image with wider refcounts"))
        })?;
        Ok(())
    }

    /// One reference less to `cluster`; gives how many are left.
    pub(super) fn lower(&mut self, cluster: u64) -> Result<u64> {
        let place = self.geometry.offset_of(cluster);
        let left = self.update(cluster, |count| {
            count.checked_sub(1).ok_or_else(|| {
                Error::corrupt("a cluster in use has no refcount")
                    .in_structure("refcount block")
                    .at(place)
                    .hint("check the image first")
            })
        })?;
        if left == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(left)
    }

    /// One reference less to each cluster of the range.
    pub(super) fn lower_all(&mut self, offset: u64, len: u64) -> Result<()> {
        for cluster in self.clusters(offset, len) {
            self.lower(cluster)?;
        }
        Ok(())
    }

    /// The clusters that the range touches.
    pub(super) fn clusters(&self, offset: u64, len: u64) -> std::ops::Range<u64> {
        let first = self.geometry.cluster_of(offset);
        let end = offset
            .saturating_add(len)
            .div_ceil(self.geometry.unit().get());
        first..end.max(first)
    }

    /// `count` clusters that lie together, each referred to once; gives the offset of the first.
    pub(super) fn take(&mut self, count: u64) -> Result<u64> {
        let mut first = self.hint;
        // Ends because room past the end of the file is free, and each table written takes a part
        // of it once.
        loop {
            let len = self.free_run(first, count)?;
            if len < count {
                first = first.saturating_add(len.max(1));
                if count == 1 {
                    self.hint = first;
                }
            } else if self.cover(first, count)? {
                return self.claim(first, count);
            } else {
                first = self.hint;
            }
        }
    }

    /// At most `count` (> 0) clusters that lie together; gives the offset and how many.
    pub(super) fn take_some(&mut self, count: u64) -> Result<(u64, u64)> {
        let first = self.take(1)?;
        let cluster = self.geometry.cluster_of(first);
        let mut more = self.free_run(cluster.saturating_add(1), count.saturating_sub(1))?;
        let (_, at) = self.split(cluster);
        // What the block at hand covers, so that no table has to be made.
        more = more.min(self.per_block.saturating_sub(at).saturating_sub(1));
        if more > 0 {
            self.claim(cluster.saturating_add(1), more)?;
        }
        Ok((first, more.saturating_add(1)))
    }

    /// How many clusters from `first` on are free, at most `most`.
    fn free_run(&mut self, first: u64, most: u64) -> Result<u64> {
        let mut len = 0;
        while len < most {
            if self.count(first.saturating_add(len))? != 0 {
                break;
            }
            len = len.saturating_add(1);
        }
        Ok(len)
    }

    fn claim(&mut self, first: u64, count: u64) -> Result<u64> {
        let end = first.saturating_add(count);
        let offset = self.geometry.offset_of(first);
        // Offsets have 56 bits.
        if self.geometry.offset_of(end) >= 1 << 56 {
            return Err(Error::usage("image outgrows what qcow2 can address"));
        }
        for cluster in first..end {
            self.set(cluster, 1)?;
        }
        if first == self.hint {
            self.hint = end;
        }
        Ok(offset)
    }

    /// Makes sure that blocks hold the counts of these clusters; false when that took room, which
    /// may have been theirs.
    fn cover(&mut self, first: u64, count: u64) -> Result<bool> {
        let (from, _) = self.split(first);
        let (to, _) = self.split(first.saturating_add(count.saturating_sub(1)));
        for block in from..=to {
            if index(block) >= self.blocks.len() {
                self.grow_table(block)?;
                return Ok(false);
            }
            if self.block(block) == 0 {
                self.add_block(block)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A block for clusters that have none, all of which are free: it takes the first of them.
    fn add_block(&mut self, number: u64) -> Result<()> {
        let cluster = number.saturating_mul(self.per_block);
        let offset = self.geometry.offset_of(cluster);
        let mut bytes = vec![0; index(self.geometry.cluster_size())];
        self.width.set(&mut bytes, 0, 1);
        self.pages.put(&*self.storage, offset, bytes)?;
        if let Some(entry) = self.blocks.get_mut(index(number)) {
            *entry = offset;
        }
        let place = self.table.saturating_add(number.saturating_mul(8));
        self.storage.write_at(&offset.to_be_bytes(), place)
    }

    /// A longer table with room for block `number`, behind all that the old one can count. The new
    /// blocks that count it and themselves lie before it.
    fn grow_table(&mut self, number: u64) -> Result<()> {
        let size = self.geometry.cluster_size();
        let old = amount(self.blocks.len());
        let start = old.saturating_mul(self.per_block);
        let (mut blocks, mut clusters) = (1u64, 1u64);
        // Ends because both only grow, up to a limit.
        loop {
            let entries = old.saturating_add(blocks).max(number.saturating_add(1));
            let bytes = entries.saturating_add(entries / 2).saturating_mul(8);
            let next_clusters = bytes.div_ceil(self.geometry.unit().get());
            let next_blocks = blocks
                .saturating_add(next_clusters)
                .div_ceil(self.per_block);
            if next_clusters.saturating_mul(size) > MAX_TABLE_BYTES {
                return Err(
                    Error::usage("image outgrows the refcounts of its cluster size")
                        .hint("convert it into an image with larger clusters"),
                );
            }
            if (next_blocks, next_clusters) == (blocks, clusters) {
                break;
            }
            (blocks, clusters) = (next_blocks, next_clusters);
        }
        let table = self.geometry.offset_of(start.saturating_add(blocks));
        let (old_table, old_len) = (self.table, self.geometry.offset_of(self.table_clusters));
        let entries = clusters.saturating_mul(size) / 8;
        self.blocks.resize(index(entries), 0);
        let mut cluster = start;
        for block in old..old.saturating_add(blocks) {
            let offset = self.geometry.offset_of(cluster);
            let bytes = vec![0; index(size)];
            self.pages.put(&*self.storage, offset, bytes)?;
            if let Some(entry) = self.blocks.get_mut(index(block)) {
                *entry = offset;
            }
            cluster = cluster.saturating_add(1);
        }
        for cluster in start..start.saturating_add(blocks).saturating_add(clusters) {
            self.set(cluster, 1)?;
        }
        let bytes: Vec<u8> = self.blocks.iter().flat_map(|x| x.to_be_bytes()).collect();
        self.storage.write_at(&bytes, table)?;
        self.table = table;
        self.table_clusters = clusters;
        self.lower_all(old_table, old_len)
    }

    /// Writes every changed block.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.pages.flush(&*self.storage)
    }
}
