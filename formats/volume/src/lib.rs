//! Partition tables, RAID arrays and volume groups: disks become volumes, and each volume is a disk again.
//!
//! [`scan`] reads a DOS table with its extended chain, or a GPT (primary or backup), or says that
//! the whole disk is one volume. [`Layout::open`] and [`Layout::open_mut`] give a volume as a disk.
//! [`lvm`] puts volume groups together and [`md`] arrays, from any number of disks;
//! [`stack::Stack`] finds all of that at once, and LUKS volumes, and is what tools print.
//!
//! Left out on purpose: BSD disklabels, the tables of Solaris, Sun, SGI, AIX, Apple and Amiga, and
//! dynamic disks of Windows (named; the partitions or the whole disk around them stay usable), and
//! writing of tables.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod backing;
mod guid;
mod layout;
pub mod lvm;
mod mapped;
mod mbr;
pub mod md;
mod scan;
mod signs;
pub mod stack;

pub use backing::Backing;
pub use layout::{Layout, Table, Volume};
pub use scan::scan;
