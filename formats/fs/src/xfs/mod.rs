//! XFS of versions 4 and 5, read; and written (see `write`).
//!
//! Source: "XFS Algorithms & Data Structures" (third edition) and the structures of Linux
//! `fs/xfs/libxfs/xfs_format.h`, `xfs_da_format.h` and `xfs_log_format.h`. Read: inodes of versions 1
//! to 3, extent lists and trees, sparse, preallocated and shared (reflinked) content, all forms of
//! directories, symbolic links and extended attributes, `bigtime`, 64-bit extent counts, `meta_uuid`,
//! parent pointers, the metadata directory. On version 5 checksum, UUID, owner and address of every
//! block are verified where it is met. A log that is not clean is replayed in memory, over the disk
//! (see `log`); what it changed is covered by the log's checksums, not by those of the blocks.
//!
//! Left out on purpose, and refused by name: realtime sections, logs on another device, directories
//! of version 1, version 4 whose log changes inodes, filesystems marked as needing repair. Backup superblocks are `xfs_repair`'s business.

mod check;
mod dir;
mod inode;
mod link;
mod log;
mod map;
mod superblock;
pub(crate) mod unused;
mod write;
mod xattr;

pub use self::write::XfsMut;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Result};

use self::check::Verify;
use self::dir::Listings;
use self::inode::Node;
use self::map::Mapping;
use self::superblock::Superblock;
use crate::ext4::blocks::Blocks;
use crate::ext4::uuid_text;
use crate::number::wide;
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

/// Block maps kept, at most.
const MOST_MAPPINGS: usize = 64;

/// Sectors of 512 bytes, by number.
type Sectors = BTreeSet<u64>;

/// An XFS filesystem, open for reading.
#[derive(Debug)]
pub struct Xfs {
    sb: Superblock,
    blocks: Blocks,
    /// Sectors that a log changed.
    replayed: Sectors,
    listings: Listings,
    mappings: Mutex<HashMap<u64, Arc<Mapping>>>,
    /// Whether a log was replayed onto the disk itself.
    settled: bool,
}

impl Xfs {
    /// Opens the filesystem on `disk`. A log that is not clean is replayed in memory; `disk` is
    /// never written.
    ///
    /// # Errors
    /// Corrupt when it is not XFS or contradicts itself; Unsupported, by name, for features listed
    /// above and unknown ones.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let sb = Superblock::read(&disk, Verify::Stored)?;
        let fs = match log::replay(&sb, &disk)? {
            None => Self::over(sb, disk, Sectors::new()),
            Some((view, replayed)) => {
                let verify = if replayed.contains(&0) {
                    Verify::Replayed
                } else {
                    Verify::Stored
                };
                Self::over(Superblock::read(&view, verify)?, view, replayed)
            }
        };
        let root = fs.node(fs.sb.root)?;
        if root.kind()? == FileKind::Directory {
            Ok(fs)
        } else {
            Err(root.corrupt("the root is not a directory"))
        }
    }

    fn over(sb: Superblock, disk: Arc<dyn Disk>, replayed: Sectors) -> Self {
        let blocks = Blocks::new(disk, sb.block_size, sb.blocks);
        Self {
            sb,
            blocks,
            replayed,
            listings: Listings::default(),
            mappings: Mutex::default(),
            settled: false,
        }
    }

    /// Forgets what is known of single files: the disk has changed.
    fn forget_files(&self) {
        self.listings.clear();
        let mut maps = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        maps.clear();
    }

    /// Reads the superblock again: its counters have changed.
    fn reload(&mut self) -> Result<()> {
        self.sb = Superblock::read(self.blocks.disk(), Verify::Stored)?;
        Ok(())
    }

    /// Whether the checksum of `len` bytes at byte `offset` of the disk counts.
    fn verify(&self, offset: u64, len: usize) -> Verify {
        let last = offset.saturating_add(wide(len)).saturating_sub(1) >> 9;
        match self.replayed.range(offset >> 9..=last).next() {
            Some(_) => Verify::Replayed,
            None => Verify::Stored,
        }
    }

    /// The extents of a regular file's content.
    fn mapping(&self, node: &Node) -> Result<Arc<Mapping>> {
        let known = |maps: &HashMap<_, _>| maps.get(&node.number).cloned();
        let kept = known(&self.mappings.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = kept {
            return Ok(found);
        }
        let found = Arc::new(self.extents(node, &node.data()?)?);
        let mut maps = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        if maps.len() >= MOST_MAPPINGS {
            maps.clear();
        }
        maps.insert(node.number, Arc::clone(&found));
        Ok(found)
    }

    /// A regular file whose content can be read.
    fn readable(&self, inode: Inode) -> Result<Node> {
        let node = self.node(inode.0)?;
        node.expect(FileKind::Regular, "a regular file")?;
        if node.is_realtime()? {
            return Err(Error::unsupported(format!(
                "inode {} lies on a realtime section",
                inode.0
            ))
            .in_structure("inode")
            .at(node.offset));
        }
        Ok(node)
    }
}

/// A count as a length; too large a one stays too large.
fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl FileSystem for Xfs {
    fn identity(&self) -> Identity {
        let block = u64::from(self.sb.block_size);
        let label = String::from_utf8_lossy(&self.sb.label)
            .trim_end()
            .to_owned();
        Identity {
            kind: "xfs",
            uuid: uuid_text(&self.sb.uuid),
            label: Some(label).filter(|label| !label.is_empty()),
            block_size: self.sb.block_size,
            size: self.sb.blocks.saturating_mul(block),
            free: self.sb.free_blocks.saturating_mul(block),
            replayed: self.settled || !self.replayed.is_empty(),
        }
    }

    fn root(&self) -> Inode {
        Inode(self.sb.root)
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        Ok(self.find(&self.node(dir.0)?, name)?.map(Inode))
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        self.entries(&self.node(dir.0)?)
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        self.node(inode.0)?.attributes(self.sb.block_size)
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.readable(inode)?;
        let len = count(node.size.saturating_sub(offset)).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        self.read_mapped(&*self.mapping(&node)?, part, offset)?;
        Ok(len)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        self.target(&self.node(inode.0)?)
    }

    fn stored(&self, inode: Inode) -> Result<Vec<Stored>> {
        let node = self.readable(inode)?;
        let mut found = Vec::new();
        let mut push = |from: u64, to: u64, disk: Option<u64>| {
            let to = to.min(node.size);
            if from < to {
                let file = from..to;
                found.push(Stored { file, disk });
            }
        };
        let size = u64::from(self.sb.block_size);
        let mut at = 0;
        for run in self.mapping(&node)?.iter() {
            let start = run.file.saturating_mul(size);
            let end = run.end().saturating_mul(size);
            push(at, start, None);
            let disk = run.disk.saturating_mul(size);
            push(start, end, run.written.then_some(disk));
            at = end;
        }
        push(at, node.size, None);
        Ok(found)
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.attributes_of(&self.node(inode.0)?)
    }
}
