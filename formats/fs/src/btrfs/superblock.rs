//! The superblock: where the trees are, and what a reader has to know.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", "Superblock". Copies lie at 64 KiB, 64 MiB and
//! 256 GiB of every device; the first is the one that counts, as for the kernel, the others are for when it
//! is damaged. Refused by name: zoned filesystems (their superblocks lie elsewhere), extent tree v2, the RAID stripe tree, and
//! features unknown to this program.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

use super::checksum::{Checksum, FIELD, hex};

/// Bytes of a superblock.
pub(super) const SIZE: usize = 4096;

/// Where its copies are.
pub(super) const COPIES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];

const MAGIC: &[u8; 8] = b"_BHRfS_M";

/// What can be done about a block that fails its own checks.
pub(super) const HINT: &str = "run btrfs check on a copy of the original";

/// Bits of `incompat_flags`.
pub(super) mod incompat {
    pub(in super::super) const SKINNY_METADATA: u64 = 1 << 8;
    pub(in super::super) const METADATA_UUID: u64 = 1 << 10;
    /// Mixed back references, default subvolume, mixed groups, LZO, zstd, big metadata, extended
    /// references, RAID5/6, skinny metadata, no holes, metadata UUID, RAID1C3/4, simple quota.
    pub(in super::super) const READ: u64 = 0xfff | (1 << 16);
    /// What is refused, with its name.
    pub(in super::super) const REFUSED: &[(u64, &str)] = &[
        (1 << 12, "zoned block groups"),
        (1 << 13, "extent tree v2"),
        (1 << 14, "the RAID stripe tree"),
        (1 << 17, "the remap tree"),
    ];
}

/// Bits of `flags`.
pub(super) mod flags {
    pub(in super::super) const ERROR: u64 = 1 << 2;
    pub(in super::super) const SEEDING: u64 = 1 << 32;
    pub(in super::super) const METADUMP: u64 = (1 << 33) | (1 << 34);
    /// A change of the UUID or of checksums that was begun and not finished.
    pub(in super::super) const CHANGING: u64 = 0xff << 35;
}

/// Where a tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreeRoot {
    /// Logical address of the top block.
    pub(super) logical: u64,
    pub(super) level: u8,
    pub(super) generation: u64,
}

/// What the superblock of one device says.
#[derive(Clone)]
pub(super) struct Superblock {
    /// All 4096 bytes.
    pub(super) raw: Vec<u8>,
    /// Where they were read.
    pub(super) at: u64,
    pub(super) fsid: [u8; 16],
    /// The UUID in blocks of metadata.
    pub(super) metadata_uuid: [u8; 16],
    pub(super) flags: u64,
    pub(super) generation: u64,
    pub(super) root: TreeRoot,
    pub(super) chunk_root: TreeRoot,
    /// The tree of log roots, where there is a log.
    pub(super) log_root: Option<TreeRoot>,
    pub(super) total_bytes: u64,
    pub(super) bytes_used: u64,
    pub(super) root_dir: u64,
    pub(super) num_devices: u64,
    pub(super) sector: u32,
    pub(super) node: u32,
    pub(super) compat_ro: u64,
    pub(super) incompat: u64,
    pub(super) checksum: Checksum,
    pub(super) device: u64,
    pub(super) device_uuid: [u8; 16],
    pub(super) label: String,
    pub(super) system_chunks: Vec<u8>,
}

/// Without its bytes.
impl fmt::Debug for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Superblock")
            .field("at", &self.at)
            .field("generation", &self.generation)
            .field("device", &self.device)
            .field("num_devices", &self.num_devices)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Superblock {
    /// The superblock of `disk`: the first copy, or where that is damaged the newest of the others.
    pub(super) fn read(disk: &Arc<dyn Disk>) -> Result<Self> {
        let mut first = None;
        let mut best: Option<Self> = None;
        for at in COPIES {
            match Self::read_copy(disk, at) {
                Ok(found) if at == COPIES[0] => return Ok(found),
                Ok(found) => {
                    if best
                        .as_ref()
                        .is_none_or(|best| best.generation < found.generation)
                    {
                        best = Some(found);
                    }
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        match (best, first) {
            (Some(best), _) => Ok(best),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::internal("a superblock has no copies")),
        }
    }

    fn read_copy(disk: &Arc<dyn Disk>, at: u64) -> Result<Self> {
        if disk.size() < at.saturating_add(crate::number::wide(SIZE)) {
            return Err(Error::corrupt("disk ends before the superblock")
                .in_structure("superblock")
                .at(at));
        }
        let mut raw = vec![0; SIZE];
        disk.read_at(&mut raw, at)?;
        Self::parse(raw, at)
    }

    fn parse(raw: Vec<u8>, at: u64) -> Result<Self> {
        let f = Fields::new(&raw, "superblock", at);
        if f.bytes(0x40, 8)? != MAGIC {
            return Err(f.corrupt(0x40, "no Btrfs signature"));
        }
        let number = f.u16_le(0xc4)?;
        let checksum = Checksum::numbered(number)
            .ok_or_else(|| f.unsupported(0xc4, format!("unknown checksum type {number}")))?;
        let covered = f.bytes(FIELD, SIZE.saturating_sub(FIELD))?;
        if !checksum.matches(covered, f.bytes(0, FIELD)?) {
            return Err(f
                .corrupt(0, "checksum does not match")
                .mismatch(
                    hex(checksum.of(covered).get(..checksum.len()).unwrap_or(&[])),
                    hex(f.bytes(0, checksum.len())?),
                )
                .hint(HINT));
        }
        if f.u64_le(0x30)? != at {
            return Err(f
                .corrupt(0x30, "was written for another place")
                .mismatch(at, f.u64_le(0x30)?));
        }
        let features = check_features(&f)?;
        let (sector, node) = geometry(&f)?;
        let root = |logical, level, generation| -> Result<TreeRoot> {
            Ok(TreeRoot {
                logical: f.u64_le(logical)?,
                level: level_at(&f, level)?,
                generation,
            })
        };
        let generation = f.u64_le(0x48)?;
        let log = root(0x60, 0xc8, generation.saturating_add(1))?;
        let fsid = f.array::<16>(0x20)?;
        let metadata_uuid = if features & incompat::METADATA_UUID == 0 {
            fsid
        } else {
            f.array::<16>(0x23b)?
        };
        let array = usize::try_from(f.u32_le(0xa0)?).unwrap_or(usize::MAX);
        if array > 2048 {
            return Err(f
                .corrupt(0xa0, "array of system chunks is too long")
                .mismatch("at most 2048 bytes", array));
        }
        let label = f.bytes(0x12b, 256)?;
        let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self {
            at,
            fsid,
            metadata_uuid,
            flags: f.u64_le(0x38)?,
            generation,
            root: root(0x50, 0xc6, generation)?,
            chunk_root: root(0x58, 0xc7, f.u64_le(0xa4)?)?,
            log_root: (log.logical != 0).then_some(log),
            total_bytes: f.u64_le(0x70)?,
            bytes_used: f.u64_le(0x78)?,
            root_dir: f.u64_le(0x80)?,
            num_devices: f.u64_le(0x88)?,
            sector,
            node,
            compat_ro: f.u64_le(0xb4)?,
            incompat: features,
            checksum,
            device: f.u64_le(0xc9)?,
            device_uuid: f.array(0xc9 + 66)?,
            label: String::from_utf8_lossy(label).into_owned(),
            system_chunks: f.bytes(0x32b, array)?.to_vec(),
            raw,
        })
    }

    /// The longest item that a leaf can hold.
    pub(super) fn most_item(&self) -> usize {
        crate::number::index(self.node).saturating_sub(super::node::HEADER + super::node::ITEM)
    }

    pub(super) const fn has(&self, bits: u64) -> bool {
        self.incompat & bits == bits
    }
}

fn check_features(f: &Fields<'_>) -> Result<u64> {
    let features = f.u64_le(0xbc)?;
    for (bit, name) in incompat::REFUSED {
        if features & bit != 0 {
            return Err(f.unsupported(0xbc, format!("uses {name}")));
        }
    }
    let unknown = features & !incompat::READ;
    if unknown != 0 {
        return Err(f.unsupported(
            0xbc,
            format!("uses incompatible features {unknown:#x} unknown to this program"),
        ));
    }
    let changing = f.u64_le(0x38)? & flags::CHANGING;
    if changing != 0 {
        return Err(f
            .unsupported(
                0x38,
                "a change of the filesystem's UUID or checksums was begun and not finished",
            )
            .hint("finish it with btrfstune in the source machine"));
    }
    Ok(features)
}

/// Bytes of a sector and of a tree block.
fn geometry(f: &Fields<'_>) -> Result<(u32, u32)> {
    let (sector, node) = (f.u32_le(0x90)?, f.u32_le(0x94)?);
    for (at, value, what) in [(0x90, sector, "sector size"), (0x94, node, "node size")] {
        if !value.is_power_of_two() || !(4096..=65_536).contains(&value) {
            return Err(f
                .corrupt(at, format!("{what} is out of range"))
                .mismatch("a power of two from 4096 to 65536", value));
        }
    }
    if node < sector {
        return Err(f
            .corrupt(0x94, "tree blocks are smaller than sectors")
            .mismatch(format!("at least {sector}"), node));
    }
    Ok((sector, node))
}

/// Levels of a tree, at most: `BTRFS_MAX_LEVEL`.
pub(super) const LEVELS: u8 = 8;

fn level_at(f: &Fields<'_>, at: usize) -> Result<u8> {
    let level = f.u8(at)?;
    if level < LEVELS {
        return Ok(level);
    }
    Err(f
        .corrupt(at, "tree is too high")
        .mismatch(format!("a level below {LEVELS}"), level))
}
