//! The bytes of an inode: sizes, times, extents, and new ones.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "On-disk Inode".

use rehost_block::{Error, Fields, Result};

use super::super::inode::Node;
use super::super::map::Extent;
use super::change::Change;
use super::space::{blocks_of, list_len, packed};
use super::stamp::{put, put8, put16, put32, put64};
use crate::FileKind;
use crate::number::wide;

/// `di_flags2`.
const BIGTIME: u64 = 1 << 3;
const NREXT64: u64 = 1 << 4;
pub(super) const REFLINK: u64 = 1 << 1;
const METADATA: u64 = 1 << 5;

/// `di_flags`: cannot be changed, can only be appended to.
const IMMUTABLE: u16 = 0x8;
const APPEND: u16 = 0x10;
/// `di_flags` that pass from a directory to what is made in it: sync, noatime, nodump, project, nodefrag.
const INHERITED: u16 = 0x20 | 0x40 | 0x80 | PROJECT | 0x2000;
/// `di_flags`: the project passes on.
const PROJECT: u16 = 0x200;

/// Seconds before 1970 at which `bigtime` begins to count.
const BIGTIME_EPOCH: u64 = 1 << 31;

/// Codes of a fork's format.
pub(super) mod format {
    pub(in super::super) const LOCAL: u8 = 1;
    pub(in super::super) const EXTENTS: u8 = 2;
}

/// A time of an inode, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    Accessed = 32,
    Modified = 40,
    Changed = 48,
    Created = 144,
}

/// Owner and permissions of a new file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ownership {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Change<'_> {
    /// An inode that may be changed, of any kind.
    pub(super) fn changeable(&self, number: u64) -> Result<Node> {
        let node = self.node(number)?;
        let f = node.fields();
        let flags = f.u16_be(90)?;
        if flags & (IMMUTABLE | APPEND) != 0 {
            return Err(f.unsupported(90, format!("inode {number} is immutable or append-only")));
        }
        if self.fs.sb.v5 && f.u64_be(120)? & METADATA != 0 {
            return Err(Error::usage(format!(
                "inode {number} belongs to the filesystem itself"
            )));
        }
        if node.is_realtime()? {
            return Err(f.unsupported(90, format!("inode {number} lies on a realtime section")));
        }
        Ok(node)
    }

    /// Sets times of an inode's bytes.
    pub(super) fn touch(&self, raw: &mut [u8], stamps: &[Stamp]) -> Result<()> {
        let (seconds, nanos) = self.now;
        let big = self.flags2(raw)? & BIGTIME != 0;
        for stamp in stamps {
            let at = match stamp {
                Stamp::Accessed => 32,
                Stamp::Modified => 40,
                Stamp::Changed => 48,
                Stamp::Created if self.fs.sb.v5 => 144,
                Stamp::Created => continue,
            };
            if big {
                let count = seconds
                    .saturating_add(BIGTIME_EPOCH)
                    .saturating_mul(1_000_000_000)
                    .saturating_add(nanos.into());
                put64(raw, at, count)?;
            } else {
                let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
                put(raw, at, &seconds.to_be_bytes())?;
                put32(raw, at.saturating_add(4), nanos)?;
            }
        }
        Ok(())
    }

    pub(super) fn flags2(&self, raw: &[u8]) -> Result<u64> {
        if self.fs.sb.v5 {
            Fields::new(raw, "inode", 0).u64_be(120)
        } else {
            Ok(0)
        }
    }

    /// Bytes of the data fork.
    pub(super) fn fork_len(&self, raw: &[u8]) -> Result<usize> {
        let skip = usize::from(Fields::new(raw, "inode", 0).u8(82)?).saturating_mul(8);
        let core = self.core_len();
        Ok(match skip {
            0 => raw.len().saturating_sub(core),
            skip => skip,
        })
    }

    /// Where the forks begin.
    pub(super) const fn core_len(&self) -> usize {
        if self.fs.sb.v5 { 176 } else { 100 }
    }

    /// Fills the data fork.
    fn set_fork(&self, raw: &mut [u8], code: u8, bytes: &[u8]) -> Result<()> {
        let (from, len) = (self.core_len(), self.fork_len(raw)?);
        if bytes.len() > len {
            return Err(Error::internal("a fork is too small for its content"));
        }
        let mut fork = bytes.to_vec();
        fork.resize(len, 0);
        put(raw, from, &fork)?;
        put8(raw, 5, code)
    }

    fn set_extent_count(&self, raw: &mut [u8], count: usize) -> Result<()> {
        if self.flags2(raw)? & NREXT64 == 0 {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            put32(raw, 76, count)
        } else {
            put64(raw, 24, wide(count))
        }
    }

    /// Content of the data fork itself: a short directory, a link's target.
    pub(super) fn set_local(&self, raw: &mut [u8], bytes: &[u8]) -> Result<()> {
        self.set_fork(raw, format::LOCAL, bytes)?;
        self.set_extent_count(raw, 0)?;
        put64(raw, 56, wide(bytes.len()))
    }

    /// Gives the data fork a list of extents, in place of `old`.
    pub(super) fn set_extents(&self, raw: &mut [u8], old: &[Extent], new: &[Extent]) -> Result<()> {
        if list_len(new) > self.fork_len(raw)? {
            return Err(Error::unsupported(
                "has more extents than its inode holds, and a tree of them would have to grow",
            )
            .in_structure("inode"));
        }
        let mut list = Vec::new();
        for extent in new {
            list.extend(packed(extent, self.fs.sb.number_of(extent.disk)));
        }
        self.set_fork(raw, format::EXTENTS, &list)?;
        self.set_extent_count(raw, new.len())?;
        let blocks = Fields::new(raw, "inode", 0).u64_be(64)?;
        let blocks = blocks
            .saturating_sub(blocks_of(old))
            .saturating_add(blocks_of(new));
        put64(raw, 64, blocks)
    }

    /// Adds to the number of names of an inode.
    pub(super) fn count_links(&self, raw: &mut [u8], by: i32) -> Result<u32> {
        let links = Fields::new(raw, "inode", 0).u32_be(16)?;
        let links = links
            .checked_add_signed(by)
            .ok_or_else(|| Error::corrupt("number of names is wrong").in_structure("inode"))?;
        put32(raw, 16, links)?;
        Ok(links)
    }

    /// The bytes of a new inode in the place of a free one, empty.
    pub(super) fn new_inode(
        &self,
        parent: &Node,
        number: u64,
        kind: FileKind,
        owner: Ownership,
    ) -> Result<Vec<u8>> {
        let (block, within) = self.inode_place(number)?;
        let at = self.fs.blocks.offset(block).saturating_add(within);
        let old = self.read(at, usize::from(self.fs.sb.inode_size))?;
        let f = Fields::new(&old, "inode", at);
        if f.bytes(0, 2)? != b"IN" || f.u16_be(2)? != 0 || f.u8(4)? != 3 {
            return Err(f.corrupt(0, format!("inode {number} is not free as its chunk says")));
        }
        let generation = f.u32_be(92)?.wrapping_add(1);
        let from = parent.fields();
        let flags = from.u16_be(90)? & INHERITED;
        let mut flags2 = 0;
        if self.fs.sb.features.bigtime {
            flags2 |= BIGTIME;
        }
        if self.fs.sb.features.nrext64 {
            flags2 |= NREXT64;
        }
        let (bits, links) = match kind {
            FileKind::Directory => (0x4000, 2),
            FileKind::Symlink => (0xa000, 1),
            _ => (0x8000u16, 1),
        };
        let mut raw = vec![0; old.len()];
        put(&mut raw, 0, b"IN")?;
        put16(&mut raw, 2, bits | (owner.mode & 0xfff))?;
        put8(&mut raw, 4, 3)?;
        put8(&mut raw, 5, format::EXTENTS)?;
        put32(&mut raw, 8, owner.uid)?;
        put32(&mut raw, 12, owner.gid)?;
        put32(&mut raw, 16, links)?;
        if flags & PROJECT != 0 {
            put(&mut raw, 20, from.bytes(20, 4)?)?;
        }
        put8(&mut raw, 83, format::EXTENTS)?;
        put16(&mut raw, 90, flags)?;
        put32(&mut raw, 92, generation)?;
        put32(&mut raw, 96, u32::MAX)?;
        put64(&mut raw, 120, flags2)?;
        put64(&mut raw, 152, number)?;
        put(&mut raw, 160, &self.fs.sb.meta_uuid)?;
        let all = [
            Stamp::Accessed,
            Stamp::Modified,
            Stamp::Changed,
            Stamp::Created,
        ];
        self.touch(&mut raw, &all)?;
        Ok(raw)
    }

    /// An inode's bytes become those of a free one.
    pub(super) fn clear_inode(&self, raw: &mut [u8]) -> Result<()> {
        let f = Fields::new(raw, "inode", 0);
        let generation = f.u32_be(92)?.wrapping_add(1);
        let flags2 = self.flags2(raw)? & (BIGTIME | NREXT64);
        put16(raw, 2, 0)?;
        put8(raw, 5, format::EXTENTS)?;
        put32(raw, 16, 0)?;
        put64(raw, 24, 0)?;
        put64(raw, 56, 0)?;
        put64(raw, 64, 0)?;
        // Extent size hint, counts of extents of both forks, forks' boundary and format, DMAPI.
        put(raw, 72, &[0; 11])?;
        put8(raw, 83, format::EXTENTS)?;
        put(raw, 84, &[0; 8])?;
        put32(raw, 92, generation)?;
        put64(raw, 120, flags2)?;
        put32(raw, 128, 0)?;
        let core = self.core_len();
        if let Some(forks) = raw.get_mut(core..) {
            forks.fill(0);
        }
        self.touch(raw, &[Stamp::Changed])
    }
}
