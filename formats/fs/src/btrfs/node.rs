//! Tree blocks: read from the first copy that is in order, checked as a whole, kept for a while.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", "B-tree". A block carries its checksum, the filesystem's
//! UUID, its own address, generation and level; its parent names generation and first key once more.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Fields, Result};

use super::checksum::{FIELD, hex};
use super::key::{KEY, Key};
use super::pool::Pool;
use super::superblock::{HINT, Superblock, TreeRoot};
use crate::number::{index, length, wide};

/// Bytes of a block's header.
pub(super) const HEADER: usize = 101;
/// Bytes that a leaf spends on an item besides its content.
pub(super) const ITEM: usize = 25;
/// Bytes of a pointer to a block below.
pub(super) const POINTER: usize = 33;

/// Bytes of blocks in each of the cache's two generations.
const MOST_CACHED: usize = 16 << 20;

const STRUCTURE: &str = "tree block";

/// A tree block in order.
pub(super) struct Node {
    pub(super) raw: Vec<u8>,
    pub(super) logical: u64,
    /// Where the copy that was read lies on its device.
    pub(super) place: u64,
    pub(super) level: u8,
    pub(super) generation: u64,
    pub(super) count: usize,
}

/// Without its bytes.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("logical", &self.logical)
            .field("level", &self.level)
            .field("generation", &self.generation)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// What a block above says of one below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointer {
    pub(super) root: TreeRoot,
    /// The first key of the block, where that is known.
    pub(super) first: Option<Key>,
}

impl Node {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, STRUCTURE, self.place)
    }

    fn entry(&self) -> usize {
        if self.level == 0 { ITEM } else { POINTER }
    }

    fn at(&self, nth: usize) -> usize {
        nth.saturating_mul(self.entry()).saturating_add(HEADER)
    }

    /// The key of entry `nth`.
    pub(super) fn key(&self, nth: usize) -> Result<Key> {
        Key::parse(&self.fields(), self.at(nth))
    }

    /// The block below entry `nth`.
    pub(super) fn pointer(&self, nth: usize) -> Result<Pointer> {
        let (f, at) = (self.fields(), self.at(nth));
        let level = self
            .level
            .checked_sub(1)
            .ok_or_else(|| f.corrupt(at, "a leaf points further down"))?;
        Ok(Pointer {
            root: TreeRoot {
                logical: f.u64_le(at.saturating_add(KEY))?,
                level,
                generation: f.u64_le(at.saturating_add(KEY + 8))?,
            },
            first: Some(self.key(nth)?),
        })
    }

    /// Where in the block the content of item `nth` of a leaf is.
    pub(super) fn content(&self, nth: usize) -> Result<Range<usize>> {
        let (f, at) = (self.fields(), self.at(nth));
        let from = index(f.u32_le(at.saturating_add(KEY))?).saturating_add(HEADER);
        let len = index(f.u32_le(at.saturating_add(KEY + 4))?);
        Ok(from..from.saturating_add(len))
    }

    /// The first entry whose key is not below `key`.
    pub(super) fn lower_bound(&self, key: Key) -> Result<usize> {
        let (mut from, mut to) = (0, self.count);
        // Ends because the range becomes smaller each time.
        while from < to {
            let middle = from.midpoint(to);
            if self.key(middle)? < key {
                from = middle.saturating_add(1);
            } else {
                to = middle;
            }
        }
        Ok(from)
    }

    /// Checks what is inside: keys in order, contents back to back from the end.
    fn check(&self) -> Result<()> {
        let f = self.fields();
        let room = self.raw.len().saturating_sub(HEADER);
        let most = room.checked_div(self.entry()).unwrap_or(0);
        if self.count > most || (self.level > 0 && self.count == 0) {
            return Err(f
                .corrupt(96, "impossible number of entries")
                .mismatch(format!("at most {most}"), self.count)
                .hint(HINT));
        }
        let mut last: Option<Key> = None;
        let mut end = self.raw.len();
        for nth in 0..self.count {
            let key = self.key(nth)?;
            if last.is_some_and(|last| last >= key) {
                return Err(f.corrupt(self.at(nth), "keys are not in order").hint(HINT));
            }
            last = Some(key);
            if self.level > 0 {
                continue;
            }
            let content = self.content(nth)?;
            if content.end != end || content.start < self.at(self.count) {
                return Err(f
                    .corrupt(
                        self.at(nth).saturating_add(KEY),
                        "item lies outside its place in the leaf",
                    )
                    .mismatch(format!("an end of {end}"), content.end)
                    .hint(HINT));
            }
            end = content.start;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Cache {
    young: HashMap<u64, Arc<Node>>,
    old: HashMap<u64, Arc<Node>>,
}

/// The tree blocks of a filesystem.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) pool: Pool,
    pub(super) sb: Superblock,
    cache: Mutex<Cache>,
}

impl Nodes {
    pub(super) fn new(pool: Pool, sb: Superblock) -> Self {
        Self {
            pool,
            sb,
            cache: Mutex::default(),
        }
    }

    /// The block that `pointer` names.
    pub(super) fn read(&self, pointer: &Pointer) -> Result<Arc<Node>> {
        let logical = pointer.root.logical;
        let known = self.cached(logical);
        let node = match known {
            Some(node) => node,
            None => {
                let node = Arc::new(self.read_copies(pointer)?);
                self.keep(&node);
                node
            }
        };
        // A cached block may be met through another pointer.
        expected(&node, pointer)?;
        Ok(node)
    }

    fn cached(&self, logical: u64) -> Option<Arc<Node>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.young.get(&logical) {
            return Some(Arc::clone(found));
        }
        let found = cache.old.remove(&logical)?;
        cache.young.insert(logical, Arc::clone(&found));
        Some(found)
    }

    fn keep(&self, node: &Arc<Node>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let size = node.raw.len().max(1);
        if cache.young.len() >= MOST_CACHED.checked_div(size).unwrap_or(1) {
            cache.old = std::mem::take(&mut cache.young);
        }
        cache.young.insert(node.logical, Arc::clone(node));
    }

    /// The first copy that is what `pointer` says; the error is that of the first one.
    fn read_copies(&self, pointer: &Pointer) -> Result<Node> {
        let mut first = None;
        for nth in 0..self.pool.copies(pointer.root.logical)? {
            let tried = self
                .read_copy(pointer.root.logical, nth)
                .and_then(|node| expected(&node, pointer).map(|()| node));
            match tried {
                Ok(node) => return Ok(node),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::internal("a block has no copies")))
    }

    fn read_copy(&self, logical: u64, nth: usize) -> Result<Node> {
        let mut raw = vec![0; length(u64::from(self.sb.node))?];
        let place = self
            .pool
            .read(logical, &mut raw, nth)
            .map_err(|error| error.in_structure(STRUCTURE))?
            .offset;
        let f = Fields::new(&raw, STRUCTURE, place);
        let covered = raw.get(FIELD..).unwrap_or_default();
        if !self.sb.checksum.matches(covered, f.bytes(0, FIELD)?) {
            let len = self.sb.checksum.len();
            return Err(f
                .corrupt(0, "checksum does not match")
                .mismatch(
                    hex(self.sb.checksum.of(covered).get(..len).unwrap_or(&[])),
                    hex(f.bytes(0, len)?),
                )
                .hint(HINT));
        }
        if f.array::<16>(32)? != self.sb.metadata_uuid {
            return Err(f.corrupt(32, "belongs to another filesystem"));
        }
        let address = f.u64_le(48)?;
        if address != logical {
            return Err(f
                .corrupt(48, "was written for another place")
                .mismatch(logical, address));
        }
        let node = Node {
            logical,
            place,
            level: f.u8(100)?,
            generation: f.u64_le(80)?,
            count: index(f.u32_le(96)?),
            raw,
        };
        node.check()?;
        Ok(node)
    }
}

/// Whether a block is the one that `pointer` means.
fn expected(node: &Node, pointer: &Pointer) -> Result<()> {
    let f = node.fields();
    let wrong = |at, what: &str, expected: u64, found: u64| {
        Err(f.corrupt(at, what).mismatch(expected, found).hint(HINT))
    };
    let root = &pointer.root;
    if node.level != root.level {
        let (expected, found) = (root.level.into(), node.level.into());
        return wrong(
            100,
            "has another level than the block above says",
            expected,
            found,
        );
    }
    if node.generation != root.generation {
        return wrong(
            80,
            "has another generation than the block above says",
            root.generation,
            node.generation,
        );
    }
    let Some(first) = pointer.first else {
        return Ok(());
    };
    if node.count == 0 {
        return wrong(96, "is empty", 1, wide(node.count));
    }
    if node.key(0)? != first {
        return Err(f
            .corrupt(HEADER, "begins with another key than the block above says")
            .hint(HINT));
    }
    Ok(())
}
