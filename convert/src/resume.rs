//! Going on with a conversion that was killed: the journal beside the partial file.
//!
//! A resumable copy puts its chunks in disk order. For every put the journal keeps its shape (where,
//! how long, which sectors are zeroes, how long each packed unit is), never its bytes. A target gives
//! out room by the shapes of its puts alone, so a fresh one that is given the same shapes again, over
//! a storage that swallows what it writes, ends in the state that the killed one was in
//! ([`Tracked`]). What it would have written is compared with what the killed run wrote, by a hash
//! of all places and lengths. No format needs to know of this.
//!
//! A checkpoint is: the target's file flushed, then one line appended to the journal and flushed. A
//! line that was not written whole is not there. What the killed run wrote after its last checkpoint
//! is cut off or written again.
//!
//! Leaves out on purpose, refused by name: targets of several files, devices, pipes, together with
//! salvage (what cannot be read now may have been read before), and a flat checksum (its state cannot
//! be stored).

mod identity;
mod log;
mod shape;
mod tracked;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Result, StorageMut};
use rehost_image::{Payload, Target};
use serde::{Deserialize, Serialize};

pub use identity::{Identity, SourceFile};
pub use tracked::Tracked;

use crate::checksum::{Digest, Leaf, Leaves};
use crate::copy::Copied;
use log::Log;
use shape::Shape;

/// Guest bytes stored between two checkpoints if nothing else is asked for: seconds of work, and few
/// enough flushes to cost little.
pub const DEFAULT_STEP: u64 = 256 << 20;

/// The name of the journal of the image `name`.
#[must_use]
pub fn journal_name(name: &Path) -> PathBuf {
    let mut journal = crate::unfinished::partial_name(name).into_os_string();
    journal.push(".journal");
    PathBuf::from(journal)
}

/// What a line of the journal says: what was done since the line before, and where that led.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Checkpoint {
    /// Every guest byte below is dealt with.
    done: u64,
    /// Of them, so many were ...
    copied: Copied,
    /// What the target's file must look like.
    file: tracked::Mark,
    /// The puts.
    puts: Vec<(u64, Shape)>,
    /// The checksum leaves.
    leaves: Vec<(u64, Digest)>,
}

/// How far an earlier run came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Every guest byte below is dealt with.
    pub done: u64,
    /// What became of them.
    pub copied: Copied,
}

/// The journal of a copy under way.
#[derive(Debug)]
pub struct Journal {
    storage: Arc<Tracked>,
    step: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    at: Position,
    /// `copied.data` at the last checkpoint.
    kept: u64,
    puts: Vec<(u64, Shape)>,
    leaves: Vec<Leaf>,
}

impl Journal {
    /// Begins the journal at `path` for an empty target on `storage`. A checkpoint is made whenever `step`
    /// more guest bytes are stored.
    ///
    /// # Errors
    /// Io when it cannot be written.
    pub fn begin(
        path: &Path,
        identity: &Identity,
        storage: Arc<Tracked>,
        step: u64,
    ) -> Result<Self> {
        let log = Log::create(path, identity)?;
        let journal = Self::new(log, storage, step, Position::default());
        // The target as it was created: without it there is nothing to go on from.
        journal.keep(0)?;
        Ok(journal)
    }

    /// Whether the journal at `path` is one to go on from.
    #[must_use]
    pub fn is_begun(path: &Path) -> bool {
        Log::is_begun(path)
    }

    fn new(log: Log, storage: Arc<Tracked>, step: u64, at: Position) -> Self {
        Self {
            storage,
            step,
            state: Mutex::new(State {
                log,
                kept: at.copied.data,
                at,
                puts: Vec::new(),
                leaves: Vec::new(),
            }),
        }
    }

    /// Takes `target`, empty and on `storage`, to where the run that wrote the journal at `path` made
    /// its last checkpoint. `disk` is its source, and `leaves` takes the checksums of what is done.
    ///
    /// # Errors
    /// Usage when the journal is of another conversion; Corrupt when it or the partial file was
    /// changed; Io when one of them cannot be read.
    pub fn resume(
        path: &Path,
        identity: &Identity,
        storage: Arc<Tracked>,
        target: &dyn Target,
        disk: &dyn Disk,
        leaves: Option<&Leaves>,
        step: u64,
    ) -> Result<Self> {
        let mut at = Position::default();
        let log = Log::open(path, identity, |checkpoint| {
            for (offset, shape) in &checkpoint.puts {
                again(target, disk, *offset, shape)?;
            }
            if let Some(leaves) = leaves {
                leaves.know(&checkpoint.leaves);
            }
            storage
                .agrees(&checkpoint.file)
                .map_err(|error| error.in_file(path))?;
            at = Position {
                done: checkpoint.done,
                copied: checkpoint.copied,
            };
            Ok(())
        })?;
        storage.settle()?;
        Ok(Self::new(log, storage, step, at))
    }

    /// Where the copy goes on.
    #[must_use]
    pub fn position(&self) -> Position {
        self.state().at
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a chunk's payloads, and notes that everything up to `end` is done, `part` being what
    /// became of the chunk. Chunks come in disk order.
    ///
    /// # Errors
    /// As [`Target::put`]; Io when a checkpoint fails.
    pub(crate) fn put(
        &self,
        target: &dyn Target,
        payloads: Vec<(u64, Payload<'_>)>,
        end: u64,
        part: Copied,
        leaves: Vec<Leaf>,
    ) -> Result<()> {
        let state = &mut *self.state();
        for (offset, payload) in payloads {
            state.puts.push((offset, Shape::of(&payload)?));
            target.put(offset, payload)?;
        }
        state.leaves.extend(leaves);
        state.at.copied += part;
        state.skip_to(end);
        if state.at.copied.data - state.kept >= self.step {
            state.keep(&self.storage)?;
        }
        Ok(())
    }

    /// Makes a checkpoint of everything up to `end`: what was not put is holes.
    ///
    /// # Errors
    /// Io when it fails.
    pub(crate) fn keep(&self, end: u64) -> Result<()> {
        let state = &mut *self.state();
        state.skip_to(end);
        state.keep(&self.storage)
    }
}

impl State {
    /// Everything below `end` is dealt with; what is not accounted for is a hole.
    fn skip_to(&mut self, end: u64) {
        self.at.done = end;
        let Copied {
            data, zero, below, ..
        } = self.at.copied;
        self.at.copied.hole = end.saturating_sub(data + zero + below);
    }

    fn keep(&mut self, storage: &Tracked) -> Result<()> {
        storage.sync()?;
        self.log.append(&Checkpoint {
            done: self.at.done,
            copied: self.at.copied,
            file: storage.mark(),
            puts: std::mem::take(&mut self.puts),
            leaves: std::mem::take(&mut self.leaves),
        })?;
        self.kept = self.at.copied.data;
        Ok(())
    }
}

/// Does a put again, with the same shape and other bytes. Only the beginning of the disk is read
/// from the source: targets that have no header keep it back until they are published.
fn again(target: &dyn Target, disk: &dyn Disk, offset: u64, shape: &Shape) -> Result<()> {
    let len = match shape {
        Shape::Plain { len, .. } if offset == 0 => *len,
        Shape::Packed(units) if offset == 0 => {
            // The last unit of a disk may be a short one.
            let units = u64::try_from(units.len()).unwrap_or(u64::MAX);
            units.saturating_mul(target.unit().get()).min(disk.size())
        }
        _ => return shape.with_payload(|payload| target.put(offset, payload)),
    };
    let mut bytes = vec![0; shape::length(len.min(disk.size()))?];
    disk.read_at(&mut bytes, 0)?;
    let payload = target.pack(0, &bytes)?;
    target.put(0, payload)
}

#[cfg(test)]
mod tests;
