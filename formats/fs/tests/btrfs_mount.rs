//! Btrfs against the kernel: what a mounted filesystem holds is what we read, clean and after a crash.
//!
//! Needs root and loop mounts; says so where there are none.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "support/btrfs.rs"]
mod volumes;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::Disk;
use rehost_fs::{Btrfs, FileSystem, Subvol};
use support::*;
use volumes::*;

fn disks(images: &[&Path]) -> Vec<Arc<dyn Disk>> {
    images.iter().map(|image| file_disk(image)).collect()
}

fn compare(fs: &Btrfs, root: &Path, what: &str) {
    let ours = tree(fs).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_same_tree(&ours, &host_tree(root), what);
    assert_same_stat(fs, root, &ours);
}

#[test]
fn a_filesystem_that_the_kernel_wrote_reads_as_the_kernel_reads_it() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    for shape in [
        &["-n", "4096", "-M", "--csum", "xxhash"][..],
        &["-m", "dup", "-d", "dup"],
    ] {
        mkfs(&image, shape);
        let Some(mounted) = Mount::new(&[&image], &at, "noatime") else {
            return;
        };
        fill(&at, &mounted);
        drop(mounted);
        let Some(mounted) = Mount::new(&[&image], &at, "ro") else {
            return;
        };
        let fs = Btrfs::open(file_disk(&image)).unwrap();
        compare(&fs, &at, &format!("{shape:?}"));
        assert_same_attributes(&fs, &at, "linked");
        assert_same_attributes(&fs, &at, "dir/../linked");
        assert!(!fs.identity().replayed);
        let sparse = fs.lookup(fs.root(), b"sparse").unwrap().unwrap();
        let parts = fs.stored(sparse).unwrap();
        assert!(parts.iter().filter(|part| part.disk.is_none()).count() >= 100);
        assert_eq!(parts.last().unwrap().file.end, 50_000_000);
        let paths: Vec<String> = fs
            .subvolumes()
            .unwrap()
            .into_iter()
            .map(|sub| {
                let path = String::from_utf8(sub.path).unwrap();
                format!("{path} {}", if sub.read_only { "ro" } else { "rw" })
            })
            .collect();
        let expected = [
            " rw",
            "sub rw",
            "dir/deep rw",
            "sub/inner rw",
            "snap rw",
            "ro ro",
        ];
        assert_eq!(paths, expected);
        // The stub of a subvolume in a snapshot is empty, and each subvolume can be the top.
        let inner = rehost_fs::path::find(&fs, b"snap/inner", rehost_fs::path::LastLink::Keep);
        assert!(fs.read_dir(inner.unwrap().unwrap()).unwrap().is_empty());
        for name in ["sub", "dir/deep", "snap"] {
            let part = fs
                .subvolume(&Subvol::Path(name.as_bytes().to_vec()))
                .unwrap();
            compare(&part, &at.join(name), name);
        }
        assert!(fs.subvolume(&Subvol::Path(b"dir".to_vec())).is_err());
        assert!(fs.subvolume(&Subvol::Id(999)).is_err());
        drop(mounted);
    }
}

#[test]
fn the_default_subvolume_is_what_opens() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    mkfs(&image, &["--csum", "blake2"]);
    let Some(mounted) = Mount::new(&[&image], &at, "noatime") else {
        return;
    };
    run("btrfs", &["subvolume", "create", text(&at.join("@"))]);
    fs::write(at.join("@/etc"), b"in the subvolume").unwrap();
    run("btrfs", &["subvolume", "set-default", text(&at.join("@"))]);
    drop(mounted);
    let fs = Btrfs::open(file_disk(&image)).unwrap();
    assert_eq!(fs.read_dir(fs.root()).unwrap()[0].name, b"etc");
    let top = fs.subvolume(&Subvol::Top).unwrap();
    assert_eq!(top.read_dir(top.root()).unwrap()[0].name, b"@");
    assert!(
        fs.subvolumes()
            .unwrap()
            .iter()
            .any(|sub| sub.default && sub.path == b"@")
    );
}

#[test]
fn filesystems_on_several_devices_read_whole_and_where_they_can_without_one() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("at");
    for (data, count, spare) in [
        ("raid0", 3, false),
        ("raid1", 2, true),
        ("raid1c3", 3, true),
        ("raid10", 4, true),
        ("raid5", 3, false),
        ("raid6", 4, false),
        ("single", 2, false),
    ] {
        let images: Vec<PathBuf> = (0..count)
            .map(|nth| folder.path().join(format!("{data}-{nth}")))
            .collect();
        let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        mkfs_many(&images, &["-d", data, "-m", "raid1", "--csum", "sha256"]);
        let Some(mounted) = Mount::new(&images, &at, "noatime") else {
            return;
        };
        fill_plain(&at);
        drop(mounted);
        let Some(mounted) = Mount::new(&images, &at, "ro") else {
            return;
        };
        let theirs = host_tree(&at);
        let mut members = disks(&images);
        members.reverse();
        let fs = Btrfs::open_many(members).unwrap();
        assert_same_tree(&tree(&fs).unwrap(), &theirs, data);
        let big = fs.lookup(fs.root(), b"big").unwrap().unwrap();
        assert!(
            fs.stored(big)
                .unwrap()
                .iter()
                .all(|part| part.disk.is_none())
        );
        assert_eq!(Btrfs::member(&file_disk(images[0])).unwrap().devices, count);
        let one_less = Btrfs::open_many(disks(&images[1..]));
        if spare {
            assert_same_tree(&tree(&one_less.unwrap()).unwrap(), &theirs, data);
        } else {
            let error = one_less.unwrap_err().to_string();
            assert!(error.contains("missing"), "{data}: {error}");
        }
        drop(mounted);
    }
}

/// Changes that are only in the log: each is synced on its own, and nothing is committed.
fn change_and_sync(root: &Path) {
    let path = |name: &str| root.join(name);
    let sync = |name: &str| fs::File::open(path(name)).unwrap().sync_all().unwrap();
    let open = |name: &str| {
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path(name))
            .unwrap()
    };
    let mut file = open("appended");
    file.write_all(&noise(31, 100_000)).unwrap();
    file.sync_all().unwrap();
    open("big")
        .write_all_at(&noise(32, 300_000), 1_000_000)
        .unwrap();
    sync("big");
    open("dir/file-50").set_len(100).unwrap();
    sync("dir/file-50");
    open("dir/file-51").set_len(100_000).unwrap();
    sync("dir/file-51");
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(open("shared"), punch, 8192, 100_000).unwrap();
    sync("shared");
    fs::rename(path("dir/file-60"), path("dir/renamed")).unwrap();
    sync("dir/renamed");
    fs::rename(path("dir/file-61"), path("moved")).unwrap();
    sync("moved");
    fs::remove_file(path("dir/file-62")).unwrap();
    fs::remove_file(path("dir/file-63")).unwrap();
    fs::write(path("dir/new-in-dir"), noise(33, 9000)).unwrap();
    sync("dir/new-in-dir");
    sync("dir");
    fs::create_dir(path("fresh")).unwrap();
    fs::create_dir(path("fresh/below")).unwrap();
    fs::write(path("fresh/below/file"), noise(34, 60_000)).unwrap();
    sync("fresh/below/file");
    sync("fresh");
    fs::write(path("small"), b"written anew\n").unwrap();
    sync("small");
    fs::hard_link(path("small"), path("dir/small-too")).unwrap();
    sync("small");
    fs::remove_file(path("many/a-name-of-some-length-7")).unwrap();
    fs::rename(
        path("many/a-name-of-some-length-8"),
        path("many/a-name-of-some-length-9"),
    )
    .unwrap();
    sync("many/a-name-of-some-length-9");
    sync("many");
    rustix::fs::removexattr(path("linked"), "user.short").unwrap();
    attribute(&path("linked"), "user.new", b"new");
    sync("linked");
    std::os::unix::fs::symlink("elsewhere", path("dir/new-link")).unwrap();
    sync("dir");
    fs::write(path("sub/inside"), noise(35, 20_000)).unwrap();
    sync("sub/inside");
    fs::remove_file(path("packed-zstd")).unwrap();
    fs::write(path("packed-zstd"), words(36, 90_000)).unwrap();
    sync("packed-zstd");
}

#[test]
fn a_log_reads_as_the_kernel_leaves_it_after_recovery() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    let (crashed, copy) = (folder.path().join("crashed"), folder.path().join("copy"));
    for shape in [&["-n", "4096", "-M"][..], &["-O", "^no-holes"]] {
        mkfs(&image, shape);
        let Some(mounted) = Mount::new(&[&image], &at, "noatime,commit=300") else {
            return;
        };
        fill(&at, &mounted);
        run("sync", &["-f", text(&at)]);
        change_and_sync(&at);
        fs::copy(&image, &crashed).unwrap();
        drop(mounted);
        fs::copy(&crashed, &copy).unwrap();
        let fs = Btrfs::open(file_disk(&copy)).unwrap();
        assert!(fs.identity().replayed, "{shape:?} left no log");
        // The kernel recovers its copy; we read ours.
        let Some(mounted) = Mount::new(&[&crashed], &at, "noatime") else {
            return;
        };
        compare(&fs, &at, &format!("crashed {shape:?}"));
        assert_same_attributes(&fs, &at, "linked");
        drop(mounted);
    }
}
