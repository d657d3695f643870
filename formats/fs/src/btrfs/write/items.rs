//! Items of the trees that keep accounts: who refers to an extent, and what its checksums are.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `EXTENT_ITEM`, `METADATA_ITEM`, `EXTENT_DATA_REF`, `EXTENT_CSUM`.

use std::ops::Range;

use rehost_block::{Error, Fields, Result};

use super::super::Volume;
use super::super::bytes::{put, put32, put64};
use super::super::key::{Key, kind, tree};
use super::super::names::Edited;
use super::super::superblock::HINT;
use super::super::tree::Tree;
use crate::content::{self, Content};
use crate::number::{div, index, length, wide};

pub(super) const EXTENT_ITEM: u8 = 168;
pub(super) const METADATA_ITEM: u8 = 169;
pub(super) const TREE_BLOCK_REF: u8 = 176;
pub(super) const EXTENT_DATA_REF: u8 = 178;
pub(in super::super) const BLOCK_GROUP_ITEM: u8 = 192;
pub(super) const FREE_SPACE_INFO: u8 = 198;
pub(super) const FREE_SPACE_EXTENT: u8 = 199;
pub(super) const FREE_SPACE_BITMAP: u8 = 200;

/// Flags of an extent item: of data, of a tree block.
const DATA: u64 = 1;
const TREE_BLOCK: u64 = 2;

/// Bytes of an extent item before its references.
const HEAD: usize = 24;

/// Checksums per item, at most. Ours: an item must fit into a leaf of 4 KiB.
const MOST_SUMS: usize = 64;

/// A tree of accounts that contradicts itself.
pub(in super::super) fn corrupt(what: &str) -> Error {
    Error::corrupt(what).in_structure("extent tree").hint(HINT)
}

/// The item for a new tree block.
pub(super) fn tree_block(owner: u64, generation: u64) -> Result<Vec<u8>> {
    let mut raw = vec![0; HEAD + 9];
    put64(&mut raw, 0, 1)?;
    put64(&mut raw, 8, generation)?;
    put64(&mut raw, 16, TREE_BLOCK)?;
    put(&mut raw, HEAD, &[TREE_BLOCK_REF])?;
    put64(&mut raw, HEAD + 1, owner)?;
    Ok(raw)
}

/// Refuses to take a tree block out of a tree that others use too.
pub(super) fn check_own_block(extents: &Tree<'_>, block: (u64, u8), owner: u64) -> Result<()> {
    let key = Key::new(block.0, METADATA_ITEM, block.1.into());
    let item = extents
        .get(key)?
        .ok_or_else(|| corrupt("a tree block is not in the extent tree"))?;
    let f = item.fields("extent item");
    let own = f.len() == HEAD + 9
        && f.u64_le(0)? == 1
        && f.u64_le(16)? == TREE_BLOCK
        && f.u8(HEAD)? == TREE_BLOCK_REF
        && f.u64_le(HEAD + 1)? == owner;
    if own {
        return Ok(());
    }
    Err(f
        .unsupported(
            0,
            "the part of the tree to change is shared with a snapshot",
        )
        .hint("delete the snapshot in the source machine first"))
}

/// The item for new data of a file.
pub(super) fn data(root: u64, inode: u64, start: u64, generation: u64) -> Result<Vec<u8>> {
    let mut raw = vec![0; HEAD + 29];
    put64(&mut raw, 0, 1)?;
    put64(&mut raw, 8, generation)?;
    put64(&mut raw, 16, DATA)?;
    put(&mut raw, HEAD, &[EXTENT_DATA_REF])?;
    put64(&mut raw, HEAD + 1, root)?;
    put64(&mut raw, HEAD + 9, inode)?;
    put64(&mut raw, HEAD + 17, start)?;
    put32(&mut raw, HEAD + 25, 1)?;
    Ok(raw)
}

/// Takes one reference of a file away from an extent; `true` when that was the last one, and the item is gone. `start` is
/// where in the file the whole extent would start.
pub(super) fn drop_data(
    extents: &mut Edited<'_>,
    extent: &Range<u64>,
    (root, inode, start): (u64, u64, u64),
) -> Result<Left> {
    let key = Key::new(
        extent.start,
        EXTENT_ITEM,
        extent.end.saturating_sub(extent.start),
    );
    let raw = extents
        .bytes(key)?
        .ok_or_else(|| corrupt("an extent of a file is not in the extent tree"))?;
    let f = Fields::new(&raw, "extent item", 0);
    let refs = f.u64_le(0)?;
    if f.u64_le(16)? != DATA {
        return Err(corrupt("an extent of a file is not one of data"));
    }
    let mut at = HEAD;
    // Ends because every reference takes at least nine bytes.
    while at < raw.len() {
        let len = match f.u8(at)? {
            EXTENT_DATA_REF => 29usize,
            // A shared data reference; what else there may be has no count.
            184 => 13,
            _ => break,
        };
        let field = |offset: usize| at.saturating_add(offset);
        let mine = len == 29
            && f.u64_le(field(1))? == root
            && f.u64_le(field(9))? == inode
            && f.u64_le(field(17))? == start;
        if !mine {
            at = at.saturating_add(len);
            continue;
        }
        let count = f.u32_le(field(25))?;
        let mut left = raw.clone();
        put64(&mut left, 0, refs.saturating_sub(1))?;
        if refs <= 1 {
            extents.delete(key)?;
            return Ok(Left::Nothing);
        }
        if count <= 1 {
            left.drain(at..at.saturating_add(len).min(raw.len()));
        } else {
            put32(&mut left, field(25), count.saturating_sub(1))?;
        }
        extents.set(key, left)?;
        return Ok(Left::Others);
    }
    Err(f
        .unsupported(
            0,
            "content of the file is shared in a way that is not taken apart here",
        )
        .hint("delete snapshots and copies of the file in the source machine first"))
}

/// What refers to an extent after a reference is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Others,
}

/// Adds the checksums of a part of `content` at logical address `logical`; its last sector is filled up
/// with zeroes. Gives the CRC-32C of all content so far, of which `seen` is what went before.
pub(super) fn add_sums(
    volume: &Volume,
    sums: &mut Edited<'_>,
    logical: u64,
    (content, part): (&dyn Content, &Range<u64>),
    mut seen: u32,
) -> Result<u32> {
    let sector = index(volume.nodes.sb.sector);
    let checksum = volume.nodes.sb.checksum;
    let most = wide(sector.saturating_mul(MOST_SUMS));
    content::in_pieces(content, part, most, |at, bytes| {
        seen = crc32c::crc32c_append(seen, bytes);
        let mut made = Vec::new();
        for bytes in bytes.chunks(sector) {
            let mut padded = Vec::new();
            let bytes = if bytes.len() < sector {
                padded.extend_from_slice(bytes);
                padded.resize(sector, 0);
                &padded
            } else {
                bytes
            };
            made.extend_from_slice(checksum.of(bytes).get(..checksum.len()).unwrap_or_default());
        }
        let key = Key::new(
            tree::CSUM_OBJECT,
            kind::EXTENT_CSUM,
            logical.saturating_add(at),
        );
        sums.set(key, made)
    })?;
    Ok(seen)
}

/// Takes the checksums of a range away.
pub(super) fn drop_sums(volume: &Volume, sums: &mut Edited<'_>, range: &Range<u64>) -> Result<()> {
    let sector = u64::from(volume.nodes.sb.sector);
    let size = volume.nodes.sb.checksum.len();
    let key = |at| Key::new(tree::CSUM_OBJECT, kind::EXTENT_CSUM, at);
    let start = key(range.start);
    let first = sums
        .tree()
        .before(start)?
        .map_or(start, |item| item.key.min(start));
    let mut found = Vec::new();
    let mut items = sums.tree().range(first, key(range.end.saturating_sub(1)))?;
    // Ends because a walk through a tree does.
    while let Some(item) = items.next()? {
        if item.key.is(tree::CSUM_OBJECT, kind::EXTENT_CSUM) {
            found.push((item.key, item.bytes().to_vec()));
        }
    }
    drop(items);
    for (old, bytes) in found {
        let count = wide(bytes.len().checked_div(size).unwrap_or(0));
        let end = old.offset.saturating_add(count.saturating_mul(sector));
        if end <= range.start {
            continue;
        }
        sums.delete(old)?;
        let cut = |at: u64| -> Result<usize> {
            let sectors = div(at.saturating_sub(old.offset), sector);
            Ok(length(sectors)?.saturating_mul(size).min(bytes.len()))
        };
        if old.offset < range.start {
            let left = bytes.get(..cut(range.start)?).unwrap_or_default();
            sums.set(old, left.to_vec())?;
        }
        if end > range.end {
            let right = bytes.get(cut(range.end)?..).unwrap_or_default();
            sums.set(key(range.end), right.to_vec())?;
        }
    }
    Ok(())
}
