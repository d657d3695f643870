//! Whole trees: `ls -R`, and `scripts/walk-compare`, by which filesystems that the kernel filled read as
//! the kernel reads them. The latter needs root and loop mounts; says so where there are none.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::stacked::Mount;
use common::{Ran, have, judge, ran, run};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat, setxattr};

/// What a filesystem can hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// What a Unix has.
    Everything,
    /// Files and directories.
    FilesOnly,
}

/// The example that prints a walk, which is built with the tests.
fn walk() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent()
        .unwrap()
        .with_file_name("examples")
        .join("walk")
}

fn walk_compare(words: &[&Path]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/walk-compare");
    let mut command = Command::new(script);
    ran(command
        .env("REHOST_WALK", walk())
        .args(words)
        .output()
        .unwrap())
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn fill(root: &Path, holds: Holds) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("a/b/c/d")).unwrap();
    fs::create_dir(path("many")).unwrap();
    for nth in 0..2000u64 {
        let len = if nth % 50 == 0 { 5000 } else { 0 };
        fs::write(path(&format!("many/name-{nth}")), noise(nth, len)).unwrap();
    }
    fs::write(path("a/Long name with ünïcödé.text"), b"text\n").unwrap();
    let mut big = File::create(path("a/big")).unwrap();
    for nth in 0..6 {
        big.write_all(&noise(nth, 1 << 20)).unwrap();
    }
    if holds == Holds::FilesOnly {
        return;
    }
    let sparse = File::create(path("sparse")).unwrap();
    for nth in 0..40u64 {
        sparse
            .write_all_at(&noise(nth, 5000), nth * 300_000)
            .unwrap();
    }
    sparse.set_len(20_000_001).unwrap();
    fs::hard_link(path("sparse"), path("a/another name")).unwrap();
    fs::write(path("a/b/owned"), noise(3, 70_000)).unwrap();
    std::os::unix::fs::chown(path("a/b/owned"), Some(70_000), Some(100_000)).unwrap();
    let mode = fs::Permissions::from_mode(0o4751);
    fs::set_permissions(path("a/b/owned"), mode).unwrap();
    let raw = std::ffi::OsStr::from_bytes(b"no \xff\xfe text\t\n");
    fs::write(root.join(raw), b"x").unwrap();
    symlink("a/b/owned", path("short link")).unwrap();
    symlink("x/".repeat(300), path("long link")).unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("disk", FileType::BlockDevice, makedev(8, 300));
    node("tty", FileType::CharacterDevice, makedev(500, 1));
    node("socket", FileType::Socket, 0);
    let flags = XattrFlags::empty();
    for (nth, len) in [3, 60, 300].into_iter().enumerate() {
        let name = format!("user.attribute-{nth}");
        setxattr(path("a/b/owned"), name, &noise(9, len), flags).unwrap();
    }
    setxattr(path("a"), "trusted.folder", b"yes", flags).unwrap();
    lsetxattr(path("short link"), "security.label", b"on a link\0", flags).unwrap();
}

/// Makes a filesystem of `size` MiB with `make`, has the kernel fill it, and compares.
fn assert_same(make: &[&str], size: u64, options: &str, holds: Holds) {
    if ![make[0], "losetup", "blkid"].into_iter().all(have) {
        return;
    }
    // `cargo test` builds it with the tests, unless only some of them are asked for.
    if !walk().is_file() {
        println!("skipped: needs the example walk (cargo build --example walk)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    File::create(&image).unwrap().set_len(size << 20).unwrap();
    judge(Command::new(make[0]).args(&make[1..]).arg(&image));
    let Some(mounted) = Mount::new(&[&image], &at, options) else {
        return;
    };
    fill(&at, holds);
    drop(mounted);
    walk_compare(&[&image]).exits(0);

    // It tells a difference when there is one.
    let other = folder.path().join("other.raw");
    fs::copy(&image, &other).unwrap();
    let Some(_mounted) = Mount::new(&[&other], &at, options) else {
        return;
    };
    let mut changed = File::options().append(true).open(at.join("a/big")).unwrap();
    changed.write_all(b"!").unwrap();
    fs::remove_file(at.join("many/name-7")).unwrap();
    let told = walk_compare(&[&image, &at]).exits(1).stdout;
    for line in ["\n-a/big\t", "\n+a/big\t", "\n+many/name-7\t"] {
        assert!(told.contains(line), "{line:?} is missing in {told}");
    }
}

#[test]
fn ext_filesystems_walk_as_the_kernel_walks_them() {
    let ext = |kind: &str, more: &[&str]| {
        let make = [&["mke2fs", "-q", "-F", "-t", kind][..], more].concat();
        assert_same(&make, 64, "rw", Holds::Everything);
    };
    ext("ext2", &[]);
    ext("ext3", &["-b", "1024"]);
    ext("ext4", &["-O", "inline_data", "-I", "512"]);
}

#[test]
fn xfs_walks_as_the_kernel_walks_it() {
    let make = ["mkfs.xfs", "-q", "-f"];
    assert_same(&make, 300, "rw", Holds::Everything);
}

#[test]
fn btrfs_walks_as_the_kernel_walks_it() {
    let make = ["mkfs.btrfs", "-q", "-f"];
    assert_same(&make, 128, "rw", Holds::Everything);
}

#[test]
fn fat_walks_as_the_kernel_walks_it() {
    for (bits, size) in [("12", 12), ("16", 40), ("32", 80)] {
        let make = ["mkfs.vfat", "-F", bits];
        assert_same(&make, size, "iocharset=utf8", Holds::FilesOnly);
    }
}

/// An ext4 image of a small tree.
fn small_tree(folder: &Path) -> PathBuf {
    let (root, image) = (folder.join("root"), folder.join("fs.raw"));
    fs::create_dir_all(root.join("etc/conf.d")).unwrap();
    fs::create_dir(root.join("bad")).unwrap();
    fs::write(root.join("bad/lost"), b"x").unwrap();
    fs::write(root.join("etc/conf.d/one"), b"1").unwrap();
    fs::write(root.join("etc/z"), b"22").unwrap();
    symlink("z", root.join("etc/link")).unwrap();
    judge(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .args([&root, &image])
            .arg("16M"),
    );
    image
}

#[test]
fn everything_below_a_directory_is_listed_with_its_path() {
    if !have("mke2fs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = small_tree(folder.path());
    let image = image.to_str().unwrap();
    let listed = run(["ls", "-R", "--volume", "0", image, "/etc"]).exits(0);
    assert_eq!(listed.stdout, "conf.d\nconf.d/one\nlink\nz\n");
    let long = run(["ls", "-lR", "--volume", "0", image, "/"]).exits(0);
    assert!(long.stdout.contains(" etc/link -> z\n"), "{}", long.stdout);
    let file = run(["ls", "-R", "--volume", "0", image, "/etc/z"]).exits(0);
    assert_eq!(file.stdout, "/etc/z\n");
    let listed = run(["ls", "-R", "--json", "--volume", "0", image, "/etc"]).exits(0);
    let listed = listed.json();
    assert_eq!(listed[1]["name"], "conf.d/one");
    assert_eq!(
        (&listed[2]["link"], &listed[3]["size"]),
        (&"z".into(), &2.into())
    );
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let none = run([
        "ls",
        "-R",
        "--json",
        "--volume",
        "0",
        image,
        "/etc/conf.d/one",
    ])
    .exits(0);
    assert_eq!(none.json()[0]["size"], 1);
}

#[test]
fn a_directory_that_cannot_be_read_does_not_hide_the_others() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = small_tree(folder.path());
    judge(
        Command::new("debugfs")
            .args(["-w", "-R", "clri bad"])
            .arg(&image),
    );
    let image = image.to_str().unwrap();
    let listed = run(["ls", "-R", "--volume", "0", image]).exits(2);
    let names = &listed.stdout;
    assert!(names.ends_with("etc/z\nlost+found\n"), "{names}");
    listed.says(&["/bad", "inode"]);
}
