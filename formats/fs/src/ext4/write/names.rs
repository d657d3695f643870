//! Names in directories: put in, taken out.
//!
//! A linear directory gets its new name into the first gap that is wide enough. When its only block
//! is full it gets an index (where the filesystem has `dir_index`), else one more block. An
//! inline directory is moved to a block first.

use rehost_block::{Error, Fields, Result};

use super::super::checksum::crc32c;
use super::super::dir::{TAIL_LEN, TAIL_TYPE, slot_len, slots, span_to_disk, type_byte};
use super::super::features::{compat, incompat};
use super::super::inode::{Node, flag};
use super::super::map::Extent;
use super::change::{Change, Stamp};
use super::layout::set_size;
use super::stamp::{put, put8, put16, put32};
use crate::FileKind;
use crate::number::{length, wide};

/// A name to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) inode: u32,
    pub(super) file_type: u8,
}

impl Name {
    pub(super) fn span(&self) -> usize {
        slot_len(self.name.len())
    }
}

impl Change<'_> {
    /// The type byte of a new entry.
    pub(super) fn file_type(&self, kind: FileKind) -> u8 {
        if self.fs.sb.features.incompat(incompat::FILETYPE) {
            type_byte(kind)
        } else {
            0
        }
    }

    /// Bytes of a directory block that hold entries.
    pub(super) fn area(&self) -> usize {
        if self.fs.sb.has_checksums() {
            self.block_len().saturating_sub(TAIL_LEN)
        } else {
            self.block_len()
        }
    }

    /// Puts a name, which must not be there yet, into a directory.
    pub(super) fn insert_name(&mut self, dir: u32, name: &Name) -> Result<()> {
        let mut node = self.node(dir)?;
        if node.has(flag::INLINE_DATA) {
            self.move_inline(&node)?;
            node = self.node(dir)?;
        }
        if node.has(flag::INDEX) {
            if !self.fs.sb.features.compat(compat::DIR_INDEX) {
                return Err(node.unsupported("directory has an index, the filesystem none"));
            }
            self.insert_indexed(&node, name)?;
        } else if !self.insert_in_gap(&node, name)? {
            let indexed = self.fs.sb.features.compat(compat::DIR_INDEX);
            if indexed && self.fs.dir_blocks(&node) == 1 {
                self.rebuild_index(&node, Some(name))?;
            } else {
                let (_, block) = self.append_block(dir)?;
                let bytes = self.pack(std::slice::from_ref(name))?;
                self.put_leaf(&node, block, bytes)?;
            }
        }
        self.touch_dir(dir)
    }

    fn touch_dir(&mut self, dir: u32) -> Result<()> {
        let mut raw = self.node(dir)?.raw;
        self.touch(&mut raw, &[Stamp::Changed, Stamp::Modified])?;
        self.put_inode(dir, raw)
    }

    /// Tries every block of a linear directory.
    fn insert_in_gap(&mut self, node: &Node, name: &Name) -> Result<bool> {
        let mapping = self.fs.mapping(node)?;
        let blocks = self.fs.dir_blocks(node);
        for run in &mapping.extents {
            // A run has no more blocks than the disk, which bounds both loops.
            for nth in 0..run.len {
                if run.file.saturating_add(nth) >= blocks || !run.written {
                    continue;
                }
                let file = run.file.saturating_add(nth);
                let block = self
                    .fs
                    .dir_block(node, file, run.disk.saturating_add(nth))?;
                let mut bytes = block.bytes;
                if self.fill_gap(&mut bytes, name)? {
                    self.put_leaf(node, block.disk, bytes)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Puts a name into the first gap of a leaf's bytes; false when there is none.
    pub(super) fn fill_gap(&self, bytes: &mut [u8], name: &Name) -> Result<bool> {
        let area = bytes.get(..self.area()).unwrap_or_default();
        let f = Fields::new(area, "directory block", 0);
        let need = name.span();
        let gap = slots(&f, self.block_len())?
            .into_iter()
            .find(|slot| slot.span.saturating_sub(slot.used()) >= need);
        let Some(slot) = gap else {
            return Ok(false);
        };
        let used = slot.used();
        if used > 0 {
            put16(bytes, slot.at.saturating_add(4), span_to_disk(used))?;
        }
        let at = slot.at.saturating_add(used);
        put_slot(bytes, at, slot.span.saturating_sub(used), name)?;
        Ok(true)
    }

    /// A leaf's bytes with `names`, which must fit.
    pub(super) fn pack(&self, names: &[Name]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.block_len()];
        let area = self.area();
        let mut at = 0usize;
        for (nth, name) in names.iter().enumerate() {
            let span = if nth.saturating_add(1) == names.len() {
                area.saturating_sub(at)
            } else {
                name.span()
            };
            if span < name.span() {
                return Err(Error::internal("names do not fit into their block"));
            }
            put_slot(&mut bytes, at, span, name)?;
            at = at.saturating_add(span);
        }
        if names.is_empty() {
            put16(&mut bytes, 4, span_to_disk(area))?;
        }
        Ok(bytes)
    }

    /// Stores a leaf with its checksum.
    pub(super) fn put_leaf(&mut self, node: &Node, block: u64, mut bytes: Vec<u8>) -> Result<()> {
        if self.fs.sb.has_checksums() {
            let tail = self.area();
            put(&mut bytes, tail, &[0; 4])?;
            put16(&mut bytes, tail.saturating_add(4), 12)?;
            put8(&mut bytes, tail.saturating_add(6), 0)?;
            put8(&mut bytes, tail.saturating_add(7), TAIL_TYPE)?;
            let sum = crc32c(node.seed, bytes.get(..tail).unwrap_or_default());
            put32(&mut bytes, tail.saturating_add(8), sum)?;
        }
        self.put_block(block, bytes)
    }

    /// Gives a directory one more block; its number in the directory and on the disk.
    pub(super) fn append_block(&mut self, dir: u32) -> Result<(u64, u64)> {
        let node = self.node(dir)?;
        let count = self.fs.dir_blocks(&node);
        self.resize_dir(&node, count.saturating_add(1))?;
        let grown = self.node(dir)?;
        let mapping = self.fs.mapping(&grown)?;
        super::super::Ext4::block_of(&mapping, count)
            .map(|disk| (count, disk))
            .ok_or_else(|| Error::internal("a directory did not grow"))
    }

    /// Makes a directory `count` blocks long; what is cut off is freed.
    pub(super) fn resize_dir(&mut self, node: &Node, count: u64) -> Result<()> {
        let mapping = self.fs.mapping(node)?;
        let mut runs: Vec<Extent> = Vec::new();
        let mut next = 0;
        for run in &mapping.extents {
            if run.file != next || !run.written {
                return Err(node.unsupported("directory has holes"));
            }
            next = run.end();
            let keep = run.len.min(count.saturating_sub(run.file));
            if keep < run.len {
                self.release(super::alloc::Run {
                    disk: run.disk.saturating_add(keep),
                    len: run.len.saturating_sub(keep),
                })?;
            }
            if keep > 0 {
                runs.push(Extent { len: keep, ..*run });
            }
        }
        let goal = runs
            .last()
            .map_or(0, |run| run.disk.saturating_add(run.len));
        let mut file = next.min(count);
        for run in self.allocate(count.saturating_sub(file), goal)? {
            match runs.last_mut() {
                Some(last) if last.disk.saturating_add(last.len) == run.disk => {
                    last.len = last.len.saturating_add(run.len);
                }
                _ => runs.push(Extent {
                    file,
                    len: run.len,
                    disk: run.disk,
                    written: true,
                }),
            }
            file = file.saturating_add(run.len);
        }
        self.release_nodes(node)?;
        let mut raw = node.raw.clone();
        self.set_map(node.number, &mut raw, &runs, goal)?;
        set_size(&mut raw, count.saturating_mul(self.block_size()))?;
        self.put_inode(node.number, raw)
    }

    /// Moves an inline directory's entries to a block of its own.
    fn move_inline(&mut self, node: &Node) -> Result<()> {
        let parent = Fields::new(node.map()?, "inline directory", node.at).u32_le(0)?;
        let mut names = vec![self.dot(b".", node.number), self.dot(b"..", parent)];
        self.fs.scan_dir(node, &mut |slot, bytes| {
            names.push(Name {
                name: slot.name(bytes).to_vec(),
                inode: slot.inode,
                file_type: slot.file_type,
            });
            Ok(false)
        })?;
        let goal = self.home(node.number);
        let block = self.allocate_one(goal)?;
        let mut raw = self.without_inline(node)?;
        let run = Extent {
            file: 0,
            len: 1,
            disk: block,
            written: true,
        };
        self.set_map(node.number, &mut raw, &[run], goal)?;
        set_size(&mut raw, self.block_size())?;
        self.put_inode(node.number, raw)?;
        let bytes = self.pack(&names)?;
        self.put_leaf(node, block, bytes)
    }

    /// `.` or `..`.
    pub(super) fn dot(&self, name: &[u8], inode: u32) -> Name {
        Name {
            name: name.to_vec(),
            inode,
            file_type: self.file_type(FileKind::Directory),
        }
    }

    /// Takes a name out of a directory.
    pub(super) fn remove_name(&mut self, dir: u32, name: &[u8]) -> Result<()> {
        let node = self.node(dir)?;
        if node.has(flag::INLINE_DATA) {
            self.move_inline(&node)?;
            return self.remove_name_of(dir, name);
        }
        self.remove_name_of(dir, name)
    }

    fn remove_name_of(&mut self, dir: u32, name: &[u8]) -> Result<()> {
        let node = self.node(dir)?;
        let mapping = self.fs.mapping(&node)?;
        let blocks = self.fs.dir_blocks(&node);
        for run in &mapping.extents {
            // A run has no more blocks than the disk, which bounds both loops.
            for nth in 0..run.len {
                let file = run.file.saturating_add(nth);
                if file >= blocks || !run.written {
                    continue;
                }
                let block = self
                    .fs
                    .dir_block(&node, file, run.disk.saturating_add(nth))?;
                let form = self.fs.form(&node, file, &block.bytes)?;
                if form != super::super::dir::Form::Leaf {
                    continue;
                }
                let mut bytes = block.bytes;
                if self.cut_slot(&mut bytes, name)? {
                    self.put_leaf(&node, block.disk, bytes)?;
                    return self.touch_dir(dir);
                }
            }
        }
        Err(Error::internal("a name that was there is gone"))
    }

    /// Takes a name out of a leaf's bytes; its bytes go to the entry before it.
    fn cut_slot(&self, bytes: &mut [u8], name: &[u8]) -> Result<bool> {
        let area = bytes.get(..self.area()).unwrap_or_default();
        let f = Fields::new(area, "directory block", 0);
        let all = slots(&f, self.block_len())?;
        let found = all
            .iter()
            .position(|slot| slot.inode != 0 && slot.name(bytes) == name);
        let Some(nth) = found else {
            return Ok(false);
        };
        let Some(slot) = all.get(nth).copied() else {
            return Ok(false);
        };
        match nth.checked_sub(1).and_then(|before| all.get(before)) {
            Some(before) => {
                let span = before.span.saturating_add(slot.span);
                put16(bytes, before.at.saturating_add(4), span_to_disk(span))?;
                let gone = vec![0; slot.span];
                put(bytes, slot.at, &gone)?;
            }
            None => put32(bytes, slot.at, 0)?,
        }
        Ok(true)
    }

    /// The first block of a new directory.
    pub(super) fn new_dir_block(&self, own: u32, parent: u32) -> Result<Vec<u8>> {
        self.pack(&[self.dot(b".", own), self.dot(b"..", parent)])
    }

    /// Whether a directory holds nothing but `.` and `..`.
    pub(super) fn is_empty_dir(&self, node: &Node) -> Result<bool> {
        let mut empty = true;
        self.fs.scan_dir(node, &mut |slot, bytes| {
            let name = slot.name(bytes);
            empty = name == b"." || name == b"..";
            Ok(!empty)
        })?;
        Ok(empty)
    }

    /// An inode's bytes without inline content, which the caller has copied.
    pub(super) fn without_inline(&mut self, node: &Node) -> Result<Vec<u8>> {
        let mut raw = node.raw.clone();
        put32(&mut raw, 0x20, node.flags & !flag::INLINE_DATA)?;
        put(&mut raw, 0x28, &[0; 60])?;
        let kept = self.fs.inode_xattrs(node)?;
        let kept: Vec<_> = kept
            .into_iter()
            .filter(|one| !one.is_inline_data())
            .collect();
        self.put_inode_xattrs(&mut raw, &kept)?;
        Ok(raw)
    }
}

/// Stores an entry of `span` bytes at `at`.
fn put_slot(bytes: &mut [u8], at: usize, span: usize, name: &Name) -> Result<()> {
    put32(bytes, at, name.inode)?;
    put16(bytes, at.saturating_add(4), span_to_disk(span))?;
    let len = u8::try_from(name.name.len())
        .map_err(|_| Error::internal("a name longer than 255 bytes"))?;
    put8(bytes, at.saturating_add(6), len)?;
    put8(bytes, at.saturating_add(7), name.file_type)?;
    put(bytes, at.saturating_add(8), &name.name)?;
    // The length is checked against the block by `put`; what follows the name stays as it was.
    length(wide(span)).map(drop)
}
