//! Content: blocks one after another on the disk, and tails that share a block (fragments).
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`, sections 3.3 and 3.5. A length of 0 is a hole
//! of one block.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Fields, Result};

use super::Squashfs;
use super::inode::{Content, File, Node};
use crate::Stored;
use crate::number::{div, div_up, index, length, rem, wide};

/// Set in a length when the block is stored as it is.
const PLAIN: u32 = 1 << 24;

/// Blocks kept unpacked, at most: 8 MiB in the largest ones.
const MOST_UNPACKED: usize = 8;

/// Blocks of the layouts that are kept, at most: 1 MiB.
const MOST_PIECES: usize = 1 << 16;

/// One stored block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Which block of the file it is.
    nth: u32,
    packed: Packed,
}

/// Where a block is, and its length as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    word: u32,
    at: u64,
}

impl Packed {
    const fn len(self) -> u32 {
        self.word & (PLAIN - 1)
    }

    const fn is_plain(self) -> bool {
        self.word & PLAIN != 0
    }
}

/// Where a file's content is.
#[derive(Debug)]
pub(super) struct Layout {
    size: u64,
    /// Stored blocks, in order; the others are holes.
    pieces: Vec<Piece>,
    /// The block that holds the file's tail, and where that begins in it.
    tail: Option<(Packed, u32)>,
}

/// What was unpacked and laid out last.
#[derive(Debug, Default)]
pub(super) struct Kept {
    unpacked: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
    layouts: Mutex<HashMap<u64, Arc<Layout>>>,
}

impl Squashfs {
    /// The layout of the regular file `node`, whose inode number is `inode`.
    pub(super) fn layout(&self, inode: u64, node: &Node) -> Result<Arc<Layout>> {
        let Content::File(file) = &node.content else {
            return Err(Error::usage("it is not a regular file"));
        };
        let kept = &self.kept.layouts;
        let known = |layouts: &HashMap<u64, Arc<Layout>>| layouts.get(&inode).cloned();
        if let Some(found) = known(&kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(found);
        }
        let layout = Arc::new(self.lay_out(node, file)?);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces: usize = kept.values().map(|layout| layout.pieces.len()).sum();
        if pieces.saturating_add(layout.pieces.len()) > MOST_PIECES || kept.len() >= MOST_PIECES {
            kept.clear();
        }
        kept.insert(inode, Arc::clone(&layout));
        Ok(layout)
    }

    fn lay_out(&self, node: &Node, file: &File) -> Result<Layout> {
        let size = u64::from(self.sb.block_size);
        let blocks = if file.fragment.is_some() {
            div(file.size, size)
        } else {
            div_up(file.size, size)
        };
        let blocks = u32::try_from(blocks).map_err(|_| node.corrupt("impossible file size"))?;
        let mut cursor = self.metadata.cursor(file.lengths);
        let mut at = file.start;
        let mut pieces = Vec::new();
        // Ends because the lengths lie before the directory table; a hole costs no memory.
        for nth in 0..blocks {
            let word = u32::from_le_bytes(cursor.array()?);
            if cursor.place().block > self.sb.dir_table {
                return Err(node.corrupt("lengths of blocks reach past the inodes"));
            }
            let packed = Packed { word, at };
            if packed.len() != 0 {
                self.check(packed)?;
                pieces.push(Piece { nth, packed });
            }
            at = at.saturating_add(u64::from(packed.len()));
        }
        let tail = match file.fragment {
            Some((nth, from)) if rem(file.size, size) != 0 => Some((self.fragment(nth)?, from)),
            _ => None,
        };
        Ok(Layout {
            size: file.size,
            pieces,
            tail,
        })
    }

    /// Fragment block number `nth`.
    fn fragment(&self, nth: u32) -> Result<Packed> {
        let known = self.sb.fragment_table.filter(|_| nth < self.sb.fragments);
        let list = known.ok_or_else(|| {
            Error::corrupt("no such fragment block")
                .in_structure("fragment table")
                .mismatch(format!("less than {}", self.sb.fragments), nth)
        })?;
        let raw = self.metadata.entry::<16>(list, nth)?;
        let f = Fields::new(&raw, "fragment table", list);
        let packed = Packed {
            at: f.u64_le(0)?,
            word: f.u32_le(8)?,
        };
        if packed.len() == 0 {
            return Err(f.corrupt(8, "a fragment block holds nothing"));
        }
        self.check(packed)?;
        Ok(packed)
    }

    fn check(&self, packed: Packed) -> Result<()> {
        let end = packed.at.saturating_add(u64::from(packed.len()));
        let what = if packed.len() > self.sb.block_size || packed.word >= PLAIN << 1 {
            "impossible length"
        } else if end > self.sb.used || packed.at < 96 {
            "lies outside the filesystem"
        } else {
            return Ok(());
        };
        Err(Error::corrupt(what)
            .in_structure("data block")
            .at(packed.at))
    }

    /// Unpacks a block into `plain`; gives how much of that it filled.
    fn unpack(&self, packed: Packed, plain: &mut [u8]) -> Result<usize> {
        let disk = self.metadata.disk();
        let len = index(packed.len());
        if packed.is_plain() {
            let len = len.min(plain.len());
            disk.read_at(plain.get_mut(..len).unwrap_or_default(), packed.at)?;
            return Ok(len);
        }
        let mut raw = vec![0; len];
        disk.read_at(&mut raw, packed.at)?;
        self.sb
            .compressor
            .unpack(&raw, plain)
            .map_err(|error| error.in_structure("data block").at(packed.at))
    }

    /// A block unpacked, `len` bytes of it at least.
    fn unpacked(&self, packed: Packed, len: usize) -> Result<Arc<Vec<u8>>> {
        let kept = &self.kept.unpacked;
        let mut known = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().position(|(at, _)| *at == packed.at);
        let found = found.and_then(|nth| known.remove(nth));
        if let Some((at, block)) = found {
            known.push_front((at, Arc::clone(&block)));
            if block.len() >= len {
                return Ok(block);
            }
            return Err(short(packed, len, block.len()));
        }
        drop(known);
        let mut plain = vec![0; index(self.sb.block_size)];
        let got = self.unpack(packed, &mut plain)?;
        plain.truncate(got);
        let block = Arc::new(plain);
        let mut known = kept.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_front((packed.at, Arc::clone(&block)));
        known.truncate(MOST_UNPACKED);
        drop(known);
        if block.len() >= len {
            Ok(block)
        } else {
            Err(short(packed, len, block.len()))
        }
    }

    /// Fills `buf` from byte `offset` of a file, which has as much.
    pub(super) fn read_content(&self, layout: &Layout, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = u64::from(self.sb.block_size);
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round takes at least one byte off `rest`: the caller asks for no more
        // than the file has.
        while !rest.is_empty() {
            let start = at.saturating_sub(rem(at, size));
            let whole = layout.size.saturating_sub(start).min(size);
            let within = length(rem(at, size))?;
            let left = length(whole)?.saturating_sub(within);
            if left == 0 {
                return Err(Error::internal("a read past the end of a file").at(at));
            }
            let (part, tail) = rest.split_at_mut(left.min(rest.len()));
            self.read_block(layout, div(at, size), length(whole)?, within, part)?;
            at = at.saturating_add(wide(part.len()));
            rest = tail;
        }
        Ok(())
    }

    /// Fills `part` from byte `within` of block `nth`, which has `whole` bytes.
    fn read_block(
        &self,
        layout: &Layout,
        nth: u64,
        whole: usize,
        within: usize,
        part: &mut [u8],
    ) -> Result<()> {
        let in_tail = nth == div(layout.size, u64::from(self.sb.block_size));
        if let Some((packed, from)) = layout.tail.filter(|_| in_tail) {
            let from = index(from);
            let block = self.unpacked(packed, from.saturating_add(whole))?;
            return copy(&block, from.saturating_add(within), part, packed);
        }
        let place = layout
            .pieces
            .binary_search_by_key(&nth, |piece| u64::from(piece.nth));
        let piece = place.ok().and_then(|place| layout.pieces.get(place));
        let Some(Piece { packed, .. }) = piece.copied() else {
            part.fill(0);
            return Ok(());
        };
        if packed.is_plain() && index(packed.len()) == whole {
            let at = packed.at.saturating_add(wide(within));
            return self.metadata.disk().read_at(part, at);
        }
        // A whole block goes where it is wanted, and past the ones that are kept.
        if part.len() == whole {
            let got = self.unpack(packed, part)?;
            return if got == whole {
                Ok(())
            } else {
                Err(short(packed, whole, got))
            };
        }
        let block = self.unpacked(packed, whole)?;
        copy(&block, within, part, packed)
    }

    /// Where a file's content is stored as it is.
    pub(super) fn stored_content(&self, layout: &Layout) -> Vec<Stored> {
        let size = u64::from(self.sb.block_size);
        let mut found: Vec<Stored> = Vec::new();
        let mut push = |from: u64, to: u64, disk: Option<u64>| {
            if from >= to {
                return;
            }
            if let Some(last) = found.last_mut() {
                let len = last.file.end.saturating_sub(last.file.start);
                if last.disk.map(|start| start.saturating_add(len)) == disk {
                    last.file.end = to;
                    return;
                }
            }
            let file = from..to;
            found.push(Stored { file, disk });
        };
        let mut end = 0u64;
        for piece in &layout.pieces {
            let start = u64::from(piece.nth).saturating_mul(size);
            let stop = start.saturating_add(size).min(layout.size);
            push(end, start, None);
            let plain = piece.packed.is_plain();
            push(start, stop, plain.then_some(piece.packed.at));
            end = stop;
        }
        let tail = layout.size.saturating_sub(rem(layout.size, size));
        if let Some((packed, from)) = layout.tail {
            push(end, tail, None);
            let at = packed.at.saturating_add(u64::from(from));
            push(tail, layout.size, packed.is_plain().then_some(at));
        } else {
            push(end, layout.size, None);
        }
        found
    }
}

fn copy(block: &[u8], from: usize, part: &mut [u8], packed: Packed) -> Result<()> {
    let end = from.saturating_add(part.len());
    let there = block
        .get(from..end)
        .ok_or_else(|| short(packed, end, block.len()))?;
    part.copy_from_slice(there);
    Ok(())
}

fn short(packed: Packed, wanted: usize, found: usize) -> Error {
    Error::corrupt("holds less than the file needs")
        .in_structure("data block")
        .at(packed.at)
        .mismatch(format!("{wanted} bytes"), found)
}
