//! `check` and `repair` of qcow2 images: everything that leads to a cluster, counted and compared
//! with what the refcounts say.
//!
//! QEMU `docs/interop/qcow2.txt`; the counts told are those of `qemu-img check`. Each L2 table is
//! read once however many snapshots share it, memory is bounded (see [`tally`] and [`scan`]).
//!
//! Left out on purpose: whether compressed clusters decode (reading them tells), and what lies in
//! an encrypted image's LUKS header.

mod active;
mod entries;
mod mend;
mod scan;
mod stored;
mod tally;

use std::sync::Arc;

use rehost_block::{Result, Storage, StorageMut};

use super::header::Header;
use crate::Format;
use crate::check::{Check, Finding, Repair, Severity};
use entries::wrong;
use scan::Scan;
use stored::Stored;
use tally::{Place, Tally, WINDOW};

pub(super) use mend::repair;

/// Checks the image in `storage`, whose plain clusters are in `data` if that is another file.
pub(super) fn check(storage: &dyn Storage, data: Option<&Arc<dyn Storage>>) -> Result<Check> {
    let header = Header::read_any(storage)?;
    let mut check = Check::new(Format::Qcow2);
    check.total_units = header.size.div_ceil(header.geometry.unit().get());
    let bit = |structure, offset| Place { structure, offset };
    if header.corrupt {
        let text = "a writer found the image damaged and set its corrupt bit";
        check.find(wrong(bit("header", 72), Repair::Safe, text));
    }
    let scan = Scan::new(storage, &header, &mut check)?;
    let stored = Stored::read(&header, storage, &mut check)?;
    let mut used = 0;
    for first in windows(&scan) {
        let mut tally = Tally::new(header.geometry, first, scan.file_size);
        scan.count(&mut tally, &mut check)?;
        stored.count(&header, &mut tally, &mut check);
        used = compare(&scan, &stored, &tally, &mut check)?.max(used);
        active::check(&scan, &tally, data, &mut check)?;
    }
    check.image_end = header.geometry.offset_of(used);
    Ok(check)
}

/// The first clusters of all windows of the file.
fn windows(scan: &Scan<'_>) -> impl Iterator<Item = u64> {
    let clusters = scan
        .file_size
        .div_ceil(scan.header.geometry.unit().get())
        .max(1);
    (0..clusters).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX))
}

/// Compares counts with what is stored; gives one past the last cluster that is in use.
fn compare(scan: &Scan<'_>, stored: &Stored, tally: &Tally, check: &mut Check) -> Result<u64> {
    let header = scan.header;
    let mut used = 0;
    let mut at = None;
    let mut bytes = Vec::new();
    for cluster in tally.clusters() {
        let block = stored.block_of(cluster);
        if at != Some(block) {
            bytes = stored.block(header, scan.storage, block)?;
            at = Some(block);
        }
        let index = cluster.checked_rem(stored.per_block).unwrap_or(0);
        let states = stored.width.get(&bytes, index);
        let has = tally.count(cluster);
        if states > 0 || has > 0 {
            used = cluster.saturating_add(1);
        }
        let offset = header.geometry.offset_of(cluster);
        if let Some(text) = tally.overlap(cluster) {
            check.find(Finding {
                severity: Severity::Corruption,
                structure: "cluster",
                offset,
                text,
                repair: Repair::No,
            });
        }
        if states != has {
            let (severity, verb) = if states > has {
                (Severity::Leak, "leaked")
            } else {
                (Severity::Corruption, "too low")
            };
            let repair = if has > stored.width.most() {
                Repair::No
            } else {
                Repair::Safe
            };
            check.find(Finding {
                severity,
                structure: "refcount block",
                offset,
                text: format!(
                    "refcount of cluster {cluster} is {verb}: {states}, {has} references"
                ),
                repair,
            });
        }
    }
    Ok(used)
}

/// Checks, mends if `dirty` says that refcounts may be stale, and gives the header to edit by.
pub(super) fn prepare(storage: &Arc<dyn StorageMut>) -> Result<Check> {
    let header = Header::read(&**storage)?;
    if header.dirty {
        return repair(storage, None);
    }
    check(&**storage, None)
}
