//! squashfs 4.0, read.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`. Read: basic and extended inodes, fragments,
//! sparse files, hard links, directory indexes, extended attributes, blocks packed with gzip, lzma, lzo,
//! xz (with its filters), lz4 and zstd. A file's inode number is its reference: the place of the inode.
//! A directory that is in two places of the tree, and so every ring, is refused where it is met again.
//!
//! Left out on purpose, and refused by name: versions before 4.0. The table for export over NFS is not looked at.

mod codec;
mod data;
mod dir;
mod inode;
mod metadata;
mod superblock;
mod xattr;

use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use self::data::Kept;
use self::inode::Content;
use self::metadata::Metadata;
use self::superblock::Superblock;
use crate::number::{length, wide};
use crate::places::Places;
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

/// A squashfs filesystem, open for reading.
#[derive(Debug)]
pub struct Squashfs {
    sb: Superblock,
    metadata: Metadata,
    /// User and group numbers, by their place in the table.
    owners: Vec<u32>,
    places: Places,
    kept: Kept,
}

impl Squashfs {
    /// Opens the filesystem on `disk`.
    ///
    /// # Errors
    /// Corrupt when it is not squashfs or contradicts itself; Unsupported, by name, for what is
    /// listed above.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let sb = Superblock::read(&disk)?;
        let metadata = Metadata::new(disk, sb.compressor, sb.used);
        let owners = (0..sb.ids)
            .map(|nth| {
                let raw = metadata.entry::<4>(sb.id_table, u32::from(nth))?;
                Ok(u32::from_le_bytes(raw))
            })
            .collect::<Result<_>>()
            .map_err(|error: Error| error.in_structure("owner table").at(sb.id_table))?;
        let fs = Self {
            places: Places::new(sb.root),
            sb,
            metadata,
            owners,
            kept: Kept::default(),
        };
        let root = fs.node(fs.root())?;
        if root.kind == FileKind::Directory {
            Ok(fs)
        } else {
            Err(root.corrupt("the root is not a directory"))
        }
    }
}

impl FileSystem for Squashfs {
    fn identity(&self) -> Identity {
        Identity {
            kind: "squashfs",
            uuid: None,
            label: None,
            block_size: self.sb.block_size,
            size: self.sb.used,
            free: 0,
            replayed: false,
        }
    }

    fn root(&self) -> Inode {
        Inode(self.sb.root)
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        let node = self.node(dir)?;
        self.find(self.directory(&node)?, name)
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        let node = self.node(dir)?;
        self.list(dir, self.directory(&node)?)
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        Ok(self.node(inode)?.attributes())
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.node(inode)?;
        let layout = self.layout(inode.0, &node)?;
        let left = node.attributes().size.saturating_sub(offset);
        let len = length(left.min(wide(buf.len())))?;
        let part = buf.get_mut(..len).unwrap_or_default();
        self.read_content(&layout, part, offset)?;
        Ok(len)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        let node = self.node(inode)?;
        match &node.content {
            Content::Link(target) if target.is_empty() || target.contains(&0) => {
                Err(node.corrupt("symbolic link without a valid target"))
            }
            Content::Link(target) => Ok(target.clone()),
            _ => Err(Error::usage("it is not a symbolic link")),
        }
    }

    fn stored(&self, inode: Inode) -> Result<Vec<Stored>> {
        let layout = self.layout(inode.0, &self.node(inode)?)?;
        Ok(self.stored_content(&layout))
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match self.node(inode)?.xattr {
            Some(nth) => self.attributes_of(nth),
            None => Ok(Vec::new()),
        }
    }
}
