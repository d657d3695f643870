//! Inodes: what `stat` says of a file.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `INODE_ITEM`.

use std::sync::Arc;

use rehost_block::{Error, Result};

use super::key::{Key, kind};
use super::root::{EMPTY, Root};
use super::{Btrfs, Volume};
use crate::{Attributes, FileKind, Inode};

/// Bits of an inode's flags.
pub(super) mod flags {
    pub(in super::super) const NODATASUM: u64 = 1;
    pub(in super::super) const IMMUTABLE: u64 = 1 << 6;
    pub(in super::super) const APPEND: u64 = 1 << 7;
    /// In the upper half, of the flags that forbid to mount when unknown.
    pub(in super::super) const VERITY: u64 = 1 << 32;
}

/// Bytes of an inode item.
pub(super) const SIZE: usize = 160;

/// An inode of a subvolume.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) root: Arc<Root>,
    pub(super) number: u64,
    /// The item's 160 bytes.
    pub(super) raw: Vec<u8>,
    /// Where the item is.
    pub(super) place: u64,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) mode: u32,
    pub(super) flags: u64,
}

impl Node {
    fn parse(root: Arc<Root>, number: u64, raw: &[u8], place: u64) -> Result<Self> {
        let f = rehost_block::Fields::new(raw, "inode item", place);
        let upper = f.u64_le(64)? >> 32;
        if upper & !1 != 0 {
            return Err(f.unsupported(68, format!("inode has unknown flags {upper:#x}")));
        }
        let node = Self {
            root,
            number,
            place,
            size: f.u64_le(16)?,
            links: f.u32_le(40)?,
            mode: f.u32_le(52)?,
            flags: f.u64_le(64)?,
            raw: f.bytes(0, SIZE)?.to_vec(),
        };
        if node.size > i64::MAX.unsigned_abs() {
            return Err(f
                .corrupt(16, "file is impossibly large")
                .mismatch(format!("at most {}", i64::MAX), node.size));
        }
        Ok(node)
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(format!(
            "inode {} of subvolume {}: {}",
            self.number,
            self.root.id,
            what.into()
        ))
        .in_structure("inode item")
        .at(self.place)
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::unsupported(format!(
            "inode {} of subvolume {} {}",
            self.number,
            self.root.id,
            what.into()
        ))
        .in_structure("inode item")
        .at(self.place)
    }

    pub(super) fn kind(&self) -> Result<FileKind> {
        Ok(match self.mode >> 12 {
            0o10 => FileKind::Regular,
            0o4 => FileKind::Directory,
            0o12 => FileKind::Symlink,
            0o2 => FileKind::CharDevice,
            0o6 => FileKind::BlockDevice,
            0o1 => FileKind::Fifo,
            0o14 => FileKind::Socket,
            _ => return Err(self.corrupt(format!("mode {:o} is no file's", self.mode))),
        })
    }

    /// Refuses what is not of the kind that was asked for.
    pub(super) fn expect(&self, kind: FileKind, what: &str) -> Result<()> {
        if self.kind()? == kind {
            return Ok(());
        }
        Err(Error::usage(format!("inode {} is not {what}", self.number)))
    }

    /// What `stat` says of it on a filesystem with sectors of `sector` bytes.
    pub(super) fn attributes(&self, sector: u32) -> Result<Attributes> {
        let f = rehost_block::Fields::new(&self.raw, "inode item", self.place);
        let kind = self.kind()?;
        let rdev = f.u64_le(56)?;
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice).then(|| {
            // The kernel's own form of a device number, 12 and 20 bits.
            let half = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            (half(rdev >> 20), half(rdev & 0xf_ffff))
        });
        Ok(Attributes {
            kind,
            mode: u16::try_from(self.mode & 0xfff).unwrap_or_default(),
            uid: f.u32_le(44)?,
            gid: f.u32_le(48)?,
            size: self.size,
            allocated: rehost_block::round_up(f.u64_le(24)?, sector.into()),
            links: self.links,
            mtime: i64::from_le_bytes(f.array(136)?),
            device,
        })
    }
}

impl Volume {
    /// The inode numbered `number` of a subvolume.
    pub(super) fn node(&self, root: &Arc<Root>, number: u64) -> Result<Node> {
        if number == EMPTY {
            return empty(root);
        }
        let key = Key::new(number, kind::INODE_ITEM, 0);
        let item = self.files(root).get(key)?.ok_or_else(|| {
            Error::corrupt(format!("subvolume {} has no inode {number}", root.id))
                .in_structure("inode item")
        })?;
        let f = item.fields("inode item");
        Node::parse(
            Arc::clone(root),
            number,
            f.bytes(0, f.len())?,
            f.offset_of(0),
        )
    }
}

/// The directory that stands for a subvolume which is not there; as the kernel shows it.
fn empty(root: &Arc<Root>) -> Result<Node> {
    let mut raw = [0; SIZE];
    for (at, value) in [(40, 1u32), (52, 0o040_755)] {
        if let Some(place) = raw.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
            *place = value.to_le_bytes();
        }
    }
    Node::parse(Arc::clone(root), EMPTY, &raw, 0)
}

impl Btrfs {
    pub(super) fn node(&self, inode: Inode) -> Result<Node> {
        let (root, number) = self.unpack(inode);
        self.volume.node(&self.volume.subvolume(root)?, number)
    }
}
