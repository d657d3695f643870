//! `compare`: whether two disks read the same.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rehost_block::{Disk, Error, Located, Result, Run, is_zero};
use serde::Serialize;

use super::CHUNK;
use super::fill::Scratch;
use super::plan::{Chunk, Part};
use super::same::{SameStorage, locate};
use crate::turn::in_parallel;

/// The answer of [`compare()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Guest offset of the first byte that differs. A disk that ends early is taken to go on with
    /// zeroes, as `qemu-img compare` does.
    pub first_difference: Option<u64>,
    /// Guest-visible sizes of the two disks in bytes.
    pub sizes: (u64, u64),
}

impl Comparison {
    /// Whether every byte is the same; sizes may differ by zeroes at the end.
    #[must_use]
    pub const fn same(&self) -> bool {
        self.first_difference.is_none()
    }
}

/// Compares two disks byte by byte on all processors. What both know to be zeroes, and what both
/// have at the same place of the same storage, is not read.
///
/// # Errors
/// What the disks give; Io when the threads cannot be started.
pub fn compare(a: &dyn Disk, b: &dyn Disk) -> Result<Comparison> {
    let sizes = (a.size(), b.size());
    let job = Job {
        a,
        b,
        size: sizes.0.max(sizes.1),
        at: Mutex::new(0),
        difference: AtomicU64::new(u64::MAX),
        stopped: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    in_parallel(threads, || job.work())?;
    if let Some(error) = job
        .failure
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        return Err(error);
    }
    let first = job.difference.into_inner();
    Ok(Comparison {
        first_difference: (first != u64::MAX).then_some(first),
        sizes,
    })
}

struct Job<'a> {
    a: &'a dyn Disk,
    b: &'a dyn Disk,
    size: u64,
    /// Everything before is handed out.
    at: Mutex<u64>,
    /// The lowest difference so far.
    difference: AtomicU64,
    stopped: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Job<'_> {
    fn work(&self) {
        let mut scratch = (Scratch::default(), Scratch::default());
        while !self.stopped.load(Ordering::Relaxed) {
            match self.next().and_then(|range| match range {
                None => Ok(false),
                Some((start, end)) => self.range(start, end, &mut scratch).map(|()| true),
            }) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    self.failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }
        }
    }

    /// The next range that must be read; nothing at the end or behind a difference (ranges are
    /// handed out in order, so what is before it is in somebody's hands).
    fn next(&self) -> Result<Option<(u64, u64)>> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        // Ends because `at` grows every round.
        while *at < self.size && self.difference.load(Ordering::Relaxed) > *at {
            let start = *at;
            let a = locate(self.a, start, self.size - start)?;
            let b = locate(self.b, start, self.size - start)?;
            if SameStorage::Opened.place(&a.run, &b.run) {
                *at += a.len.min(b.len);
                continue;
            }
            let end = self.size.min((start / CHUNK + 1) * CHUNK);
            // A packed unit belongs to one range, so that it is decoded once.
            let end = [a, b].iter().fold(end, |end, located| match located.run {
                Run::Packed(_) => end.max(start + located.len),
                _ => end,
            });
            *at = end;
            return Ok(Some((start, end)));
        }
        Ok(None)
    }

    fn range(&self, start: u64, end: u64, scratch: &mut (Scratch, Scratch)) -> Result<()> {
        let a = gather(self.a, start, end)?;
        let b = gather(self.b, start, end)?;
        let found = match (all_zero(&a), all_zero(&b)) {
            (true, true) => None,
            (true, false) => first_set(scratch.1.fill(&b, None)?),
            (false, true) => first_set(scratch.0.fill(&a, None)?),
            (false, false) => {
                let (a, b) = (scratch.0.fill(&a, None)?, scratch.1.fill(&b, None)?);
                if a == b {
                    None
                } else {
                    a.iter().zip(b).position(|(a, b)| a != b)
                }
            }
        };
        if let Some(nth) = found {
            self.difference
                .fetch_min(start + nth as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn gather(disk: &dyn Disk, start: u64, end: u64) -> Result<Chunk> {
    let mut parts = Vec::new();
    let mut at = start;
    // Ends because every answer moves `at` on.
    while at < end {
        let Located { run, len } = locate(disk, at, end - at)?;
        at += len;
        parts.push(Part { run, len });
    }
    Ok(Chunk {
        number: 0,
        start,
        len: end - start,
        parts,
    })
}

fn all_zero(chunk: &Chunk) -> bool {
    chunk.parts.iter().all(|p| matches!(p.run, Run::Zero))
}

fn first_set(bytes: &[u8]) -> Option<usize> {
    if is_zero(bytes) {
        return None;
    }
    bytes.iter().position(|byte| *byte != 0)
}
