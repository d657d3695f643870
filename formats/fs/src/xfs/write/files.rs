//! Whole operations on files, as changes: overwrite, replace, create, remove.

use rehost_block::{Error, Result};

use super::super::inode::{Format, Node};
use super::super::map::{Extent, Mapping};
use super::change::{Change, is_refusal};
use super::core::{Ownership, REFLINK, Stamp};
use super::space::Owner;
use super::stamp::put64;
use crate::{FileKind, Inode};

/// Names that one file can have (`XFS_MAXLINK`).
const MOST_LINKS: u32 = 0x7fff_ffff;

impl Change<'_> {
    /// A regular file whose content may be changed, and where it lies.
    fn content_of(&self, number: u64) -> Result<(Node, Mapping)> {
        let node = self.changeable(number)?;
        node.expect(FileKind::Regular, "a regular file")?;
        let mapping = self.fs.extents(&node, &node.data()?)?;
        Ok((node, mapping))
    }

    /// Fails when a part of these extents is shared with another file.
    fn check_own(&self, node: &Node, mapping: &Mapping) -> Result<()> {
        if self.fs.sb.features.shared && self.flags2(node.raw())? & REFLINK != 0 {
            for extent in mapping {
                self.check_unshared(extent)?;
            }
        }
        Ok(())
    }

    /// Plans to write the whole content into the first blocks of `mapping`.
    fn plan_in_place(&mut self, node: &Node, mapping: &Mapping) -> Result<()> {
        let size = self.block_size();
        let len = self.content().size();
        let needed: Mapping = mapping
            .iter()
            .filter(|run| run.file.saturating_mul(size) < len)
            .copied()
            .collect();
        let refused = |what: &str| {
            Error::unsupported(format!("inode {}: {what}", node.number))
                .in_structure("inode")
                .at(node.offset)
        };
        let mut at = 0u64;
        for run in &needed {
            if run.file != at {
                return Err(refused("has a hole, which cannot be overwritten in place"));
            }
            if !run.written {
                return Err(refused(
                    "has preallocated (unwritten) blocks, which cannot be overwritten in place",
                ));
            }
            at = run.end();
        }
        if at.saturating_mul(size) < len {
            return Err(refused("has fewer blocks than the new content needs"));
        }
        self.check_own(node, &needed)?;
        for run in &needed {
            let from = run.file.saturating_mul(size);
            let to = run.end().saturating_mul(size).min(len);
            self.plan_write(self.fs.blocks.offset(run.disk), from..to);
        }
        Ok(())
    }

    /// Plans to overwrite a file inside the blocks it has.
    pub(super) fn overwrite(&mut self, number: u64) -> Result<()> {
        let (node, mapping) = self.content_of(number)?;
        if node.size != self.content().size() {
            return Err(Error::usage("new content has another length")
                .mismatch(node.size, self.content().size()));
        }
        self.plan_in_place(&node, &mapping)
    }

    /// Replaces a file's content: by new blocks, so that the old content stays whole until the inode is
    /// switched over, or where that is refused inside the blocks it has.
    pub(super) fn replace(&mut self, number: u64) -> Result<()> {
        let refusal = match self.attempt(|change| change.replace_by_new(number)) {
            Err(error) if is_refusal(&error) => error,
            other => return other,
        };
        self.attempt(|change| change.replace_in_place(number))
            .map_err(|error| if is_refusal(&error) { refusal } else { error })
    }

    fn replace_in_place(&mut self, number: u64) -> Result<()> {
        let (node, mapping) = self.content_of(number)?;
        self.plan_in_place(&node, &mapping)?;
        let mut raw = node.raw().to_vec();
        put64(&mut raw, 56, self.content().size())?;
        self.touch(&mut raw, &[Stamp::Modified, Stamp::Changed])?;
        self.put_inode(number, raw)
    }

    fn replace_by_new(&mut self, number: u64) -> Result<()> {
        self.check_allocates()?;
        let (node, old) = self.content_of(number)?;
        self.check_listed(&node)?;
        self.check_own(&node, &old)?;
        let mut raw = node.raw().to_vec();
        let new = self.place_content(number, &raw)?;
        self.set_extents(&mut raw, &old, &new)?;
        for extent in &old {
            self.release(Owner { inode: number }, extent)?;
        }
        put64(&mut raw, 56, self.content().size())?;
        self.touch(&mut raw, &[Stamp::Modified, Stamp::Changed])?;
        self.put_inode(number, raw)
    }

    /// Blocks for the content, which is planned to be written there.
    fn place_content(&mut self, number: u64, raw: &[u8]) -> Result<Vec<Extent>> {
        let size = self.block_size();
        let len = self.content().size();
        let most = self.fork_len(raw)? / 16;
        let blocks = len.div_ceil(size.max(1));
        let extents = self.allocate(Owner { inode: number }, blocks, most)?;
        for run in &extents {
            let from = run.file.saturating_mul(size);
            let to = run.end().saturating_mul(size).min(len);
            self.plan_write(self.fs.blocks.offset(run.disk), from..to);
        }
        Ok(extents)
    }

    /// Refuses a fork whose extents lie in a tree of their own.
    fn check_listed(&self, node: &Node) -> Result<()> {
        if node.data()?.format == Format::Tree {
            return Err(node
                .fields()
                .unsupported(5, format!("inode {} has a tree of extents", node.number)));
        }
        Ok(())
    }

    /// Refuses, by name, filesystems on which nothing is allocated or freed here.
    pub(super) fn check_allocates(&self) -> Result<()> {
        let refused = |what: &str| {
            Err(Error::unsupported(format!(
                "{what}: files can be overwritten, but not made, removed or given other blocks"
            ))
            .in_structure("superblock"))
        };
        if !self.fs.sb.v5 {
            return refused("filesystem of version 4");
        }
        if self.fs.sb.features.metadir {
            return refused("filesystem with a metadata directory");
        }
        self.check_uncounted()
    }

    /// A directory in which `name` can be made.
    fn place_for(&self, dir: u64, name: &[u8]) -> Result<Node> {
        self.check_allocates()?;
        self.check_names()?;
        if name.is_empty() || name == b"." || name == b".." || name.len() > 255 {
            return Err(Error::usage("not a valid file name"));
        }
        if name.contains(&b'/') || name.contains(&0) {
            return Err(Error::usage("a file name contains / or a zero byte"));
        }
        let node = self.changeable(dir)?;
        node.expect(FileKind::Directory, "a directory")?;
        if self.fs.find(&node, name)?.is_some() {
            return Err(Error::usage(format!(
                "{} exists already",
                String::from_utf8_lossy(name)
            )));
        }
        Ok(node)
    }

    /// Refuses, by name, filesystems on which names are not changed here.
    fn check_names(&self) -> Result<()> {
        let what = if self.fs.sb.features.parent {
            "filesystem with parent pointers"
        } else if self.fs.sb.ascii_ci {
            "filesystem that ignores the case of names"
        } else if !self.fs.sb.ftype {
            "filesystem whose directories do not say what they name"
        } else {
            return Ok(());
        };
        Err(
            Error::unsupported(format!("{what}: names cannot be added or removed"))
                .in_structure("superblock"),
        )
    }

    /// Creates a regular file with the change's content.
    pub(super) fn create(&mut self, dir: u64, name: &[u8], owner: Ownership) -> Result<Inode> {
        let parent = self.place_for(dir, name)?;
        let number = self.take_inode(self.home(dir))?;
        let mut raw = self.new_inode(&parent, number, FileKind::Regular, owner)?;
        let extents = self.place_content(number, &raw)?;
        self.set_extents(&mut raw, &[], &extents)?;
        put64(&mut raw, 56, self.content().size())?;
        self.put_inode(number, raw)?;
        self.add_name(dir, name, number, FileKind::Regular)?;
        Ok(Inode(number))
    }

    /// Creates an empty directory.
    pub(super) fn create_dir(&mut self, dir: u64, name: &[u8], owner: Ownership) -> Result<Inode> {
        let parent = self.place_for(dir, name)?;
        if parent.links()? >= MOST_LINKS {
            return Err(Error::unsupported("directory has too many directories"));
        }
        let number = self.take_inode(self.home(dir))?;
        let mut raw = self.new_inode(&parent, number, FileKind::Directory, owner)?;
        self.set_empty_dir(&mut raw, dir)?;
        self.put_inode(number, raw)?;
        self.add_name(dir, name, number, FileKind::Directory)?;
        Ok(Inode(number))
    }

    /// Creates a symbolic link, whose target lies in its inode.
    pub(super) fn create_link(
        &mut self,
        dir: u64,
        name: &[u8],
        target: &[u8],
        owner: Ownership,
    ) -> Result<Inode> {
        if target.is_empty() || target.contains(&0) {
            return Err(Error::usage("not a valid target of a link"));
        }
        let parent = self.place_for(dir, name)?;
        let number = self.take_inode(self.home(dir))?;
        let mut raw = self.new_inode(&parent, number, FileKind::Symlink, owner)?;
        let room = self.fork_len(&raw)?;
        if target.len() > room {
            return Err(Error::unsupported(format!(
                "target of a link does not fit into its inode, which holds {room} bytes"
            )));
        }
        self.set_local(&mut raw, target)?;
        self.put_inode(number, raw)?;
        self.add_name(dir, name, number, FileKind::Symlink)?;
        Ok(Inode(number))
    }

    /// Removes a name, and the file or empty directory when that was its last one.
    pub(super) fn remove_file(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        self.check_allocates()?;
        self.check_names()?;
        let parent = self.changeable(dir)?;
        parent.expect(FileKind::Directory, "a directory")?;
        let Some(number) = self.fs.find(&parent, name)? else {
            return Err(Error::usage(format!(
                "{} does not exist",
                String::from_utf8_lossy(name)
            )));
        };
        let node = self.changeable(number)?;
        let kind = node.kind()?;
        let is_dir = kind == FileKind::Directory;
        if is_dir && !self.fs.entries(&node)?.is_empty() {
            return Err(Error::usage(format!(
                "{} is not empty",
                String::from_utf8_lossy(name)
            )));
        }
        let mut raw = node.raw().to_vec();
        // An empty directory has two names: its own, and its `.`.
        let left = self.count_links(&mut raw, if is_dir { -2 } else { -1 })?;
        if left == 0 {
            self.check_listed(&node)?;
            if let Some(attr) = node.attr()?
                && attr.format != Format::Local
                && attr.extents != 0
            {
                return Err(node.fields().unsupported(
                    83,
                    format!("inode {number} has attributes in blocks of their own"),
                ));
            }
            let data = node.data()?;
            if data.format == Format::Extents {
                let extents = self.fs.extents(&node, &data)?;
                self.check_own(&node, &extents)?;
                for extent in &extents {
                    self.release(Owner { inode: number }, extent)?;
                }
            }
            self.clear_inode(&mut raw)?;
            self.give_inode(number)?;
        } else {
            self.touch(&mut raw, &[Stamp::Changed])?;
        }
        self.put_inode(number, raw)?;
        self.remove_name(dir, name, kind)
    }
}
