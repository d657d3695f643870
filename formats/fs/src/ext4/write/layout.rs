//! Block maps, built anew: extent trees where the filesystem has them, indirect blocks otherwise.

use rehost_block::{Error, Result};

use super::super::checksum::crc32c;
use super::super::features::incompat;
use super::super::inode::{MAP_LEN, Node, flag};
use super::super::map::{Extent, MAGIC, MOST_DEPTH, MOST_LEN};
use super::alloc::Run;
use super::change::Change;
use super::stamp::{put, put16, put32};
use crate::number::{div_up, halves, halves16, wide};

/// Entries of an extent tree's root.
const ROOT_ENTRIES: usize = 4;

/// A map made for an inode.
pub(super) struct Built {
    /// The 60 bytes of the inode.
    map: Vec<u8>,
    /// Blocks that the map takes outside the inode.
    nodes: u64,
    extents: bool,
}

/// A tree entry on its way up: first file block, and either an extent or the node below.
#[derive(Clone, Copy)]
struct Entry {
    file: u32,
    disk: u64,
    /// 0 for an index entry.
    len: u16,
}

impl Change<'_> {
    /// Gives `raw`, the bytes of inode `number`, a map of `extents` and accounts for
    /// its blocks. What it mapped before must already be freed, or be part of the new map.
    pub(super) fn set_map(
        &mut self,
        number: u32,
        raw: &mut [u8],
        extents: &[Extent],
        goal: u64,
    ) -> Result<()> {
        let node = self.fs.node_of(number, 0, raw.to_vec())?;
        let built = if self.fs.sb.features.incompat(incompat::EXTENTS) {
            self.build_tree(&node, extents, goal)?
        } else {
            self.build_indirect(extents, goal)?
        };
        put(raw, 0x28, &built.map)?;
        let flags = if built.extents {
            node.flags | flag::EXTENTS
        } else {
            node.flags & !flag::EXTENTS
        };
        put32(raw, 0x20, flags & !(flag::INLINE_DATA | flag::HUGE_FILE))?;
        let content: u64 = extents
            .iter()
            .map(|run| run.len)
            .fold(0, u64::saturating_add);
        let all = content
            .saturating_add(built.nodes)
            .saturating_add(u64::from(node.file_acl != 0));
        set_blocks(raw, all.saturating_mul(self.block_size() / 512))
    }

    fn build_tree(&mut self, node: &Node, extents: &[Extent], goal: u64) -> Result<Built> {
        let mut level = Vec::new();
        for run in extents {
            let mut done = 0;
            // Ends because every round takes at least one block of the run.
            while done < run.len {
                // The length of an unwritten extent is stored above the longest written one's.
                let (most, mark) = if run.written {
                    (MOST_LEN, 0)
                } else {
                    (MOST_LEN.saturating_sub(1), u64::from(MOST_LEN))
                };
                let len = run.len.saturating_sub(done).min(u64::from(most));
                let file = run.file.saturating_add(done);
                level.push(Entry {
                    file: u32::try_from(file)
                        .map_err(|_| Error::unsupported("file has more than 2^32 blocks"))?,
                    disk: run.disk.saturating_add(done),
                    len: u16::try_from(len.saturating_add(mark)).unwrap_or(u16::MAX),
                });
                done = done.saturating_add(len);
            }
        }
        let room = self.block_len().saturating_sub(12) / 12;
        let mut depth = 0u16;
        let mut nodes = 0u64;
        // Ends because every level has at most 1/84 of the entries of the one below.
        while level.len() > ROOT_ENTRIES {
            let mut above = Vec::new();
            for entries in level.chunks(room) {
                let block = self.allocate_one(goal)?;
                let mut bytes = vec![0; self.block_len()];
                write_node(&mut bytes, entries, room, depth)?;
                if self.fs.sb.has_checksums() {
                    let tail = room.saturating_mul(12).saturating_add(12);
                    let sum = crc32c(node.seed, bytes.get(..tail).unwrap_or_default());
                    put32(&mut bytes, tail, sum)?;
                }
                self.put_block(block, bytes)?;
                nodes = nodes.saturating_add(1);
                above.push(Entry {
                    file: entries.first().map_or(0, |entry| entry.file),
                    disk: block,
                    len: 0,
                });
            }
            level = above;
            depth = depth.saturating_add(1);
            if depth > MOST_DEPTH {
                return Err(Error::unsupported("file is in too many pieces"));
            }
        }
        let mut map = vec![0; MAP_LEN];
        write_node(&mut map, &level, ROOT_ENTRIES, depth)?;
        Ok(Built {
            map,
            nodes,
            extents: true,
        })
    }

    fn build_indirect(&mut self, extents: &[Extent], goal: u64) -> Result<Built> {
        let mut blocks = Vec::new();
        for run in extents {
            if run.file != wide(blocks.len()) || !run.written {
                return Err(Error::unsupported(
                    "a block map with holes is not made anew",
                ));
            }
            for nth in 0..run.len {
                let block = u32::try_from(run.disk.saturating_add(nth))
                    .map_err(|_| Error::unsupported("block number exceeds 32 bits"))?;
                blocks.push(block);
            }
        }
        let mut map = vec![0; MAP_LEN];
        let mut rest = blocks.as_slice();
        let mut nodes = 0;
        for slot in 0..12usize {
            let Some((block, more)) = rest.split_first() else {
                break;
            };
            put32(&mut map, slot.saturating_mul(4), *block)?;
            rest = more;
        }
        let per_block = self.block_len() / 4;
        for (slot, depth) in [(12usize, 1u32), (13, 2), (14, 3)] {
            if rest.is_empty() {
                break;
            }
            let covered = per_block.saturating_pow(depth).min(rest.len());
            let (part, more) = rest.split_at(covered);
            let top = self.indirect_level(part, depth, goal, &mut nodes)?;
            put32(&mut map, slot.saturating_mul(4), top)?;
            rest = more;
        }
        if !rest.is_empty() {
            return Err(Error::unsupported("file is too large for a block map"));
        }
        Ok(Built {
            map,
            nodes,
            extents: false,
        })
    }

    /// Writes one indirect block for `blocks`, and those below it; gives its number.
    fn indirect_level(
        &mut self,
        blocks: &[u32],
        depth: u32,
        goal: u64,
        nodes: &mut u64,
    ) -> Result<u32> {
        let here = self.allocate_one(goal)?;
        *nodes = nodes.saturating_add(1);
        let below = (self.block_len() / 4).saturating_pow(depth.saturating_sub(1));
        let mut bytes = vec![0; self.block_len()];
        for (slot, part) in blocks.chunks(below.max(1)).enumerate() {
            let block = if depth <= 1 {
                part.first().copied().unwrap_or(0)
            } else {
                // Depth falls by one with each call, so this ends.
                self.indirect_level(part, depth.saturating_sub(1), goal, nodes)?
            };
            put32(&mut bytes, slot.saturating_mul(4), block)?;
        }
        self.put_block(here, bytes)?;
        u32::try_from(here).map_err(|_| Error::unsupported("block number exceeds 32 bits"))
    }

    /// Frees everything an inode maps, and the map.
    pub(super) fn release_map(&mut self, node: &Node) -> Result<()> {
        if node.has(flag::INLINE_DATA) || !maps_blocks(node, self.fs.sb.block_size) {
            return Ok(());
        }
        let mapping = self.fs.mapping(node)?;
        for run in &mapping.extents {
            self.release(Run {
                disk: run.disk,
                len: run.len,
            })?;
        }
        self.release_nodes(node)
    }

    /// Frees the blocks that hold an inode's map, but not what it maps.
    pub(super) fn release_nodes(&mut self, node: &Node) -> Result<()> {
        let mapping = self.fs.mapping(node)?;
        for block in &mapping.nodes {
            self.release(Run {
                disk: *block,
                len: 1,
            })?;
        }
        Ok(())
    }

    /// Blocks that content of `len` bytes may take, its map included.
    pub(super) fn most_blocks(&self, len: u64) -> u64 {
        let content = div_up(len, self.block_size());
        content.saturating_add(content / 80).saturating_add(8)
    }
}

/// Whether an inode's map is one (devices and short links keep other things there).
pub(super) fn maps_blocks(node: &Node, block_size: u32) -> bool {
    match node.mode & 0xf000 {
        0x8000 | 0x4000 => true,
        0xa000 => !node.is_fast_link(block_size),
        _ => false,
    }
}

/// Writes a node of an extent tree.
fn write_node(bytes: &mut [u8], entries: &[Entry], room: usize, depth: u16) -> Result<()> {
    put16(bytes, 0, MAGIC)?;
    put16(bytes, 2, u16::try_from(entries.len()).unwrap_or(u16::MAX))?;
    put16(bytes, 4, u16::try_from(room).unwrap_or(u16::MAX))?;
    put16(bytes, 6, depth)?;
    for (nth, entry) in entries.iter().enumerate() {
        let at = nth.saturating_mul(12).saturating_add(12);
        let (lo, hi) = halves(entry.disk);
        let (hi, _) = halves16(hi);
        put32(bytes, at, entry.file)?;
        if depth == 0 {
            put16(bytes, at.saturating_add(4), entry.len)?;
            put16(bytes, at.saturating_add(6), hi)?;
            put32(bytes, at.saturating_add(8), lo)?;
        } else {
            put32(bytes, at.saturating_add(4), lo)?;
            put16(bytes, at.saturating_add(8), hi)?;
        }
    }
    Ok(())
}

/// Sets the count of 512-byte blocks.
pub(super) fn set_blocks(raw: &mut [u8], sectors: u64) -> Result<()> {
    let (lo, hi) = halves(sectors);
    put32(raw, 0x1c, lo)?;
    let (hi, over) = halves16(hi);
    if over != 0 {
        return Err(Error::unsupported("file has too many blocks"));
    }
    put16(raw, 0x74, hi)
}

/// Sets the size.
pub(super) fn set_size(raw: &mut [u8], size: u64) -> Result<()> {
    let (lo, hi) = halves(size);
    put32(raw, 0x4, lo)?;
    put32(raw, 0x6c, hi)
}

/// The runs as extents of a file, from its start on.
pub(super) fn from_start(runs: &[Run]) -> Vec<Extent> {
    let mut file = 0;
    runs.iter()
        .map(|run| {
            let extent = Extent {
                file,
                len: run.len,
                disk: run.disk,
                written: true,
            };
            file = extent.end();
            extent
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_root_holds_four_extents() {
        let entries: Vec<Entry> = (0..4)
            .map(|nth| Entry {
                file: nth * 8,
                disk: (1 << 33) + u64::from(nth) * 100,
                len: 8,
            })
            .collect();
        let mut map = vec![0; MAP_LEN];
        write_node(&mut map, &entries, ROOT_ENTRIES, 0).unwrap();
        assert_eq!(map[..8], [0x0a, 0xf3, 4, 0, 4, 0, 0, 0]);
        // Last entry: file block 24, length 8, high half 2, low half 300.
        assert_eq!(map[48..], [24, 0, 0, 0, 8, 0, 2, 0, 44, 1, 0, 0]);
    }
}
