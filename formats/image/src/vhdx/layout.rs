//! `Blocks`: where the blocks of a VHDX being written go, and what its tables say of them.
//!
//! \[MS-VHDX\] §2.5. Without a parent only two states are used, not present and fully present. Over a
//! parent a block that is put whole is fully present, one of zeroes is `ZERO`, and all others are
//! partially present, with their sectors noted in the sector bitmap block of their chunk. The table
//! has its place from the start, so an entry is written as soon as its block has a place.

use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut};

use super::metadata::{Geometry, Part};
use super::{MIB, length};
use crate::blocks::Ground;
use crate::room::too_small;
use crate::sector_bits::{Bit, BitOrder};
use crate::target::Placed;

/// Kinds of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// The low bits of a table entry: the states that are written.
pub(super) const ZERO: u64 = 2;
pub(super) const FULLY_PRESENT: u64 = 6;
pub(super) const PARTIALLY_PRESENT: u64 = 7;

/// A block map's entry of a block of zeroes over a parent. No block is there.
const HIDDEN: u32 = u32::MAX;

/// The blocks of an image being written.
#[derive(Debug)]
pub(super) struct Blocks {
    storage: Arc<dyn StorageMut>,
    ground: Ground,
    kind: Kind,
    geometry: Geometry,
    /// Where the block allocation table is.
    bat: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where each block is, in MiB; 0 for those without a place. 4 bytes per block, which is
    /// touched only where data comes.
    places: Vec<u32>,
    /// The same of each chunk's sector bitmap block.
    bitmaps: Vec<u32>,
    /// The first byte that no block has yet.
    next: u64,
}

impl Blocks {
    /// No blocks yet of a disk of `geometry`, whose table is at `bat`; the first goes to `first`.
    ///
    /// # Errors
    /// Unsupported when the disk has more blocks than memory.
    pub(super) fn new(
        storage: Arc<dyn StorageMut>,
        ground: Ground,
        kind: Kind,
        geometry: Geometry,
        bat: u64,
        first: u64,
    ) -> Result<Self> {
        let chunks = match kind {
            Kind::Differencing => geometry.blocks().div_ceil(geometry.chunk_ratio.get()),
            Kind::Fixed | Kind::Dynamic => 0,
        };
        Ok(Self {
            storage,
            ground,
            kind,
            geometry,
            bat,
            state: Mutex::new(State {
                places: vec![0; length(geometry.blocks())?],
                bitmaps: vec![0; length(chunks)?],
                next: first,
            }),
        })
    }

    /// Gives every block its place, in the disk's order, and room in the file.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn take_all(&self) -> Result<()> {
        let block = self.geometry.block.get();
        for number in 0..self.geometry.blocks() {
            self.place(&Part {
                block: number,
                within: 0,
                len: 0,
            })?;
        }
        let end = self.end();
        let len = self.geometry.blocks().saturating_mul(block);
        self.storage.set_size(end)?;
        self.ground
            .clear(&*self.storage, end.saturating_sub(len), len)
    }

    /// Where the last block ends.
    pub(super) fn end(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next
    }

    /// Where `part` is, which is about to be stored; its block gets a place first where it has
    /// none.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn place(&self, part: &Part) -> Result<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.place_locked(part, &mut state)
    }

    /// As many parts of the range as follow each other in the file.
    ///
    /// # Errors
    /// As [`Blocks::place`].
    pub(super) fn place_all(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut placed: Option<Placed> = None;
        for part in self.geometry.parts(offset, len) {
            if let Some(placed) = &placed {
                let end = placed.offset.saturating_add(placed.len);
                let (known, _) = self.known(part.block, &state)?;
                if known.unwrap_or(state.next) != end {
                    break;
                }
            }
            let at = self.place_locked(&part, &mut state)?;
            match &mut placed {
                None => {
                    placed = Some(Placed {
                        storage: Arc::clone(&self.storage),
                        offset: at,
                        len: part.len,
                    });
                }
                Some(placed) => placed.len = placed.len.saturating_add(part.len),
            }
            if self.kind == Kind::Differencing {
                // A bitmap block may have come between, and room for it is no data's.
                break;
            }
        }
        Ok(placed)
    }

    /// Where `block` is, and its place in the map.
    fn known(&self, block: u64, state: &State) -> Result<(Option<u64>, usize)> {
        let index = length(block)?;
        let place = state
            .places
            .get(index)
            .ok_or_else(|| Error::internal("a block past the end of the disk"))?;
        Ok((
            (*place != 0).then(|| u64::from(*place).saturating_mul(MIB)),
            index,
        ))
    }

    /// Guest bytes of `block`, of which the last may have fewer.
    fn block_len(&self, block: u64) -> u64 {
        let start = block.saturating_mul(self.geometry.block.get());
        self.geometry
            .size
            .saturating_sub(start)
            .min(self.geometry.block.get())
    }

    fn place_locked(&self, part: &Part, state: &mut State) -> Result<u64> {
        let (known, index) = self.known(part.block, state)?;
        let whole = part.within == 0 && part.len == self.block_len(part.block);
        let start = if let Some(start) = known {
            start
        } else {
            let start = self.take(self.geometry.block.get(), state)?;
            if self.kind != Kind::Fixed {
                let end = part.within.saturating_add(part.len);
                let after = self.geometry.block.get().saturating_sub(end);
                self.ground.clear(&*self.storage, start, part.within)?;
                self.ground
                    .clear(&*self.storage, start.saturating_add(end), after)?;
            }
            let entry = match self.kind {
                Kind::Differencing if !whole => PARTIALLY_PRESENT,
                _ => FULLY_PRESENT,
            };
            self.enter(self.geometry.payload_entry(part.block), start | entry)?;
            if let Some(place) = state.places.get_mut(index) {
                *place = mebibytes(start)?;
            }
            start
        };
        if self.kind == Kind::Differencing && !whole {
            self.mark(part, state)?;
        }
        Ok(start.saturating_add(part.within))
    }

    /// Notes in the sector bitmap that `part` is stored here.
    fn mark(&self, part: &Part, state: &mut State) -> Result<()> {
        let chunk = length(part.block / self.geometry.chunk_ratio)?;
        let place = *state
            .bitmaps
            .get(chunk)
            .ok_or_else(|| Error::internal("a chunk past the end of the disk"))?;
        let bitmap = if place == 0 {
            let start = self.take(MIB, state)?;
            // Room that the bits of other blocks are read from.
            if self.ground == Ground::Fresh {
                self.storage.set_size(start.saturating_add(MIB))?;
            }
            self.ground.clear(&*self.storage, start, MIB)?;
            self.enter(
                self.geometry.bitmap_entry(part.block),
                start | FULLY_PRESENT,
            )?;
            if let Some(place) = state.bitmaps.get_mut(chunk) {
                *place = mebibytes(start)?;
            }
            start
        } else {
            u64::from(place).saturating_mul(MIB)
        };
        let sectors = self.geometry.bits(part);
        BitOrder::LowFirst.mark(&*self.storage, bitmap, sectors, Bit::Set)
    }

    /// Hides the parent's bytes of `part` behind zeroes.
    ///
    /// # Errors
    /// As [`Blocks::place`].
    pub(super) fn hide(&self, part: &Part) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if part.within == 0 && part.len == self.block_len(part.block) {
            let (_, index) = self.known(part.block, &state)?;
            if let Some(place) = state.places.get_mut(index) {
                *place = HIDDEN;
            }
            return self.enter(self.geometry.payload_entry(part.block), ZERO);
        }
        let at = self.place_locked(part, &mut state)?;
        self.ground.clear(&*self.storage, at, part.len)
    }

    /// Takes `len` bytes, whole MiB, at the end of the file.
    fn take(&self, len: u64, state: &mut State) -> Result<u64> {
        let start = state.next;
        state.next = start.saturating_add(len);
        if self.ground == Ground::Used && state.next > self.storage.size() {
            return Err(too_small(&*self.storage, state.next, self.storage.size()));
        }
        Ok(start)
    }

    fn enter(&self, index: u64, entry: u64) -> Result<()> {
        let at = self.bat.saturating_add(index.saturating_mul(8));
        self.storage.write_at(&entry.to_le_bytes(), at)
    }
}

/// A place in the file in MiB. Block sizes are whole MiB, and 2^32 of them are more than any disk
/// has.
fn mebibytes(at: u64) -> Result<u32> {
    u32::try_from(at / MIB).map_err(|_| Error::internal("more blocks than a disk can have"))
}
