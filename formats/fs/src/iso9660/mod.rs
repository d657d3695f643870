//! ISO 9660 with Rock Ridge or Joliet, read.
//!
//! Source: ECMA-119 (4th edition), IEEE P1281 and P1282 (SUSP and Rock Ridge 1.12), the Joliet
//! specification (Microsoft, 1995), and for what they leave open Linux `Documentation/filesystems/isofs.rst`.
//! Where a disk has several trees, that with Rock Ridge is read, then Joliet's, then the plain one, as
//! Linux does. Read: long names, owners, modes, times, symbolic links, devices, continuation areas,
//! directories moved up because they lay too deep, files in several extents, logical blocks of 512,
//! 1024 and 2048 bytes.
//!
//! A file's inode number is the byte offset of its (first) directory record; hard links are files of
//! their own. Without Rock Ridge everything belongs to 0:0 and has mode 0555, names are as stored
//! without version (`README.TXT`), and are found without regard to the case of ASCII letters.
//! A directory that is in two places of the tree, and so every ring, is refused where it is met again.
//!
//! Left out on purpose, and refused by name: interleaved files, content compressed with zisofs. Left
//! out without a word: associated files (as in Linux), path tables, later sessions of a disk whose
//! table of contents an image does not keep, Apple's and AAIP's attributes, El Torito.

mod descriptor;
mod dir;
mod record;
mod rock;
mod susp;
mod time;

use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Result};

use self::descriptor::Descriptors;
use self::dir::Listing;
use self::record::Record;
use self::rock::Rock;
use crate::number::{length, rem, wide};
use crate::places::Places;
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

/// Bytes of a sector, in which volume descriptors are.
const SECTOR: u64 = 2048;

/// Extents of one file, at most. Ours: 4 TiB in the largest ones.
const MOST_EXTENTS: usize = 1024;

/// Where names and attributes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Foreign bytes at the start of each system use area, and of the root's own.
    RockRidge {
        skip: usize,
        root_skip: usize,
    },
    Joliet,
    Plain,
}

/// One stretch of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// Offset in the file.
    file: u64,
    /// Byte offset on the disk.
    disk: u64,
    len: u64,
}

/// A file, as its records describe it.
#[derive(Debug)]
struct Node {
    record: Record,
    rock: Rock,
    extents: Vec<Extent>,
}

/// An ISO 9660 filesystem, open for reading.
#[derive(Debug)]
pub struct Iso9660 {
    disk: Arc<dyn Disk>,
    block: u32,
    blocks: u32,
    /// Byte offset of the root's own record.
    root: u64,
    names: Names,
    uuid: Option<String>,
    label: Option<String>,
    places: Places,
    /// The directory listed last, because its names are often asked for one by one.
    listing: Mutex<Option<(u64, Arc<Listing>)>>,
    /// The file looked at last, because it is often read in parts.
    node: Mutex<Option<(u64, Arc<Node>)>>,
}

impl Iso9660 {
    /// Opens the filesystem on `disk`.
    ///
    /// # Errors
    /// Corrupt when it is not ISO 9660 or contradicts itself; Unsupported, by name, for what is
    /// listed above.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let descriptors = Descriptors::read(&disk)?;
        let block = descriptors.block;
        let first = Record::read(&disk, descriptors.primary.root)?;
        let (root, names) = match rock_ridge(&disk, &first, block)? {
            Some(names) => (descriptors.primary.root, names),
            None => descriptors
                .joliet
                .map_or((descriptors.primary.root, Names::Plain), |tree| {
                    (tree.root, Names::Joliet)
                }),
        };
        let told = crate::detect::iso9660_names(&disk)?;
        let fs = Self {
            disk,
            block,
            blocks: descriptors.blocks,
            root,
            names,
            uuid: told.0,
            label: told.1,
            places: Places::new(root),
            listing: Mutex::default(),
            node: Mutex::default(),
        };
        fs.own_record(Inode(root))?;
        Ok(fs)
    }

    /// Refuses a directory whose own record, its first, is not at `inode` or says another place.
    fn own_record(&self, inode: Inode) -> Result<()> {
        let node = self.node(inode)?;
        let place = node.record.first.saturating_mul(u64::from(self.block));
        if node.kind() == FileKind::Directory && node.record.name == [0] && place == inode.0 {
            return Ok(());
        }
        Err(node
            .record
            .corrupt("a directory does not begin with its own record"))
    }

    /// The file whose record is at byte `inode` of the disk.
    fn node(&self, inode: Inode) -> Result<Arc<Node>> {
        let kept = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, node)) = &*kept
            && *known == inode.0
        {
            return Ok(Arc::clone(node));
        }
        drop(kept);
        let record = Record::read(&self.disk, inode.0)?;
        record.check()?;
        let rock = self.rock(&record)?;
        let extents = self.extents(&record)?;
        let node = Node {
            record,
            rock,
            extents,
        };
        node.check()?;
        let node = Arc::new(node);
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((inode.0, Arc::clone(&node)));
        Ok(node)
    }

    fn rock(&self, record: &Record) -> Result<Rock> {
        let Names::RockRidge { skip, root_skip } = self.names else {
            return Ok(Rock::default());
        };
        let skip = if record.at == self.root {
            root_skip
        } else {
            skip
        };
        let entries = susp::entries(&self.disk, record, skip, self.block)?;
        Rock::parse(&entries, record)
    }

    /// Where all of a file is, which goes on in the records behind `first` where they say so.
    fn extents(&self, first: &Record) -> Result<Vec<Extent>> {
        let mut found: Vec<Extent> = Vec::new();
        let mut record = first.clone();
        let mut file = 0u64;
        // Ends because their number is bounded.
        while found.len() < MOST_EXTENTS {
            record.check()?;
            let disk = record.place(u64::from(self.block), self.disk.size())?;
            let len = u64::from(record.size);
            found.push(Extent { file, disk, len });
            file = file.saturating_add(len);
            if !record.continues() {
                return Ok(found);
            }
            if rem(len, u64::from(self.block)) != 0 {
                return Err(record.corrupt("an extent ends within a block, and is not the last"));
            }
            let next = self.following(&record)?;
            if next.name != first.name {
                return Err(next.corrupt("goes on with another file"));
            }
            record = next;
        }
        Err(first.unsupported("file of more than 1024 extents"))
    }

    /// The record behind `record`: in the same sector, or at the start of the next.
    fn following(&self, record: &Record) -> Result<Record> {
        let mut length = [0];
        let at = record.end();
        self.disk.read_at(&mut length, at)?;
        if length == [0] {
            let next = at.saturating_add(1).checked_next_multiple_of(SECTOR);
            return Record::read(&self.disk, next.unwrap_or(u64::MAX));
        }
        Record::read(&self.disk, at)
    }

    fn regular(&self, inode: Inode) -> Result<Arc<Node>> {
        let node = self.node(inode)?;
        if node.kind() != FileKind::Regular {
            return Err(Error::usage("it is not a regular file"));
        }
        if node.rock.unpacked.is_some() {
            return Err(node.record.unsupported("content is compressed (zisofs)"));
        }
        Ok(node)
    }
}

/// Whether the primary tree, whose root's own record is `first`, has Rock Ridge.
fn rock_ridge(disk: &dyn Disk, first: &Record, block: u32) -> Result<Option<Names>> {
    let Some((root_skip, skip)) = susp::announced(first) else {
        return Ok(None);
    };
    let entries = susp::entries(disk, first, root_skip, block)?;
    Ok(rock::announced(&entries).then_some(Names::RockRidge { skip, root_skip }))
}

impl Node {
    fn kind(&self) -> FileKind {
        self.rock.kind.unwrap_or(if self.record.is_directory() {
            FileKind::Directory
        } else {
            FileKind::Regular
        })
    }

    /// Refuses a file that is a directory to ISO 9660 and none to Rock Ridge, or the reverse, and a
    /// directory in several extents (ECMA-119, 6.8.1).
    fn check(&self) -> Result<()> {
        if self.record.is_directory() && self.extents.len() > 1 {
            return Err(self.record.corrupt("a directory has several extents"));
        }
        if self.record.is_directory() == (self.kind() == FileKind::Directory) {
            return Ok(());
        }
        Err(self
            .record
            .corrupt("Rock Ridge says another type than the record"))
    }

    fn size(&self) -> u64 {
        match (self.kind(), self.rock.unpacked) {
            (FileKind::Regular, Some(len)) => u64::from(len),
            (FileKind::Regular | FileKind::Directory, _) => {
                self.extents.iter().map(|extent| extent.len).sum()
            }
            (FileKind::Symlink, _) => wide(self.rock.target.as_ref().map_or(0, Vec::len)),
            _ => 0,
        }
    }
}

impl FileSystem for Iso9660 {
    fn identity(&self) -> Identity {
        Identity {
            kind: "iso9660",
            uuid: self.uuid.clone(),
            label: self.label.clone(),
            block_size: self.block,
            size: u64::from(self.blocks).saturating_mul(u64::from(self.block)),
            free: 0,
            replayed: false,
        }
    }

    fn root(&self) -> Inode {
        Inode(self.root)
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        let listing = self.listing(dir)?;
        Ok(listing.find(name, self.names).map(|entry| entry.inode))
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        Ok(self.listing(dir)?.entries.clone())
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        let node = self.node(inode)?;
        let kind = node.kind();
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Ok(Attributes {
            kind,
            mode: node.rock.mode.unwrap_or(0o555),
            uid: node.rock.uid,
            gid: node.rock.gid,
            size: node.size(),
            allocated: rehost_block::round_up(node.size(), 512),
            links: node.rock.links.max(1),
            mtime: node.rock.modified.unwrap_or(node.record.modified),
            device: node.rock.device.filter(|_| device),
        })
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.regular(inode)?;
        let len = length(node.size().saturating_sub(offset).min(wide(buf.len())))?;
        let end = offset.saturating_add(wide(len));
        let mut rest = buf.get_mut(..len).unwrap_or_default();
        // The extents are in file order and cover the file: each fills the next part of `rest`.
        for extent in &node.extents {
            let start = offset.max(extent.file);
            let stop = end.min(extent.file.saturating_add(extent.len));
            if start >= stop {
                continue;
            }
            let (part, tail) =
                rest.split_at_mut(length(stop.saturating_sub(start))?.min(rest.len()));
            let skip = start.saturating_sub(extent.file);
            self.disk.read_at(part, extent.disk.saturating_add(skip))?;
            rest = tail;
        }
        Ok(len)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        let node = self.node(inode)?;
        if node.kind() != FileKind::Symlink {
            return Err(Error::usage("it is not a symbolic link"));
        }
        let target = node.rock.target.clone().unwrap_or_default();
        if target.is_empty() || target.contains(&0) {
            return Err(node.record.corrupt("symbolic link without a valid target"));
        }
        Ok(target)
    }

    fn stored(&self, inode: Inode) -> Result<Vec<Stored>> {
        let node = self.regular(inode)?;
        let stored = |extent: &Extent| Stored {
            file: extent.file..extent.file.saturating_add(extent.len),
            disk: Some(extent.disk),
        };
        let there = node.extents.iter().filter(|extent| extent.len > 0);
        Ok(there.map(stored).collect())
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.node(inode).map(|_| Vec::new())
    }
}
