//! `apply`: carries out an [`EditPlan`] on writable disks, checked before and after.
//!
//! No edit is made until every file is found to be what the plan was made for; all that may happen
//! before is that a filesystem's own journal is replayed. Afterwards each
//! filesystem is opened anew and every file read back; an initramfs is unpacked once more. The
//! [`Ledger`] says what was changed, down to the bytes of the disks.
//!
//! Left out on purpose: undoing. The disks are copy-on-write views, so the undo of a failed edit is to
//! drop the view.

mod edits;
mod ledger;
mod record;
mod volumes;

use std::sync::Arc;

use rehost_block::{DiskMut, Kind, Result};
use rehost_inspect::Inspection;
use rehost_luks::Secret;

use crate::plan::EditPlan;
use edits::{check_after, check_before, write};
pub use ledger::{Elsewhere, Ledger, Refusal, Replayed, Written};
use volumes::Volumes;

/// Carries out `plan` on `disks`, the disks of `guest` in its order. Encrypted volumes are opened with
/// the first of `secrets` that fits.
///
/// # Errors
/// Usage, before any edit is written, when a file is not what the plan was made for; otherwise as the
/// filesystems. After an error the disks hold a part of the edits and are to be dropped.
pub fn apply(
    plan: &EditPlan,
    guest: &Inspection,
    disks: &[Arc<dyn DiskMut>],
    secrets: &[Secret],
) -> Result<Ledger> {
    let mut volumes = Volumes::over(guest, disks, secrets);
    let mut replayed = Vec::new();
    for edit in &plan.edits {
        replayed.extend(volumes.open(&edit.at)?);
    }
    for edit in &plan.edits {
        let (volume, target) = volumes.of(edit)?;
        check_before(volume.fs.as_ref(), &target).map_err(|error| error.in_file(&edit.path))?;
    }
    let mut files = Vec::new();
    for edit in &plan.edits {
        let (volume, target) = volumes.of(edit)?;
        write(volume.fs.as_ref(), &target).map_err(|error| error.in_file(&edit.path))?;
        let (ranges, elsewhere) = volumes.take(edit.at.disk);
        files.push(Written {
            path: edit.path.clone(),
            at: edit.at.clone(),
            how: edit.how,
            before: edit.before.clone(),
            after: edit.after.clone(),
            ranges,
            elsewhere,
        });
    }
    for volume in volumes.iter() {
        volume.sync()?;
        let fs = volume.reader()?;
        for edit in plan.edits.iter().filter(|edit| volume.at.is(&edit.at)) {
            let (_, target) = volumes.of(edit)?;
            check_after(fs.as_ref(), &target).map_err(|error| error.in_file(&edit.path))?;
        }
    }
    Ok(Ledger { replayed, files })
}

/// Tries the edits of `plan` on `disks`, which are to be dropped afterwards, and gives those that a
/// filesystem cannot take, in order, each with its reason.
///
/// # Errors
/// As [`apply`], but for what is given.
pub fn try_out(
    plan: &EditPlan,
    guest: &Inspection,
    disks: &[Arc<dyn DiskMut>],
    secrets: &[Secret],
) -> Result<Vec<Refusal>> {
    let mut volumes = Volumes::over(guest, disks, secrets);
    let mut refusals = Vec::new();
    for edit in &plan.edits {
        let tried = volumes.open(&edit.at).and_then(|_| {
            let (volume, target) = volumes.of(edit)?;
            check_before(volume.fs.as_ref(), &target)?;
            write(volume.fs.as_ref(), &target)
        });
        match tried {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Io) => {
                refusals.push(Refusal {
                    path: edit.path.clone(),
                    how: edit.how,
                    why: error.to_string(),
                });
            }
            Err(error) => return Err(error.in_file(&edit.path)),
        }
    }
    Ok(refusals)
}
