//! The B-trees of the kernel's persistent data library, in which thin pools keep their metadata.
//!
//! After `drivers/md/persistent-data/dm-btree-internal.h` and `dm-btree.c`: blocks of 4 KiB, each
//! with a checksum and its own number; a node has room for `max_entries` keys, and values after
//! them. Left out on purpose: values that are not 8 bytes long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Fields, Result};

/// Bytes per block of metadata.
pub(super) const BLOCK: u64 = 4096;

const NAME: &str = "thin pool tree";

/// What a node's checksum is mixed with (`BTREE_CSUM_XOR`).
const SALT: u32 = 121_107;

/// Bytes before the keys.
const HEADER: usize = 32;

/// Nodes on the way to a leaf. Ours: a node that is a third full has 84 children, so that six levels
/// map more blocks than a disk can have.
const DEEPEST: u32 = 12;

/// Nodes that are kept: 4 MiB of them.
const KEPT: usize = 1024;

/// The kernel's checksum: CRC-32C without the final inversion, over all but itself.
pub(super) fn checksum(block: &[u8], salt: u32) -> u32 {
    !crc32c::crc32c(block.get(4..).unwrap_or_default()) ^ salt
}

/// Block `number` of `disk`.
pub(super) fn read_block(disk: &Arc<dyn Disk>, number: u64, what: &'static str) -> Result<Vec<u8>> {
    let at = number.checked_mul(BLOCK);
    let end = at.and_then(|at| at.checked_add(BLOCK));
    let (Some(at), Some(end)) = (at, end) else {
        return Err(Error::corrupt("a block number is impossible").in_structure(what));
    };
    if end > disk.size() {
        return Err(Error::corrupt("reaches past the end of the metadata")
            .in_structure(what)
            .at(at)
            .mismatch(format!("an end of at most {}", disk.size()), end));
    }
    let mut raw = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
    disk.read_at(&mut raw, at)?;
    Ok(raw)
}

/// A node that was checked.
#[derive(Debug)]
struct Node {
    leaf: bool,
    keys: Vec<u64>,
    values: Vec<u64>,
}

impl Node {
    fn read(disk: &Arc<dyn Disk>, number: u64) -> Result<Self> {
        let raw = read_block(disk, number, NAME)?;
        let base = number.saturating_mul(BLOCK);
        let f = Fields::new(&raw, NAME, base);
        let (stored, found) = (f.u32_le(0)?, checksum(&raw, SALT));
        if stored != found {
            return Err(f
                .corrupt(0, "a node's checksum is wrong")
                .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
        }
        if f.u64_le(8)? != number {
            return Err(f
                .corrupt(8, "a node is not where it says")
                .mismatch(number, f.u64_le(8)?));
        }
        let leaf = match f.u32_le(4)? {
            1 => false,
            2 => true,
            other => {
                return Err(f
                    .corrupt(4, "a node is neither a leaf nor an inner one")
                    .mismatch("1 or 2", other));
            }
        };
        let count = |at: usize| {
            f.u32_le(at)
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
        };
        let (used, room) = (count(16)?, count(20)?);
        if f.u32_le(24)? != 8 {
            return Err(f
                .corrupt(24, "the values of a node are not of 8 bytes")
                .mismatch(8, f.u32_le(24)?));
        }
        let most = raw.len().saturating_sub(HEADER) / 16;
        if used > room || room > most {
            return Err(f
                .corrupt(16, "a node has more entries than room")
                .mismatch(format!("at most {most}"), format!("{used} of {room}")));
        }
        let keys = list(&f, HEADER, used)?;
        if let Some(nth) = keys.windows(2).position(|pair| pair.first() >= pair.last()) {
            let at = nth.saturating_mul(8).saturating_add(HEADER);
            return Err(f.corrupt(at, "the keys of a node are not in order"));
        }
        let values = list(&f, room.saturating_mul(8).saturating_add(HEADER), used)?;
        Ok(Self { leaf, keys, values })
    }
}

fn list(f: &Fields<'_>, from: usize, count: usize) -> Result<Vec<u64>> {
    let place = |nth: usize| nth.saturating_mul(8).saturating_add(from);
    (0..count).map(|nth| f.u64_le(place(nth))).collect()
}

/// The answer to a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its value, and those of the keys that follow it without a gap in the same node (whose
    /// number is `node`).
    Value {
        /// At least one.
        values: Vec<u64>,
        /// For messages.
        node: u64,
    },
    /// There is none, nor for the next `keys` ones (itself included).
    Gap {
        /// At least one.
        keys: u64,
    },
}

/// Trees on one disk. Nodes that were read are kept: trees share them.
#[derive(Debug)]
pub(super) struct Tree {
    disk: Arc<dyn Disk>,
    kept: Mutex<BTreeMap<u64, Arc<Node>>>,
}

impl Tree {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            kept: Mutex::default(),
        }
    }

    fn node(&self, number: u64) -> Result<Arc<Node>> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = lock().get(&number) {
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(Node::read(&self.disk, number)?);
        let mut kept = lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(number, Arc::clone(&node));
        Ok(node)
    }

    /// Looks `key` up in the tree whose root is node `root`; gives `most` values at most.
    pub(super) fn find(&self, root: u64, key: u64, most: u64) -> Result<Found> {
        let mut number = root;
        // The first key that belongs to another node.
        let mut limit = None;
        // Ends because every round goes down a level, and there are DEEPEST at most.
        for _ in 0..DEEPEST {
            let node = self.node(number)?;
            let after = node.keys.partition_point(|known| *known <= key);
            let next = node.keys.get(after).copied().or(limit);
            let gap = Found::Gap {
                keys: next.map_or(u64::MAX, |next| next.saturating_sub(key)),
            };
            let Some(nth) = after.checked_sub(1) else {
                return Ok(gap);
            };
            if !node.leaf {
                number = node.values.get(nth).copied().unwrap_or_default();
                limit = next;
                continue;
            }
            if node.keys.get(nth) != Some(&key) {
                return Ok(gap);
            }
            let keys = node.keys.get(nth..).unwrap_or_default();
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let keys = (key..).zip(keys).take(most);
            let run = keys.take_while(|(want, known)| want == *known);
            let values = node.values.get(nth..).unwrap_or_default();
            let values = values.iter().take(run.count()).copied().collect();
            return Ok(Found::Value {
                values,
                node: number,
            });
        }
        Err(Error::corrupt("a tree is deeper than any can be")
            .in_structure(NAME)
            .at(number.saturating_mul(BLOCK))
            .mismatch(format!("at most {DEEPEST} levels"), "more"))
    }
}
