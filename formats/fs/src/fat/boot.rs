//! The boot sector: the geometry of the filesystem, and which of the three kinds it is.
//!
//! Source: Microsoft FAT specification (`fatgen103`), "Boot Sector and BPB". As Linux does, FAT32 is
//! told by its 16-bit table size being zero, not by its cluster count: tools make small ones.

use rehost_block::{Disk, Error, Fields, Result, round_up};

use crate::number::{div, wide};

/// Bytes of the boot sector that are read.
pub(super) const LEN: usize = 512;

/// Most clusters of a FAT12, and of a FAT16 filesystem.
const MOST_12: u64 = 4084;
const MOST_16: u64 = 65_524;
/// Most clusters of a FAT32 filesystem: numbers up to `0x0fff_fff6`.
const MOST_32: u64 = 0x0fff_fff5;

/// Width of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the top directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// `len` bytes at byte `at`.
    Fixed { at: u64, len: u64 },
    /// A chain.
    Cluster(u32),
}

/// The geometry: everything lies inside the disk.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) width: Width,
    /// Bytes per sector and per cluster: powers of two.
    pub(super) sector: u64,
    pub(super) cluster: u64,
    /// Byte offsets of the tables, the one that counts first.
    pub(super) tables: Vec<u64>,
    /// Whether all tables are kept equal.
    pub(super) mirrored: bool,
    pub(super) root: Root,
    /// Byte offset of cluster 2.
    pub(super) data: u64,
    /// Clusters that exist; they are numbered from 2.
    pub(super) clusters: u32,
    /// Byte offset of the sector that counts free clusters.
    pub(super) summary: Option<u64>,
    /// Where the byte with the dirty flag is, when the boot sector is of a kind that has one.
    pub(super) state_at: Option<u64>,
    /// Volume number.
    pub(super) serial: Option<u32>,
    pub(super) size: u64,
}

impl Boot {
    pub(super) fn read(disk: &dyn Disk) -> Result<Self> {
        let mut raw = [0; LEN];
        if disk.size() < wide(LEN) {
            return Err(
                Error::corrupt("disk ends inside the boot sector").in_structure("boot sector")
            );
        }
        disk.read_at(&mut raw, 0)?;
        Self::parse(&raw, disk.size())
    }

    pub(super) fn parse(raw: &[u8], disk: u64) -> Result<Self> {
        let f = Fields::new(raw, "boot sector", 0);
        if f.bytes(510, 2)? != [0x55, 0xaa] {
            return Err(f.corrupt(510, "boot sector has no signature"));
        }
        let sector = u64::from(f.u16_le(11)?);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(f
                .corrupt(11, "sectors have an impossible size")
                .mismatch("512, 1024, 2048 or 4096", sector));
        }
        let per_cluster = f.u8(13)?;
        if !per_cluster.is_power_of_two() {
            return Err(f
                .corrupt(13, "clusters have an impossible size")
                .mismatch("a power of two", per_cluster));
        }
        let cluster = u64::from(per_cluster).saturating_mul(sector);
        let reserved = u64::from(f.u16_le(14)?);
        if reserved == 0 {
            return Err(f.corrupt(14, "no sector is reserved for the boot sector"));
        }
        let count = u64::from(f.u8(16)?);
        if count == 0 {
            return Err(f.corrupt(16, "there is no file allocation table"));
        }
        if count > 2 {
            return Err(f.unsupported(16, format!("has {count} file allocation tables")));
        }
        let near = u64::from(f.u16_le(22)?);
        let far = near == 0;
        let per_table = if far { u64::from(f.u32_le(36)?) } else { near };
        if per_table == 0 {
            return Err(f.corrupt(22, "file allocation tables have no length"));
        }
        let total = match f.u16_le(19)? {
            0 => u64::from(f.u32_le(32)?),
            short => u64::from(short),
        };
        let size = total.saturating_mul(sector);
        if size > disk {
            return Err(f
                .corrupt(
                    if f.u16_le(19)? == 0 { 32 } else { 19 },
                    "filesystem reaches past the end of the disk",
                )
                .mismatch(format!("at most {disk} bytes"), size));
        }
        let root_len = u64::from(f.u16_le(17)?).saturating_mul(32);
        let root_at = per_table
            .saturating_mul(count)
            .saturating_add(reserved)
            .saturating_mul(sector);
        let data = root_at.saturating_add(round_up(root_len, sector));
        let clusters = div(size.saturating_sub(data), cluster);
        if clusters == 0 {
            return Err(f.corrupt(19, "there is no room for a cluster"));
        }
        let width = match clusters {
            _ if far => Width::Fat32,
            0..=MOST_12 => Width::Fat12,
            _ => Width::Fat16,
        };
        let (most, bits) = match width {
            Width::Fat12 => (MOST_12, 12),
            Width::Fat16 => (MOST_16, 16),
            Width::Fat32 => (MOST_32, 32),
        };
        let covered = div(per_table.saturating_mul(sector).saturating_mul(8), bits);
        if clusters > most.min(covered.saturating_sub(2)) {
            return Err(f
                .corrupt(22, "there are more clusters than table entries")
                .mismatch(
                    format!("at most {}", most.min(covered.saturating_sub(2))),
                    clusters,
                ));
        }
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        let root = if far {
            if f.u16_le(42)? != 0 {
                return Err(f.unsupported(42, format!("FAT32 of version {}", f.u16_le(42)?)));
            }
            let first = f.u32_le(44)?;
            if first < 2 || first.saturating_sub(2) >= clusters {
                return Err(f
                    .corrupt(44, "root directory is outside the filesystem")
                    .mismatch(
                        format!("a cluster from 2 to {}", clusters.saturating_add(1)),
                        first,
                    ));
            }
            Root::Cluster(first)
        } else {
            if root_len == 0 {
                return Err(f.corrupt(17, "root directory has no room"));
            }
            Root::Fixed {
                at: root_at,
                len: root_len,
            }
        };
        let flags = if far { f.u16_le(40)? } else { 0 };
        let mirrored = flags & 0x80 == 0;
        let active = u64::from(flags & 0x0f);
        if !mirrored && active >= count {
            return Err(f.corrupt(40, "active file allocation table does not exist"));
        }
        let table = |nth: u64| {
            let sectors = nth.saturating_mul(per_table).saturating_add(reserved);
            sectors.saturating_mul(sector)
        };
        let tables = if mirrored {
            (0..count).map(table).collect()
        } else {
            vec![table(active)]
        };
        let summary = match if far { f.u16_le(48)? } else { 0 } {
            0 | 0xffff => None,
            at if u64::from(at) < reserved => Some(u64::from(at).saturating_mul(sector)),
            at => {
                return Err(f.corrupt(
                    48,
                    format!("free cluster summary is in sector {at}, outside the reserved ones"),
                ));
            }
        };
        let [state, mark, serial]: [usize; 3] = if far { [65, 66, 67] } else { [37, 38, 39] };
        let known = matches!(f.u8(mark)?, 0x28 | 0x29);
        Ok(Self {
            width,
            sector,
            cluster,
            tables,
            mirrored,
            root,
            data,
            clusters,
            summary,
            state_at: known.then_some(wide(state)),
            serial: if known { Some(f.u32_le(serial)?) } else { None },
            size,
        })
    }

    /// One more than the highest cluster number.
    pub(super) const fn end(&self) -> u32 {
        self.clusters.saturating_add(2)
    }

    /// Byte offset of a cluster.
    pub(super) fn offset(&self, cluster: u32) -> u64 {
        u64::from(cluster.saturating_sub(2))
            .saturating_mul(self.cluster)
            .saturating_add(self.data)
    }

    /// The cluster that byte `offset` of the disk is in.
    pub(super) fn cluster_of(&self, offset: u64) -> Option<u32> {
        let nth = div(offset.checked_sub(self.data)?, self.cluster);
        let cluster = u32::try_from(nth).ok()?.checked_add(2)?;
        (cluster < self.end()).then_some(cluster)
    }

    /// How many clusters hold `len` bytes.
    pub(super) fn clusters_for(&self, len: u64) -> u64 {
        len.div_ceil(self.cluster)
    }
}
