//! What exists after the kernel has unpacked every archive: paths, resolved through links.
//!
//! Follows `init/initramfs.c` of Linux 6.1, each rule measured on a booted kernel: a file whose
//! directory is missing is skipped; an entry of another type than what is there replaces it, except
//! that nothing replaces a directory with files in it; a directory entry over a directory changes
//! nothing; links in a path's directories are followed.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};

use rehost_fs::FileKind;
use rehost_fs::path::LastLink;

use super::Segment;

/// Links followed before a path is a loop. Linux's own limit (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Longest target of a link. Linux's own limit (`PATH_MAX`): it skips longer ones.
const LONGEST_TARGET: usize = 4096;

/// Most directories deep that a path may go. Ours: real images stay under 20, and every level costs
/// a look-up for every file below it.
const DEEPEST: usize = 64;

/// One file after unpacking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
    /// `st_mode`.
    pub mode: u32,
    /// The segment that it came from; `None` for the directories of the kernel's own.
    pub segment: Option<usize>,
    /// Bytes of content of a regular file or a link, in [`Tree::contents`].
    content: Option<usize>,
}

/// The merged tree. Keys are canonical: no leading `/`, no `.`, `..` or link in directories.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Segment and range in its plain bytes. A file with several names has one.
    contents: Vec<(usize, Range<usize>)>,
    /// Targets of symbolic links by content number, because resolving needs them.
    targets: HashMap<usize, Vec<u8>>,
}

impl Tree {
    pub(super) fn build(file: &[u8], segments: &[Segment]) -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            contents: Vec::new(),
            targets: HashMap::new(),
        };
        // The kernel's built-in archive (usr/default_cpio_list).
        for name in [&b""[..], b"dev", b"root"] {
            let node = Node {
                kind: FileKind::Directory,
                mode: 0o040_755,
                segment: None,
                content: None,
            };
            tree.nodes.insert(name.to_vec(), node);
        }
        for (index, segment) in segments.iter().enumerate() {
            tree.add(file, index, segment);
        }
        tree
    }

    fn add(&mut self, file: &[u8], index: usize, segment: &Segment) {
        // Content numbers of files with several names, within one archive.
        let mut shared: HashMap<(u32, (u32, u32, u32)), usize> = HashMap::new();
        for entry in &segment.entries {
            let Some(kind) = entry.kind() else { continue };
            let Some(place) = self.place(&entry.path) else {
                continue;
            };
            if !self.make_way(&place, kind) {
                continue;
            }
            let content = match kind {
                FileKind::Regular => {
                    let key = (entry.archive, entry.identity);
                    let known = (entry.links > 1)
                        .then(|| shared.get(&key).copied())
                        .flatten();
                    let number = known.unwrap_or(self.contents.len());
                    if known.is_none() {
                        self.contents.push((index, entry.body.clone()));
                        shared.insert(key, number);
                    } else if let Some(content) = self.contents.get_mut(number)
                        && !entry.body.is_empty()
                    {
                        *content = (index, entry.body.clone());
                    }
                    Some(number)
                }
                FileKind::Symlink => {
                    let number = self.contents.len();
                    self.contents.push((index, entry.body.clone()));
                    let plain = segment.plain.bytes(file);
                    let target = plain.get(entry.body.clone()).unwrap_or_default();
                    if target.len() > LONGEST_TARGET {
                        continue;
                    }
                    self.targets.insert(number, target.to_vec());
                    Some(number)
                }
                _ => None,
            };
            let node = Node {
                kind,
                mode: entry.mode,
                segment: Some(index),
                content,
            };
            self.nodes.insert(place, node);
        }
    }

    /// Removes what an entry of `kind` at `place` replaces; says whether the entry can be made.
    fn make_way(&mut self, place: &[u8], kind: FileKind) -> bool {
        let Some(old) = self.nodes.get(place) else {
            return true;
        };
        if old.kind != FileKind::Directory {
            return true;
        }
        kind == FileKind::Directory || !self.has_children(place)
    }

    fn has_children(&self, directory: &[u8]) -> bool {
        let mut first = directory.to_vec();
        first.push(b'/');
        self.nodes
            .range::<[u8], _>((Bound::Included(first.as_slice()), Bound::Unbounded))
            .next()
            .is_some_and(|(path, _)| path.starts_with(&first))
    }

    /// The canonical form of `path`: every directory exists, links in them resolved.
    pub(super) fn place(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.walk(path, LastLink::Keep)
    }

    pub(super) fn find(&self, path: &[u8], last: LastLink) -> Option<&Node> {
        self.nodes.get(&self.walk(path, last)?)
    }

    fn walk(&self, path: &[u8], last: LastLink) -> Option<Vec<u8>> {
        let mut here: Vec<u8> = Vec::new();
        let mut left: Vec<&[u8]> = split(path);
        let mut links = 0usize;
        // Ends because every round takes one component, and links add components at most
        // MOST_LINKS times.
        while let Some(name) = left.pop() {
            if left.len() > DEEPEST {
                return None;
            }
            if name == b".." {
                let end = here.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                here.truncate(end);
                continue;
            }
            let mut next = here.clone();
            if !next.is_empty() {
                next.push(b'/');
            }
            next.extend_from_slice(name);
            match self.nodes.get(&next) {
                Some(node)
                    if node.kind == FileKind::Symlink
                        && (!left.is_empty() || last == LastLink::Follow) =>
                {
                    links = links.saturating_add(1);
                    if links > MOST_LINKS {
                        return None;
                    }
                    let target = self.targets.get(&node.content?)?;
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    left.extend(split(target));
                }
                Some(node) if left.is_empty() || node.kind == FileKind::Directory => here = next,
                None if left.is_empty() => here = next,
                _ => return None,
            }
        }
        Some(here)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.nodes
            .iter()
            .map(|(path, node)| (path.as_slice(), node))
            .filter(|(path, _)| !path.is_empty())
    }

    pub(super) fn content(&self, node: &Node) -> Option<(usize, Range<usize>)> {
        self.contents.get(node.content?).cloned()
    }
}

/// The components of a path, last first, without empty ones and `.`.
fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .collect()
}
