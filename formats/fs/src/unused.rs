//! The byte ranges that a filesystem does not use: what a copy of its disk may leave out.
//!
//! Only where the filesystem itself vouches for them: it is clean, its log or journal holds nothing,
//! its checksums and counts of free blocks are right. Otherwise that is an error, and nothing may be
//! left out.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use crate::detect;

/// The bytes of `disk` that the filesystem on it does not use: ranges in order, apart from each other.
/// Reading them as zeroes changes nothing of what the filesystem holds.
///
/// # Errors
/// Unsupported, by name, for filesystems whose free space is not known here, and for those that were
/// not unmounted cleanly; Corrupt when one contradicts itself; Usage when there is none.
pub fn unused(disk: &Arc<dyn Disk>) -> Result<Vec<Range<u64>>> {
    let kind = detect(disk)?.ok_or_else(|| Error::usage("holds no known filesystem"))?;
    let disk = Arc::clone(disk);
    match kind.name {
        "ext2" | "ext3" | "ext4" => crate::ext4::unused::unused(disk),
        "vfat" => crate::fat::unused::unused(disk),
        "btrfs" => crate::btrfs::unused::unused(disk),
        "xfs" => crate::xfs::unused::unused(disk),
        other => Err(Error::unsupported(format!(
            "what {other} does not use is not known here"
        ))),
    }
}

/// Adds a range behind the last one, or makes that longer.
pub(crate) fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ if range.is_empty() => {}
        _ => ranges.push(range),
    }
}

/// `ranges`, which are in order, without any part of `kept`.
pub(crate) fn subtract(ranges: Vec<Range<u64>>, mut kept: Vec<Range<u64>>) -> Vec<Range<u64>> {
    kept.sort_by_key(|range| range.start);
    let mut found = Vec::with_capacity(ranges.len());
    let mut kept = kept.into_iter().peekable();
    for range in ranges {
        let mut at = range.start;
        // Ends because every round takes a range off `kept`, or leaves.
        while let Some(next) = kept.peek().filter(|next| next.start < range.end) {
            push(&mut found, at..next.start.max(at));
            at = at.max(next.end);
            if next.end > range.end {
                break;
            }
            kept.next();
        }
        push(&mut found, at.min(range.end)..range.end);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut found = Vec::new();
        for range in [0..2, 2..3, 3..3, 5..6] {
            push(&mut found, range);
        }
        assert_eq!(found, [0..3, 5..6]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_in_no_range(
            lens in prop::collection::vec((1..9u64, 1..9u64), 0..20),
            kept in prop::collection::vec((0..200u64, 0..30u64), 0..20),
        ) {
            let mut ranges = Vec::new();
            let mut at = 0;
            for (gap, len) in lens {
                ranges.push(at + gap..at + gap + len);
                at += gap + len;
            }
            let kept: Vec<_> = kept.into_iter().map(|(at, len)| at..at + len).collect();
            let found = subtract(ranges.clone(), kept.clone());
            for unit in 0..400u64 {
                let wanted = ranges.iter().any(|range| range.contains(&unit))
                    && !kept.iter().any(|range| range.contains(&unit));
                prop_assert_eq!(found.iter().any(|range| range.contains(&unit)), wanted);
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
