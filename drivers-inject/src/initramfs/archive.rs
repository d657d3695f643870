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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// An archive with `usr/lib`, the link `lib` to it, and one executable.
    fn base() -> Initramfs {
        let mut bytes = Vec::new();
        for (name, mode, body) in [
            ("usr", 0o040_755u32, ""),
            ("usr/lib", 0o040_755, ""),
            ("lib", 0o120_777, "usr/lib"),
            ("init", 0o100_755, "#!/bin/sh"),
        ] {
            let fields = [
                1,
                mode,
                0,
                0,
                1,
                0,
                body.len() as u32,
                0,
                0,
                0,
                0,
                name.len() as u32 + 1,
                0,
            ];
            bytes.extend(b"070701");
            bytes.extend(
                fields
                    .iter()
                    .flat_map(|field| format!("{field:08x}").into_bytes()),
            );
            bytes.extend(name.bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(body.bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        Initramfs::parse(bytes).unwrap()
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions() {
        let base = base();
        let mut supplement = Supplement::new(&base);
        supplement.put("init", b"#!/bin/bash").unwrap();
        supplement.put("etc/new", b"n").unwrap();
        let joined = [base.file().to_vec(), supplement.finish().unwrap()].concat();
        let joined = Initramfs::parse(joined).unwrap();
        assert_eq!(joined.node(b"init").unwrap().mode, 0o100_755);
        assert_eq!(joined.node(b"etc/new").unwrap().mode, 0o100_644);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn what_is_put_is_what_the_kernel_finds(
            files in prop::collection::btree_map(
                "(lib/|usr/lib/|etc/|a/b/)[c-e]{1,2}/[f-h]{1,3}",
                prop::collection::vec(any::<u8>(), 0..50),
                0..12,
            ),
        ) {
            let base = base();
            let mut supplement = Supplement::new(&base);
            let mut expected = BTreeMap::new();
            for (path, content) in &files {
                supplement.put(path, content).unwrap();
                // `lib` is a link: two paths may mean one file, and the later one wins.
                let place = path.strip_prefix("lib/").map_or(path.clone(), |rest| format!("usr/lib/{rest}"));
                expected.insert(place, content);
            }
            let joined = [base.file().to_vec(), supplement.finish().unwrap()].concat();
            prop_assert_eq!(joined.len() % 4, 0);
            let joined = Initramfs::parse(joined).unwrap();
            prop_assert_eq!(joined.node(b"lib").unwrap().kind, rehost_fs::FileKind::Symlink);
            for (path, content) in expected {
                prop_assert_eq!(joined.read(path.as_bytes()), Some(content.as_slice()));
            }
        }
    }
}
