//! Images with flipped bytes: reading and writing end, with an answer or a named error.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use rehost_block::{Kind, Overlay};
use rehost_fs::{Ext4, Ext4Mut, FileSystem, FileSystemMut};
use support::*;

/// Small images whose metadata is not protected by checksums, and one where it is.
fn images() -> &'static [Vec<u8>] {
    static MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::create_dir_all(source.join("dir/sub")).unwrap();
        for nth in 0..120u64 {
            let name = format!("dir/a file with a rather long name {nth}");
            std::fs::write(source.join(name), noise(nth, nth as usize * 11)).unwrap();
        }
        std::fs::write(source.join("large"), noise(1, 700_000)).unwrap();
        std::os::unix::fs::symlink("t".repeat(100), source.join("link")).unwrap();
        [
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "^metadata_csum,inline_data",
            ][..],
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "^metadata_csum,^flex_bg,meta_bg,^resize_inode",
            ],
            &["-t", "ext3", "-b", "1024"],
            &["-t", "ext4", "-b", "1024"],
        ]
        .iter()
        .map(|args| {
            let path = folder.path().join("fs.raw");
            let _ = std::fs::remove_file(&path);
            mke2fs(&path, "4M", args, Some(&source));
            let _ = std::process::Command::new("e2fsck")
                .arg("-fyD")
                .arg(&path)
                .output();
            std::fs::read(&path).unwrap()
        })
        .collect()
    })
}

fn check(error: &rehost_block::Error) {
    assert_ne!(error.kind(), Kind::Internal, "{error}");
    assert!(!error.to_string().is_empty());
}

/// Everything a user of the writer might do next.
fn edit(disk: Vec<u8>) -> rehost_block::Result<()> {
    let view = Arc::new(Overlay::in_memory(memory_disk(disk)));
    let fs = Ext4Mut::open(view)?;
    let root = fs.root();
    let file = fs.create(root, b"new", 0o644, (0, 0), &noise(1, 40_000))?;
    fs.set_xattr(file, b"user.x", b"y")?;
    if let Some(dir) = fs.lookup(root, b"dir")? {
        for nth in 0..30 {
            let name = format!("one more file with a rather long name {nth}");
            fs.create(dir, name.as_bytes(), 0o644, (0, 0), b"more")?;
        }
        fs.remove(dir, b"sub")?;
    }
    if let Some(large) = fs.lookup(root, b"large")? {
        fs.replace(large, b"small")?;
    }
    fs.remove(root, b"link")?;
    fs.remove(root, b"new")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn flipped_bytes_never_panic_or_hang(
        which in 0..4usize,
        flips in prop::collection::vec((0..4u8, any::<u32>(), any::<u8>()), 1..12),
    ) {
        if !has(&["mke2fs", "e2fsck"]) {
            return Ok(());
        }
        let mut bytes = images()[which].clone();
        let used: Vec<usize> = (0..bytes.len() / 1024)
            .filter(|block| bytes[block * 1024..block * 1024 + 1024].iter().any(|b| *b != 0))
            .collect();
        for (place, at, value) in flips {
            let at = at as usize;
            let target = match place {
                // The superblock, the first blocks of metadata, any block in use.
                0 => 1024 + at % 0x180,
                1 => 2048 + at % 4096,
                2 => used[at % used.len().min(200)] * 1024 + (at / 7919) % 1024,
                _ => used[at % used.len()] * 1024 + (at / 7919) % 1024,
            };
            bytes[target] = value;
        }
        match Ext4::open(memory_disk(bytes.clone())).and_then(|fs| tree(&fs)) {
            Ok(_) => {}
            Err(error) => check(&error),
        }
        if let Err(error) = edit(bytes) {
            check(&error);
        }
    }
}
