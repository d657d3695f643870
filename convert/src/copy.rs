//! The copy engine: from any [`Disk`] to any [`Target`], in parallel and in bounded memory.
//!
//! One planner walks the source's `locate` and cuts what is stored into chunks; what reads as
//! zeroes is never touched. Workers take chunks, read and decode them into buffers that they keep,
//! leave out units of zeroes (or units that a parent has too), and pack and put the rest; targets
//! that must be written in order get their payloads in turn. Memory is a few buffers per worker,
//! whatever the disk's size.
//!
//! On the way the copy can be slowed down ([`Rate`]), checksummed ([`Leaves`]), made to survive
//! damage of the source ([`Losses`]) and its own death ([`Journal`]).
//!
//! Runs that lie aligned in both files are shared instead, where the file system can (`share.rs`).
//! Where it cannot, the kernel is not asked to copy either unless that is wished: it cannot see
//! zeroes, and was no faster than buffers that stay in the processor's cache.
//!
//! Leaves out on purpose: publishing the target, which is the caller's decision.

mod compare;
mod fill;
mod job;
mod map;
mod plan;
mod rate;
mod salvage;
mod same;
mod share;
mod stretch;

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::AddAssign;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Result};
use rehost_image::{Order, Payload, Target, Written};
use serde::{Deserialize, Serialize};

pub use compare::{Comparison, compare};
pub use map::{Extent, Kind, Map, map};
pub use rate::Rate;
pub use salvage::{Losses, Lost};
pub(crate) use same::{SameStorage, locate};
pub use share::Sharing;

use crate::checksum::{LEAF, Leaves};
use crate::resume::Journal;
use crate::turn::in_parallel;
use job::Job;
use share::Sharer;

/// Guest bytes per chunk: small enough for the processor's cache, large enough that a system call
/// costs nothing against it.
const CHUNK: u64 = 1 << 20;

/// Most workers: with the largest units that any format has by default (2 MiB) each needs about
/// 6 MiB, and all of them together stay below 256 MiB.
const MOST_WORKERS: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Bytes that all workers' buffers may take; where units are larger than by default, fewer work.
const MOST_BUFFERED: u64 = 192 << 20;

/// Told how far a copy is. Called from the workers, once per chunk.
pub trait Progress: Sync {
    /// `done` of `total` guest bytes are dealt with, `data` of them are stored in the target.
    fn advance(&self, done: u64, total: u64, data: u64);
}

/// How to copy.
#[derive(Clone, Copy)]
pub struct CopyOptions<'a> {
    /// Worker threads, of which at most 32 are used.
    pub threads: NonZeroUsize,
    /// Who is told how far it is.
    pub progress: Option<&'a dyn Progress>,
    /// Whether blocks of the source's files may become the target's. They may not where the copy has
    /// to look at every byte: for checksums, a parent, salvage or a journal.
    pub sharing: Sharing,
    /// Set by somebody else (a signal handler) to end the copy early.
    pub cancel: Option<&'a AtomicBool>,
    /// How fast the source may be read.
    pub rate: Option<&'a Rate>,
    /// What shines through where nothing is put: units that it has too are left out.
    pub parent: Option<&'a dyn Disk>,
    /// Takes the checksums of what is copied.
    pub checksum: Option<&'a Leaves>,
    /// Takes note of what cannot be read, which is copied as zeroes. Without it, that is an error.
    pub losses: Option<&'a Losses>,
    /// Keeps what a later run needs to go on, and says where this one begins.
    pub journal: Option<&'a Journal>,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            progress: None,
            sharing: Sharing::default(),
            cancel: None,
            rate: None,
            parent: None,
            checksum: None,
            losses: None,
            journal: None,
        }
    }
}

impl CopyOptions<'_> {
    /// In which order `target` gets its payloads.
    fn order(&self, target: &dyn Target) -> Order {
        let wants_order = self.checksum.is_some_and(Leaves::wants_order);
        if wants_order || self.journal.is_some() {
            Order::Ascending
        } else {
            target.order()
        }
    }

    /// Whether blocks may be shared, whatever else is wished.
    fn sharing(&self) -> Sharing {
        let looks = self.checksum.is_some()
            || self.parent.is_some()
            || self.losses.is_some()
            || self.journal.is_some();
        if looks { Sharing::Never } else { self.sharing }
    }

    /// Where holes and chunks begin and end: at whole units, and at whole leaves of the checksum.
    fn granularity(&self, unit: NonZeroU64) -> NonZeroU64 {
        let leaf = NonZeroU64::new(LEAF).filter(|_| self.checksum.is_some());
        // Both are powers of two.
        leaf.map_or(unit, |leaf| leaf.max(unit))
    }

    /// How many work, when each takes chunks of `chunk` bytes.
    fn workers(&self, chunk: u64) -> NonZeroUsize {
        let most = MOST_BUFFERED / chunk.saturating_mul(3).max(1);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        self.threads.min(MOST_WORKERS).min(most)
    }
}

/// What was copied, in guest bytes. `data`, `shared`, `zero`, `hole` and `below` add up to the disk's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Put into the target.
    pub data: u64,
    /// In the target by sharing the source's blocks, unread.
    #[serde(default)]
    pub shared: u64,
    /// Read, found to be zeroes, and left out (or marked as zeroes, over a parent).
    pub zero: u64,
    /// Known to be zeroes by the source's own tables, and never read.
    pub hole: u64,
    /// Read, found to be what the parent has too, and left out.
    #[serde(default)]
    pub below: u64,
    /// Decoded from compressed units on the way (part of `data`, `zero` and `below`).
    pub compressed: u64,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.shared += other.shared;
        self.zero += other.zero;
        self.hole += other.hole;
        self.below += other.below;
        self.compressed += other.compressed;
    }
}

/// Copies everything that is not zero from `disk` to `target`, and leaves publishing it to the
/// caller.
///
/// # Errors
/// What `disk` and `target` give; Io with [`std::io::ErrorKind::Interrupted`] as its cause when it
/// was cancelled. The target is unpublished and must not be published then.
pub fn copy(disk: &dyn Disk, target: &dyn Target, options: &CopyOptions<'_>) -> Result<Copied> {
    let sharer = Sharer::new(options.sharing(), target);
    let job = Job::new(disk, target, options, &sharer)?;
    let parts = in_parallel(options.workers(job.chunk()), || job.work())?;
    let copied = job.finish(parts)?;
    if let Some(journal) = options.journal {
        journal.keep(disk.size())?;
    }
    Ok(copied)
}

/// Reads everything of `disk` that is not a hole, for the sake of what `options` do on the way.
///
/// # Errors
/// As [`copy()`].
pub fn read_all(disk: &dyn Disk, options: &CopyOptions<'_>) -> Result<Copied> {
    copy(disk, &Nowhere, options)
}

/// A target that stores nothing.
#[derive(Debug)]
struct Nowhere;

impl Target for Nowhere {
    fn unit(&self) -> NonZeroU64 {
        const { NonZeroU64::new(4096).unwrap() }
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, _offset: u64, _payload: Payload<'_>) -> Result<()> {
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        Ok(Written {
            data_bytes: 0,
            file_bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests;
