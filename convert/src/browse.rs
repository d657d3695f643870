//! Looking at files inside an image: through the guest's own mounts, or on one filesystem of it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result};
use rehost_fs::path::LastLink;
use rehost_fs::{Attributes, FileKind, FileSystem, Inode};
use rehost_image::Image;
use rehost_inspect::{Guest, Location};

use crate::guest::look;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Where paths are looked up.
#[derive(Debug)]
pub enum Browse {
    /// The chosen system's root, with its mounts.
    Guest(Guest),
    /// One filesystem.
    Volume(Arc<dyn FileSystem>),
}

/// A file that was found.
#[derive(Debug)]
pub struct Found {
    /// The filesystem it is on.
    pub fs: Arc<dyn FileSystem>,
    /// Its number there.
    pub inode: Inode,
}

/// A name in a directory, with what `ls` shows.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// What `stat` says (of a link itself).
    pub attributes: Attributes,
    /// Where a link points.
    pub link: Option<Vec<u8>>,
}

impl Browse {
    /// The files of `image`: of partition `volume` if that is given, else of the guest on it, or
    /// of its only filesystem.
    ///
    /// # Errors
    /// Usage when there is no such volume, or neither a guest nor a lone filesystem; and as the
    /// filesystems.
    pub fn open(image: &Image, volume: Option<u32>) -> Result<Self> {
        let disk = image.disk();
        if let Some(volume) = volume {
            return open_volume(&disk, volume).map(Self::Volume);
        }
        let guest = look(&[Arc::clone(&disk)])?;
        if guest.tree().is_ok() {
            return Ok(Self::Guest(guest));
        }
        let layout = rehost_volume::scan(&disk)?;
        let (mut lone, mut failed) = (Vec::new(), None);
        for volume in &layout.volumes {
            match open_volume(&disk, volume.number) {
                Ok(fs) => lone.push(fs),
                // A damaged filesystem tells more than that there is none.
                Err(error) if error.kind() == Kind::Corrupt => failed = failed.or(Some(error)),
                Err(_) => {}
            }
        }
        match (lone.pop(), lone.is_empty()) {
            (Some(fs), true) => Ok(Self::Volume(fs)),
            (None, _) => Err(failed.unwrap_or_else(|| {
                Error::unsupported("no filesystem that can be read was found")
                    .hint("`rehost inspect` shows what is there")
            })),
            (Some(_), false) => Err(Error::usage(
                "it has several filesystems and no system on them",
            )
            .hint("choose one with --volume NUMBER; `rehost inspect` shows them")),
        }
    }

    /// The file at `path`, links followed.
    ///
    /// # Errors
    /// Usage when there is none.
    pub fn find(&self, path: &Path) -> Result<Found> {
        self.look_up(path, LastLink::Follow)
    }

    /// The file at `path`; a link at its end is not followed.
    ///
    /// # Errors
    /// Usage when there is none.
    pub fn find_link(&self, path: &Path) -> Result<Found> {
        self.look_up(path, LastLink::Keep)
    }

    fn look_up(&self, path: &Path, last: LastLink) -> Result<Found> {
        let bytes = path.as_os_str().as_bytes();
        let found = match self {
            Self::Guest(guest) => match guest.tree()?.find(bytes, last)? {
                Some(location) => Some(found(guest, &location)?),
                None => None,
            },
            Self::Volume(fs) => rehost_fs::path::find(&**fs, bytes, last)?.map(|inode| Found {
                fs: Arc::clone(fs),
                inode,
            }),
        };
        found.ok_or_else(|| Error::usage("no such file in the guest").in_file(path))
    }

    /// What is in the directory at `path`, or the one file that is there. Directories that the
    /// guest mounts something on are shown as their own filesystem has them.
    ///
    /// # Errors
    /// As [`Browse::find`].
    pub fn list(&self, path: &Path) -> Result<Vec<Entry>> {
        let found = self.find(path)?;
        if found.fs.attributes(found.inode)?.kind != FileKind::Directory {
            let name = path.as_os_str().as_bytes().to_vec();
            return Ok(vec![entry(&*found.fs, name, found.inode)?]);
        }
        found
            .fs
            .read_dir(found.inode)?
            .into_iter()
            .map(|named| entry(&*found.fs, named.name, named.inode))
            .collect()
    }
}

fn found(guest: &Guest, location: &Location) -> Result<Found> {
    let opened = guest
        .filesystems()
        .iter()
        .find(|fs| fs.at.disk == location.disk && fs.at.volume == location.volume)
        .ok_or_else(|| Error::internal("a file on a filesystem that is not opened"))?;
    Ok(Found {
        fs: Arc::clone(&opened.fs),
        inode: location.inode,
    })
}

fn open_volume(disk: &Arc<dyn Disk>, number: u32) -> Result<Arc<dyn FileSystem>> {
    let part = rehost_volume::scan(disk)?.open(disk, number)?;
    rehost_fs::open(part)
}

fn entry(fs: &dyn FileSystem, name: Vec<u8>, inode: Inode) -> Result<Entry> {
    let attributes = fs.attributes(inode)?;
    let link = match attributes.kind {
        FileKind::Symlink => Some(fs.read_link(inode)?),
        _ => None,
    };
    Ok(Entry {
        name,
        attributes,
        link,
    })
}

impl Found {
    /// Gives the content of a regular file in order, a piece at a time.
    ///
    /// # Errors
    /// As [`FileSystem::read_at`], and whatever `take` gives.
    pub fn read_in_pieces<E: From<Error>>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = vec![0; PIECE];
        let mut at = 0u64;
        // Ends because the filesystem gives no bytes at the end of the file.
        loop {
            let len = self.fs.read_at(self.inode, &mut piece, at)?;
            if len == 0 {
                return Ok(());
            }
            take(&piece[..len])?;
            at += len as u64;
        }
    }
}
