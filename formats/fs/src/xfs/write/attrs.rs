//! Extended attributes of an inode, as long as they fit into it.
//!
//! Source: "XFS Algorithms & Data Structures", section "Short Form Attributes".

use rehost_block::{Error, Fields, Result};

use super::super::inode::{Format, Node};
use super::change::Change;
use super::core::{Stamp, format};
use super::space::list_len;
use super::stamp::{put, put8, put16, put32};

/// Bytes of the header of short attributes.
const HEADER: usize = 4;
/// Where the attribute fork of a new inode begins, in units of 8 bytes, when nothing asks for another
/// place: where Linux puts it in inodes of 512 bytes.
const USUAL: usize = 24;
/// Bytes that a data fork needs when it may become the root of a tree: header and three records.
const LEAST_DATA: usize = 56;
/// The same of an attribute fork: header and two records.
const LEAST_ATTR: usize = 36;

/// `sb_versionnum`: there are attributes.
const VERSION_ATTR: u16 = 0x0010;
/// `sb_features2`: their fork begins anywhere.
const FEATURES2_ATTR2: u32 = 0x8;

/// Flags of an attribute.
const ROOT: u8 = 2;
const SECURE: u8 = 4;

/// An attribute as it is stored.
#[derive(Debug)]
struct Attribute {
    flags: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Change<'_> {
    /// Sets an attribute in the inode itself.
    pub(super) fn set_attribute(&mut self, number: u64, name: &[u8], value: &[u8]) -> Result<()> {
        if !self.fs.sb.v5 {
            return Err(Error::unsupported(
                "filesystem of version 4: attributes cannot be set",
            ));
        }
        let node = self.changeable(number)?;
        let (flags, short) = stored_name(name)?;
        if value.len() > 255 {
            return Err(no_room());
        }
        let mut all = self.short_attributes(&node)?;
        let new = Attribute {
            flags,
            name: short.to_vec(),
            value: value.to_vec(),
        };
        match all
            .iter_mut()
            .find(|other| other.flags == flags && other.name == short)
        {
            Some(old) => *old = new,
            None => all.push(new),
        }
        let bytes = packed(&all)?;
        let mut raw = node.raw().to_vec();
        self.set_attr_fork(&node, &mut raw, &bytes)?;
        self.touch(&mut raw, &[Stamp::Changed])?;
        self.put_inode(number, raw)?;
        self.announce_attributes()
    }

    fn short_attributes(&self, node: &Node) -> Result<Vec<Attribute>> {
        let Some(fork) = node.attr()? else {
            return Ok(Vec::new());
        };
        match fork.format {
            Format::Local => {}
            Format::Extents if fork.extents == 0 => return Ok(Vec::new()),
            _ => {
                return Err(node.fields().unsupported(
                    83,
                    format!(
                        "inode {} has attributes in blocks of their own",
                        node.number
                    ),
                ));
            }
        }
        let f = Fields::new(fork.raw, "short attributes", fork.offset);
        let mut at = HEADER;
        let mut all = Vec::new();
        for _ in 0..f.u8(2)? {
            let names = usize::from(f.u8(at)?);
            let values = usize::from(f.u8(at.saturating_add(1))?);
            let flags = f.u8(at.saturating_add(2))?;
            at = at.saturating_add(3);
            let name = f.bytes(at, names)?.to_vec();
            at = at.saturating_add(names);
            let value = f.bytes(at, values)?.to_vec();
            at = at.saturating_add(values);
            all.push(Attribute { flags, name, value });
        }
        Ok(all)
    }

    /// Puts short attributes into an inode, moving where their fork begins when it must.
    fn set_attr_fork(&self, node: &Node, raw: &mut [u8], bytes: &[u8]) -> Result<()> {
        let core = self.core_len();
        let area = raw.len().saturating_sub(core);
        let data = node.data()?;
        let now = usize::from(node.fields().u8(82)?);
        let need = bytes.len().max(LEAST_ATTR);
        let fits = |skip: usize| {
            skip.saturating_mul(8)
                .checked_add(bytes.len())
                .is_some_and(|end| end <= area)
        };
        let used = match data.format {
            Format::Device => 8,
            Format::Local => node.local()?.len(),
            Format::Extents => list_len(&self.fs.extents(node, &data)?),
            Format::Tree => usize::MAX,
        };
        let skip = if now != 0 && fits(now) {
            now
        } else if data.format == Format::Tree {
            return Err(no_room());
        } else if data.format == Format::Device {
            1
        } else {
            let least = used.max(LEAST_DATA).div_ceil(8);
            let most = area.saturating_sub(need) / 8;
            if least > most {
                return Err(no_room());
            }
            USUAL.clamp(least, most)
        };
        if !fits(skip) {
            return Err(no_room());
        }
        let from = core.saturating_add(skip.saturating_mul(8));
        // What the data fork gains or loses by the move is not in use.
        let kept = core.saturating_add(used.min(skip.saturating_mul(8)));
        if data.format != Format::Tree
            && let Some(rest) = raw.get_mut(kept..)
        {
            rest.fill(0);
        }
        if let Some(fork) = raw.get_mut(from..) {
            fork.fill(0);
        }
        put(raw, from, bytes)?;
        put8(raw, 82, u8::try_from(skip).map_err(|_| no_room())?)?;
        put8(raw, 83, format::LOCAL)
    }

    /// Says in the superblock that there are attributes.
    fn announce_attributes(&mut self) -> Result<()> {
        let mut raw = self.superblock()?;
        let f = Fields::new(&raw, "superblock", 0);
        let (version, features) = (f.u16_be(100)?, f.u32_be(200)?);
        if version & VERSION_ATTR != 0 && features & FEATURES2_ATTR2 != 0 {
            return Ok(());
        }
        put16(&mut raw, 100, version | VERSION_ATTR)?;
        put32(&mut raw, 200, features | FEATURES2_ATTR2)?;
        // The copy that old systems read.
        put32(&mut raw, 204, features | FEATURES2_ATTR2)?;
        self.put_superblock(raw)
    }
}

/// The namespace and the name within it, as stored.
fn stored_name(name: &[u8]) -> Result<(u8, &[u8])> {
    let spaces: [(&[u8], u8); 3] = [(b"user.", 0), (b"trusted.", ROOT), (b"security.", SECURE)];
    for (prefix, flags) in spaces {
        if let Some(short) = name.strip_prefix(prefix)
            && !short.is_empty()
            && short.len() <= 255
            && !short.contains(&0)
        {
            return Ok((flags, short));
        }
    }
    Err(Error::unsupported(format!(
        "attribute {} is in no namespace that can be written (user, trusted, security)",
        String::from_utf8_lossy(name)
    )))
}

fn packed(all: &[Attribute]) -> Result<Vec<u8>> {
    let narrow = |len: usize| u8::try_from(len).map_err(|_| no_room());
    let mut bytes = vec![0, 0, narrow(all.len())?, 0];
    for Attribute { flags, name, value } in all {
        bytes.extend([narrow(name.len())?, narrow(value.len())?, *flags]);
        bytes.extend(name);
        bytes.extend(value);
    }
    let len = u16::try_from(bytes.len()).map_err(|_| no_room())?;
    put16(&mut bytes, 0, len)?;
    Ok(bytes)
}

fn no_room() -> Error {
    Error::unsupported("no room for the attribute in the inode").in_structure("short attributes")
}
