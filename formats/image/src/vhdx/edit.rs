//! `VhdxEdit`: a VHDX changed in place.
//!
//! \[MS-VHDX\] §2.2.2, §2.5. A log that holds something is replayed to the file first, and stays
//! empty: what makes changes survive a crash is the caller's. The first change gives the file new
//! identities, by which children know that it is not the parent that they were made from. New blocks
//! go to the end of the file; the room of one that is forgotten is filled with the last one. A block
//! allocation table that has become too long moves to the end as well.

mod reshape;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, Storage, StorageMut, is_zero, round_up};
use uuid::Uuid;

use super::check::for_each_entry;
use super::layer::{Absent, Vhdx};
use super::layout::{FULLY_PRESENT, PARTIALLY_PRESENT, ZERO};
use super::metadata::{Geometry, Part};
use super::open::Structures;
use super::patched::Patched;
use super::region::Regions;
use super::{MIB, amount, length};
use crate::create::TargetBacking;
use crate::in_place::{Editing, LayerMut};
use crate::room::{ensure_length, is_device};
use crate::sector_bits::{Bit, BitOrder};

/// Guest bytes per unit: whole sectors of either size.
const UNIT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// Bytes copied at a time when a block moves.
const PIECE: usize = 1 << 20;

/// State of a block that is not there.
const NOT_PRESENT: u64 = 0;

/// Whose a block of the file is: an entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Payload(u64),
    Bitmap(u64),
}

/// What was changed since the file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Touched {
    Nothing,
    /// Not what the guest reads.
    File,
    Data,
}

/// A VHDX that can be changed.
#[derive(Debug)]
pub(super) struct VhdxEdit {
    storage: Arc<dyn StorageMut>,
    structures: Structures,
    touched: Touched,
    /// The blocks by where they begin in the file.
    blocks: BTreeMap<u64, Owner>,
    /// What is read.
    view: Vhdx,
}

/// Opens a VHDX for changes.
///
/// # Errors
/// As opening it for reading; Io when the log cannot be replayed to the file.
pub(crate) fn edit(editing: &Editing<'_>) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(VhdxEdit::open(Arc::clone(&editing.storage))?))
}

impl VhdxEdit {
    /// Opens the file, and replays its log.
    ///
    /// # Errors
    /// As [`edit`].
    pub(super) fn open(storage: Arc<dyn StorageMut>) -> Result<Self> {
        let readable: Arc<dyn Storage> = storage.clone();
        let mut structures = Structures::read(&readable)?;
        if !structures.header.log.is_nil() {
            structures.patched.apply(&*storage)?;
            let mut header = structures.header;
            header.log = Uuid::nil();
            header.file_write = Uuid::new_v4();
            header.renew(&*storage)?;
            structures = Structures::read(&readable)?;
        }
        let geometry = structures.metadata.geometry;
        let chunk = geometry.chunk_ratio.get().saturating_add(1);
        let entries = geometry.entries(structures.metadata.parent.is_some());
        let mut blocks = BTreeMap::new();
        let mut shared = false;
        let bat = structures.regions.bat.offset;
        for_each_entry(&structures.patched, bat, entries, |index, _, entry| {
            let chunks = index.checked_div(chunk).unwrap_or(0);
            let owner = if index.saturating_add(1).is_multiple_of(chunk) {
                Owner::Bitmap(chunks)
            } else {
                Owner::Payload(index.saturating_sub(chunks))
            };
            if entry & 7 >= FULLY_PRESENT && blocks.insert(start_of(entry), owner).is_some() {
                shared = true;
            }
        })?;
        if shared {
            return Err(Error::corrupt("two blocks share a place in the file")
                .in_structure("block allocation table")
                .at(bat)
                .hint("convert it into a new image instead"));
        }
        let view = look(&storage, &structures);
        let edit = Self {
            storage,
            structures,
            touched: Touched::Nothing,
            blocks,
            view,
        };
        edit.check_blocks()?;
        Ok(edit)
    }

    /// No block is nowhere, or over another: a new one would go behind it, or a change of one be
    /// the other's.
    fn check_blocks(&self) -> Result<()> {
        let mut end = 0;
        for (start, owner) in &self.blocks {
            let range = *start..start.saturating_add(self.len_of(*owner));
            let taken = self.structures.taken.iter();
            let over = *start < end || taken.into_iter().any(|taken| taken.overlaps(&range));
            if over || *start >= self.storage.size() {
                return Err(Error::corrupt(
                    "block lies past the end of the file or over something else",
                )
                .in_structure("block allocation table")
                .at(self.entry_place(*owner))
                .hint("convert it into a new image instead"));
            }
            end = range.end;
        }
        Ok(())
    }

    const fn geometry(&self) -> &Geometry {
        &self.structures.metadata.geometry
    }

    fn differencing(&self) -> bool {
        self.structures.metadata.parent.is_some()
    }

    /// Gives the file new identities before its first change, and the disk before its own.
    fn touch(&mut self, touched: Touched) -> Result<()> {
        if self.touched >= touched {
            return Ok(());
        }
        self.structures.header.file_write = Uuid::new_v4();
        if touched == Touched::Data {
            self.structures.header.data_write = Uuid::new_v4();
        }
        self.structures.header.renew(&*self.storage)?;
        self.touched = touched;
        Ok(())
    }

    /// Writes both headers and both region tables again.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn rewrite(&mut self) -> Result<()> {
        let (regions, _) = Regions::copies(&*self.storage)?;
        Regions::write_copies(&*self.storage, regions)?;
        self.structures.header.renew(&*self.storage)?;
        self.flush()
    }

    fn entry_place(&self, owner: Owner) -> u64 {
        let geometry = self.geometry();
        let index = match owner {
            Owner::Payload(block) => geometry.payload_entry(block),
            Owner::Bitmap(chunk) => {
                geometry.bitmap_entry(chunk.saturating_mul(geometry.chunk_ratio.get()))
            }
        };
        let table = self.structures.regions.bat.offset;
        table.saturating_add(index.saturating_mul(8))
    }

    fn entry(&self, owner: Owner) -> Result<u64> {
        let mut bytes = [0; 8];
        self.storage.read_at(&mut bytes, self.entry_place(owner))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn enter(&self, owner: Owner, entry: u64) -> Result<()> {
        self.storage
            .write_at(&entry.to_le_bytes(), self.entry_place(owner))
    }

    fn len_of(&self, owner: Owner) -> u64 {
        match owner {
            Owner::Payload(_) => self.geometry().block.get(),
            Owner::Bitmap(_) => MIB,
        }
    }

    /// Where all that is in use ends, in whole MiB.
    fn end(&self) -> u64 {
        let taken = self.structures.taken.iter().map(|taken| taken.range.end);
        let block = self.blocks.last_key_value();
        let block = block.map(|(start, owner)| start.saturating_add(self.len_of(*owner)));
        round_up(taken.chain(block).max().unwrap_or(0), MIB)
    }

    /// Room of `len` bytes, whole MiB of zeroes, at the end of the file.
    fn take(&self, len: u64) -> Result<u64> {
        let start = self.end();
        let end = start.saturating_add(len);
        let old = ensure_length(&*self.storage, end)?;
        let stale = old.min(end).saturating_sub(start);
        self.storage.zero_at(start, stale)?;
        Ok(start)
    }

    /// Room for the block of `owner`, in the given state.
    fn allocate(&mut self, owner: Owner, state: u64) -> Result<u64> {
        let start = self.take(self.len_of(owner))?;
        self.enter(owner, start | state)?;
        self.blocks.insert(start, owner);
        Ok(start)
    }

    /// Gives the room of the block of `owner` away, to the last block of the file, and leaves it in
    /// `state`.
    fn release(&mut self, owner: Owner, state: u64) -> Result<()> {
        let entry = self.entry(owner)?;
        self.enter(owner, state)?;
        let start = start_of(entry);
        if entry & 7 < FULLY_PRESENT || self.blocks.remove(&start).is_none() {
            return Ok(());
        }
        let last = self.blocks.last_key_value();
        let Some((last, moved)) = last.map(|(last, moved)| (*last, *moved)) else {
            return Ok(());
        };
        let len = self.len_of(owner);
        if last < start || self.len_of(moved) != len {
            return Ok(());
        }
        self.copy(last, start, len)?;
        let state = self.entry(moved)? & 7;
        self.enter(moved, start | state)?;
        self.blocks.remove(&last);
        self.blocks.insert(start, moved);
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        // Ends because every piece is longer than nothing.
        while done < len {
            let left = length(len.saturating_sub(done))?.min(PIECE);
            let part = piece.get_mut(..left).unwrap_or_default();
            self.storage.read_at(part, from.saturating_add(done))?;
            self.storage.write_at(part, to.saturating_add(done))?;
            done = done.saturating_add(amount(part.len()));
        }
        Ok(())
    }

    /// The sector bitmap block of the chunk of `block`.
    fn bitmap(&mut self, block: u64) -> Result<u64> {
        let owner = Owner::Bitmap(block / self.geometry().chunk_ratio);
        let entry = self.entry(owner)?;
        if entry & 7 == FULLY_PRESENT {
            return Ok(start_of(entry));
        }
        self.allocate(owner, FULLY_PRESENT)
    }

    fn mark(&mut self, part: &Part, to: Bit) -> Result<()> {
        let bitmap = self.bitmap(part.block)?;
        let sectors = self.geometry().bits(part);
        BitOrder::LowFirst.mark(&*self.storage, bitmap, sectors, to)
    }

    const fn whole(&self, block: u64) -> Part {
        Part {
            block,
            within: 0,
            len: self.structures.metadata.geometry.block.get(),
        }
    }

    /// Whether `part` is all that the guest has of its block.
    fn is_whole(&self, part: &Part) -> bool {
        let start = part.block.saturating_mul(self.geometry().block.get());
        let left = self.geometry().size.saturating_sub(start);
        part.within == 0 && part.len == left.min(self.geometry().block.get())
    }

    /// Where the block of `part` is, which gets its room now if it has none, and its state.
    fn ensure(&mut self, part: &Part) -> Result<(u64, u64)> {
        let owner = Owner::Payload(part.block);
        let entry = self.entry(owner)?;
        match entry & 7 {
            state @ (FULLY_PRESENT | PARTIALLY_PRESENT) => Ok((start_of(entry), state)),
            NOT_PRESENT if self.differencing() && !self.is_whole(part) => {
                // What other blocks at this place left behind.
                self.mark(&self.whole(part.block), Bit::Clear)?;
                let start = self.allocate(owner, PARTIALLY_PRESENT)?;
                Ok((start, PARTIALLY_PRESENT))
            }
            // The rest of the block was zeroes, and is.
            _ => Ok((self.allocate(owner, FULLY_PRESENT)?, FULLY_PRESENT)),
        }
    }

    fn zero_part(&mut self, part: &Part) -> Result<()> {
        let owner = Owner::Payload(part.block);
        let state = self.entry(owner)? & 7;
        let fixed = self.structures.metadata.leave_allocated;
        let absent = if self.differencing() {
            ZERO
        } else {
            NOT_PRESENT
        };
        if self.is_whole(part) && !fixed {
            return self.release(owner, absent);
        }
        if state == NOT_PRESENT && !self.differencing() && !fixed || (1..=3).contains(&state) {
            return Ok(());
        }
        let (start, state) = self.ensure(part)?;
        self.storage
            .zero_at(start.saturating_add(part.within), part.len)?;
        if state == PARTIALLY_PRESENT {
            self.mark(part, Bit::Set)?;
        }
        Ok(())
    }

    fn forget_part(&mut self, part: &Part) -> Result<()> {
        let owner = Owner::Payload(part.block);
        if self.is_whole(part) {
            return self.release(owner, NOT_PRESENT);
        }
        if self.entry(owner)? & 7 == NOT_PRESENT {
            return Ok(());
        }
        let (start, state) = self.ensure(part)?;
        if state == FULLY_PRESENT {
            self.mark(&self.whole(part.block), Bit::Set)?;
            self.enter(owner, start | PARTIALLY_PRESENT)?;
        }
        self.mark(part, Bit::Clear)?;
        self.storage
            .zero_at(start.saturating_add(part.within), part.len)
    }

    fn inside(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.geometry().size;
        let end = offset.checked_add(len).filter(|end| *end <= size);
        match end {
            Some(end) if offset % UNIT == 0 && (end % UNIT == 0 || end == size) => Ok(()),
            _ => Err(Error::usage("range lies outside the disk or off its units").at(offset)),
        }
    }

    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<> {
        self.geometry().parts(offset, len)
    }

    fn refresh(&mut self) {
        self.view = look(&self.storage, &self.structures);
    }
}

/// Where the block of a table entry begins.
const fn start_of(entry: u64) -> u64 {
    (entry >> 20).saturating_mul(MIB)
}

/// What is to be read of the file as it is now.
fn look(storage: &Arc<dyn StorageMut>, structures: &Structures) -> Vhdx {
    let absent = match structures.metadata.parent {
        Some(_) => Absent::Below,
        None => Absent::Zero,
    };
    Vhdx::new(
        storage.clone(),
        Arc::new(Patched::new(storage.clone())),
        structures.metadata.geometry,
        structures.regions.bat.offset,
        absent,
        structures.taken.clone(),
    )
}

impl Layer for VhdxEdit {
    fn size(&self) -> u64 {
        self.geometry().size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.view.locate(offset, want)
    }
}

impl LayerMut for VhdxEdit {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        self.inside(offset, amount(plain.len()))?;
        self.touch(Touched::Data)?;
        let mut rest = plain;
        for part in self.parts(offset, amount(plain.len())) {
            let (bytes, tail) = rest.split_at(length(part.len)?.min(rest.len()));
            rest = tail;
            if is_zero(bytes) {
                self.zero_part(&part)?;
                continue;
            }
            let (start, state) = self.ensure(&part)?;
            self.storage
                .write_at(bytes, start.saturating_add(part.within))?;
            if state == PARTIALLY_PRESENT {
                self.mark(&part, Bit::Set)?;
            }
        }
        self.refresh();
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.inside(offset, len)?;
        self.touch(Touched::Data)?;
        for part in self.parts(offset, len) {
            self.zero_part(&part)?;
        }
        self.refresh();
        Ok(())
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        if !self.differencing() {
            return self.zero(offset, len);
        }
        self.inside(offset, len)?;
        self.touch(Touched::Data)?;
        for part in self.parts(offset, len) {
            self.forget_part(&part)?;
        }
        self.refresh();
        Ok(())
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.change_size(size)
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        self.change_parent(backing)
    }

    fn flush(&mut self) -> Result<()> {
        let end = self.end();
        if self.storage.size() > end && !is_device(&*self.storage) {
            self.storage.set_size(end)?;
        }
        self.refresh();
        Ok(())
    }
}
