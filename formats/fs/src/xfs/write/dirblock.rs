//! Directory blocks: names with their index at the end, or only names.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Directories". A block that changes is made
//! anew: its names lie together, and what is free is one piece at the end. (Cookies of open
//! directory streams are places in a block; nobody has the filesystem mounted.)

use rehost_block::{Fields, Result};

use super::super::check;
use super::super::inode::Node;
use super::super::map::{Extent, Mapping};
use super::change::Change;
use super::names::short;
use super::stamp::{Kind, put, put16, put32, put64};

/// Bytes of a data block's header.
pub(super) const HEADER: usize = 64;
/// Marks a free part.
pub(super) const FREE: u16 = 0xffff;
/// Bytes of an index entry, and of the tail behind them.
const INDEX: usize = 8;
const TAIL: usize = 8;

/// A name as a directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) inode: u64,
    /// `XFS_DIR3_FT_*`.
    pub(super) kind: u8,
}

impl Name {
    /// Bytes that it takes in a block.
    pub(super) const fn size(&self) -> usize {
        // Number, length, name, kind, place.
        size_of(self.name.len())
    }

    /// Its bytes at `place` of a block.
    pub(super) fn bytes(&self, place: usize) -> Result<Vec<u8>> {
        let size = self.size();
        let mut raw = vec![0; size];
        put64(&mut raw, 0, self.inode)?;
        put(
            &mut raw,
            8,
            &[u8::try_from(self.name.len()).unwrap_or(u8::MAX)],
        )?;
        put(&mut raw, 9, &self.name)?;
        put(&mut raw, self.name.len().saturating_add(9), &[self.kind])?;
        put16(&mut raw, size.saturating_sub(2), short(place)?)?;
        Ok(raw)
    }
}

const fn size_of(name: usize) -> usize {
    name.saturating_add(12).next_multiple_of(8)
}

/// The place of the first name after `.` and `..`.
pub(super) const fn first_place() -> usize {
    HEADER.saturating_add(size_of(1)).saturating_add(size_of(2))
}

/// `xfs_da_hashname`: four bytes at a time, and the rest.
pub(super) fn hash(name: &[u8]) -> u32 {
    let (fours, rest) = name.as_chunks::<4>();
    let shifted = |byte: u8, by: u32| u32::from(byte) << by;
    let mut hash = 0u32;
    for [a, b, c, d] in fours {
        hash = shifted(*a, 21)
            ^ shifted(*b, 14)
            ^ shifted(*c, 7)
            ^ u32::from(*d)
            ^ hash.rotate_left(28);
    }
    match rest {
        [a, b, c] => shifted(*a, 14) ^ shifted(*b, 7) ^ u32::from(*c) ^ hash.rotate_left(21),
        [a, b] => shifted(*a, 7) ^ u32::from(*b) ^ hash.rotate_left(14),
        [a] => u32::from(*a) ^ hash.rotate_left(7),
        _ => hash,
    }
}

/// A part of a data block.
#[derive(Debug)]
pub(super) enum Part {
    Name(Name),
    Free(usize),
}

/// The parts of a data block with their places, up to `end`. The reader has checked the block.
pub(super) fn parts(raw: &[u8], end: usize, offset: u64) -> Result<Vec<(usize, Part)>> {
    let f = Fields::new(raw, "directory block", offset);
    let mut found = Vec::new();
    let mut at = HEADER;
    // Ends because every part has at least 8 bytes.
    while at < end {
        if f.u16_be(at)? == FREE {
            let len = usize::from(f.u16_be(at.saturating_add(2))?);
            if len < 8 || len % 8 != 0 {
                return Err(f.corrupt(at, "free part has an impossible length"));
            }
            found.push((at, Part::Free(len)));
            at = at.saturating_add(len);
            continue;
        }
        let len = usize::from(f.u8(at.saturating_add(8))?);
        let name = Name {
            name: f.bytes(at.saturating_add(9), len)?.to_vec(),
            inode: f.u64_be(at)?,
            kind: f.u8(at.saturating_add(9).saturating_add(len))?,
        };
        let size = name.size();
        found.push((at, Part::Name(name)));
        at = at.saturating_add(size);
    }
    if at == end {
        Ok(found)
    } else {
        Err(f.corrupt(at, "entry reaches past the end of its block"))
    }
}

/// Only the names of [`parts`].
pub(super) fn names(raw: &[u8], end: usize, offset: u64) -> Result<Vec<(usize, Name)>> {
    Ok(parts(raw, end, offset)?
        .into_iter()
        .filter_map(|(at, part)| match part {
            Part::Name(name) => Some((at, name)),
            Part::Free(_) => None,
        })
        .collect())
}

/// Writes a free part, which says its place at its end.
pub(super) fn put_free(raw: &mut [u8], at: usize, len: usize) -> Result<()> {
    put16(raw, at, FREE)?;
    put16(raw, at.saturating_add(2), short(len)?)?;
    let last = at.saturating_add(len).saturating_sub(2);
    put16(raw, last, short(at)?)
}

/// A name of an index: its hash, and its place in the directory in units of 8 bytes.
pub(super) type Entry = (u32, u32);

/// A data block just made, and where its names are.
pub(super) struct Made {
    pub(super) raw: Vec<u8>,
    pub(super) places: Vec<usize>,
    /// Its longest free part.
    pub(super) free: usize,
}

impl Change<'_> {
    /// What every block of a directory says of itself.
    fn data_header(&self, magic: &[u8], dir: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut raw = vec![0; len];
        put(&mut raw, 0, magic)?;
        put64(&mut raw, 8, offset >> 9)?;
        put(&mut raw, 24, &self.fs.sb.meta_uuid)?;
        put64(&mut raw, 40, dir)?;
        Ok(raw)
    }

    /// A data block of these names, whose data ends at `end`; `None` when they do not fit.
    pub(super) fn built_data(
        &self,
        magic: &[u8],
        dir: u64,
        offset: u64,
        names: &[Name],
        end: usize,
    ) -> Result<Option<Made>> {
        let mut raw = self.data_header(magic, dir, offset, self.dir_len()?)?;
        let mut at = HEADER;
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            let next = at.saturating_add(name.size());
            if next > end {
                return Ok(None);
            }
            put(&mut raw, at, &name.bytes(at)?)?;
            places.push(at);
            at = next;
        }
        let free = end.saturating_sub(at);
        if free > 0 {
            put_free(&mut raw, at, free)?;
            put16(&mut raw, 48, short(at)?)?;
            put16(&mut raw, 50, short(free)?)?;
        }
        Ok(Some(Made { raw, places, free }))
    }

    /// A block with names and their index; `None` when they do not fit.
    pub(super) fn built_block(
        &self,
        dir: u64,
        extent: &Extent,
        names: &[Name],
    ) -> Result<Option<Vec<u8>>> {
        let len = self.dir_len()?;
        let index = names.len().saturating_mul(INDEX).saturating_add(TAIL);
        let Some(end) = len.checked_sub(index) else {
            return Ok(None);
        };
        let offset = self.fs.blocks.offset(extent.disk);
        let Some(made) = self.built_data(b"XDB3", dir, offset, names, end)? else {
            return Ok(None);
        };
        let mut raw = made.raw;
        let mut entries = entries(names, &made.places, 0)?;
        entries.sort_unstable();
        put_entries(&mut raw, end, &entries)?;
        let tail = len.saturating_sub(TAIL);
        put32(
            &mut raw,
            tail,
            u32::try_from(entries.len()).unwrap_or(u32::MAX),
        )?;
        Ok(Some(raw))
    }

    /// The names of a directory of one block, and its place.
    fn block_names(&self, node: &Node, mapping: &Mapping) -> Result<(Vec<Name>, Extent)> {
        let offset = self.dir_place(node, mapping, 0)?;
        let raw = self.read(offset, self.dir_len()?)?;
        let f = Fields::new(&raw, "directory block", offset);
        let tail = raw.len().saturating_sub(TAIL);
        let entries = super::super::count(u64::from(f.u32_be(tail)?));
        let end = tail
            .checked_sub(entries.saturating_mul(INDEX))
            .filter(|end| *end >= HEADER && f.bytes(0, 4).is_ok_and(|magic| magic == b"XDB3"))
            .ok_or_else(|| {
                f.corrupt(0, "no directory of one block")
                    .hint(check::HEADER_HINT)
            })?;
        let names = names(&raw, end, offset)?;
        let extent = mapping.first().copied();
        let extent = extent.ok_or_else(|| node.corrupt("directory has no block"))?;
        Ok((names.into_iter().map(|(_, name)| name).collect(), extent))
    }

    pub(super) fn add_to_block(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mapping: &Mapping,
        name: Name,
    ) -> Result<()> {
        let (mut names, extent) = self.block_names(node, mapping)?;
        names.push(name);
        let offset = self.fs.blocks.offset(extent.disk);
        match self.built_block(node.number, &extent, &names)? {
            Some(block) => self.put(Kind::DirBlock, offset, block),
            None => self.block_to_leaf(node, raw, mapping, &names),
        }
    }

    pub(super) fn remove_from_block(
        &mut self,
        node: &Node,
        mapping: &Mapping,
        name: &[u8],
    ) -> Result<()> {
        let (mut names, extent) = self.block_names(node, mapping)?;
        names.retain(|other| other.name != name);
        let block = self.built_block(node.number, &extent, &names)?;
        let block = block.ok_or_else(|| node.corrupt("directory block is overfull"))?;
        self.put(Kind::DirBlock, self.fs.blocks.offset(extent.disk), block)
    }
}

/// Index entries of names at these places of the data block that begins at byte `base` of the
/// directory.
pub(super) fn entries(names: &[Name], places: &[usize], base: u64) -> Result<Vec<Entry>> {
    names
        .iter()
        .zip(places)
        .map(|(name, place)| {
            let at = base.saturating_add(crate::number::wide(*place)) / 8;
            Ok((hash(&name.name), super::btree::narrow(at)?))
        })
        .collect()
}

/// Writes index entries from byte `at` on.
pub(super) fn put_entries(raw: &mut [u8], at: usize, entries: &[Entry]) -> Result<()> {
    let mut bytes = Vec::with_capacity(entries.len().saturating_mul(INDEX));
    for (hash, place) in entries {
        bytes.extend(hash.to_be_bytes());
        bytes.extend(place.to_be_bytes());
    }
    put(raw, at, &bytes)
}
