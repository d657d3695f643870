//! Looking at files inside an image: through the guest's own mounts, or on one filesystem of it.

mod content;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result};
use rehost_fs::path::LastLink;
use rehost_fs::{Attributes, FileKind, FileSystem, Inode};
use rehost_image::Secret;
use rehost_inspect::model::{Content, FilesystemRef, VolumeFound};
use rehost_inspect::{GuestTree, OpenedFilesystem, Options, Volumes};

/// Where paths are looked up.
#[derive(Debug)]
pub struct Browse {
    tree: GuestTree,
    volumes: Volumes,
}

/// Which filesystem is meant, where not the guest with all that it mounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct At<'a> {
    /// The volume it is on.
    pub volume: Option<&'a str>,
    /// The Btrfs subvolume to show, as `mount -o subvol=` takes it, or `#` and its number.
    pub subvolume: Option<&'a str>,
}

impl<'a> At<'a> {
    /// What a mount of this volume without options shows.
    #[must_use]
    pub const fn volume(name: &'a str) -> Self {
        Self {
            volume: Some(name),
            subvolume: None,
        }
    }
}

/// A file that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The filesystem it is on.
    pub fs: Arc<dyn FileSystem>,
    /// The place of that filesystem.
    pub at: FilesystemRef,
    /// Its number there.
    pub inode: Inode,
    /// Its path without links, as the guest sees it.
    pub path: Vec<u8>,
}

/// A name in a directory, with what `ls` shows.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// What `stat` says (of a link itself).
    pub attributes: Attributes,
    /// Where a link points.
    pub link: Option<Vec<u8>>,
    /// The file.
    pub found: Found,
}

/// What is in a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names and what they name, sorted by name.
    pub entries: Vec<Entry>,
    /// Why others are missing.
    pub failed: Vec<Error>,
}

impl Browse {
    /// The files on the disks of a machine: of the volume or subvolume that `at` names, else of
    /// the guest on them, or of their only filesystem.
    ///
    /// # Errors
    /// Usage when there is no such volume, or neither a guest nor a lone filesystem; and as the
    /// filesystems.
    pub fn open(disks: &[Arc<dyn Disk>], secrets: &[Secret], at: At<'_>) -> Result<Self> {
        let volumes = Volumes::find(disks, secrets)?;
        let named = |name| volumes.named(name).ok_or_else(|| unknown(&volumes, name));
        let opened = match (at.volume.map(named).transpose()?, at.subvolume) {
            (volume, Some(subvolume)) => Some(volumes.subvolume(volume, subvolume)?),
            (Some(found), None) => Some(OpenedFilesystem {
                at: found.at.clone(),
                fs: volumes.filesystem(found)?,
            }),
            (None, None) => None,
        };
        if let Some(opened) = opened {
            let tree = GuestTree::new(opened);
            return Ok(Self { tree, volumes });
        }
        // A whole inspection is needed only where it has to choose between systems.
        let tree = match rehost_inspect::only_tree(&volumes) {
            Some(tree) => tree,
            None => {
                let guest = rehost_inspect::inspect_volumes(volumes.clone(), &Options::default())?;
                match guest.tree() {
                    Ok(tree) => tree.clone(),
                    Err(_) => GuestTree::new(lone(&volumes)?),
                }
            }
        };
        Ok(Self { tree, volumes })
    }

    /// The files, by path.
    #[must_use]
    pub const fn tree(&self) -> &GuestTree {
        &self.tree
    }

    /// The same, to put another filesystem in the place of one.
    pub(crate) const fn tree_mut(&mut self) -> &mut GuestTree {
        &mut self.tree
    }

    /// What the files are on.
    #[must_use]
    pub const fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The file at `path`, links followed.
    ///
    /// # Errors
    /// Usage when there is none.
    pub fn find(&self, path: &Path) -> Result<Found> {
        self.look_up(path, LastLink::Follow)?
            .ok_or_else(|| missing(path))
    }

    /// The file at `path`; a link at its end is not followed.
    ///
    /// # Errors
    /// Usage when there is none.
    pub fn find_link(&self, path: &Path) -> Result<Found> {
        self.look_up(path, LastLink::Keep)?
            .ok_or_else(|| missing(path))
    }

    /// The file at `path`, if there is one; `last` says what a link at its end means.
    ///
    /// # Errors
    /// As the filesystems.
    pub fn look_up(&self, path: &Path, last: LastLink) -> Result<Option<Found>> {
        let Some(location) = self.tree.find(path.as_os_str().as_bytes(), last)? else {
            return Ok(None);
        };
        let fs = self
            .tree
            .filesystem(&location.at)
            .ok_or_else(|| Error::internal("a file on a filesystem that is not mounted"))?;
        Ok(Some(Found {
            fs: Arc::clone(fs),
            at: location.at,
            inode: location.inode,
            path: location.guest_path,
        }))
    }

    /// What is in the directory at `path`, or the one file that is there.
    ///
    /// # Errors
    /// As [`Browse::find`].
    pub fn list(&self, path: &Path) -> Result<Listing> {
        let found = self.find(path)?;
        if found.fs.attributes(found.inode)?.kind != FileKind::Directory {
            let name = path.as_os_str().as_bytes().to_vec();
            return Ok(Listing {
                entries: vec![entry(name, found)?],
                failed: Vec::new(),
            });
        }
        self.children(&found)
    }

    /// What is in a directory; what is mounted on one of them is shown in its place.
    ///
    /// # Errors
    /// As the filesystem.
    pub fn children(&self, directory: &Found) -> Result<Listing> {
        let mut listing = Listing::default();
        for named in directory.fs.read_dir(directory.inode)? {
            let path = join(&directory.path, &named.name);
            let mounted = match named.name.contains(&b'/') {
                true => None,
                false => self.mounted_on(&path),
            };
            let (fs, at, inode) = match mounted {
                Some(opened) => (&opened.fs, &opened.at, opened.fs.root()),
                None => (&directory.fs, &directory.at, named.inode),
            };
            let found = Found {
                fs: Arc::clone(fs),
                at: at.clone(),
                inode,
                path,
            };
            let shown = Path::new(OsStr::from_bytes(&found.path)).to_owned();
            match entry(named.name, found) {
                Ok(entry) => listing.entries.push(entry),
                Err(error) if error.kind() == Kind::Io => return Err(error),
                Err(error) => listing.failed.push(error.in_file(shown)),
            }
        }
        listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// What is mounted on the directory at `path`, given without links.
    #[must_use]
    pub fn mounted_on(&self, path: &[u8]) -> Option<&OpenedFilesystem> {
        let mounts = self.tree.mounts().skip(1);
        mounts
            .filter(|(point, _)| point == path)
            .map(|(_, opened)| opened)
            .last()
    }
}

/// The path of `name` in the folder `folder`.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, slash, name].concat()
}

fn missing(path: &Path) -> Error {
    Error::usage("no such file in the guest").in_file(path)
}

/// The only filesystem that there is.
fn lone(volumes: &Volumes) -> Result<OpenedFilesystem> {
    match &volumes.filesystems[..] {
        [one] => Ok(one.clone()),
        [] => Err(why_none(volumes)),
        _ => Err(
            Error::usage("it has several filesystems and no system on them")
                .hint("choose one with --volume VOLUME; `rehost lsblk` shows them"),
        ),
    }
}

/// Why no filesystem could be opened: a damaged one tells more than that there is none.
fn why_none(volumes: &Volumes) -> Error {
    let broken = |volume: &&VolumeFound| matches!(volume.content, Content::Broken { .. });
    if let Some(volume) = volumes.found.iter().find(broken)
        && let Err(error) = volumes.filesystem(volume)
        && error.kind() == Kind::Corrupt
    {
        return error;
    }
    let damage = volumes.found.iter().find_map(|volume| {
        let what = volume.damage.last()?;
        Some(format!("{}: {what}", volume.at))
    });
    let why = damage.map_or_else(String::new, |damage| format!(" ({damage})"));
    Error::unsupported(format!("no filesystem that can be read was found{why}"))
        .hint("`rehost lsblk` shows what is there")
}

fn unknown(volumes: &Volumes, name: &str) -> Error {
    let known: Vec<&str> = volumes
        .found
        .iter()
        .map(|volume| volume.name.as_str())
        .collect();
    Error::usage(format!("there is no volume {name:?}"))
        .hint(format!("there are: {}", known.join(", ")))
}

fn entry(name: Vec<u8>, found: Found) -> Result<Entry> {
    let attributes = found.fs.attributes(found.inode)?;
    let link = match attributes.kind {
        FileKind::Symlink => Some(found.fs.read_link(found.inode)?),
        _ => None,
    };
    Ok(Entry {
        name,
        attributes,
        link,
        found,
    })
}
