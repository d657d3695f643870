//! What is checked of the active layer alone: its copied flags, its place in a data file, and how
//! scattered it is.

use std::collections::HashSet;
use std::sync::Arc;

use rehost_block::{Result, Storage};

use crate::check::{Check, Repair};

use super::super::entry::{COPIED, OFFSET_MASK, amount};
use super::entries::{Held, examine_l2, wrong};
use super::scan::Scan;
use super::tally::{Place, Tally};

/// Checks the copied flags of what `tally` counted; in the first window everything else, too.
pub(super) fn check(
    scan: &Scan<'_>,
    tally: &Tally,
    data: Option<&Arc<dyn Storage>>,
    check: &mut Check,
) -> Result<()> {
    let header = scan.header;
    let mut seen = HashSet::new();
    for (at, entry) in scan.active.iter().enumerate() {
        let l2 = entry & OFFSET_MASK;
        if l2 == 0 || !header.geometry.is_aligned(l2) {
            continue;
        }
        let place = Place {
            structure: "L1 table",
            offset: header
                .l1_offset
                .saturating_add(amount(at).saturating_mul(8)),
        };
        if let Some(text) = copied(tally, header.geometry.cluster_of(l2), *entry) {
            check.find(wrong(place, Repair::Safe, text));
        }
        // A table that is reached twice is gone through once, so that a hostile L1 table cannot
        // make that forever.
        if seen.insert(l2) {
            let first = amount(at).saturating_mul(header.geometry.l2_span());
            check_l2(scan, tally, data, (l2, first), check)?;
        }
    }
    Ok(())
}

/// What is wrong with the copied flag of an entry that refers to `cluster`.
fn copied(tally: &Tally, cluster: u64, entry: u64) -> Option<&'static str> {
    if !tally.holds(cluster) {
        return None;
    }
    match (tally.count(cluster) == 1, entry & COPIED != 0) {
        (true, false) => Some("copied flag is missing: nothing else refers to the cluster"),
        (false, true) => Some("copied flag is set, but others refer to the cluster, too"),
        _ => None,
    }
}

fn check_l2(
    scan: &Scan<'_>,
    tally: &Tally,
    data: Option<&Arc<dyn Storage>>,
    (l2, first): (u64, u64),
    check: &mut Check,
) -> Result<()> {
    let header = scan.header;
    let cluster = header.geometry.cluster_size();
    let statistics = tally.clusters().start == 0;
    let mut next = None;
    for (at, raw) in scan.l2(l2)?.into_iter().enumerate() {
        let place = scan.l2_place(l2, at);
        let held = examine_l2(&scan.rules, raw, place, &mut |_| {});
        if let Held::Plain { host } = held
            && !header.has_data_file
            && let Some(text) = copied(tally, header.geometry.cluster_of(host), raw.descriptor)
        {
            check.find(wrong(place, Repair::Safe, text));
        }
        if !statistics {
            continue;
        }
        match held {
            Held::Nothing => {}
            Held::Packed { .. } => {
                check.allocated_units = check.allocated_units.saturating_add(1);
                check.compressed_units = check.compressed_units.saturating_add(1);
                // As qemu-img counts: what shares sectors with others never follows on.
                check.fragmented_units = check.fragmented_units.saturating_add(1);
            }
            Held::Plain { host } => {
                check.allocated_units = check.allocated_units.saturating_add(1);
                if next.is_some_and(|next| next != host) {
                    check.fragmented_units = check.fragmented_units.saturating_add(1);
                }
                next = Some(host.saturating_add(cluster));
                let guest = first.saturating_add(amount(at).saturating_mul(cluster));
                if let Some(data) = data {
                    in_data_file(scan, &**data, (guest, host), place, check);
                }
            }
        }
    }
    Ok(())
}

fn in_data_file(
    scan: &Scan<'_>,
    data: &dyn Storage,
    (guest, host): (u64, u64),
    place: Place,
    check: &mut Check,
) {
    let header = scan.header;
    if header.data_file_raw && host != guest {
        let text = format!("guest byte {guest} is at {host} of a data file that is to be raw");
        check.find(wrong(place, Repair::No, text));
    }
    let len = header
        .geometry
        .cluster_size()
        .min(header.size.saturating_sub(guest));
    if host.saturating_add(len) > data.size() {
        let text = format!("cluster at {host} lies past the end of the data file");
        check.find(wrong(place, Repair::No, text));
    }
}
