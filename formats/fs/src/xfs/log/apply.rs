//! Buffers and fresh inode chunks of the log, written over the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut as _, Error, Fields, Overlay, Result};

use super::super::Sectors;
use super::super::superblock::Superblock;
use super::transaction::{Item, kind};
use super::{corrupt, unsupported};
use crate::number::{index, length, wide};

/// Bytes that one bit of a buffer's map stands for.
const CHUNK: usize = 128;
/// Blocks of 512 bytes of a buffer, at most: a chunk of inodes or a directory block is far smaller.
const MOST_BLOCKS: u64 = 2048;
/// Sectors that a log may change, at most (ours): 256 MiB.
const MOST_SECTORS: usize = 512 << 10;

/// Buffer flag: only the links between unlinked inodes changed.
const LINKS: u16 = 0x1;
/// Buffer flags: quotas of users, projects, groups.
pub(super) const QUOTAS: u16 = 0x4 | 0x8 | 0x10;
/// Where an inode keeps the next unlinked one.
const NEXT_UNLINKED: usize = 96;

/// A replay in progress.
pub(super) struct Replay<'a> {
    pub(super) sb: &'a Superblock,
    view: Arc<Overlay>,
    changed: Sectors,
    /// Buffers that a later item frees, by block and length, and how often.
    cancels: BTreeMap<(u64, u64), u32>,
    /// Buffers and inodes that changed, by byte offset: length, and the transaction that was last.
    pub(super) buffers: BTreeMap<u64, (usize, u64)>,
    pub(super) inodes: BTreeMap<u64, u64>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(sb: &'a Superblock, disk: &Arc<dyn Disk>) -> Self {
        Self {
            sb,
            view: Arc::new(Overlay::in_memory(Arc::clone(disk))),
            changed: Sectors::new(),
            cancels: BTreeMap::new(),
            buffers: BTreeMap::new(),
            inodes: BTreeMap::new(),
        }
    }

    /// The disk with the changes, and where they are.
    pub(super) fn finish(self) -> (Arc<dyn Disk>, Sectors) {
        (self.view, self.changed)
    }

    pub(super) fn note_cancel(&mut self, item: &Item<'_>) -> Result<()> {
        if item.is_cancel() {
            let count = self.cancels.entry(buffer(item)?).or_default();
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, item: &Item<'_>, lsn: u64) -> Result<()> {
        match item.kind {
            kind::BUFFER => self.buffer(item, lsn),
            kind::INODE => self.inode(item, lsn),
            kind::FRESH_INODES => self.fresh_inodes(item),
            _ => Ok(()),
        }
    }

    /// Whether a later item frees this buffer.
    pub(super) fn is_cancelled(&self, block: u64, blocks: u64) -> bool {
        self.cancels.contains_key(&(block, blocks))
    }

    /// Bytes of the disk from byte `offset` on, as replayed so far.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.check(offset, len)?;
        let mut raw = vec![0; len];
        self.view.read_at(&mut raw, offset)?;
        Ok(raw)
    }

    pub(super) fn write(&mut self, offset: u64, raw: &[u8]) -> Result<()> {
        self.check(offset, raw.len())?;
        let last = offset.saturating_add(wide(raw.len())).saturating_sub(1) >> 9;
        self.changed.extend(offset >> 9..=last);
        if self.changed.len() > MOST_SECTORS {
            return Err(unsupported("changes more than 256 MiB".to_owned()));
        }
        self.view.write_at(raw, offset)
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), Error> {
        let size = self.sb.blocks.saturating_mul(self.sb.block_size.into());
        let inside = offset.checked_add(wide(len)).is_some_and(|end| end <= size);
        if inside && len > 0 {
            Ok(())
        } else {
            Err(corrupt("changes what lies outside the filesystem").at(offset))
        }
    }

    fn buffer(&mut self, item: &Item<'_>, lsn: u64) -> Result<()> {
        let key @ (block, blocks) = buffer(item)?;
        if item.is_cancel() {
            if let Some(count) = self.cancels.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.cancels.remove(&key);
                }
            }
            return Ok(());
        }
        let f = item.format()?;
        let flags = f.u16_le(4)?;
        if flags & QUOTAS != 0 || self.is_cancelled(block, blocks) {
            return Ok(());
        }
        let offset = block.saturating_mul(512);
        let size = length(blocks.saturating_mul(512))?;
        self.check(offset, size)?;
        if self.is_newer(offset, lsn)? {
            return Ok(());
        }
        let words = index(f.u32_le(16)?);
        let map = f.bytes(20, words.saturating_mul(4))?;
        let dirty = |chunk: usize| {
            map.get(chunk / 8)
                .is_some_and(|byte| (byte >> (chunk % 8)) & 1 == 1)
        };
        let mut chunk = 0usize;
        for region in item.regions.iter().skip(1) {
            // Ends at the map's last bit. A run of changed chunks may come in several regions.
            while chunk < map.len().saturating_mul(8) && !dirty(chunk) {
                chunk = chunk.saturating_add(1);
            }
            let at = chunk.saturating_mul(CHUNK);
            if !dirty(chunk) || at.saturating_add(region.len()) > size || region.is_empty() {
                return Err(corrupt("buffer has regions that its map does not know"));
            }
            if flags & LINKS == 0 {
                self.write(offset.saturating_add(wide(at)), region)?;
            } else {
                self.links(offset, at, region)?;
            }
            chunk = chunk.saturating_add(region.len().div_ceil(CHUNK));
        }
        self.buffers.insert(offset, (size, lsn));
        Ok(())
    }

    /// Takes the links between unlinked inodes, and nothing else, from `region`, which belongs at byte
    /// `at` of the buffer at `offset`.
    fn links(&mut self, offset: u64, at: usize, region: &[u8]) -> Result<()> {
        let size = usize::from(self.sb.inode_size);
        let end = at.saturating_add(region.len());
        let first = NEXT_UNLINKED.saturating_add(at.next_multiple_of(size).saturating_sub(size));
        for place in (first..end).step_by(size) {
            let link = place
                .checked_sub(at)
                .and_then(|from| region.get(from..from.saturating_add(4)));
            if let Some(link) = link {
                let link = link.to_vec();
                self.write(offset.saturating_add(wide(place)), &link)?;
            }
        }
        Ok(())
    }

    /// Whether the version 5 block at byte `offset` was written after `lsn`.
    fn is_newer(&self, offset: u64, lsn: u64) -> Result<bool> {
        if !self.sb.v5 {
            return Ok(false);
        }
        let raw = self.read(offset, 512)?;
        let f = Fields::new(&raw, "metadata block", offset);
        // Where a block keeps the number and its UUID.
        let (at, uuid) = match (f.bytes(0, 4)?, f.u16_be(8)?) {
            (b"XFSB", _) => (240, None),
            (b"XAGF", _) => (208, Some(64)),
            (b"XAGI", _) => (320, Some(296)),
            (b"XAFL", _) => (24, Some(8)),
            (b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC", _) => (24, Some(32)),
            (b"XDB3" | b"XDD3" | b"XDF3", _) => (16, Some(24)),
            (b"BMA3", _) => (32, Some(40)),
            (b"XSLM", _) => (48, Some(16)),
            (_, 0x3df1 | 0x3dff | 0x3ebe | 0x3bee) => (24, Some(32)),
            _ => return Ok(false),
        };
        if let Some(uuid) = uuid
            && f.array::<16>(uuid)? != self.sb.meta_uuid
        {
            return Ok(false);
        }
        Ok(is_later(f.u64_be(at)?, lsn))
    }

    /// Inodes of a chunk that was just allocated.
    fn fresh_inodes(&mut self, item: &Item<'_>) -> Result<()> {
        let f = item.format()?;
        let (group, within) = (u64::from(f.u32_be(4)?), u64::from(f.u32_be(8)?));
        let (count, size) = (u64::from(f.u32_be(12)?), u64::from(f.u32_be(16)?));
        let blocks = u64::from(f.u32_be(20)?);
        let generation = f.array::<4>(24)?;
        let room = blocks.saturating_mul(self.sb.block_size.into());
        let number = group
            .checked_shl(u32::from(self.sb.ag_block_log))
            .map(|high| high | within);
        let first = number
            .filter(|_| group < u64::from(self.sb.ag_count))
            .and_then(|number| self.sb.run(number, blocks))
            .filter(|_| size == u64::from(self.sb.inode_size))
            .filter(|_| count.saturating_mul(size) <= room && room <= MOST_BLOCKS << 9)
            .ok_or_else(|| f.corrupt(4, "impossible chunk of inodes"))?;
        let offset = first.saturating_mul(self.sb.block_size.into());
        let inode = number.unwrap_or(0) << self.sb.inodes_per_block_log.min(31);
        for nth in 0..count {
            let at = offset.saturating_add(nth.saturating_mul(size));
            let freed = self.cancels.keys().any(|(block, blocks)| {
                *block <= at >> 9 && at >> 9 < block.saturating_add(*blocks)
            });
            if freed {
                // The chunk is freed later, and its blocks may already hold something else.
                continue;
            }
            let mut raw = vec![0; usize::from(self.sb.inode_size)];
            let own = inode.saturating_add(nth);
            let places: [(usize, &[u8]); 5] = [
                (0, b"IN\0\0\x03"),
                (92, &generation),
                (96, &[0xff; 4]),
                (152, &own.to_be_bytes()),
                (160, &self.sb.meta_uuid),
            ];
            for (at, bytes) in places {
                let end = at.saturating_add(bytes.len());
                let target = raw.get_mut(at..end).unwrap_or_default();
                target.copy_from_slice(bytes);
            }
            // Not written by a transaction yet.
            self.inodes.insert(at, 0);
            self.write(at, &raw)?;
        }
        Ok(())
    }
}

/// Whether a stored log sequence number is after `lsn`. All bits set: never logged.
pub(super) fn is_later(stored: u64, lsn: u64) -> bool {
    stored != u64::MAX && stored > lsn
}

/// First block and number of blocks (of 512 bytes) of a buffer item.
fn buffer(item: &Item<'_>) -> Result<(u64, u64)> {
    let f = item.format()?;
    let (block, blocks) = (f.u64_le(8)?, u64::from(f.u16_le(6)?));
    if blocks == 0 || blocks > MOST_BLOCKS {
        return Err(f.corrupt(6, "impossible length of a buffer"));
    }
    Ok((block, blocks))
}
