//! XFS against the kernel: what a mounted filesystem holds is what we read, clean and after a crash.
//!
//! Needs root and loop mounts; says so where there are none.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rehost_block::{Disk as _, Overlay};
use rehost_fs::{FileSystem, FileSystemMut as _, Xfs, XfsMut};
use support::*;

/// A loop mount that ends with it.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said aloud, where this machine cannot mount.
    fn new(image: &Path, at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let out = Command::new("mount")
            .args(["-t", "xfs", "-o", options])
            .args([image, at])
            .output()
            .unwrap();
        if out.status.success() {
            return Some(Self(at.to_owned()));
        }
        println!(
            "skipped: needs loop mounts of xfs: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

const TOOLS: &[&str] = &["mkfs.xfs", "xfs_io", "xfs_repair", "cp", "mount", "umount"];

/// Everything that a filesystem of this version takes.
fn fill(root: &Path, shared: bool) {
    let path = |name: &str| root.join(name);
    std::fs::create_dir(path("big")).unwrap();
    for nth in 0..5000 {
        std::fs::write(path(&format!("big/name-{nth}")), b"").unwrap();
    }
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    for nth in 0..400u64 {
        sparse
            .write_all_at(&noise(nth, 5000), nth * 100_000)
            .unwrap();
    }
    sparse.set_len(50_000_000).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    std::fs::write(path("prealloc"), noise(7, 10_000)).unwrap();
    run(
        "xfs_io",
        &[
            "-c",
            "falloc -k 0 1m",
            "-c",
            "falloc 2m 1m",
            &text(&path("prealloc")),
        ],
    );
    std::fs::write(path("base"), noise(8, 1_000_000)).unwrap();
    if shared {
        std::fs::write(path("shared"), b"").unwrap();
        let reflink = format!("reflink {}", text(&path("base")));
        run("xfs_io", &["-c", &reflink, &text(&path("shared"))]);
        run(
            "xfs_io",
            &["-c", "pwrite -q 40000 5000", &text(&path("shared"))],
        );
    }
    std::os::unix::fs::symlink("x/".repeat(511), path("link")).unwrap();
    attributes(&path("small-attrs"), 3, 20);
    attributes(&path("many-attrs"), 300, 100);
    attributes(&path("long-attrs"), 4, 30_000);
}

fn attributes(path: &Path, count: usize, len: usize) {
    std::fs::write(path, b"x").unwrap();
    for nth in 0..count {
        let name = format!("{}.attribute-{nth}", ["user", "trusted"][nth % 2]);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, name, &noise(nth as u64, len), flags).unwrap();
    }
}

/// A file's attributes as the kernel gives them and as we do.
fn assert_same_attributes(fs: &Xfs, root: &Path, name: &str) {
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
    let inode = fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap();
    let mut ours = fs.xattrs(inode).unwrap();
    theirs.sort();
    ours.sort();
    assert!(!ours.is_empty());
    assert!(ours == theirs, "{name}: {} {}", ours.len(), theirs.len());
}

fn compare(image: &Path, root: &Path, what: &str) -> Xfs {
    let fs = Xfs::open(file_disk(image)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let ours = tree(&fs).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_same_tree(&ours, &host_tree(root), what);
    for name in ["small-attrs", "many-attrs", "long-attrs"] {
        assert_same_attributes(&fs, root, name);
    }
    fs
}

#[test]
fn a_filesystem_that_the_kernel_wrote_reads_as_the_kernel_reads_it() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    for (shape, shared) in [
        (&["-m", "crc=1,reflink=1"][..], true),
        (&["-m", "crc=0"], false),
    ] {
        mkfs_xfs(&image, shape, None);
        let Some(mounted) = Mount::new(&image, &at, "loop") else {
            return;
        };
        fill(&at, shared);
        drop(mounted);
        let Some(_mounted) = Mount::new(&image, &at, "loop,ro") else {
            return;
        };
        let fs = compare(&image, &at, &format!("{shape:?}"));
        assert!(!fs.identity().replayed);
        let sparse = fs.lookup(fs.root(), b"sparse").unwrap().unwrap();
        let parts = fs.stored(sparse).unwrap();
        assert!(parts.iter().filter(|part| part.disk.is_none()).count() >= 400);
        assert_eq!(parts.last().unwrap().file.end, 50_000_000);
    }
}

#[test]
fn a_crashed_filesystem_reads_as_the_kernel_leaves_it_after_recovery() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    let crashed = folder.path().join("crashed.raw");
    for (shape, shared) in [
        (&["-m", "crc=1,reflink=1"][..], true),
        (&["-m", "crc=1,reflink=0", "-b", "size=1024"], false),
        (&["-m", "crc=1,rmapbt=1,reflink=1"], true),
    ] {
        mkfs_xfs(&image, shape, None);
        let Some(mounted) = Mount::new(&image, &at, "loop") else {
            return;
        };
        fill(&at, shared);
        for nth in (0..5000).step_by(3) {
            std::fs::remove_file(at.join(format!("big/name-{nth}"))).unwrap();
        }
        std::fs::create_dir(at.join("dir")).unwrap();
        for nth in 0..300u64 {
            std::fs::write(at.join(format!("dir/{nth}")), noise(nth, 3000)).unwrap();
        }
        std::fs::rename(at.join("base"), at.join("dir/base")).unwrap();
        // `-f` writes the log out first, and nothing else afterwards.
        run("xfs_io", &["-x", "-c", "shutdown -f", at.to_str().unwrap()]);
        drop(mounted);
        std::fs::copy(&image, &crashed).unwrap();
        // The kernel recovers its copy; we read ours.
        let Some(_mounted) = Mount::new(&image, &at, "loop") else {
            return;
        };
        let fs = compare(&crashed, &at, &format!("crashed {shape:?}"));
        assert!(fs.identity().replayed);
        println!("replayed {shape:?}");
        drop(fs);
        // Onto the disk, and then written to.
        let view = Arc::new(Overlay::in_memory(file_disk(&crashed)));
        let fs = XfsMut::open(view.clone()).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
        assert!(fs.identity().replayed);
        let replayed = folder.path().join("replayed.raw");
        assert_sound(&crashed, &view, &replayed, &format!("replayed {shape:?}"));
        assert_same_tree(&tree(&fs).unwrap(), &host_tree(&at), "replayed");
        fs.create(fs.root(), b"new", 0o644, (0, 0), &noise(1, 9000))
            .unwrap();
        assert_sound(&crashed, &view, &replayed, &format!("written {shape:?}"));
        assert!(!Xfs::open(file_disk(&replayed)).unwrap().identity().replayed);
    }
}

/// `xfs_repair -n` finds nothing in what `view` makes of the image at `base`.
fn assert_sound(base: &Path, view: &Overlay, path: &Path, when: &str) {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("cp", &["--sparse=always", &text(base), &text(path)]);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for range in view.written() {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        view.read_at(&mut bytes, range.start).unwrap();
        file.write_all_at(&bytes, range.start).unwrap();
    }
    let out = Command::new("xfs_repair")
        .arg("-n")
        .arg(path)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(
        out.status.code() == Some(0) && !said.contains("ALERT"),
        "{when}: {said}"
    );
}
