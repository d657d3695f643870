//! Paths over a filesystem: lookup through directories and symbolic links, inside it.

use rehost_block::{Error, Result};

use crate::{FileKind, FileSystem, Inode};

/// Links followed before a path is called a loop. Linux's own limit (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Largest file that [`read`] takes into memory. Ours: no configuration file or initramfs of a
/// guest comes near it, and a hostile size must not exhaust the host.
const MOST_READ: u64 = 1 << 30;

/// Whether a symbolic link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// As `stat` does.
    Follow,
    /// As `lstat` does.
    Keep,
}

/// What a path leads through: one filesystem, or several mounted on one another.
pub trait Tree {
    /// Where a file is.
    type Place;

    /// The top directory.
    fn top(&self) -> Self::Place;

    /// The filesystem of a place, and the file's number in it.
    fn at(&self, place: &Self::Place) -> (&dyn FileSystem, Inode);

    /// The place of `inode`, which is called `name` in the directory that `trail` leads to.
    fn below(&self, trail: &[Step<Self::Place>], name: &[u8], inode: Inode) -> Self::Place;
}

/// A directory or file that was reached on the way along a path.
#[derive(Debug, Clone)]
pub struct Step<P> {
    /// Its name in the directory before it.
    pub name: Vec<u8>,
    /// Where it is.
    pub place: P,
}

impl Tree for dyn FileSystem + '_ {
    type Place = Inode;

    fn top(&self) -> Inode {
        self.root()
    }

    fn at(&self, place: &Inode) -> (&dyn FileSystem, Inode) {
        (self, *place)
    }

    fn below(&self, _: &[Step<Inode>], _: &[u8], inode: Inode) -> Inode {
        inode
    }
}

/// The steps from the top to `path`, without links (none for the top itself); `None` when it is not there.
///
/// # Errors
/// Usage when links loop; Corrupt as the filesystems.
pub fn walk<T: Tree + ?Sized>(
    tree: &T,
    path: &[u8],
    last: LastLink,
) -> Result<Option<Vec<Step<T::Place>>>> {
    // `..` pops; above the top it stays there.
    let mut trail: Vec<Step<T::Place>> = Vec::new();
    let mut left: Vec<Vec<u8>> = split(path);
    let mut links = 0usize;
    // Ends because every round takes one component, and links add components at most MOST_LINKS
    // times.
    while let Some(name) = left.pop() {
        if name == b".." {
            trail.pop();
            continue;
        }
        let top;
        let here = if let Some(step) = trail.last() {
            &step.place
        } else {
            top = tree.top();
            &top
        };
        let (fs, here) = tree.at(here);
        if fs.attributes(here)?.kind != FileKind::Directory {
            return Ok(None);
        }
        let Some(inode) = fs.lookup(here, &name)? else {
            return Ok(None);
        };
        let is_link = fs.attributes(inode)?.kind == FileKind::Symlink;
        if is_link && (!left.is_empty() || last == LastLink::Follow) {
            links = links.saturating_add(1);
            if links > MOST_LINKS {
                return Err(Error::usage(format!(
                    "too many symbolic links in {}",
                    String::from_utf8_lossy(path)
                )));
            }
            let target = fs.read_link(inode)?;
            if target.starts_with(b"/") {
                trail.clear();
            }
            left.extend(split(&target));
            continue;
        }
        let place = tree.below(&trail, &name, inode);
        trail.push(Step { name, place });
    }
    Ok(Some(trail))
}

/// Finds `path` (absolute or not: both start at the root; `..` above the root stays there).
///
/// # Errors
/// As [`walk`].
pub fn find(fs: &dyn FileSystem, path: &[u8], last: LastLink) -> Result<Option<Inode>> {
    let trail = walk(fs, path, last)?;
    Ok(trail.map(|trail| trail.last().map_or_else(|| fs.root(), |step| step.place)))
}

/// All of the regular file at `path`, links followed; `None` when there is none.
///
/// # Errors
/// Unsupported when it is larger than 1 GiB; otherwise as [`find`] and
/// [`FileSystem::read_at`].
pub fn read(fs: &dyn FileSystem, path: &[u8]) -> Result<Option<Vec<u8>>> {
    match find(fs, path, LastLink::Follow)? {
        Some(inode) if fs.attributes(inode)?.kind == FileKind::Regular => {
            read_inode(fs, inode).map(Some)
        }
        _ => Ok(None),
    }
}

/// All of a regular file.
///
/// # Errors
/// As [`read`].
pub fn read_inode(fs: &dyn FileSystem, inode: Inode) -> Result<Vec<u8>> {
    let size = fs.attributes(inode)?.size;
    if size > MOST_READ {
        return Err(Error::unsupported(format!(
            "a file of {size} bytes is too large to edit"
        )));
    }
    let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
    let len = fs.read_at(inode, &mut content, 0)?;
    content.truncate(len);
    Ok(content)
}

/// The components of a path, last first, without empty ones and `.`.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
