//! `Blocks`: the block map of a dynamic disk being written, and how data comes into its blocks.
//!
//! VDI and VHD have the same map, a number of 32 bits per block, and differ in what the number
//! means, which the caller says when a block is to get its place.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut, is_zero};

use crate::target::Payload;

/// What is looked at for zeroes, and left a hole where there are only such.
const PIECE: usize = 64 << 10;

/// Where a new block is.
pub(crate) struct Place {
    /// What the map says of it.
    pub(crate) entry: u32,
    /// Where its data is in the file, in bytes.
    pub(crate) data: u64,
}

/// The block map, and how much is stored.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// Guest bytes.
    size: u64,
    /// Guest bytes per block.
    block: NonZeroU32,
    map: Vec<AtomicU32>,
    stored: AtomicU64,
}

impl Blocks {
    /// A map for `size` bytes whose entries are all `free`. The caller has checked the size.
    pub(crate) fn new(size: u64, block: NonZeroU32, free: u32) -> Self {
        let entries = size.div_ceil(u64::from(block.get()));
        Self {
            size,
            block,
            map: (0..entries).map(|_| AtomicU32::new(free)).collect(),
            stored: AtomicU64::new(0),
        }
    }

    /// Stores those blocks of `payload` that are not zero in `storage`, each where `allocate` says.
    ///
    /// # Errors
    /// Io when the storage fails; Usage for data outside of the disk or off its blocks; what
    /// `allocate` gives.
    pub(crate) fn put(
        &self,
        storage: &dyn StorageMut,
        offset: u64,
        payload: Payload<'_>,
        allocate: impl Fn() -> Result<Place>,
    ) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("this target takes plain blocks only").at(offset));
        };
        let end = offset.saturating_add(amount(bytes));
        if end > self.size || offset % NonZeroU64::from(self.block) != 0 {
            return Err(Error::usage("data lies outside the disk or off its blocks").at(offset));
        }
        let mut at = offset;
        for block in bytes.chunks(usize::try_from(self.block.get()).unwrap_or(usize::MAX)) {
            if !is_zero(block) {
                let entry = self.entry(at)?;
                let place = allocate()?;
                write_pieces(storage, block, place.data)?;
                entry.store(place.entry, Ordering::Relaxed);
                self.stored.fetch_add(amount(block), Ordering::Relaxed);
            }
            at = at.saturating_add(amount(block));
        }
        Ok(())
    }

    fn entry(&self, offset: u64) -> Result<&AtomicU32> {
        usize::try_from(offset / NonZeroU64::from(self.block))
            .ok()
            .and_then(|index| self.map.get(index))
            .ok_or_else(|| Error::usage("data lies past the end of the disk").at(offset))
    }

    /// Guest bytes of the whole disk.
    pub(crate) const fn size(&self) -> u64 {
        self.size
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

/// Writes `bytes` at `at`, but for pieces of zeroes, which stay holes.
fn write_pieces(storage: &dyn StorageMut, bytes: &[u8], at: u64) -> Result<()> {
    let mut at = at;
    for piece in bytes.chunks(PIECE) {
        if !is_zero(piece) {
            storage.write_at(piece, at)?;
        }
        at = at.saturating_add(amount(piece));
    }
    Ok(())
}

/// The length of `bytes` as the formats count.
pub(crate) fn amount(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
