//! Inodes: place, fields and checksum.
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`.

use rehost_block::{Error, Fields, Result};

use super::Ext4;
use super::checksum::crc32c;
use super::features::{incompat, ro_compat};
use super::superblock::checksum_error;
use crate::number::{div, join, join16, rem};
use crate::{Attributes, FileKind};

/// Inode flags.
pub(super) mod flag {
    pub(crate) const IMMUTABLE: u32 = 0x10;
    pub(crate) const APPEND: u32 = 0x20;
    pub(crate) const COMPRESSED: u32 = 0x4;
    pub(crate) const ENCRYPT: u32 = 0x800;
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const VERITY: u32 = 0x10_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
    pub(crate) const PROJINHERIT: u32 = 0x2000_0000;
    pub(crate) const CASEFOLD: u32 = 0x4000_0000;
}

/// The root directory's inode.
pub(super) const ROOT: u32 = 2;

/// Bytes of the block map, which also hold short links and inline content.
pub(super) const MAP_LEN: usize = 60;

/// One inode.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) number: u32,
    /// Byte offset of it on the disk.
    pub(super) at: u64,
    /// All of it, as stored.
    pub(super) raw: Vec<u8>,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) flags: u32,
    pub(super) links: u16,
    /// In units of 512 bytes, or of blocks with `HUGE_FILE`.
    pub(super) blocks: u64,
    pub(super) file_acl: u64,
    pub(super) extra_isize: u16,
    /// Seed of the checksums of what belongs to this inode.
    pub(super) seed: u32,
}

/// Where an inode is.
pub(super) struct Place {
    pub(super) block: u64,
    pub(super) within: u64,
}

impl Node {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, "inode", self.at)
    }

    /// The 60 bytes of the block map.
    pub(super) fn map(&self) -> Result<&[u8]> {
        self.fields().bytes(0x28, MAP_LEN)
    }

    pub(super) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn kind(&self) -> Result<FileKind> {
        Ok(match self.mode & 0xf000 {
            0x1000 => FileKind::Fifo,
            0x2000 => FileKind::CharDevice,
            0x4000 => FileKind::Directory,
            0x6000 => FileKind::BlockDevice,
            0x8000 => FileKind::Regular,
            0xa000 => FileKind::Symlink,
            0xc000 => FileKind::Socket,
            other => {
                return Err(self
                    .corrupt("unknown file type")
                    .mismatch("a file type", format!("{other:#x}")));
            }
        })
    }

    /// A corrupt-input error about this inode.
    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(format!("{what} in inode {}", self.number))
            .in_structure("inode")
            .at(self.at)
    }

    /// An unsupported-input error about this inode.
    pub(super) fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!("{what} (inode {})", self.number))
            .in_structure("inode")
            .at(self.at)
    }

    /// A usage error unless it is of `kind`.
    pub(super) fn expect(&self, kind: FileKind, what: &str) -> Result<()> {
        if self.kind()? == kind {
            Ok(())
        } else {
            Err(Error::usage(format!("inode {} is not {what}", self.number)))
        }
    }

    /// Refuses content that this program cannot see.
    pub(super) fn check_plain(&self) -> Result<()> {
        if self.has(flag::ENCRYPT) {
            return Err(self.unsupported("content or names are encrypted (fscrypt)"));
        }
        if self.has(flag::COMPRESSED) {
            return Err(self.unsupported("content is compressed (e2compr)"));
        }
        if self.mode & 0xf000 == 0x4000 && self.has(flag::CASEFOLD) {
            return Err(self.unsupported("directory ignores case (casefold)"));
        }
        Ok(())
    }

    /// Whether a field that ends at byte `end` of the inode exists in it.
    pub(super) fn fits(&self, end: usize) -> bool {
        usize::from(self.extra_isize).saturating_add(128) >= end && self.raw.len() >= end
    }

    /// Blocks of 512 bytes that an attribute block accounts for.
    fn acl_blocks(&self, block_size: u32) -> u64 {
        if self.file_acl == 0 {
            return 0;
        }
        if self.has(flag::HUGE_FILE) {
            1
        } else {
            u64::from(block_size / 512)
        }
    }

    /// Whether a symbolic link's target is in the inode itself.
    pub(super) fn is_fast_link(&self, block_size: u32) -> bool {
        !self.has(flag::EXTENTS) && self.size < 60 && self.blocks == self.acl_blocks(block_size)
    }

    /// Bytes of the disk that it takes. Linux counts a file's content in the inode as if it had blocks.
    fn allocated(&self, kind: FileKind, block_size: u32) -> u64 {
        let unit = if self.has(flag::HUGE_FILE) {
            u64::from(block_size)
        } else {
            512
        };
        let inline = if kind == FileKind::Regular && self.has(flag::INLINE_DATA) {
            rehost_block::round_up(self.size, 512)
        } else {
            0
        };
        self.blocks.saturating_mul(unit).saturating_add(inline)
    }

    /// What `stat` says of it on a filesystem with blocks of `block_size` bytes.
    pub(super) fn attributes(&self, block_size: u32) -> Result<Attributes> {
        let f = self.fields();
        let kind = self.kind()?;
        let device = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                let (old, new) = (f.u32_le(0x28)?, f.u32_le(0x2c)?);
                Some(if old != 0 {
                    ((old >> 8) & 0xff, old & 0xff)
                } else {
                    (
                        (new & 0xf_ff00) >> 8,
                        (new & 0xff) | ((new >> 12) & 0xf_ff00),
                    )
                })
            }
            _ => None,
        };
        let [a, b, c, d] = f.array::<4>(0x10)?;
        let mut mtime = i64::from(i32::from_le_bytes([a, b, c, d]));
        if self.fits(0x8c) {
            let epoch = f.u32_le(0x88)? & 3;
            mtime = mtime.saturating_add(i64::from(epoch) << 32);
        }
        Ok(Attributes {
            kind,
            mode: self.mode & 0xfff,
            uid: join16(f.u16_le(0x2)?, f.u16_le(0x78)?),
            gid: join16(f.u16_le(0x18)?, f.u16_le(0x7a)?),
            size: self.size,
            allocated: self.allocated(kind, block_size),
            links: u32::from(self.links),
            mtime,
            device,
        })
    }
}

/// The checksum of an inode's bytes: what its two fields must hold.
pub(super) fn checksum(seed: u32, raw: &[u8]) -> u32 {
    let has_hi = has_high_checksum(raw);
    let part = |from: usize, to: usize| raw.get(from..to.min(raw.len())).unwrap_or_default();
    let mut crc = crc32c(seed, part(0, 0x7c));
    crc = crc32c(crc, &[0, 0]);
    if has_hi {
        crc = crc32c(crc, part(0x7e, 0x82));
        crc = crc32c(crc, &[0, 0]);
        crc32c(crc, part(0x84, raw.len()))
    } else {
        crc32c(crc, part(0x7e, raw.len()))
    }
}

/// Whether the inode has the upper half of its checksum.
pub(super) fn has_high_checksum(raw: &[u8]) -> bool {
    raw.len() > 128
        && raw
            .get(0x80..0x82)
            .and_then(|bytes| bytes.first_chunk::<2>())
            .is_some_and(|bytes| u16::from_le_bytes(*bytes) >= 4)
}

impl Ext4 {
    /// Where inode `number` is stored.
    pub(super) fn place(&self, number: u32) -> Result<Place> {
        let Some(index) = number
            .checked_sub(1)
            .filter(|_| number <= self.sb.inodes_count)
        else {
            return Err(Error::corrupt(format!("inode {number} does not exist"))
                .in_structure("inode table")
                .mismatch(format!("1 to {}", self.sb.inodes_count), number));
        };
        let per_group = self.sb.inodes_per_group;
        let group = index.checked_div(per_group).unwrap_or_default();
        let nth = index.checked_rem(per_group).unwrap_or_default();
        let table = self.groups.get(&self.sb, group)?.inode_table;
        let byte = u64::from(nth).saturating_mul(u64::from(self.sb.inode_size));
        let block_size = u64::from(self.sb.block_size);
        Ok(Place {
            block: table.saturating_add(div(byte, block_size)),
            within: rem(byte, block_size),
        })
    }

    /// Seed of the checksums of what belongs to an inode.
    pub(super) fn inode_seed(&self, number: u32, generation: u32) -> u32 {
        let crc = crc32c(self.sb.seed, &number.to_le_bytes());
        crc32c(crc, &generation.to_le_bytes())
    }

    /// Reads inode `number`, which must be in use.
    pub(super) fn node(&self, number: u32) -> Result<Node> {
        let node = self.stored_node(number)?;
        if node.links == 0 || node.mode == 0 {
            return Err(node.corrupt("a name or reference leads to a deleted file"));
        }
        Ok(node)
    }

    /// Reads inode `number` as stored; its checksum must match.
    pub(super) fn stored_node(&self, number: u32) -> Result<Node> {
        let place = self.place(number)?;
        let mut raw = vec![0; usize::from(self.sb.inode_size)];
        self.blocks
            .read_part(place.block, place.within, &mut raw)
            .map_err(|error| error.in_structure("inode table"))?;
        let at = self.blocks.offset(place.block).saturating_add(place.within);
        self.parse_node(number, at, raw)
    }

    fn parse_node(&self, number: u32, at: u64, raw: Vec<u8>) -> Result<Node> {
        let f = Fields::new(&raw, "inode", at);
        let generation = f.u32_le(0x64)?;
        let seed = self.inode_seed(number, generation);
        if self.sb.has_checksums() {
            let computed = checksum(seed, &raw);
            let low = f.u16_le(0x7c)?;
            let (stored, mask) = if has_high_checksum(&raw) {
                (join16(low, f.u16_le(0x82)?), u32::MAX)
            } else {
                (u32::from(low), 0xffff)
            };
            if computed & mask != stored && raw.iter().any(|byte| *byte != 0) {
                return Err(
                    checksum_error(&f, 0x7c, computed & mask, stored).hint(format!(
                        "inode {number} is damaged: run e2fsck on the original"
                    )),
                );
            }
        }
        self.node_of(number, at, raw)
    }

    /// The fields of an inode's bytes, whatever its checksum.
    pub(super) fn node_of(&self, number: u32, at: u64, raw: Vec<u8>) -> Result<Node> {
        let f = Fields::new(&raw, "inode", at);
        let seed = self.inode_seed(number, f.u32_le(0x64)?);
        let mode = f.u16_le(0)?;
        let flags = f.u32_le(0x20)?;
        let extra_isize = if raw.len() > 128 { f.u16_le(0x80)? } else { 0 };
        if usize::from(extra_isize) > raw.len().saturating_sub(128)
            || !extra_isize.is_multiple_of(4)
        {
            return Err(f.corrupt(0x80, format!("extra size of inode {number} makes no sense")));
        }
        // Directories have 64-bit sizes only with large_dir; their upper half was an ACL once.
        let far = mode & 0xf000 == 0x8000
            || mode & 0xf000 == 0x4000 && self.sb.features.incompat(incompat::LARGE_DIR);
        let size_hi = if far { f.u32_le(0x6c)? } else { 0 };
        let wide64 = self.sb.features.incompat(incompat::BIT64);
        let acl_hi = if wide64 { f.u16_le(0x76)? } else { 0 };
        let blocks_hi = if self.sb.features.ro_compat(ro_compat::HUGE_FILE) {
            f.u16_le(0x74)?
        } else {
            0
        };
        let size = join(f.u32_le(0x4)?, size_hi);
        if i64::try_from(size).is_err() {
            return Err(f.corrupt(0x6c, format!("size of inode {number} is negative")));
        }
        Ok(Node {
            mode,
            size,
            flags,
            links: f.u16_le(0x1a)?,
            blocks: join(f.u32_le(0x1c)?, u32::from(blocks_hi)),
            file_acl: join(f.u32_le(0x68)?, u32::from(acl_hi)),
            extra_isize,
            seed,
            number,
            at,
            raw,
        })
    }
}
