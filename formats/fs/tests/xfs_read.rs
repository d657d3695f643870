//! XFS images that mkfs.xfs filled: the tree, the content and the attributes are those put in.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{DiskMut as _, Kind, Overlay};
use rehost_fs::{FileSystem, Xfs};
use support::*;

/// A source folder with a prototype of it for `mkfs.xfs -p`: small and large files, links, and
/// directories in every form.
fn prototype(folder: &Path) -> (Tree, String) {
    let source = folder.join("source");
    std::fs::create_dir_all(&source).unwrap();
    let mut text = String::from("/stand/boot\n1 1\nd--755 0 0\n");
    let mut tree = Tree::new();
    let mut file = |text: &mut String, dir: &str, name: &str, content: &[u8]| {
        let path = source.join(format!("{}{name}", dir.replace('/', "_")));
        std::fs::write(&path, content).unwrap();
        writeln!(text, "{name} ---640 7 8 {}", path.display()).unwrap();
        let seen = Seen {
            kind: 'f',
            mode: 0o640,
            size: Some(content.len() as u64),
            content: sha256(content),
        };
        tree.insert(format!("{dir}{name}").into_bytes(), seen);
    };
    file(&mut text, "", "empty", b"");
    file(&mut text, "", "small", b"a few bytes");
    file(&mut text, "", "large", &noise(3, 3_000_000));
    for (dir, count) in [("few", 3u64), ("some", 40), ("many", 700)] {
        writeln!(text, "{dir} d--750 1 2").unwrap();
        for nth in 0..count {
            let name = format!("file-with-a-rather-long-name-{nth:05}");
            file(
                &mut text,
                &format!("{dir}/"),
                &name,
                &noise(nth, nth as usize % 40),
            );
        }
        writeln!(text, "$").unwrap();
    }
    for dir in ["few", "some", "many"] {
        tree.insert(dir.into(), other('d', 0o750, ""));
    }
    // mkfs.xfs 6.1 itself writes longer ones that xfs_repair rejects: those are the kernel's test.
    let far = "t/".repeat(60);
    for (name, target) in [("near", "small"), ("far", far.as_str())] {
        writeln!(text, "{name} l--777 0 0 {target}").unwrap();
        tree.insert(name.into(), other('l', 0o777, target));
    }
    writeln!(text, "pipe p--600 0 0\ndisk b--660 0 6 8 17\n$").unwrap();
    tree.insert(b"pipe".to_vec(), other('p', 0o600, ""));
    tree.insert(b"disk".to_vec(), other('b', 0o660, ""));
    (tree, text)
}

fn other(kind: char, mode: u16, content: &str) -> Seen {
    Seen {
        kind,
        mode,
        size: None,
        content: content.to_owned(),
    }
}

/// Options of mkfs.xfs that change what lies on the disk.
const SHAPES: &[&[&str]] = &[
    &["-m", "crc=1,reflink=1,rmapbt=1", "-i", "nrext64=1"],
    &[
        "-m",
        "crc=1,bigtime=0",
        "-b",
        "size=1024",
        "-i",
        "nrext64=0",
    ],
    &["-m", "crc=1", "-b", "size=1024", "-n", "size=8192"],
    &["-m", "crc=0", "-n", "ftype=0"],
    &[
        "-m",
        "crc=0",
        "-b",
        "size=512",
        "-n",
        "size=4096",
        "-i",
        "size=256",
    ],
    &["-m", "crc=1", "-n", "version=ci", "-s", "size=4096"],
];

#[test]
fn every_shape_of_mkfs_reads_as_what_was_put_in() {
    if !has(&["mkfs.xfs", "xfs_repair"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (expected, text) = prototype(folder.path());
    let proto = folder.path().join("proto");
    std::fs::write(&proto, text).unwrap();
    for shape in SHAPES {
        let image = folder.path().join("fs.raw");
        mkfs_xfs(&image, shape, Some(&proto));
        run("xfs_repair", &["-n", image.to_str().unwrap()]);
        let fs = Xfs::open(file_disk(&image)).unwrap();
        let ours = tree(&fs).unwrap();
        assert_same_tree(&ours, &expected, &format!("{shape:?}"));
        let identity = fs.identity();
        assert_eq!(
            (identity.kind, identity.label.as_deref(), identity.replayed),
            ("xfs", Some("rehost"), false)
        );
        let (root, name) = (fs.root(), b"disk");
        let disk = fs.lookup(root, name).unwrap().unwrap();
        let about = fs.attributes(disk).unwrap();
        assert_eq!((about.device, about.gid), (Some((8, 17)), 6));
        assert_eq!(fs.lookup(root, b"nothing").unwrap(), None);
        let shouted = fs.lookup(root, b"SMALL").unwrap().is_some();
        assert_eq!(shouted, shape.contains(&"version=ci"), "{shape:?}");
        stored_parts_are_the_content(&fs, &image);
    }
}

/// What `stored` names on the disk is what `read_at` gives.
fn stored_parts_are_the_content(fs: &Xfs, image: &Path) {
    let large = fs.lookup(fs.root(), b"large").unwrap().unwrap();
    let raw = std::fs::read(image).unwrap();
    let mut content = Vec::new();
    for part in fs.stored(large).unwrap() {
        let at = part.disk.unwrap() as usize;
        let len = (part.file.end - part.file.start) as usize;
        content.extend_from_slice(&raw[at..at + len]);
    }
    assert!(content == noise(3, 3_000_000));
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    if !has(&["mkfs.xfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("fs.raw");
    let (log, rt) = (folder.path().join("log"), folder.path().join("rt"));
    for (side, size) in [(&log, 64u64 << 20), (&rt, 64 << 20)] {
        std::fs::File::create(side).unwrap().set_len(size).unwrap();
    }
    let refused = |args: &[&str], kind: Kind, word: &str| {
        mkfs_xfs(&image, args, None);
        let error = Xfs::open(file_disk(&image)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    let log = format!("logdev={},size=64m", log.display());
    refused(&["-l", &log], Kind::Unsupported, "log on another device");
    let rt = format!("rtdev={}", rt.display());
    let quiet = ["-m", "reflink=0,rmapbt=0", "-r", rt.as_str()];
    refused(&quiet, Kind::Unsupported, "realtime section");

    mkfs_xfs(&image, &[], None);
    let changed = |at: u64, bit: u8| {
        let view = Overlay::in_memory(file_disk(&image));
        view.write_at(&[bit], at).unwrap();
        Xfs::open(Arc::new(view)).unwrap_err()
    };
    let error = changed(127, 1);
    assert_eq!(error.structure(), Some("superblock"));
    assert!(
        error.to_string().contains("checksum does not match"),
        "{error}"
    );
    let file = std::fs::OpenOptions::new().write(true).open(&image);
    file.unwrap().set_len(40 << 20).unwrap();
    let error = Xfs::open(file_disk(&image)).unwrap_err();
    assert!(
        error.to_string().contains("larger than its disk"),
        "{error}"
    );
}

#[test]
fn damaged_directory_and_inode_are_named_and_the_rest_is_read() {
    if !has(&["mkfs.xfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_, text) = prototype(folder.path());
    let proto = folder.path().join("proto");
    std::fs::write(&proto, text).unwrap();
    let image = folder.path().join("fs.raw");
    mkfs_xfs(&image, SHAPES[0], Some(&proto));
    let mut raw = std::fs::read(&image).unwrap();
    let fs = Xfs::open(file_disk(&image)).unwrap();
    let many = fs.lookup(fs.root(), b"many").unwrap().unwrap();
    // The inode of `many`, and every data block of a directory but the root's own.
    let blocks: Vec<usize> = (0..raw.len() / 4096)
        .map(|block| block * 4096)
        .filter(|at| raw[*at..].starts_with(b"XDD3"))
        .collect();
    assert!(blocks.len() > 3);
    raw[blocks[1] + 100] ^= 0x40;
    let fs = Xfs::open(memory_disk(raw)).unwrap();
    let error = fs.read_dir(many).unwrap_err();
    assert_eq!(error.structure(), Some("directory block"));
    assert!(error.to_string().contains("checksum"), "{error}");
    let some = fs.lookup(fs.root(), b"some").unwrap().unwrap();
    assert_eq!(fs.read_dir(some).unwrap().len(), 40);
}
