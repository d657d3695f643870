//! `Journal`: before-images that make a change of files in place undoable, also after a crash.
//!
//! The journal is a file beside the image ([`Journal::name_for`]). Every file that is to change is
//! opened through it ([`Journal::open`]); what such a file held when it was opened is copied into
//! the journal, and is on stable storage, before it is overwritten, zeroed or cut off (the
//! write-ahead rule). [`Journal::commit`] flushes the files and deletes the journal: that deletion is
//! the moment at which the change holds. [`Journal::keep`] keeps it instead, for [`kept::undo`]. Until then [`Journal::roll_back`], or after a crash
//! [`recover`], puts every byte and every length back. A note beside every file of the change but the image
//! (`pointer.rs`) says where the journal is, so that none of them is taken for whole.
//!
//! Flushing is what costs time, so more is saved at once than was asked for, and twice as much each
//! time the writes go on where the last saved stretch ended. Bytes behind the old end of a file need no
//! before-image, its old length is enough; holes are saved as their length.
//!
//! Left out on purpose: block devices, whose folder is no place for a journal, and protection
//! against a program that changes the files between a crash and the recovery. A program that holds
//! a lock on a file (`flock`, or the byte locks of QEMU) is noticed when the file is opened.

pub mod kept;
mod pointer;
mod ranges;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::disk::{amount, length};
use crate::{Error, File, Presence, Result, Storage, StorageMut};
use pointer::{NameFor, Pointer};
use ranges::{gaps, insert};
use record::{HEAD, Record, Salt};

pub use recovery::{Leftover, Recovered, left_over, recover};

/// Bytes saved around a single small write.
const LEAST: u64 = 64 << 10;

/// Most bytes saved ahead of writes that follow each other.
const MOST: u64 = 32 << 20;

/// Bytes per record.
const PIECE: u64 = 1 << 20;

/// Before-images of the files of one change.
pub struct Journal {
    shared: Arc<Shared>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

/// What the journal and the storages that it covers have in common.
struct Shared {
    /// The image whose change it is.
    image: PathBuf,
    path: PathBuf,
    storage: Arc<dyn StorageMut>,
    salt: Salt,
    state: Mutex<State>,
}

struct State {
    /// Where the next record goes.
    end: u64,
    files: Vec<Covered>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// A record could not be stored: nothing may be changed any more.
    Failed,
    /// Committed or rolled back.
    Closed,
}

/// One file that is being changed.
struct Covered {
    storage: Arc<dyn StorageMut>,
    /// Its length before.
    before: u64,
    /// The ranges whose old bytes are in the journal, start to end; they do not touch.
    saved: BTreeMap<u64, u64>,
    /// Where the last saved stretch ended, and how long it was.
    last: (u64, u64),
}

impl Journal {
    /// The journal of `image`: `IMAGE.rehost-journal`.
    #[must_use]
    pub fn name_for(image: &Path) -> PathBuf {
        let mut name = image.as_os_str().to_owned();
        name.push(".rehost-journal");
        PathBuf::from(name)
    }

    /// Begins a change of `image` and of whatever else is opened through it.
    ///
    /// # Errors
    /// Usage when a journal is there already (another run is at it, or was killed), or `image` is a
    /// block device; Io when the journal cannot be made.
    pub fn begin(image: &Path) -> Result<Self> {
        let image = canonical(image)?;
        if !image.is_file() {
            return Err(Error::unsupported("only files are changed in place")
                .in_file(&image)
                .hint("write a new image instead"));
        }
        let path = Self::name_for(&image);
        if let Some(left) = left_over(&image)? {
            return Err(left.error());
        }
        pointer::clear(&path, Self::name_for)?;
        let file = File::create_new(&path)?;
        let begun = lock(&file, &path).and_then(|()| {
            let journal = Self::start(image, path.clone(), Arc::new(file))?;
            sync_folder(&path)?;
            Ok(journal)
        });
        if begun.is_err() {
            // Nothing was changed, so the journal says nothing.
            let _ = fs::remove_file(&path);
        }
        begun
    }

    /// A journal on an empty `storage`.
    fn start(image: PathBuf, path: PathBuf, storage: Arc<dyn StorageMut>) -> Result<Self> {
        let salt = Salt::new();
        storage.write_at(&record::head(salt), 0)?;
        Ok(Self {
            shared: Arc::new(Shared {
                image,
                path,
                storage,
                salt,
                state: Mutex::new(State {
                    end: HEAD,
                    files: Vec::new(),
                    stage: Stage::Open,
                }),
            }),
        })
    }

    /// The image whose change it is, links followed.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.shared.image
    }

    /// Opens the file at `path` for changes that can be undone, and locks it against other runs.
    ///
    /// # Errors
    /// Usage when somebody else has it open for writing; Io when it cannot be opened or the journal
    /// cannot be written.
    pub fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
        let path = canonical(path)?;
        let file = File::open_mut(&path)?;
        if !path.is_file() {
            return Err(Error::unsupported("only files are changed in place").in_file(path));
        }
        lock(&file, &path)?;
        self.cover(&path, Arc::new(file))
    }

    /// As [`Journal::open`], for a file at `path` that is open already.
    ///
    /// # Errors
    /// Io when the journal cannot be written.
    pub fn cover(&self, path: &Path, storage: Arc<dyn StorageMut>) -> Result<Arc<dyn StorageMut>> {
        let mut state = self.shared.state();
        let nth = state.files.len();
        let before = storage.size();
        let number = u32::try_from(nth)
            .map_err(|_| Error::unsupported("too many files are changed at once"))?;
        let record = Record::file(number, before, self.shared.named(path));
        state.files.push(Covered {
            storage: Arc::clone(&storage),
            before,
            saved: BTreeMap::new(),
            last: (u64::MAX, 0),
        });
        self.shared.append(&mut state, &record)?;
        self.shared.settle(&mut state)?;
        if path != self.shared.image {
            self.shared.note_beside(path, Self::name_for)?;
        }
        Ok(Arc::new(Undoable {
            nth,
            inner: storage,
            shared: Arc::clone(&self.shared),
        }))
    }

    /// Makes the change final: flushes the files and deletes the journal.
    ///
    /// # Errors
    /// Io when a file cannot be flushed (the journal stays then) or the journal cannot be deleted.
    pub fn commit(self) -> Result<()> {
        let mut state = self.shared.state();
        if state.stage != Stage::Open {
            return Err(Error::internal("a journal that failed cannot be committed")
                .in_file(&self.shared.path));
        }
        for file in &state.files {
            file.storage.sync()?;
        }
        state.stage = Stage::Closed;
        remove(&self.shared.path)?;
        self.shared.forget_notes(&state);
        Ok(())
    }

    /// Undoes the change: every file is as it was when it was opened.
    ///
    /// # Errors
    /// Io when a file cannot be written; the journal stays then, for [`recover`].
    pub fn roll_back(self) -> Result<()> {
        let mut state = self.shared.state();
        state.stage = Stage::Closed;
        // Opened again, because a storage keeps the length that it was opened with.
        let stored = File::open(&self.shared.path)?;
        if let Some(journal) = recovery::read(&self.shared.path, &stored)? {
            let files = &state.files;
            journal.apply(&stored, |nth| {
                files.get(nth).map(|file| Arc::clone(&file.storage))
            })?;
        }
        remove(&self.shared.path)?;
        self.shared.forget_notes(&state);
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of `path` as it stands in the journal: without its folder where that is the
    /// journal's own, so that both can be moved.
    fn named(&self, path: &Path) -> PathBuf {
        match path.file_name() {
            Some(name) if path.parent() == self.path.parent() => PathBuf::from(name),
            _ => path.to_owned(),
        }
    }

    /// Says beside `file` that its old bytes are in the journal of the image.
    fn note_beside(&self, file: &Path, name_for: NameFor) -> Result<()> {
        Pointer::new(&self.image, file, self.salt).store(&name_for(file), name_for)
    }

    /// Removes what was said beside the files: the journal is gone.
    fn forget_notes(&self, state: &State) {
        for file in &state.files {
            pointer::forget(&Journal::name_for(file.storage.name()), self.salt);
        }
    }

    fn append(&self, state: &mut State, record: &Record) -> Result<()> {
        let bytes = record.encode(self.salt);
        let written = self.storage.write_at(&bytes, state.end);
        if written.is_err() {
            state.stage = Stage::Failed;
        }
        state.end = state.end.saturating_add(amount(bytes.len()));
        written
    }

    /// Flushes what was appended, and notes that it was: a record before that mark must be
    /// readable, one behind it was never relied on.
    fn settle(&self, state: &mut State) -> Result<()> {
        let settled = self.storage.sync().and_then(|()| {
            self.storage
                .write_at(&record::mark(self.salt, state.end), record::MARK)
        });
        if settled.is_err() {
            state.stage = Stage::Failed;
        }
        settled
    }

    /// Returns once the old bytes of `range` of file `nth` are safe.
    fn save(&self, nth: usize, range: Range<u64>) -> Result<()> {
        let mut state = self.state();
        match state.stage {
            Stage::Open => {}
            Stage::Failed => {
                return Err(Error::internal("the journal failed before").in_file(&self.path));
            }
            Stage::Closed => {
                return Err(
                    Error::internal("a write after the change was finished").in_file(&self.path)
                );
            }
        }
        let gone = || Error::internal("a file that the journal does not know");
        let covered = state.files.get_mut(nth).ok_or_else(gone)?;
        let range = range.start..range.end.min(covered.before);
        if gaps(&covered.saved, range.clone()).is_empty() {
            return Ok(());
        }
        let range = covered.widened(&range);
        let storage = Arc::clone(&covered.storage);
        let missing = gaps(&covered.saved, range.clone());
        let number = u32::try_from(nth).map_err(|_| gone())?;
        let mut buffer = Vec::new();
        for gap in missing {
            self.copy(&mut state, number, &*storage, gap, &mut buffer)?;
        }
        self.settle(&mut state)?;
        let covered = state.files.get_mut(nth).ok_or_else(gone)?;
        insert(&mut covered.saved, range);
        Ok(())
    }

    /// Appends the old bytes of one range, holes as such.
    fn copy(
        &self,
        state: &mut State,
        number: u32,
        storage: &dyn Storage,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let mut at = range.start;
        // Ends because every step is at least a byte long.
        while at < range.end {
            let left = range.end.saturating_sub(at);
            let (presence, len) = storage.presence(at, left)?;
            let len = len.clamp(1, left);
            let record = match presence {
                Presence::Hole => Record::zeroes(number, at, len),
                Presence::Data => {
                    buffer.resize(length(len.min(PIECE))?, 0);
                    storage.read_at(buffer, at)?;
                    Record::bytes(number, at, buffer)
                }
            };
            at = at.saturating_add(record.len());
            self.append(state, &record)?;
        }
        Ok(())
    }
}

impl Covered {
    /// The range to save when `range` is about to change: more than that, and more each time that
    /// writes go on where the last range ended.
    fn widened(&mut self, range: &Range<u64>) -> Range<u64> {
        let (end, len) = self.last;
        let start = range.start.saturating_sub(range.start % LEAST);
        let ahead = if end == start || end == range.start {
            len.saturating_mul(2).clamp(LEAST, MOST)
        } else {
            LEAST
        };
        let end = range
            .end
            .max(start.saturating_add(ahead))
            .checked_next_multiple_of(LEAST)
            .unwrap_or(u64::MAX)
            .min(self.before);
        self.last = (end, end.saturating_sub(start));
        start..end
    }
}

/// A storage whose old bytes go to the journal before they change.
struct Undoable {
    nth: usize,
    inner: Arc<dyn StorageMut>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Undoable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Undoable").field(&self.inner).finish()
    }
}

impl Storage for Undoable {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.inner.presence(offset, want)
    }
}

impl StorageMut for Undoable {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(amount(data.len()));
        self.shared.save(self.nth, offset..end)?;
        self.inner.write_at(data, offset)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.shared.save(self.nth, size..u64::MAX)?;
        self.inner.set_size(size)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.shared
            .save(self.nth, offset..offset.saturating_add(len))?;
        self.inner.zero_at(offset, len)
    }

    /// Nothing to save: what the range reads as stays.
    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        self.inner.reserve(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

/// Locks a file that is going to be changed, and asks whether anybody else has locks on it.
fn lock(file: &File, path: &Path) -> Result<()> {
    let Some(inner) = file.as_file() else {
        return Ok(());
    };
    let busy = || {
        Error::usage("is in use by another program")
            .in_file(path)
            .hint("stop the machine or the run that uses it")
    };
    // A file system without locks has no such protection.
    if matches!(inner.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(busy());
    }
    // QEMU locks single bytes, which `flock` does not see. The lock taken here ends soon (with the
    // first descriptor of this file that this process closes): it is there to ask.
    match fcntl_lock(inner, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(busy()),
        _ => Ok(()),
    }
}

fn remove(journal: &Path) -> Result<()> {
    fs::remove_file(journal)
        .map_err(|error| Error::io("cannot be removed", error).in_file(journal))?;
    sync_folder(journal)
}

/// Makes a name in the folder of `path` (there, or gone) survive a crash.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("cannot flush the folder", error).in_file(folder))
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| Error::io("cannot open", error).in_file(path))
}
