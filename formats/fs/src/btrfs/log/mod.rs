//! The log: what was synced after the last commit, replayed over the trees in memory.
//!
//! Source: the comments of Linux `fs/btrfs/tree-log.c`, and what kernels do with logs made for it (the tests
//! compare). A tree of roots names one log tree per subvolume; it holds copies of inodes with their
//! attributes, references, extents and checksums, and for directories the ranges of indexes of which it is complete. Steps, as there: inodes
//! first, then names in directories, then everything else, then link counts.
//!
//! Only what can be seen is replayed: space accounts, orphans and the inodes behind names that are gone are
//! left as they are.

mod extents;

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Fields, Result};

use super::Volume;
use super::bytes::{put32, put64};
use super::dir::{Entry, entries};
use super::key::{Key, kind, tree};
use super::names::{Edited, references_of};
use super::root::tree_root;
use super::tree::{Item, Tree};

/// Replays the log, where there is one.
pub(super) fn replay(volume: &mut Volume) -> Result<()> {
    let Some(root) = volume.nodes.sb.log_root else {
        return Ok(());
    };
    let mut found = Vec::new();
    let mut items = volume.tree(root).all(tree::LOG, kind::ROOT_ITEM)?;
    // Ends because a walk through a tree does.
    while let Some(item) = items.next()? {
        // The log of a subvolume that was deleted since.
        let Some(base) = volume.root(item.key.offset)? else {
            continue;
        };
        let log = volume.tree(tree_root(&item.fields("root item"))?);
        let transid = volume.nodes.sb.generation.saturating_add(1);
        let mut replay = Replay {
            edited: Edited::new(&volume.nodes, base.tree, transid),
            log,
            touched: BTreeSet::new(),
            skipped: BTreeSet::new(),
            sums: Vec::new(),
        };
        replay.run()?;
        found.push((base.id, replay.edited.changes, replay.sums));
    }
    volume.replayed = true;
    for (id, changes, sums) in found {
        volume.logs.insert(id, changes);
        volume.logged_sums.extend(sums);
    }
    Ok(())
}

/// The log of one subvolume.
struct Replay<'a> {
    edited: Edited<'a>,
    log: Tree<'a>,
    /// Inodes whose links are counted at the end.
    touched: BTreeSet<u64>,
    /// Inodes of which nothing is replayed: they had no name when they were logged.
    skipped: BTreeSet<u64>,
    /// Checksums of data.
    sums: Vec<(u64, Arc<[u8]>)>,
}

impl Replay<'_> {
    fn run(&mut self) -> Result<()> {
        self.each(&[kind::INODE_ITEM], Self::inode)?;
        self.each(&[kind::DIR_INDEX], Self::dir_index)?;
        self.each(
            &[
                kind::XATTR_ITEM,
                kind::INODE_REF,
                kind::INODE_EXTREF,
                kind::EXTENT_DATA,
                kind::EXTENT_CSUM,
            ],
            Self::other,
        )?;
        for inode in std::mem::take(&mut self.touched) {
            self.count_links(inode)?;
        }
        Ok(())
    }

    /// Does `step` with the log's items of these kinds.
    fn each(&mut self, kinds: &[u8], step: fn(&mut Self, &Item) -> Result<()>) -> Result<()> {
        let mut items = self.log.range(Key::FIRST, Key::LAST)?;
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            if kinds.contains(&item.key.kind) && !self.skipped.contains(&item.key.id) {
                step(self, &item)?;
            }
        }
        Ok(())
    }

    fn inode(&mut self, item: &Item) -> Result<()> {
        let number = item.key.id;
        let f = item.fields("inode item");
        if f.u32_le(40)? == 0 {
            self.skipped.insert(number);
            return Ok(());
        }
        let mode = f.u32_le(52)? >> 12;
        let (is_dir, is_file) = (mode == 0o4, mode == 0o10);
        self.drop_attributes(number)?;
        if is_dir {
            self.drop_names(number)?;
        }
        let mut raw = f.bytes(0, super::inode::SIZE)?.to_vec();
        let old = self.edited.inode(number)?;
        let generation = f.u64_le(0)?;
        match old {
            // Logged only because another inode needs it to be there.
            Some(mut old) if generation == 0 => {
                let size = f.u64_le(16)?;
                let was_file = Fields::new(&old, "inode item", 0).u32_le(52)? >> 12 == 0o10;
                if is_file && was_file && size != 0 {
                    put64(&mut old, 16, size)?;
                }
                raw = old;
            }
            // A directory's size follows from its names.
            Some(old) if is_dir => {
                put64(&mut raw, 16, Fields::new(&old, "inode item", 0).u64_le(16)?)?
            }
            Some(_) => {}
            None => {
                if is_dir {
                    put64(&mut raw, 16, 0)?;
                }
                if generation == 0 {
                    put64(&mut raw, 0, self.edited.transid)?;
                }
            }
        }
        let size = Fields::new(&raw, "inode item", 0).u64_le(16)?;
        self.edited
            .set(Key::new(number, kind::INODE_ITEM, 0), raw)?;
        if is_file {
            let sector = u64::from(self.edited.nodes.sb.sector);
            let from = rehost_block::round_up(size, sector);
            self.drop_extents(number, from, u64::MAX)?;
        }
        self.touched.insert(number);
        Ok(())
    }

    /// Takes away the attributes of an inode; the log has all that it had.
    fn drop_attributes(&mut self, number: u64) -> Result<()> {
        let mut items = self.edited.tree().all(number, kind::XATTR_ITEM)?;
        let mut gone = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            gone.push(item.key);
        }
        drop(items);
        for key in gone {
            self.edited.delete(key)?;
        }
        Ok(())
    }

    /// Takes away the names of a directory that the log, where it is complete, does not have.
    fn drop_names(&mut self, dir: u64) -> Result<()> {
        let mut ranges = self.log.all(dir, kind::DIR_LOG_INDEX)?;
        let mut gone: Vec<Entry> = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(range) = ranges.next()? {
            let end = range.fields("directory log item").u64_le(0)?;
            let from = Key::new(dir, kind::DIR_INDEX, range.key.offset);
            let to = Key::new(dir, kind::DIR_INDEX, end);
            if from > to {
                continue;
            }
            let mut items = self.edited.tree().range(from, to)?;
            // Ends because a walk through a tree does.
            while let Some(item) = items.next()? {
                let logged = match self.log.get(item.key)? {
                    Some(logged) => entries(&logged)?,
                    None => Vec::new(),
                };
                let kept = |entry: &Entry| logged.iter().any(|other| other.name == entry.name);
                gone.extend(entries(&item)?.into_iter().filter(|entry| !kept(entry)));
            }
        }
        for entry in gone {
            self.unlink(dir, &entry.name)?;
        }
        Ok(())
    }

    fn unlink(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        if let Some(location) = self.edited.remove_name(dir, name)?
            && location.kind == kind::INODE_ITEM
        {
            self.touched.insert(location.id);
        }
        Ok(())
    }

    /// Makes way for `name` with `index` in `dir`.
    fn clear_way(&mut self, dir: u64, index: u64, name: &[u8]) -> Result<()> {
        if let Some(other) = self.edited.entry_at(dir, index)? {
            self.unlink(dir, &other.name)?;
        }
        self.unlink(dir, name)
    }

    fn dir_index(&mut self, item: &Item) -> Result<()> {
        let (dir, index) = (item.key.id, item.key.offset);
        if self.edited.inode(dir)?.is_none() {
            return Ok(());
        }
        for entry in entries(item)? {
            let location = entry.location;
            if location.kind != kind::INODE_ITEM || self.edited.inode(location.id)?.is_none() {
                continue;
            }
            let same = |found: Option<Entry>| {
                found.is_some_and(|found| found.location == location && found.name == entry.name)
            };
            let by_name = same(self.edited.entry(dir, &entry.name)?);
            if by_name && same(self.edited.entry_at(dir, index)?) {
                continue;
            }
            self.clear_way(dir, index, &entry.name)?;
            // The reference, where it is logged, will bring the name.
            if self.is_referenced(location.id, dir, &entry.name)? {
                continue;
            }
            self.edited
                .add_name(dir, index, &entry.name, location, entry.kind)?;
            self.touched.insert(location.id);
        }
        Ok(())
    }

    /// Whether the log has the reference of `inode` to this name.
    fn is_referenced(&self, inode: u64, dir: u64, name: &[u8]) -> Result<bool> {
        let near = Key::new(inode, kind::INODE_REF, dir);
        let far = super::checksum::extref_hash(dir, name);
        for key in [near, Key::new(inode, kind::INODE_EXTREF, far)] {
            if let Some(item) = self.log.get(key)? {
                let all = references_of(key, &item.fields("inode reference"))?;
                if all
                    .iter()
                    .any(|found| found.dir == dir && found.name == name)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn other(&mut self, item: &Item) -> Result<()> {
        match item.key.kind {
            kind::XATTR_ITEM => self.edited.set(item.key, item.bytes().to_vec()),
            kind::EXTENT_DATA => self.extent(item),
            kind::EXTENT_CSUM => {
                self.sums.push((item.key.offset, Arc::from(item.bytes())));
                Ok(())
            }
            _ => self.reference(item),
        }
    }

    /// Makes the names of an inode in one directory those that the log has.
    fn reference(&mut self, item: &Item) -> Result<()> {
        let inode = item.key.id;
        let Some(raw) = self.edited.inode(inode)? else {
            return Ok(());
        };
        let mode = Fields::new(&raw, "inode item", 0).u32_le(52)?;
        let wanted = references_of(item.key, &item.fields("inode reference"))?;
        let old = match self.edited.bytes(item.key)? {
            Some(old) => references_of(item.key, &Fields::new(&old, "inode reference", 0))?,
            None => Vec::new(),
        };
        for gone in old.iter().filter(|old| !wanted.contains(old)) {
            self.unlink(gone.dir, &gone.name)?;
        }
        for reference in &wanted {
            let (dir, index, name) = (reference.dir, reference.index, &reference.name);
            // The top directory's own name is `..`, and in no directory.
            if dir == inode || self.edited.inode(dir)?.is_none() {
                continue;
            }
            let location = Key::new(inode, kind::INODE_ITEM, 0);
            let same = |found: Option<Entry>| {
                found.is_some_and(|found| found.location == location && found.name == *name)
            };
            let by_name = same(self.edited.entry(dir, name)?);
            if !(by_name && same(self.edited.entry_at(dir, index)?)) {
                self.clear_way(dir, index, name)?;
                self.edited
                    .add_name(dir, index, name, location, entry_kind(mode))?;
            }
        }
        self.touched.insert(inode);
        Ok(())
    }

    fn count_links(&mut self, number: u64) -> Result<()> {
        let Some(mut raw) = self.edited.inode(number)? else {
            return Ok(());
        };
        let links = self.edited.references(number)?.len();
        put32(&mut raw, 40, u32::try_from(links).unwrap_or(u32::MAX))?;
        self.edited.set(Key::new(number, kind::INODE_ITEM, 0), raw)
    }
}

/// How directories number the kind of a file of this mode.
pub(super) const fn entry_kind(mode: u32) -> u8 {
    match mode >> 12 {
        0o10 => 1,
        0o4 => 2,
        0o2 => 3,
        0o6 => 4,
        0o1 => 5,
        0o14 => 6,
        0o12 => 7,
        _ => 0,
    }
}
