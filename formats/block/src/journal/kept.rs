//! A change that is final and can be taken back: its journal is kept as the image's undo file.
//!
//! The undo file ([`name_for`]) is the journal with a last record for each file: the length and the
//! time of change that the file was left with. Before-images are only right for a file that nobody has
//! changed since, so both must still be what they were. Undoing first makes the undo file a journal
//! again: a kill in the middle leaves what [`super::recover`] finishes. The further files of the change have
//! a note beside them (`pointer.rs`), so that it can be taken back by the name of any.
//!
//! Left out on purpose: telling a file that was changed and given its old time of change back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::pointer::{self, Beside, Pointer};
use super::record::Record;
use super::recovery::{self, Checked, Recovered};
use super::{Journal, Stage, canonical, left_over, lock, sync_folder};
use crate::{Error, File, Opener, Result};

/// What a file was left as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its length.
    pub(super) size: u64,
    /// Its time of change, in nanoseconds since 1970.
    pub(super) changed: u64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let failed = |error| Error::io("cannot be examined", error).in_file(path);
        let metadata = fs::metadata(path).map_err(failed)?;
        let changed = metadata.modified().map_err(failed)?;
        let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            size: metadata.len(),
            changed: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// The undo file of `image`: `IMAGE.rehost-undo`.
#[must_use]
pub fn name_for(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".rehost-undo");
    PathBuf::from(name)
}

/// The undo file of `image`, where one is kept.
///
/// # Errors
/// Io when that cannot be found out.
pub fn find(image: &Path) -> Result<Option<PathBuf>> {
    let path = name_for(&canonical(image)?);
    let kept = match pointer::beside(&path)? {
        Beside::Nothing => false,
        Beside::Own => true,
        Beside::Pointer(pointer) => pointer.holds(&path, name_for)?,
    };
    Ok(kept.then_some(path))
}

/// Refuses a second change that would be kept: the first one's undo file would be lost.
///
/// # Errors
/// Usage when there is one.
pub fn refuse_second(image: &Path) -> Result<()> {
    match find(image)? {
        None => Ok(()),
        Some(path) => Err(
            Error::usage("an earlier change of the image is still kept here")
                .in_file(path)
                .hint(
                    "take it back with `rehost undo`, or delete the file if the change is to stay",
                ),
        ),
    }
}

impl Journal {
    /// Makes the change final, as [`Journal::commit`] does, and keeps the journal as the image's undo
    /// file. Gives its path.
    ///
    /// # Errors
    /// Io when a file cannot be flushed or the undo file not be made; the journal stays then.
    pub fn keep(self) -> Result<PathBuf> {
        let undo = name_for(&self.shared.image);
        let mut state = self.shared.state();
        if state.stage != Stage::Open {
            return Err(
                Error::internal("a journal that failed cannot be kept").in_file(&self.shared.path)
            );
        }
        let mut records = Vec::new();
        for (nth, file) in (0u32..).zip(&state.files) {
            file.storage.sync()?;
            records.push(Record::stamp(nth, Stamp::of(file.storage.name())?));
        }
        for record in &records {
            self.shared.append(&mut state, record)?;
        }
        self.shared.settle(&mut state)?;
        state.stage = Stage::Closed;
        pointer::clear(&undo, name_for)?;
        for file in &state.files {
            if file.storage.name() != self.shared.image {
                self.shared.note_beside(file.storage.name(), name_for)?;
            }
        }
        fs::rename(&self.shared.path, &undo)
            .map_err(|error| Error::io("cannot be renamed", error).in_file(&self.shared.path))?;
        sync_folder(&undo)?;
        self.shared.forget_notes(&state);
        Ok(undo)
    }
}

/// Takes back the change of `image` that was kept: every file is bit for bit and in its length as it
/// was before, whichever of them `image` is. Files other than the image are named by the undo file, so they
/// must pass `opener`.
///
/// # Errors
/// Usage, with nothing changed, when there is no undo file or a file was changed since; Corrupt when
/// the undo file is damaged; Io when a file cannot be written.
pub fn undo(image: &Path, opener: &dyn Opener) -> Result<Recovered> {
    let mut image = canonical(image)?;
    if let Some(left) = left_over(&image)? {
        return Err(left.error());
    }
    if let Some(first) = pointer::image_of(&image, name_for, opener)? {
        image = first;
        if let Some(left) = left_over(&image)? {
            return Err(left.error());
        }
    }
    let path = name_for(&image);
    if path.symlink_metadata().is_err() {
        return Err(
            Error::usage("has no journal and no undo file: there is nothing to undo")
                .in_file(image),
        );
    }
    let storage = File::open(&path)?;
    lock(&storage, &path)?;
    let journal = recovery::read(&path, &storage)?.ok_or_else(|| no_undo_file(&path))?;
    let files = check_unchanged(&journal, &path, &image, opener)?;
    drop(storage);
    let name = Journal::name_for(&image);
    pointer::clear(&name, Journal::name_for)?;
    for file in files.iter().filter(|file| **file != image) {
        let beside = Journal::name_for(file);
        Pointer::new(&image, file, journal.salt).store(&beside, Journal::name_for)?;
    }
    fs::rename(&path, &name)
        .map_err(|error| Error::io("cannot be renamed", error).in_file(&path))?;
    sync_folder(&name)?;
    recovery::recover(&image, opener)
}

/// The files of a change, all of them as it left them.
fn check_unchanged(
    journal: &Checked,
    undo: &Path,
    image: &Path,
    opener: &dyn Opener,
) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (name, stamp) in journal.stamps() {
        let stamp = stamp.ok_or_else(|| no_undo_file(undo))?;
        let path = recovery::place_of(name, image, opener)?;
        if Stamp::of(&path)? != stamp {
            return Err(Error::usage(
                "was changed since, and old bytes among new ones would damage it",
            )
            .in_file(path)
            .hint("restore it from a copy; if it is to stay as it is, delete the undo file"));
        }
        files.push(path);
    }
    Ok(files)
}

fn no_undo_file(path: &Path) -> Error {
    Error::corrupt("is no undo file of this program, or a part of one").in_file(path)
}
