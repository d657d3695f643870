//! Extents of a fork: lists in the inode, and trees of them.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Data Extents". Extents must follow each other
//! in file order, so no leaf of a tree can be read twice, and the level falls with every step down.

use rehost_block::{Error, Fields, Result};

use super::Xfs;
use super::check::{self, Block};
use super::inode::{Fork, Format, Node};
use crate::number::{div, wide};

const NAME: &str = "extent tree";

/// Levels of an extent tree, at most (`XFS_BTREE_MAXLEVELS` is 9).
const MOST_LEVELS: u16 = 16;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block of the file.
    pub(super) file: u64,
    /// First block on the disk.
    pub(super) disk: u64,
    pub(super) count: u64,
    /// False for preallocated blocks, which read as zero.
    pub(super) written: bool,
}

impl Extent {
    /// The first block of the file after it.
    pub(super) fn end(&self) -> u64 {
        self.file.saturating_add(self.count)
    }
}

/// All extents of a fork, in file order.
pub(super) type Mapping = Vec<Extent>;

impl Xfs {
    /// The extents of `fork` of `node`.
    pub(super) fn extents(&self, node: &Node, fork: &Fork<'_>) -> Result<Mapping> {
        let mut found = Mapping::new();
        match fork.format {
            Format::Extents => {
                let fits = wide(fork.raw.len()) / 16;
                if fork.extents > fits {
                    return Err(node
                        .corrupt("more extents than its fork holds")
                        .mismatch(format!("at most {fits}"), fork.extents));
                }
                let f = Fields::new(fork.raw, "extent list", fork.offset);
                for nth in (0..).step_by(16).take(super::count(fork.extents)) {
                    self.push(&mut found, &f, nth)?;
                }
            }
            Format::Tree => self.tree(node, fork, &mut found)?,
            Format::Local | Format::Device => {
                return Err(node.corrupt("has no extents where some are needed"));
            }
        }
        Ok(found)
    }

    /// The extents of a fork that only one file can own: they cannot be more than the disk.
    pub(super) fn metadata_extents(&self, node: &Node, fork: &Fork<'_>) -> Result<Mapping> {
        let found = self.extents(node, fork)?;
        let total = found
            .iter()
            .fold(0u64, |sum, extent| sum.saturating_add(extent.count));
        if total > self.sb.blocks {
            return Err(node.corrupt("has more blocks than the filesystem"));
        }
        Ok(found)
    }

    /// Reads the extent record at byte `at`.
    fn push(&self, found: &mut Mapping, f: &Fields<'_>, at: usize) -> Result<()> {
        let high = f.u64_be(at)?;
        let low = f.u64_be(at.saturating_add(8))?;
        let file = (high & (u64::MAX >> 1)) >> 9;
        let start = ((high & 0x1ff) << 43) | (low >> 21);
        let count = low & 0x1f_ffff;
        let disk = self
            .sb
            .run(start, count)
            .ok_or_else(|| f.corrupt(at, "extent lies outside the filesystem"))?;
        if count == 0 || found.last().is_some_and(|last| last.end() > file) {
            return Err(f.corrupt(at, "extents are empty or out of order"));
        }
        found.push(Extent {
            file,
            disk,
            count,
            written: high >> 63 == 0,
        });
        Ok(())
    }

    fn tree(&self, node: &Node, fork: &Fork<'_>, found: &mut Mapping) -> Result<()> {
        let f = Fields::new(fork.raw, "extent tree root", fork.offset);
        let level = f.u16_be(0)?;
        if level == 0 || level > MOST_LEVELS {
            return Err(f.corrupt(0, "impossible number of levels"));
        }
        let room = fork.raw.len().saturating_sub(4) / 16;
        for child in pointers(&f, 4, room, usize::from(f.u16_be(2)?))? {
            self.subtree(node, child, level.saturating_sub(1), found)?;
        }
        if wide(found.len()) != fork.extents {
            return Err(node
                .corrupt("extent tree and inode disagree")
                .mismatch(format!("{} extents", fork.extents), found.len()));
        }
        Ok(())
    }

    /// Reads the block `number` of a tree and what is below it. Ends: `level` falls with each step,
    /// and every leaf adds extents behind those before it.
    fn subtree(&self, node: &Node, number: u64, level: u16, found: &mut Mapping) -> Result<()> {
        let at = self
            .sb
            .run(number, 1)
            .ok_or_else(|| node.corrupt("extent tree points outside the filesystem"))?;
        let raw = self.blocks.read(at, NAME)?;
        let block = self.block(&raw, NAME, at);
        let f = block.fields();
        let (magic, header): (&[u8], usize) = if self.sb.v5 {
            block.check(check::EXTENTS, &self.sb, node.number)?;
            (b"BMA3", 72)
        } else {
            (b"BMAP", 24)
        };
        if f.bytes(0, 4)? != magic || f.u16_be(4)? != level {
            return Err(f.corrupt(0, "not the expected block of an extent tree"));
        }
        let records = usize::from(f.u16_be(6)?);
        let room = raw.len().saturating_sub(header) / 16;
        if records == 0 || records > room {
            return Err(f
                .corrupt(6, "impossible number of records")
                .mismatch(format!("1 to {room}"), records));
        }
        if level == 0 {
            for at in (header..).step_by(16).take(records) {
                self.push(found, &f, at)?;
            }
            return Ok(());
        }
        for child in pointers(&f, header, room, records)? {
            self.subtree(node, child, level.saturating_sub(1), found)?;
        }
        Ok(())
    }

    /// What is known of block `at`, read whole.
    pub(super) fn block<'a>(&self, raw: &'a [u8], structure: &'static str, at: u64) -> Block<'a> {
        let offset = self.blocks.offset(at);
        Block {
            raw,
            structure,
            offset,
            verify: self.verify(offset, raw.len()),
        }
    }

    /// The block on the disk of block `nth` of a file.
    pub(super) fn block_of(mapping: &Mapping, nth: u64) -> Option<u64> {
        let next = mapping.partition_point(|run| run.end() <= nth);
        let run = mapping.get(next).filter(|run| run.file <= nth)?;
        run.disk.checked_add(nth.checked_sub(run.file)?)
    }

    /// Fills `buf` from mapped content; what is not mapped or not written reads as zero.
    pub(super) fn read_mapped(&self, mapping: &Mapping, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = u64::from(self.sb.block_size);
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round takes at least one byte off `rest`.
        while !rest.is_empty() {
            let file = div(at, size);
            let next = mapping.partition_point(|run| run.end() <= file);
            let (until, disk) = match mapping.get(next) {
                Some(run) if run.file <= file => {
                    let skip = at.saturating_sub(run.file.saturating_mul(size));
                    let place = run.disk.saturating_mul(size).saturating_add(skip);
                    (run.end(), run.written.then_some(place))
                }
                Some(run) => (run.file, None),
                None => (u64::MAX, None),
            };
            let left = until.saturating_mul(size).saturating_sub(at);
            let len = super::count(left.min(wide(rest.len()))).max(1);
            let (part, tail) = rest.split_at_mut(len);
            match disk {
                Some(place) => self.blocks.disk().read_at(part, place)?,
                None => part.fill(0),
            }
            at = at.saturating_add(wide(len));
            rest = tail;
        }
        Ok(())
    }
}

/// The pointers of an inner node whose `room` keys begin at byte `at`.
fn pointers(f: &Fields<'_>, at: usize, room: usize, records: usize) -> Result<Vec<u64>, Error> {
    if records == 0 || records > room {
        return Err(f
            .corrupt(0, "impossible number of pointers")
            .mismatch(format!("1 to {room}"), records));
    }
    let first = at.saturating_add(room.saturating_mul(8));
    (first..)
        .step_by(8)
        .take(records)
        .map(|at| f.u64_be(at))
        .collect()
}
