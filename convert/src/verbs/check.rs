//! `check`: what is wrong with an image's own tables, and mending what is safe to mend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::journal::{Leftover, Recovered, left_over, recover};
use rehost_block::{Error, File, Opener, Result, Storage};
use rehost_image::{self as images, Check, Format, Repair};

use super::in_place::{self, Journalled};

/// An image file to be checked.
#[derive(Debug)]
pub struct Checked {
    /// Where it is, links followed.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// What was found.
    pub check: Check,
}

/// Checks the image at `path`; without a `format` its signature decides. Its parents are not looked
/// at.
///
/// # Errors
/// As [`rehost_image::check`].
pub fn check(path: &Path, format: Option<Format>, opener: &dyn Opener) -> Result<Checked> {
    let storage: Arc<dyn Storage> = Arc::new(File::open(path)?);
    let path = path
        .canonicalize()
        .map_err(|error| Error::io("cannot open", error).in_file(path))?;
    let format = match format {
        Some(format) => format,
        None => Format::sniff(&*storage)?,
    };
    let check = images::check(&path, format, storage, opener)?;
    Ok(Checked {
        path,
        format,
        check,
    })
}

/// Rolls back what a killed run left, if one did.
///
/// # Errors
/// As [`recover`].
pub fn roll_back(path: &Path, opener: &dyn Opener) -> Result<Option<Recovered>> {
    match left_over(path)? {
        None => Ok(None),
        Some(left @ Leftover::Running(_)) => Err(left.error()),
        Some(_) => recover(path, opener).map(Some),
    }
}

/// Whether anything that was found can be mended without guessing.
#[must_use]
pub fn can_be_mended(check: &Check) -> bool {
    check
        .findings
        .iter()
        .any(|finding| finding.repair == Repair::Safe)
}

/// Mends what can be mended without guessing, under a journal, and gives what is wrong then.
///
/// # Errors
/// As [`in_place::change`] and [`rehost_image::repair`]; Internal, with nothing changed, when more was
/// wrong afterwards.
pub fn mend(checked: &Checked, opener: &dyn Opener) -> Result<Check> {
    in_place::change(&checked.path, |journal| {
        let after = images::repair(
            checked.path.clone(),
            checked.format,
            journal.open(&checked.path)?,
            opener,
            &Journalled(journal),
        )?;
        if after.corruptions > checked.check.corruptions {
            return Err(
                Error::internal("the repair made it worse and was undone").in_file(&checked.path)
            );
        }
        Ok(after)
    })
}
