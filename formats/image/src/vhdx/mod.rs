//! VHDX, Hyper-V's virtual disk: headers, a log, and regions for metadata and block allocation.
//!
//! Microsoft \[MS-VHDX\] "Virtual Hard Disk v2 (VHDX) File Format". Reads fixed, dynamic and
//! differencing disks with sectors of 512 and 4096 bytes; changes that only the log holds are
//! replayed in memory (§2.3). Writes all of them.
//!
//! Leaves out on purpose, refused by name: regions and metadata items that are required and unknown
//! (shared disks and VHD sets among them), log versions other than 0, parents of another format.
//! Which blocks share a place in the file is a check and not a read.

mod check;
mod edit;
mod header;
mod items;
mod layer;
mod layout;
mod locator;
mod log;
mod metadata;
mod open;
mod pages;
mod patched;
mod region;
mod repair;
mod target;

pub(crate) use check::check;
pub(crate) use edit::edit;
pub(crate) use open::open;
pub(crate) use repair::repair;
pub(crate) use target::create;

use std::ops::Range;

use rehost_block::{Error, Result};

/// The unit in which headers and region tables are placed, in bytes (§2.2).
const KIB64: u64 = 1 << 16;

/// The unit in which regions and blocks are placed, in bytes.
const MIB: u64 = 1 << 20;

/// The largest virtual disk, in bytes (§2.6.2.2).
const MAX_SIZE: u64 = 64 << 40;

/// Sectors whose presence one sector bitmap block holds, and so the sectors of a chunk (§2.5).
const CHUNK_SECTORS: u64 = 1 << 23;

/// A stretch of the file that a structure fills, and the structure's name.
#[derive(Debug, Clone)]
struct Taken {
    what: &'static str,
    range: Range<u64>,
}

impl Taken {
    fn new(what: &'static str, start: u64, len: u64) -> Self {
        Self {
            what,
            range: start..start.saturating_add(len),
        }
    }

    fn overlaps(&self, other: &Range<u64>) -> bool {
        self.range.start < other.end && other.start < self.range.end
    }
}

/// CRC-32C over `bytes` with the four at 4, where every VHDX structure keeps it, taken as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(4));
    let sum = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default())
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
