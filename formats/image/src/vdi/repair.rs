//! `repair` of VDIs: the header's count of stored blocks, and lost room at the end.

use rehost_block::Result;

use super::check::check;
use super::edit::VdiEdit;
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
    let all_safe = before
        .findings
        .iter()
        .all(|finding| finding.repair == Repair::Safe);
    // What lies over something else could be anything: the end of the file is not known then.
    if before.is_clean() || !all_safe {
        return Ok(before);
    }
    VdiEdit::open(editing.storage.clone())?.rewrite()?;
    check(&opening)
}
