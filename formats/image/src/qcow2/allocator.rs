//! Gives out room in the file, and knows how often each cluster is referred to.
//!
//! Clusters are given out in ascending order and never taken back. Whole clusters are referred to
//! once; a cluster of packed bytes once per unit that touches it, and only those counts are kept.

use rehost_block::{Error, Result};

use super::entry::Geometry;

/// The next free place.
#[derive(Debug)]
pub(super) struct Allocator {
    geometry: Geometry,
    /// Next free cluster, as a byte offset.
    next: u64,
    /// Room left in the clusters of packed bytes: from here ...
    packed: u64,
    /// ... up to here.
    packed_end: u64,
    /// References of each cluster, as far as clusters of packed bytes reach. All others have one.
    references: Vec<u16>,
    /// The most that a refcount can say, and these numbers hold.
    most: u16,
}

impl Allocator {
    /// Everything after the first cluster, which is the header's. Refcounts have
    /// `1 << refcount_order` bits.
    pub(super) fn new(geometry: Geometry, refcount_order: u32) -> Self {
        Self {
            geometry,
            next: geometry.cluster_size(),
            packed: 0,
            packed_end: 0,
            references: Vec::new(),
            most: match 1u32.checked_shl(refcount_order) {
                Some(bits) if bits < 16 => 1u16.checked_shl(bits).unwrap_or(0).saturating_sub(1),
                _ => u16::MAX,
            },
        }
    }

    /// Where the file ends.
    pub(super) const fn end(&self) -> u64 {
        self.next
    }

    /// `count` clusters that lie together; gives the offset of the first.
    pub(super) fn whole(&mut self, count: u64) -> Result<u64> {
        let place = self.next;
        self.next = count
            .checked_mul(self.geometry.cluster_size())
            .and_then(|bytes| place.checked_add(bytes))
            // Offsets have 56 bits.
            .filter(|end| *end < 1 << 56)
            .ok_or_else(|| Error::usage("image outgrows what qcow2 can address"))?;
        Ok(place)
    }

    /// `len` bytes (less than a cluster) for a packed unit.
    pub(super) fn packed(&mut self, len: u64) -> Result<u64> {
        let cluster = self.geometry.cluster_size();
        if self.packed_end.saturating_sub(self.packed) < len {
            let goes_on = self.packed_end == self.next;
            let place = self.whole(1)?;
            if !goes_on || !self.can_refer(self.packed) {
                self.packed = place;
            }
            self.packed_end = self.next;
        } else if !self.can_refer(self.packed) {
            self.packed = self.whole(1)?;
            self.packed_end = self.next;
        }
        let place = self.packed;
        self.packed = place.saturating_add(len);
        let mut touched = place & !cluster.saturating_sub(1);
        // Ends because `touched` grows by a cluster a round; a unit touches two at most.
        while touched < self.packed {
            self.refer(touched);
            touched = touched.saturating_add(cluster);
        }
        Ok(place)
    }

    fn index(&self, offset: u64) -> usize {
        usize::try_from(
            offset
                .checked_div(self.geometry.cluster_size())
                .unwrap_or(0),
        )
        .unwrap_or(usize::MAX)
    }

    /// Whether the cluster at `offset` can take one more reference.
    fn can_refer(&self, offset: u64) -> bool {
        self.references
            .get(self.index(offset))
            .is_none_or(|count| *count < self.most)
    }

    fn refer(&mut self, offset: u64) {
        let index = self.index(offset);
        if self.references.len() <= index {
            // What lies between are whole clusters.
            self.references.resize(index, 1);
            self.references.push(0);
        }
        if let Some(count) = self.references.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// References of cluster number `cluster`.
    pub(super) fn references(&self, cluster: u64) -> u16 {
        if cluster.saturating_mul(self.geometry.cluster_size()) >= self.next {
            return 0;
        }
        usize::try_from(cluster)
            .ok()
            .and_then(|cluster| self.references.get(cluster))
            .copied()
            .unwrap_or(1)
    }
}
