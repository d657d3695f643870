//! Geometry of the two-level tables, and what one L2 entry says.
//!
//! QEMU `docs/interop/qcow2.txt`, "Cluster mapping", "Standard Cluster Descriptor", "Compressed
//! Clusters Descriptor" and "Extended L2 Entries".

use std::num::NonZeroU64;

use crate::words;

/// Bits 9 to 55: a cluster's offset in its file. The rest is reserved or flags; reserved bits are
/// not looked at, as in QEMU.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62: the cluster is compressed.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard entry: the cluster reads as zeroes (version 3).
pub(super) const ZERO: u64 = 1;
/// Subclusters of a cluster with an extended L2 entry.
pub(super) const SUBCLUSTERS: u32 = 32;

/// A byte offset in the file that holds the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostOffset(pub(super) u64);

/// Sizes that follow from `cluster_bits` and the kind of L2 entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    cluster_bits: u32,
    extended: bool,
}

/// Where a guest offset is found in the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Index in the L1 table.
    pub(super) l1: u64,
    /// Index in the L2 table.
    pub(super) l2: u64,
    /// Byte in the cluster.
    pub(super) within: u64,
}

impl Geometry {
    /// None when extended entries would make subclusters smaller than a sector.
    pub(super) const fn new(cluster_bits: u32, extended: bool) -> Option<Self> {
        if extended && cluster_bits < 14 {
            return None;
        }
        Some(Self {
            cluster_bits,
            extended,
        })
    }

    pub(super) const fn extended(&self) -> bool {
        self.extended
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1u64.checked_shl(self.cluster_bits).unwrap_or(u64::MAX)
    }

    /// The same as a length that is never zero.
    pub(super) fn unit(&self) -> NonZeroU64 {
        NonZeroU64::new(self.cluster_size()).unwrap_or(NonZeroU64::MIN)
    }

    pub(super) const fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    fn l2_bits(&self) -> u32 {
        self.cluster_bits
            .saturating_sub(self.entry_bytes().trailing_zeros())
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        1u64.checked_shl(self.l2_bits()).unwrap_or(u64::MAX)
    }

    /// Guest bytes that one L2 table covers. At most 2^39: 2 MiB clusters, 2^18 entries.
    pub(super) fn l2_span(&self) -> u64 {
        self.cluster_size().saturating_mul(self.l2_entries())
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_span().max(1))
    }

    /// Number of the cluster that byte `offset` of a file is in.
    pub(super) fn cluster_of(&self, offset: u64) -> u64 {
        offset.checked_shr(self.cluster_bits).unwrap_or(0)
    }

    /// Where cluster number `cluster` of a file begins.
    pub(super) fn offset_of(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster_size())
    }

    /// `offset`, or the cluster boundary after it.
    pub(super) fn round_up(&self, offset: u64) -> u64 {
        self.offset_of(offset.div_ceil(self.unit().get()))
    }

    pub(super) fn is_aligned(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// Where a compressed cluster's bytes are, and how many there are, up to the end of a sector.
    pub(super) fn packed_extent(&self, descriptor: u64) -> (u64, u64) {
        let split = packed_split(self.cluster_bits);
        let fields = descriptor & (COMPRESSED.saturating_sub(1));
        let offset = fields & 1u64.checked_shl(split).unwrap_or(0).saturating_sub(1);
        let more_sectors = fields.checked_shr(split).unwrap_or(0);
        let first = 512u64.saturating_sub(offset & 511);
        let len = first.saturating_add(more_sectors.saturating_mul(512));
        (offset, len)
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        let cluster = offset.checked_shr(self.cluster_bits).unwrap_or(0);
        Position {
            l1: cluster.checked_shr(self.l2_bits()).unwrap_or(0),
            l2: cluster & self.l2_entries().saturating_sub(1),
            within: offset & self.cluster_size().saturating_sub(1),
        }
    }
}

/// One L2 entry as stored: the descriptor, and the bitmap of an extended entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) descriptor: u64,
    pub(super) bitmap: u64,
}

/// Which clusters an image may have, besides its geometry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) geometry: Geometry,
    /// Version 2 has no zero clusters.
    pub(super) zero_clusters: bool,
    /// Clusters are in an external data file.
    pub(super) data_file: bool,
}

/// What is at a place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing here: the backing file answers.
    Unallocated,
    /// Zeroes.
    Zero,
    /// Stored at this offset (of the asked place, not of the cluster).
    Plain(HostOffset),
    /// The whole cluster is compressed into these bytes.
    Packed { offset: HostOffset, len: u64 },
}

impl From<Content> for words::Content {
    fn from(content: Content) -> Self {
        match content {
            Content::Unallocated => Self::Unallocated,
            Content::Zero => Self::Zero,
            Content::Plain(HostOffset(host)) => Self::Plain(host),
            Content::Packed { offset, len } => Self::Packed {
                offset: offset.0,
                len,
            },
        }
    }
}

/// What is wrong with an entry.
pub(super) type Fault = &'static str;

impl Rules {
    /// What byte `within` of the cluster is, and for how many bytes of the cluster that holds.
    pub(super) fn read(&self, raw: Raw, within: u64) -> Result<(Content, u64), Fault> {
        let cluster = self.geometry.cluster_size();
        let rest = cluster.saturating_sub(within);
        if raw.descriptor & COMPRESSED != 0 {
            return Ok((self.packed(raw)?, rest));
        }
        let host = raw.descriptor & OFFSET_MASK;
        if !self.geometry.is_aligned(host) {
            return Err("cluster offset is not at a cluster boundary");
        }
        // In a data file, offset 0 is a place like any other when the copied flag says so.
        let stored = host != 0 || (self.data_file && raw.descriptor & COPIED != 0);
        let plain = Content::Plain(HostOffset(host.saturating_add(within)));
        if self.geometry.extended {
            return self.subcluster(raw, within, stored, plain);
        }
        if raw.descriptor & ZERO != 0 {
            if !self.zero_clusters {
                return Err("version 2 has no zero clusters");
            }
            return Ok((Content::Zero, rest));
        }
        Ok((if stored { plain } else { Content::Unallocated }, rest))
    }

    fn packed(&self, raw: Raw) -> Result<Content, Fault> {
        if self.data_file {
            return Err("compressed cluster in an image with a data file");
        }
        let (offset, len) = self.geometry.packed_extent(raw.descriptor);
        Ok(Content::Packed {
            offset: HostOffset(offset),
            len,
        })
    }

    fn subcluster(
        &self,
        raw: Raw,
        within: u64,
        stored: bool,
        plain: Content,
    ) -> Result<(Content, u64), Fault> {
        let allocated = u32::try_from(raw.bitmap & u64::from(u32::MAX)).unwrap_or(0);
        let zero = u32::try_from(raw.bitmap >> 32).unwrap_or(0);
        if allocated & zero != 0 {
            return Err("subcluster is both stored and zero");
        }
        if allocated != 0 && !stored {
            return Err("subcluster is stored in a cluster that is not");
        }
        let size = self
            .geometry
            .cluster_size()
            .checked_div(u64::from(SUBCLUSTERS))
            .unwrap_or(1)
            .max(1);
        let index = u32::try_from(within.checked_div(size).unwrap_or(0)).unwrap_or(0);
        let from_here = |bits: u32| bits.checked_shr(index).unwrap_or(0);
        let (content, others) = if from_here(zero) & 1 != 0 {
            (Content::Zero, !zero)
        } else if from_here(allocated) & 1 != 0 {
            (plain, !allocated)
        } else {
            (Content::Unallocated, allocated | zero)
        };
        // The first subcluster that is something else ends the run.
        let run = from_here(others)
            .trailing_zeros()
            .min(SUBCLUSTERS.saturating_sub(index));
        let end = u64::from(index.saturating_add(run)).saturating_mul(size);
        Ok((content, end.saturating_sub(within)))
    }
}

/// Bits of a compressed descriptor that hold the offset; sectors follow.
pub(super) fn packed_split(cluster_bits: u32) -> u32 {
    62u32.saturating_sub(cluster_bits.saturating_sub(8))
}

/// A count of this machine as a number of the format.
pub(super) fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A number of the format as an index: past every slice where this machine cannot have it.
pub(super) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(cluster_bits: u32, extended: bool) -> Rules {
        Rules {
            geometry: Geometry::new(cluster_bits, extended).unwrap(),
            zero_clusters: true,
            data_file: false,
        }
    }

    #[test]
    fn compressed_descriptor_of_64_kib_clusters_splits_at_bit_54() {
        // 3 more sectors, beginning 100 bytes into a sector.
        let descriptor = COMPRESSED | (3 << 54) | (0x20000 + 100);
        let raw = Raw {
            descriptor,
            bitmap: 0,
        };
        let (content, len) = rules(16, false).read(raw, 0x8000).unwrap();
        let expected = Content::Packed {
            offset: HostOffset(0x20064),
            len: 412 + 3 * 512,
        };
        assert_eq!((content, len), (expected, 0x8000));
    }

    #[test]
    fn subclusters_end_where_their_kind_does() {
        let rules = rules(16, true);
        let raw = Raw {
            descriptor: 0x50000,
            bitmap: (0b1000 << 32) | 0b0110,
        };
        let at = |within| rules.read(raw, within).unwrap();
        assert_eq!(at(0), (Content::Unallocated, 2048));
        assert_eq!(
            at(2048 + 512),
            (Content::Plain(HostOffset(0x50a00)), 4096 - 512)
        );
        assert_eq!(at(3 * 2048), (Content::Zero, 2048));
        assert_eq!(at(4 * 2048), (Content::Unallocated, 28 * 2048));
    }

    #[test]
    fn entries_that_contradict_themselves_are_faults() {
        let both = Raw {
            descriptor: 0x50000,
            bitmap: (1 << 32) | 1,
        };
        assert!(rules(16, true).read(both, 0).is_err());
        let nowhere = Raw {
            descriptor: 0,
            bitmap: 1,
        };
        assert!(rules(16, true).read(nowhere, 0).is_err());
        let unaligned = Raw {
            descriptor: 0x50200,
            bitmap: 0,
        };
        assert!(rules(16, false).read(unaligned, 0).is_err());
    }
}
