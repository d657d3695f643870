//! Subvolumes: the trees that hold files, how they are found, and how their files are numbered here.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `ROOT_ITEM`, `ROOT_REF`. Inode numbers repeat from one
//! subvolume to the next, so that [`Inode`] carries both: the subvolume in the high 24 bits (0 for
//! the one that was opened), the inode in the low 40. Numbers are never used twice, and a filesystem that has made more
//! than that many of either is refused by name where it shows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rehost_block::{Error, Fields, Result};

use super::key::{Key, kind, tree};
use super::superblock::{LEVELS, TreeRoot};
use super::tree::Tree;
use super::{Btrfs, Subvolume, Volume};
use crate::Inode;
use crate::ext4::uuid_text;

/// The number of bits for an inode.
const BITS: u32 = 40;

/// The inode that stands for a subvolume which is not there: a snapshot keeps the name of a
/// subvolume, not the subvolume. `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`.
pub(super) const EMPTY: u64 = 2;

/// Subvolumes between one and the top, at most. Ours: each is a directory of the one above.
const MOST_NESTED: usize = 256;

/// Directories between a subvolume's top and a subvolume in it, at most: a path has 4096 bytes.
const MOST_DIRS: usize = 4096;

/// Known roots kept, at most.
const MOST_ROOTS: usize = 4096;

/// A `ROOT_ITEM`.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) id: u64,
    pub(super) tree: TreeRoot,
    /// The inode of the top directory.
    pub(super) dir: u64,
    pub(super) read_only: bool,
    pub(super) uuid: [u8; 16],
}

/// Roots by number, those that are not there too.
pub(super) type Roots = HashMap<u64, Option<Arc<Root>>>;

/// A name that a subvolume has.
#[derive(Debug)]
pub(super) struct Backref {
    pub(super) parent: u64,
    /// The directory in the parent.
    pub(super) dir: u64,
    pub(super) name: Vec<u8>,
}

impl Volume {
    /// The tree of roots.
    pub(super) const fn roots(&self) -> Tree<'_> {
        self.tree(self.nodes.sb.root)
    }

    /// A tree without changes.
    pub(super) const fn tree(&self, root: TreeRoot) -> Tree<'_> {
        Tree {
            nodes: &self.nodes,
            root,
            changes: None,
        }
    }

    /// A subvolume's tree, as it is after the log.
    pub(super) fn files(&self, root: &Root) -> Tree<'_> {
        Tree {
            nodes: &self.nodes,
            root: root.tree,
            changes: self.logs.get(&root.id),
        }
    }

    /// The root numbered `id`, unless it is not there or being deleted.
    pub(super) fn root(&self, id: u64) -> Result<Option<Arc<Root>>> {
        let known = |roots: &Roots| roots.get(&id).cloned();
        let kept = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = kept {
            return Ok(found);
        }
        let found = self.read_root(id)?.map(Arc::new);
        let mut roots = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if roots.len() >= MOST_ROOTS {
            roots.clear();
        }
        roots.insert(id, found.clone());
        Ok(found)
    }

    pub(super) fn read_root(&self, id: u64) -> Result<Option<Root>> {
        let item = self.roots().before(Key::last_of(id, kind::ROOT_ITEM))?;
        let Some(item) = item.filter(|item| item.key.is(id, kind::ROOT_ITEM)) else {
            return Ok(None);
        };
        let f = item.fields("root item");
        if f.u32_le(216)? == 0 {
            return Ok(None);
        }
        let generation = f.u64_le(160)?;
        // Items of old kernels end before the UUID, and their second generation then says nothing.
        let newer = f.len() >= 439 && f.u64_le(239)? == generation;
        Ok(Some(Root {
            id,
            tree: tree_root(&f)?,
            dir: f.u64_le(168)?,
            read_only: f.u64_le(208)? & 1 != 0,
            uuid: if newer { f.array(247)? } else { [0; 16] },
        }))
    }

    /// A subvolume, which must be there.
    pub(super) fn subvolume(&self, id: u64) -> Result<Arc<Root>> {
        if id != tree::FS && !(tree::FIRST_FREE..=tree::LAST_FREE).contains(&id) {
            return Err(Error::usage(format!("tree {id} is not a subvolume")));
        }
        let root = self
            .root(id)?
            .ok_or_else(|| Error::usage(format!("there is no subvolume {id}")))?;
        if root.dir != tree::FIRST_FREE {
            return Err(
                Error::corrupt(format!("subvolume {id} has no top directory"))
                    .in_structure("root item"),
            );
        }
        Ok(root)
    }

    /// The subvolume that is mounted when none is named.
    pub(super) fn default_subvolume(&self) -> Result<u64> {
        let dir = self.nodes.sb.root_dir;
        let entry = super::dir::find(&self.roots(), dir, b"default")?;
        Ok(entry.map_or(tree::FS, |entry| entry.location.id))
    }

    /// Whether `parent` has the subvolume `child` under this name.
    pub(super) fn holds(&self, parent: u64, child: u64, dir: u64, name: &[u8]) -> Result<bool> {
        let key = Key::new(parent, kind::ROOT_REF, child);
        let Some(item) = self.roots().get(key)? else {
            return Ok(false);
        };
        let found = backref(&item, parent)?;
        Ok(found.dir == dir && found.name == name && self.root(child)?.is_some())
    }

    /// All subvolumes but the top one, with the names they have.
    pub(super) fn backrefs(&self) -> Result<Vec<(u64, Backref)>> {
        let from = Key::new(tree::FIRST_FREE, 0, 0);
        let to = Key::last_of(tree::LAST_FREE, u8::MAX);
        let mut items = self.roots().range(from, to)?;
        let mut found = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            if item.key.kind == kind::ROOT_BACKREF {
                found.push((item.key.id, backref(&item, item.key.offset)?));
            }
        }
        Ok(found)
    }

    /// The path of directory `dir` in a subvolume, from its top; with a slash at its end.
    fn path_of(&self, root: &Root, dir: u64) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = dir;
        for _ in 0..MOST_DIRS {
            if at == root.dir {
                names.reverse();
                return Ok(names.into_iter().fold(Vec::new(), |mut path, name| {
                    path.extend(name);
                    path.push(b'/');
                    path
                }));
            }
            let mut items = self.files(root).all(at, kind::INODE_REF)?;
            let Some(item) = items.next()? else { break };
            let f = item.fields("inode reference");
            let len = usize::from(f.u16_le(8)?);
            names.push(f.bytes(10, len)?.to_vec());
            at = item.key.offset;
        }
        Err(Error::corrupt(format!(
            "directory {dir} of subvolume {} hangs in no directory",
            root.id
        ))
        .in_structure("inode reference"))
    }
}

/// The tree that a root item is for.
pub(super) fn tree_root(f: &Fields<'_>) -> Result<TreeRoot> {
    let level = f.u8(238)?;
    if level >= LEVELS {
        return Err(f
            .corrupt(238, "tree is too high")
            .mismatch(format!("a level below {LEVELS}"), level));
    }
    Ok(TreeRoot {
        logical: f.u64_le(176)?,
        level,
        generation: f.u64_le(160)?,
    })
}

fn backref(item: &super::tree::Item, parent: u64) -> Result<Backref> {
    let f = item.fields("root reference");
    let len = usize::from(f.u16_le(16)?);
    Ok(Backref {
        parent,
        dir: f.u64_le(0)?,
        name: f.bytes(18, len)?.to_vec(),
    })
}

impl Btrfs {
    /// All subvolumes and snapshots, the top one included, in order of their numbers.
    ///
    /// # Errors
    /// Corrupt when the tree of roots contradicts itself.
    pub fn subvolumes(&self) -> Result<Vec<Subvolume>> {
        let volume = &self.volume;
        let default = volume.default_subvolume()?;
        let names: HashMap<u64, Backref> = volume.backrefs()?.into_iter().collect();
        let mut ids: Vec<u64> = names.keys().copied().collect();
        ids.push(tree::FS);
        ids.sort_unstable();
        let mut paths: HashMap<u64, Vec<u8>> = HashMap::from([(tree::FS, Vec::new())]);
        let mut found = Vec::new();
        for id in ids {
            let Some(root) = volume.root(id)? else {
                continue;
            };
            found.push(Subvolume {
                id,
                path: self.subvolume_path(id, &names, &mut paths)?,
                read_only: root.read_only,
                default: id == default,
                uuid: uuid_text(&root.uuid),
            });
        }
        Ok(found)
    }

    /// The path of a subvolume from the top one.
    fn subvolume_path(
        &self,
        id: u64,
        names: &HashMap<u64, Backref>,
        paths: &mut HashMap<u64, Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let mut chain = Vec::new();
        let mut at = id;
        // Ends because the chain has a greatest length.
        while !paths.contains_key(&at) {
            chain.push(at);
            let parent = names.get(&at).map(|name| name.parent);
            match parent {
                Some(parent) if chain.len() < MOST_NESTED => at = parent,
                _ => {
                    return Err(
                        Error::corrupt(format!("subvolume {id} hangs in no subvolume"))
                            .in_structure("root reference"),
                    );
                }
            }
        }
        for id in chain.into_iter().rev() {
            let Some(name) = names.get(&id) else { continue };
            let parent = self.volume.subvolume(name.parent)?;
            let mut path = paths.get(&name.parent).cloned().unwrap_or_default();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(self.volume.path_of(&parent, name.dir)?);
            path.extend_from_slice(&name.name);
            paths.insert(id, path);
        }
        Ok(paths.get(&id).cloned().unwrap_or_default())
    }

    /// The number for an inode of a subvolume.
    pub(super) fn pack(&self, root: u64, number: u64) -> Result<Inode> {
        let high = if root == self.top { 0 } else { root };
        if high >> 24 != 0 || number >> BITS != 0 {
            return Err(Error::unsupported(format!(
                "inode {number} of subvolume {root} is numbered higher than this program keeps"
            )));
        }
        Ok(Inode((high << BITS) | number))
    }

    /// The subvolume and the inode in it.
    pub(super) const fn unpack(&self, inode: Inode) -> (u64, u64) {
        let high = inode.0 >> BITS;
        let root = if high == 0 { self.top } else { high };
        (root, inode.0 & ((1 << BITS) - 1))
    }
}
