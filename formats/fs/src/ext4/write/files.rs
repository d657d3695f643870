//! Whole operations on files, as changes: create, replace, link, remove.

use rehost_block::{Error, Result};

use super::super::dir::check_name;
use super::super::features::ro_compat;
use super::super::inode::{Node, ROOT, flag};
use super::super::map::Extent;
use super::change::{Change, NEW, Stamp};
use super::layout::{from_start, maps_blocks, set_blocks, set_size};
use super::names::Name;
use super::stamp::{put, put16, put32};
use crate::FileKind;
use crate::number::{div_up, halves, halves16, wide};

/// Most names of a file (`EXT4_LINK_MAX`).
const MOST_LINKS: u16 = 65_000;

/// Owner and permissions of a new file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Extra inode bytes that this program fills, as Linux does.
const EXTRA: u16 = 32;

impl Change<'_> {
    /// A regular file whose content may be changed.
    pub(super) fn changeable(&self, number: u32) -> Result<Node> {
        let node = self.node(number)?;
        node.expect(FileKind::Regular, "a regular file")?;
        check_changeable(&node)?;
        if number < self.fs.sb.first_ino {
            return Err(Error::usage(format!(
                "inode {number} belongs to the filesystem itself"
            )));
        }
        Ok(node)
    }

    /// Replaces a file's content by the change's.
    pub(super) fn replace_content(&mut self, number: u32) -> Result<()> {
        let node = self.changeable(number)?;
        self.check_no_attribute_inodes(&node)?;
        let mut raw = if node.has(flag::INLINE_DATA) {
            self.without_inline(&node)?
        } else {
            node.raw.clone()
        };
        let len = self.content().size();
        if self.free_blocks() >= self.most_blocks(len) {
            // The old content stays whole until the inode is switched over.
            self.put_content(number, &mut raw)?;
            self.release_map(&node)?;
        } else {
            self.release_map(&node)?;
            self.put_content(number, &mut raw)?;
        }
        self.touch(&mut raw, &[Stamp::Changed, Stamp::Modified])?;
        self.put_inode(number, raw)
    }

    /// Gives an inode's bytes the change's content.
    fn put_content(&mut self, number: u32, raw: &mut [u8]) -> Result<()> {
        let whole = self.content().size();
        let size = self.block_size();
        if whole > 0x7fff_ffff && !self.fs.sb.features.ro_compat(ro_compat::LARGE_FILE) {
            return Err(Error::unsupported(
                "filesystem has no files over 2 GiB (large_file)",
            ));
        }
        let goal = self.home(number);
        let runs = self.allocate(div_up(whole, size), goal)?;
        let mut at = 0u64;
        for run in &runs {
            let end = at.saturating_add(run.len.saturating_mul(size)).min(whole);
            self.plan_write(self.fs.blocks.offset(run.disk), at..end);
            at = end;
        }
        let extents = from_start(&runs);
        self.set_map(number, raw, &extents, goal)?;
        set_size(raw, whole)
    }

    /// First block of the group that an inode is in: where its content goes first.
    pub(super) fn home(&self, number: u32) -> u64 {
        let group = number
            .saturating_sub(1)
            .checked_div(self.fs.sb.inodes_per_group)
            .unwrap_or(0);
        self.fs.sb.group_start(group)
    }

    /// A directory in which `name` can be made.
    fn place_for(&self, dir: u32, name: &[u8]) -> Result<Node> {
        check_name(name)?;
        let node = self.node(dir)?;
        node.expect(FileKind::Directory, "a directory")?;
        node.check_plain()?;
        check_changeable(&node)?;
        if self.fs.find_name(&node, name)?.is_some() {
            return Err(Error::usage(format!(
                "{} exists already",
                String::from_utf8_lossy(name)
            )));
        }
        Ok(node)
    }

    /// The bytes of a new inode.
    fn new_inode(&self, parent: &Node, kind: FileKind, owner: Owner) -> Result<Vec<u8>> {
        let size = usize::from(self.fs.sb.inode_size);
        let mut raw = vec![0; size];
        let bits: u16 = match kind {
            FileKind::Directory => 0x4000,
            FileKind::Symlink => 0xa000,
            _ => 0x8000,
        };
        put16(&mut raw, 0, bits | (owner.mode & 0xfff))?;
        let ((uid, uid_hi), (gid, gid_hi)) = (halves16(owner.uid), halves16(owner.gid));
        put16(&mut raw, 0x2, uid)?;
        put16(&mut raw, 0x18, gid)?;
        put16(&mut raw, 0x78, uid_hi)?;
        put16(&mut raw, 0x7a, gid_hi)?;
        put16(&mut raw, 0x1a, 1)?;
        // Generations only need to differ between lives of a number; the time does that.
        put32(&mut raw, 0x64, halves(self.now).0)?;
        if size > 128 {
            let room = u16::try_from(size.saturating_sub(128)).unwrap_or(u16::MAX);
            let extra = self.fs.sb.want_extra_isize.max(EXTRA).min(room) & !3;
            put16(&mut raw, 0x80, extra)?;
            let inherits = parent.has(flag::PROJINHERIT)
                && self.fs.sb.features.ro_compat(ro_compat::PROJECT)
                && parent.fits(0xa0)
                && extra >= 32;
            if inherits {
                put(&mut raw, 0x9c, parent.fields().bytes(0x9c, 4)?)?;
                if kind == FileKind::Directory {
                    put32(&mut raw, 0x20, flag::PROJINHERIT)?;
                }
            }
        }
        self.touch(&mut raw, NEW)?;
        Ok(raw)
    }

    /// Makes a regular file with the change's content.
    pub(super) fn create_file(&mut self, dir: u32, name: &[u8], owner: Owner) -> Result<u32> {
        let parent = self.place_for(dir, name)?;
        let number = self.allocate_inode(dir, FileKind::Regular)?;
        let mut raw = self.new_inode(&parent, FileKind::Regular, owner)?;
        self.put_content(number, &mut raw)?;
        self.put_inode(number, raw)?;
        self.link(dir, name, number, FileKind::Regular)?;
        Ok(number)
    }

    fn link(&mut self, dir: u32, name: &[u8], number: u32, kind: FileKind) -> Result<()> {
        let entry = Name {
            name: name.to_vec(),
            inode: number,
            file_type: self.file_type(kind),
        };
        self.insert_name(dir, &entry)
    }

    /// Makes an empty directory.
    pub(super) fn create_directory(&mut self, dir: u32, name: &[u8], owner: Owner) -> Result<u32> {
        let parent = self.place_for(dir, name)?;
        let number = self.allocate_inode(dir, FileKind::Directory)?;
        let mut raw = self.new_inode(&parent, FileKind::Directory, owner)?;
        put16(&mut raw, 0x1a, 2)?;
        let block = self.allocate_one(self.home(number))?;
        let run = Extent {
            file: 0,
            len: 1,
            disk: block,
            written: true,
        };
        self.set_map(number, &mut raw, &[run], block)?;
        set_size(&mut raw, self.block_size())?;
        self.put_inode(number, raw)?;
        let node = self.node(number)?;
        let bytes = self.new_dir_block(number, dir)?;
        self.put_leaf(&node, block, bytes)?;
        self.link(dir, name, number, FileKind::Directory)?;
        // `..` of the new directory is one more name of its parent. 1 stands for "too many".
        let mut raw = self.node(dir)?.raw;
        let links = match parent.links {
            1 => 1,
            links if links < MOST_LINKS => links.saturating_add(1),
            _ if self.fs.sb.features.ro_compat(ro_compat::DIR_NLINK) => 1,
            _ => return Err(parent.unsupported("directory has too many subdirectories")),
        };
        put16(&mut raw, 0x1a, links)?;
        self.put_inode(dir, raw)?;
        Ok(number)
    }

    /// Makes a symbolic link.
    pub(super) fn create_symlink(
        &mut self,
        dir: u32,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<u32> {
        let parent = self.place_for(dir, name)?;
        // Linux keeps a zero byte after the target.
        let most = self.block_len().saturating_sub(1).min(4095);
        if target.is_empty() || target.len() > most || target.contains(&0) {
            return Err(Error::usage(format!(
                "a link's target has 1 to {most} bytes, none of them zero"
            )));
        }
        let number = self.allocate_inode(dir, FileKind::Symlink)?;
        let mut raw = self.new_inode(&parent, FileKind::Symlink, owner)?;
        if target.len() < 60 {
            put(&mut raw, 0x28, target)?;
        } else {
            let block = self.allocate_one(self.home(number))?;
            let mut bytes = vec![0; self.block_len()];
            put(&mut bytes, 0, target)?;
            self.put_block(block, bytes)?;
            let run = Extent {
                file: 0,
                len: 1,
                disk: block,
                written: true,
            };
            self.set_map(number, &mut raw, &[run], block)?;
        }
        set_size(&mut raw, wide(target.len()))?;
        self.put_inode(number, raw)?;
        self.link(dir, name, number, FileKind::Symlink)?;
        Ok(number)
    }

    /// Removes a name, and its file when that was the last.
    pub(super) fn remove_file(&mut self, dir: u32, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let parent = self.node(dir)?;
        parent.expect(FileKind::Directory, "a directory")?;
        check_changeable(&parent)?;
        let number = self.fs.find_name(&parent, name)?.ok_or_else(|| {
            Error::usage(format!("{} does not exist", String::from_utf8_lossy(name)))
        })?;
        if number < self.fs.sb.first_ino || number == ROOT {
            return Err(Error::usage("this file belongs to the filesystem itself"));
        }
        let node = self.node(number)?;
        check_changeable(&node)?;
        let kind = node.kind()?;
        if kind == FileKind::Directory {
            if !self.is_empty_dir(&node)? {
                return Err(Error::usage(format!(
                    "{} is not empty",
                    String::from_utf8_lossy(name)
                )));
            }
            let mut raw = parent.raw.clone();
            // 1 stands for "too many to count", and stays.
            if parent.links > 2 {
                put16(&mut raw, 0x1a, parent.links.saturating_sub(1))?;
                self.put_inode(dir, raw)?;
            }
        }
        self.remove_name(dir, name)?;
        let links = match kind {
            FileKind::Directory => 0,
            _ => node.links.saturating_sub(1),
        };
        if links > 0 {
            let mut raw = node.raw.clone();
            put16(&mut raw, 0x1a, links)?;
            self.touch(&mut raw, &[Stamp::Changed])?;
            return self.put_inode(number, raw);
        }
        self.delete_inode(&node)
    }

    /// Frees an inode and all that is its own.
    pub(super) fn delete_inode(&mut self, node: &Node) -> Result<()> {
        self.check_no_attribute_inodes(node)?;
        self.release_map(node)?;
        if node.file_acl != 0 {
            self.release_xattr_block(node.file_acl)?;
        }
        let mut raw = node.raw.clone();
        put16(&mut raw, 0x1a, 0)?;
        put32(&mut raw, 0x14, halves(self.now).0)?;
        set_size(&mut raw, 0)?;
        put32(&mut raw, 0x68, 0)?;
        put16(&mut raw, 0x76, 0)?;
        if maps_blocks(node, self.fs.sb.block_size) && !node.has(flag::INLINE_DATA) {
            self.set_map(node.number, &mut raw, &[], 0)?;
        } else {
            put(&mut raw, 0x28, &[0; 60])?;
            put32(&mut raw, 0x20, node.flags & !flag::INLINE_DATA)?;
        }
        set_blocks(&mut raw, 0)?;
        self.touch(&mut raw, &[Stamp::Changed])?;
        self.put_inode(node.number, raw)?;
        self.release_inode(node.number, node.kind()?)
    }

    /// Where an overwrite in place goes; refuses what cannot be overwritten.
    pub(super) fn plan_overwrite(&mut self, number: u32) -> Result<()> {
        let node = self.changeable(number)?;
        let size = self.content().size();
        if size != node.size {
            return Err(Error::usage("an overwrite must keep the size").mismatch(node.size, size));
        }
        if node.has(flag::INLINE_DATA) {
            return Err(node.unsupported("content is kept in the inode (inline_data)"));
        }
        let mapping = self.fs.mapping(&node)?;
        let size = self.block_size();
        let mut at = 0u64;
        for run in &mapping.extents {
            let start = run.file.saturating_mul(size);
            if at >= node.size {
                break;
            }
            if start != at {
                return Err(node.unsupported("content has a hole"));
            }
            if !run.written {
                return Err(node.unsupported("content has blocks that were never written"));
            }
            let end = run.end().saturating_mul(size).min(node.size);
            self.plan_write(self.fs.blocks.offset(run.disk), at..end);
            at = end;
        }
        if at < node.size {
            return Err(node.unsupported("content has a hole"));
        }
        Ok(())
    }
}

/// Refuses files and directories that their owner has locked, or that this program cannot keep
/// consistent.
fn check_changeable(node: &Node) -> Result<()> {
    node.check_plain()?;
    if node.has(flag::IMMUTABLE | flag::APPEND) {
        return Err(node
            .unsupported("file is immutable or append-only")
            .hint("remove the attribute in the guest (chattr -i -a)"));
    }
    if node.has(flag::VERITY) {
        return Err(node.unsupported("content is sealed (fs-verity)"));
    }
    Ok(())
}
