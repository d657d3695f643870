//! Inodes of versions 1, 2 and 3: fields, forks and checksum.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "On-disk Inode"; Linux
//! `fs/xfs/libxfs/xfs_format.h` for `bigtime` and 64-bit extent counts.

use rehost_block::{Error, Fields, Result};

use super::Xfs;
use super::check::{self, HEADER_HINT};
use crate::number::length;
use crate::{Attributes, FileKind};

const NAME: &str = "inode";

/// `di_flags`: the content is on the realtime device.
const FLAG_REALTIME: u16 = 0x1;
/// `di_flags2`: times count nanoseconds.
const FLAG2_BIGTIME: u64 = 1 << 3;
/// `di_flags2`: extents are counted in 64 bits.
const FLAG2_NREXT64: u64 = 1 << 4;
/// Seconds before 1970 at which `bigtime` begins to count.
const BIGTIME_EPOCH: i64 = 1 << 31;

/// How a fork holds what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A device number.
    Device,
    /// The content itself.
    Local,
    /// A list of extents.
    Extents,
    /// The root of an extent tree.
    Tree,
}

/// One of the two forks of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    pub(super) format: Format,
    pub(super) raw: &'a [u8],
    /// Byte offset on the disk.
    pub(super) offset: u64,
    /// How many extents it has.
    pub(super) extents: u64,
}

/// An inode in use.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) number: u64,
    /// Byte offset on the disk.
    pub(super) offset: u64,
    raw: Vec<u8>,
    pub(super) size: u64,
    core: usize,
    version: u8,
    flags2: u64,
}

impl Xfs {
    /// The inode called `number`.
    pub(super) fn node(&self, number: u64) -> Result<Node> {
        let (block, within) = self.sb.place(number).ok_or_else(|| {
            Error::corrupt(format!("inode {number} lies outside the filesystem")).in_structure(NAME)
        })?;
        let mut raw = vec![0; usize::from(self.sb.inode_size)];
        self.blocks.read_part(block, within, &mut raw)?;
        let offset = self.blocks.offset(block).saturating_add(within);
        self.parse(number, raw, offset)
    }

    fn parse(&self, number: u64, raw: Vec<u8>, offset: u64) -> Result<Node> {
        let f = Fields::new(&raw, NAME, offset);
        if f.bytes(0, 2)? != b"IN" {
            return Err(f.corrupt(0, format!("{number} is not an inode")));
        }
        let version = f.u8(4)?;
        let expected: &[u8] = if self.sb.v5 { &[3] } else { &[1, 2] };
        if !expected.contains(&version) {
            return Err(f.corrupt(4, format!("inode {number} has version {version}")));
        }
        let (core, flags2) = if version == 3 {
            check::crc(&raw, 100, self.verify(offset, raw.len()), NAME, offset)?;
            if f.u64_be(152)? != number || f.array::<16>(160)? != self.sb.meta_uuid {
                return Err(f.corrupt(152, format!("inode {number} was written for another place")));
            }
            (176, f.u64_be(120)?)
        } else {
            (100, 0)
        };
        if f.u16_be(2)? == 0 {
            return Err(f.corrupt(2, format!("inode {number} is not in use")));
        }
        let size = f.u64_be(56)?;
        if i64::try_from(size).is_err() {
            return Err(f.corrupt(56, "impossible length").hint(HEADER_HINT));
        }
        Ok(Node {
            number,
            offset,
            size,
            core,
            version,
            flags2,
            raw,
        })
    }
}

impl Node {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, NAME, self.offset)
    }

    /// All its bytes.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// A corrupt-input error about this inode as a whole.
    pub(super) fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        self.fields()
            .corrupt(0, format!("inode {}: {what}", self.number))
            .hint(HEADER_HINT)
    }

    pub(super) fn kind(&self) -> Result<FileKind> {
        match self.fields().u16_be(2)? >> 12 {
            0x1 => Ok(FileKind::Fifo),
            0x2 => Ok(FileKind::CharDevice),
            0x4 => Ok(FileKind::Directory),
            0x6 => Ok(FileKind::BlockDevice),
            0x8 => Ok(FileKind::Regular),
            0xa => Ok(FileKind::Symlink),
            0xc => Ok(FileKind::Socket),
            _ => Err(self.fields().corrupt(2, "unknown kind of file")),
        }
    }

    /// Itself being of kind `kind`, which is called `what`.
    pub(super) fn expect(&self, kind: FileKind, what: &str) -> Result<()> {
        if self.kind()? == kind {
            Ok(())
        } else {
            Err(Error::usage(format!("inode {} is not {what}", self.number)))
        }
    }

    pub(super) fn is_realtime(&self) -> Result<bool> {
        Ok(self.fields().u16_be(90)? & FLAG_REALTIME != 0)
    }

    fn fork_offset(&self) -> Result<usize> {
        Ok(usize::from(self.fields().u8(82)?).saturating_mul(8))
    }

    fn fork(&self, code: u8, from: usize, to: usize, extents: u64) -> Result<Fork<'_>> {
        let format = match code {
            0 => Format::Device,
            1 => Format::Local,
            2 => Format::Extents,
            3 => Format::Tree,
            other => return Err(self.corrupt(format!("fork has unknown format {other}"))),
        };
        let raw = self
            .raw
            .get(from..to)
            .ok_or_else(|| self.corrupt("attribute fork begins outside the inode"))?;
        Ok(Fork {
            format,
            raw,
            offset: self.fields().offset_of(from),
            extents,
        })
    }

    /// The fork with the content.
    pub(super) fn data(&self) -> Result<Fork<'_>> {
        let f = self.fields();
        let extents = if self.flags2 & FLAG2_NREXT64 == 0 {
            u64::from(f.u32_be(76)?)
        } else {
            f.u64_be(24)?
        };
        let to = match self.fork_offset()? {
            0 => self.raw.len(),
            skip => self.core.saturating_add(skip),
        };
        self.fork(f.u8(5)?, self.core, to, extents)
    }

    /// The fork with the extended attributes, if there is one.
    pub(super) fn attr(&self) -> Result<Option<Fork<'_>>> {
        let f = self.fields();
        let extents = if self.flags2 & FLAG2_NREXT64 == 0 {
            u64::from(f.u16_be(80)?)
        } else {
            u64::from(f.u32_be(76)?)
        };
        match self.fork_offset()? {
            0 => Ok(None),
            skip => {
                let from = self.core.saturating_add(skip);
                self.fork(f.u8(83)?, from, self.raw.len(), extents)
                    .map(Some)
            }
        }
    }

    /// Content that lies in the data fork.
    pub(super) fn local(&self) -> Result<&[u8]> {
        let fork = self.data()?;
        fork.raw
            .get(..length(self.size)?)
            .ok_or_else(|| self.corrupt("is longer than the inode that holds it"))
    }

    /// How many names it has.
    pub(super) fn links(&self) -> Result<u32> {
        let f = self.fields();
        if self.version == 1 {
            Ok(u32::from(f.u16_be(6)?))
        } else {
            f.u32_be(16)
        }
    }

    /// What `stat` says of it on a filesystem with blocks of `block_size` bytes.
    pub(super) fn attributes(&self, block_size: u32) -> Result<Attributes> {
        let f = self.fields();
        let kind = self.kind()?;
        let device = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
            let number = f.u32_be(self.core)?;
            Some((number >> 18, number & 0x3_ffff))
        } else {
            None
        };
        let mtime = if self.flags2 & FLAG2_BIGTIME == 0 {
            i64::from(i32::from_be_bytes(f.array(40)?))
        } else {
            let seconds = f.u64_be(40)? / 1_000_000_000;
            i64::try_from(seconds)
                .unwrap_or(i64::MAX)
                .saturating_sub(BIGTIME_EPOCH)
        };
        Ok(Attributes {
            kind,
            mode: f.u16_be(2)? & 0xfff,
            uid: f.u32_be(8)?,
            gid: f.u32_be(12)?,
            size: self.size,
            allocated: f.u64_be(64)?.saturating_mul(u64::from(block_size)),
            links: self.links()?,
            mtime,
            device,
        })
    }
}
