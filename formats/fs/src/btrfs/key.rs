//! Keys of tree items, and the numbers that Btrfs has given to kinds of items and to trees.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", and Linux `include/uapi/linux/btrfs_tree.h`.

use rehost_block::{Fields, Result};

/// Bytes of a key on disk.
pub(super) const KEY: usize = 17;

/// What items are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// `objectid`: an inode, a tree, a byte address.
    pub(super) id: u64,
    /// `type`, one of [`kind`].
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) const FIRST: Self = Self::new(0, 0, 0);
    pub(super) const LAST: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    pub(super) const fn new(id: u64, kind: u8, offset: u64) -> Self {
        Self { id, kind, offset }
    }

    /// The last key of its object and kind.
    pub(super) const fn last_of(id: u64, kind: u8) -> Self {
        Self::new(id, kind, u64::MAX)
    }

    pub(super) fn parse(f: &Fields<'_>, at: usize) -> Result<Self> {
        Ok(Self {
            id: f.u64_le(at)?,
            kind: f.u8(at.saturating_add(8))?,
            offset: f.u64_le(at.saturating_add(9))?,
        })
    }

    pub(super) fn to_bytes(self) -> [u8; KEY] {
        let mut bytes = [0; KEY];
        if let Some((id, rest)) = bytes.split_first_chunk_mut::<8>() {
            *id = self.id.to_le_bytes();
            if let Some((kind, offset)) = rest.split_first_mut() {
                *kind = self.kind;
                offset.copy_from_slice(&self.offset.to_le_bytes());
            }
        }
        bytes
    }

    /// Whether it is of this object and kind.
    pub(super) const fn is(&self, id: u64, kind: u8) -> bool {
        self.id == id && self.kind == kind
    }

    /// The key just below; `None` below the first.
    pub(super) fn before(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_sub(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.checked_sub(1) {
            return Some(Self::new(self.id, kind, u64::MAX));
        }
        let id = self.id.checked_sub(1)?;
        Some(Self::new(id, u8::MAX, u64::MAX))
    }
}

/// Kinds of items.
pub(super) mod kind {
    pub(in super::super) const INODE_ITEM: u8 = 1;
    pub(in super::super) const INODE_REF: u8 = 12;
    pub(in super::super) const INODE_EXTREF: u8 = 13;
    pub(in super::super) const XATTR_ITEM: u8 = 24;
    pub(in super::super) const DIR_LOG_INDEX: u8 = 72;
    pub(in super::super) const DIR_ITEM: u8 = 84;
    pub(in super::super) const DIR_INDEX: u8 = 96;
    pub(in super::super) const EXTENT_DATA: u8 = 108;
    pub(in super::super) const EXTENT_CSUM: u8 = 128;
    pub(in super::super) const ROOT_ITEM: u8 = 132;
    pub(in super::super) const ROOT_BACKREF: u8 = 144;
    pub(in super::super) const ROOT_REF: u8 = 156;
    pub(in super::super) const CHUNK_ITEM: u8 = 228;
}

/// Trees, and other objects of the tree of roots.
pub(super) mod tree {
    pub(in super::super) const FS: u64 = 5;
    pub(in super::super) const CSUM: u64 = 7;
    /// The first number of a subvolume, and the number of every subvolume's top directory.
    pub(in super::super) const FIRST_FREE: u64 = 256;
    /// The last number of a subvolume.
    pub(in super::super) const LAST_FREE: u64 = 256u64.wrapping_neg();
    /// Trees of the log.
    pub(in super::super) const LOG: u64 = 6u64.wrapping_neg();
    /// Checksums of data, as an object.
    pub(in super::super) const CSUM_OBJECT: u64 = 10u64.wrapping_neg();
}

/// The first object of chunks in the chunk tree.
pub(super) const FIRST_CHUNK_TREE: u64 = 256;
