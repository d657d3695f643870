//! Changing an image in place, or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::journal::{kept, left_over};
use rehost_block::{Journal, Opener, Result, StorageMut};
use rehost_image::{EditFiles, LayerDescription, LayerMut, edit};

/// Runs `change` under a journal beside `image`. When it fails, or the process is killed on the way,
/// every file that was opened through the journal is as it was before: at once, or once
/// `rehost undo` has been run.
///
/// # Errors
/// Usage when somebody else changes the image, or a killed run left it half changed; Io when the
/// journal cannot be written; and what `change` gives.
pub fn change<T>(image: &Path, change: impl FnOnce(&Journal) -> Result<T>) -> Result<T> {
    let journal = Journal::begin(image)?;
    match change(&journal) {
        Ok(done) => {
            journal.commit()?;
            Ok(done)
        }
        Err(error) => match journal.roll_back() {
            Ok(()) => Err(error),
            Err(undone) => Err(undone.because(error)),
        },
    }
}

/// As [`change`], and keeps what the files held, so that `rehost undo` can take the change back: gives
/// the file that it is kept in.
///
/// # Errors
/// As [`change`]; Usage, before anything is changed, when an earlier change is still kept.
pub fn change_and_keep<T>(
    image: &Path,
    change: impl FnOnce(&Journal) -> Result<T>,
) -> Result<(T, PathBuf)> {
    kept::refuse_second(image)?;
    let journal = Journal::begin(image)?;
    match change(&journal) {
        Ok(done) => Ok((done, journal.keep()?)),
        Err(error) => match journal.roll_back() {
            Ok(()) => Err(error),
            Err(undone) => Err(undone.because(error)),
        },
    }
}

/// Opens one file of a chain for changes that go through `journal`.
///
/// # Errors
/// As [`edit`].
pub fn open(
    journal: &Journal,
    layer: &LayerDescription,
    opener: &dyn Opener,
) -> Result<Box<dyn LayerMut>> {
    let storage = journal.open(&layer.path)?;
    edit(
        layer.path.clone(),
        layer.format,
        storage,
        opener,
        &Journalled(journal),
    )
}

/// Opens the further files of an image through its journal.
#[derive(Debug)]
pub struct Journalled<'a>(pub &'a Journal);

impl EditFiles for Journalled<'_> {
    fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
        self.0.open(path)
    }
}

/// Refuses a file that is being changed, or was left half changed.
///
/// # Errors
/// Usage when there is a journal beside it.
pub fn settled(path: &Path) -> Result<()> {
    match left_over(path)? {
        None => Ok(()),
        Some(left) => Err(left.error()),
    }
}
