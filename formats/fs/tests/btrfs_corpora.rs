//! Btrfs images that others made: each opens with its recorded answers, or fails by name.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rehost_block::Kind;
use rehost_fs::{Btrfs, FileKind, FileSystem, Inode};
use serde_json::Value;
use support::*;

/// Larger ones are left out: they are members of filesystems on several disks, and take long to unpack.
const MOST: u64 = 300 << 20;

/// A recorded tree: kind, mode, size, hash or target, and name of each file.
fn recorded(tsv: &[u8]) -> Tree {
    let text = std::str::from_utf8(tsv).unwrap();
    let line = |line: &str| {
        let fields: Vec<&str> = line.splitn(5, '\t').collect();
        let kind = fields[0].chars().next().unwrap();
        let seen = Seen {
            kind,
            mode: u16::from_str_radix(fields[1], 8).unwrap(),
            size: (kind == 'f').then(|| fields[2].parse().unwrap()),
            content: fields[3].to_owned(),
        };
        (fields[4].as_bytes().to_vec(), seen)
    };
    text.lines().map(line).collect()
}

#[test]
fn foreign_images_are_read_or_refused_by_name() {
    let Some(root) = corpora() else { return };
    if !has(&["xz"]) {
        return;
    }
    let text = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let (mut met, mut read, mut trees) = (0, 0, 0);
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["fs"]["blkid"]["TYPE"] != "btrfs" || record["expanded_size"].as_u64() > Some(MOST)
        {
            continue;
        }
        let stored = record["stored"].as_str().unwrap();
        let path = root.join(record["origin"].as_str().unwrap()).join(stored);
        let Some(bytes) = unpacked(&path) else {
            continue;
        };
        met += 1;
        let found = Btrfs::open(memory_disk(bytes)).and_then(|fs| tree(&fs));
        let kernel = &record["fs"]["kernel_tree"];
        match found {
            Ok(found) => {
                println!("{stored}: {} names", found.len());
                read += 1;
                if let Some(tsv) = kernel["tsv"].as_str() {
                    let tsv = unpacked(&root.join(tsv)).unwrap();
                    assert_same_tree(&found, &recorded(&tsv), stored);
                    trees += 1;
                }
            }
            Err(error) => {
                println!("{stored}: {error}");
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported));
                assert!(kernel.is_null(), "{stored}: the kernel reads it: {error}");
            }
        }
    }
    assert!(met >= 20 && read >= 3 && trees >= 1, "{met} {read} {trees}");
}

/// Names below a directory: a dump has no content to read.
fn names(fs: &dyn FileSystem, dir: Inode, depth: usize) -> rehost_block::Result<usize> {
    let mut count = 0;
    if depth > 20 {
        return Ok(0);
    }
    for entry in fs.read_dir(dir)? {
        count += 1;
        if fs.attributes(entry.inode)?.kind == FileKind::Directory {
            count += names(fs, entry.inode, depth + 1)?;
        }
    }
    Ok(count)
}

#[test]
fn restored_dumps_of_damaged_filesystems_are_read_or_refused_by_name() {
    let Some(root) = corpora() else { return };
    if !has(&["btrfs-image", "xz"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (dump, image) = (folder.path().join("dump"), folder.path().join("image"));
    let text = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let (mut met, mut sound) = (0, 0);
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["restored"]["blkid"]["TYPE"] != "btrfs" {
            continue;
        }
        let stored = record["stored"].as_str().unwrap();
        let path = root.join(record["origin"].as_str().unwrap()).join(stored);
        std::fs::write(&dump, unpacked(&path).unwrap()).unwrap();
        let _ = std::fs::remove_file(&image);
        let (from, to) = (dump.to_str().unwrap(), image.to_str().unwrap());
        run("btrfs-image", &["-r", from, to]);
        met += 1;
        match Btrfs::open(file_disk(&image)).and_then(|fs| names(&fs, fs.root(), 0)) {
            Ok(count) => println!("{stored}: {count} names"),
            Err(error) => {
                println!("{stored}: {error}");
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported));
                assert_ne!(record["restored"]["btrfs_check_rc"], 0, "{stored}: {error}");
            }
        }
        if record["restored"]["btrfs_check_rc"] == 0 {
            sound += 1;
        }
    }
    assert!(met >= 15 && sound >= 1, "{met} {sound}");
}
