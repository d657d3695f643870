//! What is done to files: content replaced, files made and removed, attributes set, each as changes of items.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `INODE_ITEM`, `EXTENT_DATA`, `DIR_INDEX`, `XATTR_ITEM`.

use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{Error, Fields, Result, round_up};

use super::super::Volume;
use super::super::bytes::{put, put32, put64};
use super::super::checksum::name_hash;
use super::super::data::Sums;
use super::super::dir::{Entry, entries_of};
use super::super::extent::{self, Extent, Held, INLINE};
use super::super::inode::{self, Node, flags};
use super::super::key::{Key, kind, tree};
use super::super::log::entry_kind;
use super::super::names::encode;
use super::super::tree::Changes;
use super::items::{self, Left};
use super::rebuild::rebuild;
use super::transaction::{Devices, Transaction, write};
use crate::FileKind;
use crate::content::{self, Content, PIECE};
use crate::number::wide;

/// The longest content kept in an item: the kernel's `max_inline` where nobody sets it.
const MOST_INLINE: usize = 2048;

/// The longest name, and the longest target of a link.
const MOST_NAME: usize = 255;
const MOST_TARGET: usize = 4095;

/// Flags that a new file takes from its directory: no copies on write, and so no checksums.
const NODATACOW: u64 = 2;

/// What is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made<'c> {
    File(&'c dyn Content),
    Directory,
    Symlink(&'c [u8]),
}

/// A new file.
#[derive(Debug)]
pub(super) struct Birth<'c> {
    pub(super) made: Made<'c>,
    pub(super) mode: u16,
    pub(super) owner: (u32, u32),
}

impl Sums {
    /// Whether the content of a file has checksums.
    pub(in super::super) const fn of(node: &Node) -> Self {
        if node.flags & flags::NODATASUM == 0 {
            Self::Verified
        } else {
            Self::None
        }
    }
}

impl Transaction<'_> {
    /// Replaces all of a file's content.
    pub(super) fn replace(&mut self, node: &Node, content: &dyn Content) -> Result<()> {
        self.drop_content(node.number)?;
        let held = self.put_content(node.number, content, Sums::of(node))?;
        self.stamp(node.number, |raw| {
            put64(raw, 16, content.size())?;
            put64(raw, 24, held)?;
            touch_content(raw)
        })
    }

    /// Makes a file in `dir`; gives its number.
    pub(super) fn create(&mut self, dir: &Node, name: &[u8], birth: &Birth<'_>) -> Result<u64> {
        dir.expect(FileKind::Directory, "a directory")?;
        check_name(name)?;
        if self.files.entry(dir.number, name)?.is_some() {
            return Err(Error::usage(format!(
                "{} exists already",
                String::from_utf8_lossy(name)
            )));
        }
        let number = self.free_number()?;
        let kind = match birth.made {
            Made::File(_) => 0o10u32,
            Made::Directory => 0o4,
            Made::Symlink(_) => 0o12,
        };
        let mode = (kind << 12) | u32::from(birth.mode & 0xfff);
        let mut inherited = dir.flags & NODATACOW;
        if inherited != 0 && kind == 0o10 {
            inherited |= flags::NODATASUM;
        }
        let mut raw = vec![0; inode::SIZE];
        put64(&mut raw, 0, self.generation)?;
        put32(&mut raw, 40, 1)?;
        put32(&mut raw, 44, birth.owner.0)?;
        put32(&mut raw, 48, birth.owner.1)?;
        put32(&mut raw, 52, mode)?;
        put64(&mut raw, 64, inherited)?;
        let (held, size) = match birth.made {
            Made::File(content) => {
                let sums = if inherited & flags::NODATASUM == 0 {
                    Sums::Verified
                } else {
                    Sums::None
                };
                let held = self.put_content(number, content, sums)?;
                (held, content.size())
            }
            Made::Directory => (0, 0),
            Made::Symlink(target) => {
                if target.is_empty() || target.len() > self.most_inline(MOST_TARGET) {
                    return Err(Error::usage("a link's target is empty or too long"));
                }
                self.put_inline(number, target)?;
                (wide(target.len()), wide(target.len()))
            }
        };
        put64(&mut raw, 16, size)?;
        put64(&mut raw, 24, held)?;
        for at in [112, 124, 136, 148] {
            put_now(&mut raw, at)?;
        }
        self.files.set(Key::new(number, kind::INODE_ITEM, 0), raw)?;
        self.stamp(number, |_| Ok(()))?;
        let index = self.free_index(dir.number)?;
        let location = Key::new(number, kind::INODE_ITEM, 0);
        self.files
            .add_name(dir.number, index, name, location, entry_kind(mode))?;
        self.stamp(dir.number, touch_content)?;
        Ok(number)
    }

    /// Takes a name away, and what it named when that was its last one.
    pub(super) fn remove(&mut self, dir: &Node, name: &[u8]) -> Result<()> {
        dir.expect(FileKind::Directory, "a directory")?;
        let shown = String::from_utf8_lossy(name);
        let entry = self
            .files
            .entry(dir.number, name)?
            .ok_or_else(|| Error::usage(format!("there is no {shown}")))?;
        let number = entry.location.id;
        if entry.location.kind != kind::INODE_ITEM {
            return Err(Error::unsupported(format!("{shown} is a subvolume")));
        }
        let node = self.volume.node(&dir.root, number)?;
        super::check_changeable(&node)?;
        if node.kind()? == FileKind::Directory {
            let mut names = self.files.tree().all(number, kind::DIR_INDEX)?;
            if names.next()?.is_some() {
                return Err(Error::usage(format!("directory {shown} is not empty")));
            }
        }
        self.files.remove_name(dir.number, name)?;
        if node.links > 1 && node.kind()? != FileKind::Directory {
            self.stamp(number, |raw| {
                put32(raw, 40, node.links.saturating_sub(1))?;
                put_now(raw, 124)
            })?;
        } else {
            self.drop_content(number)?;
            self.drop_items(number)?;
        }
        self.stamp(dir.number, touch_content)
    }

    /// Sets an attribute.
    pub(super) fn set_attribute(&mut self, node: &Node, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > MOST_NAME {
            return Err(Error::usage("an attribute's name is empty or too long"));
        }
        let key = Key::new(node.number, kind::XATTR_ITEM, name_hash(name));
        let old = self.files.bytes(key)?.unwrap_or_default();
        let mut made = Vec::new();
        for entry in entries_of(&Fields::new(&old, "attribute item", 0))? {
            if entry.name != name {
                made.extend(encode(&entry, self.generation)?);
            }
        }
        let entry = Entry {
            location: Key::new(0, 0, 0),
            name: name.to_vec(),
            value: value.to_vec(),
            kind: 8,
        };
        made.extend(encode(&entry, self.generation)?);
        if made.len() > self.volume.nodes.sb.most_item() {
            return Err(node.unsupported(format!(
                "has no room for an attribute of {} bytes",
                value.len()
            )));
        }
        self.files.set(key, made)?;
        self.stamp(node.number, |raw| put_now(raw, 124))
    }

    /// Changes an inode, and notes that it was changed.
    fn stamp(&mut self, number: u64, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let mut raw = self
            .files
            .inode(number)?
            .ok_or_else(|| Error::internal("an inode that is changed is not there"))?;
        let sequence = Fields::new(&raw, "inode item", 0).u64_le(72)?;
        put64(&mut raw, 8, self.generation)?;
        put64(&mut raw, 72, sequence.wrapping_add(1))?;
        change(&mut raw)?;
        self.files.set(Key::new(number, kind::INODE_ITEM, 0), raw)
    }

    /// The number after the highest.
    fn free_number(&self) -> Result<u64> {
        let last = Key::last_of(tree::LAST_FREE, u8::MAX);
        let highest = self
            .files
            .tree()
            .before(last)?
            .map_or(0, |item| item.key.id);
        let next = highest.max(tree::FIRST_FREE).saturating_add(1);
        if next >> 40 != 0 {
            return Err(Error::unsupported("inode numbers are used up"));
        }
        Ok(next)
    }

    /// The index after the last one of a directory.
    fn free_index(&self, dir: u64) -> Result<u64> {
        let last = self
            .files
            .tree()
            .before(Key::last_of(dir, kind::DIR_INDEX))?;
        let last = last.filter(|item| item.key.is(dir, kind::DIR_INDEX));
        // 0 and 1 are for the two names that no directory stores.
        let next = last.map_or(2, |item| item.key.offset.saturating_add(1));
        if next == u64::MAX {
            return Err(Error::unsupported("the directory's indexes are used up"));
        }
        Ok(next)
    }

    fn most_inline(&self, most: usize) -> usize {
        let sb = &self.volume.nodes.sb;
        let sector = crate::number::index(sb.sector).saturating_sub(1);
        most.min(sector).min(sb.most_item().saturating_sub(INLINE))
    }

    /// Gives a file without content its content; how many bytes that takes by the inode's count.
    fn put_content(&mut self, number: u64, content: &dyn Content, sums: Sums) -> Result<u64> {
        let size = content.size();
        if size == 0 {
            return Ok(0);
        }
        if size <= wide(self.most_inline(MOST_INLINE)) {
            self.put_inline(number, &content::whole(content)?)?;
            return Ok(size);
        }
        let sector = u64::from(self.volume.nodes.sb.sector);
        let whole = round_up(size, sector);
        let mut start = 0u64;
        for place in self.space.data(whole)? {
            let len = place.end.saturating_sub(place.start);
            let item = items::data(self.subvolume, number, start, self.generation)?;
            self.extents
                .set(Key::new(place.start, items::EXTENT_ITEM, len), item)?;
            let part = start..start.saturating_add(len).min(size);
            if sums == Sums::Verified {
                let seen = self.summed.unwrap_or(0);
                let (volume, sums) = (self.volume, &mut self.sums);
                let seen = items::add_sums(volume, sums, place.start, (content, &part), seen)?;
                self.summed = Some(seen);
            }
            self.writes.push((place.start, part));
            let mut raw = self.extent_head(len, 1)?;
            raw.resize(extent::SIZE, 0);
            put64(&mut raw, 21, place.start)?;
            put64(&mut raw, 29, len)?;
            put64(&mut raw, 45, len)?;
            self.files
                .set(Key::new(number, kind::EXTENT_DATA, start), raw)?;
            self.delta.taken.push(place);
            start = start.saturating_add(len);
        }
        Ok(whole)
    }

    fn put_inline(&mut self, number: u64, content: &[u8]) -> Result<()> {
        let mut raw = self.extent_head(wide(content.len()), 0)?;
        raw.extend_from_slice(content);
        self.files.set(Key::new(number, kind::EXTENT_DATA, 0), raw)
    }

    fn extent_head(&self, plain: u64, kind: u8) -> Result<Vec<u8>> {
        let mut raw = vec![0; INLINE];
        put64(&mut raw, 0, self.generation)?;
        put64(&mut raw, 8, plain)?;
        put(&mut raw, 20, &[kind])?;
        Ok(raw)
    }

    /// Takes all content of a file away, with what the accounts have of it.
    fn drop_content(&mut self, number: u64) -> Result<()> {
        let sector = self.volume.nodes.sb.sector;
        let mut found = Vec::new();
        let mut extents = self.files.tree().all(number, kind::EXTENT_DATA)?;
        // Ends because a walk through a tree does.
        while let Some(item) = extents.next()? {
            let f = item.fields("extent item");
            found.push((item.key, Extent::parse(item.key.offset, &f, sector)?));
        }
        drop(extents);
        for (key, extent) in found {
            self.files.delete(key)?;
            let (Held::Regular(disk) | Held::Prealloc(disk)) = extent.held else {
                continue;
            };
            let place = disk.logical..disk.logical.saturating_add(disk.len);
            // A part can start before the file does: the reference then counts from below zero.
            let start = extent.start.wrapping_sub(disk.skip);
            let owner = (self.subvolume, number, start);
            if items::drop_data(&mut self.extents, &place, owner)? == Left::Nothing {
                items::drop_sums(self.volume, &mut self.sums, &place)?;
                self.delta.freed.push(place);
            }
        }
        Ok(())
    }

    /// Takes all items of an inode away.
    fn drop_items(&mut self, number: u64) -> Result<()> {
        let mut found = Vec::new();
        let (from, to) = (Key::new(number, 0, 0), Key::last_of(number, u8::MAX));
        let mut items = self.files.tree().range(from, to)?;
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            found.push(item.key);
        }
        drop(items);
        for key in found {
            self.files.delete(key)?;
        }
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    let odd = name.is_empty()
        || name.len() > MOST_NAME
        || name == b"."
        || name == b".."
        || name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if odd {
        return Err(Error::usage(format!(
            "{:?} is not a valid name",
            String::from_utf8_lossy(name)
        )));
    }
    Ok(())
}

/// Content and inode changed now.
fn touch_content(raw: &mut [u8]) -> Result<()> {
    put_now(raw, 124)?;
    put_now(raw, 136)
}

fn put_now(raw: &mut [u8], at: usize) -> Result<()> {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    put64(raw, at, passed.as_secs())?;
    put32(raw, at.saturating_add(8), passed.subsec_nanos())
}

/// Overwrites content without checksums where it is; no metadata changes.
pub(super) fn overwrite_in_place(
    volume: &Volume,
    devices: &Devices,
    node: &Node,
    content: &dyn Content,
) -> Result<()> {
    let mut writes = Vec::new();
    let mut same = Changes::new();
    let mut extents = volume.extents(node, 0)?;
    let mut at = 0u64;
    // Ends because a walk through a tree does.
    while let Some((extent, item)) = extents.next()? {
        same.insert(item.key, None);
        if at >= node.size {
            break;
        }
        let (Held::Regular(disk), None) = (&extent.held, extent.compression) else {
            return Err(in_the_way(node));
        };
        if extent.start != at {
            return Err(in_the_way(node));
        }
        check_alone(volume, node, &extent, disk)?;
        let end = extent.end().min(node.size);
        writes.push((disk.logical.saturating_add(disk.skip), at..end));
        at = extent.end();
    }
    if at < node.size {
        return Err(in_the_way(node));
    }
    // The leaves that hold the extents: a snapshot may have them too.
    let root = &node.root;
    let accounts = super::accounts(volume)?;
    let leaves = rebuild(&volume.nodes, root.id, root.tree, &same, 0, &[])?;
    for block in leaves.freed {
        items::check_own_block(&volume.tree(accounts.extents), block, root.id)?;
    }
    for (logical, part) in writes {
        content::in_pieces(content, &part, PIECE, |at, bytes| {
            write(volume, devices, logical.saturating_add(at), bytes)
        })?;
    }
    Ok(())
}

fn in_the_way(node: &Node) -> Error {
    node.unsupported("has parts that are holes, unwritten, compressed or kept in an item")
}

/// Refuses an extent that others use too.
fn check_alone(volume: &Volume, node: &Node, extent: &Extent, disk: &extent::Disk) -> Result<()> {
    let accounts = super::accounts(volume)?;
    let tree = volume.tree(accounts.extents);
    let key = Key::new(disk.logical, items::EXTENT_ITEM, disk.len);
    let item = tree
        .get(key)?
        .ok_or_else(|| items::corrupt("an extent of a file is not in the extent tree"))?;
    let f = item.fields("extent item");
    let start = extent.start.wrapping_sub(disk.skip);
    let alone = f.len() == 53
        && f.u8(24)? == items::EXTENT_DATA_REF
        && f.u64_le(25)? == node.root.id
        && f.u64_le(33)? == node.number
        && f.u64_le(41)? == start
        && f.u64_le(0)? == u64::from(f.u32_le(49)?);
    if alone {
        return Ok(());
    }
    Err(node.unsupported("has content that is shared"))
}
