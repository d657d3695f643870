//! `snapshot`: the internal snapshots of an image, changed in place.

use std::time::SystemTime;

use rehost_block::{Error, Opener, Result};
use rehost_image::{Image, Snapshots, edit_snapshots};

use super::in_place::{self, Journalled};

/// What is done to the snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Keeps the disk as it is now under this name.
    Create(&'a str),
    /// Makes the disk what it was at this one.
    Apply(&'a str),
    /// Forgets this one.
    Delete(&'a str),
}

/// Changes the snapshots of the first file of `image`, under a journal.
///
/// # Errors
/// As [`in_place::change`], [`edit_snapshots`] and [`Snapshots`]' functions.
pub fn change(image: &Image, action: Action<'_>, opener: &dyn Opener) -> Result<()> {
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    in_place::change(&layer.path, |journal| {
        let mut snapshots = edit_snapshots(
            layer.path.clone(),
            layer.format,
            journal.open(&layer.path)?,
            opener,
            &Journalled(journal),
        )?;
        apply(&mut *snapshots, action).map_err(|error| error.in_file(&layer.path))
    })
}

fn apply(snapshots: &mut dyn Snapshots, action: Action<'_>) -> Result<()> {
    match action {
        Action::Create(name) => snapshots.create(name, SystemTime::now()).map(drop)?,
        Action::Apply(name) => snapshots.apply(name)?,
        Action::Delete(name) => snapshots.delete(name)?,
    }
    snapshots.flush()
}
