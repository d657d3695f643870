//! `Blocks`: the block map of a dynamic disk being written, and how data comes into its blocks.
//!
//! VDI and VHD have the same map, a number of 32 bits per block. What the number means, where a new
//! block goes and what is noted of the data in it is the format's [`Layout`].

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut, is_zero};

use crate::target::{Payload, Placed, empty};

/// What is looked at for zeroes, and left a hole where there are only such.
const PIECE: usize = 64 << 10;

/// What a target is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// A file that was emptied: what is not written reads as zeroes.
    Fresh,
    /// A device with whatever was on it.
    Used,
}

impl Ground {
    /// Empties `storage` where it can be.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(crate) fn prepare(storage: &dyn StorageMut) -> Result<Self> {
        empty(storage)?;
        Ok(if storage.size() == 0 {
            Self::Fresh
        } else {
            Self::Used
        })
    }

    /// Makes a range that was not written yet read as zeroes.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(crate) fn clear(self, storage: &dyn StorageMut, offset: u64, len: u64) -> Result<()> {
        match self {
            Self::Used if len > 0 => storage.zero_at(offset, len),
            _ => Ok(()),
        }
    }
}

/// What reads through where nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beneath {
    /// Zeroes, which need not be stored.
    Zeroes,
    /// A parent, which zeroes must hide.
    Parent,
}

/// How a format places blocks.
pub(crate) trait Layout: fmt::Debug + Send + Sync {
    /// Takes room for one more block, and gives its entry in the map. Called by one thread at a
    /// time.
    fn allocate(&self) -> Result<u32>;

    /// Where the data of the block of `entry` begins in the file.
    fn data(&self, entry: u32) -> u64;

    /// Notes that the bytes `within..within + len` of a block are stored.
    fn mark(&self, entry: u32, within: u64, len: u64) -> Result<()> {
        let _ = (entry, within, len);
        Ok(())
    }
}

/// A disk's sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Guest bytes.
    pub(crate) size: u64,
    /// Guest bytes per block.
    pub(crate) block: NonZeroU32,
    /// Guest bytes per unit of the target: divides the block.
    pub(crate) unit: NonZeroU64,
}

/// The block map, and how much is stored.
#[derive(Debug)]
pub(crate) struct Blocks<L> {
    storage: Arc<dyn StorageMut>,
    ground: Ground,
    beneath: Beneath,
    shape: Shape,
    /// The entry of a block without room.
    free: u32,
    layout: L,
    map: Vec<AtomicU32>,
    growing: Mutex<()>,
    stored: AtomicU64,
}

/// The part of a payload that lies in one block.
struct Part {
    /// The block's place in the map.
    index: usize,
    /// Where the part begins in the block, and how long it is.
    within: u64,
    len: u64,
}

impl<L: Layout> Blocks<L> {
    /// A map for a disk of `shape` whose entries are all `free`. The caller has checked the size.
    pub(crate) fn new(
        storage: Arc<dyn StorageMut>,
        ground: Ground,
        beneath: Beneath,
        shape: Shape,
        free: u32,
        layout: L,
    ) -> Self {
        let entries = shape.size.div_ceil(u64::from(shape.block.get()));
        Self {
            storage,
            ground,
            beneath,
            shape,
            free,
            layout,
            map: (0..entries).map(|_| AtomicU32::new(free)).collect(),
            growing: Mutex::new(()),
            stored: AtomicU64::new(0),
        }
    }

    /// Stores `payload`, as [`Target::put`](crate::Target::put) does.
    ///
    /// # Errors
    /// Io when the storage fails; Usage for data outside of the disk or off its units; what the
    /// layout gives.
    pub(crate) fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        match payload {
            Payload::Plain(bytes) => self.put_plain(offset, bytes),
            Payload::Zero(len) => {
                self.check(offset, len)?;
                if self.beneath == Beneath::Zeroes {
                    return Ok(());
                }
                for part in self.parts(offset, len) {
                    let entry = self.ensure(&part)?;
                    let data = self.layout.data(entry).saturating_add(part.within);
                    self.ground.clear(&*self.storage, data, part.len)?;
                    self.layout.mark(entry, part.within, part.len)?;
                }
                Ok(())
            }
            Payload::Packed(_) => {
                Err(Error::internal("this target takes plain blocks only").at(offset))
            }
        }
    }

    fn put_plain(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, amount(bytes))?;
        let mut rest = bytes;
        for part in self.parts(offset, amount(bytes)) {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX);
            let (plain, tail) = rest.split_at(len.min(rest.len()));
            rest = tail;
            if self.beneath == Beneath::Zeroes && is_zero(plain) {
                // A block that has room already has zeroes there, too.
                continue;
            }
            let entry = self.ensure(&part)?;
            let data = self.layout.data(entry).saturating_add(part.within);
            self.write_pieces(plain, data)?;
            self.layout.mark(entry, part.within, part.len)?;
            self.stored.fetch_add(part.len, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes room as [`Target::place`](crate::Target::place) does: as many blocks as follow each
    /// other in the file.
    ///
    /// # Errors
    /// As [`Blocks::put`].
    pub(crate) fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        self.check(offset, len)?;
        let mut placed: Option<Placed> = None;
        for part in self.parts(offset, len) {
            let next = placed
                .as_ref()
                .map(|placed| placed.offset.saturating_add(placed.len));
            // A block that has its room elsewhere, or would get it there, is the next call's.
            if next.is_some() && self.entry(&part)?.load(Ordering::Acquire) != self.free {
                break;
            }
            let entry = self.ensure(&part)?;
            let data = self.layout.data(entry).saturating_add(part.within);
            match &mut placed {
                None => {
                    placed = Some(Placed {
                        storage: Arc::clone(&self.storage),
                        offset: data,
                        len: part.len,
                    });
                }
                Some(placed) if next == Some(data) => {
                    placed.len = placed.len.saturating_add(part.len);
                }
                // Its room stays, and what asks for this block finds it.
                Some(_) => break,
            }
            self.layout.mark(entry, part.within, part.len)?;
        }
        if let Some(placed) = &placed {
            self.stored.fetch_add(placed.len, Ordering::Relaxed);
        }
        Ok(placed)
    }

    /// Gives every block its room, in the disk's order.
    ///
    /// # Errors
    /// What the layout gives; Io when the storage fails.
    pub(crate) fn take_all(&self) -> Result<()> {
        for index in 0..self.map.len() {
            self.ensure(&Part {
                index,
                within: 0,
                len: 0,
            })?;
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        if end > self.shape.size || offset % self.shape.unit != 0 {
            return Err(Error::usage("data lies outside the disk or off its units").at(offset));
        }
        Ok(())
    }

    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<L> {
        let block = NonZeroU64::from(self.shape.block);
        let end = offset.saturating_add(len);
        let mut at = offset;
        // Ends because every part has at least a byte.
        std::iter::from_fn(move || {
            let (index, within) = (at / block, at % block);
            let len = block
                .get()
                .saturating_sub(within)
                .min(end.saturating_sub(at));
            at = at.saturating_add(len);
            (len > 0).then(|| Part {
                index: usize::try_from(index).unwrap_or(usize::MAX),
                within,
                len,
            })
        })
    }

    fn entry(&self, part: &Part) -> Result<&AtomicU32> {
        self.map
            .get(part.index)
            .ok_or_else(|| Error::usage("data lies past the end of the disk"))
    }

    /// The entry of the part's block, which gets its room now if it has none. What the part does
    /// not cover reads as zeroes.
    fn ensure(&self, part: &Part) -> Result<u32> {
        let slot = self.entry(part)?;
        let known = slot.load(Ordering::Acquire);
        if known != self.free {
            return Ok(known);
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slot.load(Ordering::Acquire);
        if known != self.free {
            return Ok(known);
        }
        let entry = self.layout.allocate()?;
        let data = self.layout.data(entry);
        let end = part.within.saturating_add(part.len);
        let after = u64::from(self.shape.block.get()).saturating_sub(end);
        self.ground.clear(&*self.storage, data, part.within)?;
        self.ground
            .clear(&*self.storage, data.saturating_add(end), after)?;
        slot.store(entry, Ordering::Release);
        Ok(entry)
    }

    /// Writes `bytes` at `at`, but for pieces of zeroes, which stay holes.
    fn write_pieces(&self, bytes: &[u8], at: u64) -> Result<()> {
        // Pieces of one kind that lie together go out with one call.
        let pieces: Vec<(bool, &[u8])> = bytes
            .chunks(PIECE)
            .map(|piece| (is_zero(piece), piece))
            .collect();
        let mut at = at;
        let mut rest = bytes;
        for run in pieces.chunk_by(|left, right| left.0 == right.0) {
            let len: usize = run.iter().map(|(_, piece)| piece.len()).sum();
            let (part, tail) = rest.split_at(len.min(rest.len()));
            if run.first().is_some_and(|(zero, _)| *zero) {
                self.ground.clear(&*self.storage, at, amount(part))?;
            } else {
                self.storage.write_at(part, at)?;
            }
            at = at.saturating_add(amount(part));
            rest = tail;
        }
        Ok(())
    }

    /// Where blocks go.
    pub(crate) const fn layout(&self) -> &L {
        &self.layout
    }

    /// Guest bytes of the whole disk.
    pub(crate) const fn size(&self) -> u64 {
        self.shape.size
    }

    /// How many entries the map has.
    ///
    /// # Errors
    /// Internal when they are more than 32 bits count.
    pub(crate) fn count(&self) -> Result<u32> {
        u32::try_from(self.map.len())
            .map_err(|_| Error::internal("a block map past the format's limit"))
    }

    /// The map as it is stored, each entry by `encode`.
    pub(crate) fn map_bytes(&self, encode: fn(u32) -> [u8; 4]) -> Vec<u8> {
        self.map
            .iter()
            .flat_map(|entry| encode(entry.load(Ordering::Relaxed)))
            .collect()
    }

    /// Guest bytes stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// The length of `bytes` as the formats count.
pub(crate) fn amount(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
