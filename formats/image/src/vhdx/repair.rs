//! `repair` of VHDX: a log replayed to the file, damaged or old copies of headers and region tables
//! written again, lost room at the end cut off.

use rehost_block::Result;

use super::check::check;
use super::edit::VhdxEdit;
use crate::check::{Check, mend};
use crate::in_place::Editing;

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Io when the storage fails.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    // What lies over something else could be anything: the end of the file is not known then.
    let mendable = |found: &Check| Ok(found.is_mendable());
    mend(editing, check, mendable, || {
        VhdxEdit::open(editing.storage.clone())?.rewrite()
    })
}
