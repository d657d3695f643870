//! Btrfs images that mkfs.btrfs fills from a folder: every checksum and size of tree blocks, damage included.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "support/btrfs.rs"]
mod volumes;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{DiskMut as _, Kind, Overlay};
use rehost_fs::{Btrfs, FileSystem, Subvol};
use support::*;
use volumes::*;

/// An image filled from a folder, and what that folder holds.
fn filled(folder: &Path, args: &[&str]) -> (std::path::PathBuf, Tree) {
    let (from, image) = (folder.join("from"), folder.join("fs.raw"));
    if !from.exists() {
        fs::create_dir(&from).unwrap();
        fill_plain(&from);
        attribute(&from.join("small"), "user.colour", b"blue");
    }
    let mut all = vec!["--rootdir", text(&from)];
    all.extend(args);
    mkfs(&image, &all);
    let tree = host_tree(&from);
    (image, tree)
}

#[test]
fn every_checksum_and_node_size_is_read() {
    if !has(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for shape in [
        &["--csum", "crc32c"][..],
        &["--csum", "xxhash", "-n", "4096"],
        &["--csum", "sha256", "-n", "65536"],
        &["--csum", "blake2", "-M"],
        &[
            "-O",
            "^no-holes,^extref,^skinny-metadata",
            "-R",
            "^free-space-tree",
        ],
    ] {
        let (image, theirs) = filled(folder.path(), shape);
        let fs = Btrfs::open(file_disk(&image)).unwrap();
        assert_same_tree(&tree(&fs).unwrap(), &theirs, &format!("{shape:?}"));
        let small = fs.lookup(fs.root(), b"small").unwrap().unwrap();
        assert_eq!(
            fs.xattrs(small).unwrap(),
            [(b"user.colour".to_vec(), b"blue".to_vec())]
        );
        assert!(fs.lookup(fs.root(), b"absent").unwrap().is_none());
        assert_eq!(fs.lookup(small, b"x").unwrap_err().kind(), Kind::Usage);
        assert_eq!(fs.identity().label.as_deref(), Some("rehost"));
        assert_eq!(fs.subvolumes().unwrap().len(), 1);
        assert!(fs.subvolume(&Subvol::Path(b"@".to_vec())).is_err());
    }
}

/// Where each of a file's plain parts lies.
fn places(fs: &Btrfs, name: &[u8]) -> Vec<u64> {
    let inode = fs.lookup(fs.root(), name).unwrap().unwrap();
    let parts = fs.stored(inode).unwrap();
    parts.into_iter().filter_map(|part| part.disk).collect()
}

#[test]
fn a_damaged_copy_is_passed_over_and_the_last_one_is_a_named_error() {
    if !has(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, theirs) = filled(folder.path(), &["-m", "dup", "-d", "dup"]);
    let bytes = fs::read(&image).unwrap();
    let disk = file_disk(&image);
    let fs = Btrfs::open(Arc::clone(&disk)).unwrap();
    let at = usize::try_from(places(&fs, b"big")[0]).unwrap();
    let sector = &bytes[at..at + 4096];
    let copies: Vec<usize> = (0..bytes.len() / 4096)
        .map(|nth| nth * 4096)
        .filter(|place| &bytes[*place..*place + 4096] == sector)
        .collect();
    assert_eq!(copies.len(), 2);
    // Every block of the trees of files, by its owner; both copies of each have the same address.
    let blocks: Vec<usize> = (0..bytes.len() / 4096)
        .map(|nth| nth * 4096)
        .filter(|place| {
            let head = &bytes[*place..*place + 101];
            head[32..48] == bytes[0x1_0020..0x1_0030] && head[88..96] == 5u64.to_le_bytes()
        })
        .collect();
    let logical = |place: &usize| bytes[place + 48..place + 56].to_vec();
    let second = |place: &usize| {
        let other = |other: &&usize| *other < place && logical(other) == logical(place);
        blocks.iter().any(|block| other(&block))
    };
    let view = Overlay::in_memory(Arc::clone(&disk));
    view.write_at(&[0xa5; 100], copies[0] as u64 + 300).unwrap();
    for block in blocks.iter().filter(|block| !second(block)) {
        view.write_at(&[0xa5; 100], *block as u64 + 3000).unwrap();
    }
    let damaged = Btrfs::open(Arc::new(view)).unwrap();
    assert_same_tree(&tree(&damaged).unwrap(), &theirs, "one copy damaged");

    let view = Overlay::in_memory(Arc::clone(&disk));
    for copy in copies {
        view.write_at(&[0xa5; 100], copy as u64 + 300).unwrap();
    }
    let damaged = Btrfs::open(Arc::new(view)).unwrap();
    let error = tree(&damaged).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.offset().is_some(), "{error}");
    assert!(
        error.to_string().contains("checksum does not match"),
        "{error}"
    );

    let view = Overlay::in_memory(disk);
    for block in &blocks {
        view.write_at(&[0xa5; 100], *block as u64 + 3000).unwrap();
    }
    let error = Btrfs::open(Arc::new(view)).unwrap_err();
    assert_eq!(error.structure(), Some("tree block"), "{error}");
}

#[test]
fn a_damaged_superblock_is_read_from_its_second_copy() {
    if !has(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, theirs) = filled(folder.path(), &[]);
    let view = Overlay::in_memory(file_disk(&image));
    view.write_at(&[0xa5], 65_536 + 0x100).unwrap();
    let fs = Btrfs::open(Arc::new(view)).unwrap();
    assert_same_tree(&tree(&fs).unwrap(), &theirs, "second superblock");
}

#[test]
fn the_filesystem_is_opened_by_its_content() {
    if !has(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, theirs) = filled(folder.path(), &[]);
    let fs = rehost_fs::open(file_disk(&image)).unwrap();
    assert_eq!(fs.identity().kind, "btrfs");
    assert_same_tree(&tree(&*fs).unwrap(), &theirs, "opened by content");
}

#[test]
fn what_it_does_not_use_can_be_overwritten() {
    if !has(&["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for shape in [
        &["-m", "dup"][..],
        &["-n", "4096", "-M", "-R", "^free-space-tree"],
        &["-m", "dup", "-d", "dup"],
    ] {
        let (image, theirs) = filled(folder.path(), shape);
        let free = rehost_fs::unused(&file_disk(&image)).unwrap();
        let total: u64 = free.iter().map(|range| range.end - range.start).sum();
        let size = fs::metadata(&image).unwrap().len();
        assert!(
            total > size / 2 && total < size - (6 << 20),
            "{total} of {size}"
        );
        assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start));
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        for range in &free {
            let len = (range.end - range.start).min(70_000);
            for at in [range.start, range.end - len] {
                let noise = noise(at + 1, usize::try_from(len).unwrap());
                std::os::unix::fs::FileExt::write_all_at(&file, &noise, at).unwrap();
            }
        }
        assert_checked(
            &image,
            &format!("{shape:?} with noise in what it does not use"),
        );
        let fs = Btrfs::open(file_disk(&image)).unwrap();
        assert_same_tree(&tree(&fs).unwrap(), &theirs, &format!("{shape:?}"));
    }
}
