//! The copy engine: from any [`Disk`] to any [`Target`], in parallel and in bounded memory.
//!
//! One planner walks the source's `locate` and cuts what is stored into chunks; what reads as
//! zeroes is never touched. Workers take chunks, read and decode them into buffers that they keep,
//! leave out units of zeroes, and pack and put the rest; targets that must be written in order get
//! their payloads in turn. Memory is a few buffers per worker, whatever the disk's size.
//!
//! Leaves out on purpose: publishing the target, which is the caller's decision, and
//! `copy_file_range`: it cannot see zeroes, and on file systems without reflinks it was no faster
//! than buffers that stay in the processor's cache.

mod compare;
mod fill;
mod map;
mod plan;
mod turn;

use std::num::NonZeroUsize;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rehost_block::{Disk, Error, Result, Run, is_zero};
use rehost_image::{Order, Payload, Target};
use serde::Serialize;

pub use compare::{Comparison, compare};
pub use map::{Extent, Kind, Map, map};

use fill::Scratch;
use plan::{Chunk, Planner, Step};
use turn::Turnstile;

/// Guest bytes per chunk: small enough for the processor's cache, large enough that a system call
/// costs nothing against it.
const CHUNK: u64 = 1 << 20;

/// Most workers: with the largest units that any format has (2 MiB) each needs about 6 MiB, and all
/// of them together stay below 256 MiB.
const MOST_WORKERS: NonZeroUsize = NonZeroUsize::new(32).unwrap();

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
    /// Set by somebody else (a signal handler) to end the copy early.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            progress: None,
            cancel: None,
        }
    }
}

/// What was copied, in guest bytes. `data`, `zero` and `hole` add up to the disk's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Put into the target.
    pub data: u64,
    /// Read, found to be zeroes, and left out.
    pub zero: u64,
    /// Known to be zeroes by the source's own tables, and never read.
    pub hole: u64,
    /// Decoded from compressed units on the way (part of `data` and `zero`).
    pub compressed: u64,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.zero += other.zero;
        self.hole += other.hole;
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
    let job = Job {
        target,
        order: target.order(),
        unit: usize::try_from(target.unit().get())
            .map_err(|_| Error::internal("a target unit larger than memory"))?,
        total: disk.size(),
        planner: Mutex::new(Planner::new(disk, target.unit(), CHUNK)),
        turns: Turnstile::default(),
        failure: Mutex::new(None),
        done: AtomicU64::new(0),
        data: AtomicU64::new(0),
        options,
    };
    let copied = in_parallel(options.threads.min(MOST_WORKERS), || job.work())?;
    match job
        .failure
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(copied.into_iter().fold(Copied::default(), |mut sum, part| {
            sum += part;
            sum
        })),
    }
}

/// Runs `work` once on each of `threads` threads and gives all results.
fn in_parallel<R: Send>(threads: NonZeroUsize, work: impl Fn() -> R + Sync) -> Result<Vec<R>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|nth| format!("copy-{nth}"))
        .build()
        .map_err(|error| {
            Error::new(rehost_block::Kind::Io, "cannot start threads").because(error)
        })?;
    Ok(pool.broadcast(|_| work()))
}

/// What the workers share.
struct Job<'a> {
    target: &'a dyn Target,
    order: Order,
    unit: usize,
    total: u64,
    planner: Mutex<Planner<'a>>,
    turns: Turnstile,
    failure: Mutex<Option<Error>>,
    done: AtomicU64,
    data: AtomicU64,
    options: &'a CopyOptions<'a>,
}

impl Job<'_> {
    /// One worker, until nothing is left or somebody failed.
    fn work(&self) -> Copied {
        // A worker that panics must not leave the others waiting for its turn.
        let _guard = self.turns.stop_on_panic();
        let mut scratch = Scratch::default();
        let mut copied = Copied::default();
        while !self.turns.stopped() {
            match self.next().and_then(|step| match step {
                None => Ok(None),
                Some(step) => self.take(step, &mut scratch).map(Some),
            }) {
                Ok(None) => break,
                Ok(Some(part)) => copied += part,
                Err(error) => {
                    self.failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    self.turns.stop();
                }
            }
        }
        copied
    }

    fn next(&self) -> Result<Option<Step>> {
        let cancelled = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if self.options.cancel.is_some_and(cancelled) {
            let cause = std::io::Error::from(std::io::ErrorKind::Interrupted);
            return Err(Error::io("copy was cancelled", cause));
        }
        self.planner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }

    fn take(&self, step: Step, scratch: &mut Scratch) -> Result<Copied> {
        let (len, copied) = match step {
            Step::Hole(len) => (
                len,
                Copied {
                    hole: len,
                    ..Copied::default()
                },
            ),
            Step::Chunk(chunk) => (chunk.len, self.chunk(&chunk, scratch)?),
        };
        let done = self.done.fetch_add(len, Ordering::Relaxed) + len;
        let data = self.data.fetch_add(copied.data, Ordering::Relaxed) + copied.data;
        if let Some(progress) = self.options.progress {
            progress.advance(done, self.total, data);
        }
        Ok(copied)
    }

    fn chunk(&self, chunk: &Chunk, scratch: &mut Scratch) -> Result<Copied> {
        let plain = scratch.fill(chunk)?;
        let stretches = stretches(plain, self.unit);
        let data: usize = stretches.iter().map(|(from, to)| to - from).sum();
        let place = |from: usize| chunk.start + from as u64;
        let pack = |&(from, to): &(usize, usize)| {
            let payload = self.target.pack(place(from), &plain[from..to])?;
            Ok((place(from), payload))
        };
        match self.order {
            Order::Any => {
                for stretch in &stretches {
                    let (offset, payload) = pack(stretch)?;
                    self.target.put(offset, payload)?;
                }
            }
            Order::Ascending => {
                let packed: Vec<(u64, Payload<'_>)> =
                    stretches.iter().map(pack).collect::<Result<_>>()?;
                let Some(_turn) = self.turns.wait_for(chunk.number) else {
                    // Another worker failed, and its error is kept.
                    return Ok(Copied::default());
                };
                for (offset, payload) in packed {
                    self.target.put(offset, payload)?;
                }
            }
        }
        let data = data as u64;
        let packed = |part: &&plan::Part| matches!(part.run, Run::Packed(_));
        Ok(Copied {
            data,
            zero: chunk.len - data,
            hole: 0,
            compressed: chunk.parts.iter().filter(packed).map(|p| p.len).sum(),
        })
    }
}

/// The stretches of `plain` made of whole units that are not all zeroes.
fn stretches(plain: &[u8], unit: usize) -> Vec<(usize, usize)> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    let mut from = 0;
    for unit in plain.chunks(unit) {
        let to = from + unit.len();
        if !is_zero(unit) {
            match stretches.last_mut() {
                Some((_, end)) if *end == from => *end = to,
                _ => stretches.push((from, to)),
            }
        }
        from = to;
    }
    stretches
}

#[cfg(test)]
mod tests;
