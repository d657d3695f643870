//! `Tracked`: the target's file, with an account of what was written to it; while a journal is
//! replayed it keeps the account and writes nothing.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Presence, Result, Storage, StorageMut};
use serde::{Deserialize, Serialize};

/// The account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Nothing was written behind this.
    end: u64,
    /// How long the file is to be.
    size: u64,
    /// A hash over the places and lengths of all writes, in their order.
    writes: u64,
}

/// A storage with an account.
#[derive(Debug)]
pub struct Tracked {
    inner: Arc<dyn StorageMut>,
    state: Mutex<(Mode, Mark)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Writes are written.
    Writing,
    /// Everything is on the storage already, and the account begins with an empty one.
    Replaying,
}

impl Tracked {
    /// For a new file.
    #[must_use]
    pub fn writing(inner: Arc<dyn StorageMut>) -> Self {
        Self::new(inner, Mode::Writing)
    }

    /// For a file that a killed run left, until [`Journal::resume`](super::Journal::resume) has
    /// replayed what it did.
    #[must_use]
    pub fn replaying(inner: Arc<dyn StorageMut>) -> Self {
        Self::new(inner, Mode::Replaying)
    }

    fn new(inner: Arc<dyn StorageMut>, mode: Mode) -> Self {
        Self {
            inner,
            state: Mutex::new((mode, Mark::default())),
        }
    }

    fn state(&self) -> MutexGuard<'_, (Mode, Mark)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a change, and says whether it is to be made.
    fn note(&self, kind: u64, offset: u64, len: u64) -> bool {
        let (mode, mark) = &mut *self.state();
        for word in [kind, offset, len] {
            mark.writes = (mark.writes ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        *mode == Mode::Writing
    }

    fn note_bytes(&self, kind: u64, offset: u64, len: u64) -> bool {
        let write = self.note(kind, offset, len);
        let mark = &mut self.state().1;
        mark.end = mark.end.max(offset.saturating_add(len));
        mark.size = mark.size.max(mark.end);
        write
    }

    pub(super) fn mark(&self) -> Mark {
        self.state().1
    }

    /// Refuses to go on when a replay did something else than the run before.
    pub(super) fn agrees(&self, before: &Mark) -> Result<()> {
        let now = self.mark();
        if now == *before {
            return Ok(());
        }
        Err(
            Error::corrupt("journal does not lead to what it says it did")
                .mismatch(format!("{before:?}"), format!("{now:?}"))
                .hint("begin again without --resume"),
        )
    }

    /// Ends a replay: what the run before wrote after the account was made is cut off, and from now
    /// on writes are written.
    pub(super) fn settle(&self) -> Result<()> {
        let (mode, Mark { end, size, .. }) = &mut *self.state();
        let (end, size) = (*end, *size);
        if self.inner.size() < end {
            return Err(
                Error::corrupt("partial file is shorter than its journal says")
                    .in_file(self.inner.name())
                    .mismatch(format!("at least {end} bytes"), self.inner.size())
                    .hint("begin again without --resume"),
            );
        }
        self.inner.set_size(end)?;
        self.inner.set_size(size)?;
        *mode = Mode::Writing;
        Ok(())
    }
}

impl Storage for Tracked {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        let (mode, mark) = *self.state();
        match mode {
            Mode::Writing => self.inner.size(),
            Mode::Replaying => mark.size,
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.inner.presence(offset, want)
    }
}

impl StorageMut for Tracked {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if self.note_bytes(1, offset, data.len() as u64) {
            self.inner.write_at(data, offset)?;
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let write = self.note(2, size, 0);
        let mark = &mut self.state().1;
        mark.size = size;
        mark.end = mark.end.min(size);
        if write {
            self.inner.set_size(size)
        } else {
            Ok(())
        }
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        // A hole does not make a file longer.
        if self.note(3, offset, len) {
            self.inner.zero_at(offset, len)?;
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        if self.note_bytes(4, offset, len) {
            self.inner.reserve(offset, len)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}
