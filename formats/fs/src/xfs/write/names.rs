//! Names put into directories and taken out: the short form, and which other form a directory has.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Directories". A short directory has its names in
//! its inode; when one does not fit any more, all move to a block. A single block has its index at its
//! end; when that does not fit any more, the index gets a block of its own, which lists all names by the
//! hash of the name.

use rehost_block::{Error, Fields, Result};

use super::super::inode::{Format, Node};
use super::super::map::{Extent, Mapping};
use super::change::Change;
use super::core::Stamp;
use super::dirblock::{self, Name};
use super::space::Owner;
use super::stamp::put64;
use crate::FileKind;
use crate::number::{div, length, wide};

/// `XFS_DIR3_FT_*`.
pub(super) const fn code(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
        FileKind::Symlink => 7,
    }
}

/// A directory in its inode.
#[derive(Debug)]
struct Short {
    parent: u64,
    /// With the place that each name would have in a block.
    names: Vec<(u16, Name)>,
}

impl Short {
    fn parse(raw: &[u8], offset: u64) -> Result<Self> {
        let f = Fields::new(raw, "short directory", offset);
        let count = usize::from(f.u8(0)?);
        let wide = f.u8(1)? != 0;
        let width = if wide { 8 } else { 4 };
        let number = |at: usize| {
            if wide {
                f.u64_be(at)
            } else {
                f.u32_be(at).map(u64::from)
            }
        };
        let parent = number(2)?;
        let mut at = 2usize.saturating_add(width);
        let mut names = Vec::with_capacity(count);
        for _ in 0..count {
            let len = usize::from(f.u8(at)?);
            let place = f.u16_be(at.saturating_add(1))?;
            let name = f.bytes(at.saturating_add(3), len)?.to_vec();
            at = at.saturating_add(3).saturating_add(len);
            let kind = f.u8(at)?;
            let inode = number(at.saturating_add(1))?;
            at = at.saturating_add(1).saturating_add(width);
            names.push((place, Name { name, inode, kind }));
        }
        Ok(Self { parent, names })
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let count = u8::try_from(self.names.len()).ok()?;
        let most = self.names.iter().map(|(_, name)| name.inode).max();
        let far = |inode: u64| u32::try_from(inode).is_err();
        let wide = far(self.parent.max(most.unwrap_or(0)));
        // The second byte counts the numbers that need eight.
        let fars = self
            .names
            .iter()
            .filter(|(_, name)| far(name.inode))
            .count();
        let fars = fars.saturating_add(usize::from(far(self.parent)));
        let mut raw = vec![count, u8::try_from(fars).ok()?];
        let put = |raw: &mut Vec<u8>, inode: u64| {
            let bytes = inode.to_be_bytes();
            let skip = if wide { 0 } else { 4 };
            raw.extend(bytes.iter().skip(skip));
        };
        put(&mut raw, self.parent);
        for (place, name) in &self.names {
            raw.push(u8::try_from(name.name.len()).ok()?);
            raw.extend(place.to_be_bytes());
            raw.extend(&name.name);
            raw.push(name.kind);
            put(&mut raw, name.inode);
        }
        Some(raw)
    }

    /// A place for another name, in order of places, that leaves room for the index of all.
    fn place_for(&self, name: &Name, block: usize) -> Option<(usize, u16)> {
        let mut at = dirblock::first_place();
        let need = name.size();
        let index = self.names.len().saturating_add(3).saturating_mul(8);
        let most = block.checked_sub(index.saturating_add(8))?;
        for (nth, (place, other)) in self.names.iter().enumerate() {
            if usize::from(*place).checked_sub(at)? >= need {
                return Some((nth, u16::try_from(at).ok()?));
            }
            at = usize::from(*place).saturating_add(other.size());
        }
        (at.saturating_add(need) <= most)
            .then(|| u16::try_from(at).ok())?
            .map(|at| (self.names.len(), at))
    }
}

impl Change<'_> {
    /// Makes an inode's bytes an empty directory in `parent`.
    pub(super) fn set_empty_dir(&self, raw: &mut [u8], parent: u64) -> Result<()> {
        let names = Vec::new();
        let bytes = Short { parent, names }.bytes().unwrap_or_default();
        self.set_local(raw, &bytes)
    }

    /// Puts a name into directory `dir`.
    pub(super) fn add_name(
        &mut self,
        dir: u64,
        name: &[u8],
        inode: u64,
        kind: FileKind,
    ) -> Result<()> {
        let node = self.node(dir)?;
        let mut raw = node.raw().to_vec();
        if kind == FileKind::Directory {
            self.count_links(&mut raw, 1)?;
        }
        let name = Name {
            name: name.to_vec(),
            inode,
            kind: code(kind),
        };
        match self.form(&node)? {
            Form::Short => self.add_short(&node, &mut raw, name)?,
            Form::Block(mapping) => self.add_to_block(&node, &mut raw, &mapping, name)?,
            Form::Leaf(mapping) => self.add_to_leaf(&node, &mut raw, mapping, name)?,
            Form::Many(mapping) => self.add_to_many(&node, &mapping, &name)?,
        }
        self.touch(&mut raw, &[Stamp::Modified, Stamp::Changed])?;
        self.put_inode(dir, raw)
    }

    /// Takes a name out of directory `dir`.
    pub(super) fn remove_name(&mut self, dir: u64, name: &[u8], kind: FileKind) -> Result<()> {
        let node = self.node(dir)?;
        let mut raw = node.raw().to_vec();
        if kind == FileKind::Directory {
            self.count_links(&mut raw, -1)?;
        }
        match self.form(&node)? {
            Form::Short => {
                let mut short = Short::parse(node.local()?, node.offset)?;
                short.names.retain(|(_, other)| other.name != name);
                let bytes = short.bytes().ok_or_else(|| node.corrupt("bad directory"))?;
                self.set_local(&mut raw, &bytes)?;
            }
            Form::Block(mapping) => self.remove_from_block(&node, &mapping, name)?,
            Form::Leaf(mapping) => self.remove_from_leaf(&node, &mut raw, mapping, name)?,
            Form::Many(mapping) => self.remove_from_many(&node, &mapping, name)?,
        }
        self.touch(&mut raw, &[Stamp::Modified, Stamp::Changed])?;
        self.put_inode(dir, raw)
    }

    /// Which form a directory has.
    fn form(&self, node: &Node) -> Result<Form> {
        let fork = node.data()?;
        if fork.format == Format::Local {
            return Ok(Form::Short);
        }
        let mapping = self.fs.metadata_extents(node, &fork)?;
        let end = mapping.last().map_or(0, Extent::end);
        let per = self.dir_blocks();
        let leaf = self.fs.sb.leaf_block();
        Ok(if end == per {
            Form::Block(mapping)
        } else if end == leaf.saturating_add(per) {
            Form::Leaf(mapping)
        } else {
            Form::Many(mapping)
        })
    }

    /// Blocks of a directory block.
    pub(super) fn dir_blocks(&self) -> u64 {
        let size = u64::from(self.fs.sb.dir_block_size());
        div(size, self.block_size())
    }

    /// Bytes of a directory block.
    pub(super) fn dir_len(&self) -> Result<usize> {
        length(self.fs.sb.dir_block_size().into())
    }

    fn add_short(&mut self, node: &Node, raw: &mut [u8], name: Name) -> Result<()> {
        let mut short = Short::parse(node.local()?, node.offset)?;
        if let Some((nth, place)) = short.place_for(&name, self.dir_len()?) {
            short.names.insert(nth, (place, name.clone()));
            match short.bytes() {
                Some(bytes) if bytes.len() <= self.fork_len(raw)? => {
                    return self.set_local(raw, &bytes);
                }
                _ => drop(short.names.remove(nth)),
            }
        }
        // All names move to a block.
        let dot = |name: &[u8], inode| Name {
            name: name.to_vec(),
            inode,
            kind: code(FileKind::Directory),
        };
        let mut names = vec![dot(b".", node.number), dot(b"..", short.parent)];
        names.extend(short.names.into_iter().map(|(_, name)| name));
        names.push(name);
        let extent = self.dir_block(node.number, 0)?;
        let block = self
            .built_block(node.number, &extent, &names)?
            .ok_or_else(|| {
                Error::unsupported("names of a directory do not fit into one block")
                    .in_structure("short directory")
                    .at(node.offset)
            })?;
        self.set_extents(raw, &[], &[extent])?;
        put64(raw, 56, self.fs.sb.dir_block_size().into())?;
        self.put(
            super::stamp::Kind::DirBlock,
            self.fs.blocks.offset(extent.disk),
            block,
        )
    }

    /// One directory block, at block `file` of directory `dir`, just allocated.
    pub(super) fn dir_block(&mut self, dir: u64, file: u64) -> Result<Extent> {
        let per = self.dir_blocks();
        let found = self.allocate_at(Owner { inode: dir }, file, per)?;
        if found.count == per {
            Ok(found)
        } else {
            Err(Error::unsupported(
                "free space is in too small pieces for a directory block",
            ))
        }
    }

    /// Where directory block `nth` (counted in blocks of the file) is on the disk, in one piece.
    pub(super) fn dir_place(&self, node: &Node, mapping: &Mapping, nth: u64) -> Result<u64> {
        let place = |nth| {
            super::super::Xfs::block_of(mapping, nth)
                .ok_or_else(|| node.corrupt("directory block has a hole"))
        };
        let first = place(nth)?;
        for more in 1..self.dir_blocks() {
            if place(nth.saturating_add(more))? != first.saturating_add(more) {
                return Err(node.fields().unsupported(
                    0,
                    format!("directory {} has a block in several pieces", node.number),
                ));
            }
        }
        Ok(self.fs.blocks.offset(first))
    }

    /// Extents with one more, joined to its neighbours where that continues them.
    pub(super) fn with_extent(extents: &Mapping, new: Extent) -> Mapping {
        let mut all = extents.clone();
        all.push(new);
        all.sort_by_key(|extent| extent.file);
        let mut joined = Mapping::new();
        for extent in all {
            match joined.last_mut() {
                Some(last)
                    if last.end() == extent.file
                        && last.disk.saturating_add(last.count) == extent.disk =>
                {
                    last.count = last.count.saturating_add(extent.count);
                }
                _ => joined.push(extent),
            }
        }
        joined
    }

    /// Extents without the blocks of `gone`, which lie in one of them.
    pub(super) fn without_extent(extents: &Mapping, gone: &Extent) -> Mapping {
        let mut left = Mapping::new();
        for extent in extents {
            let end = gone.end();
            if extent.end() <= gone.file || extent.file >= end {
                left.push(*extent);
                continue;
            }
            let before = gone.file.saturating_sub(extent.file);
            let after = extent.end().saturating_sub(end);
            if before > 0 {
                left.push(Extent {
                    count: before,
                    ..*extent
                });
            }
            if after > 0 {
                let skip = extent.count.saturating_sub(after);
                left.push(Extent {
                    file: extent.file.saturating_add(skip),
                    disk: extent.disk.saturating_add(skip),
                    count: after,
                    ..*extent
                });
            }
        }
        left
    }
}

/// The forms that are not short have their extents with them.
enum Form {
    Short,
    Block(Mapping),
    Leaf(Mapping),
    /// With an index of many blocks.
    Many(Mapping),
}

/// The number of a data block, from its first block in the file.
pub(super) fn data_number(file: u64, per: u64) -> usize {
    usize::try_from(div(file, per)).unwrap_or(usize::MAX)
}

/// The size of a directory whose data ends at block `end` of the file.
pub(super) fn data_size(end: u64, block_size: u64) -> u64 {
    end.saturating_mul(block_size)
}

/// Checks that a place fits into the 16 bits of the format.
pub(super) fn short(value: usize) -> Result<u16> {
    u16::try_from(value)
        .map_err(|_| Error::internal(format!("{} exceeds a directory block", wide(value))))
}
