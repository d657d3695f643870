//! ext2, ext3 and ext4, read.
//!
//! Source: Linux `Documentation/filesystems/ext4/`. Read: extents and block maps, 64bit, flex_bg,
//! meta_bg, bigalloc, inline data, indexed and large directories, extended attributes with their
//! inodes, and all metadata checksums, each verified where it is met. A journal that needs recovery
//! is replayed in memory, over the disk.
//!
//! Left out on purpose, and refused by name: encrypted files and directories (fscrypt), compressed
//! files (e2compr), case-insensitive directories, journals on another device, fast commits that
//! wait for replay. A damaged primary superblock is an error: its backups are `e2fsck`'s business.

pub(crate) mod blocks;
mod checksum;
mod dir;
mod features;
mod group;
mod htree;
mod inode;
mod journal;
mod map;
mod superblock;
pub(crate) mod unused;
mod write;
mod xattr;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Overlay, Result};

use self::blocks::Blocks;
use self::features::{compat, incompat};
use self::group::Groups;
use self::inode::{Node, ROOT, flag};
use self::journal::Journal;
use self::map::Mapping;
use self::superblock::Superblock;
use crate::number::{div, length, wide};
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

pub(crate) use self::superblock::{kind_of_raw, uuid_text};
pub use self::write::Ext4Mut;

/// Longest symbolic link that is read: one block of the largest size.
const MOST_LINK: u64 = 64 << 10;

/// Block maps kept, at most.
const MOST_MAPPINGS: usize = 64;

/// Block maps of the files read last.
#[derive(Debug, Default)]
struct Mappings(Mutex<HashMap<u32, Arc<Mapping>>>);

impl Mappings {
    fn get(&self, inode: u32) -> Option<Arc<Mapping>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&inode).cloned()
    }

    fn put(&self, inode: u32, mapping: &Arc<Mapping>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_MAPPINGS {
            known.clear();
        }
        known.insert(inode, Arc::clone(mapping));
    }

    fn forget(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

/// An ext2, ext3 or ext4 filesystem, open for reading.
#[derive(Debug)]
pub struct Ext4 {
    sb: Superblock,
    groups: Groups,
    blocks: Blocks,
    mappings: Mappings,
    replayed: bool,
}

impl Ext4 {
    /// Opens the filesystem on `disk`. A journal that needs recovery is replayed in memory; `disk`
    /// is never written.
    ///
    /// # Errors
    /// Corrupt when it is not an ext filesystem or contradicts itself; Unsupported, by name, for
    /// features listed above and unknown ones.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let fs = Self::open_as_it_is(Arc::clone(&disk))?;
        if !fs.sb.features.incompat(incompat::RECOVER) {
            return fs.with_root();
        }
        if !fs.sb.features.compat(compat::HAS_JOURNAL) {
            return Err(Error::corrupt("needs recovery, but has no journal")
                .in_structure("superblock")
                .hint("run e2fsck on a copy of the original"));
        }
        let overlay = Arc::new(Overlay::in_memory(disk));
        Journal::open(&fs)?.replay(&overlay)?;
        let mut replayed = Self::open_as_it_is(overlay)?;
        replayed.replayed = true;
        replayed.with_root()
    }

    /// Itself, when its root is a directory.
    fn with_root(self) -> Result<Self> {
        let root = self.node(ROOT)?;
        if root.kind()? == FileKind::Directory {
            Ok(self)
        } else {
            Err(root.corrupt("the root is not a directory"))
        }
    }

    /// Opens without looking at the journal.
    fn open_as_it_is(disk: Arc<dyn Disk>) -> Result<Self> {
        let sb = Superblock::read(&disk)?;
        let groups = Groups::read(&disk, &sb)?;
        let blocks = Blocks::new(disk, sb.block_size, sb.blocks_count);
        Ok(Self {
            sb,
            groups,
            blocks,
            mappings: Mappings::default(),
            replayed: false,
        })
    }

    fn number(inode: Inode) -> Result<u32> {
        u32::try_from(inode.0)
            .map_err(|_| Error::usage(format!("{} is not an inode number of ext4", inode.0)))
    }

    fn inode(&self, inode: Inode) -> Result<Node> {
        self.node(Self::number(inode)?)
    }

    /// Fills `buf` from a file's mapped content; what is not mapped or not written reads as zero.
    fn read_mapped(&self, node: &Node, buf: &mut [u8], offset: u64) -> Result<()> {
        let mapping = self.mapping(node)?;
        let size = u64::from(self.sb.block_size);
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round takes at least one byte off `rest`.
        while !rest.is_empty() {
            let file = div(at, size);
            let next = mapping.extents.partition_point(|run| run.end() <= file);
            let run = mapping.extents.get(next);
            // Bytes until the mapping changes, and where they are on the disk.
            let (until, disk) = match run {
                Some(run) if run.file <= file => {
                    let skip = at.saturating_sub(run.file.saturating_mul(size));
                    let place = run.disk.saturating_mul(size).saturating_add(skip);
                    (run.end(), run.written.then_some(place))
                }
                Some(run) => (run.file, None),
                None => (u64::MAX, None),
            };
            let left = until.saturating_mul(size).saturating_sub(at);
            let len = length(left.min(wide(rest.len())))?.max(1);
            let (part, tail) = rest.split_at_mut(len);
            match disk {
                Some(place) => self.blocks.disk().read_at(part, place)?,
                None => part.fill(0),
            }
            at = at.saturating_add(wide(len));
            rest = tail;
        }
        Ok(())
    }

    /// Fills `buf` from content that lies in the inode.
    fn read_inline(&self, node: &Node, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut all = node.map()?.to_vec();
        all.extend(self.inline_rest(node)?);
        let from = length(offset)?;
        let there = all.get(from..).unwrap_or_default();
        let len = there.len().min(buf.len());
        let (part, tail) = buf.split_at_mut(len);
        part.copy_from_slice(there.get(..len).unwrap_or_default());
        tail.fill(0);
        Ok(())
    }

    fn target(&self, node: &Node) -> Result<Vec<u8>> {
        node.expect(FileKind::Symlink, "a symbolic link")?;
        node.check_plain()?;
        if node.size > MOST_LINK || node.size == 0 {
            return Err(node
                .corrupt("symbolic link has an impossible length")
                .mismatch(format!("1 to {MOST_LINK}"), node.size));
        }
        let mut target = vec![0; length(node.size)?];
        if node.has(flag::INLINE_DATA) {
            self.read_inline(node, &mut target, 0)?;
        } else if node.is_fast_link(self.sb.block_size) {
            target = node.map()?.get(..target.len()).unwrap_or_default().to_vec();
        } else {
            // Through the metadata blocks: a writer's own link may not be on the disk yet.
            let mapping = self.mapping(node)?;
            let size = u64::from(self.sb.block_size);
            for (nth, part) in (0..).zip(target.chunks_mut(length(size)?)) {
                let block =
                    Self::block_of(&mapping, nth).ok_or_else(|| Self::hole(node, "link"))?;
                self.blocks.read_part(block, 0, part)?;
            }
        }
        if target.contains(&0) {
            return Err(node.corrupt("symbolic link contains a zero byte"));
        }
        Ok(target)
    }

    /// A regular file whose content can be read.
    fn readable(&self, inode: Inode) -> Result<Node> {
        let node = self.inode(inode)?;
        node.expect(FileKind::Regular, "a regular file")?;
        node.check_plain()?;
        Ok(node)
    }
}

impl FileSystem for Ext4 {
    fn identity(&self) -> Identity {
        let label = String::from_utf8_lossy(&self.sb.label).into_owned();
        Identity {
            kind: self.sb.features.kind(),
            uuid: self.sb.uuid_text(),
            label: Some(label).filter(|label| !label.is_empty()),
            block_size: self.sb.block_size,
            size: self
                .sb
                .blocks_count
                .saturating_mul(u64::from(self.sb.block_size)),
            free: self
                .sb
                .free_blocks()
                .saturating_mul(u64::from(self.sb.block_size)),
            replayed: self.replayed,
        }
    }

    fn root(&self) -> Inode {
        Inode(u64::from(ROOT))
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        let node = self.inode(dir)?;
        let found = self.find_name(&node, name)?;
        Ok(found.map(|number| Inode(u64::from(number))))
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        self.entries(&self.inode(dir)?)
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        self.inode(inode)?.attributes(self.sb.block_size)
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.readable(inode)?;
        let left = node.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        if node.has(flag::INLINE_DATA) {
            self.read_inline(&node, part, offset)?;
        } else {
            self.read_mapped(&node, part, offset)?;
        }
        Ok(len)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        self.target(&self.inode(inode)?)
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
        if node.has(flag::INLINE_DATA) {
            push(0, node.size, None);
            return Ok(found);
        }
        let size = u64::from(self.sb.block_size);
        let mut at = 0;
        for run in &self.mapping(&node)?.extents {
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
        self.visible_xattrs(&self.inode(inode)?)
    }
}
