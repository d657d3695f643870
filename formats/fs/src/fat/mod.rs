//! FAT12, FAT16 and FAT32 with long names (VFAT), read and written: the EFI system partition.
//!
//! Source: Microsoft FAT specification (`fatgen103`, 2000). Everything is own code. The crate `fatfs`
//! is the second reader in the tests, and does not serve here, because it works on paths where
//! [`FileSystem`] works on inodes; writes in no order that a crash can be judged by; gives `.` and
//! `..` long names, which `fsck.fat` calls errors; follows a chain that loops forever; reads a
//! directory again, 32 bytes at a time, for each name; and neither compares the two tables nor
//! keeps both dirty flags.
//!
//! A file's inode number is the place of its directory entry, in units of 32 bytes; the top
//! directory is 1. FAT knows no owners and no permissions but a read-only bit: everything belongs
//! to 0:0 and has mode 0755, or 0555 with that bit. Names are found without regard to case, by
//! their long or short form. Tables are compared with each other where an entry is met.
//!
//! Left out on purpose, and refused by name: more than two tables; FAT32 of another version than 0;
//! exFAT. On writing: symbolic links, owners, set-id and sticky bits, modes that not everyone may
//! read, extended attributes, filesystems that keep only one table.

mod boot;
mod check;
mod dir;
mod entry;
mod name;
mod number;
mod table;
pub(crate) mod unused;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Error, Fields, Result};

use self::boot::{Boot, Root};
use self::dir::{Listing, Place};
use self::entry::{DELETED, DIRECTORY, LABEL, LEN, READ_ONLY, Short};
use self::table::{Row, Table};
use crate::number::{div, length, wide};
use crate::{Attributes, DirEntry, FileKind, FileSystem, Identity, Inode, Stored};

pub use self::write::FatMut;

/// The top directory's inode number. No entry is that near the start of the disk.
const ROOT: u64 = 1;

/// A chain that was followed: its first cluster, how many were asked for, and where they are.
type Followed = ((u32, u64), Arc<Vec<Row>>);

/// What an inode number stands for.
#[derive(Debug, Clone)]
enum Node {
    Root,
    Entry { short: Short, at: u64 },
}

/// A FAT filesystem, open for reading.
#[derive(Debug)]
pub struct Fat {
    disk: Arc<dyn Disk>,
    boot: Boot,
    table: Table,
    label: Option<String>,
    /// The directory read last, because its names are often asked for one by one.
    last: Mutex<Option<(Place, Arc<Listing>)>>,
    /// The chain followed last, because a file is often read in parts.
    chain: Mutex<Option<Followed>>,
}

impl Fat {
    /// Opens the filesystem on `disk`.
    ///
    /// # Errors
    /// Corrupt when it is not FAT or its boot sector contradicts itself or the disk; Unsupported,
    /// by name, for what is listed above.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let boot = Boot::read(&disk)?;
        let table = Table::new(Arc::clone(&disk), &boot);
        let mut fs = Self {
            disk,
            boot,
            table,
            label: None,
            last: Mutex::default(),
            chain: Mutex::default(),
        };
        fs.label = fs.read_label()?;
        Ok(fs)
    }

    /// The label: an entry of the top directory.
    fn read_label(&self) -> Result<Option<String>> {
        let listing = self.listing(self.root_place())?;
        let named = listing
            .slots
            .iter()
            .take_while(|raw| !raw.starts_with(&[0]))
            .find(|raw| {
                let attributes = raw.get(11).copied().unwrap_or(0);
                !raw.starts_with(&[DELETED])
                    && attributes & LABEL != 0
                    && attributes & 0x3f != entry::LONG
            });
        Ok(named.map(|raw| {
            let mut label = entry::decoded(raw.get(..11).unwrap_or_default());
            label.truncate(label.trim_end().len());
            label
        }))
    }

    fn listing(&self, place: Place) -> Result<Arc<Listing>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, listing)) = &*last
            && *known == place
        {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(self.list(place)?);
        *last = Some((place, Arc::clone(&listing)));
        Ok(listing)
    }

    /// Forgets what was read of directories and chains.
    fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn node(&self, inode: Inode) -> Result<Node> {
        if inode.0 == ROOT {
            return Ok(Node::Root);
        }
        let unknown = || {
            Error::usage(format!(
                "{} is not an inode number of this filesystem",
                inode.0
            ))
        };
        let at = inode.0.checked_mul(wide(LEN)).ok_or_else(unknown)?;
        let in_root = match self.boot.root {
            Root::Fixed { at: from, len } => (from..from.saturating_add(len)).contains(&at),
            Root::Cluster(_) => false,
        };
        if !in_root && self.boot.cluster_of(at).is_none() {
            return Err(unknown());
        }
        let mut raw = [0; LEN];
        self.disk.read_at(&mut raw, at)?;
        let short = Short::parse(raw, at, self.boot.width)?;
        if matches!(raw.first(), Some(0 | &DELETED)) || short.attributes & LABEL != 0 {
            return Err(unknown());
        }
        Ok(Node::Entry { short, at })
    }

    fn dir_place(&self, inode: Inode) -> Result<Place> {
        match self.node(inode)? {
            Node::Root => Ok(self.root_place()),
            Node::Entry { short, at } => self.place_of(&short, at),
        }
    }

    /// Bytes that a directory takes; none of one that cannot be read, which says why when it is listed.
    fn directory_room(&self, inode: Inode) -> u64 {
        let listing = self.dir_place(inode).and_then(|place| self.listing(place));
        listing.map_or(0, |listing| {
            let lens = listing.parts.iter().map(|(_, len)| *len);
            lens.fold(0, u64::saturating_add)
        })
    }

    /// The entry of a regular file.
    fn regular(&self, inode: Inode) -> Result<(Short, u64)> {
        match self.node(inode)? {
            Node::Entry { short, at } if !short.is_directory() => Ok((short, at)),
            _ => Err(Error::usage("it is not a regular file")),
        }
    }

    /// The rows of clusters that hold a file's content: all of it.
    fn rows(&self, short: &Short, at: u64) -> Result<Arc<Vec<Row>>> {
        let need = self.boot.clusters_for(u64::from(short.size));
        if need == 0 {
            return Ok(Arc::default());
        }
        self.check_first(short, at)?;
        let key = (short.first, need);
        let mut last = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, rows)) = &*last
            && *known == key
        {
            return Ok(Arc::clone(rows));
        }
        let rows = self.table.chain(short.first, need)?;
        let have: u64 = rows.iter().map(|row| u64::from(row.count)).sum();
        if have < need {
            return Err(Error::corrupt("chain is shorter than the file")
                .in_structure("directory entry")
                .at(at)
                .mismatch(format!("{need} clusters"), have));
        }
        let rows = Arc::new(rows);
        *last = Some((key, Arc::clone(&rows)));
        Ok(rows)
    }

    /// Where the bytes `0..size` of a file are: their offsets in it and on the disk, and lengths.
    fn spans(&self, rows: &[Row], size: u64) -> Vec<(u64, u64, u64)> {
        let mut at = 0u64;
        let mut spans = Vec::with_capacity(rows.len());
        for row in rows {
            let len = u64::from(row.count).saturating_mul(self.boot.cluster);
            let len = len.min(size.saturating_sub(at));
            spans.push((at, self.boot.offset(row.first), len));
            at = at.saturating_add(len);
        }
        spans
    }

    /// Free clusters: as the summary says, or counted.
    fn free_clusters(&self) -> Result<u32> {
        if let Some(at) = self.boot.summary {
            let mut raw = [0; boot::LEN];
            self.disk.read_at(&mut raw, at)?;
            let f = Fields::new(&raw, "free cluster summary", at);
            if write::is_summary(&raw) && f.u32_le(488)? <= self.boot.clusters {
                return f.u32_le(488);
            }
        }
        let mut free = 0u32;
        for cluster in 2..self.boot.end() {
            if self.table.raw(cluster)? == 0 {
                free = free.saturating_add(1);
            }
        }
        Ok(free)
    }
}

fn inode_at(at: u64) -> Inode {
    Inode(div(at, wide(LEN)))
}

fn kind_of(short: &Short) -> FileKind {
    if short.is_directory() {
        FileKind::Directory
    } else {
        FileKind::Regular
    }
}

impl FileSystem for Fat {
    fn identity(&self) -> Identity {
        let free = u64::from(self.free_clusters().unwrap_or(0));
        Identity {
            kind: "vfat",
            uuid: self
                .boot
                .serial
                .map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)),
            label: self.label.clone().filter(|label| !label.is_empty()),
            block_size: u32::try_from(self.boot.cluster).unwrap_or(u32::MAX),
            size: self.boot.size,
            free: free.saturating_mul(self.boot.cluster),
            replayed: false,
        }
    }

    fn root(&self) -> Inode {
        Inode(ROOT)
    }

    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>> {
        let listing = self.listing(self.dir_place(dir)?)?;
        Ok(listing.find(name).map(|entry| inode_at(entry.at)))
    }

    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>> {
        let listing = self.listing(self.dir_place(dir)?)?;
        let entry = |entry: &dir::Entry| DirEntry {
            name: entry.name.clone(),
            inode: inode_at(entry.at),
            kind: Some(kind_of(&entry.short)),
        };
        Ok(listing.entries.iter().map(entry).collect())
    }

    fn attributes(&self, inode: Inode) -> Result<Attributes> {
        let (kind, attributes, size, mtime) = match self.node(inode)? {
            Node::Root => (FileKind::Directory, DIRECTORY, 0, 0),
            Node::Entry { short, .. } => {
                let size = if short.is_directory() { 0 } else { short.size };
                (
                    kind_of(&short),
                    short.attributes,
                    u64::from(size),
                    short.modified,
                )
            }
        };
        // A directory's read-only bit means something else to Windows, and nothing to Linux.
        let fixed = attributes & READ_ONLY != 0 && kind == FileKind::Regular;
        Ok(Attributes {
            kind,
            mode: if fixed { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            size,
            allocated: match kind {
                FileKind::Directory => self.directory_room(inode),
                _ => rehost_block::round_up(size, self.boot.cluster),
            },
            links: 1,
            mtime,
            device: None,
        })
    }

    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (short, at) = self.regular(inode)?;
        let size = u64::from(short.size);
        let len = length(size.saturating_sub(offset).min(wide(buf.len())))?;
        let rows = self.rows(&short, at)?;
        let end = offset.saturating_add(wide(len));
        let spans = self.spans(&rows, size);
        let mut rest = buf.get_mut(..len).unwrap_or_default();
        // The spans are in file order and cover the file: each fills the next part of `rest`.
        for (from, disk, span) in spans {
            let start = offset.max(from);
            let stop = end.min(from.saturating_add(span));
            if start >= stop {
                continue;
            }
            let (part, tail) =
                rest.split_at_mut(length(stop.saturating_sub(start))?.min(rest.len()));
            self.disk
                .read_at(part, disk.saturating_add(start.saturating_sub(from)))?;
            rest = tail;
        }
        Ok(len)
    }

    fn read_link(&self, _: Inode) -> Result<Vec<u8>> {
        Err(Error::usage("it is not a symbolic link"))
    }

    fn stored(&self, inode: Inode) -> Result<Vec<Stored>> {
        let (short, at) = self.regular(inode)?;
        let rows = self.rows(&short, at)?;
        let stored = |(from, disk, len): (u64, u64, u64)| Stored {
            file: from..from.saturating_add(len),
            disk: Some(disk),
        };
        Ok(self
            .spans(&rows, u64::from(short.size))
            .into_iter()
            .map(stored)
            .collect())
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.node(inode).map(|_| Vec::new())
    }
}
