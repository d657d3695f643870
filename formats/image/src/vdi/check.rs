//! `check` of VDIs: every entry of the block map, and whether the header counts what is stored.

use rehost_block::Result;

use super::header::{COUNT_AT, Header};
use super::layer::{ZERO, read_map};
use crate::Format;
use crate::check::{Check, Finding, Repair, Severity};
use crate::layer::Opening;
use crate::room::is_device;

/// Checks one image.
///
/// # Errors
/// As opening it.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let storage = &*opening.storage;
    let header = Header::read(storage)?;
    let map = read_map(storage, &header)?;
    let mut check = Check::new(Format::Vdi);
    check.total_units = header.entries;
    let corrupt = |index: u64, text: String| Finding {
        severity: Severity::Corruption,
        structure: "block map",
        offset: header.map.saturating_add(index.saturating_mul(4)),
        text,
        repair: Repair::No,
    };
    let stride = header.block.get().saturating_add(header.extra);
    let room = storage.size().saturating_sub(header.data);
    // Blocks that the file has room for; each may be used once.
    let places = usize::try_from(room.div_ceil(stride)).unwrap_or(usize::MAX);
    let most = map.iter().filter(|entry| **entry < ZERO).max().copied();
    let most = most.map_or(0, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let mut used = vec![false; places.min(most.saturating_add(1))];
    let mut last: Option<u32> = None;
    for (index, entry) in (0u64..).zip(&map).filter(|(_, entry)| **entry < ZERO) {
        check.allocated_units = check.allocated_units.saturating_add(1);
        if last.is_some_and(|last| last.checked_add(1) != Some(*entry)) {
            check.fragmented_units = check.fragmented_units.saturating_add(1);
        }
        last = Some(*entry);
        let guest = index.saturating_mul(header.block.get());
        let needed = header
            .disk_size
            .saturating_sub(guest)
            .min(header.block.get());
        let end = u64::from(*entry)
            .saturating_mul(stride)
            .saturating_add(header.extra)
            .saturating_add(needed);
        let place = usize::try_from(*entry).unwrap_or(usize::MAX);
        match used.get_mut(place) {
            Some(used) if end <= room => {
                if std::mem::replace(used, true) {
                    check.find(corrupt(
                        index,
                        format!("block {entry} of the file is another block's as well"),
                    ));
                }
            }
            _ => check.find(corrupt(
                index,
                format!("block {entry} of the file lies past its end"),
            )),
        }
    }
    let end = used.iter().rposition(|used| *used).map_or(0, |last| {
        u64::try_from(last.saturating_add(1)).unwrap_or(u64::MAX)
    });
    let end = header.data.saturating_add(end.saturating_mul(stride));
    check.image_end = end.min(storage.size());
    check_room(&header, &used, end, storage, &mut check);
    Ok(check)
}

/// Room that is no block's, and the header's count.
fn check_room(
    header: &Header,
    used: &[bool],
    end: u64,
    storage: &dyn rehost_block::Storage,
    check: &mut Check,
) {
    let leak = |structure, offset, text, repair| Finding {
        severity: Severity::Leak,
        structure,
        offset,
        text,
        repair,
    };
    let stride = header.block.get().saturating_add(header.extra);
    for (number, _) in (0u64..).zip(used).filter(|(_, used)| !**used) {
        let at = header.data.saturating_add(number.saturating_mul(stride));
        check.find(leak(
            "block map",
            at,
            format!("block {number} of the file is nobody's"),
            Repair::No,
        ));
    }
    let lost = storage.size().saturating_sub(end);
    if lost >= stride && !is_device(storage) {
        check.find(leak(
            "block map",
            end,
            format!("{lost} bytes at the end are no block's"),
            Repair::Safe,
        ));
    }
    // A program that adds a block puts it where the count says: over one that is there.
    let counted = u64::from(header.allocated);
    if counted != check.allocated_units {
        check.find(Finding {
            severity: Severity::Corruption,
            structure: "VDI header",
            offset: COUNT_AT,
            text: format!(
                "counts {counted} stored blocks, and the map has {}",
                check.allocated_units
            ),
            repair: Repair::Safe,
        });
    }
}
