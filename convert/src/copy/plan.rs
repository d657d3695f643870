//! `Planner`: walks a disk's runs and cuts what is stored into chunks.

use std::num::NonZeroU64;

use rehost_block::{Disk, Error, Located, Result, Run};

/// What comes next on the disk.
#[derive(Debug)]
pub(super) enum Step {
    /// Whole units of zeroes, of this many bytes.
    Hole(u64),
    /// Something stored.
    Chunk(Chunk),
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

/// Walks a disk once from its start.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    disk: &'a dyn Disk,
    size: u64,
    unit: u64,
    chunk: u64,
    at: u64,
    /// The run at `at`, where `locate` gave more than was taken.
    run: Option<Located>,
    number: u64,
}

impl<'a> Planner<'a> {
    /// Cuts at multiples of `unit`, into chunks of about `chunk` bytes.
    pub(super) fn new(disk: &'a dyn Disk, unit: NonZeroU64, chunk: u64) -> Self {
        let unit = unit.get();
        Self {
            disk,
            size: disk.size(),
            unit,
            chunk: chunk.next_multiple_of(unit),
            at: 0,
            run: None,
            number: 0,
        }
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
                    let whole = self.whole_units(end).saturating_sub(self.at);
                    if parts.is_empty() && whole > 0 {
                        self.take(whole);
                        return Ok(Some(Step::Hole(whole)));
                    }
                    let boundary = self.at.next_multiple_of(self.unit);
                    if self.whole_units(end) > boundary {
                        // At least one unit of zeroes follows: the chunk ends before it.
                        limit = boundary;
                    }
                }
                // A packed unit is decoded by one worker, so the chunk ends after it.
                Run::Packed(_) if end > limit => {
                    limit = self.size.min(end.next_multiple_of(self.unit));
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

    fn peek(&mut self) -> Result<Located> {
        if let Some(located) = &self.run {
            return Ok(located.clone());
        }
        let left = self.size - self.at;
        let located = self.disk.locate(self.at, left)?;
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
