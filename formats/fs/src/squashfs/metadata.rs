//! Metadata: blocks of up to 8 KiB, each with its packed length before it, and tables of such blocks.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`, sections 3.3 to 3.7.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Result};

use super::codec::Compressor;
use crate::number::{length, wide};

const STRUCTURE: &str = "metadata block";

/// Plain bytes of a block, at most.
const BLOCK: usize = 8192;

/// Blocks kept, at most: 1 MiB.
const MOST_BLOCKS: usize = 128;

/// Set in a length when the block is stored as it is.
const PLAIN: u16 = 0x8000;

/// One block, unpacked.
#[derive(Debug)]
struct Block {
    plain: Vec<u8>,
    /// Where the block behind it begins.
    next: u64,
}

/// A place in metadata: a block's offset on the disk, and a byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u64,
    pub(super) within: usize,
}

impl Place {
    /// From a reference: the block's offset from `table` in the upper bits, the byte in the low 16.
    pub(super) fn of(table: u64, reference: u64) -> Self {
        let [low, high, ..] = reference.to_le_bytes();
        Self {
            block: table.saturating_add(reference >> 16),
            within: usize::from(u16::from_le_bytes([low, high])),
        }
    }
}

/// The metadata of one filesystem.
#[derive(Debug)]
pub(super) struct Metadata {
    disk: Arc<dyn Disk>,
    compressor: Compressor,
    /// Bytes of the filesystem.
    used: u64,
    kept: Mutex<HashMap<u64, Arc<Block>>>,
}

impl Metadata {
    pub(super) fn new(disk: Arc<dyn Disk>, compressor: Compressor, used: u64) -> Self {
        Self {
            disk,
            compressor,
            used,
            kept: Mutex::default(),
        }
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The block at byte `at` of the disk.
    fn block(&self, at: u64) -> Result<Arc<Block>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = kept.get(&at) {
            return Ok(Arc::clone(block));
        }
        drop(kept);
        let block = self
            .read_block(at)
            .map(Arc::new)
            .map_err(|error| error.in_structure(STRUCTURE).at(at))?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_BLOCKS {
            kept.clear();
        }
        kept.insert(at, Arc::clone(&block));
        Ok(block)
    }

    fn read_block(&self, at: u64) -> Result<Block> {
        let start = at.saturating_add(2);
        let outside = || Error::corrupt("lies outside the filesystem");
        if start > self.used {
            return Err(outside());
        }
        let mut head = [0; 2];
        self.disk.read_at(&mut head, at)?;
        let head = u16::from_le_bytes(head);
        let len = usize::from(head & !PLAIN);
        if len == 0 || len > BLOCK {
            return Err(Error::corrupt("impossible length").mismatch(format!("1 to {BLOCK}"), len));
        }
        let next = start.saturating_add(wide(len));
        if next > self.used {
            return Err(outside());
        }
        let mut packed = vec![0; len];
        self.disk.read_at(&mut packed, start)?;
        let plain = if head & PLAIN == 0 {
            let mut plain = vec![0; BLOCK];
            let len = self.compressor.unpack(&packed, &mut plain)?;
            plain.truncate(len);
            plain
        } else {
            packed
        };
        if plain.is_empty() {
            return Err(Error::corrupt("holds nothing"));
        }
        Ok(Block { plain, next })
    }

    /// Reads from `place` on.
    pub(super) const fn cursor(&self, place: Place) -> Cursor<'_> {
        Cursor {
            metadata: self,
            place,
        }
    }

    /// Entry `nth`, of `N` bytes, of a table whose list of blocks is at byte `list` of the disk.
    pub(super) fn entry<const N: usize>(&self, list: u64, nth: u32) -> Result<[u8; N]> {
        let at = u64::from(nth).saturating_mul(wide(N));
        let size = wide(BLOCK);
        let pointer = at
            .checked_div(size)
            .and_then(|block| list.checked_add(block.checked_mul(8)?))
            .filter(|pointer| pointer.saturating_add(8) <= self.used)
            .ok_or_else(|| Error::corrupt("a table's list lies outside the filesystem").at(list))?;
        let mut raw = [0; 8];
        self.disk.read_at(&mut raw, pointer)?;
        let place = Place {
            block: u64::from_le_bytes(raw),
            within: length(at.checked_rem(size).unwrap_or_default())?,
        };
        self.cursor(place).array()
    }
}

/// Reads metadata in order, over the ends of blocks.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    metadata: &'a Metadata,
    place: Place,
}

impl Cursor<'_> {
    /// Where the next byte is.
    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// Fills `buf`.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        let mut rest = buf;
        // Ends because every round takes a byte off `rest` or goes on to a later block, and blocks
        // end with the filesystem.
        while !rest.is_empty() {
            let block = self.metadata.block(self.place.block)?;
            let there = block.plain.get(self.place.within..).ok_or_else(|| {
                Error::corrupt("a reference points past its block")
                    .in_structure(STRUCTURE)
                    .at(self.place.block)
            })?;
            let len = there.len().min(rest.len());
            let (part, tail) = rest.split_at_mut(len);
            part.copy_from_slice(there.get(..len).unwrap_or_default());
            rest = tail;
            self.place.within = self.place.within.saturating_add(len);
            if len == there.len() {
                self.place = Place {
                    block: block.next,
                    within: 0,
                };
            }
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `len` bytes, of which there are at most `most`.
    pub(super) fn bytes(&mut self, len: u32, most: usize) -> Result<Vec<u8>> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > most {
            return Err(Error::corrupt("impossible length")
                .in_structure(STRUCTURE)
                .at(self.place.block)
                .mismatch(format!("at most {most}"), len));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
