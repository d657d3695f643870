//! `Scratch`: a worker's buffers, kept from chunk to chunk so that nothing is allocated or zeroed
//! twice.

use std::sync::Arc;

use rehost_block::{Disk, Error, Packed, Result, Run, Storage};

use super::plan::{Chunk, Part};
use super::salvage::Losses;

/// A worker's buffers.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The chunk's guest bytes.
    plain: Vec<u8>,
    /// The parent's bytes at the same place.
    below: Vec<u8>,
    /// A compressed unit.
    packed: Vec<u8>,
    /// A decoded unit of which the chunk needs a part.
    unit: Vec<u8>,
    /// Where that unit is stored, so that the next part of it is not decoded again.
    held: Option<(Arc<dyn Storage>, u64)>,
}

impl Scratch {
    /// Reads and decodes the whole chunk. What cannot be read is noted in `losses` and zeroes, if
    /// there are any.
    ///
    /// # Errors
    /// As [`rehost_block::Storage::read_at`] and [`rehost_block::Codec::decode`].
    pub(super) fn fill(&mut self, chunk: &Chunk, losses: Option<&Losses>) -> Result<&[u8]> {
        let mut plain = std::mem::take(&mut self.plain);
        let filled = room(&mut plain, chunk.len)
            .and_then(|place| self.fill_parts(chunk.start, &chunk.parts, place, losses));
        self.plain = plain;
        filled?;
        room(&mut self.plain, chunk.len).map(|plain| &*plain)
    }

    /// The bytes of the parent below the chunk that was filled last, and that chunk's. A disk that
    /// ends earlier goes on with zeroes.
    ///
    /// # Errors
    /// As [`Disk::read_at`].
    pub(super) fn beside(&mut self, chunk: &Chunk, parent: &dyn Disk) -> Result<(&[u8], &[u8])> {
        let below = room(&mut self.below, chunk.len)?;
        let there = length(parent.size().saturating_sub(chunk.start).min(chunk.len))?;
        let (stored, past) = below.split_at_mut(there);
        if !stored.is_empty() {
            parent.read_at(stored, chunk.start)?;
        }
        past.fill(0);
        let plain = room(&mut self.plain, chunk.len)?;
        Ok((plain, below))
    }

    fn fill_parts(
        &mut self,
        start: u64,
        parts: &[Part],
        mut rest: &mut [u8],
        losses: Option<&Losses>,
    ) -> Result<()> {
        let mut guest = start;
        for part in parts {
            let (place, tail) = length(part.len)
                .ok()
                .and_then(|len| rest.split_at_mut_checked(len))
                .ok_or_else(|| Error::internal("the parts of a chunk are longer than it is"))?;
            match &part.run {
                Run::At { storage, offset } => {
                    if let Err(error) = storage.read_at(place, *offset) {
                        match losses {
                            Some(losses) => {
                                losses.rescue(&**storage, place, *offset, guest, error)?;
                            }
                            None => return Err(error),
                        }
                    }
                }
                Run::Zero => place.fill(0),
                Run::Packed(packed) => {
                    if let Err(error) = self.decode(packed, place) {
                        let Some(losses) = losses else {
                            return Err(error);
                        };
                        place.fill(0);
                        losses.note(guest, part.len, error)?;
                    }
                }
                Run::Below | Run::End => {
                    return Err(Error::internal("an unresolved run reached the copy"));
                }
            }
            guest += part.len;
            rest = tail;
        }
        Ok(())
    }

    fn decode(&mut self, packed: &Packed, place: &mut [u8]) -> Result<()> {
        if packed.skip == 0 && place.len() as u64 == packed.unit.get() {
            return unpack(packed, &mut self.packed, place);
        }
        let unit = room(&mut self.unit, packed.unit.get())?;
        let held = self.held.take().is_some_and(|(storage, offset)| {
            offset == packed.offset && Arc::ptr_eq(&storage, &packed.storage)
        });
        if !held {
            unpack(packed, &mut self.packed, unit)?;
        }
        self.held = Some((Arc::clone(&packed.storage), packed.offset));
        let from = length(packed.skip)?;
        let part = from
            .checked_add(place.len())
            .and_then(|to| unit.get(from..to))
            .ok_or_else(|| Error::internal("a packed run reaches past its unit"))?;
        place.copy_from_slice(part);
        Ok(())
    }
}

/// Reads the unit into `bytes` and decodes it into `plain`.
fn unpack(packed: &Packed, bytes: &mut Vec<u8>, plain: &mut [u8]) -> Result<()> {
    let bytes = room(bytes, packed.len)?;
    packed.storage.read_at(bytes, packed.offset)?;
    packed
        .codec
        .decode(bytes, plain)
        .map_err(|error| error.at(packed.offset).in_file(packed.storage.name()))
}

/// The first `len` bytes of `buffer`, which grows where it must. Sizes are bounded by the formats
/// (the largest unit that any of them accepts) and by the planner's chunks.
fn room(buffer: &mut Vec<u8>, len: u64) -> Result<&mut [u8]> {
    let len = length(len)?;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    Ok(&mut buffer[..len])
}

fn length(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}
