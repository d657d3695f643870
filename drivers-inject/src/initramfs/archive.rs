//! A `newc` cpio archive being written, as a supplement to archives that exist.
//!
//! Rules of the kernel, each measured: a file whose directory is missing is skipped, so missing
//! directories are written; a directory entry over a symbolic link (`lib` -> `usr/lib`) replaces
//! the link and loses everything behind it, so a directory that exists is never written.

use std::collections::BTreeSet;

use rehost_block::{Error, Result};
use rehost_inspect::initramfs::Initramfs;

/// Archives are padded to this: what Linux before 5.10 needs between lz4 streams, and what `cpio`
/// does too.
const BLOCK: usize = 512;

/// Where inode numbers begin. Any will do as long as no two files of the archive share one.
const FIRST_INODE: u32 = 0x7265_6800;

/// The archive.
#[derive(Debug)]
pub(super) struct Supplement<'a> {
    over: &'a Initramfs,
    made: BTreeSet<Vec<u8>>,
    bytes: Vec<u8>,
    inode: u32,
}

impl<'a> Supplement<'a> {
    /// An empty one, to be unpacked after `over`.
    pub(super) fn new(over: &'a Initramfs) -> Self {
        Self {
            over,
            made: BTreeSet::new(),
            bytes: Vec::new(),
            inode: FIRST_INODE,
        }
    }

    /// Adds the regular file `path` (no leading `/`, links in its directories are followed) with
    /// its missing directories. A file that it replaces passes on its permissions.
    pub(super) fn put(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut at = 0;
        // Ends because every round moves `at` behind the next slash.
        while let Some(slash) = path.get(at..).and_then(|rest| rest.find('/')) {
            at += slash;
            let directory = path.get(..at).unwrap_or_default().as_bytes();
            let exists = self.over.is_directory(directory);
            if !directory.is_empty() && !exists && self.made.insert(directory.to_vec()) {
                self.entry(directory, 0o040_755, &[])?;
            }
            at += 1;
        }
        let mode = self
            .over
            .node(path.as_bytes())
            .filter(|node| node.kind == rehost_fs::FileKind::Regular)
            .map_or(0o100_644, |node| node.mode);
        self.entry(path.as_bytes(), mode, content)
    }

    /// The archive with its trailer, padded to 512 bytes.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = 0;
        self.entry(b"TRAILER!!!", 0, &[])?;
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &[u8], mode: u32, content: &[u8]) -> Result<()> {
        let length = |len: usize| {
            u32::try_from(len).map_err(|_| {
                Error::unsupported("a file of 4 GiB or more does not go into an initramfs")
            })
        };
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length(content.len())?,
            0,
            0,
            0,
            0,
            length(path.len() + 1)?,
            0,
        ];
        self.inode = self.inode.wrapping_add(1);
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
