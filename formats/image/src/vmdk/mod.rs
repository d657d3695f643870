//! VMDK, VMware's virtual disk: a descriptor and the extents that it lists.
//!
//! VMware "Virtual Disk Format 5.0" (technical note, 2011). Reads `monolithicSparse`,
//! `monolithicFlat`, `twoGbMaxExtentSparse`, `twoGbMaxExtentFlat`, `streamOptimized` (one extent or
//! several), the disks of ESXi (`vmfs`, `vmfsThin` and the like, and the snapshots `vmfsSparse` and
//! `seSparse`), devices and raw device maps (`fullDevice`, `partitionedDevice`, `vmfsRDM` and the
//! like, as far as their extents can be opened as files) and `custom` mixtures of these, each also
//! as a snapshot over a parent. Writes `monolithicSparse`, `twoGbMaxExtentSparse` (both also over a
//! parent), `monolithicFlat`, `twoGbMaxExtentFlat` and `streamOptimized`.
//!
//! Leaves out on purpose, refused by name: `seSparse` snapshots whose journal was not replayed
//! (nothing public says what is in it), vSAN objects, compressed grains without markers, and an
//! extent file opened without its descriptor. Changed in place are the hosted sparse and the flat
//! kinds only.

mod audit;
mod check;
mod codec;
mod cowd;
mod create;
mod descriptor;
mod edit;
mod entries;
mod flat_target;
mod header;
mod layer;
mod lines;
mod members;
mod open;
mod se_sparse;
mod sparse;
mod sparse_edit;
mod sparse_file;
mod sparse_target;
mod stream_target;
mod text;

pub(crate) use check::{check, repair};
pub(crate) use create::create;
pub(crate) use edit::edit;
pub(crate) use open::open;

use std::num::NonZeroU64;

use rehost_block::{Error, Result};

/// The unit of all counts in VMDK structures, in bytes.
const SECTOR: u64 = 512;

/// Where VMware cuts a disk into extents "of at most 2 GB": 4,192,256 sectors, 2047 MiB.
const SPLIT: NonZeroU64 = NonZeroU64::new(4_192_256 * SECTOR).unwrap();

/// A disk's name without its suffix, from which VMware makes the names of its extents.
fn stem(name: &str) -> &str {
    name.strip_suffix(".vmdk").unwrap_or(name)
}

/// The file name of extent `nth` (from 0) of the disk called `name`, as VMware makes it: `kind` is
/// `s` for sparse ones and `f` for flat ones.
fn extent_name(name: &str, kind: char, nth: usize) -> String {
    format!("{}-{kind}{:03}.vmdk", stem(name), nth.saturating_add(1))
}

/// A buffer's length as a byte count. Lossless: `usize` is at most 64 bits wide on every target
/// this program builds for.
fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A byte count as a buffer's length.
fn length(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}
