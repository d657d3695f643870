//! Directories whose index has many blocks: a tree by the hash of the name, and a table of the room in
//! each data block.
//!
//! Source: "XFS Algorithms & Data Structures", section "Node Directories". Names go into the room that
//! data blocks have; entries into the leaf of the tree where their hash belongs.

use rehost_block::{Error, Fields, Result};

use super::super::check::{self, Block, Verify};
use super::super::inode::Node;
use super::super::map::Mapping;
use super::change::Change;
use super::dirblock::{Entry, HEADER, Name, Part, hash, parts, put_entries, put_free};
use super::names::{data_number, short};
use super::stamp::{Kind, put, put16, put32};
use crate::number::{div, length, rem, wide};

/// Where entries begin in every block of the index, and numbers in the table of room.
const INDEX_AT: usize = 64;
/// Levels of an index, at most (`XFS_DA_NODE_MAXDEPTH`).
const MOST_LEVELS: u16 = 5;
/// No data block.
const NO_BLOCK: u16 = 0xffff;

/// A block of the index, with its place.
struct Page {
    raw: Vec<u8>,
    offset: u64,
}

impl Page {
    fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, "directory index", self.offset)
    }
}

/// The way to a leaf: blocks above it with the child that was taken, and the leaf.
struct Way {
    above: Vec<(Page, usize)>,
    leaf: Page,
}

impl Change<'_> {
    fn page(&self, node: &Node, mapping: &Mapping, file: u64) -> Result<Page> {
        let offset = self.dir_place(node, mapping, file)?;
        let raw = self.read(offset, self.dir_len()?)?;
        let block = Block {
            raw: &raw,
            structure: "directory index",
            offset,
            verify: Verify::Stored,
        };
        block.check(check::TREE, &self.fs.sb, node.number)?;
        Ok(Page { raw, offset })
    }

    /// The way to the leaf where `hash` belongs. Ends: the level falls with each step.
    fn way(&self, node: &Node, mapping: &Mapping, hash: u32) -> Result<Way> {
        let mut above: Vec<(Page, usize)> = Vec::new();
        let mut file = self.fs.sb.leaf_block();
        let mut level: Option<u16> = None;
        loop {
            let page = self.page(node, mapping, file)?;
            let f = page.fields();
            match f.u16_be(8)? {
                0x3dff if level.unwrap_or(0) == 0 => return Ok(Way { above, leaf: page }),
                0x3ebe => {
                    let (count, own) = (usize::from(f.u16_be(56)?), f.u16_be(58)?);
                    let expected = level.unwrap_or(own);
                    if own == 0 || own > MOST_LEVELS || own != expected || count == 0 {
                        return Err(f.corrupt(58, "impossible level").hint(check::HEADER_HINT));
                    }
                    let mut nth = 0;
                    let mut below = 0;
                    for child in 0..count {
                        let at = INDEX_AT.saturating_add(child.saturating_mul(8));
                        nth = child;
                        below = f.u32_be(at.saturating_add(4))?;
                        if f.u32_be(at)? >= hash {
                            break;
                        }
                    }
                    level = own.checked_sub(1);
                    file = below.into();
                    above.push((page, nth));
                }
                _ => {
                    return Err(f
                        .corrupt(8, "no block of an index")
                        .hint(check::HEADER_HINT));
                }
            }
        }
    }

    /// The entries of a leaf that are in use.
    fn leaf_entries(page: &Page) -> Result<Vec<Entry>> {
        let f = page.fields();
        let count = usize::from(f.u16_be(56)?);
        let mut found = Vec::with_capacity(count.min(page.raw.len() / 8));
        for at in (INDEX_AT..).step_by(8).take(count) {
            let entry = (f.u32_be(at)?, f.u32_be(at.saturating_add(4))?);
            // One that is not in use points nowhere.
            if entry.1 != 0 {
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// Makes a leaf's entries anew, and the hashes above it.
    fn put_way(&mut self, way: Way, entries: &[Entry]) -> Result<()> {
        let Way { above, leaf } = way;
        let most = leaf.raw.len().saturating_sub(INDEX_AT) / 8;
        let Some((last, _)) = entries.last().copied().filter(|_| entries.len() <= most) else {
            return Err(Error::unsupported(if entries.is_empty() {
                "a block of a directory's index would have to go"
            } else {
                "a block of a directory's index would have to split"
            })
            .in_structure("directory index")
            .at(leaf.offset));
        };
        let mut raw = leaf.raw;
        if let Some(area) = raw.get_mut(INDEX_AT..) {
            area.fill(0);
        }
        put16(&mut raw, 56, short(entries.len())?)?;
        put16(&mut raw, 58, 0)?;
        put_entries(&mut raw, INDEX_AT, entries)?;
        self.put(Kind::DirLeafOfMany, leaf.offset, raw)?;
        for (page, nth) in above.into_iter().rev() {
            let count = usize::from(page.fields().u16_be(56)?);
            let mut raw = page.raw;
            let at = INDEX_AT.saturating_add(nth.saturating_mul(8));
            put32(&mut raw, at, last)?;
            self.put(Kind::DirNode, page.offset, raw)?;
            if nth.saturating_add(1) != count {
                break;
            }
        }
        Ok(())
    }

    /// Blocks of the table of room: the first data block that each stands for, and itself.
    fn room_pages(&self, node: &Node, mapping: &Mapping) -> Result<Vec<Page>> {
        let per = self.dir_blocks();
        let first = self.fs.sb.leaf_block().saturating_mul(2);
        let mut pages = Vec::new();
        for extent in mapping.iter().filter(|extent| extent.end() > first) {
            let from = extent.file.next_multiple_of(per.max(1));
            for file in (from..extent.end()).step_by(super::super::count(per).max(1)) {
                let offset = self.dir_place(node, mapping, file)?;
                let raw = self.read(offset, self.dir_len()?)?;
                let block = Block {
                    raw: &raw,
                    structure: "directory's table of room",
                    offset,
                    verify: Verify::Stored,
                };
                // The header is that of data blocks.
                block.check(check::DIR, &self.fs.sb, node.number)?;
                if raw.get(..4) != Some(b"XDF3") {
                    return Err(block.fields().corrupt(0, "no table of room"));
                }
                pages.push(Page { raw, offset });
            }
        }
        Ok(pages)
    }

    /// Notes the longest free part of data block `number` in the table of room.
    fn note_room(
        &mut self,
        node: &Node,
        mapping: &Mapping,
        number: usize,
        free: usize,
    ) -> Result<()> {
        for page in self.room_pages(node, mapping)? {
            let f = page.fields();
            let first = super::super::count(f.u32_be(48)?.into());
            let count = super::super::count(f.u32_be(52)?.into());
            let Some(nth) = number.checked_sub(first).filter(|nth| *nth < count) else {
                continue;
            };
            let mut raw = page.raw;
            let at = INDEX_AT.saturating_add(nth.saturating_mul(2));
            put16(&mut raw, at, short(free)?)?;
            return self.put(Kind::DirFree, page.offset, raw);
        }
        Err(node.corrupt("table of room lacks a data block"))
    }

    /// Renews what a data block says of its free parts; the longest one.
    fn mend_free(raw: &mut [u8], offset: u64) -> Result<usize> {
        let mut free: Vec<(usize, usize)> = parts(raw, raw.len(), offset)?
            .into_iter()
            .filter_map(|(at, part)| match part {
                Part::Free(len) => Some((len, at)),
                Part::Name(_) => None,
            })
            .collect();
        free.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        put(raw, 48, &[0; 12])?;
        for ((len, at), nth) in free.iter().take(3).zip(0usize..) {
            let slot = nth.saturating_mul(4).saturating_add(48);
            put16(raw, slot, short(*at)?)?;
            put16(raw, slot.saturating_add(2), short(*len)?)?;
        }
        Ok(free.first().map_or(0, |(len, _)| *len))
    }

    /// Puts a name where a data block has room for it.
    pub(super) fn add_to_many(
        &mut self,
        node: &Node,
        mapping: &Mapping,
        name: &Name,
    ) -> Result<()> {
        let need = name.size();
        let mut roomy = None;
        for page in self.room_pages(node, mapping)? {
            let f = page.fields();
            let first = u64::from(f.u32_be(48)?);
            let count = super::super::count(f.u32_be(52)?.into());
            for (nth, at) in (0u64..).zip((INDEX_AT..).step_by(2).take(count)) {
                let free = f.u16_be(at)?;
                if free != NO_BLOCK && usize::from(free) >= need {
                    roomy = Some(first.saturating_add(nth));
                    break;
                }
            }
            if roomy.is_some() {
                break;
            }
        }
        let number = roomy.ok_or_else(|| {
            Error::unsupported("no block of a directory has room for another name")
                .in_structure("directory's table of room")
        })?;
        let file = number.saturating_mul(self.dir_blocks());
        let offset = self.dir_place(node, mapping, file)?;
        let mut raw = self.data_raw(node, offset)?;
        let found = parts(&raw, raw.len(), offset)?
            .into_iter()
            .find_map(|(at, part)| match part {
                Part::Free(len) if len >= need => Some((at, len)),
                _ => None,
            });
        let (at, len) =
            found.ok_or_else(|| node.corrupt("table of room promises room that is not there"))?;
        put(&mut raw, at, &name.bytes(at)?)?;
        let rest = len.saturating_sub(need);
        if rest > 0 {
            put_free(&mut raw, at.saturating_add(need), rest)?;
        }
        let free = Self::mend_free(&mut raw, offset)?;
        self.put(Kind::DirData, offset, raw)?;
        self.note_room(node, mapping, data_number(file, self.dir_blocks()), free)?;
        let place = number
            .saturating_mul(wide(self.dir_len()?))
            .saturating_add(wide(at));
        let entry = (hash(&name.name), super::btree::narrow(div(place, 8))?);
        let way = self.way(node, mapping, entry.0)?;
        let mut entries = Self::leaf_entries(&way.leaf)?;
        let nth = entries.partition_point(|other| *other < entry);
        entries.insert(nth, entry);
        self.put_way(way, &entries)
    }

    /// Takes a name out of its data block and of the index.
    pub(super) fn remove_from_many(
        &mut self,
        node: &Node,
        mapping: &Mapping,
        name: &[u8],
    ) -> Result<()> {
        let hash = hash(name);
        let way = self.way(node, mapping, hash)?;
        let mut entries = Self::leaf_entries(&way.leaf)?;
        let size = wide(self.dir_len()?);
        let mut found = None;
        for (nth, (own, place)) in entries.iter().enumerate() {
            if *own != hash {
                continue;
            }
            let at = u64::from(*place).saturating_mul(8);
            let (number, within) = (div(at, size), length(rem(at, size))?);
            let file = number.saturating_mul(self.dir_blocks());
            let offset = self.dir_place(node, mapping, file)?;
            let raw = self.data_raw(node, offset)?;
            let f = Fields::new(&raw, "directory block", offset);
            let len = usize::from(f.u8(within.saturating_add(8))?);
            if f.bytes(within.saturating_add(9), len)? == name {
                found = Some((nth, file, offset, raw, within));
                break;
            }
        }
        let Some((nth, file, offset, mut raw, within)) = found else {
            return Err(Error::unsupported(
                "names of one hash lie in several blocks of a directory's index",
            )
            .in_structure("directory index")
            .at(way.leaf.offset));
        };
        Self::cut(&mut raw, within, offset)?;
        let free = Self::mend_free(&mut raw, offset)?;
        if HEADER.saturating_add(free) >= raw.len() {
            return Err(
                Error::unsupported("a block of a directory would have to go")
                    .in_structure("directory block")
                    .at(offset),
            );
        }
        self.put(Kind::DirData, offset, raw)?;
        self.note_room(node, mapping, data_number(file, self.dir_blocks()), free)?;
        entries.remove(nth);
        self.put_way(way, &entries)
    }

    /// Frees the name at byte `place` of a data block, joined to what is free beside it.
    fn cut(raw: &mut [u8], place: usize, offset: u64) -> Result<()> {
        let all = parts(raw, raw.len(), offset)?;
        let nth = all.iter().position(|(at, _)| *at == place);
        let nth = nth.ok_or_else(|| Error::internal("a name is not where its index says"))?;
        let (mut from, mut to) = (place, place);
        let mut own = |nth: Option<usize>| {
            let Some((at, part)) = nth.and_then(|nth| all.get(nth)) else {
                return;
            };
            let len = match part {
                Part::Free(len) => *len,
                Part::Name(name) if *at == place => name.size(),
                Part::Name(_) => return,
            };
            from = from.min(*at);
            to = to.max(at.saturating_add(len));
        };
        own(Some(nth));
        own(nth.checked_sub(1));
        own(nth.checked_add(1));
        if let Some(area) = raw.get_mut(from..to) {
            area.fill(0);
        }
        put_free(raw, from, to.saturating_sub(from))
    }
}
