//! The two contracts every filesystem fulfils, and the values they speak in.

use std::fmt;
use std::ops::Range;

use rehost_block::Result;
use serde::Serialize;

use crate::Content;

/// A file's number in its filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Inode(pub u64);

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What `stat` says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attributes {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-id and sticky bits (the low 12 bits of `st_mode`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes of the disk that it takes, as the kernel counts them (512 times `st_blocks`).
    pub allocated: u64,
    /// Number of names.
    pub links: u32,
    /// Last change of content, seconds since 1970 (UTC).
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

/// One name in a directory. `.` and `..` are never listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, as stored: bytes, not necessarily UTF-8.
    pub name: Vec<u8>,
    /// What it names.
    pub inode: Inode,
    /// What that is, where the directory says so.
    pub kind: Option<FileKind>,
}

/// What a filesystem says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// `ext4`, `ext3`, `xfs`, …, as `blkid` prints them.
    pub kind: &'static str,
    /// UUID as `blkid` prints it.
    pub uuid: Option<String>,
    /// Label, without padding.
    pub label: Option<String>,
    /// Bytes per block.
    pub block_size: u32,
    /// Size in bytes.
    pub size: u64,
    /// Free bytes, as the superblock says.
    pub free: u64,
    /// Whether a log was replayed (in memory) to read it.
    pub replayed: bool,
}

/// Where a part of a file is stored on its disk, and whether it may be overwritten in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of the file.
    pub file: Range<u64>,
    /// Byte offset on the filesystem's disk, where the bytes are stored plainly; `None` for holes
    /// and for preallocated (unwritten), inline and packed parts.
    pub disk: Option<u64>,
}

/// Reading. Many threads may read at once.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// What it is.
    fn identity(&self) -> Identity;

    /// The top directory.
    fn root(&self) -> Inode;

    /// The file called `name` in directory `dir`, if there is one.
    ///
    /// # Errors
    /// Usage when `dir` is not a directory; Corrupt when the filesystem contradicts itself.
    fn lookup(&self, dir: Inode, name: &[u8]) -> Result<Option<Inode>>;

    /// All names in directory `dir`, as stored, without `.` and `..`.
    ///
    /// # Errors
    /// As [`FileSystem::lookup`].
    fn read_dir(&self, dir: Inode) -> Result<Vec<DirEntry>>;

    /// What `stat` would say.
    ///
    /// # Errors
    /// Corrupt when the inode is not one, or contradicts itself.
    fn attributes(&self, inode: Inode) -> Result<Attributes>;

    /// Reads at `offset` of a regular file; gives how many bytes, less than `buf.len()` only at
    /// the end of the file.
    ///
    /// # Errors
    /// Usage when it is not a regular file; Unsupported for encrypted content; Corrupt as above.
    fn read_at(&self, inode: Inode, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Usage when it is not one.
    fn read_link(&self, inode: Inode) -> Result<Vec<u8>>;

    /// Where the content of a regular file is, in file order, covering `0..size`.
    ///
    /// # Errors
    /// As [`FileSystem::read_at`].
    fn stored(&self, inode: Inode) -> Result<Vec<Stored>>;

    /// Extended attributes by full name (`security.selinux`).
    ///
    /// # Errors
    /// Corrupt when they contradict themselves.
    fn xattrs(&self, inode: Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

/// Writing. Each call leaves the filesystem consistent (its own checker finds nothing), or changes
/// nothing and says why. Times of changed files are set by the implementation.
pub trait FileSystemMut: FileSystem {
    /// Overwrites the whole content of a regular file inside the blocks it has, without changing
    /// any metadata. `content.size()` must equal the file's size.
    ///
    /// # Errors
    /// Unsupported, before anything is written, when a part is a hole, unwritten, inline, shared
    /// or encrypted; Usage when the length differs.
    fn overwrite(&self, inode: Inode, content: &dyn Content) -> Result<()>;

    /// Replaces the whole content of a regular file, keeping inode, owner, mode, labels and names.
    ///
    /// # Errors
    /// Io when the filesystem is full; Unsupported by name where the filesystem cannot.
    fn replace(&self, inode: Inode, content: &dyn Content) -> Result<()>;

    /// Creates a regular file; fails when the name exists.
    ///
    /// # Errors
    /// As [`FileSystemMut::replace`]; Usage when the name exists or is not a valid one.
    fn create(
        &self,
        dir: Inode,
        name: &[u8],
        mode: u16,
        owner: (u32, u32),
        content: &dyn Content,
    ) -> Result<Inode>;

    /// Creates an empty directory.
    ///
    /// # Errors
    /// As [`FileSystemMut::create`].
    fn create_dir(&self, dir: Inode, name: &[u8], mode: u16, owner: (u32, u32)) -> Result<Inode>;

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// As [`FileSystemMut::create`].
    fn create_link(
        &self,
        dir: Inode,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Inode>;

    /// Removes a file (its inode too when this was its last name) or an empty directory.
    ///
    /// # Errors
    /// Usage when there is no such name, or a directory is not empty.
    fn remove(&self, dir: Inode, name: &[u8]) -> Result<()>;

    /// Sets an extended attribute by its full name.
    ///
    /// # Errors
    /// Unsupported when there is no room for it in the inode or its one attribute block.
    fn set_xattr(&self, inode: Inode, name: &[u8], value: &[u8]) -> Result<()>;
}

/// What every writer has alike in its `impl FileSystem`: all but `identity` goes to the reader that its
/// state holds, which `self.read()` locks.
macro_rules! reads_from_state {
    () => {
        fn root(&self) -> $crate::Inode {
            self.read().fs.root()
        }

        fn lookup(
            &self,
            dir: $crate::Inode,
            name: &[u8],
        ) -> rehost_block::Result<Option<$crate::Inode>> {
            self.read().fs.lookup(dir, name)
        }

        fn read_dir(&self, dir: $crate::Inode) -> rehost_block::Result<Vec<$crate::DirEntry>> {
            self.read().fs.read_dir(dir)
        }

        fn attributes(&self, inode: $crate::Inode) -> rehost_block::Result<$crate::Attributes> {
            self.read().fs.attributes(inode)
        }

        fn read_at(
            &self,
            inode: $crate::Inode,
            buf: &mut [u8],
            offset: u64,
        ) -> rehost_block::Result<usize> {
            self.read().fs.read_at(inode, buf, offset)
        }

        fn read_link(&self, inode: $crate::Inode) -> rehost_block::Result<Vec<u8>> {
            self.read().fs.read_link(inode)
        }

        fn stored(&self, inode: $crate::Inode) -> rehost_block::Result<Vec<$crate::Stored>> {
            self.read().fs.stored(inode)
        }

        fn xattrs(&self, inode: $crate::Inode) -> rehost_block::Result<Vec<(Vec<u8>, Vec<u8>)>> {
            self.read().fs.xattrs(inode)
        }
    };
}

pub(crate) use reads_from_state;
