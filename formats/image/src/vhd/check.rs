//! `check` of VHDs: both footers, the block allocation table, the parent locators, lost room.
//!
//! Specification 1.0. Leaves out on purpose: what the sectors hold whose bit is clear in a disk
//! without a parent. They read as zeroes here, and QEMU, which ignores the bits, may read something
//! else.

use rehost_block::{Result, Storage, round_up};

use super::SECTOR;
use super::footer::{DiskType, FOOTER_LEN, Footer, Found};
use super::header::{HEADER_LEN, Header};
use super::layout::PAGE;
use super::sparse::{UNUSED, table};
use crate::Format;
use crate::check::{Check, Finding, Repair, Severity};
use crate::layer::Opening;
use crate::room::{Claim, Claims, is_device};

const TABLE: &str = "block allocation table";

/// Checks one image.
///
/// # Errors
/// As opening it.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let storage = &*opening.storage;
    let mut check = Check::new(Format::Vhd);
    let found = Footer::find(storage)?;
    let (size, _) = found.footer.size();
    if found.footer.disk_type == DiskType::Fixed {
        check_fixed(storage, &found, size, &mut check)?;
        return Ok(check);
    }
    check_footers(storage, &found, &mut check);
    let header = Header::read(storage, found.footer.data_offset, size)?;
    check_locators(storage, &found, &header, &mut check);
    let table = table(storage, &header)?;
    let claims = check_table(&found, &header, &table, size, &mut check);
    check_room(storage, &found, &header, &claims, &mut check);
    Ok(check)
}

fn check_fixed(storage: &dyn Storage, found: &Found, size: u64, check: &mut Check) -> Result<()> {
    // Opening compares the two as well.
    super::open::fits(size, found.end)?;
    check.total_units = size.div_ceil(PAGE);
    check.allocated_units = check.total_units;
    let used = size.max(found.footer.current_size);
    check.image_end = found.end.saturating_add(SECTOR).min(storage.size());
    if found.end > used && !is_device(storage) {
        check.find(Finding {
            severity: Severity::Leak,
            structure: "hard disk footer",
            offset: used,
            text: format!(
                "{} bytes between the disk and its footer are nobody's",
                found.end.saturating_sub(used)
            ),
            repair: Repair::No,
        });
    }
    Ok(())
}

/// The footer at the end and its copy at the beginning say the same.
fn check_footers(storage: &dyn Storage, found: &Found, check: &mut Check) {
    let stale = |offset: u64, text: String| Finding {
        severity: Severity::Leak,
        structure: "hard disk footer",
        offset,
        text,
        repair: Repair::Safe,
    };
    if found.from_copy {
        let at = storage.size().saturating_sub(SECTOR);
        check.find(stale(
            at,
            "is missing or damaged at the end of the file; its copy at the beginning is whole"
                .to_owned(),
        ));
        return;
    }
    match Footer::read(storage, 0, FOOTER_LEN) {
        Ok(copy) if copy == found.footer => {}
        Ok(_) => check.find(stale(
            0,
            "its copy at the beginning says something else".to_owned(),
        )),
        Err(error) => check.find(stale(
            0,
            format!("its copy at the beginning is damaged: {error}"),
        )),
    }
}

/// The names of the parent lie inside the file, in nobody else's room.
fn check_locators(storage: &dyn Storage, found: &Found, header: &Header, check: &mut Check) {
    if found.footer.disk_type != DiskType::Differencing {
        return;
    }
    for locator in &header.parent.locators {
        let end = locator.offset.saturating_add(locator.len);
        let over = structures(header)
            .into_iter()
            .find(|(_, start, taken)| locator.offset < *taken && *start < end);
        let text = if end > storage.size() {
            format!("name lies past the end of the file: it ends at {end}")
        } else if let Some((what, _, _)) = over {
            format!("name lies over the {what}")
        } else {
            continue;
        };
        check.find(Finding {
            severity: Severity::Corruption,
            structure: "parent locator entry",
            offset: locator.entry,
            text,
            repair: Repair::No,
        });
    }
}

/// The structures that have a fixed place, with beginning and end.
pub(super) fn structures(header: &Header) -> [(&'static str, u64, u64); 3] {
    let header_len = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
    let table = header.entries.saturating_mul(4);
    [
        ("footer's copy", 0, SECTOR),
        (
            "dynamic disk header",
            header.at,
            header.at.saturating_add(header_len),
        ),
        (
            TABLE,
            header.table,
            round_up(header.table.saturating_add(table), SECTOR),
        ),
    ]
}

/// All that lies in the file before its footer: structures, names of the parent, blocks.
pub(super) fn claims(header: &Header, table: &[u32]) -> Claims {
    let stride = header.bitmap_len().saturating_add(header.block.get());
    let fixed = structures(header).map(|(_, start, end)| Claim {
        start,
        end,
        entry: start,
    });
    let names = header.parent.locators.iter().map(|locator| Claim {
        start: locator.offset,
        end: locator.offset.saturating_add(locator.len),
        entry: locator.entry,
    });
    let blocks = (0u64..).zip(table).filter(|(_, sector)| **sector != UNUSED);
    let blocks = blocks.map(|(index, sector)| {
        let start = u64::from(*sector).saturating_mul(SECTOR);
        Claim {
            start,
            end: start.saturating_add(stride),
            entry: header.table.saturating_add(index.saturating_mul(4)),
        }
    });
    Claims::new(fixed.into_iter().chain(names).chain(blocks).collect())
}

/// Every entry of the table; gives what is in use, without what lies outside the file.
fn check_table(
    found: &Found,
    header: &Header,
    table: &[u32],
    size: u64,
    check: &mut Check,
) -> Claims {
    let corrupt = |entry: u64, text: String| Finding {
        severity: Severity::Corruption,
        structure: TABLE,
        offset: entry,
        text,
        repair: Repair::No,
    };
    check.total_units = header.entries;
    let bitmap = header.bitmap_len();
    let stride = bitmap.saturating_add(header.block.get());
    let mut inside = table.to_vec();
    let mut last: Option<u64> = None;
    for ((index, sector), kept) in (0u64..).zip(table).zip(&mut inside) {
        if *sector == UNUSED {
            continue;
        }
        check.allocated_units = check.allocated_units.saturating_add(1);
        let start = u64::from(*sector).saturating_mul(SECTOR);
        let guest = index.saturating_mul(header.block.get());
        let needed = size.saturating_sub(guest).min(header.block.get());
        let end = start.saturating_add(bitmap).saturating_add(needed);
        let entry = header.table.saturating_add(index.saturating_mul(4));
        if end > found.end {
            *kept = UNUSED;
            check.find(corrupt(
                entry,
                format!("block {index} ends at {end}, past the end of the data"),
            ));
            continue;
        }
        if last.is_some_and(|last| start.wrapping_sub(last) > PAGE) {
            check.fragmented_units = check.fragmented_units.saturating_add(1);
        }
        last = Some(start.saturating_add(stride));
    }
    let claims = claims(header, &inside);
    for (claim, other) in claims.overlaps() {
        check.find(corrupt(
            claim.entry,
            format!(
                "what is at byte {} lies over what is at {}, which the entry at {} refers to",
                claim.start, other.start, other.entry
            ),
        ));
    }
    claims
}

/// Room of a block or more that nothing refers to.
fn check_room(
    storage: &dyn Storage,
    found: &Found,
    header: &Header,
    claims: &Claims,
    check: &mut Check,
) {
    let least = header.bitmap_len().saturating_add(header.block.get());
    check.image_end = claims.end().saturating_add(SECTOR).min(storage.size());
    let lost = |start: u64, end: u64, repair| Finding {
        severity: Severity::Leak,
        structure: TABLE,
        offset: start,
        text: format!("{} bytes are no block's", end.saturating_sub(start)),
        repair,
    };
    for gap in claims.gaps(least) {
        check.find(lost(gap.start, gap.end, Repair::No));
    }
    let tail = found.end.saturating_sub(claims.end());
    if tail >= least && !is_device(storage) {
        check.find(lost(claims.end(), found.end, Repair::Safe));
    }
}
