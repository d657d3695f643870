//! Entries in the system use area of a directory record, continuation areas included.
//!
//! Source: IEEE P1281 (System Use Sharing Protocol) 1.12, sections 4 and 5.

use rehost_block::{Disk, Error, Fields, Result};

use super::record::Record;
use crate::number::{length, wide};

const STRUCTURE: &str = "system use entry";

/// Continuation areas of one record, at most: Linux's own limit (`RR_MAX_CE_ENTRIES`).
const MOST_AREAS: usize = 32;

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) signature: [u8; 2],
    /// What follows signature, length and version.
    pub(super) payload: Vec<u8>,
    /// Byte offset of the payload on the disk.
    pub(super) at: u64,
}

impl Entry {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.payload, STRUCTURE, self.at)
    }
}

/// The bytes that each system use area begins with that are not entries, as the root's own record
/// says; `None` where it says nothing of entries.
pub(super) fn announced(record: &Record) -> Option<(usize, usize)> {
    // Behind the 14 bytes of CD-ROM XA, if it is not at the start.
    [0usize, 14].into_iter().find_map(|at| {
        let mark = record.system.get(at..at.saturating_add(7))?;
        let &[b'S', b'P', 7, 1, 0xbe, 0xef, skip] = mark else {
            return None;
        };
        Some((at, usize::from(skip)))
    })
}

/// All entries of `record`, whose area has `skip` foreign bytes at its start; blocks have `block`
/// bytes.
pub(super) fn entries(
    disk: &dyn Disk,
    record: &Record,
    skip: usize,
    block: u32,
) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut area = record.system.get(skip..).unwrap_or_default().to_vec();
    let before = record.len.saturating_sub(record.system.len());
    let mut base = record
        .at
        .saturating_add(wide(before))
        .saturating_add(wide(skip));
    // Ends because the number of areas is bounded, and each has at most a block.
    for _ in 0..=MOST_AREAS {
        let Some(next) = one_area(&area, base, &mut found)? else {
            return Ok(found);
        };
        let f = next.fields();
        let (first, offset, len) = (f.u32_le(0)?, f.u32_le(8)?, f.u32_le(16)?);
        let most = u64::from(block.max(2048));
        let end = u64::from(offset).saturating_add(u64::from(len));
        if end > most {
            return Err(f
                .corrupt(8, "continuation area reaches past its block")
                .mismatch(format!("an end of at most {most}"), end));
        }
        base = u64::from(first)
            .saturating_mul(u64::from(block))
            .saturating_add(u64::from(offset));
        if base.saturating_add(u64::from(len)) > disk.size() {
            return Err(f.corrupt(0, "continuation area lies past the end of the disk"));
        }
        area = vec![0; length(u64::from(len))?];
        disk.read_at(&mut area, base)?;
    }
    Err(record.corrupt("continuation areas name each other without end"))
}

/// Takes the entries out of one area; gives that which says where they go on.
fn one_area(area: &[u8], base: u64, found: &mut Vec<Entry>) -> Result<Option<Entry>> {
    let mut next = None;
    let mut rest = area;
    let mut at = base;
    // Ends because every entry takes at least four bytes off `rest`.
    while let Some(&[first, second, len, _]) = rest.first_chunk::<4>() {
        let signature = [first, second];
        // Zeroes pad an area, and `ST` ends it.
        if signature == [0, 0] || &signature == b"ST" {
            break;
        }
        let len = usize::from(len);
        let (true, Some(whole)) = (len >= 4, rest.get(..len)) else {
            return Err(Error::corrupt("impossible length of an entry")
                .in_structure(STRUCTURE)
                .at(at)
                .mismatch(format!("4 to {}", rest.len()), len));
        };
        let entry = Entry {
            signature,
            payload: whole.get(4..).unwrap_or_default().to_vec(),
            at: at.saturating_add(4),
        };
        if &signature == b"CE" {
            next = Some(entry);
        } else {
            found.push(entry);
        }
        rest = rest.get(len..).unwrap_or_default();
        at = at.saturating_add(wide(len));
    }
    Ok(next)
}
