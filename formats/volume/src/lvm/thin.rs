//! Thin pools: the metadata that says where the blocks of each thin volume are.
//!
//! After the kernel's `drivers/md/dm-thin-metadata.c` (`struct thin_disk_superblock`) and
//! `Documentation/admin-guide/device-mapper/thin-provisioning.rst`. Every volume and every snapshot
//! has a tree of its own from virtual to data blocks; trees share nodes. What no tree maps reads as
//! the external origin, where there is one, or as zeroes.
//!
//! Left out on purpose: writing (a block may be shared with a snapshot), the space maps, the
//! details tree beyond its place (sizes are LVM's), and metadata snapshots.

use std::sync::Arc;

use rehost_block::{Disk as _, Error, Fields, Result};

use super::tree::{BLOCK, Found, Tree, checksum, read_block};
use crate::backing::Backing;
use crate::mapped::{Mapped, Place, Plan};

const NAME: &str = "thin pool superblock";
const MAGIC: u64 = 27_022_010;

/// What the superblock's checksum is mixed with (`SUPERBLOCK_CSUM_XOR`).
const SALT: u32 = 160_774;

/// Bits of a value of a mapping tree that are the time of the block's last change.
const TIME_BITS: u32 = 24;

/// A pool that is put together.
#[derive(Debug)]
pub(super) struct Pool {
    data: Backing,
    /// Bytes per block of data.
    chunk: u64,
    /// Which transaction the metadata are at.
    pub(super) transaction: u64,
    /// The tree of devices, by number.
    devices: u64,
    tree: Tree,
}

impl Pool {
    /// The pool whose metadata are on `metadata` and whose blocks of `chunk` bytes on `data`.
    pub(super) fn open(metadata: &Backing, data: &Backing, chunk: u64) -> Result<Self> {
        let raw = read_block(metadata.disk(), 0, NAME)?;
        let f = Fields::new(&raw, NAME, 0);
        if f.u64_le(32)? != MAGIC {
            return Err(f
                .corrupt(32, "the metadata of a thin pool have no signature")
                .mismatch(MAGIC, f.u64_le(32)?));
        }
        let (stored, found) = (f.u32_le(0)?, checksum(&raw, SALT));
        if stored != found {
            return Err(f
                .corrupt(0, "the superblock's checksum is wrong")
                .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
        }
        let version = f.u32_le(40)?;
        if !matches!(version, 1 | 2) {
            return Err(f
                .unsupported(40, "unknown version of thin pool metadata")
                .mismatch("1 or 2", version));
        }
        let unknown = f.u32_le(360)?;
        if unknown != 0 {
            return Err(f
                .unsupported(360, "unknown incompatible features of a thin pool")
                .mismatch(0, format!("{unknown:#x}")));
        }
        let own = u64::from(f.u32_le(336)?).saturating_mul(512);
        if own != chunk || chunk == 0 {
            return Err(f
                .corrupt(336, "the block size is not the volume group's")
                .mismatch(chunk, own));
        }
        Ok(Self {
            data: data.clone(),
            chunk,
            transaction: f.u64_le(48)?,
            devices: f.u64_le(320)?,
            tree: Tree::new(Arc::clone(metadata.disk())),
        })
    }

    /// The volume of `size` bytes that the pool knows as device `number`; `None` when it knows no
    /// such device. What it has no block for reads as `origin`.
    pub(super) fn volume(
        self: &Arc<Self>,
        number: u64,
        size: u64,
        origin: Option<Backing>,
    ) -> Result<Option<Backing>> {
        let Found::Value { values, .. } = self.tree.find(self.devices, number, 1)? else {
            return Ok(None);
        };
        let root = values.first().copied().unwrap_or_default();
        // The root is read now: a tree that cannot be read costs the volume, not a later reader.
        self.tree.find(root, 0, 1)?;
        let disk = Arc::new(Mapped(Thin {
            pool: Arc::clone(self),
            root,
            size,
            origin,
        }));
        let below = &self.data;
        Ok(Some(below.unwritten(disk, "it is a thin volume")))
    }
}

/// A thin volume as a plan.
#[derive(Debug)]
struct Thin {
    pool: Arc<Pool>,
    root: u64,
    size: u64,
    origin: Option<Backing>,
}

impl Thin {
    /// What is below the stretch of `len` bytes at `offset`, for which there is no block.
    fn below(&self, offset: u64, len: u64) -> (Place<'_>, u64) {
        if let Some(origin) = &self.origin
            && let left @ 1.. = origin.size().saturating_sub(offset)
        {
            return (Place::On(origin, offset), len.min(left));
        }
        (Place::Zero, len)
    }
}

impl Plan for Thin {
    fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)> {
        let chunk = self.pool.chunk;
        let block = offset.checked_div(chunk).unwrap_or(0);
        let inside = offset.checked_rem(chunk).unwrap_or(0);
        let bytes = |blocks: u64| want.min(blocks.saturating_mul(chunk).saturating_sub(inside));
        let most = want.saturating_add(inside).div_ceil(chunk.max(1));
        let (values, at) = match self.pool.tree.find(self.root, block, most)? {
            Found::Gap { keys } => return Ok(self.below(offset, bytes(keys))),
            Found::Value { values, node } => (values, node),
        };
        let first = values.first().map_or(0, |value| value >> TIME_BITS);
        // Blocks that lie one after the other are one run.
        let mut run = 0u64;
        for value in &values {
            if value >> TIME_BITS != first.saturating_add(run) {
                break;
            }
            run = run.saturating_add(1);
        }
        let len = bytes(run.max(1));
        let start = first
            .checked_mul(chunk)
            .and_then(|start| start.checked_add(inside));
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.pool.data.size() => {
                Ok((Place::On(&self.pool.data, start), len))
            }
            _ => Err(
                Error::corrupt("a block lies past the end of the thin pool's data")
                    .in_structure("thin pool mapping")
                    .at(at.saturating_mul(BLOCK))
                    .mismatch(
                        format!("an end of at most {}", self.pool.data.size()),
                        format!("block {first} of {chunk} bytes"),
                    ),
            ),
        }
    }

    fn members(&self) -> Vec<&Backing> {
        vec![&self.pool.data]
    }
}
