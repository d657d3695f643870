//! Extended attributes: short form, leaves, trees of them, and values in blocks of their own.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Extended Attributes". ACLs are stored under
//! names and in a form of their own, and given as Linux gives them (`system.posix_acl_access`).
//! Parent pointers are no attributes of the user's and are left out.

use rehost_block::{Error, Fields, Result};

use super::Xfs;
use super::check;
use super::inode::{Format, Node};
use super::map::Mapping;
use crate::number::wide;

const NAME: &str = "attribute block";

/// Flags of an attribute.
mod flag {
    pub(super) const LOCAL: u8 = 1;
    pub(super) const ROOT: u8 = 2;
    pub(super) const SECURE: u8 = 4;
    pub(super) const PARENT: u8 = 8;
    /// Being written or removed: not there yet, or not any more.
    pub(super) const INCOMPLETE: u8 = 0x80;
}

/// The longest value (`XATTR_SIZE_MAX`).
const MOST_VALUE: usize = 64 << 10;

/// Levels of an attribute tree, at most (`XFS_DA_NODE_MAXDEPTH`).
const MOST_LEVELS: u16 = 5;

type Attribute = (Vec<u8>, Vec<u8>);

impl Xfs {
    /// The extended attributes of `node`.
    pub(super) fn attributes_of(&self, node: &Node) -> Result<Vec<Attribute>> {
        let Some(fork) = node.attr()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        match fork.format {
            Format::Local => {
                let f = Fields::new(fork.raw, "short attributes", fork.offset);
                let mut at = 4usize;
                for _ in 0..f.u8(2)? {
                    let (names, values) = (usize::from(f.u8(at)?), f.u8(at.saturating_add(1))?);
                    let flags = f.u8(at.saturating_add(2))?;
                    let name = f.bytes(at.saturating_add(3), names)?;
                    at = at.saturating_add(3).saturating_add(names);
                    let value = f.bytes(at, usize::from(values))?;
                    at = at.saturating_add(usize::from(values));
                    found.extend(attribute(&f, flags, name, value.to_vec())?);
                }
            }
            Format::Extents if fork.extents == 0 => {}
            Format::Device => return Err(node.corrupt("attribute fork is a device")),
            Format::Extents | Format::Tree => {
                let mapping = self.metadata_extents(node, &fork)?;
                let mut walk = Walk {
                    fs: self,
                    node,
                    mapping: &mapping,
                    blocks: mapping
                        .iter()
                        .fold(0, |sum, extent| sum.saturating_add(extent.count)),
                    found: &mut found,
                };
                walk.tree(0, None)?;
            }
        }
        Ok(found)
    }
}

/// A walk of one attribute tree.
struct Walk<'a> {
    fs: &'a Xfs,
    node: &'a Node,
    mapping: &'a Mapping,
    /// Blocks that may still be read: no more than the fork has, whatever points where.
    blocks: u64,
    found: &'a mut Vec<Attribute>,
}

impl Walk<'_> {
    /// One block of the fork, with its place.
    fn read(&mut self, nth: u64) -> Result<(Vec<u8>, u64)> {
        self.blocks = self.blocks.checked_sub(1).ok_or_else(|| {
            self.node
                .corrupt("attribute tree has more blocks than its fork")
        })?;
        let at = Xfs::block_of(self.mapping, nth)
            .ok_or_else(|| self.node.corrupt("attribute tree points into a hole"))?;
        Ok((self.fs.blocks.read(at, NAME)?, at))
    }

    /// The block `nth` and what is below it. Ends: `level`, where known, falls with each step, and
    /// [`Walk::read`] gives no block more than there are.
    fn tree(&mut self, nth: u64, level: Option<u16>) -> Result<()> {
        let (raw, at) = self.read(nth)?;
        let block = self.fs.block(&raw, NAME, at);
        let f = block.fields();
        let v5 = self.fs.sb.v5;
        if v5 {
            block.check(check::TREE, &self.fs.sb, self.node.number)?;
        }
        match (f.u16_be(8)?, v5) {
            (0x3bee, true) | (0xfbee, false) if level.unwrap_or(0) == 0 => self.leaf(&f),
            (0x3ebe, true) | (0xfebe, false) => {
                let header = if v5 { 56usize } else { 12 };
                let entries = usize::from(f.u16_be(header)?);
                let own = f.u16_be(header.saturating_add(2))?;
                if own == 0 || own > MOST_LEVELS || level.is_some_and(|level| own != level) {
                    return Err(f.corrupt(header, "impossible level"));
                }
                let first = if v5 { 64usize } else { 16 };
                for at in (first..).step_by(8).take(entries) {
                    let below = u64::from(f.u32_be(at.saturating_add(4))?);
                    self.tree(below, Some(own.saturating_sub(1)))?;
                }
                Ok(())
            }
            _ => Err(f.corrupt(8, "no attribute block")),
        }
    }

    fn leaf(&mut self, f: &Fields<'_>) -> Result<()> {
        let v5 = self.fs.sb.v5;
        let entries = usize::from(f.u16_be(if v5 { 56 } else { 12 })?);
        let first = if v5 { 80usize } else { 32 };
        for at in (first..).step_by(8).take(entries) {
            let place = usize::from(f.u16_be(at.saturating_add(4))?);
            let flags = f.u8(at.saturating_add(6))?;
            if flags & (flag::INCOMPLETE | flag::PARENT) != 0 {
                continue;
            }
            let (name, value) = if flags & flag::LOCAL != 0 {
                let values = usize::from(f.u16_be(place)?);
                let names = usize::from(f.u8(place.saturating_add(2))?);
                let name = f.bytes(place.saturating_add(3), names)?;
                let value = f.bytes(place.saturating_add(3).saturating_add(names), values)?;
                (name, value.to_vec())
            } else {
                let block = u64::from(f.u32_be(place)?);
                let len = super::count(u64::from(f.u32_be(place.saturating_add(4))?));
                let names = usize::from(f.u8(place.saturating_add(8))?);
                let name = f.bytes(place.saturating_add(9), names)?;
                if len > MOST_VALUE {
                    return Err(f
                        .corrupt(place, "impossible length of a value")
                        .mismatch(format!("at most {MOST_VALUE}"), len));
                }
                (name, self.remote(block, len)?)
            };
            self.found.extend(attribute(f, flags, name, value)?);
        }
        Ok(())
    }

    /// A value of `len` bytes in blocks of its own, the first of which is `nth`.
    fn remote(&mut self, nth: u64, len: usize) -> Result<Vec<u8>> {
        let mut value = Vec::with_capacity(len);
        let mut next = nth;
        // Ends because every block adds at least one byte.
        while value.len() < len {
            let (raw, at) = self.read(next)?;
            let left = len.saturating_sub(value.len());
            let block = self.fs.block(&raw, "attribute value", at);
            let f = block.fields();
            if self.fs.sb.v5 {
                if f.bytes(0, 4)? != b"XARM" {
                    return Err(f.corrupt(0, "no attribute value"));
                }
                block.check(check::REMOTE, &self.fs.sb, self.node.number)?;
                let here = super::count(u64::from(f.u32_be(8)?));
                if u64::from(f.u32_be(4)?) != wide(value.len()) || here == 0 || here > left {
                    return Err(f.corrupt(4, "value's parts do not fit together"));
                }
                value.extend_from_slice(f.bytes(56, here)?);
            } else {
                value.extend_from_slice(f.bytes(0, left.min(raw.len()))?);
            }
            next = next.saturating_add(1);
        }
        Ok(value)
    }
}

/// The attribute under its full name; `None` for what is not for users.
fn attribute(f: &Fields<'_>, flags: u8, name: &[u8], value: Vec<u8>) -> Result<Option<Attribute>> {
    if flags & (flag::INCOMPLETE | flag::PARENT) != 0 {
        return Ok(None);
    }
    let prefix: &[u8] = match flags & (flag::ROOT | flag::SECURE) {
        0 => b"user.",
        flag::ROOT => match name {
            b"SGI_ACL_FILE" => return acl(f, b"system.posix_acl_access", &value).map(Some),
            b"SGI_ACL_DEFAULT" => return acl(f, b"system.posix_acl_default", &value).map(Some),
            _ => b"trusted.",
        },
        flag::SECURE => b"security.",
        _ => return Err(f.corrupt(0, "attribute in two namespaces")),
    };
    Ok(Some(([prefix, name].concat(), value)))
}

/// An ACL as Linux gives it (`posix_acl_xattr_header`, version 2) from how XFS stores it.
fn acl(f: &Fields<'_>, name: &[u8], stored: &[u8]) -> Result<Attribute, Error> {
    let short = || f.corrupt(0, "ACL is cut off");
    let s = Fields::new(stored, "ACL", f.offset_of(0));
    let entries = super::count(u64::from(s.u32_be(0)?));
    if entries > stored.len().saturating_sub(4) / 12 {
        return Err(short());
    }
    let mut given = 2u32.to_le_bytes().to_vec();
    for at in (4..).step_by(12).take(entries) {
        let tag = s.u32_be(at)?;
        let id = match tag {
            // Only named users and groups have an id.
            2 | 8 => s.u32_be(at.saturating_add(4))?,
            _ => u32::MAX,
        };
        let tag = u16::try_from(tag).map_err(|_| short())?;
        given.extend(tag.to_le_bytes());
        given.extend(s.u16_be(at.saturating_add(8))?.to_le_bytes());
        given.extend(id.to_le_bytes());
    }
    Ok((name.to_vec(), given))
}
