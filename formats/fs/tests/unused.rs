//! What filesystems do not use, judged by their own checkers: filled with noise, it makes no
//! difference; and by their own tools' counts.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use rehost_fs::{open, swap, unused};
use support::*;

/// Overwrites `ranges` of the file with noise.
fn spoil(path: &Path, ranges: &[Range<u64>]) -> u64 {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut total = 0;
    for range in ranges {
        let len = range.end - range.start;
        assert!(len > 0);
        // Enough to hurt whatever it would be; the ends count most.
        for at in [range.start, range.end - len.min(8192)] {
            file.write_all_at(&noise(at + 1, len.min(8192) as usize), at)
                .unwrap();
        }
        total += len;
    }
    total
}

/// `dumpe2fs` counts as many free bytes, and `e2fsck` finds nothing, after all of them are noise.
fn check_ext(path: &Path, what: &str) {
    let before = tree(&*open(file_disk(path)).unwrap()).unwrap();
    let free = unused(&file_disk(path)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let total = spoil(path, &free);
    assert_clean(path, what);
    let after = tree(&*open(file_disk(path)).unwrap()).unwrap();
    assert_same_tree(&after, &before, what);
    let out = run("dumpe2fs", &["-h", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split(':').nth(1)).unwrap();
        value.trim().parse().unwrap()
    };
    let counted = field("Free blocks:") * field("Block size:");
    // Bits of a group that was never written are not clear on the disk, and some of what is reserved
    // for the table to grow may be counted as free.
    assert!(total <= counted, "{what}: {total} of {counted}");
    assert!(total * 100 >= counted * 95, "{what}: {total} of {counted}");
}

#[test]
fn unused_blocks_of_ext_filesystems_can_be_overwritten() {
    if !has(&["mke2fs", "e2fsck", "debugfs", "dumpe2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, path) = (folder.path().join("tree"), folder.path().join("fs.raw"));
    std::fs::create_dir_all(source.join("a/b")).unwrap();
    for nth in 0..200u64 {
        std::fs::write(source.join(format!("a/{nth}")), noise(nth, 3000)).unwrap();
    }
    std::fs::write(source.join("large"), noise(7, 3_000_000)).unwrap();
    for (size, options) in [
        ("300M", &["-t", "ext4"][..]),
        ("64M", &["-t", "ext4", "-b", "1024"]),
        (
            "64M",
            &["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,uninit_bg"],
        ),
        ("300M", &["-t", "ext4", "-O", "bigalloc", "-C", "65536"]),
        (
            "300M",
            &["-t", "ext4", "-O", "meta_bg,^resize_inode,^flex_bg"],
        ),
        ("300M", &["-t", "ext4", "-O", "sparse_super2", "-g", "2048"]),
        ("64M", &["-t", "ext3", "-b", "1024"]),
        ("64M", &["-t", "ext2", "-O", "^sparse_super,^resize_inode"]),
    ] {
        let _ = std::fs::remove_file(&path);
        mke2fs(&path, size, options, Some(&source));
        debugfs_script(&path, "rm a/7\nrm a/8\n");
        check_ext(&path, &format!("{options:?}"));
    }
}

#[test]
fn nothing_of_a_doubtful_ext_filesystem_is_unused() {
    if !has(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fs.raw");
    for (change, what) in [
        ("feature needs_recovery", "journal holds changes"),
        ("set_super_value state 2", "errors"),
        ("set_super_value state 0", "not unmounted"),
        (
            "set_bg 0 free_blocks_count 7\nset_bg 0 checksum calc",
            "miscounted",
        ),
        (
            "set_bg 0 block_bitmap_csum 7\nset_bg 0 checksum calc",
            "checksum",
        ),
    ] {
        let _ = std::fs::remove_file(&path);
        mke2fs(&path, "32M", &["-t", "ext4"], None);
        debugfs_script(&path, &format!("{change}\n"));
        let error = unused(&file_disk(&path)).unwrap_err().to_string();
        assert!(error.contains(what), "{change}: {error}");
    }
}

#[test]
fn unused_clusters_of_fat_filesystems_can_be_overwritten() {
    if !has(&["mkfs.vfat", "fsck.fat", "mcopy", "mdel"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fs.raw");
    let host = folder.path().join("file");
    std::fs::write(&host, noise(1, 500_000)).unwrap();
    let (image, host) = (path.to_str().unwrap(), host.to_str().unwrap());
    for (width, size) in [("12", 4u64 << 20), ("16", 32 << 20), ("32", 64 << 20)] {
        let _ = std::fs::remove_file(&path);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        run("mkfs.vfat", &["-F", width, image]);
        for name in ["::one", "::two", "::three"] {
            run("mcopy", &["-i", image, host, name]);
        }
        run("mdel", &["-i", image, "::two"]);
        let before = tree(&*open(file_disk(&path)).unwrap()).unwrap();
        let free = unused(&file_disk(&path)).unwrap();
        let total = spoil(&path, &free);
        assert_eq!(total, open(file_disk(&path)).unwrap().identity().free);
        let out = Command::new("fsck.fat")
            .args(["-n", image])
            .output()
            .unwrap();
        assert!(out.status.success(), "FAT{width}: {out:?}");
        let after = tree(&*open(file_disk(&path)).unwrap()).unwrap();
        assert_same_tree(&after, &before, width);
    }
    // Windows' mark of a filesystem in use: a bit of the second entry.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let reserved = 32 * 512;
    file.write_all_at(&[0xff, 0xff, 0xff, 0x07], reserved + 4)
        .unwrap();
    let error = unused(&file_disk(&path)).unwrap_err().to_string();
    assert!(error.contains("not unmounted"), "{error}");
}

#[test]
fn unused_blocks_of_xfs_can_be_overwritten() {
    if !has(&["mkfs.xfs", "xfs_repair", "xfs_db"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, proto) = (folder.path().join("fs.raw"), folder.path().join("proto"));
    let host = folder.path().join("file");
    std::fs::write(&host, noise(1, 500_000)).unwrap();
    let mut text = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
    for nth in 0..60 {
        text += &format!("file{nth} ---644 0 0 {}\n", host.display());
    }
    std::fs::write(&proto, text + "$\n").unwrap();
    for options in [&["-m", "crc=1"][..], &["-m", "crc=0"], &["-b", "size=1024"]] {
        mkfs_xfs(&path, options, Some(&proto));
        let before = tree(&*open(file_disk(&path)).unwrap()).unwrap();
        let free = unused(&file_disk(&path)).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let total = spoil(&path, &free);
        let image = path.to_str().unwrap();
        let out = run("xfs_db", &["-r", "-c", "freesp -s", image]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = said
            .lines()
            .find(|line| line.starts_with("total free blocks"));
        let blocks: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let identity = open(file_disk(&path)).unwrap().identity();
        // Its list of free blocks, which are kept for the trees to grow, is counted there too.
        let counted = blocks * u64::from(identity.block_size);
        let least = counted - 100 * u64::from(identity.block_size);
        assert!((least..=counted).contains(&total), "{options:?}: {total}");
        run("xfs_repair", &["-n", image]);
        let after = tree(&*open(file_disk(&path)).unwrap()).unwrap();
        assert_same_tree(&after, &before, &format!("{options:?}"));
    }
    // A count in a header that its tree contradicts.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(&path)
        .unwrap();
    mkfs_xfs(&path, &["-m", "crc=0"], None);
    drop(file);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0, 0, 0, 9], 512 + 52).unwrap();
    let error = unused(&file_disk(&path)).unwrap_err().to_string();
    assert!(error.contains("miscounted"), "{error}");
}

#[test]
fn a_swap_area_keeps_its_first_page() {
    if !has(&["mkswap", "blkid"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap.raw");
    std::fs::write(&path, noise(1, (4 << 20) + 1000)).unwrap();
    run("mkswap", &["-L", "pages", path.to_str().unwrap()]);
    assert_eq!(swap::pages(&file_disk(&path)).unwrap(), 4096..4 << 20);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    let error = swap::pages(&file_disk(&path)).unwrap_err().to_string();
    assert!(error.contains("hibernated"), "{error}");
    assert!(swap::pages(&memory_disk(vec![0; 8192])).is_err());
}
