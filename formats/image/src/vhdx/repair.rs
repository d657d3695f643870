//! `repair` of VHDX: a log replayed to the file, damaged or old copies of headers and region tables
//! written again, lost room at the end cut off.

use rehost_block::Result;

use super::check::check;
use super::edit::VhdxEdit;
use crate::check::{Check, Repair};
use crate::in_place::Editing;
use crate::layer::Opening;

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Io when the storage fails.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    let opening = Opening {
        path: editing.path,
        storage: editing.storage.clone(),
        opener: editing.opener,
        snapshot: None,
        key: None,
    };
    let before = check(&opening)?;
    let safe = before
        .findings
        .iter()
        .any(|finding| finding.repair == Repair::Safe);
    // What lies over something else could be anything: the end of the file is not known then.
    if before.corruptions > 0 || !safe {
        return Ok(before);
    }
    VhdxEdit::open(editing.storage.clone())?.rewrite()?;
    check(&opening)
}
