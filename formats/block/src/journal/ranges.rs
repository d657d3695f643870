//! Which ranges of a file are in the journal already.

use std::collections::BTreeMap;
use std::ops::Range;

/// The parts of `range` that are in none of `saved`.
pub(super) fn gaps(saved: &BTreeMap<u64, u64>, range: Range<u64>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut at = range.start;
    let before = saved.range(..=at).next_back();
    let within = saved.range(at.saturating_add(1)..);
    for (&start, &end) in before.into_iter().chain(within) {
        if start >= range.end {
            break;
        }
        if start > at {
            gaps.push(at..start);
        }
        at = at.max(end);
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    gaps
}

/// Adds `range`, merging what touches it.
pub(super) fn insert(saved: &mut BTreeMap<u64, u64>, range: Range<u64>) {
    let Range { mut start, mut end } = range;
    if start >= end {
        return;
    }
    // Ends because every round takes one entry away.
    while let Some((&from, &to)) = saved.range(..=end).next_back() {
        if to < start {
            break;
        }
        saved.remove(&from);
        start = start.min(from);
        end = end.max(to);
    }
    saved.insert(start, end);
}
