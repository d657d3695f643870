//! `repair` of VHDs: a damaged footer from its copy and the other way round, and lost room at the
//! end.

use rehost_block::Result;

use super::check::check;
use super::edit::VhdEdit;
use super::footer::{DiskType, Footer};
use crate::check::{Check, mend};
use crate::in_place::Editing;

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Io when the storage fails.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    // What lies over something else could be anything: the end of the file is not known then.
    let mendable = |found: &Check| {
        let fixed = Footer::find(&*editing.storage)?.footer.disk_type == DiskType::Fixed;
        Ok(!fixed && found.is_mendable())
    };
    mend(editing, check, mendable, || {
        VhdEdit::open(editing)?.rewrite()
    })
}
