//! Linux software RAID (MD): members on several disks become arrays.
//!
//! [`Member::read`] reads a superblock (0.90, 1.0, 1.1, 1.2), [`assemble`] puts arrays together:
//! linear, RAID 0, 1, 4, 5, 6 and 10, degraded as far as their redundancy reaches.
//!
//! Left out on purpose, and refused by name: arrays in the middle of a reshape, arrays with a
//! write journal, DDF and IMSM containers, a degraded RAID 4, 5 or 6 that was not in sync,
//! multipath. Members that are being rebuilt or have bad blocks are not read. Write-intent bitmaps
//! and partial parity logs matter to a resync only. Nothing is written.

mod array;
mod build;
mod galois;
mod parity;
mod superblock;
mod ten;

pub use array::{Array, Member, assemble};
