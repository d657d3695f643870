//! Trees of an allocation group: records found, put in, taken out and changed, as long as no block
//! has to split or to join another.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "AG Free Space B+trees" and those that follow.
//! A block has a header, then records (leaf), or keys and pointers. A key is what the first record
//! below sorts by; in the tree of owners also the highest end of what is below.

use rehost_block::{Error, Fields, Result};

use super::super::check::{self, Verify};
use super::change::Change;
use super::group::Header;
use super::stamp::{Kind, put, put16};

const NAME: &str = "allocation group tree";

/// Levels of a tree, at most: more than any allocation group can need.
const MOST_LEVELS: u32 = 9;

/// No block.
const NONE: u32 = u32::MAX;

/// Bits of a reverse-map record's offset that are the offset.
pub(super) const OFFSET: u64 = (1 << 54) - 1;
/// Its flag for blocks that are not yet written.
pub(super) const UNWRITTEN: u64 = 1 << 61;
/// Its flag for blocks of an extent tree.
const EXTENT_TREE: u64 = 1 << 62;

/// One of the trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// Free extents by place.
    ByPlace,
    /// Free extents by length.
    ByLength,
    /// Who owns what (reverse map).
    Owners,
    /// Shared extents.
    Shared,
    /// Chunks of inodes.
    Inodes,
    /// Chunks that have free inodes.
    FreeInodes,
}

/// What a record sorts by.
pub(super) type Key = [u64; 3];

/// The largest key.
pub(super) const LAST: Key = [u64::MAX; 3];

impl Which {
    const fn what(self) -> &'static str {
        match self {
            Self::ByPlace | Self::ByLength => "tree of free space",
            Self::Owners => "tree of owners",
            Self::Shared => "tree of shared extents",
            Self::Inodes => "tree of inodes",
            Self::FreeInodes => "tree of free inodes",
        }
    }

    const fn magic(self, v5: bool) -> &'static [u8; 4] {
        match (self, v5) {
            (Self::ByPlace, true) => b"AB3B",
            (Self::ByPlace, false) => b"ABTB",
            (Self::ByLength, true) => b"AB3C",
            (Self::ByLength, false) => b"ABTC",
            (Self::Owners, _) => b"RMB3",
            (Self::Shared, _) => b"R3FC",
            (Self::Inodes, true) => b"IAB3",
            (Self::Inodes, false) => b"IABT",
            (Self::FreeInodes, true) => b"FIB3",
            (Self::FreeInodes, false) => b"FIBT",
        }
    }

    /// Bytes of a record and of a key.
    const fn sizes(self) -> (usize, usize) {
        match self {
            Self::ByPlace | Self::ByLength => (8, 8),
            Self::Owners => (24, 40),
            Self::Shared => (12, 4),
            Self::Inodes | Self::FreeInodes => (16, 4),
        }
    }

    /// Where the header of the group keeps the root and the number of levels.
    const fn root(self) -> (Header, usize, usize) {
        match self {
            Self::ByPlace => (Header::FreeSpace, 16, 28),
            Self::ByLength => (Header::FreeSpace, 20, 32),
            Self::Owners => (Header::FreeSpace, 24, 36),
            Self::Shared => (Header::FreeSpace, 88, 92),
            Self::Inodes => (Header::Inodes, 20, 24),
            Self::FreeInodes => (Header::Inodes, 328, 332),
        }
    }

    /// What the record or key at byte `at` sorts by.
    fn key(self, f: &Fields<'_>, at: usize) -> Result<Key> {
        let first = u64::from(f.u32_be(at)?);
        Ok(match self {
            Self::ByPlace | Self::Shared | Self::Inodes | Self::FreeInodes => [first, 0, 0],
            Self::ByLength => [u64::from(f.u32_be(at.saturating_add(4))?), first, 0],
            Self::Owners => owner_key(f, at, first, 8)?,
        })
    }

    /// What the key at byte `at` of an inner block sorts by.
    fn node_key(self, f: &Fields<'_>, at: usize) -> Result<Key> {
        match self {
            // A key has no length between start and owner.
            Self::Owners => owner_key(f, at, u64::from(f.u32_be(at)?), 4),
            _ => self.key(f, at),
        }
    }

    /// What the given record sorts by.
    pub(super) fn key_of(self, record: &[u8]) -> Result<Key> {
        self.key(&Fields::new(record, NAME, 0), 0)
    }
}

fn owner_key(f: &Fields<'_>, at: usize, first: u64, skip: usize) -> Result<Key> {
    let owner = at.saturating_add(skip);
    let offset = f.u64_be(owner.saturating_add(8))?;
    Ok([first, f.u64_be(owner)?, offset & !UNWRITTEN])
}

/// One block on the way to a leaf: the block, and which of its children the way takes. In the leaf,
/// how many records are not after what is looked for.
#[derive(Debug, Clone, Copy)]
struct Step {
    block: u32,
    nth: usize,
}

/// A block of a tree, checked.
struct Node {
    raw: Vec<u8>,
    offset: u64,
    level: u32,
    records: usize,
}

impl Node {
    fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, NAME, self.offset)
    }
}

impl Change<'_> {
    const fn tree_header(&self) -> usize {
        if self.fs.sb.v5 { 56 } else { 16 }
    }

    /// Records, and children, that a block has room for.
    fn room(&self, which: Which, level: u32) -> usize {
        let (record, key) = which.sizes();
        let bytes = self.block_len().saturating_sub(self.tree_header());
        let each = if level == 0 {
            record
        } else {
            key.saturating_add(4)
        };
        bytes.checked_div(each).unwrap_or(0)
    }

    /// Where in a block record, or key, `nth` begins.
    fn slot(&self, which: Which, level: u32, nth: usize) -> usize {
        let (record, key) = which.sizes();
        let each = if level == 0 { record } else { key };
        self.tree_header().saturating_add(nth.saturating_mul(each))
    }

    fn pointer_slot(&self, which: Which, nth: usize) -> usize {
        self.slot(which, 1, self.room(which, 1))
            .saturating_add(nth.saturating_mul(4))
    }

    fn tree_block(&self, which: Which, group: u32, block: u32, level: u32) -> Result<Node> {
        let start = self.group_start(group);
        let inside =
            block < self.fs.sb.ag_blocks && start.saturating_add(block.into()) < self.fs.sb.blocks;
        if !inside {
            return Err(Error::corrupt("points outside its allocation group")
                .in_structure(NAME)
                .mismatch(format!("a block below {}", self.fs.sb.ag_blocks), block));
        }
        let offset = self.fs.blocks.offset(start.saturating_add(block.into()));
        let raw = self.read(offset, self.block_len())?;
        let f = Fields::new(&raw, NAME, offset);
        if f.bytes(0, 4)? != which.magic(self.fs.sb.v5) || u32::from(f.u16_be(4)?) != level {
            return Err(f
                .corrupt(0, format!("no block of the {}", which.what()))
                .hint(check::HEADER_HINT));
        }
        if self.fs.sb.v5 {
            check::crc(&raw, 52, Verify::Stored, NAME, offset)?;
            let own = f.u64_be(16)? == offset >> 9
                && f.u32_be(48)? == group
                && f.array::<16>(32)? == self.fs.sb.meta_uuid;
            if !own {
                return Err(f.corrupt(16, "was written for another place"));
            }
        }
        let records = usize::from(f.u16_be(6)?);
        let room = self.room(which, level);
        if records > room || (records == 0 && level > 0) {
            return Err(f
                .corrupt(6, "impossible number of records")
                .mismatch(format!("at most {room}"), records));
        }
        Ok(Node {
            raw,
            offset,
            level,
            records,
        })
    }

    /// Root and levels of a tree.
    fn tree_root(&self, which: Which, group: u32) -> Result<(u32, u32)> {
        let (header, root, levels) = which.root();
        let levels = self.header_u32(group, header, levels)?;
        if levels == 0 || levels > MOST_LEVELS {
            return Err(
                Error::corrupt(format!("{} has {levels} levels", which.what()))
                    .in_structure(NAME)
                    .hint(check::HEADER_HINT),
            );
        }
        Ok((self.header_u32(group, header, root)?, levels))
    }

    /// The way from the root to the leaf where `key` belongs. Ends: the level falls with each step.
    fn descend(&self, which: Which, group: u32, key: Key) -> Result<(Vec<Step>, Node)> {
        let (mut block, levels) = self.tree_root(which, group)?;
        let mut steps = Vec::new();
        for level in (1..levels).rev() {
            let node = self.tree_block(which, group, block, level)?;
            let f = node.fields();
            let mut nth = 0;
            for other in 1..node.records {
                if which.node_key(&f, self.slot(which, level, other))? > key {
                    break;
                }
                nth = other;
            }
            steps.push(Step { block, nth });
            block = f.u32_be(self.pointer_slot(which, nth))?;
        }
        let leaf = self.tree_block(which, group, block, 0)?;
        let f = leaf.fields();
        let mut nth = 0;
        while nth < leaf.records && which.key(&f, self.slot(which, 0, nth))? <= key {
            nth = nth.saturating_add(1);
        }
        steps.push(Step { block, nth });
        Ok((steps, leaf))
    }

    fn record(&self, which: Which, leaf: &Node, nth: usize) -> Result<Vec<u8>> {
        let (size, _) = which.sizes();
        let bytes = leaf.fields().bytes(self.slot(which, 0, nth), size)?;
        Ok(bytes.to_vec())
    }

    /// The last record that is not after `key`.
    pub(super) fn at_or_before(
        &self,
        which: Which,
        group: u32,
        key: Key,
    ) -> Result<Option<Vec<u8>>> {
        let (steps, leaf) = self.descend(which, group, key)?;
        match steps.last().and_then(|step| step.nth.checked_sub(1)) {
            Some(nth) => self.record(which, &leaf, nth).map(Some),
            None => Ok(None),
        }
    }

    /// The first record after `key`.
    pub(super) fn after(&self, which: Which, group: u32, key: Key) -> Result<Option<Vec<u8>>> {
        let (steps, leaf) = self.descend(which, group, key)?;
        let nth = steps.last().map_or(0, |step| step.nth);
        if nth < leaf.records {
            return self.record(which, &leaf, nth).map(Some);
        }
        let right = leaf.fields().u32_be(12)?;
        if right == NONE {
            return Ok(None);
        }
        let next = self.tree_block(which, group, right, 0)?;
        if next.records == 0 {
            return Err(next.fields().corrupt(6, "leaf is empty"));
        }
        self.record(which, &next, 0).map(Some)
    }

    /// Puts a record in.
    pub(super) fn insert(&mut self, which: Which, group: u32, record: &[u8]) -> Result<()> {
        let key = which.key_of(record)?;
        let (steps, leaf) = self.descend(which, group, key)?;
        let nth = steps.last().map_or(0, |step| step.nth);
        if let Some(before) = nth.checked_sub(1)
            && which.key_of(&self.record(which, &leaf, before)?)? == key
        {
            return Err(leaf.fields().corrupt(0, "record is there already"));
        }
        if leaf.records >= self.room(which, 0) {
            return Err(refused(which, "split"));
        }
        self.splice(which, group, &steps, leaf, nth..nth, record)
    }

    /// Takes out the record that sorts by `key`.
    pub(super) fn remove(&mut self, which: Which, group: u32, key: Key) -> Result<()> {
        let (steps, leaf, nth) = self.exactly(which, group, key)?;
        if leaf.records == 1 && steps.len() > 1 {
            return Err(refused(which, "be joined"));
        }
        if let Some(step) = steps.last() {
            self.thinned.insert((which, group, step.block));
        }
        self.splice(which, group, &steps, leaf, nth..nth.saturating_add(1), &[])
    }

    /// Puts `record` in place of the one that sorts by `key`, between the same neighbours.
    pub(super) fn exchange(
        &mut self,
        which: Which,
        group: u32,
        key: Key,
        record: &[u8],
    ) -> Result<()> {
        let (steps, leaf, nth) = self.exactly(which, group, key)?;
        self.splice(
            which,
            group,
            &steps,
            leaf,
            nth..nth.saturating_add(1),
            record,
        )
    }

    fn exactly(&self, which: Which, group: u32, key: Key) -> Result<(Vec<Step>, Node, usize)> {
        let (steps, leaf) = self.descend(which, group, key)?;
        let nth = steps.last().and_then(|step| step.nth.checked_sub(1));
        match nth {
            Some(nth) if which.key_of(&self.record(which, &leaf, nth)?)? == key => {
                Ok((steps, leaf, nth))
            }
            _ => Err(leaf
                .fields()
                .corrupt(
                    0,
                    format!("{} lacks a record that must be there", which.what()),
                )
                .hint(check::HEADER_HINT)),
        }
    }

    /// Puts `record` in place of some records of a leaf, and mends the keys above it.
    fn splice(
        &mut self,
        which: Which,
        group: u32,
        steps: &[Step],
        leaf: Node,
        range: std::ops::Range<usize>,
        record: &[u8],
    ) -> Result<()> {
        let first = self.tree_header();
        let end = self.slot(which, 0, leaf.records);
        let (from, to) = (
            self.slot(which, 0, range.start),
            self.slot(which, 0, range.end),
        );
        let mut records = leaf.raw.get(first..end).unwrap_or_default().to_vec();
        let gone = from.saturating_sub(first)..to.saturating_sub(first);
        if gone.end > records.len() || gone.start > gone.end {
            return Err(Error::internal("a tree is changed outside its records"));
        }
        records.splice(gone, record.iter().copied());
        let (size, _) = which.sizes();
        let count = records.len().checked_div(size).unwrap_or(0);
        let mut raw = leaf.raw;
        if let Some(area) = raw.get_mut(first..end) {
            area.fill(0);
        }
        put(&mut raw, first, &records)?;
        put16(&mut raw, 6, u16::try_from(count).unwrap_or(u16::MAX))?;
        self.put(Kind::Tree, leaf.offset, raw)?;
        self.mend_keys(which, group, steps)
    }

    /// Renews the keys on the way to a leaf, from below.
    fn mend_keys(&mut self, which: Which, group: u32, steps: &[Step]) -> Result<()> {
        for (pair, level) in steps.windows(2).rev().zip(0u32..) {
            let [above, below] = pair else { break };
            let child = self.tree_block(which, group, below.block, level)?;
            let key = self.key_over(which, &child)?;
            let node = self.tree_block(which, group, above.block, level.saturating_add(1))?;
            let mut raw = node.raw;
            let at = self.slot(which, node.level, above.nth);
            put(&mut raw, at, &key)?;
            self.put(Kind::Tree, node.offset, raw)?;
        }
        Ok(())
    }

    /// The key that the block above keeps for a block.
    fn key_over(&self, which: Which, child: &Node) -> Result<Vec<u8>> {
        let f = child.fields();
        let first = self.slot(which, child.level, 0);
        let (_, size) = which.sizes();
        if which != Which::Owners {
            return Ok(f.bytes(first, size)?.to_vec());
        }
        let mut low = Vec::new();
        let mut high: Option<(Key, Vec<u8>)> = None;
        for nth in 0..child.records {
            let at = self.slot(which, child.level, nth);
            let (own_low, own_high) = if child.level == 0 {
                ends_of_owner(&f, at)?
            } else {
                let keys = f.bytes(at, size)?;
                let (low, high) = keys.split_at(20.min(keys.len()));
                (low.to_vec(), high.to_vec())
            };
            if nth == 0 {
                low = own_low;
            }
            let sorts = which.node_key(&Fields::new(&own_high, NAME, 0), 0)?;
            if high.as_ref().is_none_or(|(most, _)| sorts > *most) {
                high = Some((sorts, own_high));
            }
        }
        low.extend(high.map(|(_, bytes)| bytes).unwrap_or_default());
        Ok(low)
    }

    /// Fails when a block lost more records than it may without joining another.
    pub(super) fn check_thinned(&mut self) -> Result<()> {
        for (which, group, block) in std::mem::take(&mut self.thinned) {
            let (root, _) = self.tree_root(which, group)?;
            let least = self.room(which, 0) / 2;
            if block != root && self.tree_block(which, group, block, 0)?.records < least {
                return Err(refused(which, "be joined"));
            }
        }
        Ok(())
    }
}

/// The lowest and the highest key of the owner's record at byte `at`.
fn ends_of_owner(f: &Fields<'_>, at: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let (start, count) = (f.u32_be(at)?, f.u32_be(at.saturating_add(4))?);
    let (owner, offset) = (
        f.u64_be(at.saturating_add(8))?,
        f.u64_be(at.saturating_add(16))? & !UNWRITTEN,
    );
    let more = count.saturating_sub(1);
    let last = if owner >> 63 != 0 || offset & EXTENT_TREE != 0 {
        offset
    } else {
        (offset & OFFSET).saturating_add(more.into()) | (offset & !OFFSET)
    };
    let key = |start: u32, offset: u64| {
        let mut key = start.to_be_bytes().to_vec();
        key.extend(owner.to_be_bytes());
        key.extend(offset.to_be_bytes());
        key
    };
    Ok((key(start, offset), key(start.saturating_add(more), last)))
}

fn refused(which: Which, what: &str) -> Error {
    Error::unsupported(format!(
        "a block of the {} would have to {what}",
        which.what()
    ))
    .in_structure(NAME)
}

/// A length of a group as the trees store it.
pub(super) fn narrow(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::internal("a block number exceeds its group"))
}

/// The two numbers of a record of free space.
pub(super) fn pair(record: &[u8]) -> Result<(u32, u32)> {
    let f = Fields::new(record, NAME, 0);
    Ok((f.u32_be(0)?, f.u32_be(4)?))
}
