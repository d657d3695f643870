//! A tree with its changes, built as new blocks beside the old ones.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", "B-tree". Blocks on the way to a change are written anew, with the
//! generation of the transaction, and split where their entries no longer fit; all others stay and are pointed to as before. Blocks that
//! become empty are dropped. Neighbours are not merged: a sparse block is as good.

use std::sync::Arc;

use rehost_block::{Error, Result};

use super::super::bytes::{put, put32, put64};
use super::super::checksum::FIELD;
use super::super::key::{KEY, Key};
use super::super::node::{HEADER, ITEM, Node, Nodes, POINTER, Pointer};
use super::super::superblock::{LEVELS, TreeRoot};
use super::super::tree::Changes;
use crate::number::{index, wide};

/// `BTRFS_HEADER_FLAG_WRITTEN`, and the revision of back references in the highest byte.
const WRITTEN: u64 = 1 | (1 << 56);

/// A block that is to be written.
#[derive(Debug, Clone)]
pub(super) struct NewNode {
    pub(super) logical: u64,
    pub(super) level: u8,
    pub(super) raw: Vec<u8>,
}

/// A tree as it will be.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) nodes: Vec<NewNode>,
    /// Blocks that are no longer of the tree: address and level.
    pub(super) freed: Vec<(u64, u8)>,
    pub(super) root: TreeRoot,
}

/// A block that a block above will point to.
#[derive(Debug, Clone, Copy)]
struct Child {
    first: Key,
    logical: u64,
    generation: u64,
}

/// A change of one item.
type Change<'c> = (&'c Key, &'c Option<Arc<[u8]>>);

struct Builder<'a> {
    nodes: &'a Nodes,
    owner: u64,
    generation: u64,
    /// Where new blocks go, as far as that is known yet.
    addresses: &'a [u64],
    chunk_uuid: [u8; 16],
    made: Vec<NewNode>,
    freed: Vec<(u64, u8)>,
}

/// Builds tree `owner` with `changes`. The n-th new block goes to the n-th of `addresses`; where these are too few
/// the result only tells how many it takes.
pub(super) fn rebuild(
    nodes: &Nodes,
    owner: u64,
    root: TreeRoot,
    changes: &Changes,
    generation: u64,
    addresses: &[u64],
) -> Result<Built> {
    let pointer = Pointer { root, first: None };
    let top = nodes.read(&pointer)?;
    let mut builder = Builder {
        nodes,
        owner,
        generation,
        addresses,
        chunk_uuid: top.fields().array(64)?,
        made: Vec::new(),
        freed: Vec::new(),
    };
    let changes: Vec<Change<'_>> = changes.iter().collect();
    let mut row = builder.apply(&pointer, &changes)?;
    let mut level = root.level;
    // Ends because every level has fewer blocks than the one below.
    while row.len() > 1 {
        level = level.saturating_add(1);
        if level >= LEVELS {
            return Err(Error::unsupported("tree would be too high"));
        }
        row = builder.inner(&row, level)?;
    }
    let root = match row.first() {
        Some(child) => TreeRoot {
            logical: child.logical,
            level,
            generation,
        },
        None => {
            let empty = builder.block(0, 0, |_, _| Ok(()))?;
            TreeRoot {
                logical: empty,
                level: 0,
                generation,
            }
        }
    };
    Ok(Built {
        nodes: builder.made,
        freed: builder.freed,
        root,
    })
}

impl Builder<'_> {
    /// The blocks that take the place of one, of the same level.
    fn apply(&mut self, pointer: &Pointer, changes: &[Change<'_>]) -> Result<Vec<Child>> {
        let node = self.nodes.read(pointer)?;
        self.freed.push((node.logical, node.level));
        if node.level == 0 {
            return self.leaves(&merged(&node, changes)?);
        }
        let mut children = Vec::with_capacity(node.count);
        let mut rest = changes;
        for nth in 0..node.count {
            let below = node.pointer(nth)?;
            let next = nth.saturating_add(1);
            let split = if next < node.count {
                let bound = node.key(next)?;
                rest.partition_point(|(key, _)| **key < bound)
            } else {
                rest.len()
            };
            let (mine, later) = rest.split_at(split);
            rest = later;
            if mine.is_empty() {
                children.push(Child {
                    first: node.key(nth)?,
                    logical: below.root.logical,
                    generation: below.root.generation,
                });
            } else {
                // Goes down at most eight levels.
                children.extend(self.apply(&below, mine)?);
            }
        }
        self.inner(&children, node.level)
    }

    fn room(&self) -> usize {
        index(self.nodes.sb.node).saturating_sub(HEADER)
    }

    /// Leaves with these items; as many as it takes, about equally full.
    fn leaves(&mut self, items: &[(Key, Vec<u8>)]) -> Result<Vec<Child>> {
        let size = |item: &(Key, Vec<u8>)| item.1.len().saturating_add(ITEM);
        let total = items
            .iter()
            .fold(0usize, |sum, item| sum.saturating_add(size(item)));
        let room = self.room();
        let count = total.div_ceil(room.max(1)).max(1);
        let target = total.div_ceil(count);
        let mut made = Vec::new();
        let mut rest = items;
        // Ends because every leaf takes at least one item.
        while !rest.is_empty() {
            let (mut len, mut held) = (0usize, 0usize);
            for item in rest {
                let with = held.saturating_add(size(item));
                if with > room || (held >= target && len > 0) {
                    break;
                }
                held = with;
                len = len.saturating_add(1);
            }
            if len == 0 {
                return Err(Error::unsupported("an item does not fit into a leaf"));
            }
            let (mine, later) = rest.split_at(len);
            made.push(self.leaf(mine)?);
            rest = later;
        }
        Ok(made)
    }

    fn leaf(&mut self, items: &[(Key, Vec<u8>)]) -> Result<Child> {
        let logical = self.block(0, items.len(), |raw, mut at| {
            let mut end = raw.len();
            for (key, content) in items {
                end = end.saturating_sub(content.len());
                put(raw, end, content)?;
                put(raw, at, &key.to_bytes())?;
                put32(
                    raw,
                    at.saturating_add(KEY),
                    narrow(end.saturating_sub(HEADER))?,
                )?;
                put32(raw, at.saturating_add(KEY + 4), narrow(content.len())?)?;
                at = at.saturating_add(ITEM);
            }
            Ok(())
        })?;
        self.child(items.first().map(|(key, _)| *key), logical)
    }

    /// Blocks of `level` that point to these; as many as it takes.
    fn inner(&mut self, children: &[Child], level: u8) -> Result<Vec<Child>> {
        let most = self.room().checked_div(POINTER).unwrap_or(1).max(1);
        let count = children.len().div_ceil(most).max(1);
        let each = children.len().div_ceil(count).max(1);
        let mut made = Vec::new();
        for group in children.chunks(each) {
            let logical = self.block(level, group.len(), |raw, mut at| {
                for child in group {
                    put(raw, at, &child.first.to_bytes())?;
                    put64(raw, at.saturating_add(KEY), child.logical)?;
                    put64(raw, at.saturating_add(KEY + 8), child.generation)?;
                    at = at.saturating_add(POINTER);
                }
                Ok(())
            })?;
            made.push(self.child(group.first().map(|child| child.first), logical)?);
        }
        Ok(made)
    }

    fn child(&self, first: Option<Key>, logical: u64) -> Result<Child> {
        Ok(Child {
            first: first.ok_or_else(|| Error::internal("an empty block was built"))?,
            logical,
            generation: self.generation,
        })
    }

    /// A block with `count` entries, which `fill` puts from the byte it is given.
    fn block(
        &mut self,
        level: u8,
        count: usize,
        fill: impl FnOnce(&mut [u8], usize) -> Result<()>,
    ) -> Result<u64> {
        let logical = self.addresses.get(self.made.len()).copied().unwrap_or(0);
        let mut raw = vec![0; index(self.nodes.sb.node)];
        put(&mut raw, 32, &self.nodes.sb.metadata_uuid)?;
        put64(&mut raw, 48, logical)?;
        put64(&mut raw, 56, WRITTEN)?;
        put(&mut raw, 64, &self.chunk_uuid)?;
        put64(&mut raw, 80, self.generation)?;
        put64(&mut raw, 88, self.owner)?;
        put32(&mut raw, 96, narrow(count)?)?;
        put(&mut raw, 100, &[level])?;
        fill(&mut raw, HEADER)?;
        let sum = self
            .nodes
            .sb
            .checksum
            .of(raw.get(FIELD..).unwrap_or_default());
        put(&mut raw, 0, &sum)?;
        self.made.push(NewNode {
            logical,
            level,
            raw,
        });
        Ok(logical)
    }
}

/// The items of a leaf after `changes`.
fn merged(node: &Node, changes: &[Change<'_>]) -> Result<Vec<(Key, Vec<u8>)>> {
    let mut items = Vec::with_capacity(node.count);
    let mut changes = changes.iter().peekable();
    let put = |items: &mut Vec<_>, (key, change): &Change<'_>| {
        if let Some(bytes) = change {
            items.push((**key, bytes.to_vec()));
        }
    };
    for nth in 0..node.count {
        let key = node.key(nth)?;
        let mut replaced = false;
        // Ends because every round takes a change.
        while let Some(change) = changes.next_if(|(changed, _)| **changed <= key) {
            replaced |= *change.0 == key;
            put(&mut items, change);
        }
        if !replaced {
            let content = node.raw.get(node.content(nth)?);
            items.push((key, content.unwrap_or_default().to_vec()));
        }
    }
    changes.for_each(|change| put(&mut items, change));
    Ok(items)
}

fn narrow(value: usize) -> Result<u32> {
    u32::try_from(wide(value)).map_err(|_| Error::internal("a field is too small for its value"))
}
