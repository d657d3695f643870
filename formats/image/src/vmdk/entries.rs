//! What the entries of directories and tables say, in each of the two ways in which they are
//! written.

use rehost_block::{Error, Result};

use super::header::{Entries, Header};
use super::{SECTOR, se_sparse};

/// What a grain table says of one grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Nothing is stored: the parent's business.
    Absent,
    /// Zeroes, whatever the parent has.
    Zero,
    /// Stored at this byte of the file.
    Stored(u64),
}

/// Directory or table entries from their bytes.
pub(super) fn parse(kind: Entries, bytes: &[u8]) -> Box<dyn Iterator<Item = u64> + '_> {
    match kind {
        Entries::Sectors => {
            let (words, _) = bytes.as_chunks::<4>();
            Box::new(words.iter().map(|word| u32::from_le_bytes(*word).into()))
        }
        Entries::Indexes { .. } => {
            let (words, _) = bytes.as_chunks::<8>();
            Box::new(words.iter().map(|word| u64::from_le_bytes(*word)))
        }
    }
}

/// A directory entry in 32 bits: the sector of a table, or its number counted from 1; 0 where there
/// is none.
///
/// # Errors
/// Corrupt for an entry that is neither.
pub(super) fn table(kind: Entries, entry: u64) -> Result<u32> {
    match kind {
        Entries::Sectors => {
            u32::try_from(entry).map_err(|_| Error::internal("an entry of more than 32 bits"))
        }
        Entries::Indexes { .. } => se_sparse::table(entry),
    }
}

/// Where the table that [`table`] gave begins, in bytes; `None` where there is none.
pub(super) fn table_at(header: &Header, table: u32) -> Option<u64> {
    let number = u64::from(table);
    let before = number.checked_sub(1)?;
    Some(match header.entries {
        Entries::Sectors => number.saturating_mul(SECTOR),
        Entries::Indexes { tables, .. } => before
            .saturating_mul(header.gt_len())
            .saturating_add(tables),
    })
}

/// What table entry `entry` says; `None` for one that is not known.
pub(super) fn grain(header: &Header, entry: u64) -> Option<Grain> {
    Some(match header.entries {
        Entries::Sectors => match entry {
            0 => Grain::Absent,
            1 if header.zeroed_grains => Grain::Zero,
            sector => Grain::Stored(sector.saturating_mul(SECTOR)),
        },
        Entries::Indexes { grains, .. } => match se_sparse::grain(entry)? {
            se_sparse::Entry::Absent => Grain::Absent,
            se_sparse::Entry::Zero => Grain::Zero,
            se_sparse::Entry::Stored(number) => {
                let at = number.saturating_mul(header.grain.get());
                Grain::Stored(grains.saturating_add(at))
            }
        },
    })
}
