//! What one table entry says, looked at with suspicion; and what it should have said.

use crate::check::{Finding, Repair, Severity};

use super::super::entry::{COMPRESSED, COPIED, OFFSET_MASK, Raw, Rules, ZERO};
use super::tally::Place;

/// Bits 1 to 8 and 56 to 61 of a standard descriptor mean nothing.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bits 0 to 8 and 56 to 62 of an L1 entry mean nothing.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;

/// What an L2 entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// No room in the file.
    Nothing,
    /// A whole cluster.
    Plain { host: u64 },
    /// Some bytes.
    Packed { offset: u64, len: u64 },
}

/// A finding about the entry at `place`.
pub(super) fn wrong(place: Place, repair: Repair, text: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Corruption,
        structure: place.structure,
        offset: place.offset,
        text: text.into(),
        repair,
    }
}

/// The L2 table that an L1 entry leads to.
pub(super) fn examine_l1(
    rules: &Rules,
    entry: u64,
    place: Place,
    find: &mut dyn FnMut(Finding),
) -> Option<u64> {
    if entry & L1_RESERVED != 0 {
        find(wrong(place, Repair::Safe, "reserved bits are set"));
    }
    let offset = entry & OFFSET_MASK;
    if !rules.geometry.is_aligned(offset) {
        let text = format!("L2 table offset {offset} is not at a cluster boundary");
        find(wrong(place, Repair::No, text));
        return None;
    }
    (offset != 0).then_some(offset)
}

/// The same entry without what can safely be mended.
pub(super) const fn mended_l1(entry: u64) -> u64 {
    entry & !L1_RESERVED
}

/// What an L2 entry holds.
pub(super) fn examine_l2(
    rules: &Rules,
    raw: Raw,
    place: Place,
    find: &mut dyn FnMut(Finding),
) -> Held {
    if raw.descriptor == 0 && raw.bitmap == 0 {
        return Held::Nothing;
    }
    let extended = rules.geometry.extended();
    if raw.descriptor & COMPRESSED != 0 {
        if rules.data_file {
            let text = "compressed cluster in an image with a data file";
            find(wrong(place, Repair::No, text));
        }
        if raw.descriptor & COPIED != 0 {
            let text = "copied flag is set on a compressed cluster";
            find(wrong(place, Repair::Safe, text));
        }
        if extended && raw.bitmap != 0 {
            let text = "compressed cluster has subclusters";
            find(wrong(place, Repair::Safe, text));
        }
        let (offset, len) = rules.geometry.packed_extent(raw.descriptor);
        return Held::Packed { offset, len };
    }
    if raw.descriptor & L2_RESERVED != 0 || extended && raw.descriptor & ZERO != 0 {
        find(wrong(place, Repair::Safe, "reserved bits are set"));
    }
    let zero = !extended && raw.descriptor & ZERO != 0;
    if zero && !rules.zero_clusters {
        find(wrong(place, Repair::No, "version 2 has no zero clusters"));
    }
    let host = raw.descriptor & OFFSET_MASK;
    let stored = host != 0 || (rules.data_file && raw.descriptor & COPIED != 0);
    let (allocated, zeroes) = (raw.bitmap & u64::from(u32::MAX), raw.bitmap >> 32);
    if extended && allocated & zeroes != 0 {
        let text = "subclusters are both stored and zero";
        find(wrong(place, Repair::No, text));
    }
    if extended && allocated != 0 && !stored {
        let text = "subclusters are stored in a cluster that is not";
        find(wrong(place, Repair::No, text));
    }
    if !rules.geometry.is_aligned(host) {
        let reads_data = if extended { allocated != 0 } else { !zero };
        // What reads as zeroes needs no place.
        let repair = if reads_data { Repair::No } else { Repair::Safe };
        let text = format!("cluster offset {host} is not at a cluster boundary");
        find(wrong(place, repair, text));
        return Held::Nothing;
    }
    if stored {
        Held::Plain { host }
    } else {
        Held::Nothing
    }
}

/// The same entry without what can safely be mended.
pub(super) fn mended_l2(rules: &Rules, raw: Raw) -> Raw {
    let extended = rules.geometry.extended();
    if raw.descriptor & COMPRESSED != 0 {
        return Raw {
            descriptor: raw.descriptor & !COPIED,
            bitmap: 0,
        };
    }
    let mut descriptor = raw.descriptor & !L2_RESERVED;
    if extended {
        descriptor &= !ZERO;
    }
    let reads_data = if extended {
        raw.bitmap & u64::from(u32::MAX) != 0
    } else {
        descriptor & ZERO == 0
    };
    if !reads_data && !rules.geometry.is_aligned(descriptor & OFFSET_MASK) {
        descriptor &= ZERO;
    }
    Raw {
        descriptor,
        bitmap: raw.bitmap,
    }
}
