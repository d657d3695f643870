//! Btrfs, read; and written, see `write`.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format" and "Trees", and the structures of Linux
//! `include/uapi/linux/btrfs_tree.h`. Read: filesystems on one or several devices, with data and metadata single, DUP, RAID0, RAID1,
//! RAID1C3, RAID1C4, RAID10, and RAID5 and RAID6 whose members are all there; all four checksums, verified on metadata and data, another copy being tried
//! where one does not match; subvolumes and snapshots; inline, preallocated, shared and compressed (zlib, LZO,
//! zstd) content; extended attributes. A log is replayed in memory, over the trees (see `log`).
//!
//! [`Btrfs::open`] shows what the kernel mounts without options, the default subvolume;
//! [`Btrfs::subvolume`] shows another one. Subvolumes in it are directories.
//!
//! Left out on purpose, and refused by name: zoned filesystems, extent tree v2, the RAID stripe tree, content encrypted by
//! fscrypt, members that have to be computed from parity.

mod bytes;
mod checksum;
mod chunk;
mod compress;
mod data;
mod dir;
mod extent;
mod inode;
mod key;
mod log;
pub(crate) mod lzo;
mod names;
mod node;
mod pool;
mod root;
mod superblock;
mod tree;
pub(crate) mod unused;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use rehost_block::{Disk, Error, Result};
use serde::Serialize;

use self::chunk::{Chunk, ChunkMap, system_chunks};
use self::extent::Unpacked;
use self::key::{Key, kind};
use self::node::Nodes;
use self::pool::{Members, Pool, members};
use self::root::{Root, Roots};
use self::superblock::Superblock;
use self::tree::{Changes, Tree};
pub use self::write::BtrfsMut;
use crate::ext4::uuid_text;
use crate::number::length;
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

/// The longest target of a symbolic link: `PATH_MAX`.
const MOST_LINK: u64 = 4096;

/// Which subvolume to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subvol {
    /// The one that is mounted when none is named.
    Default,
    /// The top one, number 5, which holds all others.
    Top,
    /// By its number, as `subvolid=` takes it.
    Id(u64),
    /// By its path from the top one, as `subvol=` takes it (`@`, `root`, `@/.snapshots/1/snapshot`).
    Path(Vec<u8>),
}

/// A subvolume or snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subvolume {
    /// Its number.
    pub id: u64,
    /// Its path from the top one, which itself has an empty one.
    pub path: Vec<u8>,
    /// Whether it may be changed.
    pub read_only: bool,
    /// Whether it is mounted when none is named.
    pub default: bool,
    /// Its UUID, where it has one.
    pub uuid: Option<String>,
}

/// A disk's part in a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The filesystem's UUID; members of one filesystem have the same.
    pub uuid: Option<String>,
    /// The member's own UUID (`UUID_SUB` of blkid).
    pub device_uuid: Option<String>,
    /// The member's number, from 1.
    pub device: u64,
    /// How many members there are.
    pub devices: u64,
}

/// A Btrfs filesystem, open for reading, seen from one of its subvolumes.
#[derive(Debug, Clone)]
pub struct Btrfs {
    volume: Arc<Volume>,
    /// The subvolume that is shown.
    top: u64,
}

/// All of a filesystem, whichever subvolume is shown.
#[derive(Debug)]
struct Volume {
    nodes: Nodes,
    /// The checksum tree, where there is one.
    csum: Option<Root>,
    /// What a log changes, by subvolume.
    logs: HashMap<u64, Changes>,
    /// Checksums from a log, by logical address.
    logged_sums: BTreeMap<u64, Arc<[u8]>>,
    replayed: bool,
    known: Mutex<Roots>,
    unpacked: Mutex<Unpacked>,
}

impl Btrfs {
    /// Opens the filesystem on `disk`, its one member, and shows the default subvolume. A log is replayed in memory; the
    /// disk is never written.
    ///
    /// # Errors
    /// Corrupt when it is not Btrfs or contradicts itself; Unsupported, by name, for features listed
    /// above, unknown ones, and when other members are missing.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        Self::open_many(vec![disk])
    }

    /// Opens the filesystem that `disks` are members of, in any order. Members may be missing where
    /// everything on them is stored elsewhere too.
    ///
    /// # Errors
    /// As [`Btrfs::open`]; Usage when the disks do not belong together.
    pub fn open_many(disks: Vec<Arc<dyn Disk>>) -> Result<Self> {
        let mut volume = Volume::open(members(disks)?)?;
        log::replay(&mut volume)?;
        let top = volume.default_subvolume()?;
        let opened = Self {
            volume: Arc::new(volume),
            top,
        };
        opened.checked()
    }

    /// What part of which filesystem `disk` is.
    ///
    /// # Errors
    /// As [`Btrfs::open`] for what the superblock alone shows.
    pub fn member(disk: &Arc<dyn Disk>) -> Result<Member> {
        let sb = Superblock::read(disk)?;
        Ok(Member {
            uuid: uuid_text(&sb.fsid),
            device_uuid: uuid_text(&sb.device_uuid),
            device: sb.device,
            devices: sb.num_devices,
        })
    }

    /// The same filesystem seen from another subvolume. [`Inode`]s of one view mean nothing in another.
    ///
    /// # Errors
    /// Usage when there is no such subvolume; Corrupt as everything.
    pub fn subvolume(&self, which: &Subvol) -> Result<Self> {
        let view = |top| Self {
            volume: Arc::clone(&self.volume),
            top,
        };
        let top = match which {
            Subvol::Default => self.volume.default_subvolume()?,
            Subvol::Top => key::tree::FS,
            Subvol::Id(id) => *id,
            Subvol::Path(path) => view(key::tree::FS).subvolume_at(path)?,
        };
        view(top).checked()
    }

    /// The number of the subvolume at `path`.
    fn subvolume_at(&self, path: &[u8]) -> Result<u64> {
        let wrong = |what: &str| {
            let known = self.subvolumes().unwrap_or_default();
            let names: Vec<String> = known
                .iter()
                .map(|one| match &*one.path {
                    b"" => "/".to_owned(),
                    path => String::from_utf8_lossy(path).into_owned(),
                })
                .collect();
            Error::usage(format!("{what} {}", String::from_utf8_lossy(path)))
                .hint(format!("there are: {}", names.join(", ")))
        };
        let mut at = self.root();
        for name in path.split(|byte| *byte == b'/') {
            if name.is_empty() || name == b"." {
                continue;
            }
            let dir = self.node(at)?;
            if dir.kind()? != FileKind::Directory {
                return Err(wrong("there is no subvolume"));
            }
            at = self
                .find(&dir, name)?
                .ok_or_else(|| wrong("there is no subvolume"))?;
        }
        match self.unpack(at) {
            (id, key::tree::FIRST_FREE) => Ok(id),
            _ => Err(wrong("not a subvolume:")),
        }
    }

    /// The view, if its top is a directory.
    fn checked(self) -> Result<Self> {
        let root = self.node(self.root())?;
        if root.kind()? == FileKind::Directory {
            Ok(self)
        } else {
            Err(root.corrupt("the top is not a directory"))
        }
    }

    /// A regular file.
    fn file(&self, inode: Inode) -> Result<inode::Node> {
        let node = self.node(inode)?;
        node.expect(FileKind::Regular, "a regular file")?;
        Ok(node)
    }
}

impl Volume {
    fn open((sb, devices): Members) -> Result<Self> {
        let place = sb.at.saturating_add(0x32b);
        let pool = Pool {
            devices,
            chunks: system_chunks(&sb.system_chunks, place, sb.sector)?,
        };
        let start = Nodes::new(pool, sb);
        let chunks = all_chunks(&start)?;
        let Nodes { pool, sb, .. } = start;
        let pool = Pool { chunks, ..pool };
        pool.check_complete()?;
        let mut volume = Self {
            nodes: Nodes::new(pool, sb),
            csum: None,
            logs: HashMap::new(),
            logged_sums: BTreeMap::new(),
            replayed: false,
            known: Mutex::default(),
            unpacked: Mutex::default(),
        };
        volume.csum = volume.read_root(key::tree::CSUM)?;
        Ok(volume)
    }
}

/// All chunks, by the chunk tree.
fn all_chunks(nodes: &Nodes) -> Result<ChunkMap> {
    let tree = Tree {
        nodes,
        root: nodes.sb.chunk_root,
        changes: None,
    };
    let mut items = tree.range(Key::FIRST, Key::LAST)?;
    let mut map = ChunkMap::default();
    // Ends because a walk through a tree does.
    while let Some(item) = items.next()? {
        let key = item.key;
        let f = item.fields("chunk item");
        if key.is(key::FIRST_CHUNK_TREE, kind::CHUNK_ITEM) {
            map.insert(Chunk::parse(&f, 0, key.offset, nodes.sb.sector)?, &f, 0)?;
        }
    }
    Ok(map)
}

impl FileSystem for Btrfs {
    fn identity(&self) -> Identity {
        let sb = &self.volume.nodes.sb;
        Identity {
            kind: "btrfs",
            uuid: uuid_text(&sb.fsid),
            label: Some(sb.label.clone()).filter(|label| !label.is_empty()),
            block_size: sb.sector,
            size: sb.total_bytes,
            free: sb.total_bytes.saturating_sub(sb.bytes_used),
            replayed: self.volume.replayed,
        }
    }

    fn root(&self) -> Inode {
        Inode(key::tree::FIRST_FREE)
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        self.find(&self.node(dir)?, name)
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        self.list(&self.node(dir)?)
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        let sector = self.volume.nodes.sb.sector;
        self.node(inode)?.attributes(sector)
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.file(inode)?;
        let left = node.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        self.volume.read_file(&node, part, offset)?;
        Ok(len)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        let node = self.node(inode)?;
        node.expect(FileKind::Symlink, "a symbolic link")?;
        if node.size > MOST_LINK {
            return Err(node.corrupt(format!("target of {} bytes is too long", node.size)));
        }
        let mut target = vec![0; length(node.size)?];
        self.volume.read_file(&node, &mut target, 0)?;
        Ok(target)
    }

    fn stored(&self, inode: Inode) -> Result<Vec<Stored>> {
        self.parts(&self.file(inode)?)
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.attributes_of(&self.node(inode)?)
    }
}
