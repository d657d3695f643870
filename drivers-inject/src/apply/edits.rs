//! One edit on one filesystem: what must be there before, the write, what must be there after.

use rehost_block::{Error, Result};
use rehost_fs::path::{self, LastLink};
use rehost_fs::{FileKind, FileSystem, FileSystemMut, Inode};
use rehost_inspect::initramfs::Initramfs;

use crate::plan::{Change, Digest, Edit, How};
use crate::unified::initramfs_of;

/// An edit, and where its file is on the filesystem as it is open here.
pub(super) struct Target<'a> {
    pub(super) edit: &'a Edit,
    /// Absolute, without links.
    pub(super) path: Vec<u8>,
}

impl Target<'_> {
    /// What is there.
    fn find(&self, fs: &dyn FileSystem) -> Result<Option<Inode>> {
        path::find(fs, &self.path, LastLink::Keep)
    }
}

/// The file is what the plan was made for, or is not there yet when it is to be created.
pub(super) fn check_before(fs: &dyn FileSystem, target: &Target<'_>) -> Result<()> {
    let edit = target.edit;
    let comes_whole = edit
        .after
        .as_ref()
        .is_none_or(|after| Digest::of(&edit.content) == *after);
    if !comes_whole {
        return Err(Error::usage("the plan came without its contents")
            .hint("a plan can be applied by the run that made it"));
    }
    let found = target.find(fs)?;
    match (&edit.before, found) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::usage("file is there, and the plan is to create it")
            .hint("plan again: the guest has changed")),
        (Some(_), None) => {
            Err(Error::usage("file of the plan is not there")
                .hint("plan again: the guest has changed"))
        }
        (Some(before), Some(inode)) => {
            let is = Digest::of(&path::read_inode(fs, inode)?);
            if is == *before {
                Ok(())
            } else {
                Err(Error::usage("file is not what the plan was made for")
                    .mismatch(before, is)
                    .hint("plan again: the guest has changed"))
            }
        }
    }
}

pub(super) fn write(fs: &dyn FileSystemMut, target: &Target<'_>) -> Result<()> {
    let edit = target.edit;
    let content = edit.content.as_slice();
    if edit.how == How::Create {
        return create(fs, target);
    }
    let vanished = || Error::internal("file vanished while editing");
    let inode = target.find(fs)?.ok_or_else(vanished)?;
    match edit.how {
        How::Overwrite => fs.overwrite(inode, &content),
        How::Allocate | How::Create => fs.replace(inode, &content),
        How::Remove => {
            let slash = target.path.iter().rposition(|byte| *byte == b'/');
            let (parent, name) = target.path.split_at(slash.map_or(0, |at| at + 1));
            let parent = path::find(fs, parent, LastLink::Keep)?.ok_or_else(vanished)?;
            fs.remove(parent, name)
        }
    }
}

/// Creates the file or link with its missing directories. Each takes owner and SELinux label from
/// the directory it is put into.
fn create(fs: &dyn FileSystemMut, target: &Target<'_>) -> Result<()> {
    let edit = target.edit;
    let mut here = fs.root();
    let mut names = target
        .path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .peekable();
    // Ends because every round takes one name.
    while let Some(name) = names.next() {
        let parent = fs.attributes(here)?;
        let owner = (parent.uid, parent.gid);
        let made = if names.peek().is_none() {
            match &edit.change {
                Change::Link { .. } => fs.create_link(here, name, &edit.content, owner)?,
                Change::Create { mode } => fs.create(here, name, *mode, owner, &*edit.content)?,
                _ => fs.create(here, name, 0o644, owner, &*edit.content)?,
            }
        } else if let Some(found) = fs.lookup(here, name)? {
            if fs.attributes(found)?.kind != FileKind::Directory {
                return Err(Error::usage("a directory of the new file is not one"));
            }
            here = found;
            continue;
        } else {
            fs.create_dir(here, name, 0o755, owner)?
        };
        let label = fs
            .xattrs(here)?
            .into_iter()
            .find(|(name, _)| name == b"security.selinux");
        if let Some((name, value)) = label {
            fs.set_xattr(made, &name, &value)?;
        }
        here = made;
    }
    Ok(())
}

/// What a fresh reader finds is what the plan says.
pub(super) fn check_after(fs: &dyn FileSystem, target: &Target<'_>) -> Result<()> {
    let edit = target.edit;
    let (after, inode) = match (&edit.after, target.find(fs)?) {
        (Some(after), Some(inode)) => (after, inode),
        (None, None) => return Ok(()),
        (Some(_), None) => {
            return Err(Error::internal(
                "the edited file is not there when read back",
            ));
        }
        (None, Some(_)) => {
            return Err(Error::internal("the removed file is there when read back"));
        }
    };
    let content = match &edit.change {
        Change::Link { .. } => fs.read_link(inode)?,
        _ => path::read_inode(fs, inode)?,
    };
    let is = Digest::of(&content);
    if is != *after {
        return Err(Error::internal("the edited file reads back differently").mismatch(after, is));
    }
    if let Change::Initramfs { modules, .. } = &edit.change {
        let initramfs = Initramfs::parse(initramfs_of(content)?)?;
        for module in modules {
            let size = initramfs
                .read(module.path.as_bytes())
                .map_or(0, <[u8]>::len);
            if size as u64 != module.size {
                return Err(Error::internal(format!(
                    "the edited initramfs lacks {} when read back",
                    module.path
                )));
            }
        }
    }
    Ok(())
}
