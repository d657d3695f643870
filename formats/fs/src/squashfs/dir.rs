//! Directories: runs of entries, each run with what its entries have in common before it.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`, section 3.4. Names are sorted; the index of
//! a large directory names the first entry of some of its blocks.

use rehost_block::{Error, Result};

use super::Squashfs;
use super::inode::{Content, Directory, Node};
use super::metadata::{Cursor, Place};
use crate::number::wide;
use crate::{DirEntry, FileKind, Inode};

const STRUCTURE: &str = "directory table";

/// Entries of a run, at most.
const MOST_RUN: u32 = 256;

/// The longest name.
const MOST_NAME: usize = 256;

/// Entries of a directory, at most. Ours: compressed names must not exhaust the host.
const MOST_ENTRIES: usize = 1 << 20;

/// Reads entries in order, up to the end of a directory.
struct Entries<'a> {
    cursor: Cursor<'a>,
    /// Bytes left of the directory.
    left: u32,
    /// Entries left of this run, and where their inodes are.
    run: u32,
    block: u32,
}

impl<'a> Entries<'a> {
    const fn new(cursor: Cursor<'a>, left: u32) -> Self {
        Self {
            cursor,
            left,
            run: 0,
            block: 0,
        }
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(what)
            .in_structure(STRUCTURE)
            .at(self.cursor.place().block)
    }

    fn take(&mut self, len: u32) -> Result<()> {
        let left = self.left.checked_sub(len);
        self.left = left.ok_or_else(|| self.corrupt("an entry reaches past its directory"))?;
        Ok(())
    }

    /// The next entry; `None` at the end.
    fn next(&mut self) -> Result<Option<DirEntry>> {
        if self.run == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            self.take(12)?;
            let [a, b, c, d, e, f, g, h, ..] = self.cursor.array::<12>()?;
            self.run = u32::from_le_bytes([a, b, c, d]).saturating_add(1);
            self.block = u32::from_le_bytes([e, f, g, h]);
            if self.run > MOST_RUN {
                return Err(self
                    .corrupt("a run of entries is too long")
                    .mismatch(format!("at most {MOST_RUN}"), self.run));
            }
        }
        self.run = self.run.saturating_sub(1);
        self.take(8)?;
        let [within, within_high, _, _, kind, kind_high, len, len_high] =
            self.cursor.array::<8>()?;
        let len = u32::from(u16::from_le_bytes([len, len_high])).saturating_add(1);
        self.take(len)?;
        let name = self.cursor.bytes(len, MOST_NAME)?;
        if name.contains(&b'/') || name.contains(&0) || name == b"." || name == b".." {
            return Err(self.corrupt("a name that no file can have"));
        }
        let within = u64::from(u16::from_le_bytes([within, within_high]));
        let kind = match u16::from_le_bytes([kind, kind_high]) {
            1 => FileKind::Directory,
            2 => FileKind::Regular,
            3 => FileKind::Symlink,
            4 => FileKind::BlockDevice,
            5 => FileKind::CharDevice,
            6 => FileKind::Fifo,
            7 => FileKind::Socket,
            other => return Err(self.corrupt(&format!("unknown type {other} of an entry"))),
        };
        Ok(Some(DirEntry {
            name,
            inode: Inode(u64::from(self.block) << 16 | within),
            kind: Some(kind),
        }))
    }
}

impl Squashfs {
    pub(super) fn directory<'a>(&self, node: &'a Node) -> Result<&'a Directory> {
        match &node.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Error::usage("it is not a directory")),
        }
    }

    /// All entries of a directory, whose inode is `dir`.
    pub(super) fn list(&self, dir: Inode, directory: &Directory) -> Result<Vec<DirEntry>> {
        let cursor = self.metadata.cursor(directory.place);
        let mut entries = Entries::new(cursor, directory.size);
        let mut found = Vec::new();
        // Ends because every entry takes bytes off the directory's.
        while let Some(entry) = entries.next()? {
            if found.len() >= MOST_ENTRIES {
                return Err(Error::unsupported("directory of more than 1048576 names")
                    .in_structure(STRUCTURE)
                    .at(directory.place.block));
            }
            // An entry that calls a directory something else would get past the check of places.
            if let Ok(node) = self.node(entry.inode)
                && Some(node.kind) != entry.kind
            {
                return Err(entries.corrupt("an entry says another type than its inode"));
            }
            if entry.kind == Some(FileKind::Directory) {
                self.places
                    .claim(entry.inode.0, dir.0, wide(found.len()))
                    .map_err(|error| error.in_structure(STRUCTURE).at(directory.place.block))?;
            }
            found.push(entry);
        }
        Ok(found)
    }

    /// The entry called `name`.
    pub(super) fn find(&self, directory: &Directory, name: &[u8]) -> Result<Option<Inode>> {
        let (place, skipped) = self.nearest(directory, name)?;
        let left = directory.size.saturating_sub(skipped);
        let mut entries = Entries::new(self.metadata.cursor(place), left);
        // Ends as `list`.
        while let Some(entry) = entries.next()? {
            if entry.name.as_slice() >= name {
                return Ok((entry.name == name).then_some(entry.inode));
            }
        }
        Ok(None)
    }

    /// Where to begin to look for `name`: at the last block whose first name is not behind it; and
    /// how many bytes of the directory are before that.
    fn nearest(&self, directory: &Directory, name: &[u8]) -> Result<(Place, u32)> {
        let mut nearest = (directory.place, 0);
        let mut cursor = self.metadata.cursor(directory.index_at);
        for _ in 0..directory.index {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = cursor.array::<12>()?;
            let before = u32::from_le_bytes([a, b, c, d]);
            let block = u32::from_le_bytes([e, f, g, h]);
            let len = u32::from_le_bytes([i, j, k, l]).saturating_add(1);
            let first = cursor.bytes(len, MOST_NAME)?;
            if first.as_slice() > name {
                break;
            }
            // An index block begins with the block's, at the place where the directory's own offset
            // and the bytes before it put it.
            let within = wide(directory.place.within).saturating_add(u64::from(before));
            let place = Place {
                block: self.sb.dir_table.saturating_add(u64::from(block)),
                within: usize::try_from(within % 8192).unwrap_or_default(),
            };
            nearest = (place, before);
        }
        Ok(nearest)
    }
}
