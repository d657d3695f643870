//! Inodes taken from the chunks that a group has, and given back; no chunk is dissolved.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Inode B+trees". A record of the tree stands for
//! 64 inodes; where chunks may have holes, one bit says that four inodes are not there.

use rehost_block::{Error, Fields, Kind, Result};

use super::btree::{Key, Which, narrow};
use super::change::{Change, is_refusal};
use super::group::{Header, counter, inodes};
use super::stamp::{put8, put32, put64};
use crate::number::index;

/// Inodes of a chunk.
pub(super) const CHUNK: u32 = 64;
/// Inodes that one bit of a chunk's holes stands for.
const PER_HOLE: u32 = 4;

/// Groups' chunks that are looked at for a free inode, at most (ours).
const MOST_TRIES: usize = 64;

impl Change<'_> {
    /// A free inode becomes used; its number. Groups are asked from `first` on; a new chunk is made
    /// where none has a free one.
    pub(super) fn take_inode(&mut self, first: u32) -> Result<u64> {
        let mut refusal = match self.take_known(first) {
            Err(error) if is_refusal(&error) => error,
            other => return other,
        };
        for group in self.groups_from(first) {
            let made = self.attempt(|change| {
                change.make_chunk(group)?;
                change.take_known(group)
            });
            match made {
                Err(error) if is_refusal(&error) => refusal = error,
                other => return other,
            }
        }
        Err(refusal)
    }

    /// An inode of a chunk that there is.
    fn take_known(&mut self, first: u32) -> Result<u64> {
        let mut refusal = None;
        for group in self.groups_from(first) {
            if self.header_u32(group, Header::Inodes, inodes::FREE)? == 0 {
                continue;
            }
            let tree = self.tree_of_free();
            let mut key: Key = [0; 3];
            let mut tries = 0usize;
            // Ends because keys grow, and there are no more chunks than blocks.
            for _ in 0..index(self.fs.sb.ag_blocks) {
                let Some(record) = self.next_chunk(tree, group, key)? else {
                    break;
                };
                key = tree.key_of(&record)?;
                let Some(nth) = self.free_in(&record)? else {
                    continue;
                };
                match self.attempt(|change| change.take_from(group, &record, nth)) {
                    Err(error) if is_refusal(&error) => refusal = Some(error),
                    other => return other,
                }
                tries = tries.saturating_add(1);
                if tries >= MOST_TRIES {
                    break;
                }
            }
        }
        Err(refusal.unwrap_or_else(|| {
            Error::unsupported("no chunk has a free inode").in_structure("tree of inodes")
        }))
    }

    const fn tree_of_free(&self) -> Which {
        if self.fs.sb.features.free_inodes {
            Which::FreeInodes
        } else {
            Which::Inodes
        }
    }

    /// The chunk after `key`; the first of the group may sort by 0.
    fn next_chunk(&self, tree: Which, group: u32, key: Key) -> Result<Option<Vec<u8>>> {
        self.after(tree, group, key)
    }

    /// The first inode of a chunk that is there and free.
    fn free_in(&self, record: &[u8]) -> Result<Option<u32>> {
        let f = Fields::new(record, "chunk of inodes", 0);
        let free = f.u64_be(8)?;
        let holes = if self.fs.sb.features.sparse_inodes {
            u32::from(f.u16_be(4)?)
        } else {
            0
        };
        let is_there = |nth: u32| {
            let hole = nth.checked_div(PER_HOLE).unwrap_or(0);
            holes.checked_shr(hole).unwrap_or(0) & 1 == 0
        };
        Ok((0..CHUNK).find(|nth| is_there(*nth) && free.checked_shr(*nth).unwrap_or(0) & 1 == 1))
    }

    /// A chunk's record with inode `nth` used or free, and how many are free then.
    fn marked(&self, record: &[u8], nth: u32, to: Mark) -> Result<(Vec<u8>, u32)> {
        let f = Fields::new(record, "chunk of inodes", 0);
        let bit = 1u64.checked_shl(nth).unwrap_or(0);
        let free = f.u64_be(8)?;
        if (free & bit != 0) == (to == Mark::Free) {
            return Err(f.corrupt(8, "an inode contradicts its chunk"));
        }
        let sparse = self.fs.sb.features.sparse_inodes;
        let count = if sparse {
            u32::from(f.u8(7)?)
        } else {
            f.u32_be(4)?
        };
        let then = match to {
            Mark::Used => count.checked_sub(1),
            Mark::Free => count.checked_add(1).filter(|count| *count <= CHUNK),
        };
        let then = then.ok_or_else(|| f.corrupt(4, "count of free inodes is wrong"))?;
        let mut record = record.to_vec();
        put64(&mut record, 8, free ^ bit)?;
        if sparse {
            put8(&mut record, 7, u8::try_from(then).unwrap_or(u8::MAX))?;
        } else {
            put32(&mut record, 4, then)?;
        }
        Ok((record, then))
    }

    fn take_from(&mut self, group: u32, record: &[u8], nth: u32) -> Result<u64> {
        let start = Fields::new(record, "chunk of inodes", 0).u32_be(0)?;
        let key = [start.into(), 0, 0];
        let (changed, left) = self.marked(record, nth, Mark::Used)?;
        let known = self.at_or_before(Which::Inodes, group, key)?;
        if known.as_deref() != Some(record) {
            return Err(
                Error::corrupt("the two trees of inodes disagree").in_structure("tree of inodes")
            );
        }
        self.exchange(Which::Inodes, group, key, &changed)?;
        if self.fs.sb.features.free_inodes {
            if left == 0 {
                self.remove(Which::FreeInodes, group, key)?;
            } else {
                self.exchange(Which::FreeInodes, group, key, &changed)?;
            }
        }
        self.settle_inodes(group, -1)?;
        self.number_of(group, start.saturating_add(nth))
    }

    fn settle_inodes(&mut self, group: u32, by: i64) -> Result<()> {
        self.check_thinned()?;
        self.count_in_header(group, Header::Inodes, inodes::FREE, by)?;
        self.count(counter::FREE_INODES, by)
    }

    /// Bits of an inode's number that say where in its group it is.
    fn inode_bits(&self) -> u32 {
        u32::from(self.fs.sb.ag_block_log)
            .saturating_add(u32::from(self.fs.sb.inodes_per_block_log))
    }

    pub(super) fn number_of(&self, group: u32, within: u32) -> Result<u64> {
        u64::from(group)
            .checked_shl(self.inode_bits())
            .map(|high| high | u64::from(within))
            .ok_or_else(|| Error::internal("an inode's number exceeds 64 bits"))
    }

    /// An inode that was used becomes free.
    pub(super) fn give_inode(&mut self, number: u64) -> Result<()> {
        let group = self.home(number);
        let mask = 1u64
            .checked_shl(self.inode_bits())
            .map_or(u64::MAX, |bit| bit.saturating_sub(1));
        let within = narrow(number & mask)?;
        let wrong = || Error::corrupt("inode is in no chunk").in_structure("tree of inodes");
        let record = self
            .at_or_before(Which::Inodes, group, [within.into(), 0, 0])?
            .ok_or_else(wrong)?;
        let start = Fields::new(&record, "chunk of inodes", 0).u32_be(0)?;
        let nth = within
            .checked_sub(start)
            .filter(|nth| *nth < CHUNK)
            .ok_or_else(wrong)?;
        let key = [start.into(), 0, 0];
        let (changed, free) = self.marked(&record, nth, Mark::Free)?;
        self.exchange(Which::Inodes, group, key, &changed)?;
        if self.fs.sb.features.free_inodes {
            if free == 1 {
                self.insert(Which::FreeInodes, group, &changed)?;
            } else {
                self.exchange(Which::FreeInodes, group, key, &changed)?;
            }
        }
        self.settle_inodes(group, 1)
    }

    /// Refuses what would have to be counted for quotas.
    pub(super) fn check_uncounted(&self) -> Result<()> {
        if self.fs.sb.features.quota {
            return Err(Error::new(
                Kind::Unsupported,
                "filesystem has quotas, whose counts would become wrong",
            )
            .in_structure("superblock"));
        }
        Ok(())
    }
}

/// What an inode becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Used,
    Free,
}
