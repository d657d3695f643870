//! Inodes: fourteen kinds, seven basic and seven extended.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`, section 3.3, and `fs/squashfs/squashfs_fs.h`.

use rehost_block::{Error, Fields, Result};

use super::Squashfs;
use super::metadata::{Cursor, Place};
use crate::{Attributes, FileKind, Inode};

const STRUCTURE: &str = "inode";

/// The longest target of a symbolic link: what its writer takes.
const MOST_TARGET: usize = 65_535;

/// Where there is no fragment, or no extended attribute.
const NONE: u32 = u32::MAX;

/// One inode.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: FileKind,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: u32,
    links: u32,
    pub(super) content: Content,
    pub(super) xattr: Option<u32>,
}

/// What belongs to one kind of file.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Directory(Directory),
    File(File),
    Link(Vec<u8>),
    Device(u32, u32),
    Nothing,
}

/// Where a directory's entries are.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) place: Place,
    /// Bytes of them.
    pub(super) size: u32,
    /// Entries of the index, and where it is.
    pub(super) index: u16,
    pub(super) index_at: Place,
}

/// Where a file's content is.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) size: u64,
    /// Bytes of it that are holes.
    pub(super) sparse: u64,
    /// Byte offset of the first block on the disk.
    pub(super) start: u64,
    /// Number of a fragment block, and where the file's tail begins in it.
    pub(super) fragment: Option<(u32, u32)>,
    /// Where the lengths of the blocks are.
    pub(super) lengths: Place,
}

/// Fields of an inode in order.
struct Reader<'a>(Cursor<'a>);

impl Reader<'_> {
    fn u16(&mut self) -> Result<u16> {
        self.0.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.0.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.0.array().map(u64::from_le_bytes)
    }
}

fn some(value: u32) -> Option<u32> {
    (value != NONE).then_some(value)
}

/// As Linux packs a device number into 32 bits.
const fn device(packed: u32) -> (u32, u32) {
    let minor = (packed & 0xff) | ((packed >> 12) & 0xf_ff00);
    ((packed & 0xf_ff00) >> 8, minor)
}

impl Squashfs {
    /// The inode that `inode`, a reference, points at.
    pub(super) fn node(&self, inode: Inode) -> Result<Node> {
        let place = Place::of(self.sb.inode_table, inode.0);
        if place.block >= self.sb.dir_table {
            return Err(Error::corrupt("a reference points past the inodes")
                .in_structure(STRUCTURE)
                .at(place.block));
        }
        self.parse(place)
            .map_err(|error| error.in_structure(STRUCTURE).at(place.block))
    }

    fn parse(&self, place: Place) -> Result<Node> {
        let mut cursor = self.metadata.cursor(place);
        let head = cursor.array::<16>()?;
        let f = Fields::new(&head, STRUCTURE, place.block);
        let (number, mode) = (f.u16_le(0)?, f.u16_le(2)?);
        let (uid, gid) = (self.owner(f.u16_le(4)?)?, self.owner(f.u16_le(6)?)?);
        let mut raw = Reader(cursor);
        let (basic, extended) = match number {
            1..=7 => (number, false),
            8..=14 => (number.saturating_sub(7), true),
            other => return Err(f.corrupt(0, format!("unknown type {other}"))),
        };
        let mut links = 1;
        let mut xattr = None;
        let (kind, content) = match basic {
            1 => {
                let (found, directory) = if extended {
                    let found = raw.u32()?;
                    (
                        found,
                        extended_directory(&mut raw, self.sb.dir_table, &mut xattr)?,
                    )
                } else {
                    basic_directory(&mut raw, self.sb.dir_table)?
                };
                links = found;
                (FileKind::Directory, Content::Directory(directory))
            }
            2 => {
                let file = if extended {
                    extended_file(&mut raw, &mut links, &mut xattr)?
                } else {
                    basic_file(&mut raw)?
                };
                (FileKind::Regular, Content::File(file))
            }
            3 => {
                links = raw.u32()?;
                let len = raw.u32()?;
                let target = raw.0.bytes(len, MOST_TARGET)?;
                if extended {
                    xattr = some(raw.u32()?);
                }
                (FileKind::Symlink, Content::Link(target))
            }
            4 | 5 => {
                links = raw.u32()?;
                let (major, minor) = device(raw.u32()?);
                if extended {
                    xattr = some(raw.u32()?);
                }
                let kind = if basic == 4 {
                    FileKind::BlockDevice
                } else {
                    FileKind::CharDevice
                };
                (kind, Content::Device(major, minor))
            }
            _ => {
                links = raw.u32()?;
                if extended {
                    xattr = some(raw.u32()?);
                }
                let kind = if basic == 6 {
                    FileKind::Fifo
                } else {
                    FileKind::Socket
                };
                (kind, Content::Nothing)
            }
        };
        Ok(Node {
            place,
            kind,
            mode: mode & 0xfff,
            uid,
            gid,
            mtime: f.u32_le(8)?,
            links,
            content,
            xattr,
        })
    }

    fn owner(&self, nth: u16) -> Result<u32> {
        self.owners.get(usize::from(nth)).copied().ok_or_else(|| {
            Error::corrupt("an owner is not in the table")
                .mismatch(format!("less than {}", self.owners.len()), nth)
        })
    }
}

/// The entries of a directory, whose length counts three bytes for `.` and `..`.
fn directory(table: u64, block: u32, within: u16, size: u32) -> Directory {
    Directory {
        place: Place {
            block: table.saturating_add(u64::from(block)),
            within: usize::from(within),
        },
        size: size.saturating_sub(3),
        index: 0,
        index_at: Place {
            block: 0,
            within: 0,
        },
    }
}

fn basic_directory(raw: &mut Reader<'_>, table: u64) -> Result<(u32, Directory)> {
    let block = raw.u32()?;
    let links = raw.u32()?;
    let size = u32::from(raw.u16()?);
    let within = raw.u16()?;
    Ok((links, directory(table, block, within, size)))
}

fn extended_directory(
    raw: &mut Reader<'_>,
    table: u64,
    xattr: &mut Option<u32>,
) -> Result<Directory> {
    let size = raw.u32()?;
    let block = raw.u32()?;
    let _parent = raw.u32()?;
    let index = raw.u16()?;
    let within = raw.u16()?;
    *xattr = some(raw.u32()?);
    Ok(Directory {
        index,
        index_at: raw.0.place(),
        ..directory(table, block, within, size)
    })
}

fn basic_file(raw: &mut Reader<'_>) -> Result<File> {
    let start = u64::from(raw.u32()?);
    let fragment = some(raw.u32()?);
    let within = raw.u32()?;
    Ok(File {
        size: u64::from(raw.u32()?),
        sparse: 0,
        start,
        fragment: fragment.map(|nth| (nth, within)),
        lengths: raw.0.place(),
    })
}

fn extended_file(raw: &mut Reader<'_>, links: &mut u32, xattr: &mut Option<u32>) -> Result<File> {
    let start = raw.u64()?;
    let size = raw.u64()?;
    let sparse = raw.u64()?;
    *links = raw.u32()?;
    let fragment = some(raw.u32()?);
    let within = raw.u32()?;
    *xattr = some(raw.u32()?);
    Ok(File {
        size,
        sparse,
        start,
        fragment: fragment.map(|nth| (nth, within)),
        lengths: raw.0.place(),
    })
}

impl Node {
    pub(super) fn attributes(&self) -> Attributes {
        let (size, device) = match &self.content {
            Content::Directory(directory) => (u64::from(directory.size), None),
            Content::File(file) => (file.size, None),
            Content::Link(target) => (crate::number::wide(target.len()), None),
            Content::Device(major, minor) => (0, Some((*major, *minor))),
            Content::Nothing => (0, None),
        };
        Attributes {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            // As Linux counts: content before it was packed, and nothing for the rest.
            allocated: match &self.content {
                Content::File(file) => {
                    rehost_block::round_up(size.saturating_sub(file.sparse), 512)
                }
                _ => 0,
            },
            links: self.links,
            mtime: i64::from(self.mtime),
            device,
        }
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(what)
            .in_structure(STRUCTURE)
            .at(self.place.block)
    }
}
