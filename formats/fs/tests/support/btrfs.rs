//! Btrfs images for tests: made by mkfs.btrfs, filled by the kernel where it can be asked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::*;

/// A sparse image made by mkfs.btrfs with `args`.
pub fn mkfs(path: &Path, args: &[&str]) {
    mkfs_many(&[path], args);
}

/// A filesystem over several images.
pub fn mkfs_many(paths: &[&Path], args: &[&str]) {
    let mut all = vec!["-q", "-f", "-L", "rehost"];
    all.extend(args);
    // With everything twice, mkfs asks for more.
    let mebibytes = if args.ends_with(&["-d", "dup"]) {
        256
    } else {
        128
    };
    for path in paths {
        let _ = fs::remove_file(path);
        let file = fs::File::create(path).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        all.push(path.to_str().unwrap());
    }
    run("mkfs.btrfs", &all);
}

/// `btrfs check --check-data-csum` finds nothing.
pub fn assert_checked(path: &Path, when: &str) {
    let out = Command::new("btrfs")
        .args(["check", "--readonly", "--check-data-csum"])
        .arg(path)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "btrfs check {when}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A mount over loop devices that ends with it.
pub struct Mount {
    at: PathBuf,
    loops: Vec<String>,
}

impl Mount {
    /// `None`, said aloud, where this machine cannot mount.
    pub fn new(images: &[&Path], at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Self {
            at: at.to_owned(),
            loops: Vec::new(),
        };
        let skipped = |why: &[u8]| {
            let why = String::from_utf8_lossy(why);
            println!("skipped: needs loop mounts of btrfs: {}", why.trim());
        };
        for image in images {
            let out = Command::new("losetup")
                .args(["--find", "--show"])
                .arg(image)
                .output()
                .unwrap();
            if !out.status.success() {
                skipped(&out.stderr);
                return None;
            }
            let name = String::from_utf8(out.stdout).unwrap();
            mount.loops.push(name.trim().to_owned());
        }
        let mut options = options.to_owned();
        for name in mount.loops.iter().skip(1) {
            options.push_str(&format!(",device={name}"));
        }
        let out = Command::new("mount")
            .args(["-t", "btrfs", "-o", &options, &mount.loops[0]])
            .arg(at)
            .output()
            .unwrap();
        if out.status.success() {
            return Some(mount);
        }
        skipped(&out.stderr);
        None
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run("mount", &["-o", &options, self.at.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).output();
        for name in &self.loops {
            // The kernel remembers devices by the filesystem's UUID, which copies share.
            let forget = ["device", "scan", "--forget", name];
            let _ = Command::new("btrfs").args(forget).output();
            let _ = Command::new("losetup").args(["--detach", name]).output();
        }
    }
}

pub const TOOLS: &[&str] = &["mkfs.btrfs", "btrfs", "mount", "umount", "losetup", "cp"];

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that compress, and differ by seed.
pub fn words(seed: u64, len: usize) -> Vec<u8> {
    let noise = noise(seed, len);
    let mut made = Vec::with_capacity(len + 16);
    for byte in noise {
        let word = [&b"kernel "[..], b"root ", b"boot/grub ", b"a", b"zzzzzzzz"];
        made.extend_from_slice(word[usize::from(byte) % word.len()]);
        if made.len() >= len {
            break;
        }
    }
    made.truncate(len);
    made
}

pub fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Files without whatever needs the kernel.
pub fn fill_plain(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir(path("dir")).unwrap();
    for nth in 0..300u64 {
        fs::write(
            path(&format!("dir/file-{nth}")),
            noise(nth, (nth * 37) as usize),
        )
        .unwrap();
    }
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("small"), b"a text of one line\n").unwrap();
    fs::write(path("big"), noise(1, 5_000_001)).unwrap();
    std::os::unix::fs::symlink("dir/file-7", path("link")).unwrap();
}

/// Everything that the kernel makes.
pub fn fill(root: &Path, mount: &Mount) {
    let path = |name: &str| root.join(name);
    fill_plain(root);
    for algorithm in ["zlib", "lzo", "zstd"] {
        mount.remount(&format!("compress-force={algorithm}"));
        fs::write(path(&format!("packed-{algorithm}")), words(3, 700_001)).unwrap();
        fs::write(path(&format!("inline-{algorithm}")), words(4, 1500)).unwrap();
        // What does not compress well, and a hole.
        let file = fs::File::create(path(&format!("mixed-{algorithm}"))).unwrap();
        file.write_all_at(&noise(5, 300_000), 0).unwrap();
        file.write_all_at(&words(6, 200_000), 1 << 20).unwrap();
        file.write_all_at(&[b'z'; 150_000], 5_000_000).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(b"patch", 1_100_000).unwrap();
    }
    mount.remount("compress=no");
    let sparse = fs::File::create(path("sparse")).unwrap();
    for nth in 0..100u64 {
        sparse
            .write_all_at(&noise(nth, 5000), nth * 100_000)
            .unwrap();
    }
    sparse.set_len(50_000_000).unwrap();
    let prealloc = fs::File::create(path("prealloc")).unwrap();
    prealloc.write_all_at(&noise(7, 10_000), 0).unwrap();
    let none = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&prealloc, none, 0, 1 << 20).unwrap();
    rustix::fs::fallocate(&prealloc, none, 2 << 20, 1 << 20).unwrap();
    prealloc
        .write_all_at(&noise(8, 10_000), (2 << 20) + 8192)
        .unwrap();
    let reflink = |from: &str, to: &str| {
        let (from, to) = (path(from), path(to));
        run("cp", &["--reflink=always", text(&from), text(&to)]);
    };
    reflink("big", "shared");
    fs::OpenOptions::new()
        .write(true)
        .open(path("shared"))
        .unwrap()
        .write_all_at(&noise(9, 50_000), 1_000_000)
        .unwrap();
    fs::create_dir(path("many")).unwrap();
    for nth in 0..1500 {
        fs::write(path(&format!("many/a-name-of-some-length-{nth}")), b"").unwrap();
    }
    fs::write(path("linked"), b"linked").unwrap();
    for nth in 0..200 {
        let name = format!("many/{}-{nth}", "hard-link".repeat(10));
        fs::hard_link(path("linked"), path(&name)).unwrap();
    }
    attribute(&path("linked"), "user.short", b"value");
    attribute(&path("linked"), "user.long", &noise(11, 3000));
    attribute(&path("linked"), "trusted.empty", b"");
    std::os::unix::fs::symlink("x/".repeat(511), path("long-link")).unwrap();
    let subvolume = |verb: &[&str]| {
        let mut all = vec!["subvolume"];
        all.extend(verb);
        run("btrfs", &all);
    };
    subvolume(&["create", text(&path("sub"))]);
    fs::write(path("sub/inside"), noise(12, 70_000)).unwrap();
    subvolume(&["create", text(&path("dir/deep"))]);
    fs::write(path("dir/deep/file"), b"deep").unwrap();
    subvolume(&["create", text(&path("sub/inner"))]);
    fs::write(path("sub/inner/file"), b"inner").unwrap();
    subvolume(&["snapshot", text(&path("sub")), text(&path("snap"))]);
    subvolume(&["snapshot", "-r", text(&path("dir/deep")), text(&path("ro"))]);
    fs::write(path("sub/inside"), noise(13, 10_000)).unwrap();
    subvolume(&["create", text(&path("gone"))]);
    subvolume(&["delete", text(&path("gone"))]);
}

/// A file's attributes as the kernel gives them and as we do.
pub fn assert_same_attributes(fs: &dyn rehost_fs::FileSystem, root: &Path, name: &str) {
    let path = root.join(name);
    let mut list = vec![0; 64 << 10];
    let len = rustix::fs::listxattr(&path, &mut list).unwrap();
    let mut theirs: Vec<(Vec<u8>, Vec<u8>)> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = rustix::fs::getxattr(&path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    let inode = rehost_fs::path::find(fs, name.as_bytes(), rehost_fs::path::LastLink::Keep)
        .unwrap()
        .unwrap();
    let mut ours = fs.xattrs(inode).unwrap();
    theirs.sort();
    ours.sort();
    assert!(!ours.is_empty());
    assert!(ours == theirs, "{name}: {} {}", ours.len(), theirs.len());
}

/// Links, owners, sizes and times of every file as the kernel gives them and as we do.
pub fn assert_same_stat(fs: &dyn rehost_fs::FileSystem, root: &Path, ours: &Tree) {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    for name in ours.keys() {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        let theirs = fs::symlink_metadata(&path).unwrap();
        let inode = rehost_fs::path::find(fs, name, rehost_fs::path::LastLink::Keep)
            .unwrap()
            .unwrap();
        let mine = fs.attributes(inode).unwrap();
        // Of a subvolume that is not there the kernel makes up a time.
        let mtime = if theirs.ino() == 2 {
            mine.mtime
        } else {
            theirs.mtime()
        };
        assert_eq!(
            (
                mine.uid,
                mine.gid,
                mine.size,
                u64::from(mine.links),
                mine.mtime
            ),
            (
                theirs.uid(),
                theirs.gid(),
                theirs.len(),
                theirs.nlink(),
                mtime
            ),
            "{}",
            path.display()
        );
    }
}
