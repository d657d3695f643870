//! The preheader and header of a VDI: its type and size, and where map and blocks are.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage};
use uuid::Uuid;

use crate::options::VdiKind;

/// Bytes of the preheader and the longest header that we know: all that is read.
pub(super) const HEADER_LEN: usize = 512;

pub(super) const STRUCTURE: &str = "VDI header";

/// `cBlocksAllocated`, in the file.
pub(super) const COUNT_AT: u64 = 0x184;

/// `u32Signature`, at byte 64.
const SIGNATURE: u32 = 0xbeda_107f;

/// Bytes of the preheader: a line of text, the signature, the version.
const PREHEADER_LEN: u32 = 72;

/// The shortest header of version 1 (up to the last UUID), and the one that we write (with a second
/// geometry), in bytes.
const SHORTEST: u32 = 0x180;
const OURS: u32 = 0x190;

/// Map entries that are kept in memory (64 MiB): 16 TiB in usual blocks. Ours.
pub(super) const MAX_BLOCKS: u64 = 16 << 20;

const SECTOR: u64 = 512;

/// Kinds of image that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageType {
    Dynamic,
    Static,
    /// Blocks that are free are the parent's.
    Differencing,
}

/// A header, checked.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) image_type: ImageType,
    /// Where the block map is.
    pub(super) map: u64,
    /// Where block 0 of the file is.
    pub(super) data: u64,
    /// Guest-visible bytes.
    pub(super) disk_size: u64,
    /// Guest bytes per block, a power of two.
    pub(super) block: NonZeroU64,
    /// Bytes before each block in the file that are not the guest's.
    pub(super) extra: u64,
    /// Entries of the map that the disk needs.
    pub(super) entries: u64,
    /// How many blocks the header says are stored.
    pub(super) allocated: u32,
    pub(super) uuid: Uuid,
    /// `uuidModify`, which changes with the content.
    pub(super) modified: Uuid,
    /// Of a differencing image, the disk that it lies over.
    pub(super) parent: Option<Parent>,
}

/// A parent as its child remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    /// `uuidLinkage`: the parent's `uuidCreate`.
    pub(super) uuid: Uuid,
    /// `uuidParentModify`: the parent's `uuidModify`; nil where nobody noted it.
    pub(super) modified: Uuid,
}

impl Header {
    /// The header of `storage`.
    ///
    /// # Errors
    /// Corrupt when it is none, or contradicts itself or the file's length; Unsupported for a
    /// version or type that is not read.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let len = usize::try_from(storage.size())
            .unwrap_or(HEADER_LEN)
            .min(HEADER_LEN);
        let mut bytes = vec![0; len];
        storage.read_at(&mut bytes, 0)?;
        Self::parse(&Fields::new(&bytes, STRUCTURE, 0), storage.size())
    }

    fn parse(fields: &Fields<'_>, file_size: u64) -> Result<Self> {
        let signature = fields.u32_le(0x40)?;
        if signature != SIGNATURE {
            return Err(fields
                .corrupt(0x40, "signature is missing")
                .mismatch(format!("{SIGNATURE:#x}"), format!("{signature:#x}"))
                .hint("the file is no VDI, or is still being written"));
        }
        let (minor, major) = (fields.u16_le(0x44)?, fields.u16_le(0x46)?);
        if major != 1 {
            return Err(fields
                .unsupported(0x44, "version is not read")
                .mismatch("1.1", format!("{major}.{minor}")));
        }
        let header_len = fields.u32_le(0x48)?;
        if header_len < SHORTEST {
            return Err(fields
                .corrupt(0x48, "header is too short")
                .mismatch(format!("at least {SHORTEST} bytes"), header_len));
        }
        let (image_type, parent) = image_type(fields)?;
        let block = u64::from(fields.u32_le(0x178)?);
        let block = NonZeroU64::new(block)
            .filter(|block| block.is_power_of_two() && block.get() >= SECTOR)
            .ok_or_else(|| {
                fields
                    .corrupt(0x178, "block size is out of range")
                    .mismatch("a power of two from 512", block)
            })?;
        let disk_size = fields.u64_le(0x170)?;
        let entries = disk_size.div_ceil(block.get());
        let stored = u64::from(fields.u32_le(0x180)?);
        if entries > stored {
            return Err(fields
                .corrupt(0x180, "block map is too short for the disk")
                .mismatch(format!("at least {entries} entries"), stored));
        }
        if entries > MAX_BLOCKS {
            return Err(fields
                .unsupported(0x180, "block map is too long")
                .mismatch(format!("at most {MAX_BLOCKS} entries"), entries));
        }
        let header = Self {
            image_type,
            map: u64::from(fields.u32_le(0x154)?),
            data: u64::from(fields.u32_le(0x158)?),
            disk_size,
            block,
            extra: u64::from(fields.u32_le(0x17c)?),
            entries,
            allocated: fields.u32_le(0x184)?,
            uuid: Uuid::from_bytes_le(fields.array(0x188)?),
            modified: Uuid::from_bytes_le(fields.array(0x198)?),
            parent,
        };
        let header_end = u64::from(PREHEADER_LEN.saturating_add(header_len));
        header.check_places(fields, header_end, file_size)?;
        Ok(header)
    }

    /// Header, map and blocks follow each other, and the map is whole.
    fn check_places(&self, fields: &Fields<'_>, header_end: u64, file_size: u64) -> Result<()> {
        if self.map < header_end {
            return Err(fields
                .corrupt(0x154, "block map lies over the header")
                .mismatch(format!("at least {header_end}"), self.map));
        }
        let map_end = self.map.saturating_add(self.entries.saturating_mul(4));
        if map_end > file_size {
            return Err(fields
                .corrupt(0x154, "block map lies past the end of the file")
                .mismatch(format!("an end of at most {file_size}"), map_end)
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        if self.data < map_end {
            return Err(fields
                .corrupt(0x158, "blocks lie over the block map")
                .mismatch(format!("at least {map_end}"), self.data));
        }
        Ok(())
    }
}

fn image_type(fields: &Fields<'_>) -> Result<(ImageType, Option<Parent>)> {
    let parent = Parent {
        uuid: Uuid::from_bytes_le(fields.array(0x1a8)?),
        modified: Uuid::from_bytes_le(fields.array(0x1b8)?),
    };
    let linked = |what: &str| {
        Err(fields
            .unsupported(0x4c, format!("{what} over the disk {}", parent.uuid))
            .hint("merge it in VirtualBox (VBoxManage clonemedium) and convert the result"))
    };
    match fields.u32_le(0x4c)? {
        1 | 2 if !parent.uuid.is_nil() => linked("is no differencing image, and lies"),
        1 => Ok((ImageType::Dynamic, None)),
        2 => Ok((ImageType::Static, None)),
        3 => linked("is an undo image"),
        4 if parent.uuid.is_nil() => {
            Err(fields.corrupt(0x1a8, "is a differencing image and names no parent"))
        }
        4 => Ok((ImageType::Differencing, Some(parent))),
        other => Err(fields
            .unsupported(0x4c, "image type is unknown")
            .mismatch("1 (dynamic), 2 (static) or 4 (differencing)", other)),
    }
}

/// Whether `head`, the first bytes of a file, are those of a VDI.
pub(crate) fn is_vdi(head: &[u8]) -> bool {
    Fields::new(head, STRUCTURE, 0)
        .u32_le(0x40)
        .is_ok_and(|signature| signature == SIGNATURE)
}

/// What a new image's header says.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: VdiKind,
    pub(super) map: u32,
    pub(super) data: u32,
    pub(super) disk_size: u64,
    pub(super) block: u32,
    pub(super) entries: u32,
    pub(super) allocated: u32,
}

impl Draft {
    /// Its bytes, with new UUIDs.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = b"<<< rehost VirtualBox Disk Image >>>\n".to_vec();
        bytes.resize(0x40, 0);
        let words = |bytes: &mut Vec<u8>, words: &[u32]| {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        let image_type = match self.kind {
            VdiKind::Dynamic => 1,
            VdiKind::Static => 2,
        };
        // Version 1.1, length, type, no flags, no comment.
        words(&mut bytes, &[SIGNATURE, 0x0001_0001, OURS, image_type, 0]);
        bytes.resize(0x154, 0);
        // The geometry is left to the reader, but for the bytes of a sector.
        words(&mut bytes, &[self.map, self.data, 0, 0, 0, 512, 0]);
        bytes.extend(self.disk_size.to_le_bytes());
        words(&mut bytes, &[self.block, 0, self.entries, self.allocated]);
        for _ in ["uuidCreate", "uuidModify"] {
            bytes.extend(Uuid::new_v4().to_bytes_le());
        }
        // No link, no parent; the second geometry, also left to the reader.
        bytes.resize(0x1c8, 0);
        words(&mut bytes, &[0, 0, 0, 512]);
        bytes.resize(HEADER_LEN, 0);
        bytes
    }
}
