//! `Job`: what the workers of one copy share, and what each of them does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rehost_block::{Disk, Error, Result, Run};
use rehost_image::{Order, Payload, Target};

use super::fill::Scratch;
use super::plan::{Chunk, Part, Planner, Scope, Step, after};
use super::share::{Filled, Sharer, as_chunk};
use super::stretch::{self, Kind, Stretch};
use super::{CHUNK, Copied, CopyOptions};
use crate::turn::Turnstile;

/// What the workers share.
pub(super) struct Job<'a> {
    target: &'a dyn Target,
    sharer: &'a Sharer,
    order: Order,
    unit: usize,
    chunk: u64,
    total: u64,
    /// What an earlier run did.
    before: Copied,
    planner: Mutex<Planner<'a>>,
    turns: Turnstile,
    failure: Mutex<Option<Error>>,
    done: AtomicU64,
    data: AtomicU64,
    options: &'a CopyOptions<'a>,
}

impl<'a> Job<'a> {
    /// Copies `disk` to `target`, from where the journal says on.
    ///
    /// # Errors
    /// Internal for units that memory cannot hold.
    pub(super) fn new(
        disk: &'a dyn Disk,
        target: &'a dyn Target,
        options: &'a CopyOptions<'a>,
        sharer: &'a Sharer,
    ) -> Result<Self> {
        let at = options
            .journal
            .map_or_else(Default::default, crate::resume::Journal::position);
        let planner = Planner::new(&Scope {
            disk,
            start: at.done,
            unit: options.granularity(target.unit()),
            chunk: CHUNK,
            parent: options.parent,
            losses: options.losses,
            sharer,
        });
        Ok(Self {
            target,
            sharer,
            order: options.order(target),
            unit: usize::try_from(target.unit().get())
                .map_err(|_| Error::internal("a target unit larger than memory"))?,
            chunk: planner.chunk(),
            total: disk.size(),
            before: at.copied,
            planner: Mutex::new(planner),
            turns: Turnstile::default(),
            failure: Mutex::new(None),
            done: AtomicU64::new(at.done),
            data: AtomicU64::new(at.copied.data),
            options,
        })
    }

    /// Guest bytes per chunk.
    pub(super) const fn chunk(&self) -> u64 {
        self.chunk
    }

    /// The whole copy, from what each worker did.
    pub(super) fn finish(self, parts: Vec<Copied>) -> Result<Copied> {
        match self
            .failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => Ok(parts.into_iter().fold(self.before, |mut sum, part| {
                sum += part;
                sum
            })),
        }
    }

    /// One worker, until nothing is left or somebody failed.
    pub(super) fn work(&self) -> Copied {
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
            Step::Chunk(chunk) => (chunk.len, self.chunk_of(&chunk, scratch)?),
            Step::Share { run, start, len } => (len, self.share(&run, start, len, scratch)?),
        };
        let done = self.done.fetch_add(len, Ordering::Relaxed) + len;
        let stored = copied.data + copied.shared;
        let data = self.data.fetch_add(stored, Ordering::Relaxed) + stored;
        if let Some(progress) = self.options.progress {
            progress.advance(done, self.total, data);
        }
        Ok(copied)
    }

    /// A run whose blocks may be shared, or must be copied after all.
    fn share(&self, run: &Run, start: u64, len: u64, scratch: &mut Scratch) -> Result<Copied> {
        let mut copied = Copied::default();
        let mut done = 0;
        // Ends because every round goes forward by at least one unit, or fails.
        while done < len {
            let (at, left) = (start + done, len - done);
            let rest = after(run, done);
            let Run::At { storage, offset } = &rest else {
                return Err(Error::internal("a run to share is not stored plainly").at(at));
            };
            match self
                .sharer
                .fill(self.target, at, left, (storage, *offset))?
            {
                Some((filled, Filled::Shared)) => {
                    copied.shared += filled;
                    done += filled;
                }
                Some((filled, Filled::Copied)) => {
                    copied.data += filled;
                    done += filled;
                }
                None => {
                    let piece = left.min(self.chunk);
                    copied += self.chunk_of(&as_chunk(rest, at, piece), scratch)?;
                    done += piece;
                }
            }
        }
        Ok(copied)
    }

    fn chunk_of(&self, chunk: &Chunk, scratch: &mut Scratch) -> Result<Copied> {
        if let Some(rate) = self.options.rate {
            rate.take(stored(chunk), self.options.cancel);
        }
        let plain = scratch.fill(chunk, self.options.losses)?;
        let leaves = self
            .options
            .checksum
            .map_or_else(Vec::new, |leaves| leaves.add(chunk.start, plain));
        let (plain, stretches) = match self.options.parent {
            None => (plain, stretch::alone(plain, self.unit)),
            Some(parent) => {
                let (plain, below) = scratch.beside(chunk, parent)?;
                (plain, stretch::over(plain, below, self.unit))
            }
        };
        let copied = counted(chunk, &stretches);
        let payloads = stretches
            .iter()
            .filter_map(|stretch| self.payload(chunk, plain, stretch));
        match self.order {
            Order::Any => {
                for payload in payloads {
                    let (offset, payload) = payload?;
                    self.target.put(offset, payload)?;
                }
            }
            Order::Ascending => {
                let payloads: Vec<(u64, Payload<'_>)> = payloads.collect::<Result<_>>()?;
                let Some(_turn) = self.turns.wait_for(chunk.number) else {
                    // Another worker failed, and its error is kept.
                    return Ok(Copied::default());
                };
                if let Some(checksum) = self.options.checksum {
                    checksum.in_turn(chunk.start, plain);
                }
                if let Some(journal) = self.options.journal {
                    let end = chunk.start + chunk.len;
                    journal.put(self.target, payloads, end, copied, leaves)?;
                } else {
                    for (offset, payload) in payloads {
                        self.target.put(offset, payload)?;
                    }
                }
            }
        }
        Ok(copied)
    }

    /// What the target is to be given for a stretch, if anything.
    fn payload<'b>(
        &self,
        chunk: &Chunk,
        plain: &'b [u8],
        stretch: &Stretch,
    ) -> Option<Result<(u64, Payload<'b>)>> {
        let offset = chunk.start + stretch.from as u64;
        let payload = match stretch.kind {
            Kind::Data => self.target.pack(offset, &plain[stretch.from..stretch.to]),
            Kind::Hide => Ok(Payload::Zero(stretch.len())),
            Kind::Zero | Kind::Below => return None,
        };
        Some(payload.map(|payload| (offset, payload)))
    }
}

/// Bytes of the chunk that the source stores.
fn stored(chunk: &Chunk) -> u64 {
    let is_stored = |part: &&Part| !matches!(part.run, Run::Zero);
    chunk
        .parts
        .iter()
        .filter(is_stored)
        .map(|part| part.len)
        .sum()
}

fn counted(chunk: &Chunk, stretches: &[Stretch]) -> Copied {
    let packed = |part: &&Part| matches!(part.run, Run::Packed(_));
    let mut copied = Copied {
        compressed: chunk.parts.iter().filter(packed).map(|p| p.len).sum(),
        ..Copied::default()
    };
    for stretch in stretches {
        match stretch.kind {
            Kind::Data => copied.data += stretch.len(),
            Kind::Zero | Kind::Hide => copied.zero += stretch.len(),
            Kind::Below => copied.below += stretch.len(),
        }
    }
    copied
}
