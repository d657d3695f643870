//! The headers and table entries of a space-efficient sparse extent (`seSparse`): snapshots of ESXi
//! 6.5 and later.
//!
//! VMware has published no document. The facts here are those that Sam Eiderman found and wrote to
//! the qemu-devel list with QEMU's read-only support (2019, "vmdk: Add read-only support for
//! seSparse snapshots"), which held against guests of several systems, and the extents that ESXi
//! prints into `hostd.log`. A constant header says where everything is, a volatile one whether the
//! journal must be replayed; directory and tables hold 64-bit indexes.
//!
//! Leaves out on purpose, refused by name: an extent whose journal is not replayed (nothing public
//! says what is in a journal), and any flag or reserved field that is set. Free bitmap and back map
//! serve writers; they are not read.

use std::num::NonZeroU64;

use rehost_block::{Error, Fields, Result, Storage};

use super::SECTOR;
use super::header::{Entries, Grains, Header, MAX_GD_ENTRIES};

/// `constMagic`.
pub(super) const MAGIC: u64 = 0xcafe_babe;

/// `volatileMagic`.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;

/// The names errors use.
const CONSTANT: &str = "seSparse constant header";
const VOLATILE: &str = "seSparse volatile header";

/// Length of each header in bytes.
const HEADER_LEN: usize = 512;

/// Version 2.1, the only one that was seen.
const VERSION: u64 = 0x2_0000_0001;

/// The only grain and grain table sizes that were seen, in sectors.
const GRAIN_SECTORS: u64 = 8;
const TABLE_SECTORS: u64 = 64;

/// Bytes per grain, and entries per table.
const GRAIN: NonZeroU64 = NonZeroU64::new(GRAIN_SECTORS * SECTOR).unwrap();
const GTES_PER_GT: NonZeroU64 = NonZeroU64::new(TABLE_SECTORS * SECTOR / 8).unwrap();

/// Upper half of a directory entry that names a table; the lower half is its number.
const ALLOCATED_TABLE: u64 = 0x1000_0000;

/// Reads both headers of `storage`.
///
/// # Errors
/// Corrupt or Unsupported, with the offending field's offset.
pub(super) fn header(storage: &dyn Storage) -> Result<Header> {
    let size = storage.size();
    let mut bytes = [0; HEADER_LEN];
    storage.read_at(&mut bytes, 0)?;
    let fields = Fields::new(&bytes, CONSTANT, 0);
    for (at, name, known) in [
        (8, "version", VERSION),
        (24, "grain size", GRAIN_SECTORS),
        (32, "grain table size", TABLE_SECTORS),
        (40, "flags", 0),
        (48, "reserved field", 0),
        (56, "reserved field", 0),
        (64, "reserved field", 0),
        (72, "reserved field", 0),
    ] {
        let found = fields.u64_le(at)?;
        if found != known {
            return Err(fields
                .unsupported(at, format!("{name} is not known"))
                .mismatch(format!("{known:#x}"), format!("{found:#x}")));
        }
    }
    let sectors = |at: usize| -> Result<u64> {
        let sectors = fields.u64_le(at)?;
        sectors.checked_mul(SECTOR).ok_or_else(|| {
            fields
                .corrupt(at, "offset or size is past any file's end")
                .mismatch("fewer than 2^55 sectors", sectors)
        })
    };
    check_journal(storage, sectors(80)?)?;
    let capacity = sectors(16)?;
    let gd_entries = capacity.div_ceil(GRAIN.get().saturating_mul(GTES_PER_GT.get()));
    if capacity == 0 || gd_entries > MAX_GD_ENTRIES {
        return Err(fields.corrupt(16, "capacity is out of range").mismatch(
            format!("at most {MAX_GD_ENTRIES} grain directory entries"),
            gd_entries,
        ));
    }
    let (gd, gd_len) = (sectors(128)?, sectors(136)?);
    let needed = gd_entries.saturating_mul(8);
    if gd_len < needed {
        return Err(fields
            .corrupt(136, "grain directory is too short for the capacity")
            .mismatch(format!("at least {needed} bytes"), gd_len));
    }
    let end = gd.saturating_add(needed);
    if gd < SECTOR || end > size {
        return Err(fields
            .corrupt(
                128,
                "grain directory lies outside the file or over the header",
            )
            .mismatch(format!("512 to {size}"), format!("{gd} to {end}"))
            .hint("the file is truncated or damaged: copy it again from its origin"));
    }
    Ok(Header {
        capacity,
        grain: GRAIN,
        gtes_per_gt: GTES_PER_GT,
        gd: Some(gd),
        gd_entries,
        rgd: None,
        unclean: false,
        descriptor: None,
        grains: Grains::Plain,
        zeroed_grains: false,
        entries: Entries::Indexes {
            tables: sectors(144)?,
            grains: sectors(192)?,
        },
    })
}

/// Refuses an extent whose tables may not be what the journal says.
fn check_journal(storage: &dyn Storage, at: u64) -> Result<()> {
    let mut bytes = [0; HEADER_LEN];
    storage
        .read_at(&mut bytes, at)
        .map_err(|error| error.in_structure(VOLATILE))?;
    let fields = Fields::new(&bytes, VOLATILE, at);
    let magic = fields.u64_le(0)?;
    if magic != VOLATILE_MAGIC {
        return Err(fields
            .corrupt(0, "signature is wrong")
            .mismatch(format!("{VOLATILE_MAGIC:#x}"), format!("{magic:#x}")));
    }
    match fields.u64_le(24)? {
        0 => Ok(()),
        _ => Err(fields
            .unsupported(
                24,
                "the journal of this seSparse snapshot has not been replayed, \
                 and its format is not public",
            )
            .hint("open and close the disk once on an ESXi host, or consolidate it there")),
    }
}

/// The number of the table that directory entry `entry` names, counted from 1; 0 where there is
/// none.
///
/// # Errors
/// Corrupt for an entry that is neither.
pub(super) fn table(entry: u64) -> Result<u32> {
    if entry == 0 {
        return Ok(0);
    }
    let number = u32::try_from(entry & 0xffff_ffff).ok();
    number
        .filter(|_| entry >> 32 == ALLOCATED_TABLE)
        .and_then(|number| number.checked_add(1))
        .ok_or_else(|| {
            Error::corrupt("entry is not known")
                .in_structure("grain directory")
                .mismatch("0 or 0x10000000 and a number", format!("{entry:#018x}"))
        })
}

/// What a table entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing: the parent's business.
    Absent,
    /// Zeroes, because the guest wrote or unmapped them.
    Zero,
    /// The grain of this number.
    Stored(u64),
}

/// What table entry `entry` says; `None` for one that is not known. The number's low 12 bits are the
/// entry's bits 48 to 59, its others are bits 0 to 47.
pub(super) const fn grain(entry: u64) -> Option<Entry> {
    let low = (entry >> 48) & 0xfff;
    let high = entry & 0xffff_ffff_ffff;
    match (entry >> 60, entry) {
        (0, 0) => Some(Entry::Absent),
        // Unmapped (1) and written with zeroes (2).
        (1 | 2, _) => Some(Entry::Zero),
        (3, _) => Some(Entry::Stored((high << 12) | low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart_by_their_upper_bits() {
        assert_eq!(table(0).unwrap(), 0);
        assert_eq!(table(0x1000_0000_0000_0005).unwrap(), 6);
        assert!(table(5).is_err());
        assert!(table(0x1000_0001_0000_0005).is_err());
        assert_eq!(grain(0), Some(Entry::Absent));
        assert_eq!(grain(1), None);
        assert_eq!(grain(0x1000_0000_0000_0000), Some(Entry::Zero));
        assert_eq!(grain(0x2000_0000_0000_0007), Some(Entry::Zero));
        assert_eq!(grain(0x3002_0000_0000_0000), Some(Entry::Stored(2)));
        assert_eq!(grain(0x3fff_0000_0000_0001), Some(Entry::Stored(0x1fff)));
        assert_eq!(grain(0x4000_0000_0000_0000), None);
    }
}
