//! Names given and taken: the three items that each of them has, changed in memory.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `DIR_ITEM`, `DIR_INDEX`, `INODE_REF`, `INODE_EXTREF`.
//! A log's replay and the writer share this.

use std::sync::Arc;

use rehost_block::{Error, Fields, Result};

use super::bytes::{put16, put64};
use super::checksum::{extref_hash, name_hash};
use super::dir::{ENTRY, Entry, entries, entries_of};
use super::inode;
use super::key::{KEY, Key, kind};
use super::node::Nodes;
use super::superblock::TreeRoot;
use super::tree::{Changes, Tree};
use crate::number::wide;

/// Bytes that the changes of one filesystem may take in memory. Ours: a log holds what was synced since
/// the last commit, half a minute of it.
const MOST_CHANGED: usize = 32 << 20;

/// A tree of files and what becomes of it.
#[derive(Debug, Clone)]
pub(super) struct Edited<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) root: TreeRoot,
    pub(super) changes: Changes,
    /// Memory that the changes take.
    held: usize,
    /// The generation that new entries carry.
    pub(super) transid: u64,
}

/// One of the names an inode has, as the inode keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) dir: u64,
    pub(super) index: u64,
    pub(super) name: Vec<u8>,
}

impl<'a> Edited<'a> {
    pub(super) fn new(nodes: &'a Nodes, root: TreeRoot, transid: u64) -> Self {
        Self {
            nodes,
            root,
            changes: Changes::new(),
            held: 0,
            transid,
        }
    }

    /// The tree with its changes.
    pub(super) const fn tree(&self) -> Tree<'_> {
        Tree {
            nodes: self.nodes,
            root: self.root,
            changes: Some(&self.changes),
        }
    }

    pub(super) fn set(&mut self, key: Key, bytes: Vec<u8>) -> Result<()> {
        self.take(bytes.len())?;
        self.changes.insert(key, Some(Arc::from(bytes)));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: Key) -> Result<()> {
        self.take(0)?;
        self.changes.insert(key, None);
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<()> {
        self.held = self.held.saturating_add(len).saturating_add(128);
        if self.held <= MOST_CHANGED {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "changes of more than {} MiB to keep in memory",
            MOST_CHANGED >> 20
        ))
        .in_structure("log tree"))
    }

    /// The item, or nothing in its place.
    pub(super) fn bytes(&self, key: Key) -> Result<Option<Vec<u8>>> {
        Ok(self.tree().get(key)?.map(|item| item.bytes().to_vec()))
    }

    /// Sets an item, or deletes it when nothing is left of it.
    fn set_or_delete(&mut self, key: Key, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            self.delete(key)
        } else {
            self.set(key, bytes)
        }
    }

    /// The entry called `name` of directory `dir`.
    pub(super) fn entry(&self, dir: u64, name: &[u8]) -> Result<Option<Entry>> {
        super::dir::find(&self.tree(), dir, name)
    }

    /// The entry with this index of directory `dir`.
    pub(super) fn entry_at(&self, dir: u64, index: u64) -> Result<Option<Entry>> {
        let item = self.tree().get(Key::new(dir, kind::DIR_INDEX, index))?;
        let Some(item) = item else { return Ok(None) };
        Ok(entries(&item)?.into_iter().next())
    }

    /// Gives inode `location` the name `name` in `dir`; the directory grows by it. The name must be free.
    pub(super) fn add_name(
        &mut self,
        dir: u64,
        index: u64,
        name: &[u8],
        location: Key,
        file_kind: u8,
    ) -> Result<()> {
        let entry = Entry {
            location,
            name: name.to_vec(),
            value: Vec::new(),
            kind: file_kind,
        };
        let made = encode(&entry, self.transid)?;
        let hashed = Key::new(dir, kind::DIR_ITEM, name_hash(name));
        let mut item = self.bytes(hashed)?.unwrap_or_default();
        item.extend_from_slice(&made);
        self.set(hashed, item)?;
        self.set(Key::new(dir, kind::DIR_INDEX, index), made)?;
        if location.kind == kind::INODE_ITEM {
            self.add_reference(location.id, dir, index, name)?;
        }
        self.resize_dir(dir, |size| size.saturating_add(wide(name.len()) << 1))
    }

    fn add_reference(&mut self, inode: u64, dir: u64, index: u64, name: &[u8]) -> Result<()> {
        let known = self.references(inode)?;
        let reference = Reference {
            dir,
            index,
            name: name.to_vec(),
        };
        if known.contains(&reference) {
            return Ok(());
        }
        let key = Key::new(inode, kind::INODE_REF, dir);
        let mut item = self.bytes(key)?.unwrap_or_default();
        item.extend(reference.encode()?);
        // Names beyond what a leaf can hold go to items of their own.
        if item.len() <= self.nodes.sb.most_item() {
            return self.set(key, item);
        }
        let key = Key::new(inode, kind::INODE_EXTREF, extref_hash(dir, name));
        let mut item = self.bytes(key)?.unwrap_or_default();
        item.extend(reference.encode_far()?);
        self.set(key, item)
    }

    /// Takes the name `name` in `dir` away; gives what it was for.
    pub(super) fn remove_name(&mut self, dir: u64, name: &[u8]) -> Result<Option<Key>> {
        let hashed = Key::new(dir, kind::DIR_ITEM, name_hash(name));
        let Some(item) = self.bytes(hashed)? else {
            return Ok(None);
        };
        let all = entries_of(&Fields::new(&item, "directory item", 0))?;
        let Some(gone) = all.iter().find(|entry| entry.name == name).cloned() else {
            return Ok(None);
        };
        let mut rest = Vec::new();
        for entry in all.iter().filter(|entry| entry.name != name) {
            rest.extend(encode(entry, self.transid)?);
        }
        self.set_or_delete(hashed, rest)?;
        if gone.location.kind == kind::INODE_ITEM
            && let Some(reference) = self.remove_reference(gone.location.id, dir, name)?
        {
            self.delete(Key::new(dir, kind::DIR_INDEX, reference.index))?;
        }
        self.resize_dir(dir, |size| size.saturating_sub(wide(name.len()) << 1))?;
        Ok(Some(gone.location))
    }

    fn remove_reference(&mut self, inode: u64, dir: u64, name: &[u8]) -> Result<Option<Reference>> {
        let near = Key::new(inode, kind::INODE_REF, dir);
        let far = Key::new(inode, kind::INODE_EXTREF, extref_hash(dir, name));
        for key in [near, far] {
            let Some(item) = self.bytes(key)? else {
                continue;
            };
            let all = references_of(key, &Fields::new(&item, "inode reference", 0))?;
            let is_it = |found: &&Reference| found.dir == dir && found.name == name;
            let Some(gone) = all.iter().find(is_it).cloned() else {
                continue;
            };
            let mut rest = Vec::new();
            for reference in all.iter().filter(|found| !is_it(found)) {
                rest.extend(if key.kind == kind::INODE_REF {
                    reference.encode()?
                } else {
                    reference.encode_far()?
                });
            }
            self.set_or_delete(key, rest)?;
            return Ok(Some(gone));
        }
        Ok(None)
    }

    /// All names of an inode.
    pub(super) fn references(&self, inode: u64) -> Result<Vec<Reference>> {
        let from = Key::new(inode, kind::INODE_REF, 0);
        let mut items = self
            .tree()
            .range(from, Key::last_of(inode, kind::INODE_EXTREF))?;
        let mut found = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            found.extend(references_of(item.key, &item.fields("inode reference"))?);
        }
        Ok(found)
    }

    /// Changes the size of a directory that is there.
    fn resize_dir(&mut self, dir: u64, change: impl FnOnce(u64) -> u64) -> Result<()> {
        let key = Key::new(dir, kind::INODE_ITEM, 0);
        let Some(mut raw) = self.bytes(key)? else {
            return Ok(());
        };
        let size = Fields::new(&raw, "inode item", 0).u64_le(16)?;
        put64(&mut raw, 16, change(size))?;
        self.set(key, raw)
    }

    /// The bytes of an inode that is there.
    pub(super) fn inode(&self, number: u64) -> Result<Option<Vec<u8>>> {
        let raw = self.bytes(Key::new(number, kind::INODE_ITEM, 0))?;
        match raw {
            Some(raw) if raw.len() < inode::SIZE => {
                Err(Error::corrupt(format!("inode {number} is cut off")).in_structure("inode item"))
            }
            raw => Ok(raw),
        }
    }
}

impl Reference {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut raw = vec![0; 10];
        put64(&mut raw, 0, self.index)?;
        put16(&mut raw, 8, name_len(&self.name)?)?;
        raw.extend_from_slice(&self.name);
        Ok(raw)
    }

    fn encode_far(&self) -> Result<Vec<u8>> {
        let mut raw = vec![0; 18];
        put64(&mut raw, 0, self.dir)?;
        put64(&mut raw, 8, self.index)?;
        put16(&mut raw, 16, name_len(&self.name)?)?;
        raw.extend_from_slice(&self.name);
        Ok(raw)
    }
}

/// The names in an `INODE_REF` or `INODE_EXTREF`.
pub(super) fn references_of(key: Key, f: &Fields<'_>) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    let head: usize = if key.kind == kind::INODE_REF { 10 } else { 18 };
    let mut at = 0usize;
    if key.kind != kind::INODE_REF && key.kind != kind::INODE_EXTREF {
        return Ok(found);
    }
    // Ends because every reference has at least ten bytes.
    while at < f.len() {
        let name = at.saturating_add(head);
        let len = usize::from(f.u16_le(name.saturating_sub(2))?);
        let index = f.u64_le(name.saturating_sub(10))?;
        found.push(Reference {
            dir: if key.kind == kind::INODE_REF {
                key.offset
            } else {
                f.u64_le(at)?
            },
            index,
            name: f.bytes(name, len)?.to_vec(),
        });
        at = name.saturating_add(len);
    }
    Ok(found)
}

/// The bytes of an entry.
pub(super) fn encode(entry: &Entry, transid: u64) -> Result<Vec<u8>> {
    let mut raw = vec![0; ENTRY];
    super::bytes::put(&mut raw, 0, &entry.location.to_bytes())?;
    put64(&mut raw, KEY, transid)?;
    put16(&mut raw, KEY + 8, name_len(&entry.value)?)?;
    put16(&mut raw, KEY + 10, name_len(&entry.name)?)?;
    super::bytes::put(&mut raw, KEY + 12, &[entry.kind])?;
    raw.extend_from_slice(&entry.name);
    raw.extend_from_slice(&entry.value);
    Ok(raw)
}

fn name_len(name: &[u8]) -> Result<u16> {
    u16::try_from(name.len()).map_err(|_| Error::usage("name or value is too long"))
}
