//! `repair` of VDIs: the header's count of stored blocks, and lost room at the end.

use rehost_block::Result;

use super::check::check;
use super::edit::VdiEdit;
use crate::check::{Check, Finding, mend};
use crate::in_place::Editing;

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Io when the storage fails.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    // What lies over something else could be anything: the end of the file is not known then.
    let mendable =
        |found: &Check| Ok(!found.is_clean() && found.findings.iter().all(Finding::is_safe));
    mend(editing, check, mendable, || {
        VdiEdit::open(editing.storage.clone())?.rewrite()
    })
}
