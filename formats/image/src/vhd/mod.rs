//! VHD, Microsoft's first virtual hard disk (`vpc` for QEMU): fixed, dynamic and differencing.
//!
//! Microsoft "Virtual Hard Disk Image Format Specification" 1.0 (2006). Reads and writes all three
//! types, with parents found by their locators and checked.
//!
//! Leaves out on purpose: the disk types 0, 1, 5 and 6 (reserved), refused by name; parents that are no VHD (`XenServer` allows raw ones), refused as having no
//! footer; Mac OS 9 aliases (`Mac `) as names of a parent; `XenServer`'s batmap, which repeats what
//! the sector bitmaps say.

mod check;
mod edit;
mod fixed;
mod footer;
mod header;
mod layout;
mod naming;
mod open;
mod parent;
mod repair;
mod sparse;
mod target;

pub(crate) use check::check;
pub(crate) use edit::edit;
pub(crate) use footer::is_fixed;
pub(crate) use open::open;
pub(crate) use repair::repair;
pub(crate) use target::create;

/// The unit of the block allocation table and the bitmaps, in bytes.
const SECTOR: u64 = 512;

/// First bytes of a footer and its copy.
pub(crate) const COOKIE: &[u8; 8] = b"conectix";

/// The complement of the sum of all `bytes` but the four of the sum itself, which are at `at`.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let own = at..at.saturating_add(4);
    let sum = bytes
        .iter()
        .enumerate()
        .filter(|(place, _)| !own.contains(place))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}
