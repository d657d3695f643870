//! Room in a directory for a new name, and writing slots to where they are.

use std::collections::BTreeSet;

use rehost_block::{DiskMut, Error, Kind, Result};

use super::super::dir::{Listing, MOST_BYTES, Place};
use super::super::entry::{DELETED, LABEL, LEN, LONG};
use crate::number::wide;

/// Where a new name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Its first slot.
    pub(super) start: usize,
    /// Clusters that the directory must get for it.
    pub(super) more: u64,
    /// A slot behind it that must be made the end of the directory first.
    pub(super) end: Option<usize>,
}

/// Finds `need` slots in a row.
pub(super) fn room(listing: &Listing, place: Place, need: usize, cluster: u64) -> Result<Room> {
    let count = listing.slots.len();
    let used = listing
        .slots
        .iter()
        .position(|raw| raw.starts_with(&[0]))
        .unwrap_or(count);
    let mut start = 0usize;
    for (slot, raw) in listing.slots.iter().enumerate().take(used) {
        if !raw.starts_with(&[DELETED]) {
            start = slot.saturating_add(1);
        } else if slot.saturating_sub(start).saturating_add(1) >= need {
            return Ok(Room {
                start,
                more: 0,
                end: None,
            });
        }
    }
    let after = start.saturating_add(need);
    if after <= count {
        // What lies behind the end of a directory need not be zero.
        let dirty = listing
            .slots
            .get(after)
            .is_some_and(|raw| !raw.starts_with(&[0]));
        let end = (dirty && after > used).then_some(after);
        return Ok(Room {
            start,
            more: 0,
            end,
        });
    }
    let bytes = wide(after).saturating_mul(wide(LEN));
    let have = wide(count).saturating_mul(wide(LEN));
    if place == Place::Fixed {
        return Err(Error::new(Kind::Io, "top directory is full")
            .hint("the top directory of FAT12 and FAT16 cannot grow; use a directory in it"));
    }
    let more = bytes.saturating_sub(have).div_ceil(cluster);
    if more.saturating_mul(cluster).saturating_add(have) > MOST_BYTES {
        return Err(Error::new(Kind::Io, "directory is full"));
    }
    Ok(Room {
        start,
        more,
        end: None,
    })
}

/// The short names of a directory.
pub(super) fn short_names(listing: &Listing) -> BTreeSet<[u8; 11]> {
    let used = listing
        .slots
        .iter()
        .take_while(|raw| !raw.starts_with(&[0]));
    used.filter(|raw| {
        let attributes = raw.get(11).copied().unwrap_or(0);
        !raw.starts_with(&[DELETED]) && attributes & 0x3f != LONG && attributes & LABEL == 0
    })
    .filter_map(|raw| raw.first_chunk().copied())
    .collect()
}

/// In which order the parts of a row of slots are written, when it lies in several places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The short entry last: it makes a name valid.
    Forward,
    /// The short entry first: without it a name is gone.
    Backward,
}

/// Writes `slots` from slot `start` on.
pub(super) fn write(
    disk: &dyn DiskMut,
    listing: &Listing,
    start: usize,
    slots: &[[u8; LEN]],
    order: Order,
) -> Result<()> {
    let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
    for (slot, raw) in (start..).zip(slots) {
        let at = listing
            .place(slot)
            .ok_or_else(|| Error::internal("a slot is outside its directory"))?;
        match parts.last_mut() {
            Some((from, bytes)) if from.saturating_add(wide(bytes.len())) == at => {
                bytes.extend_from_slice(raw);
            }
            _ => parts.push((at, raw.to_vec())),
        }
    }
    if order == Order::Backward {
        parts.reverse();
    }
    parts
        .iter()
        .try_for_each(|(at, bytes)| disk.write_at(bytes, *at))
}
