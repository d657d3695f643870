//! Raw images: the guest's bytes as they are, written sparsely.
//!
//! A raw image has no header that could be missing, so until it is published its first sector says
//! that it is unfinished; the guest's own first sector is kept back until then. On a storage that
//! cannot be emptied first (a block device), ranges that nothing was put into are zeroed.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut};

use crate::target::{Order, Payload, Target, Written};

/// Bytes per unit: a page, below which file systems have no holes.
const UNIT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// Bytes kept back: where a partition table or boot sector would be.
const FIRST: usize = 512;

/// What the first sector says until the image is published.
const UNFINISHED: &[u8] = b"rehost: this raw image is unfinished\n";

/// A raw image being written.
#[derive(Debug)]
pub(crate) struct RawTarget {
    storage: Arc<dyn StorageMut>,
    size: u64,
    /// Whether the storage had to be taken as it was.
    before: Before,
    state: Mutex<State>,
}

/// What an untouched range reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Zeroes: the storage was emptied.
    Zeroes,
    /// What somebody left there.
    OldContent,
}

#[derive(Debug)]
struct State {
    /// The guest's first sector.
    first: Vec<u8>,
    stored: u64,
    /// On old content: everything below is written or zeroed.
    settled: u64,
}

impl RawTarget {
    /// An empty image of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage when a device is smaller than that; Io when the storage fails.
    pub(crate) fn create(storage: Arc<dyn StorageMut>, size: u64) -> Result<Self> {
        storage.set_size(0)?;
        // A storage that is not empty after that is a device, with whatever was on it.
        let before = if storage.size() == 0 {
            Before::Zeroes
        } else {
            Before::OldContent
        };
        storage.set_size(size)?;
        let first = vec![0; usize::try_from(size).unwrap_or(FIRST).min(FIRST)];
        let notice: Vec<u8> = UNFINISHED
            .iter()
            .copied()
            .chain(std::iter::repeat(0))
            .take(first.len())
            .collect();
        storage.write_at(&notice, 0)?;
        Ok(Self {
            storage,
            size,
            before,
            state: Mutex::new(State {
                settled: amount(first.len()),
                first,
                stored: 0,
            }),
        })
    }

    /// Zeroes what lies between the last payload and `offset`.
    fn settle(&self, state: &mut State, offset: u64, end: u64) -> Result<()> {
        let gap = offset.saturating_sub(state.settled);
        if gap > 0 {
            self.storage.zero_at(state.settled, gap)?;
        }
        state.settled = state.settled.max(end);
        Ok(())
    }
}

fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Target for RawTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    /// Ascending over old content, so that the gaps are known without a map of the whole device.
    fn order(&self) -> Order {
        match self.before {
            Before::Zeroes => Order::Any,
            Before::OldContent => Order::Ascending,
        }
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("a raw target takes plain bytes only").at(offset));
        };
        let len = amount(bytes.len());
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.size)
            .ok_or_else(|| Error::usage("data lies past the end of the disk").at(offset))?;
        let kept = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if self.before == Before::OldContent {
                if offset != 0 && offset < state.settled {
                    return Err(
                        Error::internal("a device takes its data in ascending order").at(offset),
                    );
                }
                self.settle(&mut state, offset, end)?;
            }
            state.stored = state.stored.saturating_add(len);
            if offset == 0 {
                let kept = state.first.len().min(bytes.len());
                for (place, byte) in state.first.iter_mut().zip(bytes) {
                    *place = *byte;
                }
                kept
            } else {
                0
            }
        };
        self.storage.write_at(
            bytes.get(kept..).unwrap_or_default(),
            offset.saturating_add(amount(kept)),
        )
    }

    fn publish(&self) -> Result<Written> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.before == Before::OldContent {
            self.settle(&mut state, self.size, self.size)?;
        }
        self.storage.sync()?;
        self.storage.write_at(&state.first, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: state.stored,
            file_bytes: self.size,
        })
    }
}
