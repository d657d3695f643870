//! `repair`: entries without stray bits, refcounts as they are counted, copied flags to match.
//!
//! Where the refcount table or a block cannot be trusted, all refcounts are written anew behind
//! everything that is in use. What overlaps or leads nowhere stays as it is and is found again.

use std::collections::HashSet;
use std::sync::Arc;

use rehost_block::{Error, Result, Storage, StorageMut};

use crate::Format;
use crate::check::Check;

use super::super::bits::MAX_TABLE_BYTES;
use super::super::edit::write_header;
use super::super::entry::{COPIED, Geometry, OFFSET_MASK, Raw, amount, index};
use super::super::header::{CORRUPT, DIRTY, Header};
use super::super::tables::words;
use super::entries::{Held, examine_l2, mended_l1, mended_l2};
use super::scan::Scan;
use super::stored::{State, Stored};
use super::tally::{Tally, WINDOW};
use super::{check, windows};

/// Mends what can be mended in `storage`, and checks again.
pub(in super::super) fn repair(
    storage: &Arc<dyn StorageMut>,
    data: Option<&Arc<dyn Storage>>,
) -> Result<Check> {
    let mut header = Header::read_any(&**storage)?;
    let found = check(&**storage, data)?;
    if !found.is_clean() {
        mend_entries(&**storage, &header)?;
        mend_refcounts(storage, &mut header)?;
        mend_copied(&**storage, &header)?;
    }
    let stale = header.areas.drop_stale_bitmaps();
    if header.dirty || stale {
        header.areas.incompatible &= !DIRTY;
        write_header(&**storage, &mut header)?;
    }
    let left = check(&**storage, data)?;
    // The bit itself is one finding.
    if !header.corrupt || left.corruptions > 1 {
        return Ok(left);
    }
    header.areas.incompatible &= !CORRUPT;
    write_header(&**storage, &mut header)?;
    check(&**storage, data)
}

/// Clears bits that mean nothing, in every L1 and L2 table.
fn mend_entries(storage: &dyn StorageMut, header: &Header) -> Result<()> {
    let mut unused = Check::new(Format::Qcow2);
    let scan = Scan::new(storage, header, &mut unused)?;
    for l1 in &scan.l1s {
        let table = words(storage, l1.offset, l1.entries)?;
        for (at, entry) in table.into_iter().enumerate() {
            let mended = mended_l1(entry);
            if mended != entry {
                let place = l1.offset.saturating_add(amount(at).saturating_mul(8));
                storage.write_at(&mended.to_be_bytes(), place)?;
            }
        }
    }
    for shared in &scan.l2s {
        for (at, raw) in scan.l2(shared.offset)?.into_iter().enumerate() {
            let mended = mended_l2(&scan.rules, raw);
            if mended != raw {
                write_entry(
                    storage,
                    &scan,
                    scan.l2_place(shared.offset, at).offset,
                    mended,
                )?;
            }
        }
    }
    Ok(())
}

fn write_entry(storage: &dyn StorageMut, scan: &Scan<'_>, place: u64, raw: Raw) -> Result<()> {
    let mut bytes = raw.descriptor.to_be_bytes().to_vec();
    if scan.header.geometry.extended() {
        bytes.extend_from_slice(&raw.bitmap.to_be_bytes());
    }
    storage.write_at(&bytes, place)
}

/// Writes the refcounts as they are counted: in their blocks, or all anew.
fn mend_refcounts(storage: &Arc<dyn StorageMut>, header: &mut Header) -> Result<()> {
    let mut unused = Check::new(Format::Qcow2);
    let scan = Scan::new(&**storage, header, &mut unused)?;
    let stored = Stored::read(header, &**storage, &mut unused)?;
    let mut state = stored.state;
    let mut end = 0;
    for first in windows(&scan) {
        let mut tally = Tally::new(header.geometry, first, scan.file_size);
        scan.count(&mut tally, &mut unused)?;
        end = tally.end();
        stored.count(header, &mut tally, &mut unused);
        let uncovered =
            |cluster: u64| tally.count(cluster) > 0 && stored.block_of(cluster).is_none();
        if stored.overlaps(header, &tally) || tally.clusters().any(uncovered) {
            state = State::Broken;
        }
    }
    match state {
        State::Sound => {
            for first in windows(&scan) {
                let mut tally = Tally::new(header.geometry, first, scan.file_size);
                scan.count(&mut tally, &mut unused)?;
                stored.count(header, &mut tally, &mut unused);
                write_counts(&**storage, &scan, &stored, &tally)?;
            }
            Ok(())
        }
        State::Broken => {
            let (table, clusters) = write_anew(&**storage, &scan, &stored, end)?;
            header.areas.refcount_table = table;
            header.areas.refcount_clusters = clusters;
            write_header(&**storage, header)
        }
    }
}

/// Writes the counts of one window into their blocks, where they differ.
fn write_counts(
    storage: &dyn StorageMut,
    scan: &Scan<'_>,
    stored: &Stored,
    tally: &Tally,
) -> Result<()> {
    let clusters = tally.clusters();
    let mut cluster = clusters.start;
    // Ends because every round goes on by at least one cluster.
    while cluster < clusters.end {
        let in_block = cluster.checked_rem(stored.per_block).unwrap_or(0);
        let next = cluster
            .saturating_add(stored.per_block.saturating_sub(in_block).max(1))
            .min(clusters.end);
        if let Some(offset) = stored.block_of(cluster) {
            let before = stored.block(scan.header, storage, Some(offset))?;
            let mut after = before.clone();
            for at in cluster..next {
                let count = tally.count(at).min(stored.width.most());
                let place = at.checked_rem(stored.per_block).unwrap_or(0);
                stored.width.set(&mut after, place, count);
            }
            if after != before {
                storage.write_at(&after, offset)?;
            }
        }
        cluster = next;
    }
    Ok(())
}

/// Writes a new table and new blocks behind cluster `end`; gives the table's place and clusters.
fn write_anew(
    storage: &dyn StorageMut,
    scan: &Scan<'_>,
    stored: &Stored,
    end: u64,
) -> Result<(u64, u32)> {
    let geometry = &scan.header.geometry;
    let layout = Layout::new(geometry, stored.per_block, end)?;
    let table = geometry.offset_of(end);
    let first_block = end.saturating_add(layout.table);
    let all = first_block.saturating_add(layout.blocks);
    let mut entries = Vec::new();
    for block in first_block..all {
        entries.extend_from_slice(&geometry.offset_of(block).to_be_bytes());
    }
    let whole = layout.table.saturating_mul(geometry.cluster_size());
    entries.resize(index(whole), 0);

    let mut unused = Check::new(Format::Qcow2);
    let mut tally = Tally::new(*geometry, 0, scan.file_size);
    scan.count(&mut tally, &mut unused)?;
    // Everything is counted window by window before the old blocks are written over.
    let mut block = vec![0; index(geometry.cluster_size())];
    for number in 0..layout.blocks {
        block.fill(0);
        let from = number.saturating_mul(stored.per_block);
        for at in 0..stored.per_block {
            let cluster = from.saturating_add(at);
            let window = cluster.checked_div(WINDOW).unwrap_or(0);
            if cluster < end && !tally.holds(cluster) {
                let first = window.saturating_mul(WINDOW);
                tally = Tally::new(*geometry, first, scan.file_size);
                scan.count(&mut tally, &mut unused)?;
            }
            let count = if cluster < end {
                tally.count(cluster).min(stored.width.most())
            } else {
                u64::from(cluster < all)
            };
            stored.width.set(&mut block, at, count);
        }
        storage.write_at(
            &block,
            geometry.offset_of(first_block.saturating_add(number)),
        )?;
    }
    storage.write_at(&entries, table)?;
    let clusters = u32::try_from(layout.table)
        .map_err(|_| Error::internal("a refcount table outgrew its header field"))?;
    Ok((table, clusters))
}

/// Clusters that new refcounts take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    table: u64,
    blocks: u64,
}

impl Layout {
    fn new(geometry: &Geometry, per_block: u64, clusters: u64) -> Result<Self> {
        let mut layout = Self {
            table: 1,
            blocks: 1,
        };
        // Ends because the layout only grows, up to a limit.
        loop {
            let all = clusters
                .saturating_add(layout.table)
                .saturating_add(layout.blocks);
            let blocks = all.div_ceil(per_block.max(1));
            let bytes = blocks.saturating_mul(8);
            let next = Self {
                table: bytes.div_ceil(geometry.unit().get()),
                blocks,
            };
            if bytes > MAX_TABLE_BYTES {
                return Err(Error::unsupported(
                    "refcounts cannot be written anew: the file is too large for its cluster size",
                )
                .in_structure("refcount table"));
            }
            if next == layout {
                return Ok(layout);
            }
            layout = next;
        }
    }
}

/// Makes the active layer's copied flags say what the refcounts do.
fn mend_copied(storage: &dyn StorageMut, header: &Header) -> Result<()> {
    let mut unused = Check::new(Format::Qcow2);
    let scan = Scan::new(storage, header, &mut unused)?;
    let stored = Stored::read(header, storage, &mut unused)?;
    let flagged = |tally: &Tally, cluster: u64, entry: u64| {
        if !tally.holds(cluster) {
            entry
        } else if tally.count(cluster) == 1 {
            entry | COPIED
        } else {
            entry & !COPIED
        }
    };
    for first in windows(&scan) {
        let mut tally = Tally::new(header.geometry, first, scan.file_size);
        scan.count(&mut tally, &mut unused)?;
        stored.count(header, &mut tally, &mut unused);
        let l1 = words(storage, header.l1_offset, amount(scan.active.len()))?;
        let mut seen = HashSet::new();
        for (at, entry) in l1.into_iter().enumerate() {
            let l2 = entry & OFFSET_MASK;
            if l2 == 0 || !header.geometry.is_aligned(l2) {
                continue;
            }
            let right = flagged(&tally, header.geometry.cluster_of(l2), entry);
            if right != entry {
                let place = amount(at).saturating_mul(8);
                let place = header.l1_offset.saturating_add(place);
                storage.write_at(&right.to_be_bytes(), place)?;
            }
            if header.has_data_file || !seen.insert(l2) {
                continue;
            }
            for (at, raw) in scan.l2(l2)?.into_iter().enumerate() {
                let place = scan.l2_place(l2, at);
                let Held::Plain { host } = examine_l2(&scan.rules, raw, place, &mut |_| {}) else {
                    continue;
                };
                let cluster = header.geometry.cluster_of(host);
                let right = flagged(&tally, cluster, raw.descriptor);
                if right != raw.descriptor {
                    storage.write_at(&right.to_be_bytes(), place.offset)?;
                }
            }
        }
    }
    Ok(())
}
