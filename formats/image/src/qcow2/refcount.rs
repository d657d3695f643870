//! The refcount table and its blocks, written when the image is published.
//!
//! QEMU `docs/interop/qcow2.txt`, "Host cluster management". 16 bits per count, the default and the
//! only width of version 2.

use rehost_block::{Error, Result, StorageMut};

use super::allocator::Allocator;
use super::entry::Geometry;
use super::mapping::Appender;

/// Largest refcount table, in bytes. QEMU's: `QCOW_MAX_REFTABLE_SIZE`.
const MAX_TABLE_BYTES: u64 = 8 << 20;

/// How many clusters the refcounts themselves take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Clusters of the refcount table.
    pub(super) table: u64,
    /// Refcount blocks, one cluster each.
    pub(super) blocks: u64,
}

impl Layout {
    /// For `clusters` clusters besides the refcounts' own.
    ///
    /// # Errors
    /// Usage when the table would be larger than QEMU takes.
    pub(super) fn new(geometry: &Geometry, clusters: u64) -> Result<Self> {
        let size = geometry.cluster_size();
        let counts = size / 2;
        let mut layout = Self {
            table: 1,
            blocks: 1,
        };
        // Ends because the layout only grows, and one that covers itself stays as it is.
        loop {
            let all = clusters
                .saturating_add(layout.table)
                .saturating_add(layout.blocks);
            let blocks = all.div_ceil(counts);
            let next = Self {
                table: blocks.saturating_mul(8).div_ceil(size),
                blocks,
            };
            if next.table.saturating_mul(size) > MAX_TABLE_BYTES {
                return Err(Error::usage("disk is too large for this cluster size")
                    .hint("choose larger clusters"));
            }
            if next == layout {
                return Ok(layout);
            }
            layout = next;
        }
    }
}

/// Writes the refcounts of everything that `allocator` gave out, their own clusters included; gives
/// the table's place and its length in clusters.
pub(super) fn publish(
    geometry: &Geometry,
    allocator: &mut Allocator,
    storage: &dyn StorageMut,
) -> Result<(u64, u64)> {
    let size = geometry.cluster_size();
    let used = allocator.end().checked_div(size).unwrap_or(0);
    let layout = Layout::new(geometry, used)?;
    let table = allocator.whole(layout.table)?;
    let first = allocator.whole(layout.blocks)?;

    let mut writer = Appender::new(storage);
    let entries = layout.table.saturating_mul(size) / 8;
    let words: Vec<u64> = (0..entries)
        .map(|index| {
            if index < layout.blocks {
                first.saturating_add(index.saturating_mul(size))
            } else {
                0
            }
        })
        .collect();
    writer.append(table, &words)?;
    let counts = size / 2;
    for block in 0..layout.blocks {
        let from = block.saturating_mul(counts);
        let references = (from..from.saturating_add(counts))
            .flat_map(|cluster| allocator.references(cluster).to_be_bytes());
        let place = first.saturating_add(block.saturating_mul(size));
        writer.append_bytes(place, references)?;
    }
    writer.finish()?;
    Ok((table, layout.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_cover_their_own_clusters() {
        for bits in [9, 12, 16, 21] {
            let geometry = Geometry::new(bits, false).unwrap();
            let counts = geometry.cluster_size() / 2;
            for clusters in [
                0,
                1,
                counts - 3,
                counts - 2,
                counts - 1,
                counts,
                100 * counts,
            ] {
                let layout = Layout::new(&geometry, clusters).unwrap();
                assert!(layout.blocks * counts >= clusters + layout.blocks + layout.table);
                assert!(layout.table * geometry.cluster_size() >= layout.blocks * 8);
            }
        }
    }
}
