//! Extended attributes: in the inode, in the attribute block, and in attribute inodes.
//!
//! Source: Linux `Documentation/filesystems/ext4/attributes.rst`. POSIX ACLs are given in the form
//! that `getxattr` shows (version 2), not in ext4's own packed one.

use rehost_block::{Error, Fields, Result};

use super::Ext4;
use super::checksum::crc32c;
use super::inode::{Node, flag};
use super::superblock::checksum_error;
use crate::number::{index, length};

/// Magic of both places.
pub(super) const MAGIC: u32 = 0xea02_0000;

/// Largest value in an attribute inode (`XATTR_SIZE_MAX`).
const MOST_VALUE: u32 = 64 << 10;

/// The name index of `system.data`, which holds inline content.
const SYSTEM: u8 = 7;

/// Name prefixes by index; the two ACLs are whole names.
pub(super) const PREFIXES: &[(u8, &str)] = &[
    (1, "user."),
    (2, "system.posix_acl_access"),
    (3, "system.posix_acl_default"),
    (4, "trusted."),
    (6, "security."),
    (7, "system."),
    (8, "system.richacl"),
    (9, "encryption."),
    (10, "gnu."),
];

/// One attribute as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) index: u8,
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// The attribute inode that holds the value, or 0.
    pub(super) inode: u32,
    /// The entry's hash field; a writer keeps it where another inode holds the value.
    pub(super) hash: u32,
    /// The entry's size field, likewise.
    pub(super) size: u32,
}

impl Stored {
    /// Whether it is no attribute, but the rest of inline content.
    pub(super) fn is_inline_data(&self) -> bool {
        self.index == SYSTEM && self.name == b"data"
    }

    /// The full name, as `getfattr` prints it.
    pub(super) fn full_name(&self) -> Vec<u8> {
        let prefix = PREFIXES
            .iter()
            .find(|(index, _)| *index == self.index)
            .map_or_else(
                || format!("(index {}).", self.index),
                |(_, prefix)| (*prefix).into(),
            );
        let mut full = prefix.into_bytes();
        full.extend_from_slice(&self.name);
        full
    }
}

/// Bytes of an entry with a name of `len` bytes.
pub(super) const fn entry_len(len: usize) -> usize {
    len.saturating_add(16 + 3) & !3
}

impl Ext4 {
    /// Every attribute of an inode as stored, those in the inode first.
    pub(super) fn stored_xattrs(&self, node: &Node) -> Result<Vec<Stored>> {
        let mut found = self.inode_xattrs(node)?;
        if node.file_acl != 0 {
            found.extend(self.block_xattrs(node)?);
        }
        Ok(found)
    }

    /// Attributes in the inode's own space.
    pub(super) fn inode_xattrs(&self, node: &Node) -> Result<Vec<Stored>> {
        let header = usize::from(node.extra_isize).saturating_add(128);
        let f = node.fields();
        if node.raw.len() <= 128
            || node.extra_isize == 0
            || header.saturating_add(4) > node.raw.len()
            || f.u32_le(header)? != MAGIC
        {
            return Ok(Vec::new());
        }
        let first = header.saturating_add(4);
        let area = node.raw.get(first..).unwrap_or_default();
        let fields = Fields::new(area, "inode attributes", f.offset_of(first));
        self.attribute_entries(&fields, 0)
    }

    /// Attributes in the inode's attribute block.
    pub(super) fn block_xattrs(&self, node: &Node) -> Result<Vec<Stored>> {
        let bytes = self.blocks.read(node.file_acl, "attribute block")?;
        let at = self.blocks.offset(node.file_acl);
        let f = Fields::new(&bytes, "attribute block", at);
        if f.u32_le(0)? != MAGIC || f.u32_le(8)? != 1 {
            return Err(f.corrupt(0, "attribute block has no magic"));
        }
        if self.sb.has_checksums() {
            let computed = block_checksum(self.sb.seed, node.file_acl, &bytes);
            let stored = f.u32_le(0x10)?;
            if computed != stored {
                return Err(checksum_error(&f, 0x10, computed, stored));
            }
        }
        self.attribute_entries(&f, 32)
    }

    /// Entries from byte `start` on; value offsets count from the start of `f`.
    fn attribute_entries(&self, f: &Fields<'_>, start: usize) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        let mut at = start;
        // Ends because every entry is at least 16 bytes long and the area is finite.
        while at.saturating_add(4) <= f.len() && f.u32_le(at)? != 0 {
            let name_len = usize::from(f.u8(at)?);
            let name = f.bytes(at.saturating_add(16), name_len)?.to_vec();
            let inode = f.u32_le(at.saturating_add(4))?;
            let size = f.u32_le(at.saturating_add(8))?;
            let value = if inode == 0 {
                let offset = usize::from(f.u16_le(at.saturating_add(2))?);
                f.bytes(offset, index(size))?.to_vec()
            } else {
                self.attribute_inode(f, at, inode, size)?
            };
            found.push(Stored {
                index: f.u8(at.saturating_add(1))?,
                name,
                value,
                inode,
                hash: f.u32_le(at.saturating_add(12))?,
                size,
            });
            at = at.saturating_add(entry_len(name_len));
        }
        Ok(found)
    }

    fn attribute_inode(&self, f: &Fields<'_>, at: usize, inode: u32, size: u32) -> Result<Vec<u8>> {
        if size > MOST_VALUE {
            return Err(f
                .corrupt(at.saturating_add(8), "attribute value is too large")
                .mismatch(format!("at most {MOST_VALUE} bytes"), size));
        }
        let node = self.node(inode)?;
        if !node.has(flag::EA_INODE) || node.size != u64::from(size) {
            return Err(f.corrupt(
                at.saturating_add(4),
                format!("inode {inode} does not hold the attribute's value"),
            ));
        }
        let mut value = vec![0; length(u64::from(size))?];
        self.read_mapped(&node, &mut value, 0)?;
        Ok(value)
    }

    /// Attributes as `getfattr` shows them.
    pub(super) fn visible_xattrs(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        for stored in self.stored_xattrs(node)? {
            if stored.is_inline_data() {
                continue;
            }
            let value = match stored.index {
                2 | 3 => acl_from_disk(&stored.value)
                    .map_err(|error| error.in_structure("POSIX ACL").at(node.at))?,
                _ => stored.value.clone(),
            };
            found.push((stored.full_name(), value));
        }
        Ok(found)
    }

    /// The content that lies inline, after the 60 bytes of the block map.
    pub(super) fn inline_rest(&self, node: &Node) -> Result<Vec<u8>> {
        let stored = self.inode_xattrs(node)?;
        Ok(stored
            .into_iter()
            .find(Stored::is_inline_data)
            .map(|one| one.value)
            .unwrap_or_default())
    }
}

/// The checksum of an attribute block: what its field must hold.
pub(super) fn block_checksum(seed: u32, block: u64, bytes: &[u8]) -> u32 {
    let crc = crc32c(seed, &block.to_le_bytes());
    let crc = crc32c(crc, bytes.get(..0x10).unwrap_or_default());
    let crc = crc32c(crc, &[0; 4]);
    crc32c(crc, bytes.get(0x14..).unwrap_or_default())
}

/// Tags of ACL entries that name a user or group.
const fn is_named(tag: u16) -> bool {
    matches!(tag, 0x02 | 0x08)
}

/// ext4's packed ACL (version 1) as `getxattr` gives it (version 2).
fn acl_from_disk(stored: &[u8]) -> Result<Vec<u8>> {
    let f = Fields::new(stored, "POSIX ACL", 0);
    if f.u32_le(0)? != 1 {
        return Err(Error::corrupt("unknown ACL version"));
    }
    let mut shown = 2u32.to_le_bytes().to_vec();
    let mut at = 4usize;
    // Ends because every entry is at least 4 bytes long.
    while at < stored.len() {
        let tag = f.u16_le(at)?;
        shown.extend_from_slice(f.bytes(at, 4)?);
        if is_named(tag) {
            shown.extend_from_slice(f.bytes(at.saturating_add(4), 4)?);
            at = at.saturating_add(8);
        } else {
            shown.extend_from_slice(&u32::MAX.to_le_bytes());
            at = at.saturating_add(4);
        }
    }
    Ok(shown)
}

/// The reverse of [`acl_from_disk`].
pub(super) fn acl_to_disk(shown: &[u8]) -> Result<Vec<u8>> {
    let f = Fields::new(shown, "POSIX ACL", 0);
    let entries = shown.len().saturating_sub(4);
    if f.u32_le(0)? != 2 || !entries.is_multiple_of(8) {
        return Err(Error::usage("not a POSIX ACL as setxattr takes it"));
    }
    let mut stored = 1u32.to_le_bytes().to_vec();
    for entry in shown.get(4..).unwrap_or_default().chunks(8) {
        let one = Fields::new(entry, "POSIX ACL", 0);
        stored.extend_from_slice(one.bytes(0, 4)?);
        if is_named(one.u16_le(0)?) {
            stored.extend_from_slice(one.bytes(4, 4)?);
        }
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_survives_both_conversions() {
        // user::rw-, user:1000:r--, group::r--, mask::rw-, other::---
        let mut shown = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [
            (1u16, 6u16, u32::MAX),
            (2, 4, 1000),
            (4, 4, u32::MAX),
            (0x10, 6, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            shown.extend_from_slice(&tag.to_le_bytes());
            shown.extend_from_slice(&perm.to_le_bytes());
            shown.extend_from_slice(&id.to_le_bytes());
        }
        let stored = acl_to_disk(&shown).unwrap();
        assert_eq!(stored.len(), 4 + 4 * 4 + 8);
        assert_eq!(acl_from_disk(&stored).unwrap(), shown);
    }
}
