//! Looking things up in a tree, changes in memory included.
//!
//! A tree has at most eight levels, each block is one level below the one that points to it, and a block begins
//! with the key its pointer names: so every walk goes down a bounded number of times and forward only.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Fields, Result};

use super::key::Key;
use super::node::{Node, Nodes, Pointer};
use super::superblock::TreeRoot;

/// Items that differ from what the disk has; `None` for one that is gone.
pub(super) type Changes = BTreeMap<Key, Option<Arc<[u8]>>>;

/// An item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: Key,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Stored(Arc<Node>, Range<usize>),
    Changed(Arc<[u8]>),
}

impl Item {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Stored(node, range) => node.raw.get(range.clone()).unwrap_or_default(),
            Content::Changed(bytes) => bytes,
        }
    }

    /// Its fields, with their place on the disk.
    pub(super) fn fields(&self, structure: &'static str) -> Fields<'_> {
        let place = match &self.content {
            Content::Stored(node, range) => {
                node.place.saturating_add(crate::number::wide(range.start))
            }
            Content::Changed(_) => 0,
        };
        Fields::new(self.bytes(), structure, place)
    }
}

/// A tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) root: TreeRoot,
    pub(super) changes: Option<&'a Changes>,
}

impl<'a> Tree<'a> {
    fn top(&self) -> Result<Arc<Node>> {
        self.nodes.read(&Pointer {
            root: self.root,
            first: None,
        })
    }

    /// The item with exactly this key.
    pub(super) fn get(&self, key: Key) -> Result<Option<Item>> {
        Ok(self.before(key)?.filter(|item| item.key == key))
    }

    /// The item with the greatest key up to `key`.
    pub(super) fn before(&self, key: Key) -> Result<Option<Item>> {
        let mut key = key;
        // Ends because the key becomes smaller each time.
        loop {
            let stored = self.stored_before(key)?;
            let changed = self
                .changes
                .and_then(|changes| changes.range(..=key).next_back());
            let Some((at, change)) = changed else {
                return Ok(stored);
            };
            if stored.as_ref().is_some_and(|stored| stored.key > *at) {
                return Ok(stored);
            }
            if let Some(bytes) = change {
                return Ok(Some(changed_item(*at, bytes)));
            }
            match at.before() {
                Some(before) => key = before,
                None => return Ok(None),
            }
        }
    }

    fn stored_before(&self, key: Key) -> Result<Option<Item>> {
        let mut node = self.top()?;
        // Ends because the level becomes smaller each time.
        loop {
            let mut nth = node.lower_bound(key)?;
            let exact = nth < node.count && node.key(nth)? == key;
            if !exact {
                let Some(before) = nth.checked_sub(1) else {
                    return Ok(None);
                };
                nth = before;
            }
            if node.level == 0 {
                return stored_item(&node, nth).map(Some);
            }
            node = self.nodes.read(&node.pointer(nth)?)?;
        }
    }

    /// All items from `from` to `to`, both included.
    pub(super) fn range(&self, from: Key, to: Key) -> Result<Items<'a>> {
        let mut path = Vec::new();
        let mut node = self.top()?;
        // Ends because the level becomes smaller each time.
        loop {
            let bound = node.lower_bound(from)?;
            if node.level == 0 {
                path.push((node, bound));
                break;
            }
            let exact = bound < node.count && node.key(bound)? == from;
            let nth = if exact {
                bound
            } else {
                bound.saturating_sub(1)
            };
            let below = self.nodes.read(&node.pointer(nth)?)?;
            path.push((node, nth.saturating_add(1)));
            node = below;
        }
        let changes = match self.changes {
            Some(changes) if from <= to => Some(changes.range(from..=to).peekable()),
            _ => None,
        };
        Ok(Items {
            nodes: self.nodes,
            path,
            to,
            ahead: None,
            changes,
        })
    }

    /// All items of one object and kind.
    pub(super) fn all(&self, id: u64, kind: u8) -> Result<Items<'a>> {
        self.range(Key::new(id, kind, 0), Key::last_of(id, kind))
    }
}

fn stored_item(node: &Arc<Node>, nth: usize) -> Result<Item> {
    Ok(Item {
        key: node.key(nth)?,
        content: Content::Stored(Arc::clone(node), node.content(nth)?),
    })
}

fn changed_item(key: Key, bytes: &Arc<[u8]>) -> Item {
    Item {
        key,
        content: Content::Changed(Arc::clone(bytes)),
    }
}

type ChangesAhead<'a> = Peekable<btree_map::Range<'a, Key, Option<Arc<[u8]>>>>;

/// Items in order of their keys.
pub(super) struct Items<'a> {
    nodes: &'a Nodes,
    /// Blocks from the top down, each with the entry that comes next in it.
    path: Vec<(Arc<Node>, usize)>,
    to: Key,
    /// A stored item that was looked at and not yet given.
    ahead: Option<Item>,
    changes: Option<ChangesAhead<'a>>,
}

impl Items<'_> {
    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        // Ends because every round takes a stored item or a change.
        loop {
            if self.ahead.is_none() {
                self.ahead = self.next_stored()?;
            }
            let change = self.changes.as_mut().and_then(Peekable::peek).copied();
            let Some((key, change)) = change else {
                return Ok(self.ahead.take());
            };
            if let Some(ahead) = &self.ahead {
                if ahead.key < *key {
                    return Ok(self.ahead.take());
                }
                if ahead.key == *key {
                    self.ahead = None;
                }
            }
            if let Some(changes) = &mut self.changes {
                changes.next();
            }
            if let Some(bytes) = change {
                return Ok(Some(changed_item(*key, bytes)));
            }
        }
    }

    fn next_stored(&mut self) -> Result<Option<Item>> {
        // Ends because every round goes forward in a block, or leaves it for good.
        while let Some((node, nth)) = self.path.last_mut() {
            if *nth >= node.count {
                self.path.pop();
                continue;
            }
            let at = *nth;
            *nth = nth.saturating_add(1);
            if node.level == 0 {
                if node.key(at)? > self.to {
                    self.path.clear();
                    break;
                }
                return stored_item(node, at).map(Some);
            }
            let pointer = node.pointer(at)?;
            if pointer.first.is_some_and(|first| first > self.to) {
                self.path.clear();
                break;
            }
            let below = self.nodes.read(&pointer)?;
            self.path.push((below, 0));
        }
        Ok(None)
    }
}
