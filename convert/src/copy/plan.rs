//! `Planner`: walks a disk's runs and cuts what is stored into chunks.

use std::num::NonZeroU64;

use rehost_block::{Disk, Error, Located, Result, Run};

use super::salvage::{BLIND, Losses};
use super::share::Sharer;

/// What comes next on the disk.
#[derive(Debug)]
pub(super) enum Step {
    /// Whole units of zeroes, of this many bytes.
    Hole(u64),
    /// Something stored.
    Chunk(Chunk),
    /// A run of whole units whose blocks may be shared: its first byte on the disk, its length.
    Share { run: Run, start: u64, len: u64 },
}

/// A stretch of the disk for one worker: it begins at a unit and ends at one (or with the disk).
#[derive(Debug)]
pub(super) struct Chunk {
    /// Counts chunks from 0, in disk order.
    pub(super) number: u64,
    /// Guest offset in bytes.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Its runs, in order, without gaps.
    pub(super) parts: Vec<Part>,
}

/// A run and for how many bytes it holds.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) run: Run,
    pub(super) len: u64,
}

/// What the planner looks at, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The disk to copy.
    pub(super) disk: &'a dyn Disk,
    /// Where to begin: a multiple of `unit`, or the disk's end.
    pub(super) start: u64,
    /// Holes and chunks begin and end at multiples of it.
    pub(super) unit: NonZeroU64,
    /// About so many bytes are a chunk.
    pub(super) chunk: u64,
    /// The disk whose bytes shine through where nothing is put: zeroes over its data are no holes.
    pub(super) parent: Option<&'a dyn Disk>,
    /// Takes note of what the disk's tables do not tell, which then is zeroes.
    pub(super) losses: Option<&'a Losses>,
    /// Knows which runs are to be shared instead.
    pub(super) sharer: &'a Sharer,
}

/// Walks a disk once.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    disk: &'a dyn Disk,
    parent: Option<&'a dyn Disk>,
    losses: Option<&'a Losses>,
    sharer: &'a Sharer,
    size: u64,
    unit: NonZeroU64,
    chunk: u64,
    at: u64,
    /// The run at `at`, where `locate` gave more than was taken.
    run: Option<Located>,
    number: u64,
}

impl<'a> Planner<'a> {
    /// Begins where `scope` says.
    pub(super) fn new(scope: &Scope<'a>) -> Self {
        let unit = scope.unit;
        Self {
            disk: scope.disk,
            parent: scope.parent,
            losses: scope.losses,
            sharer: scope.sharer,
            size: scope.disk.size(),
            unit,
            chunk: scope.chunk.next_multiple_of(unit.get()),
            at: scope.start,
            run: None,
            number: 0,
        }
    }

    /// Guest bytes per chunk, but for those that end with a packed unit.
    pub(super) const fn chunk(&self) -> u64 {
        self.chunk
    }

    /// The next step; nothing at the end of the disk.
    ///
    /// # Errors
    /// As the disk's `locate`.
    pub(super) fn next(&mut self) -> Result<Option<Step>> {
        if self.at >= self.size {
            return Ok(None);
        }
        let start = self.at;
        let mut parts = Vec::new();
        let mut limit = self.size.min((start / self.chunk + 1) * self.chunk);
        // Ends because every round takes at least one byte or leaves.
        while self.at < limit {
            let located = self.peek()?;
            let (len, end) = (located.len, self.at + located.len);
            match located.run {
                Run::Zero => {
                    let end = self.clear_below(end)?;
                    let whole = self.whole_units(end).saturating_sub(self.at);
                    if parts.is_empty() && whole > 0 {
                        self.take(whole);
                        return Ok(Some(Step::Hole(whole)));
                    }
                    let boundary = self.at.next_multiple_of(self.unit.get());
                    if self.whole_units(end) > boundary {
                        // At least one unit of zeroes follows: the chunk ends before it.
                        limit = boundary;
                    }
                }
                // A packed unit is decoded by one worker, so the chunk ends after it.
                Run::Packed(_) if end > limit => {
                    limit = self.size.min(end.next_multiple_of(self.unit.get()));
                }
                ref run @ Run::At { .. } if self.at.is_multiple_of(self.unit.get()) => {
                    if let Some(len) = self.sharer.takes(run, len, self.unit) {
                        if !parts.is_empty() {
                            break;
                        }
                        let start = self.at;
                        let Some(Part { run, len }) = self.take(len.get()) else {
                            return Err(Error::internal("a run was lost").at(start));
                        };
                        return Ok(Some(Step::Share { run, start, len }));
                    }
                }
                Run::At { .. } | Run::Packed(_) => {}
                Run::Below | Run::End => {
                    return Err(Error::internal("an unresolved run reached the copy").at(self.at));
                }
            }
            let take = len.min(limit - self.at);
            if take > 0 {
                parts.extend(self.take(take));
            }
        }
        let number = self.number;
        self.number += 1;
        Ok(Some(Step::Chunk(Chunk {
            number,
            start,
            len: self.at - start,
            parts,
        })))
    }

    /// The end of the last whole unit before `end`; the disk's own end counts as one.
    fn whole_units(&self, end: u64) -> u64 {
        if end == self.size {
            end
        } else {
            end - end % self.unit
        }
    }

    /// How far up to `end` zeroes from here need not be put: all of it, but for where a parent has
    /// something else.
    fn clear_below(&self, end: u64) -> Result<u64> {
        let Some(parent) = self.parent.filter(|parent| parent.size() > self.at) else {
            return Ok(end);
        };
        let want = end.min(parent.size()) - self.at;
        let below = parent.locate(self.at, want)?;
        Ok(match below.run {
            Run::Zero if self.at + below.len >= parent.size() => end,
            Run::Zero => self.at + below.len,
            _ => self.at,
        })
    }

    fn peek(&mut self) -> Result<Located> {
        if let Some(located) = &self.run {
            return Ok(located.clone());
        }
        let left = self.size - self.at;
        let located = match (self.disk.locate(self.at, left), self.losses) {
            (Err(error), Some(losses)) => {
                let len = left.min(BLIND - self.at % BLIND);
                losses.note(self.at, len, error)?;
                Located::new(Run::Zero, len)
            }
            (located, _) => located?,
        };
        if located.len == 0 || located.len > left {
            return Err(Error::internal("locate answered with an impossible length").at(self.at));
        }
        self.run = Some(located.clone());
        Ok(located)
    }

    /// Takes `len` bytes of the run at hand.
    fn take(&mut self, len: u64) -> Option<Part> {
        let located = self.run.take()?;
        self.at += len;
        if located.len > len {
            self.run = Some(Located::new(after(&located.run, len), located.len - len));
        }
        Some(Part {
            run: located.run,
            len,
        })
    }
}

/// What is left of a run behind its first `len` bytes.
pub(super) fn after(run: &Run, len: u64) -> Run {
    match run {
        Run::At { storage, offset } => Run::At {
            storage: storage.clone(),
            offset: offset + len,
        },
        Run::Packed(packed) => {
            let mut packed = packed.clone();
            packed.skip += len;
            Run::Packed(packed)
        }
        Run::Below => Run::Below,
        Run::Zero => Run::Zero,
        Run::End => Run::End,
    }
}
