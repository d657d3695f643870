//! Directories of several data blocks with an index of one block.
//!
//! Source: "XFS Algorithms & Data Structures", section "Leaf Directories". The index is small enough to
//! be made anew with every change, from the names of all data blocks.

use rehost_block::{Error, Fields, Result};

use super::super::check::{self, Block, Verify};
use super::super::inode::Node;
use super::super::map::{Extent, Mapping};
use super::change::Change;
use super::dirblock::{Entry, HEADER, Made, Name, names, put_entries};
use super::names::{data_number, data_size, short};
use super::space::Owner;
use super::stamp::{Kind, put, put16, put32, put64};

/// Where the entries of an index block begin.
const INDEX_AT: usize = 64;
/// No such data block.
const NO_BLOCK: u16 = 0xffff;

/// A data block of a directory.
struct Data {
    /// Its first block in the file.
    file: u64,
    /// Byte offset on the disk.
    offset: u64,
    names: Vec<Name>,
    places: Vec<usize>,
    /// Its longest free part.
    free: usize,
}

impl Data {
    fn used(&self) -> usize {
        self.names
            .iter()
            .fold(HEADER, |sum, name| sum.saturating_add(name.size()))
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names.iter().any(|other| other.name == name)
    }
}

impl Change<'_> {
    /// A data block of a directory with an index, checked.
    pub(super) fn data_raw(&self, node: &Node, offset: u64) -> Result<Vec<u8>> {
        let raw = self.read(offset, self.dir_len()?)?;
        let block = Block {
            raw: &raw,
            structure: "directory block",
            offset,
            verify: Verify::Stored,
        };
        if raw.get(..4) != Some(b"XDD3") {
            return Err(block
                .fields()
                .corrupt(0, "no directory data")
                .hint(check::HEADER_HINT));
        }
        block.check(check::DIR, &self.fs.sb, node.number)?;
        Ok(raw)
    }

    fn all_data(&self, node: &Node, mapping: &Mapping) -> Result<Vec<Data>> {
        let per = self.dir_blocks();
        let mut found = Vec::new();
        for extent in mapping {
            let first = extent.file.next_multiple_of(per.max(1));
            let end = extent.end().min(self.fs.sb.leaf_block());
            for file in (first..end).step_by(super::super::count(per).max(1)) {
                let offset = self.dir_place(node, mapping, file)?;
                let raw = self.data_raw(node, offset)?;
                let free = usize::from(Fields::new(&raw, "directory block", offset).u16_be(50)?);
                let (places, names) = names(&raw, raw.len(), offset)?.into_iter().unzip();
                found.push(Data {
                    file,
                    offset,
                    names,
                    places,
                    free,
                });
            }
        }
        Ok(found)
    }

    /// Makes a data block anew.
    fn put_data(&mut self, dir: u64, data: &mut Data) -> Result<()> {
        let len = self.dir_len()?;
        let made = self.built_data(b"XDD3", dir, data.offset, &data.names, len)?;
        let Made { raw, places, free } =
            made.ok_or_else(|| Error::internal("names do not fit into their block"))?;
        (data.places, data.free) = (places, free);
        self.put(Kind::DirData, data.offset, raw)
    }

    /// Makes the index of these data blocks anew, at byte `offset` of the disk.
    fn put_leaf(&mut self, dir: u64, offset: u64, blocks: &[Data]) -> Result<()> {
        let (per, size) = (self.dir_blocks(), self.block_size());
        let mut entries: Vec<Entry> = Vec::new();
        let last = blocks.last().map_or(0, |data| data_number(data.file, per));
        let mut bests = vec![NO_BLOCK; last.saturating_add(1)];
        for data in blocks {
            let base = data.file.saturating_mul(size);
            entries.extend(super::dirblock::entries(&data.names, &data.places, base)?);
            if let Some(best) = bests.get_mut(data_number(data.file, per)) {
                *best = short(data.free)?;
            }
        }
        entries.sort_unstable();
        let len = self.dir_len()?;
        let table = bests.len().saturating_mul(2).saturating_add(4);
        let need = entries
            .len()
            .saturating_mul(8)
            .saturating_add(INDEX_AT)
            .saturating_add(table);
        if need > len {
            return Err(
                Error::unsupported("index of a directory would need a second block")
                    .in_structure("directory index"),
            );
        }
        let mut raw = vec![0; len];
        put16(&mut raw, 8, 0x3df1)?;
        put64(&mut raw, 16, offset >> 9)?;
        put(&mut raw, 32, &self.fs.sb.meta_uuid)?;
        put64(&mut raw, 48, dir)?;
        put16(&mut raw, 56, short(entries.len())?)?;
        put_entries(&mut raw, INDEX_AT, &entries)?;
        let mut at = len.saturating_sub(table);
        for best in &bests {
            put16(&mut raw, at, *best)?;
            at = at.saturating_add(2);
        }
        put32(&mut raw, at, u32::try_from(bests.len()).unwrap_or(u32::MAX))?;
        self.put(Kind::DirLeaf, offset, raw)
    }

    /// A directory of one block, whose index does not fit any more, gets a block for it. `names` are
    /// all names, the last one being new.
    pub(super) fn block_to_leaf(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mapping: &Mapping,
        names: &[Name],
    ) -> Result<()> {
        let leaf = self.dir_block(node.number, self.fs.sb.leaf_block())?;
        let (new, old) = names
            .split_last()
            .ok_or_else(|| Error::internal("a directory has no names"))?;
        let mut data = Data {
            file: 0,
            offset: self.dir_place(node, mapping, 0)?,
            names: old.to_vec(),
            places: Vec::new(),
            free: 0,
        };
        self.put_data(node.number, &mut data)?;
        let extents = Self::with_extent(mapping, leaf);
        self.set_extents(raw, mapping, &extents)?;
        self.fill_leaf(node, raw, extents, vec![data], new.clone())
    }

    pub(super) fn add_to_leaf(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mapping: Mapping,
        name: Name,
    ) -> Result<()> {
        let blocks = self.all_data(node, &mapping)?;
        self.fill_leaf(node, raw, mapping, blocks, name)
    }

    /// Puts a name into the first data block that has room, or a new one.
    fn fill_leaf(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mut mapping: Mapping,
        mut blocks: Vec<Data>,
        name: Name,
    ) -> Result<()> {
        let len = self.dir_len()?;
        let fits = |data: &Data| data.used().saturating_add(name.size()) <= len;
        if let Some(data) = blocks.iter_mut().find(|data| fits(data)) {
            data.names.push(name);
            self.put_data(node.number, data)?;
        } else {
            let per = self.dir_blocks();
            // The first block of the directory that is not there.
            let mut file = 0;
            for data in &blocks {
                if data.file != file {
                    break;
                }
                file = file.saturating_add(per);
            }
            let extent = self.dir_block(node.number, file)?;
            let extents = Self::with_extent(&mapping, extent);
            self.set_extents(raw, &mapping, &extents)?;
            mapping = extents;
            let mut data = Data {
                file,
                offset: self.fs.blocks.offset(extent.disk),
                names: vec![name],
                places: Vec::new(),
                free: 0,
            };
            self.put_data(node.number, &mut data)?;
            blocks.push(data);
            blocks.sort_by_key(|data| data.file);
        }
        self.finish_leaf(node, raw, &mapping, &blocks)
    }

    /// Renews the index and the directory's size.
    fn finish_leaf(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mapping: &Mapping,
        blocks: &[Data],
    ) -> Result<()> {
        let leaf = self.dir_place(node, mapping, self.fs.sb.leaf_block())?;
        self.put_leaf(node.number, leaf, blocks)?;
        let last = blocks.last().map_or(0, |data| data.file);
        let end = last.saturating_add(self.dir_blocks());
        put64(raw, 56, data_size(end, self.block_size()))
    }

    pub(super) fn remove_from_leaf(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mut mapping: Mapping,
        name: &[u8],
    ) -> Result<()> {
        let mut blocks = self.all_data(node, &mapping)?;
        let nth = blocks.iter().position(|data| data.has(name));
        let nth = nth.ok_or_else(|| node.corrupt("lost a name"))?;
        let emptied = blocks.get_mut(nth).is_some_and(|data| {
            data.names.retain(|other| other.name != name);
            data.names.is_empty()
        });
        if emptied {
            let data = blocks.remove(nth);
            let gone = Extent {
                file: data.file,
                disk: data.offset.checked_div(self.block_size()).unwrap_or(0),
                count: self.dir_blocks(),
                written: true,
            };
            self.release(Owner { inode: node.number }, &gone)?;
            let extents = Self::without_extent(&mapping, &gone);
            self.set_extents(raw, &mapping, &extents)?;
            mapping = extents;
        } else if let Some(data) = blocks.get_mut(nth) {
            self.put_data(node.number, data)?;
        }
        self.finish_leaf(node, raw, &mapping, &blocks)
    }
}
