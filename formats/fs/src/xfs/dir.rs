//! Directories: short form, one block, and many blocks with an index.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Directories". All names lie in the data
//! blocks; the index (leaf, node and free blocks) only finds them faster. It is not read: a listing
//! is kept for the lookups that follow, so that the index of a damaged filesystem hides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Fields, Result, round_up};

use super::Xfs;
use super::check::{self, Block, Verify};
use super::inode::{Fork, Format, Node};
use super::map::Mapping;
use crate::number::length;
use crate::{DirEntry, FileKind, Inode};

const NAME: &str = "directory block";

/// Marks a free part of a data block.
const FREE: u16 = 0xffff;

/// Directory entries kept for lookups, at most; one directory is kept whatever its size.
const MOST_KEPT: usize = 100_000;

/// A directory that was read, by name.
type Listing = Arc<HashMap<Vec<u8>, u64>>;

/// The directories read last.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<HashMap<u64, Listing>>);

impl Listings {
    fn get(&self, dir: u64) -> Option<Listing> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&dir).cloned()
    }

    pub(super) fn clear(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
    }

    fn put(&self, dir: u64, listing: &Listing) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = kept
            .values()
            .fold(listing.len(), |sum, one| sum.saturating_add(one.len()));
        if held > MOST_KEPT {
            kept.clear();
        }
        kept.insert(dir, Arc::clone(listing));
    }
}

impl Xfs {
    /// The inode called `name` in directory `node`.
    pub(super) fn find(&self, node: &Node, name: &[u8]) -> Result<Option<u64>> {
        let fold = |name: &[u8]| {
            if self.sb.ascii_ci {
                name.to_ascii_lowercase()
            } else {
                name.to_vec()
            }
        };
        let listing = if let Some(kept) = self.listings.get(node.number) {
            kept
        } else {
            let entries = self.entries(node)?;
            let names = entries
                .into_iter()
                .map(|entry| (fold(&entry.name), entry.inode.0));
            let listing = Arc::new(names.collect());
            self.listings.put(node.number, &listing);
            listing
        };
        Ok(listing.get(&fold(name)).copied())
    }

    /// All names in directory `node`, without `.` and `..`.
    pub(super) fn entries(&self, node: &Node) -> Result<Vec<DirEntry>> {
        node.expect(FileKind::Directory, "a directory")?;
        let fork = node.data()?;
        if fork.format == Format::Local {
            return self.short(node, &fork);
        }
        let mapping = self.metadata_extents(node, &fork)?;
        let per = 1u64
            .checked_shl(u32::from(self.sb.dir_block_log))
            .unwrap_or(1);
        let mut found = Vec::new();
        for extent in &mapping {
            // A directory block begins at a multiple of its size; the runs may cut it anywhere.
            let first = round_up(extent.file, per);
            for nth in (first..extent.end().min(self.sb.leaf_block())).step_by(super::count(per)) {
                self.data_block(node, &mapping, nth, &mut found)?;
            }
        }
        Ok(found)
    }

    /// A directory in its inode.
    fn short(&self, node: &Node, fork: &Fork<'_>) -> Result<Vec<DirEntry>> {
        let raw = node.local()?;
        let f = Fields::new(raw, "short directory", fork.offset);
        let wide = f.u8(1)? != 0;
        let names = usize::from(f.u8(0)?);
        let number = if wide { 8 } else { 4 };
        let mut at = 2usize.saturating_add(number);
        let mut found = Vec::with_capacity(names);
        for _ in 0..names {
            let len = usize::from(f.u8(at)?);
            let name = f.bytes(at.saturating_add(3), len)?;
            at = at.saturating_add(3).saturating_add(len);
            let kind = if self.sb.ftype {
                at = at.saturating_add(1);
                kind(f.u8(at.saturating_sub(1))?)
            } else {
                None
            };
            let inode = if wide {
                f.u64_be(at)?
            } else {
                u64::from(f.u32_be(at)?)
            };
            at = at.saturating_add(number);
            if len == 0 {
                return Err(f.corrupt(at, "empty name"));
            }
            found.push(entry(name, inode, kind));
        }
        Ok(found)
    }

    /// The directory block that begins at block `nth` of the file.
    fn data_block(
        &self,
        node: &Node,
        mapping: &Mapping,
        nth: u64,
        found: &mut Vec<DirEntry>,
    ) -> Result<()> {
        let mut raw = vec![0; length(u64::from(self.sb.dir_block_size()))?];
        let (mut offset, mut verify) = (None, Verify::Stored);
        for (block, part) in (nth..).zip(raw.chunks_mut(self.sb.block_len()?)) {
            let at = Self::block_of(mapping, block)
                .ok_or_else(|| node.corrupt("directory block has a hole"))?;
            self.blocks.read_part(at, 0, part)?;
            let place = self.blocks.offset(at);
            offset.get_or_insert(place);
            if self.verify(place, part.len()) == Verify::Replayed {
                verify = Verify::Replayed;
            }
        }
        let block = Block {
            raw: &raw,
            structure: NAME,
            offset: offset.unwrap_or_default(),
            verify,
        };
        self.block_entries(node, &block, found)
    }

    fn block_entries(
        &self,
        node: &Node,
        block: &Block<'_>,
        found: &mut Vec<DirEntry>,
    ) -> Result<()> {
        let f = block.fields();
        let (mut at, single) = match (f.bytes(0, 4)?, self.sb.v5) {
            (b"XDB3", true) => (64, true),
            (b"XDD3", true) => (64, false),
            (b"XD2B", false) => (16, true),
            (b"XD2D", false) => (16, false),
            _ => return Err(f.corrupt(0, "no directory data").hint(check::HEADER_HINT)),
        };
        if self.sb.v5 {
            block.check(check::DIR, &self.sb, node.number)?;
        }
        let end = if single {
            // The index of a single block and its count lie at its end.
            let tail = f.len().saturating_sub(8);
            let entries = super::count(u64::from(f.u32_be(tail)?));
            tail.checked_sub(entries.saturating_mul(8))
                .filter(|end| *end >= at)
                .ok_or_else(|| f.corrupt(tail, "index is larger than its block"))?
        } else {
            f.len()
        };
        // Ends because every entry, used or free, has at least 8 bytes.
        while at < end {
            if f.u16_be(at)? == FREE {
                let len = usize::from(f.u16_be(at.saturating_add(2))?);
                if len < 8 || len % 8 != 0 {
                    return Err(f.corrupt(at, "free part has an impossible length"));
                }
                at = at.saturating_add(len);
                continue;
            }
            let len = usize::from(f.u8(at.saturating_add(8))?);
            let name = f.bytes(at.saturating_add(9), len)?;
            if len == 0 {
                return Err(f.corrupt(at, "empty name"));
            }
            let mut used = len.saturating_add(11);
            let kind = if self.sb.ftype {
                used = used.saturating_add(1);
                kind(f.u8(at.saturating_add(9).saturating_add(len))?)
            } else {
                None
            };
            if name != b"." && name != b".." {
                found.push(entry(name, f.u64_be(at)?, kind));
            }
            at = at.saturating_add(used.next_multiple_of(8));
        }
        if at == end {
            Ok(())
        } else {
            Err(f.corrupt(at, "entry reaches past the end of its block"))
        }
    }
}

fn entry(name: &[u8], inode: u64, kind: Option<FileKind>) -> DirEntry {
    DirEntry {
        name: name.to_vec(),
        inode: Inode(inode),
        kind,
    }
}

/// `XFS_DIR3_FT_*`.
const fn kind(code: u8) -> Option<FileKind> {
    match code {
        1 => Some(FileKind::Regular),
        2 => Some(FileKind::Directory),
        3 => Some(FileKind::CharDevice),
        4 => Some(FileKind::BlockDevice),
        5 => Some(FileKind::Fifo),
        6 => Some(FileKind::Socket),
        7 => Some(FileKind::Symlink),
        _ => None,
    }
}
