//! squashfs against those who write and read it: mksquashfs, and the kernel where it can mount; and
//! damage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rehost_block::Kind;
use rehost_fs::{FileKind, FileSystem, Squashfs, open};
use support::*;

const TOOLS: &[&str] = &["mksquashfs"];

/// Everything that squashfs takes and a host without root can make.
fn fill(root: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let path = |name: &str| root.join(name);
    std::fs::create_dir_all(path("many")).unwrap();
    for nth in 0..1200u64 {
        let name = format!("many/a-rather-long-name-for-a-file-{nth}");
        std::fs::write(path(&name), noise(nth, nth as usize % 50)).unwrap();
    }
    for (name, len) in [
        ("empty", 0),
        ("one", 1),
        ("page", 4096),
        ("block", 131_072),
        ("blocks", 1_000_000),
    ] {
        std::fs::write(path(name), noise(len as u64, len)).unwrap();
    }
    let text: Vec<u8> = (0..900_000u32).map(|nth| (nth / 1000) as u8).collect();
    std::fs::write(path("text"), text).unwrap();
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    for nth in 0..20u64 {
        sparse
            .write_all_at(&noise(nth, 5000), nth * 700_000)
            .unwrap();
    }
    sparse.set_len(14_000_123).unwrap();
    std::fs::create_dir_all(path("a/b/c/d/e/f/g")).unwrap();
    std::fs::write(path("a/b/c/d/e/f/g/grüße"), b"deep").unwrap();
    std::fs::hard_link(path("blocks"), path("a/again")).unwrap();
    std::fs::set_permissions(path("one"), PermissionsExt::from_mode(0o6711)).unwrap();
    symlink("../x/y", path("link")).unwrap();
    symlink("z/".repeat(300), path("long-link")).unwrap();
}

fn make(folder: &Path, image: &Path, options: &[&str]) {
    let mut args = vec![folder.to_str().unwrap(), image.to_str().unwrap()];
    args.extend(["-noappend", "-no-progress", "-quiet"]);
    args.extend(options);
    run("mksquashfs", &args);
}

/// Whether this mksquashfs has the compressor.
fn knows(compressor: &str) -> bool {
    let out = Command::new("mksquashfs").arg("-help").output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.trim().split(' ').next() == Some(compressor))
}

#[test]
fn trees_read_as_they_were_before_in_every_packing() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image"));
    fill(&source);
    let theirs = host_tree(&source);
    let mut met = 0;
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "gzip", "-b", "4096", "-noI", "-noF"],
        &["-comp", "gzip", "-b", "1M", "-always-use-fragments"],
        &["-comp", "gzip", "-noD", "-no-fragments"],
        &["-comp", "xz"],
        &["-comp", "xz", "-Xbcj", "x86,arm"],
        &["-comp", "lzma"],
        &["-comp", "lzo"],
        &["-comp", "lz4"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "zstd", "-Xcompression-level", "3"],
        &[
            "-comp",
            "zstd",
            "-Xcompression-level",
            "3",
            "-b",
            "8192",
            "-no-exports",
        ],
    ] {
        if !knows(options[1]) {
            println!("skipped: needs mksquashfs with {}", options[1]);
            continue;
        }
        make(&source, &image, options);
        let fs = open(file_disk(&image)).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(fs.identity().kind, "squashfs");
        let ours = tree(&*fs).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_same_tree(&ours, &theirs, &format!("{options:?}"));
        met += 1;
    }
    assert!(met >= 4, "{met}");
}

#[test]
fn attributes_links_and_places_are_those_of_the_files() {
    use std::os::unix::fs::MetadataExt as _;
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image"));
    fill(&source);
    let devices = ["-p", "disk b 640 7 8 259 70000", "-p", "pipe i 600 1 2 f"];
    make(&source, &image, &[&["-noD"][..], &devices].concat());
    let fs = Squashfs::open(file_disk(&image)).unwrap();
    let find = |name: &str| fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap();
    for name in ["one", "many", "link", "blocks"] {
        let meta = std::fs::symlink_metadata(source.join(name)).unwrap();
        let found = fs.attributes(find(name)).unwrap();
        assert_eq!((found.uid, found.gid), (meta.uid(), meta.gid()), "{name}");
        assert_eq!(found.mtime, meta.mtime(), "{name}");
        assert_eq!(u64::from(found.links), meta.nlink(), "{name}");
    }
    let again = fs.lookup(find("a"), b"again").unwrap().unwrap();
    assert_eq!(again, find("blocks"));
    let disk = fs.attributes(find("disk")).unwrap();
    assert_eq!(disk.kind, FileKind::BlockDevice);
    assert_eq!(disk.device, Some((259, 70_000)));
    assert_eq!((disk.mode, disk.uid, disk.gid), (0o640, 7, 8));
    assert_eq!(fs.attributes(find("pipe")).unwrap().kind, FileKind::Fifo);
    let many = find("many");
    for nth in [0, 7, 999, 1199] {
        let name = format!("a-rather-long-name-for-a-file-{nth}");
        let found = fs.lookup(many, name.as_bytes()).unwrap();
        assert!(found.is_some(), "{name}");
    }
    for name in [
        &b""[..],
        b"a",
        b"zzz",
        b"a-rather-long-name-for-a-file-2000",
    ] {
        assert_eq!(fs.lookup(many, name).unwrap(), None);
    }
    // Blocks that are not packed can be found on the disk.
    let bytes = std::fs::read(&image).unwrap();
    let parts = fs.stored(find("blocks")).unwrap();
    assert_eq!(parts[0].file.start, 0);
    assert_eq!(parts.last().unwrap().file.end, 1_000_000);
    let content = noise(1_000_000, 1_000_000);
    let mut compared = 0;
    for part in &parts {
        let file = part.file.start as usize..part.file.end as usize;
        if let Some(at) = part.disk {
            assert!(bytes[at as usize..][..file.len()] == content[file.clone()]);
            compared += file.len();
        }
    }
    assert!(compared >= 7 * 131_072, "{compared}");
    let holes = fs.stored(find("sparse")).unwrap();
    assert!(holes.iter().filter(|part| part.disk.is_none()).count() >= 15);
    assert!(fs.read_at(fs.root(), &mut [0; 9], 0).is_err());
    assert!(fs.read_dir(find("one")).is_err());
    assert!(fs.read_link(find("one")).is_err());
}

/// Sets attributes of all lengths; `false` where the host's filesystem has none.
fn attributes(path: &Path) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    for (name, len) in [("user.small", 5), ("user.none", 0), ("user.large", 3000)] {
        if rustix::fs::setxattr(path, name, &noise(len, len as usize), flags).is_err() {
            println!("skipped: needs extended attributes in the folder of temporary files");
            return false;
        }
    }
    true
}

#[test]
fn extended_attributes_are_read() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image"));
    std::fs::create_dir(&source).unwrap();
    // The same set twice: its values are stored once.
    for name in ["first", "second"] {
        std::fs::write(source.join(name), b"x").unwrap();
        if !attributes(&source.join(name)) {
            return;
        }
    }
    std::fs::write(source.join("without"), b"x").unwrap();
    make(&source, &image, &["-xattrs"]);
    let fs = Squashfs::open(file_disk(&image)).unwrap();
    for name in [&b"first"[..], b"second"] {
        let mut found = fs
            .xattrs(fs.lookup(fs.root(), name).unwrap().unwrap())
            .unwrap();
        found.retain(|(name, _)| name.starts_with(b"user."));
        found.sort();
        assert_eq!(found.len(), 3);
        assert!(found[0] == (b"user.large".to_vec(), noise(3000, 3000)));
        assert!(found[1] == (b"user.none".to_vec(), Vec::new()));
        assert!(found[2] == (b"user.small".to_vec(), noise(5, 5)));
    }
    let without = fs.lookup(fs.root(), b"without").unwrap().unwrap();
    let left = fs.xattrs(without).unwrap();
    assert!(left.iter().all(|(name, _)| !name.starts_with(b"user.")));
}

/// A loop mount that ends with it.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn the_kernel_sees_the_same_tree() {
    if !has(&["mksquashfs", "mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image"));
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    fill(&source);
    for compressor in ["gzip", "xz", "zstd", "lz4"] {
        make(&source, &image, &["-comp", compressor]);
        let out = Command::new("mount")
            .args(["-t", "squashfs", "-o", "loop,ro"])
            .args([&image, &at])
            .output()
            .unwrap();
        if !out.status.success() {
            println!("skipped: needs loop mounts of squashfs with {compressor}");
            continue;
        }
        let _mounted = Mount(at.clone());
        let fs = open(file_disk(&image)).unwrap();
        assert_same_tree(&tree(&*fs).unwrap(), &host_tree(&at), compressor);
    }
}

/// A small image whose metadata is not packed, so that fields can be found in it.
fn small() -> Option<Vec<u8>> {
    if !has(TOOLS) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image"));
    std::fs::create_dir_all(source.join("sub/inner")).unwrap();
    std::fs::write(source.join("content"), noise(1, 300_000)).unwrap();
    std::fs::write(source.join("tail"), noise(2, 100)).unwrap();
    std::os::unix::fs::symlink("content", source.join("way")).unwrap();
    make(&source, &image, &["-noI", "-noId", "-noF"]);
    Some(std::fs::read(&image).unwrap())
}

fn refused(bytes: Vec<u8>) -> String {
    let error = Squashfs::open(memory_disk(bytes))
        .and_then(|fs| tree(&fs))
        .unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Corrupt | Kind::Unsupported),
        "{error}"
    );
    assert!(error.offset().is_some(), "{error}");
    error.to_string()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn damage_is_named_with_its_place() {
    let Some(bytes) = small() else { return };
    assert_eq!(
        Squashfs::open(memory_disk(bytes.clone()))
            .and_then(|fs| tree(&fs))
            .unwrap()
            .len(),
        5
    );
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        refused(bytes)
    };
    for (at, value, what) in [
        (0, &b"x"[..], "no squashfs"),
        (12, &[1, 0, 0, 0], "block size"),
        (20, &[99, 0], "compressor 99"),
        (28, &[3, 0], "version 3.0"),
        (40, &[0xff; 7], "larger than its disk"),
        (48, &[0xff; 4], "outside the filesystem"),
        (64, &[0xff; 4], "outside the filesystem"),
        (32, &[0, 0, 0xff, 0xff, 0xff], "past the inodes"),
    ] {
        let error = changed(at, value);
        assert!(error.contains(what), "{error}");
    }
    let (inodes, dirs) = (number(&bytes, 64), number(&bytes, 72));
    assert!(changed(inodes, &[0, 0]).contains("impossible length"));
    assert!(changed(inodes, &[0xff, 0xff]).contains("impossible length"));
    assert!(changed(inodes + 2, &[77]).contains("unknown type 77"));
    assert!(changed(dirs, &[0, 0]).contains("impossible length"));
    let cut = bytes.len() - 4096;
    assert!(refused(bytes[..cut].to_vec()).contains("larger than its disk"));
}

#[test]
fn directories_in_a_ring_are_refused() {
    let Some(mut bytes) = small() else { return };
    let (root, dirs) = (number(&bytes, 32), number(&bytes, 72));
    // The entry of `sub`: offset, inode number, type and length of the name come before it.
    let at = bytes[dirs..]
        .windows(5)
        .position(|part| part == b"\x02\0sub");
    let entry = dirs + at.unwrap() - 6;
    bytes[entry..entry + 2].copy_from_slice(&[(root & 0xff) as u8, (root >> 8 & 0xff) as u8]);
    let error = refused(bytes);
    assert!(error.contains("two places"), "{error}");
}
