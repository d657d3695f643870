//! Sharing instead of copying: runs of the source that are aligned in both files get the same blocks
//! of the file system, by `FICLONERANGE`.
//!
//! Whether a file system can do that is not asked but tried, once for each file of the source, on a
//! small run. What is shared is not looked at, so zeroes in it stay stored: sharing costs one call
//! per run, whatever its length.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reflink_copy::ReflinkBlockBuilder;
use rehost_block::{Error, Result, Run, Storage};
use rehost_image::{Order, Placed, Target};
use rustix::fs::copy_file_range;
use serde::Serialize;

use super::plan::{Chunk, Part};

/// Alignment that sharing asks for: the block size of nearly every file system that can share. One
/// with larger blocks refuses the call, and the run is copied.
const BLOCK: u64 = 4096;

/// Guest bytes shared with one call, so that progress can be told and a run can be cancelled.
const MOST: u64 = 1 << 30;

/// Guest bytes of the run on which it is tried whether a file can be shared.
const TRIAL: u64 = 1 << 20;

/// Refusals after which a target is not asked for room any more.
const REFUSALS: u32 = 2;

/// Bytes moved with one call where the kernel copies.
const PIECE: usize = 16 << 20;

/// Whether blocks of the source may become blocks of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All data is copied.
    Never,
    /// Shared where the file system can; the rest is copied, zeroes left out.
    #[default]
    Auto,
    /// As `auto`, and where the file system cannot, the kernel copies (`copy_file_range`: a server
    /// does it by itself); zeroes in data are not looked for.
    Always,
}

impl FromStr for Sharing {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "never" => Ok(Self::Never),
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            _ => Err(Error::usage(format!("sharing cannot be {word:?}"))
                .hint("it is one of: never, auto, always")),
        }
    }
}

/// How the bytes of a run came into the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// By sharing blocks.
    Shared,
    /// By copying them.
    Copied,
}

/// What is known of sharing between the files of a source and a target.
#[derive(Debug)]
pub(super) struct Sharer {
    mode: Sharing,
    /// How often the target gave no room. It may keep back its first unit; one that refuses again
    /// never gives any.
    refused: AtomicU32,
    /// Files of the source for which it was tried.
    tried: Mutex<Tried>,
}

#[derive(Debug, Default)]
struct Tried {
    works: HashSet<PathBuf>,
    fails: HashSet<PathBuf>,
}

impl Sharer {
    pub(super) fn new(mode: Sharing, target: &dyn Target) -> Self {
        let impossible = mode == Sharing::Never || target.order() != Order::Any;
        Self {
            mode,
            refused: AtomicU32::new(if impossible { REFUSALS } else { 0 }),
            tried: Mutex::default(),
        }
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of `run`, which is at a unit of the target and `len` bytes long, go this way.
    pub(super) fn takes(&self, run: &Run, len: u64, unit: NonZeroU64) -> Option<NonZeroU64> {
        let Run::At { storage, offset } = run else {
            return None;
        };
        if self.refused.load(Ordering::Relaxed) >= REFUSALS
            || !offset.is_multiple_of(BLOCK)
            || !unit.get().is_multiple_of(BLOCK)
            || storage.as_file().is_none()
        {
            return None;
        }
        let tried = self.tried();
        let most = if tried.works.contains(storage.name()) || self.mode == Sharing::Always {
            MOST
        } else if tried.fails.contains(storage.name()) {
            return None;
        } else {
            TRIAL
        };
        let most = most.next_multiple_of(unit.get());
        NonZeroU64::new(len.min(most) / unit * unit.get())
    }

    /// Fills the guest bytes `start..start + len` of `target` from `storage` at `offset`. Gives how
    /// many it did and how; `None` when the target has no room to give, and the run is to be copied.
    pub(super) fn fill(
        &self,
        target: &dyn Target,
        start: u64,
        len: u64,
        source: (&Arc<dyn Storage>, u64),
    ) -> Result<Option<(u64, Filled)>> {
        let Some(placed) = target.place(start, len)? else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let filled = self.fill_room(&placed, source.0, source.1)?;
        Ok(Some((placed.len, filled)))
    }

    /// Room that was given must be filled, by whatever means.
    fn fill_room(&self, room: &Placed, source: &Arc<dyn Storage>, offset: u64) -> Result<Filled> {
        let name = source.name();
        if !self.tried().fails.contains(name) {
            if clone(room, &**source, offset) {
                self.tried().works.insert(name.to_owned());
                return Ok(Filled::Shared);
            }
            let mut tried = self.tried();
            // One run may be off the blocks of its file system, or too often shared already.
            if !tried.works.contains(name) {
                tried.fails.insert(name.to_owned());
            }
        }
        let done = if self.mode == Sharing::Always {
            by_kernel(room, &**source, offset)
        } else {
            0
        };
        by_hand(room, &**source, offset, done)?;
        Ok(Filled::Copied)
    }
}

/// The run as a chunk for those that copy.
pub(super) fn as_chunk(run: Run, start: u64, len: u64) -> Chunk {
    Chunk {
        number: 0,
        start,
        len,
        parts: vec![Part { run, len }],
    }
}

/// Whether the blocks are shared now. Whatever the file system has against it, copying still works.
fn clone(room: &Placed, source: &dyn Storage, offset: u64) -> bool {
    let (Some(from), Some(to), Some(len)) = (
        source.as_file(),
        room.storage.as_file(),
        NonZeroU64::new(room.len),
    ) else {
        return false;
    };
    // A call whose range is cut short at the source's end would leave the rest as a hole.
    let whole = offset
        .checked_add(room.len)
        .is_some_and(|end| end <= source.size());
    whole
        && room.offset.is_multiple_of(BLOCK)
        && ReflinkBlockBuilder::new(from, to, len)
            .from_offset(offset)
            .to_offset(room.offset)
            .reflink_block()
            .is_ok()
}

/// How many bytes the kernel copied.
fn by_kernel(room: &Placed, source: &dyn Storage, offset: u64) -> u64 {
    let (Some(from), Some(to)) = (source.as_file(), room.storage.as_file()) else {
        return 0;
    };
    let (mut off_in, mut off_out) = (offset, room.offset);
    let mut done = 0;
    // Ends because every round copies at least one byte.
    while done < room.len {
        let want = usize::try_from(room.len - done).unwrap_or(PIECE).min(PIECE);
        match copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), want) {
            Ok(0) | Err(_) => break,
            Ok(copied) => done += copied as u64,
        }
    }
    done
}

/// Copies what is left behind the first `done` bytes.
fn by_hand(room: &Placed, source: &dyn Storage, offset: u64, done: u64) -> Result<()> {
    let mut done = done;
    let mut buffer = Vec::new();
    // Ends because every round copies at least one byte.
    while done < room.len {
        let want = (room.len - done).min(TRIAL);
        buffer.resize(
            usize::try_from(want).map_err(|_| Error::internal("a piece larger than memory"))?,
            0,
        );
        source.read_at(&mut buffer, offset + done)?;
        room.storage.write_at(&buffer, room.offset + done)?;
        done += want;
    }
    Ok(())
}
