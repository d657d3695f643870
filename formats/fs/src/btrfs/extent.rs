//! File extents: where the content of a file is.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `EXTENT_DATA`. What lies between extents is a hole.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rehost_block::{Fields, Result};

use super::compress::{Compression, MOST};
use super::data::Sums;
use super::inode::{Node, flags};
use super::key::{Key, kind};
use super::tree::{Item, Items};
use super::{Btrfs, Volume};
use crate::Stored;
use crate::number::{length, rem, wide};

/// Bytes before the content of an inline extent, and all of any other.
pub(super) const INLINE: usize = 21;
pub(super) const SIZE: usize = 53;

/// Unpacked extents kept, at most: 4 MiB.
const MOST_UNPACKED: usize = 32;

/// Unpacked extents by logical address.
pub(super) type Unpacked = HashMap<u64, Arc<Vec<u8>>>;

/// A part of a file that is stored in one way.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Byte of the file at which it starts.
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) held: Held,
    pub(super) compression: Option<Compression>,
}

/// What holds a part of a file.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// The item itself.
    Inline,
    Hole,
    /// Room taken, nothing written.
    Prealloc(Disk),
    Regular(Disk),
}

/// An extent on the devices, and the part of it that a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    /// Logical address.
    pub(super) logical: u64,
    /// Bytes stored.
    pub(super) len: u64,
    /// Bytes when unpacked.
    pub(super) plain: u64,
    /// Where in the (unpacked) extent the part starts.
    pub(super) skip: u64,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The extent of an `EXTENT_DATA` item.
    pub(super) fn parse(start: u64, f: &Fields<'_>, sector: u32) -> Result<Self> {
        let plain = f.u64_le(8)?;
        let compression = match f.u8(16)? {
            0 => None,
            1 => Some(Compression::Zlib),
            2 => Some(Compression::Lzo),
            3 => Some(Compression::Zstd),
            other => {
                return Err(f.unsupported(16, format!("unknown compression {other}")));
            }
        };
        if f.u8(17)? != 0 || f.u16_le(18)? != 0 {
            return Err(f.unsupported(17, "extent is encrypted"));
        }
        let packed_too_long = compression.is_some() && plain > MOST;
        let too_long = || {
            Err(f
                .corrupt(8, "compressed extent is too long")
                .mismatch(format!("at most {MOST} bytes"), plain))
        };
        let kind = f.u8(20)?;
        if kind == 0 {
            let stored = wide(f.len().saturating_sub(INLINE));
            if start != 0 || packed_too_long || (compression.is_none() && stored < plain) {
                return Err(f.corrupt(8, "inline extent is impossible"));
            }
            return Ok(Self {
                start,
                len: plain,
                held: Held::Inline,
                compression,
            });
        }
        let disk = Disk {
            logical: f.u64_le(21)?,
            len: f.u64_le(29)?,
            plain,
            skip: f.u64_le(37)?,
        };
        let len = f.u64_le(45)?;
        let sector = u64::from(sector);
        let ends = start.checked_add(len).is_some()
            && disk.skip.checked_add(len).is_some()
            && disk.logical.checked_add(disk.len).is_some();
        if len == 0 || !ends || rem(start, sector) != 0 || rem(len, sector) != 0 {
            return Err(f
                .corrupt(45, "extent has an impossible length or place")
                .mismatch(
                    format!("multiples of {sector}"),
                    format!("{len} at {start}"),
                ));
        }
        let held = match kind {
            1 | 2 if disk.logical == 0 => Held::Hole,
            1 => Held::Regular(disk),
            2 => Held::Prealloc(disk),
            other => return Err(f.corrupt(20, format!("extent is of unknown kind {other}"))),
        };
        if disk.logical != 0 {
            if rem(disk.logical, sector) != 0 {
                return Err(f.corrupt(21, "extent is not aligned"));
            }
            if packed_too_long || (compression.is_some() && disk.len > MOST) {
                return too_long();
            }
            let room = if compression.is_some() {
                plain
            } else {
                disk.len
            };
            if disk.skip.saturating_add(len) > room {
                return Err(f
                    .corrupt(37, "file uses more than the extent has")
                    .mismatch(
                        format!("at most {room} bytes"),
                        disk.skip.saturating_add(len),
                    ));
            }
        }
        Ok(Self {
            start,
            len,
            held,
            compression,
        })
    }
}

/// The extents of a file from some byte on, in order.
pub(super) struct Extents<'a> {
    items: Items<'a>,
    number: u64,
    sector: u32,
}

impl Extents<'_> {
    /// The next one, with its item.
    pub(super) fn next(&mut self) -> Result<Option<(Extent, Item)>> {
        // Ends because a walk through a tree does.
        while let Some(item) = self.items.next()? {
            if item.key.is(self.number, kind::EXTENT_DATA) {
                let f = item.fields("extent item");
                let extent = Extent::parse(item.key.offset, &f, self.sector)?;
                return Ok(Some((extent, item)));
            }
        }
        Ok(None)
    }
}

impl Volume {
    /// The extents of a file, from the one with byte `from`.
    pub(super) fn extents(&self, node: &Node, from: u64) -> Result<Extents<'_>> {
        let tree = self.files(&node.root);
        let key = Key::new(node.number, kind::EXTENT_DATA, from);
        let first = tree
            .before(key)?
            .filter(|item| item.key.is(node.number, kind::EXTENT_DATA))
            .map_or(key, |item| item.key);
        Ok(Extents {
            items: tree.range(first, Key::last_of(node.number, kind::EXTENT_DATA))?,
            number: node.number,
            sector: self.nodes.sb.sector,
        })
    }

    /// Fills `buf` from byte `offset` of a file.
    pub(super) fn read_file(&self, node: &Node, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(wide(buf.len()));
        let mut extents = self.extents(node, offset)?;
        let mut at = offset;
        // Ends because every extent lies behind the one before it.
        while at < end {
            let Some((extent, item)) = extents.next()? else {
                break;
            };
            let from = extent.start.max(at);
            let to = extent.end().min(end);
            if from < to {
                fill(buf, at, from, offset)?;
                let part = part(buf, from, to, offset)?;
                self.read_extent(
                    node,
                    &extent,
                    &item,
                    part,
                    from.saturating_sub(extent.start),
                )?;
                at = to;
            } else if extent.start >= end {
                break;
            }
        }
        fill(buf, at, end, offset)
    }

    /// Fills `buf` from byte `within` of an extent's part of a file.
    fn read_extent(
        &self,
        node: &Node,
        extent: &Extent,
        item: &Item,
        buf: &mut [u8],
        within: u64,
    ) -> Result<()> {
        let sums = if node.flags & flags::NODATASUM == 0 {
            Sums::Verified
        } else {
            Sums::None
        };
        match (&extent.held, extent.compression) {
            (Held::Hole | Held::Prealloc(_), _) => {
                buf.fill(0);
                Ok(())
            }
            (Held::Regular(disk), None) => {
                let skip = disk.skip.saturating_add(within);
                self.read_data(disk.logical.saturating_add(skip), buf, sums)
            }
            (Held::Regular(disk), Some(compression)) => {
                let plain = self.unpacked(disk, compression, sums)?;
                copy(&plain, disk.skip.saturating_add(within), buf)
            }
            (Held::Inline, compression) => {
                let f = item.fields("extent item");
                let stored = f.bytes(INLINE, f.len().saturating_sub(INLINE))?;
                let Some(compression) = compression else {
                    return copy(stored, within, buf);
                };
                let mut plain = vec![0; length(extent.len)?];
                let f = Fields::new(stored, "inline extent", f.offset_of(INLINE));
                compression.unpack(&f, &mut plain, self.nodes.sb.sector)?;
                copy(&plain, within, buf)
            }
        }
    }

    /// All of a compressed extent.
    fn unpacked(&self, disk: &Disk, compression: Compression, sums: Sums) -> Result<Arc<Vec<u8>>> {
        let wanted = |kept: &Unpacked| {
            let found = kept.get(&disk.logical)?;
            (wide(found.len()) == disk.plain).then(|| Arc::clone(found))
        };
        let found = wanted(&self.unpacked.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = found {
            return Ok(found);
        }
        // Both lengths are at most 128 KiB, see `Extent::parse`.
        let mut packed = vec![0; length(disk.len)?];
        self.read_data(disk.logical, &mut packed, sums)?;
        let place = self.nodes.pool.chunks.piece(disk.logical, 1)?;
        let place = place.copies.first().map_or(0, |place| place.offset);
        let f = Fields::new(&packed, "data extent", place);
        let mut plain = vec![0; length(disk.plain)?];
        compression.unpack(&f, &mut plain, self.nodes.sb.sector)?;
        let plain = Arc::new(plain);
        let mut kept = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_UNPACKED {
            kept.clear();
        }
        kept.insert(disk.logical, Arc::clone(&plain));
        Ok(plain)
    }
}

/// The bytes of a file from `from` to `to` in a buffer that begins at `offset` of it.
fn part(buf: &mut [u8], from: u64, to: u64, offset: u64) -> Result<&mut [u8]> {
    let start = length(from.saturating_sub(offset))?;
    let end = length(to.saturating_sub(offset))?;
    Ok(buf.get_mut(start..end).unwrap_or_default())
}

fn fill(buf: &mut [u8], from: u64, to: u64, offset: u64) -> Result<()> {
    if from < to {
        part(buf, from, to, offset)?.fill(0);
    }
    Ok(())
}

/// Fills `buf` from byte `skip` of `bytes`, with zeroes behind their end.
fn copy(bytes: &[u8], skip: u64, buf: &mut [u8]) -> Result<()> {
    let there = bytes.get(length(skip)?..).unwrap_or_default();
    let len = there.len().min(buf.len());
    let (head, tail) = buf.split_at_mut(len);
    head.copy_from_slice(there.get(..len).unwrap_or_default());
    tail.fill(0);
    Ok(())
}

impl Btrfs {
    /// Where a file's content is. On several devices a byte offset alone says nothing, so there none is given.
    pub(super) fn parts(&self, node: &Node) -> Result<Vec<Stored>> {
        let pool = &self.volume.nodes.pool;
        let mut found: Vec<Stored> = Vec::new();
        let mut push = |from: u64, to: u64, disk: Option<u64>| {
            let to = to.min(node.size);
            if from < to {
                let file = from..to;
                found.push(Stored { file, disk });
            }
        };
        let mut extents = self.volume.extents(node, 0)?;
        let mut at = 0;
        // Ends because a walk through a tree does.
        while let Some((extent, _)) = extents.next()? {
            if extent.start < at {
                return Err(node.corrupt("extents overlap"));
            }
            push(at, extent.start, None);
            at = extent.end();
            let (Held::Regular(disk), None) = (&extent.held, extent.compression) else {
                push(extent.start, at, None);
                continue;
            };
            let mut from = extent.start;
            let mut logical = disk.logical.saturating_add(disk.skip);
            // Ends because every piece has at least one byte.
            while from < at {
                let piece = pool.chunks.piece(logical, at.saturating_sub(from))?;
                let to = from.saturating_add(piece.len.max(1));
                let place = piece.copies.first().map(|place| place.offset);
                push(from, to, place.filter(|_| pool.devices.len() == 1));
                logical = logical.saturating_add(piece.len.max(1));
                from = to;
            }
        }
        push(at, node.size, None);
        Ok(found)
    }
}
