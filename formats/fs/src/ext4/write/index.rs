//! Hashed directory indexes: names put in, leaves split, the whole index rebuilt.
//!
//! A full leaf is split by hash, as in Linux. When the index block above has no room for one more
//! leaf, the whole index is built anew, sorted and with room in every block; that is rare, and cannot
//! go wrong halfway because the change is written as a whole. Indexes of more than two levels
//! (`large_dir`) are read, but not grown: the error names them.

use rehost_block::{Error, Fields, Result};

use super::super::dir::{Form, index_checksum, slots, span_to_disk};
use super::super::htree::{Step, hash};
use super::super::inode::{Node, flag};
use super::change::Change;
use super::names::Name;
use super::stamp::{put8, put16, put32};
use crate::number::wide;

/// A name with its hash.
type Hashed = (u32, Name);

/// A leaf to be: the hash it starts at (low bit set when it continues one), and its names.
type Leaf = (u32, Vec<Name>);

impl Change<'_> {
    /// Puts a name into an indexed directory.
    pub(super) fn insert_indexed(&mut self, node: &Node, name: &Name) -> Result<()> {
        let mapping = self.fs.mapping(node)?;
        let Some(way) = self.fs.way(node, &mapping, &name.name)? else {
            return Err(node.unsupported("directory index is of an unknown kind"));
        };
        let last = way
            .steps
            .last()
            .ok_or_else(|| Error::internal("a way without steps"))?;
        let leaf = self
            .fs
            .index_block(node, &mapping, last.block_at(last.taken)?)?;
        let mut bytes = leaf.bytes.clone();
        if self.fill_gap(&mut bytes, name)? {
            return self.put_leaf(node, leaf.disk, bytes);
        }
        if last.count >= last.most {
            return self.rebuild_index(node, Some(name));
        }
        let mut names = self.hashed(node, way.version, &self.leaf_names(&leaf.bytes)?)?;
        names.push((way.hash, name.clone()));
        names.sort_by_key(|(hash, _)| *hash);
        let (low, high) = halve(names)?;
        let (_, block) = self.append_block(node.number)?;
        // The directory's own inode has changed; its checksum seed has not.
        let grown = self.node(node.number)?;
        let file = self.fs.dir_blocks(&grown).saturating_sub(1);
        let bytes = self.pack(&low)?;
        self.put_leaf(node, leaf.disk, bytes)?;
        let bytes = self.pack(&high.1)?;
        self.put_leaf(node, block, bytes)?;
        let file = u32::try_from(file).map_err(|_| Error::internal("a directory too long"))?;
        self.insert_step(node, last, high.0, file)
    }

    /// Puts an entry into an index block, after the one that was taken.
    fn insert_step(&mut self, node: &Node, step: &Step, hash: u32, file: u32) -> Result<()> {
        let mut bytes = step.block.bytes.clone();
        let from = step.at(step.taken.saturating_add(1));
        let end = step.at(step.count);
        let moved = bytes
            .get(from..end)
            .ok_or_else(|| Error::internal("an index block's entries exceed it"))?
            .to_vec();
        put32(&mut bytes, from, hash)?;
        put32(&mut bytes, from.saturating_add(4), file)?;
        super::stamp::put(&mut bytes, from.saturating_add(8), &moved)?;
        let count = step.count.saturating_add(1);
        put16(&mut bytes, step.start.saturating_add(2), count)?;
        let form = if step.start == 8 {
            Form::IndexNode
        } else {
            Form::IndexRoot
        };
        self.put_index(node, step.block.disk, bytes, form)
    }

    /// Stores an index block with its checksum.
    fn put_index(&mut self, node: &Node, disk: u64, mut bytes: Vec<u8>, form: Form) -> Result<()> {
        if self.fs.sb.has_checksums() {
            let f = Fields::new(&bytes, "directory index", 0);
            let (at, sum) = index_checksum(&f, node.seed, form)?;
            put32(&mut bytes, at, sum)?;
        }
        self.put_block(disk, bytes)
    }

    /// The names of a leaf, without `.` and `..`.
    fn leaf_names(&self, bytes: &[u8]) -> Result<Vec<Name>> {
        let area = bytes.get(..self.area()).unwrap_or_default();
        let f = Fields::new(area, "directory block", 0);
        let mut found = Vec::new();
        for slot in slots(&f, self.block_len())? {
            let name = slot.name(bytes);
            if slot.inode != 0 && name != b"." && name != b".." {
                found.push(Name {
                    name: name.to_vec(),
                    inode: slot.inode,
                    file_type: slot.file_type,
                });
            }
        }
        Ok(found)
    }

    fn hashed(&self, node: &Node, version: u8, names: &[Name]) -> Result<Vec<Hashed>> {
        names
            .iter()
            .map(|name| {
                let hash = hash(version, self.fs.sb.hash_seed, &name.name)
                    .ok_or_else(|| node.unsupported("directory index is of an unknown kind"))?;
                Ok((hash, name.clone()))
            })
            .collect()
    }

    /// The hash version to use for a directory: the stored byte, and with its signedness.
    fn hash_version(&self, node: &Node) -> Result<(u8, u8)> {
        let stored = if node.has(flag::INDEX) {
            let mapping = self.fs.mapping(node)?;
            let disk = super::super::Ext4::block_of(&mapping, 0)
                .ok_or_else(|| node.unsupported("directory has holes"))?;
            let root = self.fs.dir_block(node, 0, disk)?;
            root.fields(self.fs.sb.block_size).u8(0x1c)?
        } else {
            self.fs.sb.hash_version
        };
        // Beyond TEA the default is no stored version; half MD4 is what Linux falls back to.
        let stored = if stored > 2 { 1 } else { stored };
        let unsigned = if self.fs.sb.hash_unsigned { 3 } else { 0 };
        Ok((stored, stored.saturating_add(unsigned)))
    }

    /// Builds the index of a directory anew, with one more name where given.
    pub(super) fn rebuild_index(&mut self, node: &Node, extra: Option<&Name>) -> Result<()> {
        let (stored, version) = self.hash_version(node)?;
        let mut parent = None;
        let mut names = Vec::new();
        self.fs.scan_dir(node, &mut |slot, bytes| {
            match slot.name(bytes) {
                b"." => {}
                b".." => parent = Some(slot.inode),
                name => names.push(Name {
                    name: name.to_vec(),
                    inode: slot.inode,
                    file_type: slot.file_type,
                }),
            }
            Ok(false)
        })?;
        let parent = parent.ok_or_else(|| node.corrupt("directory has no parent"))?;
        names.extend(extra.cloned());
        let mut names = self.hashed(node, version, &names)?;
        names.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let leaves = spread(names, self.area());

        let tail = if self.fs.sb.has_checksums() { 8 } else { 0 };
        let room = self.block_len().saturating_sub(tail);
        let root_most = room.saturating_sub(0x20) / 8;
        let node_most = room.saturating_sub(8) / 8;
        // Index nodes are left a quarter empty, so that leaves can be split.
        let fill = node_most.saturating_mul(3) / 4;
        let nodes = if leaves.len() < root_most {
            0
        } else {
            leaves.len().div_ceil(fill.max(1))
        };
        if nodes > root_most {
            return Err(node.unsupported("directory is too large for an index of two levels"));
        }
        let total = leaves.len().saturating_add(nodes).saturating_add(1);
        self.resize_dir(node, wide(total))?;
        let mut raw = self.node(node.number)?.raw;
        let flags = Fields::new(&raw, "inode", 0).u32_le(0x20)? | flag::INDEX;
        put32(&mut raw, 0x20, flags)?;
        self.put_inode(node.number, raw)?;
        let grown = self.node(node.number)?;
        let mapping = self.fs.mapping(&grown)?;
        let disk = |file: usize| {
            super::super::Ext4::block_of(&mapping, wide(file))
                .ok_or_else(|| Error::internal("a directory did not grow"))
        };

        let first_leaf = nodes.saturating_add(1);
        let mut entries = Vec::new();
        for (nth, (hash, names)) in leaves.iter().enumerate() {
            let file = first_leaf.saturating_add(nth);
            let bytes = self.pack(names)?;
            self.put_leaf(&grown, disk(file)?, bytes)?;
            entries.push((*hash, file));
        }
        let mut top = entries.clone();
        if nodes > 0 {
            top = Vec::new();
            for (nth, part) in entries.chunks(fill.max(1)).enumerate() {
                let file = nth.saturating_add(1);
                let mut bytes = vec![0; self.block_len()];
                put16(&mut bytes, 4, span_to_disk(self.block_len()))?;
                put_entries(&mut bytes, 8, node_most, part)?;
                self.put_index(&grown, disk(file)?, bytes, Form::IndexNode)?;
                top.push((part.first().map_or(0, |(hash, _)| *hash), file));
            }
        }
        let mut bytes = self.root_head(node.number, parent)?;
        put8(&mut bytes, 0x1c, stored)?;
        put8(&mut bytes, 0x1d, 8)?;
        put8(&mut bytes, 0x1e, u8::from(nodes > 0))?;
        put_entries(&mut bytes, 0x20, root_most, &top)?;
        self.put_index(&grown, disk(0)?, bytes, Form::IndexRoot)
    }

    /// The start of an index root: `.`, and `..` that spans all of the rest.
    fn root_head(&self, own: u32, parent: u32) -> Result<Vec<u8>> {
        let mut bytes = self.new_dir_block(own, parent)?;
        put16(
            &mut bytes,
            12 + 4,
            span_to_disk(self.block_len().saturating_sub(12)),
        )?;
        Ok(bytes)
    }
}

/// Stores the count, limit and entries of an index block.
fn put_entries(bytes: &mut [u8], start: usize, most: usize, all: &[(u32, usize)]) -> Result<()> {
    if all.is_empty() || all.len() > most {
        return Err(Error::internal("an index block cannot hold its entries"));
    }
    for (nth, (hash, file)) in all.iter().enumerate() {
        let at = nth.saturating_mul(8).saturating_add(start);
        if nth > 0 {
            put32(bytes, at, *hash)?;
        }
        let file = u32::try_from(*file).map_err(|_| Error::internal("a directory too long"))?;
        put32(bytes, at.saturating_add(4), file)?;
    }
    put16(bytes, start, u16::try_from(most).unwrap_or(u16::MAX))?;
    let count = u16::try_from(all.len()).unwrap_or(u16::MAX);
    put16(bytes, start.saturating_add(2), count)
}

/// The hash a leaf starts at, given the last hash before it.
fn start_hash(first: u32, before: Option<u32>) -> u32 {
    if before == Some(first) {
        first | 1
    } else {
        first
    }
}

/// Splits a leaf's names, sorted by hash, into two halves by size.
fn halve(names: Vec<Hashed>) -> Result<(Vec<Name>, Leaf)> {
    let whole: usize = names
        .iter()
        .map(|(_, name)| name.span())
        .fold(0, usize::saturating_add);
    let mut size = 0usize;
    let (mut low, mut high) = (Vec::new(), Vec::new());
    let mut at = None;
    let mut before = None;
    for (hash, name) in names {
        size = size.saturating_add(name.span());
        if low.is_empty() || size.saturating_mul(2) <= whole {
            before = Some(hash);
            low.push(name);
        } else {
            at.get_or_insert(start_hash(hash, before));
            high.push(name);
        }
    }
    match at {
        Some(hash) => Ok((low, (hash, high))),
        None => Err(Error::internal("a leaf of one name was split")),
    }
}

/// Spreads sorted names over leaves that are three quarters full.
fn spread(names: Vec<Hashed>, area: usize) -> Vec<Leaf> {
    let fill = area.saturating_mul(3) / 4;
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut size = 0usize;
    let mut before = None;
    for (hash, name) in names {
        let span = name.span();
        match leaves.last_mut() {
            Some((_, leaf)) if size.saturating_add(span) <= fill => leaf.push(name),
            _ => {
                size = 0;
                leaves.push((start_hash(hash, before), vec![name]));
            }
        }
        size = size.saturating_add(span);
        before = Some(hash);
    }
    if leaves.is_empty() {
        leaves.push((0, Vec::new()));
    }
    leaves
}
