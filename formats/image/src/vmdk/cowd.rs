//! The header of an ESX Server sparse extent (`COWD`): snapshots on VMFS before seSparse.
//!
//! VMware "Virtual Disk Format 5.0", "ESX Server Sparse Extents" (`COWDisk_Header`), and libyal's
//! "VMware Virtual Disk (VMDK) format specification", "The COWD sparse extent data file". The tables
//! are those of a hosted sparse extent, with 4096 entries each.
//!
//! Leaves out on purpose: the parent's name and generation in the header, which newer hosts leave
//! empty (the descriptor names the parent), and the flag of an unclean shutdown, which changes
//! nothing for a reader.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage};

use super::SECTOR;
use super::header::{Entries, Grains, Header, MAX_GD_ENTRIES, MAX_GRAIN};

/// The first four bytes.
pub(super) const MAGIC: &[u8; 4] = b"COWD";

/// The name errors use.
const STRUCTURE: &str = "COWD header";

/// Length of the fields that are read, in bytes.
const HEADER_LEN: usize = 32;

/// Entries of a grain table. The specification's: always 4096.
const GTES_PER_GT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// Reads the header of `storage`.
///
/// # Errors
/// Corrupt or Unsupported, with the offending field's offset.
pub(super) fn header(storage: &dyn Storage) -> Result<Header> {
    let size = storage.size();
    let mut bytes = [0; HEADER_LEN];
    storage.read_at(&mut bytes, 0)?;
    let fields = Fields::new(&bytes, STRUCTURE, 0);
    let version = fields.u32_le(4)?;
    if version != 1 {
        return Err(fields
            .unsupported(4, "version is not known")
            .mismatch(1, version));
    }
    let sectors = |at: usize| Ok(u64::from(fields.u32_le(at)?).saturating_mul(SECTOR));
    let capacity = sectors(12)?;
    let grain = sectors(16)?;
    let grain = NonZeroU64::new(grain)
        .filter(|bytes| bytes.is_power_of_two() && bytes.get() / SECTOR <= MAX_GRAIN)
        .ok_or_else(|| {
            fields
                .corrupt(16, "grain size is out of range")
                .mismatch("a power of two from 1 to 2097152 sectors", grain / SECTOR)
        })?;
    let gd = sectors(20)?;
    let stored = u64::from(fields.u32_le(24)?);
    let gd_entries = capacity.div_ceil(grain.get().saturating_mul(GTES_PER_GT.get()));
    if capacity == 0 || gd_entries > MAX_GD_ENTRIES {
        return Err(fields.corrupt(12, "capacity is out of range").mismatch(
            format!("at most {MAX_GD_ENTRIES} grain directory entries"),
            gd_entries,
        ));
    }
    if stored < gd_entries {
        return Err(fields
            .corrupt(24, "grain directory is too short for the capacity")
            .mismatch(format!("at least {gd_entries} entries"), stored));
    }
    let end = gd.saturating_add(gd_entries.saturating_mul(4));
    if gd < SECTOR || end > size {
        return Err(fields
            .corrupt(
                20,
                "grain directory lies outside the file or over the header",
            )
            .mismatch(format!("512 to {size}"), format!("{gd} to {end}"))
            .hint("the file is truncated or damaged: copy it again from its origin"));
    }
    Ok(Header {
        capacity,
        grain,
        gtes_per_gt: GTES_PER_GT,
        gd: Some(gd),
        gd_entries,
        rgd: None,
        unclean: false,
        descriptor: None,
        grains: Grains::Plain,
        zeroed_grains: false,
        entries: Entries::Sectors,
    })
}
