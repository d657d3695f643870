//! What a killed run left: finding its journal, and putting the files back as they were.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::kept::Stamp;
use super::pointer::{self, Beside};
use super::record::{Before, HEAD, Head, Record, Salt, read_head};
use super::{Journal, canonical, kept, lock, remove};
use crate::{Error, File, Opener, Result, Storage, StorageMut};

/// A journal that is there although nobody here began it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// Its run is still at work on this image.
    Running(PathBuf),
    /// Its run was killed, and this image is half changed.
    Killed(PathBuf),
    /// The run that was killed changed several images, and the journal is beside another one.
    KilledAlong {
        /// This image.
        file: PathBuf,
        /// The one that has the journal.
        image: PathBuf,
    },
}

impl Leftover {
    /// Why the image cannot be used.
    #[must_use]
    pub fn error(&self) -> Error {
        match self {
            Self::Running(image) => Error::usage("is being changed by another run")
                .in_file(image)
                .hint("wait until it is done"),
            Self::Killed(image) => {
                Error::usage("was left half changed by a run that was killed; its journal is there")
                    .in_file(image)
                    .hint(format!(
                        "`rehost undo {0}` or `rehost check --repair {0}` rolls the change back",
                        image.display()
                    ))
            }
            Self::KilledAlong { file, image } => Error::usage(format!(
                "was left half changed by a run that was killed; the journal is that of {}",
                image.display()
            ))
            .in_file(file)
            .hint(format!(
                "`rehost undo {}` rolls back the change of all images of that run; {}",
                file.display(),
                pointer::way_out(&Journal::name_for(file))
            )),
        }
    }
}

/// Whether there is a journal for `image`.
///
/// # Errors
/// Io when that cannot be found out.
pub fn left_over(image: &Path) -> Result<Option<Leftover>> {
    let image = canonical(image)?;
    let journal = Journal::name_for(&image);
    let is_locked = |path: &Path| -> Result<bool> {
        let file = File::open(path)?;
        let locked =
            |file: &std::fs::File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        Ok(file.as_file().is_some_and(locked))
    };
    Ok(match pointer::beside(&journal)? {
        Beside::Nothing => None,
        Beside::Own if is_locked(&journal)? => Some(Leftover::Running(image)),
        Beside::Own => Some(Leftover::Killed(image)),
        Beside::Pointer(pointer) if !pointer.holds(&journal, Journal::name_for)? => None,
        // A run that changes an image holds its lock too.
        Beside::Pointer(_) if is_locked(&image)? => Some(Leftover::Running(image)),
        Beside::Pointer(pointer) => Some(Leftover::KilledAlong {
            image: pointer.named(&journal),
            file: image,
        }),
    })
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The files, the image itself first. Empty when the killed run had changed nothing yet.
    pub files: Vec<PathBuf>,
    /// Bytes put back.
    pub bytes: u64,
}

/// Rolls back the change of `image` that was interrupted: every file that the journal covers is bit
/// for bit and in its length as it was before, whichever of them `image` is. Can itself be interrupted
/// and run again. Files other than the image are named by the journal, so they must pass `opener`. What a
/// change that is over forgot beside the image is removed, and nothing put back.
///
/// # Errors
/// Usage when there is no journal, or its run is still at work; Corrupt, with nothing changed, when the
/// journal is damaged in a part that may have been needed; Io when a file cannot be written.
pub fn recover(image: &Path, opener: &dyn Opener) -> Result<Recovered> {
    let image = canonical(image)?;
    let beside = Journal::name_for(&image);
    let was_noted = matches!(pointer::beside(&beside)?, Beside::Pointer(_));
    let image = pointer::image_of(&image, Journal::name_for, opener)?.unwrap_or(image);
    let path = Journal::name_for(&image);
    if was_noted && path == beside && matches!(pointer::beside(&beside)?, Beside::Nothing) {
        return Ok(Recovered {
            files: Vec::new(),
            bytes: 0,
        });
    }
    match left_over(&image)? {
        None => return Err(Error::usage("has no journal: there is nothing to undo").in_file(image)),
        Some(Leftover::Killed(_)) => {}
        Some(left) => return Err(left.error()),
    }
    let storage = File::open_mut(&path)?;
    lock(&storage, &path)?;
    let Some(journal) = read(&path, &storage)? else {
        remove(&path)?;
        return Ok(Recovered {
            files: Vec::new(),
            bytes: 0,
        });
    };
    let mut files: Vec<(PathBuf, Arc<dyn StorageMut>)> = Vec::new();
    for covered in &journal.files {
        let path = place_of(&covered.name, &image, opener)?;
        let file = File::open_mut(&path)?;
        lock(&file, &path)?;
        files.push((path, Arc::new(file)));
    }
    let bytes = journal.apply(&storage, |nth| {
        files.get(nth).map(|(_, file)| Arc::clone(file))
    })?;
    remove(&path)?;
    for (file, _) in &files {
        pointer::forget(&Journal::name_for(file), journal.salt);
        pointer::forget(&kept::name_for(file), journal.salt);
    }
    Ok(Recovered {
        files: files.into_iter().map(|(path, _)| path).collect(),
        bytes,
    })
}

/// Where the file is that a journal of `image` calls `name`.
///
/// # Errors
/// As `opener`, for any other than the image itself.
pub(super) fn place_of(name: &Path, image: &Path, opener: &dyn Opener) -> Result<PathBuf> {
    if image.file_name().map(Path::new) == Some(name) {
        Ok(image.to_owned())
    } else {
        Ok(opener.open(name, image)?.path)
    }
}

/// A journal whose records were all looked at.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) salt: Salt,
    files: Vec<CoveredFile>,
    /// Where the last whole record ends.
    end: u64,
    path: PathBuf,
}

#[derive(Debug)]
struct CoveredFile {
    name: PathBuf,
    size: u64,
    /// What it was left as, in the journal of a finished change.
    left: Option<Stamp>,
}

/// Looks at a journal; `None` when nothing was ever changed under it.
///
/// # Errors
/// Corrupt when it is no journal, or one that is damaged where it may have been needed.
pub(super) fn read(path: &Path, storage: &dyn Storage) -> Result<Option<Checked>> {
    let (salt, flushed) = match read_head(storage)? {
        Head::NeverFlushed => return Ok(None),
        Head::Foreign => {
            return Err(Error::corrupt("is no journal of this program")
                .in_file(path)
                .hint("if it has nothing to do with the image, move it away"));
        }
        Head::Journal { salt, flushed } => (salt, flushed),
    };
    let mut files: Vec<CoveredFile> = Vec::new();
    let mut at = HEAD;
    // Ends because every record moves `at` on.
    while let Some((record, next)) = Record::read(storage, salt, at)? {
        let nth = usize::try_from(record.file).unwrap_or(usize::MAX);
        match record.before {
            Before::File { size, name } if nth == files.len() => {
                let left = None;
                files.push(CoveredFile { name, size, left });
            }
            Before::Bytes { .. } | Before::Zeroes { .. } if nth < files.len() => {}
            Before::Left(stamp) => match files.get_mut(nth) {
                Some(file) => file.left = Some(stamp),
                None => return Err(damaged(path, at)),
            },
            _ => return Err(damaged(path, at)),
        }
        at = next;
    }
    // What was written but never flushed was never relied on: no byte that it covers was changed.
    if at < flushed {
        return Err(damaged(path, at));
    }
    Ok(Some(Checked {
        salt,
        files,
        end: at,
        path: path.to_owned(),
    }))
}

fn damaged(path: &Path, at: u64) -> Error {
    Error::corrupt("a record of the journal is damaged: the old bytes are lost")
        .in_file(path)
        .at(at)
        .hint("restore the image from a copy; if it is to be kept as it is, move the journal away")
}

impl Checked {
    /// Each file's name, and what it was left as.
    pub(super) fn stamps(&self) -> impl Iterator<Item = (&Path, Option<Stamp>)> {
        self.files
            .iter()
            .map(|file| (file.name.as_path(), file.left))
    }

    /// Writes the old bytes back, gives each file its old length, and flushes them. Returns the
    /// number of bytes.
    ///
    /// # Errors
    /// Io when a file cannot be written.
    pub(super) fn apply(
        &self,
        storage: &dyn Storage,
        file: impl Fn(usize) -> Option<Arc<dyn StorageMut>>,
    ) -> Result<u64> {
        let of = |nth: usize| file(nth).ok_or_else(|| damaged(&self.path, HEAD));
        let mut at = HEAD;
        let mut bytes = 0u64;
        // Ends because every record moves `at` on.
        while at < self.end {
            let read = Record::read(storage, self.salt, at)?;
            let (record, next) = read.ok_or_else(|| damaged(&self.path, at))?;
            let len = record.len();
            let nth = usize::try_from(record.file).unwrap_or(usize::MAX);
            match record.before {
                Before::File { .. } | Before::Left(_) => {}
                Before::Bytes { offset, bytes } => of(nth)?.write_at(&bytes, offset)?,
                Before::Zeroes { offset, len } => of(nth)?.zero_at(offset, len)?,
            }
            bytes = bytes.saturating_add(len);
            at = next;
        }
        for (nth, covered) in self.files.iter().enumerate() {
            let file = of(nth)?;
            file.set_size(covered.size)?;
            file.sync()?;
        }
        Ok(bytes)
    }
}
