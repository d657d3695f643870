//! `Pointer`: the note beside a further file of a change that says whose journal has its old bytes.
//!
//! It lies where the file's own journal, or its own undo file, would be: whoever asks for that finds
//! it. Its bytes are `rehostP1`, the journal's salt (8 bytes), the name of the image that the journal is
//! of (without its folder where that is the file's own) and the CRC-32C of all this (4 bytes). The change
//! ends with the journal; a note that a kill left after that says nothing any more, which the salt tells.
//!
//! Left out on purpose: looking out of the folder for the journal, where a stranger's note could lead
//! anywhere. Such a note counts until the user allows the other folder.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::record::{Head, Salt, read_head};
use super::sync_folder;
use crate::{Error, File, Kind, Opener, Result, Storage, StorageMut};

const MAGIC: &[u8; 8] = b"rehostP1";

/// Bytes of a note besides the name.
const FRAME: u64 = 20;

/// Longest name: Linux's longest path.
const MOST_NAME: u64 = 4096;

/// How the journal, or the undo file, of a file is called.
pub(super) type NameFor = fn(&Path) -> PathBuf;

/// What the note `path` is called until it is whole.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// What lies where the journal or undo file of a file would be.
#[derive(Debug)]
pub(super) enum Beside {
    Nothing,
    /// What must be the file's own, or something foreign.
    Own,
    Pointer(Pointer),
}

/// Which change a file belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    salt: Salt,
    image: PathBuf,
}

/// Looks at the name of a journal or undo file.
///
/// # Errors
/// Corrupt for a note that is damaged; Io when the file cannot be read.
pub(super) fn beside(path: &Path) -> Result<Beside> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Beside::Nothing),
        Err(error) => return Err(Error::io("cannot be examined", error).in_file(path)),
        Ok(_) => {}
    }
    let file = File::open(path)?;
    let size = file.size();
    if size < FRAME || size > FRAME.saturating_add(MOST_NAME) {
        return Ok(Beside::Own);
    }
    let mut bytes = vec![0; crate::disk::length(size)?];
    file.read_at(&mut bytes, 0)?;
    if !bytes.starts_with(MAGIC) {
        return Ok(Beside::Own);
    }
    let pointer = Pointer::decode(&bytes).ok_or_else(|| {
        Error::corrupt("the note of the journal that this file's old bytes are in is damaged")
            .in_file(path)
            .hint(
                "run `rehost undo` with the first disk of the machine; if no disk has a journal, \
                 remove the note",
            )
    })?;
    Ok(Beside::Pointer(pointer))
}

impl Pointer {
    /// The note for `file`, whose old bytes go to the journal of `image`.
    pub(super) fn new(image: &Path, file: &Path, salt: Salt) -> Self {
        let image = match image.file_name() {
            Some(name) if image.parent() == file.parent() => PathBuf::from(name),
            _ => image.to_owned(),
        };
        Self { salt, image }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.salt.to_bytes());
        bytes.extend(self.image.as_os_str().as_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let (salt, name) = covered.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let whole = crc32c::crc32c(covered).to_le_bytes() == *crc;
        (whole && !name.is_empty()).then(|| Self {
            salt: Salt::from_bytes(*salt),
            image: OsString::from_vec(name.to_vec()).into(),
        })
    }

    /// Stores the note as `path`, in the place of one that says nothing any more.
    ///
    /// # Errors
    /// Usage when something else is there; Io when it cannot be stored.
    pub(super) fn store(&self, path: &Path, name_for: NameFor) -> Result<()> {
        clear(path, name_for)?;
        if !matches!(beside(path)?, Beside::Nothing) {
            return Err(Error::usage("is in the way")
                .in_file(path)
                .hint("another change of the file is not finished, or is kept"));
        }
        // Whole or not at all: a kill must not leave a part of it for a journal of the file's own.
        let unfinished = unfinished(path);
        let _ = fs::remove_file(&unfinished);
        let file = File::create_new(&unfinished)?;
        let stored = file
            .write_at(&self.encode(), 0)
            .and_then(|()| file.sync())
            .and_then(|()| {
                fs::rename(&unfinished, path)
                    .map_err(|error| Error::io("cannot be renamed", error).in_file(&unfinished))
            })
            .and_then(|()| sync_folder(path));
        if stored.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        stored
    }

    /// The image as named in the note `path`.
    pub(super) fn named(&self, path: &Path) -> PathBuf {
        path.with_file_name("").join(&self.image)
    }

    /// Whether the change goes on, as far as can be told in the folder of the note `path`.
    ///
    /// # Errors
    /// Io when that cannot be found out.
    pub(super) fn holds(&self, path: &Path, name_for: NameFor) -> Result<bool> {
        let mut parts = self.image.components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => self.holds_for(&self.named(path), name_for),
            _ => Ok(true),
        }
    }

    /// Whether the journal, or undo file, of `image` is the one that is meant.
    fn holds_for(&self, image: &Path, name_for: NameFor) -> Result<bool> {
        let is_there = |path: &Path| match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("cannot be examined", error).in_file(path)),
            Ok(_) => Ok(true),
        };
        let journal = name_for(image);
        if !is_there(&journal)? {
            // The file may have been moved away from its image, and its journal.
            return Ok(!is_there(image)?);
        }
        Ok(match read_head(&File::open(&journal)?)? {
            Head::Journal { salt, .. } => salt == self.salt,
            // No note is made before the head is on stable storage.
            Head::NeverFlushed => false,
            // Damaged, as far as one can know.
            Head::Foreign => true,
        })
    }
}

/// The image whose journal, or undo file, has the old bytes of `file`, where that is another's: found
/// by the note beside `file`, which must pass `opener`. A note that says nothing any more is removed.
///
/// # Errors
/// As `opener`; Io and Corrupt as [`beside`].
pub(super) fn image_of(
    file: &Path,
    name_for: NameFor,
    opener: &dyn Opener,
) -> Result<Option<PathBuf>> {
    let path = name_for(file);
    let Beside::Pointer(pointer) = beside(&path)? else {
        return Ok(None);
    };
    if pointer.holds(&path, name_for)? {
        let image = opener
            .open(&pointer.image, file)
            .map_err(|error| match error.kind() {
                Kind::Io => error.without_hint().hint(way_out(&path)),
                _ => error,
            })?
            .path;
        if pointer.holds_for(&image, name_for)? {
            return Ok(Some(image));
        }
    }
    forget(&path, pointer.salt);
    Ok(None)
}

/// What is left to do with the note `path` of a change whose image is not where it was.
pub(super) fn way_out(path: &Path) -> String {
    format!(
        "if that image is whole, or gone for good, remove the note {}",
        path.display()
    )
}

/// Removes the note `path` if it says nothing any more.
///
/// # Errors
/// As [`beside`]; Io when it cannot be removed.
pub(super) fn clear(path: &Path, name_for: NameFor) -> Result<()> {
    match beside(path)? {
        Beside::Pointer(pointer) if !pointer.holds(path, name_for)? => fs::remove_file(path)
            .map_err(|error| Error::io("cannot be removed", error).in_file(path)),
        _ => Ok(()),
    }
}

/// Removes the note `path` (and one that was not finished) if it is of the change with this salt, which is
/// over: it says nothing, and may as well stay where it cannot be removed.
pub(super) fn forget(path: &Path, salt: Salt) {
    if matches!(beside(path), Ok(Beside::Pointer(pointer)) if pointer.salt == salt) {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_file(unfinished(path));
}
