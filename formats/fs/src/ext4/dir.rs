//! Directories: linear and inline entries, and the checksums of their blocks.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst`. An indexed directory reads
//! linearly too, because its index blocks look like one unused entry each.

use rehost_block::{Error, Fields, Result};

use super::Ext4;
use super::checksum::crc32c;
use super::features::{compat, incompat};
use super::inode::{Node, ROOT, flag};
use super::superblock::checksum_error;
use crate::number::{index, wide};
use crate::{DirEntry, FileKind, Inode};

/// Type byte of the entry that ends a block and holds its checksum.
pub(super) const TAIL_TYPE: u8 = 0xde;

/// Length of that entry.
pub(super) const TAIL_LEN: usize = 12;

/// One slot of a directory block, used or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Byte offset in the block.
    pub(super) at: usize,
    /// Bytes it spans.
    pub(super) span: usize,
    pub(super) inode: u32,
    pub(super) name_len: usize,
    pub(super) file_type: u8,
}

impl Slot {
    /// Bytes that its own name needs; 0 when it is unused.
    pub(super) const fn used(&self) -> usize {
        if self.inode == 0 {
            0
        } else {
            slot_len(self.name_len)
        }
    }

    /// Its name in `bytes`, the block it was parsed from.
    pub(super) fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.at.saturating_add(8);
        bytes
            .get(start..start.saturating_add(self.name_len))
            .unwrap_or_default()
    }
}

/// Bytes of an entry with a name of `len` bytes.
pub(super) const fn slot_len(len: usize) -> usize {
    len.saturating_add(8 + 3) & !3
}

/// A stored entry length. Blocks of 64 KiB need one more bit than the field has.
pub(super) fn span_from_disk(stored: u16, block: usize) -> usize {
    if block < 65_536 {
        usize::from(stored)
    } else if stored == 65_535 || stored == 0 {
        block
    } else {
        usize::from(stored & 0xfffc) | (usize::from(stored & 3) << 16)
    }
}

/// The reverse of [`span_from_disk`].
pub(super) fn span_to_disk(span: usize) -> u16 {
    u16::try_from(span).unwrap_or(65_535)
}

/// The file type byte of a directory entry.
pub(super) const fn type_byte(kind: FileKind) -> u8 {
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

const fn kind_of(byte: u8) -> Option<FileKind> {
    Some(match byte {
        1 => FileKind::Regular,
        2 => FileKind::Directory,
        3 => FileKind::CharDevice,
        4 => FileKind::BlockDevice,
        5 => FileKind::Fifo,
        6 => FileKind::Socket,
        7 => FileKind::Symlink,
        _ => return None,
    })
}

/// All slots of a block, `f`, or of an inline area when `block` says so.
pub(super) fn slots(f: &Fields<'_>, block: usize) -> Result<Vec<Slot>> {
    let mut found = Vec::new();
    let mut at = 0usize;
    // Ends because every slot is at least 8 bytes long and the block is finite.
    while at < f.len() {
        let span = span_from_disk(f.u16_le(at.saturating_add(4))?, block);
        let name_len = usize::from(f.u8(at.saturating_add(6))?);
        let inode = f.u32_le(at)?;
        let end = at.saturating_add(span);
        let least = if inode == 0 { 8 } else { slot_len(name_len) };
        if span < least.max(8) || !span.is_multiple_of(4) || end > f.len() {
            return Err(f
                .corrupt(at, "directory entry has an impossible length")
                .mismatch(format!("{least} to {}", f.len().saturating_sub(at)), span));
        }
        found.push(Slot {
            at,
            span,
            inode,
            name_len,
            file_type: f.u8(at.saturating_add(7))?,
        });
        at = end;
    }
    Ok(found)
}

/// A block of a directory.
pub(super) struct DirBlock {
    /// Its number on the disk.
    pub(super) disk: u64,
    pub(super) bytes: Vec<u8>,
}

impl DirBlock {
    pub(super) fn fields(&self, block_size: u32) -> Fields<'_> {
        let at = self.disk.saturating_mul(u64::from(block_size));
        Fields::new(&self.bytes, "directory block", at)
    }
}

/// The three forms of a directory block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Leaf,
    IndexRoot,
    IndexNode,
}

impl Ext4 {
    /// Blocks that a directory's size covers.
    pub(super) fn dir_blocks(&self, node: &Node) -> u64 {
        node.size.div_ceil(u64::from(self.sb.block_size).max(1))
    }

    /// The form of a directory's block.
    pub(super) fn form(&self, node: &Node, file: u64, bytes: &[u8]) -> Result<Form> {
        if !node.has(flag::INDEX) {
            return Ok(Form::Leaf);
        }
        if file == 0 {
            return Ok(Form::IndexRoot);
        }
        let f = Fields::new(bytes, "directory block", 0);
        let whole = span_from_disk(f.u16_le(4)?, bytes.len()) == bytes.len();
        if f.u32_le(0)? == 0 && whole && f.u8(6)? == 0 && f.u8(7)? == 0 {
            // Without checksums an empty leaf looks just like an index node; nobody cares.
            Ok(Form::IndexNode)
        } else {
            Ok(Form::Leaf)
        }
    }

    /// Reads one block of a directory and checks its checksum.
    pub(super) fn dir_block(&self, node: &Node, file: u64, disk: u64) -> Result<DirBlock> {
        let bytes = self.blocks.read(disk, "directory block")?;
        let block = DirBlock { disk, bytes };
        if self.sb.has_checksums() {
            let f = block.fields(self.sb.block_size);
            match self.form(node, file, &block.bytes)? {
                Form::Leaf => {
                    let tail = f.len().saturating_sub(TAIL_LEN);
                    let mark = (f.u32_le(tail)?, f.u16_le(tail.saturating_add(4))?);
                    if mark != (0, 12) || f.u8(tail.saturating_add(7))? != TAIL_TYPE {
                        return Err(f.corrupt(tail, "directory block has no checksum"));
                    }
                    let computed = crc32c(node.seed, f.bytes(0, tail)?);
                    let at = tail.saturating_add(8);
                    let stored = f.u32_le(at)?;
                    if computed != stored {
                        return Err(checksum_error(&f, at, computed, stored));
                    }
                }
                form => {
                    let (at, computed) = index_checksum(&f, node.seed, form)?;
                    let stored = f.u32_le(at)?;
                    if computed != stored {
                        return Err(checksum_error(&f, at, computed, stored));
                    }
                }
            }
        }
        Ok(block)
    }

    /// Calls `each` with every slot in use of a directory (`.` and `..` included) and the bytes
    /// it is in, until it answers true.
    pub(super) fn scan_dir(
        &self,
        node: &Node,
        each: &mut dyn FnMut(&Slot, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        node.expect(FileKind::Directory, "a directory")?;
        node.check_plain()?;
        let block_size = index(self.sb.block_size);
        if node.has(flag::INLINE_DATA) {
            return self.scan_inline(node, each);
        }
        let mapping = self.mapping(node)?;
        let blocks = self.dir_blocks(node);
        for run in &mapping.extents {
            // A run has no more blocks than the disk, which bounds both loops.
            for nth in 0..run.len {
                let file = run.file.saturating_add(nth);
                if file >= blocks || !run.written {
                    continue;
                }
                let block = self.dir_block(node, file, run.disk.saturating_add(nth))?;
                let f = block.fields(self.sb.block_size);
                if self.form(node, file, &block.bytes)? == Form::IndexNode {
                    continue;
                }
                for slot in slots(&f, block_size)? {
                    self.check_slot(&f, &slot, &block.bytes)?;
                    if slot.inode != 0 && each(&slot, &block.bytes)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn scan_inline(
        &self,
        node: &Node,
        each: &mut dyn FnMut(&Slot, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let map = node.map()?;
        // The parent's number stands where `.` and `..` would be.
        let head = map.get(4..).unwrap_or_default();
        let rest = self.inline_rest(node)?;
        let inline = usize::try_from(node.size).unwrap_or(usize::MAX);
        let rest = rest
            .get(..rest.len().min(inline.saturating_sub(60)))
            .unwrap_or_default();
        for area in [head, rest] {
            let f = Fields::new(area, "inline directory", node.at);
            for slot in slots(&f, index(self.sb.block_size))? {
                self.check_slot(&f, &slot, area)?;
                if slot.inode != 0 && each(&slot, area)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn check_slot(&self, f: &Fields<'_>, slot: &Slot, bytes: &[u8]) -> Result<()> {
        if slot.inode == 0 {
            return Ok(());
        }
        let name = slot.name(bytes);
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(f.corrupt(slot.at, "directory entry has an impossible name"));
        }
        if slot.inode > self.sb.inodes_count || slot.inode < self.sb.first_ino && slot.inode != ROOT
        {
            return Err(f
                .corrupt(slot.at, "directory entry leads to no file")
                .mismatch(
                    format!("an inode up to {}", self.sb.inodes_count),
                    slot.inode,
                ));
        }
        Ok(())
    }

    /// All names of a directory, without `.` and `..`.
    pub(super) fn entries(&self, node: &Node) -> Result<Vec<DirEntry>> {
        let typed = self.sb.features.incompat(incompat::FILETYPE);
        let mut found = Vec::new();
        self.scan_dir(node, &mut |slot, bytes| {
            let name = slot.name(bytes);
            if name != b"." && name != b".." {
                found.push(DirEntry {
                    name: name.to_vec(),
                    inode: Inode(u64::from(slot.inode)),
                    kind: kind_of(slot.file_type).filter(|_| typed),
                });
            }
            Ok(false)
        })?;
        Ok(found)
    }

    /// The inode number of `name` in a directory, through its index where it has one.
    pub(super) fn find_name(&self, node: &Node, name: &[u8]) -> Result<Option<u32>> {
        node.expect(FileKind::Directory, "a directory")?;
        node.check_plain()?;
        if node.has(flag::INDEX)
            && self.sb.features.compat(compat::DIR_INDEX)
            && let Ok(Some(path)) = self.find_indexed(node, name)
        {
            return Ok(path);
        }
        let mut found = None;
        self.scan_dir(node, &mut |slot, bytes| {
            if slot.name(bytes) == name {
                found = Some(slot.inode);
            }
            Ok(found.is_some())
        })?;
        Ok(found)
    }
}

/// Where an index block keeps its checksum, and what it must be.
pub(super) fn index_checksum(f: &Fields<'_>, seed: u32, form: Form) -> Result<(usize, u32)> {
    let start = if form == Form::IndexRoot { 0x20 } else { 8 };
    let most = usize::from(f.u16_le(start)?);
    let count = usize::from(f.u16_le(start.saturating_add(2))?);
    let tail = start.saturating_add(most.saturating_mul(8));
    if count > most || tail.saturating_add(8) > f.len() {
        return Err(f
            .corrupt(start, "index block has no room for its checksum")
            .mismatch(format!("at most {most} entries"), count));
    }
    let used = start.saturating_add(count.saturating_mul(8));
    let crc = crc32c(seed, f.bytes(0, used)?);
    let crc = crc32c(crc, f.bytes(tail, 4)?);
    Ok((tail.saturating_add(4), crc32c(crc, &[0; 4])))
}

/// The error for a name that cannot be one.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty()
        || wide(name.len()) > 255
        || name == b"."
        || name == b".."
        || name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if bad {
        Err(Error::usage(format!(
            "{:?} is not a file name",
            String::from_utf8_lossy(name)
        )))
    } else {
        Ok(())
    }
}
