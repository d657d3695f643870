//! The guest's file tree: paths looked up across all filesystems that its fstab mounts.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Error, Result};
use rehost_fs::path::{self, LastLink, Step};
use rehost_fs::{Attributes, DirEntry, FileKind, FileSystem, Inode};

use crate::model::FilesystemRef;

/// A filesystem that was opened, with its place on the disks.
#[derive(Debug, Clone)]
pub struct OpenedFilesystem {
    /// Its place.
    pub at: FilesystemRef,
    /// The filesystem, read-only.
    pub fs: Arc<dyn FileSystem>,
}

/// A regular file, to be read by place.
#[derive(Debug)]
pub(crate) struct GuestFile {
    fs: Arc<dyn FileSystem>,
    inode: Inode,
    len: u64,
}

impl GuestFile {
    /// Its length.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Reads at `offset`; gives how many bytes, less than `buf.len()` only at the end.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.fs.read_at(self.inode, buf, offset)
    }
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The volume it is on.
    pub at: FilesystemRef,
    /// The file's number in that filesystem.
    pub inode: Inode,
    /// Absolute path inside that filesystem, without links.
    pub path: Vec<u8>,
    /// Absolute path in the guest, without links.
    pub guest_path: Vec<u8>,
}

#[derive(Clone)]
struct Mounted {
    /// Components of the mount point, without links.
    point: Vec<Vec<u8>>,
    opened: OpenedFilesystem,
}

/// The file tree of one guest system. Read-only; many threads may read at once.
#[derive(Clone)]
pub struct GuestTree {
    root: OpenedFilesystem,
    /// Later ones cover earlier ones.
    mounts: Vec<Mounted>,
}

impl fmt::Debug for GuestTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestTree")
            .field("root", &self.root.at)
            .field("mounts", &self.mounts.len())
            .finish()
    }
}

/// Where a file of the tree is.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    /// Index in `mounts`; `None` for the root filesystem.
    mount: Option<usize>,
    inode: Inode,
}

impl path::Tree for GuestTree {
    type Place = Spot;

    fn top(&self) -> Spot {
        Spot {
            mount: None,
            inode: self.root.fs.root(),
        }
    }

    fn at(&self, place: &Spot) -> (&dyn FileSystem, Inode) {
        (self.fs(place.mount).as_ref(), place.inode)
    }

    /// What is mounted there covers it.
    fn below(&self, trail: &[Step<Spot>], name: &[u8], inode: Inode) -> Spot {
        let covering = self.mounts.iter().rposition(|mounted| {
            mounted.point.split_last().is_some_and(|(last, folders)| {
                last == name
                    && folders.len() == trail.len()
                    && folders.iter().zip(trail).all(|(a, b)| *a == b.name)
            })
        });
        match covering {
            Some(mount) => Spot {
                mount: Some(mount),
                inode: self.fs(Some(mount)).root(),
            },
            None => Spot {
                mount: trail.last().and_then(|step| step.place.mount),
                inode,
            },
        }
    }
}

impl GuestTree {
    /// A tree that is one filesystem.
    #[must_use]
    pub fn new(root: OpenedFilesystem) -> Self {
        Self {
            root,
            mounts: Vec::new(),
        }
    }

    /// Mounts `opened` on the directory `point` of this tree.
    ///
    /// # Errors
    /// Usage when there is no such directory.
    pub fn mount(&mut self, point: impl AsRef<[u8]>, opened: OpenedFilesystem) -> Result<()> {
        let point = point.as_ref();
        let trail = path::walk(self, point, LastLink::Follow)?;
        let end = trail.as_ref().and_then(|trail| trail.last());
        let is_directory = match end.map(|step| step.place) {
            Some(Spot { mount, inode }) => {
                self.fs(mount).attributes(inode)?.kind == FileKind::Directory
            }
            None => false,
        };
        let Some(trail) = trail.filter(|_| is_directory) else {
            return Err(Error::usage(format!(
                "the mount point {} is not a directory of the guest",
                String::from_utf8_lossy(point)
            )));
        };
        let point = trail.into_iter().map(|step| step.name).collect();
        self.mounts.push(Mounted { point, opened });
        Ok(())
    }

    /// The filesystem of `/`.
    #[must_use]
    pub fn root(&self) -> &OpenedFilesystem {
        &self.root
    }

    /// The mounted filesystems with their mount points, `/` first.
    pub fn mounts(&self) -> impl Iterator<Item = (Vec<u8>, &OpenedFilesystem)> {
        let root = std::iter::once((b"/".to_vec(), &self.root));
        root.chain(
            self.mounts
                .iter()
                .map(|mounted| (join(&mounted.point), &mounted.opened)),
        )
    }

    /// The filesystem `at`, when it is mounted.
    #[must_use]
    pub fn filesystem(&self, at: &FilesystemRef) -> Option<&Arc<dyn FileSystem>> {
        let mounts = self.mounts.iter().map(|mounted| &mounted.opened);
        std::iter::once(&self.root)
            .chain(mounts)
            .find(|opened| opened.at.is_view(at))
            .map(|opened| &opened.fs)
    }

    /// Puts `fs` in the place of the filesystem `at`, which it is another view of: one that is
    /// written to.
    pub fn replace(&mut self, at: &FilesystemRef, fs: &Arc<dyn FileSystem>) {
        let mounts = self.mounts.iter_mut().map(|mounted| &mut mounted.opened);
        for opened in std::iter::once(&mut self.root).chain(mounts) {
            if opened.at.is_view(at) {
                opened.fs = Arc::clone(fs);
            }
        }
    }

    /// The path in the guest of `path` on the filesystem `at`, when that is mounted.
    #[must_use]
    pub fn guest_path(&self, at: &FilesystemRef, path: &str) -> Option<String> {
        let path = path.trim_start_matches('/');
        self.mounts().find_map(|(point, opened)| {
            let view = opened.at.subvolume.as_ref();
            // A path from the top of a Btrfs filesystem goes through the subvolume that is mounted.
            let below = match view.filter(|_| opened.at.is(at) && at.subvolume.is_none()) {
                Some(subvolume) => path.strip_prefix(subvolume.as_str())?.strip_prefix('/')?,
                None if opened.at.is_view(at) => path,
                None => return None,
            };
            let point = String::from_utf8_lossy(&point).into_owned();
            Some(format!("{}/{below}", point.trim_end_matches('/')))
        })
    }

    /// Where `path` is, links followed; `None` when there is nothing.
    ///
    /// # Errors
    /// Usage when links loop; Corrupt as the filesystems.
    pub fn locate(&self, path: impl AsRef<[u8]>) -> Result<Option<Location>> {
        self.find(path.as_ref(), LastLink::Follow)
    }

    /// Where `path` is; `last` says what a link at its end means.
    ///
    /// # Errors
    /// As [`GuestTree::locate`].
    pub fn find(&self, path: &[u8], last: LastLink) -> Result<Option<Location>> {
        Ok(path::walk(self, path, last)?.map(|trail| {
            let end = trail.last().map(|step| step.place);
            let mount = end.and_then(|spot| spot.mount);
            let opened = self.opened(mount);
            let names: Vec<Vec<u8>> = trail.iter().map(|step| step.name.clone()).collect();
            let depth = mount
                .and_then(|mount| self.mounts.get(mount))
                .map_or(0, |mounted| mounted.point.len());
            Location {
                at: opened.at.clone(),
                inode: end.map_or_else(|| opened.fs.root(), |spot| spot.inode),
                path: join(names.get(depth..).unwrap_or_default()),
                guest_path: join(&names),
            }
        }))
    }

    /// Whether there is something at `path`, links followed.
    ///
    /// # Errors
    /// As [`GuestTree::locate`].
    pub fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        Ok(path::walk(self, path.as_ref(), LastLink::Follow)?.is_some())
    }

    /// What `stat` would say of `path`, links followed.
    ///
    /// # Errors
    /// As [`GuestTree::locate`].
    pub fn attributes(&self, path: impl AsRef<[u8]>) -> Result<Option<Attributes>> {
        match self.end(path.as_ref(), LastLink::Follow)? {
            Some((fs, inode)) => fs.attributes(inode).map(Some),
            None => Ok(None),
        }
    }

    /// All of the regular file at `path`, links followed; `None` when there is none.
    ///
    /// # Errors
    /// Unsupported when it is larger than 1 GiB; otherwise as the filesystems.
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.read_at_most(path, u64::MAX)
    }

    /// As [`GuestTree::read`], for files that must be small.
    ///
    /// # Errors
    /// Unsupported when it is larger than `most` bytes; otherwise as [`GuestTree::read`].
    pub fn read_at_most(&self, path: impl AsRef<[u8]>, most: u64) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some((fs, inode)) = self.end(path, LastLink::Follow)? else {
            return Ok(None);
        };
        let attributes = fs.attributes(inode)?;
        if attributes.kind != FileKind::Regular {
            return Ok(None);
        }
        if attributes.size > most {
            return Err(Error::unsupported(format!(
                "{} of the guest is too large to be what it should be",
                String::from_utf8_lossy(path)
            ))
            .mismatch(format!("at most {most} bytes"), attributes.size));
        }
        rehost_fs::path::read_inode(fs.as_ref(), inode).map(Some)
    }

    /// The regular file at `path`, links followed; `None` when there is none.
    pub(crate) fn open(&self, path: &str) -> Result<Option<GuestFile>> {
        let Some((fs, inode)) = self.end(path.as_bytes(), LastLink::Follow)? else {
            return Ok(None);
        };
        let attributes = fs.attributes(inode)?;
        Ok((attributes.kind == FileKind::Regular).then(|| GuestFile {
            fs: Arc::clone(fs),
            inode,
            len: attributes.size,
        }))
    }

    /// The first `len` bytes of the regular file at `path`, links followed; fewer when it is
    /// shorter.
    ///
    /// # Errors
    /// As [`GuestTree::read`].
    pub fn read_start(&self, path: impl AsRef<[u8]>, len: usize) -> Result<Option<Vec<u8>>> {
        let Some((fs, inode)) = self.end(path.as_ref(), LastLink::Follow)? else {
            return Ok(None);
        };
        if fs.attributes(inode)?.kind != FileKind::Regular {
            return Ok(None);
        }
        let mut start = vec![0; len];
        let read = fs.read_at(inode, &mut start, 0)?;
        start.truncate(read);
        Ok(Some(start))
    }

    /// The names in the directory at `path`, links followed, sorted; none when there is no
    /// directory.
    ///
    /// # Errors
    /// As the filesystems.
    pub fn read_dir(&self, path: impl AsRef<[u8]>) -> Result<Vec<DirEntry>> {
        let Some((fs, inode)) = self.end(path.as_ref(), LastLink::Follow)? else {
            return Ok(Vec::new());
        };
        if fs.attributes(inode)?.kind != FileKind::Directory {
            return Ok(Vec::new());
        }
        let mut entries = fs.read_dir(inode)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The target of the symbolic link at `path`; `None` when there is none.
    ///
    /// # Errors
    /// As the filesystems.
    pub fn read_link(&self, path: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        match self.end(path.as_ref(), LastLink::Keep)? {
            Some((fs, inode)) if fs.attributes(inode)?.kind == FileKind::Symlink => {
                fs.read_link(inode).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn end(&self, path: &[u8], last: LastLink) -> Result<Option<(&Arc<dyn FileSystem>, Inode)>> {
        Ok(
            path::walk(self, path, last)?.map(|trail| match trail.last() {
                Some(Step { place, .. }) => (self.fs(place.mount), place.inode),
                None => (&self.root.fs, self.root.fs.root()),
            }),
        )
    }

    fn opened(&self, mount: Option<usize>) -> &OpenedFilesystem {
        mount
            .and_then(|mount| self.mounts.get(mount))
            .map_or(&self.root, |mounted| &mounted.opened)
    }

    fn fs(&self, mount: Option<usize>) -> &Arc<dyn FileSystem> {
        &self.opened(mount).fs
    }
}

fn join(names: &[Vec<u8>]) -> Vec<u8> {
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}
