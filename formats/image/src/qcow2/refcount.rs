//! The refcount table and its blocks, written when the image is published.
//!
//! QEMU `docs/interop/qcow2.txt`, "Host cluster management".

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
    pub(super) fn new(geometry: &Geometry, refcount_order: u32, clusters: u64) -> Result<Self> {
        let size = geometry.cluster_size();
        let counts = per_block(geometry, refcount_order).max(1);
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
                    .hint("choose larger clusters or narrower refcounts"));
            }
            if next == layout {
                return Ok(layout);
            }
            layout = next;
        }
    }
}

/// Counts in one refcount block.
fn per_block(geometry: &Geometry, refcount_order: u32) -> u64 {
    geometry
        .cluster_size()
        .saturating_mul(8)
        .checked_shr(refcount_order)
        .unwrap_or(0)
}

/// `counts` as a block holds them: narrow ones share a byte from its lowest bit on.
fn pack(counts: impl Iterator<Item = u16>, refcount_order: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let wide = |bytes: &mut Vec<u8>, width: usize, count: u16| {
        bytes.resize(bytes.len().saturating_add(width.saturating_sub(2)), 0);
        bytes.extend_from_slice(&count.to_be_bytes());
    };
    let mut filled = 8u32;
    for count in counts {
        let low = count.to_be_bytes()[1];
        match refcount_order {
            0..3 => {
                if filled == 8 {
                    bytes.push(0);
                    filled = 0;
                }
                if let Some(last) = bytes.last_mut() {
                    *last |= low.checked_shl(filled).unwrap_or(0);
                }
                filled = filled.saturating_add(1u32.checked_shl(refcount_order).unwrap_or(8));
            }
            3 => bytes.push(low),
            4 => wide(&mut bytes, 2, count),
            5 => wide(&mut bytes, 4, count),
            _ => wide(&mut bytes, 8, count),
        }
    }
    bytes
}

/// Writes the refcounts of everything that `allocator` gave out, their own clusters included; gives
/// the table's place and its length in clusters.
pub(super) fn publish(
    geometry: &Geometry,
    refcount_order: u32,
    allocator: &mut Allocator,
    storage: &dyn StorageMut,
) -> Result<(u64, u64)> {
    let size = geometry.cluster_size();
    let used = allocator.end().checked_div(size).unwrap_or(0);
    let layout = Layout::new(geometry, refcount_order, used)?;
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
    let counts = per_block(geometry, refcount_order);
    for block in 0..layout.blocks {
        let from = block.saturating_mul(counts);
        let references =
            (from..from.saturating_add(counts)).map(|cluster| allocator.references(cluster));
        let packed = pack(references, refcount_order);
        let place = first.saturating_add(block.saturating_mul(size));
        writer.append_bytes(place, packed.into_iter())?;
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
                let layout = Layout::new(&geometry, 4, clusters).unwrap();
                assert!(layout.blocks * counts >= clusters + layout.blocks + layout.table);
                assert!(layout.table * geometry.cluster_size() >= layout.blocks * 8);
            }
        }
    }

    #[test]
    fn counts_of_every_width_lie_as_the_specification_says() {
        let packed = |order| pack([1, 0, 1, 1].into_iter(), order);
        assert_eq!(packed(0), [0b1101]);
        assert_eq!(packed(1), [0b0101_0001]);
        assert_eq!(packed(2), [0x01, 0x11]);
        assert_eq!(packed(3), [1, 0, 1, 1]);
        assert_eq!(packed(4), [0, 1, 0, 0, 0, 1, 0, 1]);
        assert_eq!(packed(5)[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(packed(6)[..8], [0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
