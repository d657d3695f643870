//! Linux software RAID (MD): members on several disks become arrays.
//!
//! [`Member::read`] reads a superblock (0.90, 1.0, 1.1, 1.2), [`assemble`] puts arrays together:
//! linear, RAID 0, 1, 4, 5, 6 and 10, degraded as far as their redundancy reaches.
//!
//! Left out on purpose, and refused by name: arrays in the middle of a reshape, arrays with a
//! write journal, DDF and IMSM containers, a degraded RAID 4, 5 or 6 that was not in sync,
//! multipath. Members that are being rebuilt or have bad blocks are not read. Write-intent bitmaps
//! and partial parity logs matter to a resync only.
//!
//! An array that is complete and in sync can be written: every copy, and the parity with the data.
//! Superblocks are not: with all members written alike there is nothing to note in them. A write
//! that fails half way leaves a stripe whose parity does not fit, as it does under Linux without a
//! journal.

mod array;
mod build;
mod galois;
mod parity;
mod rewrite;
mod superblock;
mod ten;

pub use array::{Array, Member, assemble};
