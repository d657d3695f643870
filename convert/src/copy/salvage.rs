//! `Losses`: what of a damaged source could not be read, and goes on as zeroes.
//!
//! A read that fails is tried again in halves, down to a sector, so that no more is given up than
//! must be; a compressed unit that does not decode is given up as a whole. Where the source's own
//! tables cannot be read, nobody knows how far the damage goes: pieces of 64 KiB are given up until
//! the tables answer again.
//!
//! Leaves out on purpose: repeated reads of the same sector (a drive does that by itself), and images
//! whose header cannot be opened at all.

use std::sync::{Mutex, PoisonError};

use rehost_block::{Error, Kind, Result, Storage};
use serde::Serialize;

/// Bytes below which nothing is divided.
const SECTOR: usize = 512;

/// Guest bytes given up at a time where a source cannot say what is there.
pub(super) const BLIND: u64 = 64 << 10;

/// Most places that are told apart. Ours: a source that is worse than that is no source, and the
/// list stays small against the memory that a copy may use.
const MOST: usize = 100_000;

/// A stretch of the disk that could not be read and is zeroes in the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Guest offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The first error met in it.
    pub error: String,
}

/// What was lost so far.
#[derive(Debug, Default)]
pub struct Losses {
    lost: Mutex<Vec<Lost>>,
}

impl Losses {
    /// Notes that `length` bytes at guest `offset` cannot be read because of `error`.
    ///
    /// # Errors
    /// `error` itself when it is this program's fault and not the source's; Io when too much is
    /// lost already.
    pub(super) fn note(&self, offset: u64, length: u64, error: Error) -> Result<()> {
        if !matches!(error.kind(), Kind::Io | Kind::Corrupt | Kind::Unsupported) {
            return Err(error);
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = lost.last_mut()
            && last.offset + last.length == offset
        {
            last.length += length;
            return Ok(());
        }
        if lost.len() >= MOST {
            let what = format!("more than {MOST} places cannot be read");
            return Err(Error::new(Kind::Io, what).at(offset).because(error));
        }
        lost.push(Lost {
            offset,
            length,
            error: error.to_string(),
        });
        Ok(())
    }

    /// Fills `place` from `storage` as far as that can be read, and with zeroes elsewhere. `first`
    /// is why reading it in one piece failed.
    ///
    /// # Errors
    /// As [`Losses::note`].
    pub(super) fn rescue(
        &self,
        storage: &dyn Storage,
        place: &mut [u8],
        offset: u64,
        guest: u64,
        first: Error,
    ) -> Result<()> {
        if place.len() <= SECTOR {
            place.fill(0);
            return self.note(guest, place.len() as u64, first);
        }
        let half = (place.len() / 2).next_multiple_of(SECTOR);
        let (low, high) = place.split_at_mut(half);
        // Ends because halves are shorter than the whole, down to a sector.
        for (part, by) in [(low, 0), (high, half as u64)] {
            if let Err(error) = storage.read_at(part, offset + by) {
                self.rescue(storage, part, offset + by, guest + by, error)?;
            }
        }
        Ok(())
    }

    /// Everything that was lost, in disk order, neighbours joined.
    #[must_use]
    pub fn into_map(self) -> Vec<Lost> {
        let mut lost = self
            .lost
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        lost.sort_by_key(|lost| lost.offset);
        let mut map: Vec<Lost> = Vec::with_capacity(lost.len());
        for next in lost {
            match map.last_mut() {
                Some(last) if last.offset + last.length >= next.offset => {
                    last.length = last.length.max(next.offset + next.length - last.offset);
                }
                _ => map.push(next),
            }
        }
        map
    }
}
