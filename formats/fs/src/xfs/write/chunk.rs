//! New chunks of 64 inodes, where a group has an aligned piece of free space and its trees have room.
//!
//! Source: "XFS Algorithms & Data Structures", chapters "AG Inode Management" and "Inode B+trees".

use rehost_block::{Error, Fields, Result};

use super::btree::{Which, pair};
use super::change::Change;
use super::group::{Header, counter, inodes};
use super::inodes::CHUNK;
use super::stamp::{Kind, put, put8, put32, put64, seal_inode};
use crate::number::{div, index};

/// `XFS_RMAP_OWN_INODES`: owner of chunks of inodes (-7).
const OWNER: u64 = u64::MAX - 6;

/// `sb_versionnum`: chunks are aligned.
const VERSION_ALIGN: u16 = 0x0080;

impl Change<'_> {
    /// Makes a chunk of free inodes in a group.
    pub(super) fn make_chunk(&mut self, group: u32) -> Result<()> {
        let raw = self.superblock()?;
        let f = Fields::new(&raw, "superblock", 0);
        let align = match f.u16_be(100)? & VERSION_ALIGN {
            0 => 1,
            _ => f.u32_be(180)?.max(1),
        };
        let per_block = 1u32
            .checked_shl(self.fs.sb.inodes_per_block_log.into())
            .unwrap_or(u32::MAX);
        if per_block > CHUNK {
            return Err(Error::unsupported(
                "a chunk of inodes is smaller than a block",
            ));
        }
        let most = self
            .fs
            .sb
            .blocks
            .saturating_mul(f.u8(127)?.into())
            .saturating_mul(per_block.into());
        let count = self.counter(counter::INODES)?;
        if most > 0 && count.saturating_add(CHUNK.into()) > div(most, 100) {
            return Err(Error::unsupported(
                "filesystem has as many inodes as it may have",
            ));
        }
        let blocks = CHUNK.checked_div(per_block).unwrap_or(1);
        let start = self.carve(group, blocks, align, OWNER)?;
        let first = start.saturating_mul(per_block);
        self.enter_chunk(group, first)?;
        self.fill_chunk(group, start, blocks, first)
    }

    /// Enters a chunk of free inodes in the trees and counters.
    fn enter_chunk(&mut self, group: u32, first: u32) -> Result<()> {
        let mut record = vec![0; 16];
        put32(&mut record, 0, first)?;
        if self.fs.sb.features.sparse_inodes {
            let count = u8::try_from(CHUNK).unwrap_or(u8::MAX);
            put8(&mut record, 6, count)?;
            put8(&mut record, 7, count)?;
        } else {
            put32(&mut record, 4, CHUNK)?;
        }
        put64(&mut record, 8, u64::MAX)?;
        self.insert(Which::Inodes, group, &record)?;
        if self.fs.sb.features.free_inodes {
            self.insert(Which::FreeInodes, group, &record)?;
        }
        let by = i64::from(CHUNK);
        self.count_in_header(group, Header::Inodes, inodes::COUNT, by)?;
        self.count_in_header(group, Header::Inodes, inodes::FREE, by)?;
        self.set_header_u32(group, Header::Inodes, inodes::NEWEST, first)?;
        self.count(counter::INODES, by)?;
        self.count(counter::FREE_INODES, by)
    }

    /// Writes the inodes of a new chunk.
    fn fill_chunk(&mut self, group: u32, start: u32, blocks: u32, first: u32) -> Result<()> {
        let size = usize::from(self.fs.sb.inode_size);
        let mut number = self.number_of(group, first)?;
        for nth in 0..blocks {
            let mut raw = vec![0; self.block_len()];
            for one in raw.chunks_mut(size.max(1)) {
                put(one, 0, b"IN")?;
                put8(one, 4, 3)?;
                put32(one, 96, u32::MAX)?;
                put64(one, 152, number)?;
                put(one, 160, &self.fs.sb.meta_uuid)?;
                seal_inode(one, self.lsn())?;
                number = number.saturating_add(1);
            }
            let block = u64::from(start.saturating_add(nth));
            let at = self.group_start(group).saturating_add(block);
            self.put(Kind::InodeTable, self.fs.blocks.offset(at), raw)?;
        }
        Ok(())
    }

    /// Takes `count` blocks at a multiple of `align` out of the free space of a group; the first one.
    fn carve(&mut self, group: u32, count: u32, align: u32, owner: u64) -> Result<u32> {
        let mut key = [u64::from(count.saturating_sub(1)), u64::MAX, 0];
        // Ends because keys grow, and there are no more extents than blocks.
        for _ in 0..index(self.fs.sb.ag_blocks) {
            let Some(record) = self.after(Which::ByLength, group, key)? else {
                break;
            };
            key = Which::ByLength.key_of(&record)?;
            let (start, free) = pair(&record)?;
            let first = start.checked_next_multiple_of(align);
            let fitting = first.filter(|first| {
                let end = start.saturating_add(free);
                first.checked_add(count).is_some_and(|last| last <= end)
            });
            if let Some(first) = fitting {
                self.take_piece(group, (start, free), first, count)?;
                self.own(group, first, count, owner, 0)?;
                self.settle_space(group, i64::from(count).saturating_neg())?;
                return Ok(first);
            }
        }
        Err(Error::unsupported(
            "no group has room for another chunk of inodes",
        ))
    }
}
