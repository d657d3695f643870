//! Directories, and the extended attributes that are stored like them.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `DIR_ITEM`, `DIR_INDEX`, `XATTR_ITEM`. A name is found by its
//! hash (`DIR_ITEM`) and listed in the order of its making (`DIR_INDEX`).

use rehost_block::{Fields, Result};

use super::Btrfs;
use super::checksum::name_hash;
use super::inode::Node;
use super::key::{KEY, Key, kind, tree};
use super::root::EMPTY;
use super::tree::{Item, Tree};
use crate::{DirEntry, FileKind, Inode};

/// Bytes of an entry before its name.
pub(super) const ENTRY: usize = 30;

/// An entry of a directory, or an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key of the inode or of the subvolume.
    pub(super) location: Key,
    pub(super) name: Vec<u8>,
    /// An attribute's value.
    pub(super) value: Vec<u8>,
    /// The kind of file, as the directory numbers them.
    pub(super) kind: u8,
}

impl Entry {
    /// What kind of file it says it is.
    fn file_kind(&self) -> Option<FileKind> {
        Some(match self.kind {
            1 => FileKind::Regular,
            2 => FileKind::Directory,
            3 => FileKind::CharDevice,
            4 => FileKind::BlockDevice,
            5 => FileKind::Fifo,
            6 => FileKind::Socket,
            7 => FileKind::Symlink,
            _ => return None,
        })
    }
}

/// All entries of an item: names with the same hash share one.
pub(super) fn entries(item: &Item) -> Result<Vec<Entry>> {
    entries_of(&item.fields("directory item"))
}

pub(super) fn entries_of(f: &Fields<'_>) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut at = 0usize;
    // Ends because every entry has at least 30 bytes.
    while at < f.len() {
        let value_len = usize::from(f.u16_le(at.saturating_add(25))?);
        let name_len = usize::from(f.u16_le(at.saturating_add(27))?);
        let name = at.saturating_add(ENTRY);
        let value = name.saturating_add(name_len);
        found.push(Entry {
            location: Key::parse(f, at)?,
            name: f.bytes(name, name_len)?.to_vec(),
            value: f.bytes(value, value_len)?.to_vec(),
            kind: f.u8(at.saturating_add(KEY + 12))?,
        });
        at = value.saturating_add(value_len);
    }
    Ok(found)
}

/// The entry called `name` of directory `dir`.
pub(super) fn find(tree: &Tree<'_>, dir: u64, name: &[u8]) -> Result<Option<Entry>> {
    let key = Key::new(dir, kind::DIR_ITEM, name_hash(name));
    let Some(item) = tree.get(key)? else {
        return Ok(None);
    };
    Ok(entries(&item)?.into_iter().find(|entry| entry.name == name))
}

impl Btrfs {
    pub(super) fn find(&self, dir: &Node, name: &[u8]) -> Result<Option<Inode>> {
        dir.expect(FileKind::Directory, "a directory")?;
        let found = find(&self.volume.files(&dir.root), dir.number, name)?;
        found
            .map(|entry| self.target(dir, &entry, name))
            .transpose()
    }

    /// The file that an entry of `dir` means.
    fn target(&self, dir: &Node, entry: &Entry, name: &[u8]) -> Result<Inode> {
        let to = entry.location;
        match to.kind {
            kind::INODE_ITEM => self.pack(dir.root.id, to.id),
            kind::ROOT_ITEM if self.volume.holds(dir.root.id, to.id, dir.number, name)? => {
                self.pack(to.id, tree::FIRST_FREE)
            }
            kind::ROOT_ITEM => self.pack(dir.root.id, EMPTY),
            other => Err(dir.corrupt(format!(
                "entry {} is for an item of kind {other}",
                String::from_utf8_lossy(name)
            ))),
        }
    }

    pub(super) fn list(&self, dir: &Node) -> Result<Vec<DirEntry>> {
        dir.expect(FileKind::Directory, "a directory")?;
        let mut items = self
            .volume
            .files(&dir.root)
            .all(dir.number, kind::DIR_INDEX)?;
        let mut found = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            for entry in entries(&item)? {
                found.push(DirEntry {
                    inode: self.target(dir, &entry, &entry.name)?,
                    kind: entry.file_kind(),
                    name: entry.name,
                });
            }
        }
        Ok(found)
    }

    pub(super) fn attributes_of(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut items = self
            .volume
            .files(&node.root)
            .all(node.number, kind::XATTR_ITEM)?;
        let mut found = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            for entry in entries(&item)? {
                found.push((entry.name, entry.value));
            }
        }
        Ok(found)
    }
}
