//! `check` and `repair` of a VMDK: its descriptor, and each of its extents.
//!
//! Mended is what needs no guess: an unclean-shutdown byte, a table whose copy in the other
//! directory is sound (it is written anew at the end of the file, so that nothing is overwritten
//! that might belong to a grain), and room at the end that nothing refers to.
//!
//! Leaves out on purpose: two sound tables that contradict each other, overlapping grains, and
//! leaks between grains. Which bytes the guest meant is not known.

use std::sync::Arc;

use rehost_block::{Error, Kind, Presence, Result, Storage, StorageMut, round_up};

use super::audit::Audit;
use super::header::UNCLEAN;
use super::members::{self, Body};
use super::open::{check_flat, check_parent};
use super::sparse_file::entry;
use super::{SECTOR, amount};
use crate::Format;
use crate::check::{Check, Finding, Repair, Severity};
use crate::in_place::Editing;
use crate::layer::Opening;

/// Bytes per unit of flat extents: a page, below which file systems have no holes.
const PAGE: u64 = 4096;

/// One thing that can be done to an extent's file.
#[derive(Debug)]
pub(super) enum Mend {
    /// Say that it was closed.
    Close,
    /// Write a table with these entries, and its sector into the directory entry at `slot`.
    Table {
        /// Where the directory entry is, in bytes.
        slot: u64,
        /// What the table says.
        entries: Vec<u64>,
    },
    /// Cut the file to this length.
    Cut(u64),
}

/// Checks one image of a chain.
///
/// # Errors
/// As [`open`](super::open::open) when it cannot be understood at all.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let mut check = Check::new(Format::Vmdk);
    survey(opening, &mut check)?;
    Ok(check)
}

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Io when a storage fails.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    let opening = editing.opening();
    for (file, mends) in survey(&opening, &mut Check::new(Format::Vmdk))? {
        if mends.is_empty() {
            continue;
        }
        let storage = if file.path == editing.path {
            Arc::clone(&editing.storage)
        } else {
            editing.files.open(&file.path)?
        };
        let mut end = file.storage.size();
        for mend in mends {
            end = apply(&*storage, &mend, end)?;
        }
    }
    // The files as they are now, not as they were when they were opened.
    check(&opening)
}

/// Looks at everything, and gives what can be done to each file.
fn survey(
    opening: &Opening<'_>,
    check: &mut Check,
) -> Result<Vec<(members::ExtentFile, Vec<Mend>)>> {
    let found = members::open(opening)?;
    if let Some(parent) = &found.descriptor.parent {
        match check_parent(opening, parent) {
            Err(error) if error.kind() == Kind::Corrupt => check.find(Finding {
                severity: Severity::Corruption,
                structure: "descriptor",
                offset: found.text.start,
                text: error.to_string(),
                repair: Repair::No,
            }),
            // Whether the parent can be opened is the business of who opens the chain.
            _ => {}
        }
    }
    if !found.embedded {
        check.image_end = found.text.end;
    }
    let mut mends = Vec::new();
    for member in &found.members {
        let len = member.range.end.saturating_sub(member.range.start);
        match &member.body {
            Body::Zero | Body::Forbidden(_) => {}
            Body::Flat(file, offset) => flat(check, &*file.storage, *offset, len)?,
            Body::Sparse(file, header) => {
                let own = file.path == opening.path;
                let before = check.image_end;
                let found = Audit::run(&*file.storage, header, check)
                    .map_err(|error| error.in_file(&file.path))?;
                // The end of what is in use is told of the image's own file.
                if !own {
                    check.image_end = before;
                }
                mends.push((file.clone(), found));
            }
        }
    }
    Ok(mends)
}

/// Counts what is stored of a flat extent.
fn flat(check: &mut Check, storage: &dyn Storage, start: u64, len: u64) -> Result<()> {
    check.total_units = check.total_units.saturating_add(len.div_ceil(PAGE));
    if let Err(error) = check_flat(storage, start, len) {
        check.find(Finding {
            severity: Severity::Corruption,
            structure: "flat extent",
            offset: storage.size(),
            text: error.without_hint().to_string(),
            repair: Repair::No,
        });
        return Ok(());
    }
    let mut at = 0;
    // Ends because every stretch is at least a byte long.
    while at < len {
        let (presence, run) = storage.presence(start.saturating_add(at), len.saturating_sub(at))?;
        let end = at.saturating_add(run.max(1)).min(len);
        if presence == Presence::Data {
            let pages = end.div_ceil(PAGE).saturating_sub(at / PAGE);
            check.allocated_units = check.allocated_units.saturating_add(pages);
        }
        at = end;
    }
    Ok(())
}

/// Does `mend` to the file of an extent that is `end` bytes long, and gives its new length.
fn apply(storage: &dyn StorageMut, mend: &Mend, end: u64) -> Result<u64> {
    match mend {
        Mend::Close => {
            storage.write_at(&[0], amount(UNCLEAN))?;
            Ok(end)
        }
        Mend::Cut(size) => {
            storage.set_size(*size)?;
            Ok(*size)
        }
        Mend::Table { slot, entries } => {
            let at = round_up(end, SECTOR);
            let mut bytes = Vec::new();
            for value in entries {
                let value = u32::try_from(*value)
                    .map_err(|_| Error::internal("a redundant table with wide entries"))?;
                bytes.extend(value.to_le_bytes());
            }
            // A directory may say that there is no table.
            let sector = if bytes.is_empty() {
                0
            } else {
                entry(at / SECTOR)?
            };
            storage.write_at(&bytes, at)?;
            storage.write_at(&sector.to_le_bytes(), *slot)?;
            Ok(round_up(at.saturating_add(amount(bytes.len())), SECTOR))
        }
    }
}
