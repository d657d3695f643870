//! Extended attributes, set: in the inode where they fit, else in its attribute block.

use rehost_block::{Error, Fields, Result};

use super::super::features::{compat, incompat};
use super::super::inode::{Node, flag};
use super::super::xattr::{MAGIC, PREFIXES, Stored, acl_to_disk, block_checksum, entry_len};
use super::alloc::Run;
use super::change::{Change, Stamp, blocks_of};
use super::layout::set_blocks;
use super::stamp::{put, put8, put16, put32};
use crate::number::{halves, halves16, wide};

/// Bytes of an attribute block before its entries.
const HEAD: usize = 32;

impl Change<'_> {
    /// Sets one attribute of an inode.
    pub(super) fn set_attribute(&mut self, node: &Node, name: &[u8], value: &[u8]) -> Result<()> {
        let new = stored(name, value)?;
        let is_new = |one: &Stored| one.index == new.index && one.name == new.name;
        let mut inside = self.fs.inode_xattrs(node)?;
        let mut block = if node.file_acl == 0 {
            Vec::new()
        } else {
            self.fs.block_xattrs(node)?
        };
        if inside
            .iter()
            .chain(&block)
            .any(|one| is_new(one) && one.inode != 0)
        {
            return Err(node.unsupported("the attribute is kept in an inode of its own (ea_inode)"));
        }
        let was_in_block = block.iter().any(is_new);
        inside.retain(|one| !is_new(one));
        block.retain(|one| !is_new(one));

        inside.push(new.clone());
        let mut raw = node.raw.clone();
        if self.put_inode_xattrs(&mut raw, &inside).is_ok() {
            if was_in_block {
                self.put_block_xattrs(node, &mut raw, block)?;
            }
        } else {
            inside.pop();
            raw = node.raw.clone();
            self.put_inode_xattrs(&mut raw, &inside)?;
            block.push(new);
            self.put_block_xattrs(node, &mut raw, block)?;
        }
        if !self.fs.sb.features.compat(compat::EXT_ATTR) {
            self.set_compat(compat::EXT_ATTR)?;
        }
        self.touch(&mut raw, &[Stamp::Changed])?;
        self.put_inode(node.number, raw)
    }

    /// Stores attributes in an inode's bytes.
    ///
    /// # Errors
    /// Unsupported when they do not fit.
    pub(super) fn put_inode_xattrs(&self, raw: &mut [u8], all: &[Stored]) -> Result<()> {
        let extra = if raw.len() > 128 {
            usize::from(Fields::new(raw, "inode", 0).u16_le(0x80)?)
        } else {
            0
        };
        let head = extra.saturating_add(128);
        if raw.len() <= 128 || extra == 0 || head.saturating_add(8) > raw.len() {
            return if all.is_empty() {
                Ok(())
            } else {
                Err(no_room())
            };
        }
        let first = head.saturating_add(4);
        let area = raw.len().saturating_sub(first);
        let bytes = lay_out(all, area, 0)?;
        let magic = if all.is_empty() { 0 } else { MAGIC };
        put32(raw, head, magic)?;
        put(raw, first, &bytes)
    }

    /// Stores attributes in an inode's block, making, copying or freeing it as needed.
    fn put_block_xattrs(
        &mut self,
        node: &Node,
        raw: &mut [u8],
        mut all: Vec<Stored>,
    ) -> Result<()> {
        // Linux looks attributes of a block up in this order.
        all.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
        let old = node.file_acl;
        let per_block = self.block_size() / 512;
        if all.is_empty() {
            self.release_xattr_block(old)?;
            put_acl(raw, 0)?;
            return set_blocks(raw, blocks_of(raw)?.saturating_sub(per_block));
        }
        let body = lay_out(&all, self.block_len(), HEAD)?;
        let block = if old == 0 {
            let goal = self.home(node.number);
            let made = self.allocate_one(goal)?;
            set_blocks(raw, blocks_of(raw)?.saturating_add(per_block))?;
            made
        } else if self.xattr_block_users(old)? > 1 {
            let made = self.allocate_one(old)?;
            self.release_xattr_block(old)?;
            made
        } else {
            old
        };
        if !self.fs.sb.features.incompat(incompat::BIT64) && u32::try_from(block).is_err() {
            return Err(Error::internal("a block number exceeds 32 bits"));
        }
        put_acl(raw, block)?;
        let mut bytes = body;
        put32(&mut bytes, 0, MAGIC)?;
        put32(&mut bytes, 4, 1)?;
        put32(&mut bytes, 8, 1)?;
        put32(&mut bytes, 12, block_hash(&all))?;
        self.put_xattr_block(block, bytes)
    }

    fn put_xattr_block(&mut self, block: u64, mut bytes: Vec<u8>) -> Result<()> {
        if self.fs.sb.has_checksums() {
            let sum = block_checksum(self.fs.sb.seed, block, &bytes);
            put32(&mut bytes, 16, sum)?;
        }
        self.put_block(block, bytes)
    }

    fn xattr_block_users(&self, block: u64) -> Result<u32> {
        let bytes = self.fs.blocks.read(block, "attribute block")?;
        Fields::new(&bytes, "attribute block", self.fs.blocks.offset(block)).u32_le(4)
    }

    /// One inode fewer uses an attribute block.
    pub(super) fn release_xattr_block(&mut self, block: u64) -> Result<()> {
        let users = self.xattr_block_users(block)?;
        if users <= 1 {
            return self.release(Run {
                disk: block,
                len: 1,
            });
        }
        let mut bytes = self.fs.blocks.read(block, "attribute block")?;
        put32(&mut bytes, 4, users.saturating_sub(1))?;
        self.put_xattr_block(block, bytes)
    }

    /// Refuses inodes whose attributes other inodes hold: their counts of users are not kept here.
    pub(super) fn check_no_attribute_inodes(&self, node: &Node) -> Result<()> {
        if node.has(flag::EA_INODE) {
            return Err(node.unsupported("the inode holds an attribute's value (ea_inode)"));
        }
        if self.fs.sb.features.incompat(incompat::EA_INODE)
            && self
                .fs
                .stored_xattrs(node)?
                .iter()
                .any(|one| one.inode != 0)
        {
            return Err(node.unsupported("attributes are kept in inodes of their own (ea_inode)"));
        }
        Ok(())
    }
}

fn no_room() -> Error {
    Error::unsupported("no room for the attribute in the inode and its attribute block")
}

/// An attribute as it will be stored, by its full name.
fn stored(name: &[u8], value: &[u8]) -> Result<Stored> {
    let text = String::from_utf8_lossy(name).into_owned();
    let unknown = || Error::unsupported(format!("attribute {text} is of no class that ext4 has"));
    let (index, prefix) = PREFIXES
        .iter()
        .filter(|(_, prefix)| name.starts_with(prefix.as_bytes()))
        .max_by_key(|(_, prefix)| prefix.len())
        .ok_or_else(unknown)?;
    let rest = name.get(prefix.len()..).unwrap_or_default();
    let is_acl = matches!(index, 2 | 3);
    if rest.is_empty() != (is_acl || *index == 8) || name == b"system.data" || rest.len() > 255 {
        return Err(unknown());
    }
    let value = if is_acl {
        acl_to_disk(value)?
    } else {
        value.to_vec()
    };
    Ok(Stored {
        index: *index,
        name: rest.to_vec(),
        value,
        inode: 0,
        hash: 0,
        size: 0,
    })
}

const fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// Lays entries from `start` on and values from the end of `len` bytes out.
fn lay_out(all: &[Stored], len: usize, start: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let entries: usize = all
        .iter()
        .map(|one| entry_len(one.name.len()))
        .fold(0, usize::saturating_add);
    let values: usize = all
        .iter()
        .filter(|one| one.inode == 0)
        .map(|one| padded(one.value.len()))
        .fold(0, usize::saturating_add);
    // Four zero bytes end the list.
    let need = start
        .saturating_add(entries)
        .saturating_add(values)
        .saturating_add(4);
    if need > len {
        return Err(no_room());
    }
    let (mut at, mut end) = (start, len);
    for one in all {
        put8(
            &mut bytes,
            at,
            u8::try_from(one.name.len()).unwrap_or(u8::MAX),
        )?;
        put8(&mut bytes, at.saturating_add(1), one.index)?;
        let size = if one.inode == 0 {
            wide(one.value.len())
        } else {
            u64::from(one.size)
        };
        if one.inode == 0 && !one.value.is_empty() {
            end = end.saturating_sub(padded(one.value.len()));
            let (offset, _) = halves16(halves(wide(end)).0);
            put16(&mut bytes, at.saturating_add(2), offset)?;
            put(&mut bytes, end, &one.value)?;
        }
        put32(&mut bytes, at.saturating_add(4), one.inode)?;
        put32(&mut bytes, at.saturating_add(8), halves(size).0)?;
        put32(&mut bytes, at.saturating_add(12), entry_hash(one))?;
        put(&mut bytes, at.saturating_add(16), &one.name)?;
        at = at.saturating_add(entry_len(one.name.len()));
    }
    Ok(bytes)
}

/// The hash of an entry: of its name, and of its value unless another inode holds that.
fn entry_hash(one: &Stored) -> u32 {
    if one.inode != 0 {
        return one.hash;
    }
    let mut hash = 0u32;
    for byte in &one.name {
        hash = hash.rotate_left(5) ^ u32::from(*byte);
    }
    for chunk in one.value.chunks(4) {
        let mut word = [0; 4];
        for (place, byte) in word.iter_mut().zip(chunk) {
            *place = *byte;
        }
        hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
    }
    hash
}

/// The hash of a whole attribute block.
fn block_hash(all: &[Stored]) -> u32 {
    let mut hash = 0u32;
    for one in all {
        match entry_hash(one) {
            0 => return 0,
            entry => hash = hash.rotate_left(16) ^ entry,
        }
    }
    hash
}

/// Points an inode's bytes at an attribute block.
fn put_acl(raw: &mut [u8], block: u64) -> Result<()> {
    let (lo, hi) = halves(block);
    put32(raw, 0x68, lo)?;
    put16(raw, 0x76, halves16(hi).0)?;
    Ok(())
}
