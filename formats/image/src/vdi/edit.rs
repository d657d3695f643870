//! `VdiEdit`: a VDI changed in place.
//!
//! A new block goes behind the last one; the room of one that is forgotten is filled with the last
//! one, because programs that add blocks go by the header's count. A block map that has become too
//! long takes the room of the first blocks, which move to the end. `uuidModify` changes with the
//! first change, and tells children.
//!
//! Leaves out on purpose, refused by name: files whose blocks are not all in use (a damaged count),
//! another parent for a differencing image, and making one larger whose last block is its parent's.

use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, StorageMut, is_zero};
use uuid::Uuid;

use super::header::{COUNT_AT, Header, ImageType, MAX_BLOCKS};
use super::layer::{Vdi, ZERO, read_map};
use crate::blocks::amount;
use crate::create::TargetBacking;
use crate::in_place::{Editing, LayerMut};
use crate::room::{ensure_length, is_device};

/// A map entry of a block that was never written.
const FREE: u32 = u32::MAX;

/// Guest bytes per unit of images that have no parent.
const UNIT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// Bytes copied at a time when a block moves.
const PIECE: usize = 1 << 20;

/// A VDI that can be changed.
#[derive(Debug)]
pub(super) struct VdiEdit {
    storage: Arc<dyn StorageMut>,
    vdi: Vdi,
    /// The map's index of each block of the file.
    owners: Vec<u32>,
    changed: Changed,
}

/// Whether the file knows already that it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    No,
    Yes,
}

/// A part of a range: the block, where it begins there, its length.
#[derive(Debug, Clone, Copy)]
struct Part {
    index: u64,
    within: u64,
    len: u64,
}

/// Opens a VDI for changes.
///
/// # Errors
/// As [`Header::read`]; Corrupt when blocks of the file are nobody's or somebody's twice.
pub(crate) fn edit(editing: &Editing<'_>) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(VdiEdit::open(Arc::clone(&editing.storage))?))
}

/// The map's index of each block of the file.
fn owners(map: &[u32], header: &Header) -> Result<Vec<u32>> {
    let fault = |what: &str| {
        Error::corrupt(what)
            .in_structure("block map")
            .at(header.map)
            .hint("convert it into a new image instead")
    };
    let stored = map.iter().filter(|entry| **entry < ZERO).count();
    let mut owners = vec![FREE; stored];
    for (index, entry) in (0u32..).zip(map).filter(|(_, entry)| **entry < ZERO) {
        let owner = usize::try_from(*entry)
            .ok()
            .and_then(|entry| owners.get_mut(entry))
            .ok_or_else(|| fault("has blocks in the file that are nobody's"))?;
        if *owner != FREE {
            return Err(fault("has a block in the file that is two blocks'"));
        }
        *owner = index;
    }
    Ok(owners)
}

impl VdiEdit {
    /// Opens the image.
    ///
    /// # Errors
    /// As [`edit`].
    pub(super) fn open(storage: Arc<dyn StorageMut>) -> Result<Self> {
        let header = Header::read(&*storage)?;
        let map = read_map(&*storage, &header)?;
        let owners = owners(&map, &header)?;
        Ok(Self {
            vdi: Vdi {
                storage: storage.clone(),
                file_size: storage.size(),
                header,
                map,
            },
            storage,
            owners,
            changed: Changed::No,
        })
    }

    const fn header(&self) -> &Header {
        &self.vdi.header
    }

    fn stride(&self) -> u64 {
        self.header()
            .block
            .get()
            .saturating_add(self.header().extra)
    }

    /// Where block `number` of the file begins.
    fn start(&self, number: u32) -> u64 {
        u64::from(number)
            .saturating_mul(self.stride())
            .saturating_add(self.header().data)
    }

    /// Where the guest's bytes of block `number` of the file begin.
    fn data(&self, number: u32) -> u64 {
        self.start(number).saturating_add(self.header().extra)
    }

    fn count(&self) -> Result<u32> {
        u32::try_from(self.owners.len()).map_err(|_| Error::internal("too many blocks"))
    }

    fn touch(&mut self) -> Result<()> {
        if self.changed == Changed::No {
            let modified = Uuid::new_v4();
            self.storage.write_at(&modified.to_bytes_le(), 0x198)?;
            self.vdi.header.modified = modified;
            self.changed = Changed::Yes;
        }
        Ok(())
    }

    fn set_word(&self, at: u64, value: u64) -> Result<()> {
        let value = u32::try_from(value).map_err(|_| {
            Error::unsupported("map or blocks would lie past 4 GiB")
                .hint("convert it into a new image instead")
        })?;
        self.storage.write_at(&value.to_le_bytes(), at)
    }

    fn entry(&self, index: u64) -> u32 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.vdi.map.get(index))
            .copied()
            .unwrap_or(ZERO)
    }

    fn enter(&mut self, index: u64, entry: u32) -> Result<()> {
        let at = self.header().map.saturating_add(index.saturating_mul(4));
        self.storage.write_at(&entry.to_le_bytes(), at)?;
        let place = usize::try_from(index)
            .ok()
            .and_then(|index| self.vdi.map.get_mut(index));
        if let Some(place) = place {
            *place = entry;
        }
        Ok(())
    }

    /// Lets the file end behind `number` blocks, the new ones of zeroes.
    fn extend(&mut self, number: u32) -> Result<()> {
        let end = self.start(number);
        let old = ensure_length(&*self.storage, end)?;
        self.vdi.file_size = old.max(end);
        Ok(())
    }

    /// The block of the file that holds block `index`, which gets one now if it has none.
    fn ensure(&mut self, index: u64) -> Result<u32> {
        let entry = self.entry(index);
        if entry < ZERO {
            return Ok(entry);
        }
        let number = self.count()?;
        let old = self.storage.size();
        let start = self.start(number);
        self.extend(number.saturating_add(1))?;
        let stale = old.saturating_sub(start).min(self.stride());
        self.storage.zero_at(start, stale)?;
        self.owners
            .push(u32::try_from(index).map_err(|_| Error::internal("too many blocks"))?);
        self.set_word(COUNT_AT, u64::from(self.count()?))?;
        self.enter(index, number)?;
        Ok(number)
    }

    /// Gives the room of block `index` away, to the last block of the file.
    fn release(&mut self, index: u64, state: u32) -> Result<()> {
        let number = self.entry(index);
        if number < ZERO {
            let last = self.count()?.saturating_sub(1);
            let moved = self.owners.pop().unwrap_or(FREE);
            if last != number {
                self.copy(self.start(last), self.start(number))?;
                self.enter(u64::from(moved), number)?;
                let owner = usize::try_from(number)
                    .ok()
                    .and_then(|number| self.owners.get_mut(number));
                if let Some(owner) = owner {
                    *owner = moved;
                }
            }
            self.set_word(COUNT_AT, u64::from(last))?;
        }
        self.enter(index, state)
    }

    /// Copies a block of the file.
    fn copy(&self, from: u64, to: u64) -> Result<()> {
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        // Ends because every piece is longer than nothing.
        while done < self.stride() {
            let left = usize::try_from(self.stride().saturating_sub(done)).unwrap_or(PIECE);
            let part = piece.get_mut(..left.min(PIECE)).unwrap_or_default();
            self.storage.read_at(part, from.saturating_add(done))?;
            self.storage.write_at(part, to.saturating_add(done))?;
            done = done.saturating_add(amount(part));
        }
        Ok(())
    }

    fn parts(&self, offset: u64, len: u64) -> Vec<Part> {
        let block = self.header().block;
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut parts = Vec::new();
        // Ends because every part has at least a byte.
        while at < end {
            let (index, within) = (at / block, at % block);
            let room = block.get().saturating_sub(within);
            let len = room.min(end.saturating_sub(at));
            parts.push(Part { index, within, len });
            at = at.saturating_add(len);
        }
        parts
    }

    fn is_whole(&self, part: Part) -> bool {
        let start = part.index.saturating_mul(self.header().block.get());
        let left = self.header().disk_size.saturating_sub(start);
        part.within == 0 && part.len == left.min(self.header().block.get())
    }

    fn inside(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.header().disk_size;
        let unit = self.unit();
        let end = offset.checked_add(len).filter(|end| *end <= size);
        match end {
            Some(end) if offset % unit == 0 && (end % unit == 0 || end == size) => Ok(()),
            _ => Err(Error::usage("range lies outside the disk or off its units").at(offset)),
        }
    }

    /// Leaves whole blocks in `state`, and makes zeroes of parts of stored ones.
    fn clear(&mut self, offset: u64, len: u64, state: u32) -> Result<()> {
        self.touch()?;
        for part in self.parts(offset, len) {
            if self.is_whole(part) && self.header().image_type != ImageType::Static {
                self.release(part.index, state)?;
                continue;
            }
            let number = self.entry(part.index);
            if number < ZERO {
                let at = self.data(number).saturating_add(part.within);
                self.storage.zero_at(at, part.len)?;
            }
        }
        Ok(())
    }

    /// Has the map room for `entries`: the first blocks make it where there is none.
    fn fit_map(&mut self, entries: u64) -> Result<()> {
        let map_end = self.header().map.saturating_add(entries.saturating_mul(4));
        let missing = map_end.saturating_sub(self.header().data);
        if missing == 0 {
            return Ok(());
        }
        let stride = self.stride();
        let blocks = missing
            .checked_div(stride)
            .unwrap_or(0)
            .saturating_add(u64::from(missing.checked_rem(stride) != Some(0)));
        let blocks = u32::try_from(blocks).map_err(|_| Error::internal("too many blocks"))?;
        let count = self.count()?;
        let moved = blocks.min(count);
        let behind = count.max(blocks);
        self.extend(behind.saturating_add(moved))?;
        for number in 0..moved {
            let to = behind.saturating_add(number);
            self.copy(self.start(number), self.start(to))?;
        }
        // From here on block 0 of the file is what was block `blocks`.
        let first = usize::try_from(moved).unwrap_or(usize::MAX);
        let first = first.min(self.owners.len());
        self.owners.rotate_left(first);
        let data = self.start(blocks);
        self.vdi.header.data = data;
        self.set_word(0x158, data)?;
        for (number, index) in (0u32..).zip(self.owners.clone()) {
            self.enter(u64::from(index), number)?;
        }
        Ok(())
    }
}

impl Layer for VdiEdit {
    fn size(&self) -> u64 {
        self.vdi.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.vdi.locate(offset, want)
    }
}

impl LayerMut for VdiEdit {
    /// A block of a differencing image is its own or its parent's, whole.
    fn unit(&self) -> NonZeroU64 {
        match self.header().image_type {
            ImageType::Differencing => self.header().block,
            ImageType::Dynamic | ImageType::Static => UNIT.min(self.header().block),
        }
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        self.inside(offset, amount(plain))?;
        self.touch()?;
        let mut rest = plain;
        for part in self.parts(offset, amount(plain)) {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX);
            let (bytes, tail) = rest.split_at(len.min(rest.len()));
            rest = tail;
            let state = self.entry(part.index);
            let reads_zero = state == ZERO || state == FREE && self.header().parent.is_none();
            if reads_zero && is_zero(bytes) {
                continue;
            }
            let number = self.ensure(part.index)?;
            let at = self.data(number).saturating_add(part.within);
            self.storage.write_at(bytes, at)?;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.inside(offset, len)?;
        let state = match self.header().image_type {
            ImageType::Differencing => ZERO,
            ImageType::Dynamic | ImageType::Static => FREE,
        };
        self.clear(offset, len, state)
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        self.inside(offset, len)?;
        self.clear(offset, len, FREE)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        let old = self.header().disk_size;
        let block = self.header().block;
        let entries = size.div_ceil(block.get());
        if size == 0 || !size.is_multiple_of(512) || entries > MAX_BLOCKS {
            let most = MAX_BLOCKS.saturating_mul(block.get());
            return Err(Error::usage("size cannot be that of a VDI")
                .mismatch(format!("a multiple of 512 up to {most}"), size));
        }
        let differencing = self.header().image_type == ImageType::Differencing;
        let edge = old % block;
        if differencing && size > old && edge != 0 && self.entry(old / block) == FREE {
            return Err(Error::unsupported(
                "cannot be made larger: its last block is its parent's, in part",
            )
            .hint("convert it into a new image instead"));
        }
        self.touch()?;
        let before = self.header().entries;
        for index in entries..before {
            self.release(index, FREE)?;
        }
        self.fit_map(entries)?;
        let keep = usize::try_from(entries).unwrap_or(usize::MAX);
        let state = if differencing { ZERO } else { FREE };
        self.vdi.map.resize(keep, state);
        let added = self
            .vdi
            .map
            .iter()
            .skip(usize::try_from(before).unwrap_or(usize::MAX));
        let added: Vec<u8> = added.copied().flat_map(u32::to_le_bytes).collect();
        let at = self.header().map.saturating_add(before.saturating_mul(4));
        self.storage.write_at(&added, at)?;
        self.vdi.header.entries = entries;
        self.vdi.header.disk_size = size;
        self.storage.write_at(&size.to_le_bytes(), 0x170)?;
        self.set_word(0x180, entries)?;
        if self.header().image_type == ImageType::Static {
            for index in before..entries {
                self.ensure(index)?;
            }
        }
        // Nobody says what is in the last block past the end, on either side of the change.
        let edge = size.min(old);
        let within = edge % block;
        let number = self.entry(edge / block);
        if within != 0 && number < ZERO {
            let at = self.data(number).saturating_add(within);
            self.storage
                .zero_at(at, block.get().saturating_sub(within))?;
        }
        Ok(())
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        if backing.is_some() {
            return Err(
                Error::usage("a VDI cannot be given a parent").hint("convert it into qcow2 first")
            );
        }
        if self.header().image_type == ImageType::Differencing {
            self.touch()?;
            self.set_word(0x4c, 1)?;
            self.storage.write_at(&[0; 32], 0x1a8)?;
            self.vdi.header.image_type = ImageType::Dynamic;
            self.vdi.header.parent = None;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let end = self.start(self.count()?);
        if self.storage.size() > end && !is_device(&*self.storage) {
            self.storage.set_size(end)?;
        }
        self.vdi.file_size = self.storage.size();
        Ok(())
    }
}

impl VdiEdit {
    /// Writes the count again, and cuts off what is nobody's at the end.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn rewrite(&mut self) -> Result<()> {
        self.set_word(COUNT_AT, u64::from(self.count()?))?;
        self.flush()
    }
}
