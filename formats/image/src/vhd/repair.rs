//! `repair` of VHDs: a damaged footer from its copy and the other way round, and lost room at the
//! end.

use rehost_block::Result;

use super::check::check;
use super::edit::VhdEdit;
use super::footer::{DiskType, Footer};
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
    let fixed = Footer::find(&*editing.storage)?.footer.disk_type == DiskType::Fixed;
    let safe = |check: &Check| {
        let mut findings = check.findings.iter();
        findings.any(|finding| finding.repair == Repair::Safe)
    };
    // What lies over something else could be anything: the end of the file is not known then.
    if before.corruptions > 0 || fixed || !safe(&before) {
        return Ok(before);
    }
    VhdEdit::open(editing)?.rewrite()?;
    check(&opening)
}
