//! Btrfs, written.
//!
//! [`BtrfsMut`] makes each operation one transaction by Btrfs' own rules: changed blocks and new content go to free
//! room with their accounts (extents, checksums, block groups, free space), and the superblocks, written last, make them
//! count. So a crash leaves what was before or what is after. A file's content moves even when it is overwritten:
//! content and checksum cannot be changed at once where they are. Only content without checksums (`nodatacow`) is overwritten in
//! place.
//!
//! Room is taken from the block groups there are; new content is not compressed. A free space cache of version 1 is left
//! behind, and not used by the kernel because its generation is older.
//!
//! Left out on purpose, and refused by name: blocks of trees that a snapshot shares, filesystems with
//! a log to replay, with quotas, without skinny metadata, with missing members, with a balance under way or
//! features unknown to this program; subvolumes as such; read-only subvolumes; immutable, append-only and verity
//! files; block groups of RAID5 and RAID6. New files inherit no default ACL and no security label: callers set
//! attributes themselves.

mod files;
pub(super) mod items;
mod rebuild;
pub(super) mod space;
mod transaction;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rehost_block::{Disk, DiskMut, Error, Fields, Result};

use self::files::{Birth, Made};
use self::transaction::{Devices, Transaction};
use super::data::Sums;
use super::inode::{Node, flags};
use super::key::{Key, tree};
use super::superblock::{COPIES, Superblock, TreeRoot, flags as super_flags, incompat};
use super::{Btrfs, Subvol, Volume};
use crate::content::{Content, NOTHING};
use crate::{FileKind, FileSystem, FileSystemMut, Identity, Inode};

const EXTENT_TREE: u64 = 2;
const QUOTA_TREE: u64 = 8;
const FREE_SPACE_TREE: u64 = 10;
const BLOCK_GROUP_TREE: u64 = 11;

/// Where a balance notes itself: object and kind of item.
const BALANCE: u64 = 4u64.wrapping_neg();
const TEMPORARY_ITEM: u8 = 248;

/// `compat_ro` bits: the free space tree, that it is in order, verity, the block group tree.
const HAS_FREE_SPACE_TREE: u64 = 1;
const FREE_SPACE_TREE_VALID: u64 = 2;
const HAS_BLOCK_GROUP_TREE: u64 = 8;
const COMPAT_RO: u64 = 0xf;

/// A Btrfs filesystem, open for writing, seen from one of its subvolumes.
#[derive(Debug)]
pub struct BtrfsMut {
    devices: Devices,
    which: Subvol,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    fs: Btrfs,
    /// Set once a commit failed.
    broken: bool,
}

/// The trees that keep accounts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accounts {
    pub(super) extents: TreeRoot,
    sums: TreeRoot,
    /// The free space tree, where there is one in order.
    free_space: Option<TreeRoot>,
    /// The block group tree, where there is one.
    pub(super) groups: Option<TreeRoot>,
}

impl BtrfsMut {
    /// Opens the filesystem on `disk`, its one member, and shows the default subvolume.
    ///
    /// # Errors
    /// As [`Btrfs::open`]; Unsupported, by name, for what is listed above.
    pub fn open(disk: Arc<dyn DiskMut>) -> Result<Self> {
        Self::open_many(vec![disk], Subvol::Default)
    }

    /// Opens the filesystem that `disks` are all the members of, and shows subvolume `which`.
    ///
    /// # Errors
    /// As [`BtrfsMut::open`], [`Btrfs::open_many`] and [`Btrfs::subvolume`].
    pub fn open_many(disks: Vec<Arc<dyn DiskMut>>, which: Subvol) -> Result<Self> {
        let mut devices = Devices::new();
        for disk in disks {
            let readable: Arc<dyn Disk> = disk.clone();
            let sb = Superblock::read(&readable)?;
            if sb.at != COPIES[0] {
                return Err(Error::unsupported("the first superblock is damaged")
                    .in_structure("superblock")
                    .at(COPIES[0])
                    .hint(super::superblock::HINT));
            }
            if devices.insert(sb.device, disk).is_some() {
                return Err(Error::usage("two of the disks are the same member"));
            }
        }
        let fs = read(&devices)?.subvolume(&which)?;
        check_writable(&fs.volume, &devices)?;
        accounts(&fs.volume)?;
        Ok(Self {
            devices,
            which,
            state: RwLock::new(State { fs, broken: false }),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a transaction over the subvolume of `inode` with `act`, and commits it.
    fn change<T>(
        &self,
        inode: Inode,
        content: &dyn Content,
        act: impl FnOnce(&mut Transaction<'_>, &Node) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        check_whole(&state)?;
        let (made, plan) = {
            let fs = &state.fs;
            let node = fs.node(inode)?;
            check_changeable(&node)?;
            let volume = &*fs.volume;
            let root = &node.root;
            let mut transaction = Transaction::new(volume, accounts(volume)?, root.id, root.tree);
            let made = act(&mut transaction, &node)?;
            (made, transaction.settle()?)
        };
        let committed = plan
            .commit(&state.fs.volume, &self.devices, content)
            .and_then(|()| read(&self.devices))
            .and_then(|fs| fs.subvolume(&self.which));
        match committed {
            Ok(fs) => {
                state.fs = fs;
                Ok(made)
            }
            Err(error) => {
                state.broken = true;
                Err(error)
            }
        }
    }

    fn birth(
        &self,
        dir: Inode,
        name: &[u8],
        content: &dyn Content,
        birth: &Birth<'_>,
    ) -> Result<Inode> {
        let number = self.change(dir, content, |change, node| {
            change.create(node, name, birth)
        })?;
        let state = self.read();
        let (root, _) = state.fs.unpack(dir);
        state.fs.pack(root, number)
    }
}

fn read(devices: &Devices) -> Result<Btrfs> {
    let disks = devices.values().map(|disk| {
        let disk: Arc<dyn Disk> = disk.clone();
        disk
    });
    Btrfs::open_many(disks.collect())
}

fn check_whole(state: &State) -> Result<()> {
    if !state.broken {
        return Ok(());
    }
    Err(
        Error::usage("an earlier write to this filesystem failed halfway")
            .hint("start again from the original"),
    )
}

/// Refuses, before anything is written, a filesystem that this program must not write.
fn check_writable(volume: &Volume, devices: &Devices) -> Result<()> {
    let sb = &volume.nodes.sb;
    let f = Fields::new(&sb.raw, "superblock", sb.at);
    let refused = |at: usize, what: &str, hint: &str| Err(f.unsupported(at, what).hint(hint));
    let start = "mount it once in the source machine, and unmount it";
    if sb.flags & super_flags::ERROR != 0 {
        return refused(0x38, "filesystem records errors", super::superblock::HINT);
    }
    if sb.flags & (super_flags::SEEDING | super_flags::METADUMP) != 0 {
        return refused(
            0x38,
            "filesystem is a seed or a dump of metadata",
            "copy it first",
        );
    }
    if sb.log_root.is_some() {
        return refused(0x60, "filesystem has a log to replay", start);
    }
    let unknown = sb.compat_ro & !COMPAT_RO;
    if unknown != 0 {
        return Err(f.unsupported(
            0xb4,
            format!("uses read-only compatible features {unknown:#x} unknown to this program"),
        ));
    }
    if !sb.has(incompat::SKINNY_METADATA | 1) || sb.incompat & (1 << 16) != 0 {
        return Err(f.unsupported(
            0xbc,
            "is without skinny metadata or mixed back references, or has simple quotas",
        ));
    }
    let present = u64::try_from(devices.len()).unwrap_or(0);
    let stale = volume.nodes.pool.devices.len() != devices.len();
    if sb.num_devices != present || stale {
        return refused(
            0x88,
            "members are missing or out of date",
            "give all disks of the filesystem",
        );
    }
    if volume.root(QUOTA_TREE)?.is_some() {
        return Err(Error::unsupported("filesystem has quotas").in_structure("quota tree"));
    }
    let balance = Key::new(BALANCE, TEMPORARY_ITEM, 0);
    if volume.roots().get(balance)?.is_some() {
        return Err(Error::unsupported("a balance is under way").hint(start));
    }
    Ok(())
}

pub(super) fn accounts(volume: &Volume) -> Result<Accounts> {
    let needed = |id: u64, name: &str| {
        let root = volume.root(id)?;
        root.map(|root| root.tree)
            .ok_or_else(|| Error::corrupt(format!("there is no {name}")).in_structure("root item"))
    };
    let compat = volume.nodes.sb.compat_ro;
    let in_order = HAS_FREE_SPACE_TREE | FREE_SPACE_TREE_VALID;
    let optional = |there: bool, id, name: &str| -> Result<Option<TreeRoot>> {
        there.then(|| needed(id, name)).transpose()
    };
    Ok(Accounts {
        extents: needed(EXTENT_TREE, "extent tree")?,
        sums: needed(tree::CSUM, "checksum tree")?,
        free_space: optional(
            compat & in_order == in_order,
            FREE_SPACE_TREE,
            "free space tree",
        )?,
        groups: optional(
            compat & HAS_BLOCK_GROUP_TREE != 0,
            BLOCK_GROUP_TREE,
            "block group tree",
        )?,
    })
}

/// Refuses a file that must not be changed.
fn check_changeable(node: &Node) -> Result<()> {
    if node.root.read_only {
        return Err(node.unsupported("lies in a read-only subvolume"));
    }
    if node.number == super::root::EMPTY {
        return Err(node.unsupported("stands for a subvolume that is not there"));
    }
    if node.flags & (flags::IMMUTABLE | flags::APPEND | flags::VERITY) != 0 {
        return Err(node.unsupported("is immutable, append-only or sealed by verity"));
    }
    Ok(())
}

impl FileSystem for BtrfsMut {
    fn identity(&self) -> Identity {
        self.read().fs.identity()
    }

    crate::filesystem::reads_from_state!();
}

impl FileSystemMut for BtrfsMut {
    /// Content with checksums moves to other blocks, see above.
    fn overwrite(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        let state = self.read();
        let node = state.fs.file(inode)?;
        if content.size() != node.size {
            return Err(Error::usage(format!(
                "{} bytes cannot overwrite the {} of inode {}",
                content.size(),
                node.size,
                node.number
            )));
        }
        if Sums::of(&node) == Sums::Verified {
            drop(state);
            return self.replace(inode, content);
        }
        check_whole(&state)?;
        check_changeable(&node)?;
        files::overwrite_in_place(&state.fs.volume, &self.devices, &node, content)
    }

    fn replace(&self, inode: Inode, content: &dyn Content) -> Result<()> {
        self.change(inode, content, |change, node| {
            node.expect(FileKind::Regular, "a regular file")?;
            change.replace(node, content)
        })
    }

    fn create(
        &self,
        dir: Inode,
        name: &[u8],
        mode: u16,
        owner: (u32, u32),
        content: &dyn Content,
    ) -> Result<Inode> {
        let birth = Birth {
            made: Made::File(content),
            mode,
            owner,
        };
        self.birth(dir, name, content, &birth)
    }

    fn create_dir(&self, dir: Inode, name: &[u8], mode: u16, owner: (u32, u32)) -> Result<Inode> {
        let birth = Birth {
            made: Made::Directory,
            mode,
            owner,
        };
        self.birth(dir, name, NOTHING, &birth)
    }

    fn create_link(
        &self,
        dir: Inode,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Inode> {
        let birth = Birth {
            made: Made::Symlink(target),
            mode: 0o777,
            owner,
        };
        self.birth(dir, name, NOTHING, &birth)
    }

    fn remove(&self, dir: Inode, name: &[u8]) -> Result<()> {
        self.change(dir, NOTHING, |change, node| change.remove(node, name))
    }

    fn set_xattr(&self, inode: Inode, name: &[u8], value: &[u8]) -> Result<()> {
        self.change(inode, NOTHING, |change, node| {
            change.set_attribute(node, name, value)
        })
    }
}
