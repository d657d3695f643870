//! `Pieces`: a storage made of independently packed pieces, each decoded when it is asked for.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, Storage};

use super::MAX_PIECES;

/// Plain bytes kept. Ours: two of the largest pieces.
const KEPT: u64 = 64 << 20;

/// Turns one packed piece into its plain bytes.
pub(super) trait Unpack: Send + Sync + fmt::Debug {
    /// Decodes all of `packed`, which is piece `number`, into exactly `plain.len()` bytes.
    ///
    /// # Errors
    /// Corrupt when it does not decode to that, or bytes of it are left over.
    fn unpack(&self, number: usize, packed: &[u8], plain: &mut [u8]) -> Result<()>;
}

/// Where the pieces are.
#[derive(Debug)]
pub(super) struct Index {
    unpack: Box<dyn Unpack>,
    /// Of each piece the first packed and the first plain byte; in the end those behind the last.
    starts: Vec<(u64, u64)>,
    /// Packed bytes of each piece, where they do not reach to the next one.
    largest: u64,
}

impl Index {
    /// An index without pieces, the first of which will begin at byte `at` of the file.
    pub(super) fn new(unpack: Box<dyn Unpack>, at: u64) -> Self {
        Self {
            unpack,
            starts: vec![(at, 0)],
            largest: 0,
        }
    }

    /// Adds a piece of `packed` bytes behind the others, which decode to `plain` bytes. Gives
    /// nothing when there are too many.
    ///
    /// # Errors
    /// Corrupt when their sum is out of range.
    pub(super) fn push(&mut self, packed: u64, plain: u64) -> Result<Option<()>> {
        if self.starts.len() > MAX_PIECES {
            return Ok(None);
        }
        let (at, plain_at) = self.end();
        let next = at.checked_add(packed).zip(plain_at.checked_add(plain));
        self.starts.push(
            next.ok_or_else(|| Error::corrupt("sizes of the pieces are out of range").at(at))?,
        );
        self.largest = self.largest.max(plain).max(packed);
        Ok(Some(()))
    }

    /// The bytes behind the last piece: packed, plain.
    pub(super) fn end(&self) -> (u64, u64) {
        self.starts.last().copied().unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Bytes of the largest piece, plain or packed.
    pub(super) const fn largest(&self) -> u64 {
        self.largest
    }

    /// The piece in which plain byte `offset` is.
    fn at(&self, offset: u64) -> Option<Piece> {
        // The last of the pieces that begin there: empty ones may come before.
        let next = self.starts.partition_point(|(_, plain)| *plain <= offset);
        let number = next.checked_sub(1)?;
        let ((at, plain_at), (end, plain_end)) = self
            .starts
            .get(number)
            .copied()
            .zip(self.starts.get(next).copied())?;
        Some(Piece {
            number,
            at,
            len: end.saturating_sub(at),
            plain_at,
            plain_len: plain_end.saturating_sub(plain_at),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    number: usize,
    at: u64,
    len: u64,
    plain_at: u64,
    plain_len: u64,
}

/// A decoded piece, or the place where one thread decodes it and others wait.
type Slot = Arc<Mutex<Option<Vec<u8>>>>;

/// The storage.
#[derive(Debug)]
pub(super) struct Pieces {
    storage: Arc<dyn Storage>,
    index: Index,
    kept: Mutex<VecDeque<(Piece, Slot)>>,
}

impl Pieces {
    pub(super) fn new(storage: Arc<dyn Storage>, index: Index) -> Self {
        Self {
            storage,
            index,
            kept: Mutex::default(),
        }
    }

    fn slot(&self, piece: Piece) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(one, _)| one.number == piece.number);
        let found = place.and_then(|place| kept.remove(place));
        let (_, slot) = found.unwrap_or_else(|| (piece, Slot::default()));
        kept.push_front((piece, Arc::clone(&slot)));
        let mut bytes = 0u64;
        // The one at hand is kept, whatever its size.
        let most = kept.iter().position(|(piece, _)| {
            bytes = bytes.saturating_add(piece.plain_len);
            bytes > KEPT
        });
        let most = most.unwrap_or(kept.len()).max(1);
        kept.truncate(most);
        slot
    }

    fn decode(&self, piece: Piece, plain: &mut [u8]) -> Result<()> {
        // At most as long as `MAX_PIECE`, which was checked for the whole index.
        let mut packed = vec![0; length(piece.len)?];
        self.storage.read_at(&mut packed, piece.at)?;
        self.index
            .unpack
            .unpack(piece.number, &packed, plain)
            .map_err(|error| error.at(piece.at).in_file(self.storage.name()))
    }
}

impl Storage for Pieces {
    fn name(&self) -> &Path {
        self.storage.name()
    }

    fn size(&self) -> u64 {
        self.index.end().1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        let mut at = offset;
        // Ends because every round fills at least a byte of `rest`.
        while !rest.is_empty() {
            let piece = self.index.at(at).ok_or_else(|| {
                Error::corrupt("wrapped image is truncated")
                    .in_file(self.storage.name())
                    .mismatch(format!("{} more bytes", rest.len()), 0)
            })?;
            let within = length(at.saturating_sub(piece.plain_at))?;
            let whole = length(piece.plain_len)?;
            let len = whole.saturating_sub(within).min(rest.len()).max(1);
            let (part, tail) = rest
                .split_at_mut_checked(len)
                .ok_or_else(|| Error::internal("a piece without bytes"))?;
            if len == whole {
                self.decode(piece, part)?;
            } else {
                let slot = self.slot(piece);
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.is_none() {
                    let mut plain = vec![0; whole];
                    self.decode(piece, &mut plain)?;
                    *slot = Some(plain);
                }
                let plain = slot.as_deref().unwrap_or_default();
                let bytes = within
                    .checked_add(len)
                    .and_then(|end| plain.get(within..end))
                    .ok_or_else(|| Error::internal("a piece is shorter than its index says"))?;
                part.copy_from_slice(bytes);
            }
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            rest = tail;
        }
        Ok(())
    }
}

fn length(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::unsupported("piece exceeds this machine's memory"))
}
