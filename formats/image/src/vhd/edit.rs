//! `VhdEdit`: a dynamic or differencing VHD changed in place.
//!
//! Specification 1.0. A new block goes behind the last one, over the footer, which is written again
//! by `flush`. The room of a block that is forgotten is filled with the last block, so that nothing
//! is lost in between. A block allocation table that has become too long moves behind the blocks;
//! its place is free by the specification. The time stamp tells children that the disk has changed.

mod reshape;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, StorageMut, is_zero, round_up};

use super::SECTOR;
use super::check::{claims, structures};
use super::fixed::FixedEdit;
use super::footer::{DiskType, Footer, FooterBytes, seal};
use super::header::{CHECKSUM_AT, HEADER_LEN, Header};
use super::layout::{PAGE, first_place, table_entry};
use super::parent::parent_size;
use super::sparse::{Absent, Sparse, UNUSED};
use crate::blocks::amount;
use crate::create::TargetBacking;
use crate::in_place::{Editing, LayerMut};
use crate::room::{is_device, too_small};
use crate::sector_bits::{Bit, BitOrder};

/// Guest bytes per unit.
pub(super) const UNIT: NonZeroU64 = NonZeroU64::new(PAGE).unwrap();

/// Bytes copied at a time when a block moves.
const PIECE: usize = 1 << 20;

/// A VHD with blocks that can be changed.
#[derive(Debug)]
pub(super) struct VhdEdit {
    storage: Arc<dyn StorageMut>,
    footer: FooterBytes,
    /// The dynamic disk header, as it is in the file.
    header: Vec<u8>,
    sparse: Sparse,
    /// The blocks by where they begin in the file.
    blocks: BTreeMap<u64, u64>,
    /// Guest bytes of the parent; nothing when there is none or it was not found.
    parent: Option<u64>,
    changed: Changed,
}

/// Whether `flush` has something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    No,
    Yes,
}

/// Opens a VHD for changes.
///
/// # Errors
/// As [`Footer::find`] and [`Header::read`].
pub(crate) fn edit(editing: &Editing<'_>) -> Result<Box<dyn LayerMut>> {
    let storage = Arc::clone(&editing.storage);
    let footer = Footer::find(&*storage)?.footer;
    if footer.disk_type == DiskType::Fixed {
        return Ok(Box::new(FixedEdit::open(storage)?));
    }
    Ok(Box::new(VhdEdit::open(editing)?))
}

impl VhdEdit {
    /// Opens a disk with blocks.
    ///
    /// # Errors
    /// As [`edit`].
    pub(super) fn open(editing: &Editing<'_>) -> Result<Self> {
        let storage = Arc::clone(&editing.storage);
        let found = Footer::find(&*storage)?;
        let (size, _) = found.footer.size();
        let header = Header::read(&*storage, found.footer.data_offset, size)?;
        let mut bytes = vec![0; HEADER_LEN];
        storage.read_at(&mut bytes, header.at)?;
        let (absent, parent) = match found.footer.disk_type {
            DiskType::Differencing => {
                let size = parent_size(&editing.opening(), &header.parent);
                (Absent::Below, size)
            }
            DiskType::Fixed | DiskType::Dynamic => (Absent::Zero, None),
        };
        let footer = FooterBytes::read(&*storage, &found)?;
        let readable = storage.clone();
        let sparse = Sparse::open(readable, header, size, found.end, absent)?;
        // A new block would go behind one that is nowhere, or a change of one be another's.
        let mut blocks = BTreeMap::new();
        for (index, sector) in (0u64..).zip(&sparse.table) {
            if *sector != UNUSED {
                blocks.insert(sparse.block(index, *sector)?, index);
            }
        }
        if let Some((claim, _)) = claims(&sparse.header, &sparse.table).overlaps().next() {
            return Err(Error::corrupt("blocks lie over each other")
                .in_structure("block allocation table")
                .at(claim.entry)
                .hint("convert it into a new image instead"));
        }
        Ok(Self {
            storage,
            footer,
            header: bytes,
            sparse,
            blocks,
            parent,
            changed: Changed::No,
        })
    }

    /// Bytes of a block with its bitmap.
    fn stride(&self) -> u64 {
        self.sparse
            .bitmap_len
            .saturating_add(self.sparse.header.block.get())
    }

    /// Where all that is in use ends.
    fn end(&self) -> u64 {
        let header = &self.sparse.header;
        let structures = structures(header).map(|(_, _, end)| end);
        let names = header.parent.locators.iter();
        let names = names.map(|name| {
            let end = name.offset.saturating_add(name.len);
            round_up(end, SECTOR)
        });
        let block = self.blocks.last_key_value();
        let block = block.map(|(start, _)| start.saturating_add(self.stride()));
        structures
            .into_iter()
            .chain(names)
            .chain(block)
            .max()
            .unwrap_or(0)
    }

    fn inside(&self, offset: u64, len: u64) -> Result<()> {
        inside(self.sparse.size, offset, len)
    }

    /// Puts `sector` into the table for block `index`.
    fn enter(&mut self, index: u64, sector: u32) -> Result<()> {
        let at = self
            .sparse
            .header
            .table
            .saturating_add(index.saturating_mul(4));
        self.storage.write_at(&sector.to_be_bytes(), at)?;
        self.sparse.set_entry(index, sector);
        Ok(())
    }

    /// Where block `index` begins; nothing when it is not stored.
    fn start(&self, index: u64) -> Result<Option<u64>> {
        match self.sparse.entry(index) {
            UNUSED => Ok(None),
            sector => self.sparse.block(index, sector).map(Some),
        }
    }

    /// Makes room behind everything that is in use, of zeroes.
    fn extend(&mut self, start: u64, len: u64) -> Result<()> {
        let end = start.saturating_add(len);
        if is_device(&*self.storage) && end.saturating_add(SECTOR) > self.storage.size() {
            return Err(too_small(&*self.storage, end, self.storage.size()));
        }
        let old = self.storage.size();
        if old < end {
            self.storage.set_size(end)?;
        }
        let stale = old.min(end).saturating_sub(start);
        self.storage.zero_at(start, stale)?;
        self.sparse.end = self.sparse.end.max(end);
        Ok(())
    }

    /// Where block `index` begins, which gets its room now if it has none.
    fn ensure(&mut self, index: u64) -> Result<u64> {
        if let Some(start) = self.start(index)? {
            return Ok(start);
        }
        let start = first_place(self.end(), self.sparse.bitmap_len);
        let sector = table_entry(start)?;
        self.extend(start, self.stride())?;
        if self.sparse.absent == Absent::Zero {
            let bitmap = vec![0xff; usize::try_from(self.sparse.bitmap_len).unwrap_or(0)];
            self.storage.write_at(&bitmap, start)?;
        }
        self.enter(index, sector)?;
        self.sparse.forget_bitmap(index);
        self.blocks.insert(start, index);
        Ok(start)
    }

    /// Says whose the sectors of a part of block `index` are.
    fn mark(&mut self, index: u64, start: u64, within: u64, len: u64, to: Bit) -> Result<()> {
        let sectors = within / SECTOR..within.saturating_add(len).div_ceil(SECTOR);
        BitOrder::HighFirst.mark(&*self.storage, start, sectors, to)?;
        self.sparse.forget_bitmap(index);
        Ok(())
    }

    /// Gives the room of block `index` away, to the last block of the file.
    fn release(&mut self, index: u64) -> Result<()> {
        let Some(start) = self.start(index)? else {
            return Ok(());
        };
        self.enter(index, UNUSED)?;
        self.sparse.forget_bitmap(index);
        self.blocks.remove(&start);
        let last = self.blocks.last_key_value();
        let Some((last, moved)) = last.map(|(last, moved)| (*last, *moved)) else {
            return Ok(());
        };
        if last < start {
            return Ok(());
        }
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        // Ends because every piece is longer than nothing.
        while done < self.stride() {
            let left = usize::try_from(self.stride().saturating_sub(done)).unwrap_or(PIECE);
            let part = piece.get_mut(..left.min(PIECE)).unwrap_or_default();
            self.storage.read_at(part, last.saturating_add(done))?;
            self.storage.write_at(part, start.saturating_add(done))?;
            done = done.saturating_add(amount(part));
        }
        self.enter(moved, table_entry(start)?)?;
        self.sparse.forget_bitmap(moved);
        self.blocks.remove(&last);
        self.blocks.insert(start, moved);
        Ok(())
    }

    /// Zeroes a part of a stored block, and says whose it is then.
    fn blank(&mut self, index: u64, within: u64, len: u64, to: Bit) -> Result<()> {
        if let Some(start) = self.start(index)? {
            let data = start.saturating_add(self.sparse.bitmap_len);
            self.storage.zero_at(data.saturating_add(within), len)?;
            self.mark(index, start, within, len, to)?;
        }
        Ok(())
    }

    /// The parts of a range: block, beginning in it, length, and whether they are all that the
    /// guest has of the block.
    fn parts(&self, offset: u64, len: u64) -> Vec<Part> {
        let block = self.sparse.header.block;
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut parts = Vec::new();
        // Ends because every part has at least a byte.
        while at < end {
            let (index, within) = (at / block, at % block);
            let room = block.get().saturating_sub(within);
            let len = room.min(end.saturating_sub(at));
            let whole =
                within == 0 && (len == block.get() || at.saturating_add(len) == self.sparse.size);
            parts.push(Part {
                index,
                within,
                len,
                cover: if whole { Cover::Whole } else { Cover::Partial },
            });
            at = at.saturating_add(len);
        }
        parts
    }
}

/// A part of a range.
struct Part {
    index: u64,
    within: u64,
    len: u64,
    cover: Cover,
}

/// How much of a block a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    Whole,
    Partial,
}

/// Refuses a range that is outside of a disk of `size` bytes or off its units.
pub(super) fn inside(size: u64, offset: u64, len: u64) -> Result<()> {
    let end = offset.checked_add(len).filter(|end| *end <= size);
    let aligned = |at: u64| at % UNIT == 0;
    match end {
        Some(end) if aligned(offset) && (aligned(end) || end == size) => Ok(()),
        _ => Err(Error::usage("range lies outside the disk or off its units").at(offset)),
    }
}

impl Layer for VhdEdit {
    fn size(&self) -> u64 {
        self.sparse.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.sparse.locate(offset, want)
    }
}

impl LayerMut for VhdEdit {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        self.inside(offset, amount(plain))?;
        self.changed = Changed::Yes;
        let mut rest = plain;
        for part in self.parts(offset, amount(plain)) {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX);
            let (bytes, tail) = rest.split_at(len.min(rest.len()));
            rest = tail;
            let stored = self.sparse.entry(part.index) != UNUSED;
            if !stored && self.sparse.absent == Absent::Zero && is_zero(bytes) {
                continue;
            }
            let start = self.ensure(part.index)?;
            let data = start.saturating_add(self.sparse.bitmap_len);
            self.storage
                .write_at(bytes, data.saturating_add(part.within))?;
            self.mark(part.index, start, part.within, part.len, Bit::Set)?;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        if self.sparse.absent == Absent::Zero {
            return self.forget(offset, len);
        }
        self.inside(offset, len)?;
        self.changed = Changed::Yes;
        for part in self.parts(offset, len) {
            self.ensure(part.index)?;
            self.blank(part.index, part.within, part.len, Bit::Set)?;
        }
        Ok(())
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        self.inside(offset, len)?;
        self.changed = Changed::Yes;
        // Without a parent the bits stay: QEMU ignores them, and reads the zeroes that are there.
        let to = match self.sparse.absent {
            Absent::Zero => Bit::Set,
            Absent::Below => Bit::Clear,
        };
        for part in self.parts(offset, len) {
            match part.cover {
                Cover::Whole => self.release(part.index)?,
                Cover::Partial => self.blank(part.index, part.within, part.len, to)?,
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.change_size(size)
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        self.change_parent(backing)
    }

    fn flush(&mut self) -> Result<()> {
        if self.changed == Changed::No {
            return Ok(());
        }
        self.header = seal(std::mem::take(&mut self.header), CHECKSUM_AT);
        self.storage.write_at(&self.header, self.sparse.header.at)?;
        self.footer.touch();
        let footer = self.footer.sealed();
        let at = if is_device(&*self.storage) {
            self.storage.size().saturating_sub(SECTOR)
        } else {
            round_up(self.end(), SECTOR)
        };
        self.storage.write_at(&footer, at)?;
        self.storage.set_size(at.saturating_add(SECTOR))?;
        self.storage.write_at(&footer, 0)?;
        self.sparse.end = at;
        self.changed = Changed::No;
        Ok(())
    }
}

impl VhdEdit {
    /// Writes both footers and the header again, and cuts off what is nobody's at the end.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn rewrite(&mut self) -> Result<()> {
        self.changed = Changed::Yes;
        self.flush()
    }
}
