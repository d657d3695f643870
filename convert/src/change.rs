//! Changing the files inside images: on copy-on-write overlays, which become a new image or are put
//! into the old one.
//!
//! A filesystem is opened for writing when the first change reaches it; from then on paths are looked
//! up in what is written, so that one change sees the one before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, File, Overlay, Result};
use rehost_fs::path::LastLink;
use rehost_fs::{BtrfsMut, Content, FileKind, FileSystem, FileSystemMut, Inode, Subvol};
use rehost_inspect::model::FilesystemRef;
use rehost_volume::stack::Stack;

use crate::browse::{At, Browse, Found, join};
use crate::secrets::Secrets;

/// Directories inside one another that are removed. Linux's own longest path has fewer.
const DEEPEST: usize = 2048;

/// Owner and group of what is put into a guest.
const ROOT: (u32, u32) = (0, 0);

/// Changes to the files on the disks of a machine.
pub struct Changes {
    browse: Browse,
    overlays: Vec<Arc<Overlay>>,
    secrets: Secrets,
    writers: BTreeMap<FilesystemRef, Arc<dyn FileSystemMut>>,
}

/// What is put into a guest.
#[derive(Debug, Clone, Copy)]
pub enum New<'a> {
    /// A file, and the mode it gets if it is new.
    File(&'a dyn Content, u16),
    /// A directory, and the mode it gets if it is new.
    Directory(u16),
    /// A symbolic link.
    Link(&'a [u8]),
}

impl Changes {
    /// Begins to change files on `disks`, which stay as they are: of the volume or subvolume `at` if one
    /// is named, else of the guest on them.
    ///
    /// # Errors
    /// As [`Browse::open`].
    pub fn begin(disks: &[Arc<dyn Disk>], secrets: &Secrets, at: At<'_>) -> Result<Self> {
        let overlays = disks
            .iter()
            .map(|disk| {
                let store = Arc::new(File::temporary(std::env::temp_dir())?);
                Ok(Arc::new(Overlay::new(Arc::clone(disk), store)))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            browse: Browse::open(disks, secrets, at)?,
            overlays,
            secrets: Secrets::clone(secrets),
            writers: BTreeMap::new(),
        })
    }

    /// Whether there is a directory at `path`.
    ///
    /// # Errors
    /// As the filesystems.
    pub fn is_directory(&self, path: &Path) -> Result<bool> {
        match self.browse.look_up(path, LastLink::Follow)? {
            Some(found) => Ok(found.fs.attributes(found.inode)?.kind == FileKind::Directory),
            None => Ok(false),
        }
    }

    /// Puts `new` at `path`. A file that is there keeps its owner, mode and labels; what is new belongs
    /// to root, and has the SELinux label of its folder.
    ///
    /// # Errors
    /// Usage when the folder does not exist, or something of another kind is there; as the filesystem.
    pub fn put(&mut self, path: &Path, new: New<'_>) -> Result<()> {
        self.put_new(path, new).map_err(|error| error.in_file(path))
    }

    fn put_new(&mut self, path: &Path, new: New<'_>) -> Result<()> {
        let last = match new {
            New::Link(_) => LastLink::Keep,
            New::File(..) | New::Directory(_) => LastLink::Follow,
        };
        if let Some(found) = self.browse.look_up(path, last)? {
            let kind = found.fs.attributes(found.inode)?.kind;
            return match (new, kind) {
                (New::Directory(_), FileKind::Directory) => Ok(()),
                (New::File(content, _), FileKind::Regular) => {
                    self.writer(&found.at)?.replace(found.inode, content)
                }
                (_, FileKind::Directory) => Err(Error::usage("is a directory in the guest")
                    .hint("name the file to write in it")),
                _ => Err(
                    Error::usage("exists already in the guest, and is no regular file")
                        .hint("remove it first with `rehost rm`"),
                ),
            };
        }
        let (folder, name) = self.folder(path)?;
        let fs = self.writer(&folder.at)?;
        let label = fs
            .xattrs(folder.inode)?
            .into_iter()
            .find(|(name, _)| name == b"security.selinux");
        let made = match new {
            New::File(content, mode) => fs.create(folder.inode, &name, mode, ROOT, content)?,
            New::Directory(mode) => fs.create_dir(folder.inode, &name, mode, ROOT)?,
            New::Link(target) => fs.create_link(folder.inode, &name, target, ROOT)?,
        };
        match label {
            Some((name, value)) => fs.set_xattr(made, &name, &value),
            None => Ok(()),
        }
    }

    /// Removes the file at `path`, a link and not what it leads to; a directory only when it is empty,
    /// or `depth` says that all in it goes too. Gives how many files and directories went.
    ///
    /// # Errors
    /// Usage when there is none, or something is mounted in it; as the filesystem.
    pub fn remove(&mut self, path: &Path, depth: Depth) -> Result<u64> {
        self.remove_all(path, depth)
            .map_err(|error| error.in_file(path))
    }

    fn remove_all(&mut self, path: &Path, depth: Depth) -> Result<u64> {
        let (folder, name) = self.folder(path)?;
        let inside = join(&folder.path, &name);
        let prefix = join(&inside, b"");
        let covered = |point: &[u8]| point == inside || point.starts_with(&prefix);
        let mounts = self.browse.tree().mounts().skip(1);
        let mounted: Vec<Vec<u8>> = mounts.map(|(point, _)| point).collect();
        if let Some(point) = mounted.iter().find(|point| covered(point)) {
            return Err(Error::usage(format!(
                "the guest mounts another filesystem on {}",
                String::from_utf8_lossy(point)
            ))
            .hint("remove files on each filesystem for itself, with --volume VOLUME"));
        }
        let fs = self.writer(&folder.at)?;
        let inode = fs
            .lookup(folder.inode, &name)?
            .ok_or_else(|| Error::usage("no such file in the guest"))?;
        if depth == Depth::One && fs.attributes(inode)?.kind == FileKind::Directory {
            let what = "is a directory in the guest";
            return match fs.read_dir(inode)?.is_empty() {
                true => fs.remove(folder.inode, &name).map(|()| 1),
                false => Err(Error::usage(what).hint("remove it with all that is in it with -r")),
            };
        }
        remove_below(&*fs, folder.inode, &name, inode, 0)
    }

    /// The directory that `path` is in, and its name there.
    fn folder(&self, path: &Path) -> Result<(Found, Vec<u8>)> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::usage("is no name of a file"))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = self
            .browse
            .look_up(parent, LastLink::Follow)?
            .ok_or_else(|| Error::usage("its folder does not exist in the guest"))?;
        if folder.fs.attributes(folder.inode)?.kind != FileKind::Directory {
            return Err(Error::usage("its folder is no directory in the guest"));
        }
        Ok((folder, name.as_bytes().to_vec()))
    }

    /// The filesystem at a place, for writing.
    fn writer(&mut self, at: &FilesystemRef) -> Result<Arc<dyn FileSystemMut>> {
        if let Some(known) = self.writers.get(at) {
            return Ok(Arc::clone(known));
        }
        if self.writers.keys().any(|other| other.is(at)) {
            return Err(Error::unsupported(
                "one run can change files in one subvolume of a filesystem only",
            )
            .hint("change the others in runs of their own"));
        }
        let members = self.browse.volumes().members(at);
        let disks: Vec<Arc<dyn DiskMut>> = members
            .into_iter()
            .map(|member| self.disk(&member.at))
            .collect::<Result<_>>()?;
        let which = at.subvolume.as_deref().map(subvolume);
        let writer = match (&disks[..], which) {
            ([disk], None) => rehost_fs::open_mut(Arc::clone(disk)),
            (_, which) => BtrfsMut::open_many(disks, which.unwrap_or(Subvol::Default))
                .map(|fs| Arc::new(fs) as Arc<dyn FileSystemMut>),
        };
        let writer = writer.map_err(|error| error.in_file(at.to_string()))?;
        let reader: Arc<dyn FileSystem> = writer.clone();
        self.browse.tree_mut().replace(at, &reader);
        self.writers.insert(at.clone(), Arc::clone(&writer));
        Ok(writer)
    }

    /// The volume at a place, for writing.
    fn disk(&self, at: &FilesystemRef) -> Result<Arc<dyn DiskMut>> {
        if at.name.is_some() {
            return self.stacked(at);
        }
        let overlay = self
            .overlays
            .get(at.disk)
            .ok_or_else(|| Error::internal("a volume of no disk"))?;
        let readable: Arc<dyn Disk> = overlay.clone();
        let writable: Arc<dyn DiskMut> = overlay.clone();
        rehost_volume::scan(&readable)?.open_mut(&writable, at.volume)
    }

    /// A volume that lies on others, to be written through to the disks.
    fn stacked(&self, at: &FilesystemRef) -> Result<Arc<dyn DiskMut>> {
        let disks: Vec<(String, Arc<dyn DiskMut>)> = (0..)
            .map(|nth: usize| format!("disk {nth}"))
            .zip(&self.overlays)
            .map(|(name, overlay)| (name, Arc::clone(overlay) as Arc<dyn DiskMut>))
            .collect();
        let stack = Stack::find_mut(&disks, &self.secrets)?;
        // The same search over the same bytes: the nodes are in the same order.
        let mut found = self.browse.volumes().found.iter();
        found
            .position(|volume| volume.at.is(at))
            .and_then(|nth| stack.nodes.get(nth))
            .ok_or_else(|| Error::internal("a volume that is not found again"))?
            .writer()
    }

    /// The disks that were changed: their places among the disks, and what they are now.
    #[must_use]
    pub fn finish(self) -> Vec<(usize, Arc<Overlay>)> {
        // The filesystems write nothing any more.
        drop(self.writers);
        self.overlays
            .into_iter()
            .enumerate()
            .filter(|(_, overlay)| !overlay.written().is_empty())
            .collect()
    }
}

/// How much is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// A file, or an empty directory.
    One,
    /// A directory with all that is in it.
    All,
}

/// The subvolume that a filesystem's place names.
fn subvolume(name: &str) -> Subvol {
    let number = name.strip_prefix('#').and_then(|id| id.parse().ok());
    number.map_or_else(|| Subvol::Path(name.as_bytes().to_vec()), Subvol::Id)
}

fn remove_below(
    fs: &dyn FileSystemMut,
    folder: Inode,
    name: &[u8],
    inode: Inode,
    depth: usize,
) -> Result<u64> {
    let shown = || OsStr::from_bytes(name).to_owned();
    if depth > DEEPEST {
        return Err(Error::corrupt("directories are nested without end").in_file(shown()));
    }
    let mut count = 1;
    if fs.attributes(inode)?.kind == FileKind::Directory {
        for entry in fs.read_dir(inode)? {
            count += remove_below(fs, inode, &entry.name, entry.inode, depth + 1)?;
        }
    }
    fs.remove(folder, name)
        .map_err(|error| error.in_file(shown()))?;
    Ok(count)
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes")
            .field("overlays", &self.overlays.len())
            .field("writers", &self.writers.len())
            .finish_non_exhaustive()
    }
}
