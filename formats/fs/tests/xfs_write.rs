//! What the writer of XFS makes, judged by xfs_repair, our own reader and, where allowed, the kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::doubles::Faulty;
use rehost_block::{Disk, DiskMut, File, Kind, Located, Result, StorageDisk, StorageMut as _};
use rehost_fs::{FileSystem, FileSystemMut, Inode, Xfs, XfsMut};
use support::*;

/// Options of mkfs.xfs that change what has to be written.
const SHAPES: &[&[&str]] = &[
    &[],
    &["-m", "crc=1,rmapbt=1,reflink=1"],
    &["-m", "crc=1,rmapbt=1", "-b", "size=1024", "-d", "agcount=2"],
    &["-m", "crc=1,finobt=0,reflink=0,bigtime=0", "-i", "sparse=0"],
    &[
        "-m",
        "crc=1,inobtcount=1",
        "-i",
        "nrext64=1,size=1024",
        "-s",
        "size=4096",
    ],
    &["-b", "size=1024", "-n", "size=4096", "-l", "su=32k"],
];

/// An image that is written in place; the writes from the n-th on fail.
#[derive(Debug)]
struct OnFile {
    storage: Arc<Faulty<File>>,
    reads: StorageDisk,
}

impl OnFile {
    fn open(path: &Path, writes: u64) -> Arc<Self> {
        let storage = Arc::new(Faulty::after(File::open_mut(path).unwrap(), writes));
        let reads = StorageDisk::new(storage.clone());
        Arc::new(Self { storage, reads })
    }
}

impl Disk for OnFile {
    fn size(&self) -> u64 {
        self.reads.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.reads.locate(offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.reads.read_at(buf, offset)
    }
}

impl DiskMut for OnFile {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.storage.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.storage.zero_at(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.storage.sync()
    }
}

/// An image in a folder of its own.
struct Image {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    /// Filled from `proto`, lines of an mkfs prototype.
    fn new(args: &[&str], proto: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs.raw");
        let text = format!("/stand/boot\n1 1\nd--755 0 0\n{proto}$\n");
        let file = folder.path().join("proto");
        std::fs::write(&file, text).unwrap();
        mkfs_xfs(&path, args, Some(&file));
        Self { folder, path }
    }

    fn open(&self) -> XfsMut {
        XfsMut::open(OnFile::open(&self.path, u64::MAX)).unwrap()
    }

    /// A copy that takes no more room than what is in it.
    fn copy(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let (from, to) = (self.path.to_str().unwrap(), path.to_str().unwrap());
        run("cp", &["--sparse=always", from, to]);
        path
    }
}

/// `xfs_repair -n` finds nothing, and the log is clean.
fn assert_sound(path: &Path, when: &str) {
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
        "xfs_repair {when}: {said}"
    );
}

fn inode_of(fs: &dyn FileSystem, path: &str) -> Inode {
    rehost_fs::path::find(fs, path.as_bytes(), rehost_fs::path::LastLink::Keep)
        .unwrap()
        .unwrap_or_else(|| panic!("{path} is not there"))
}

fn content(fs: &dyn FileSystem, inode: Inode) -> Vec<u8> {
    let size = fs.attributes(inode).unwrap().size;
    let mut bytes = vec![0; size as usize];
    assert_eq!(fs.read_at(inode, &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// A loop mount that ends with it; `None`, said aloud, where this machine cannot mount.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(image: &Path, options: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "xfs", "-o", options])
            .args([image, at.path()])
            .output()
            .unwrap();
        if out.status.success() {
            return Some(Self(at));
        }
        println!(
            "skipped: needs loop mounts of xfs: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        None
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Another thread's child may hold a file for as long as it takes to start.
        for _ in 0..100 {
            let out = Command::new("umount").arg(self.0.path()).output();
            if out.is_ok_and(|out| out.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

const TOOLS: &[&str] = &["mkfs.xfs", "xfs_repair", "cp"];

/// Files in a prototype, all with the content of one.
fn proto_files(folder: &Path, dir: &str, count: usize, len: usize) -> String {
    let source = folder.join(format!("source-{len}"));
    std::fs::write(&source, noise(9, len)).unwrap();
    let mut text = format!("{dir} d--755 0 0\n");
    for nth in 0..count {
        writeln!(text, "name-number-{nth:05} ---644 0 0 {}", source.display()).unwrap();
    }
    text + "$\n"
}

#[test]
fn every_operation_leaves_a_clean_filesystem() {
    if !has(TOOLS) {
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    for shape in SHAPES {
        let proto = proto_files(sources.path(), "there", 3, 5000);
        let image = Image::new(shape, &proto);
        let fs = image.open();
        let judge = |step: &str| assert_sound(&image.path, &format!("{shape:?}: {step}"));
        let root = fs.root();
        let old = inode_of(&fs, "there/name-number-00000");
        fs.overwrite(old, &noise(1, 5000)).unwrap();
        judge("overwrite");
        fs.replace(old, &noise(2, 5100)).unwrap();
        judge("replace by a bit more");
        fs.replace(old, b"short").unwrap();
        let small = fs
            .create(root, b"small", 0o640, (1000, 70_000), b"hello")
            .unwrap();
        judge("create small");
        let large = fs
            .create(root, b"large", 0o755, (0, 0), &noise(3, 3_000_000))
            .unwrap();
        fs.create(root, b"empty", 0o644, (0, 0), b"").unwrap();
        let dir = fs.create_dir(root, b"dir", 0o750, (5, 6)).unwrap();
        let sub = fs.create_dir(dir, b"sub", 0o755, (0, 0)).unwrap();
        fs.create_link(sub, b"link", b"../../small", (0, 0))
            .unwrap();
        judge("directories and links");
        let label = b"system_u:object_r:etc_t:s0\0".to_vec();
        fs.set_xattr(small, b"security.selinux", &label).unwrap();
        fs.set_xattr(dir, b"user.empty", b"").unwrap();
        fs.set_xattr(small, b"user.note", &[7; 60]).unwrap();
        judge("attributes");
        let all = fs.xattrs(small).unwrap();
        assert_eq!(all.len(), 2);
        assert!(all.contains(&(b"security.selinux".to_vec(), label)));
        fs.replace(small, &noise(4, 700_000)).unwrap();
        fs.replace(large, &noise(5, 10_000)).unwrap();
        judge("replace");
        let about = fs.attributes(small).unwrap();
        assert_eq!((about.mode, about.uid, about.gid), (0o640, 1000, 70_000));
        assert_eq!(fs.xattrs(small).unwrap().len(), 2);
        assert_eq!(fs.remove(root, b"dir").unwrap_err().kind(), Kind::Usage);
        fs.remove(sub, b"link").unwrap();
        fs.remove(dir, b"sub").unwrap();
        fs.remove(root, b"large").unwrap();
        judge("remove");
        assert!(fs.attributes(large).is_err());
        for bad in [&b"dir"[..], b"a/b", b"", b"..", &[b'x'; 256]] {
            let error = fs.create(root, bad, 0, (0, 0), b"").unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{error}");
        }
        let again = Xfs::open(file_disk(&image.path)).unwrap();
        assert!(!again.identity().replayed);
        assert_eq!(again.identity().free, fs.identity().free);
        assert_eq!(tree(&again).unwrap(), tree(&fs).unwrap(), "{shape:?}");
        assert!(content(&again, small) == noise(4, 700_000));
        assert_eq!(content(&again, old), b"short");
    }
}

#[test]
fn directories_grow_from_the_inode_to_an_index_and_shrink_again() {
    if !has(TOOLS) {
        return;
    }
    for shape in [SHAPES[0], SHAPES[2], SHAPES[5]] {
        let image = Image::new(shape, "");
        let fs = image.open();
        let dir = fs.create_dir(fs.root(), b"dir", 0o755, (0, 0)).unwrap();
        let name = |nth: usize| format!("a name of some length {nth}");
        let mut made = 0;
        let error = loop {
            // Links need no blocks, but inodes; hard links are not made here.
            match fs.create(dir, name(made).as_bytes(), 0o644, (0, 0), b"") {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
            if [1, 3, 4, 8, 9, 20, 30].contains(&made) {
                assert_sound(&image.path, &format!("{shape:?}: {made} names"));
            }
        };
        // Refused by name, and nothing half done.
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        println!("{shape:?}: {made} names, then: {error}");
        assert!(made > 30, "{made}: {error}");
        assert_sound(&image.path, &format!("{shape:?}: {made} names"));
        assert_eq!(fs.read_dir(dir).unwrap().len(), made);
        for nth in (0..made).filter(|nth| nth % 4 != 0) {
            fs.remove(dir, name(nth).as_bytes()).unwrap();
        }
        assert_sound(&image.path, &format!("{shape:?}: names removed"));
        for nth in (0..made).filter(|nth| nth % 4 == 0) {
            fs.remove(dir, name(nth).as_bytes()).unwrap();
        }
        assert_sound(&image.path, &format!("{shape:?}: emptied"));
        fs.remove(fs.root(), b"dir").unwrap();
        assert_sound(&image.path, &format!("{shape:?}: gone"));
    }
}

#[test]
fn names_go_into_every_form_of_directory_that_mkfs_makes() {
    if !has(TOOLS) {
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    for (shape, counts) in [
        (&["-m", "crc=1,rmapbt=1"][..], [30usize, 200, 700, 1500]),
        (&["-b", "size=1024"], [10, 40, 120, 400]),
        (&["-b", "size=1024", "-n", "size=4096"], [30, 200, 700, 900]),
    ] {
        let mut proto = String::new();
        for count in counts {
            proto += &proto_files(sources.path(), &format!("d{count}"), count, 0);
        }
        let image = Image::new(shape, &proto);
        let fs = image.open();
        for count in counts {
            let what = format!("{shape:?} {count}");
            let dir = inode_of(&fs, &format!("d{count}"));
            let mut added = 0;
            for nth in 0..6 {
                let name = format!("added {nth}");
                match fs.create(dir, name.as_bytes(), 0o600, (0, 0), b"new") {
                    Ok(_) => added += 1,
                    Err(error) => {
                        println!("{what}: {error}");
                        assert_eq!(error.kind(), Kind::Unsupported, "{what}: {error}");
                    }
                }
            }
            assert_sound(&image.path, &what);
            let mut removed = 0;
            for nth in [0, 1, 5, 7, 8, 9] {
                let name = format!("name-number-{nth:05}");
                match fs.remove(dir, name.as_bytes()) {
                    Ok(()) => removed += 1,
                    Err(error) => {
                        println!("{what}: {error}");
                        assert_eq!(error.kind(), Kind::Unsupported, "{what}: {error}");
                    }
                }
            }
            assert_sound(&image.path, &what);
            println!("{what}: {added} added, {removed} removed");
            assert!(added > 0 && removed > 0, "{what}");
            assert_eq!(fs.read_dir(dir).unwrap().len(), count + added - removed);
        }
    }
}

#[test]
fn the_kernel_reads_and_extends_what_was_written() {
    if !has(TOOLS) || !has(&["mount", "umount"]) {
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    for shape in SHAPES {
        let proto = proto_files(sources.path(), "there", 40, 3000);
        let image = Image::new(shape, &proto);
        let fs = image.open();
        let there = inode_of(&fs, "there");
        for nth in 0..12u64 {
            let name = format!("one more file called {nth}");
            let bytes = noise(nth, nth as usize * 3000);
            fs.create(there, name.as_bytes(), 0o644, (1, 2), &bytes)
                .unwrap();
        }
        let link = fs.create_link(there, b"link", b"name-number-00001", (0, 0));
        let note = b"a note".to_vec();
        fs.set_xattr(there, b"user.note", &note).unwrap();
        fs.create_dir(there, b"sub", 0o700, (3, 3)).unwrap();
        let removed = fs.remove(there, b"name-number-00007");
        let file = inode_of(&fs, "there/name-number-00009");
        let replaced = fs.replace(file, &noise(9, 90_000));
        for done in [removed, replaced] {
            // Trees of 1 KiB blocks, filled by mkfs, are where one record less is too few.
            if let Err(error) = done {
                println!("{shape:?}: {error}");
                assert_eq!(error.kind(), Kind::Unsupported, "{error}");
            }
        }
        link.unwrap();
        let ours = tree(&fs).unwrap();
        drop(fs);
        let Some(mounted) = Mount::new(&image.path, "loop") else {
            return;
        };
        assert_same_tree(&host_tree(mounted.0.path()), &ours, &format!("{shape:?}"));
        let mut value = vec![0; 100];
        let len = rustix::fs::getxattr(mounted.at("there"), "user.note", &mut value).unwrap();
        assert_eq!(value[..len], note);
        // The kernel goes on where we stopped.
        for nth in 0..100 {
            let name = format!("there/sub/the kernel's own file {nth}");
            std::fs::write(mounted.at(&name), noise(nth, 5000)).unwrap();
        }
        for nth in 10..30 {
            std::fs::remove_file(mounted.at(&format!("there/name-number-{nth:05}"))).unwrap();
        }
        std::fs::remove_file(mounted.at("there/one more file called 7")).unwrap();
        let theirs = host_tree(mounted.0.path());
        drop(mounted);
        assert_sound(&image.path, &format!("{shape:?}: after the kernel"));
        // And we where it stopped.
        let fs = image.open();
        assert_same_tree(&tree(&fs).unwrap(), &theirs, &format!("{shape:?}"));
        fs.create(fs.root(), b"last", 0o644, (0, 0), &noise(1, 10_000))
            .unwrap();
        assert_sound(&image.path, &format!("{shape:?}: after all"));
    }
}

/// One operation of those that are interrupted.
type Operation = fn(&XfsMut) -> Result<()>;

const OPERATIONS: &[(&str, Operation)] = &[
    ("create", |fs| {
        let there = inode_of(fs, "there");
        fs.create(there, b"made", 0o644, (0, 0), &noise(1, 20_000))
            .map(drop)
    }),
    ("create a directory", |fs| {
        fs.create_dir(fs.root(), b"dir", 0o755, (0, 0)).map(drop)
    }),
    ("replace", |fs| {
        let file = inode_of(fs, "there/name-number-00001");
        fs.replace(file, &noise(2, 9000))
    }),
    ("remove", |fs| {
        fs.remove(inode_of(fs, "there"), b"name-number-00002")
    }),
    ("set an attribute", |fs| {
        let file = inode_of(fs, "there/name-number-00001");
        fs.set_xattr(file, b"user.a", &[1; 20])
    }),
];

#[test]
fn a_write_that_fails_leaves_the_old_state_or_the_new_one() {
    if !has(TOOLS) {
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    for (shape, kernel) in [(SHAPES[1], true), (SHAPES[5], false)] {
        let proto = proto_files(sources.path(), "there", 40, 3000);
        let image = Image::new(shape, &proto);
        // No inode is left, so that the next one needs a new chunk.
        let sb = std::fs::read(&image.path).unwrap();
        let free = u64::from_be_bytes(sb[136..144].try_into().unwrap());
        let fs = image.open();
        for nth in 0..free {
            fs.create(
                fs.root(),
                format!("filler {nth}").as_bytes(),
                0,
                (0, 0),
                b"",
            )
            .unwrap();
        }
        drop(fs);
        let all = |path: &Path| {
            let fs = Xfs::open(file_disk(path)).unwrap();
            let file = inode_of(&fs, "there/name-number-00001");
            (tree(&fs).unwrap(), fs.xattrs(file).unwrap())
        };
        let old = all(&image.path);
        let operations = if kernel { OPERATIONS } else { &OPERATIONS[..1] };
        for (what, operation) in operations {
            let whole = image.copy("new.raw");
            operation(&XfsMut::open(OnFile::open(&whole, u64::MAX)).unwrap()).unwrap();
            let new = all(&whole);
            assert!(old != new, "{what}");
            let mut seen_new = false;
            for writes in 0.. {
                let torn = image.copy("torn.raw");
                let fs = XfsMut::open(OnFile::open(&torn, writes)).unwrap();
                let done = operation(&fs);
                if let Err(error) = &done {
                    assert_eq!(error.kind(), Kind::Io, "{what}: {error}");
                    let more = fs.create(fs.root(), b"more", 0, (0, 0), b"");
                    assert!(more.unwrap_err().to_string().contains("halfway"));
                }
                drop(fs);
                let state = format!("{shape:?} {what} after {writes} writes");
                let seen = all(&torn);
                assert!(seen == old || seen == new, "{state}");
                assert!(!seen_new || seen == new, "{state}: back to the old state");
                seen_new = seen == new;
                if kernel && let Some(mounted) = Mount::new(&torn, "loop") {
                    let theirs = host_tree(mounted.0.path());
                    assert_same_tree(&theirs, &seen.0, &state);
                    drop(mounted);
                } else {
                    drop(XfsMut::open(OnFile::open(&torn, u64::MAX)).unwrap());
                }
                assert_sound(&torn, &state);
                assert!(all(&torn) == seen, "{state}: recovered to another state");
                if done.is_ok() {
                    println!("{shape:?} {what}: {writes} writes");
                    assert!(writes > 3, "{writes}");
                    break;
                }
            }
            assert!(seen_new);
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name_and_changes_nothing() {
    if !has(TOOLS) || !has(&["mount", "umount", "xfs_io"]) {
        return;
    }
    let image = Image::new(&["-m", "crc=1,reflink=1"], "");
    let Some(mounted) = Mount::new(&image.path, "loop") else {
        return;
    };
    let text = |name: &str| mounted.at(name).to_str().unwrap().to_owned();
    std::fs::write(mounted.at("base"), noise(1, 50_000)).unwrap();
    run("cp", &["--reflink=always", &text("base"), &text("clone")]);
    run(
        "xfs_io",
        &["-f", "-c", "falloc 0 50000", &text("unwritten")],
    );
    run(
        "xfs_io",
        &[
            "-f",
            "-c",
            "truncate 50000",
            "-c",
            "pwrite -q 40000 10000",
            &text("holes"),
        ],
    );
    std::fs::write(mounted.at("fixed"), noise(1, 50_000)).unwrap();
    run("xfs_io", &["-c", "chattr +i", &text("fixed")]);
    std::fs::write(mounted.at("attributes"), b"x").unwrap();
    rustix::fs::setxattr(
        mounted.at("attributes"),
        "user.long",
        &[1; 1000],
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    drop(mounted);
    let before = std::fs::read(&image.path).unwrap();
    let fs = image.open();
    let refused = |name: &str, word: &str| {
        let inode = inode_of(&fs, name);
        let error = fs.overwrite(inode, &[7; 50_000]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains(word), "{name}: {error}");
    };
    refused("base", "shared");
    refused("clone", "shared");
    refused("unwritten", "unwritten");
    refused("holes", "hole");
    refused("fixed", "immutable");
    let error = fs
        .overwrite(inode_of(&fs, "attributes"), b"too long")
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    for (what, error) in [
        (
            "shared",
            fs.replace(inode_of(&fs, "clone"), b"new").unwrap_err(),
        ),
        ("shared", fs.remove(fs.root(), b"clone").unwrap_err()),
        ("immutable", fs.remove(fs.root(), b"fixed").unwrap_err()),
        (
            "blocks of their own",
            fs.remove(fs.root(), b"attributes").unwrap_err(),
        ),
        (
            "blocks of their own",
            fs.set_xattr(inode_of(&fs, "attributes"), b"user.b", b"c")
                .unwrap_err(),
        ),
        (
            "room",
            fs.set_xattr(
                inode_of(&fs, "base"),
                b"user.an attribute with quite a long name",
                &[1; 250],
            )
            .unwrap_err(),
        ),
        (
            "namespace",
            fs.set_xattr(inode_of(&fs, "base"), b"system.posix_acl_access", &[1; 9])
                .unwrap_err(),
        ),
        (
            "does not fit",
            fs.create_link(fs.root(), b"far", &[b'x'; 500], (0, 0))
                .unwrap_err(),
        ),
        (
            "full",
            fs.create(fs.root(), b"big", 0, (0, 0), &vec![1; 400 << 20])
                .unwrap_err(),
        ),
    ] {
        assert!(error.to_string().contains(what), "{error}");
    }
    drop(fs);
    assert!(std::fs::read(&image.path).unwrap() == before);
    // A hole and blocks that were never written are replaced by new blocks.
    let fs = image.open();
    for name in ["holes", "unwritten"] {
        fs.replace(inode_of(&fs, name), &noise(3, 60_000)).unwrap();
        assert_sound(&image.path, name);
    }
}

#[test]
fn version_4_is_overwritten_and_nothing_else() {
    if !has(TOOLS) {
        return;
    }
    let sources = tempfile::tempdir().unwrap();
    for shape in [&["-m", "crc=0"][..], &["-m", "crc=0", "-l", "version=1"]] {
        let proto = proto_files(sources.path(), "there", 40, 3000);
        let image = Image::new(shape, &proto);
        let fs = image.open();
        let file = inode_of(&fs, "there/name-number-00001");
        fs.overwrite(file, &noise(1, 3000)).unwrap();
        fs.replace(file, &noise(2, 3900)).unwrap();
        fs.replace(file, b"short").unwrap();
        let error = fs.create(fs.root(), b"new", 0, (0, 0), b"").unwrap_err();
        assert!(error.to_string().contains("version 4"), "{error}");
        assert!(fs.set_xattr(file, b"user.a", b"b").is_err());
        assert!(fs.remove(fs.root(), b"there").is_err());
        assert_sound(&image.path, &format!("{shape:?}"));
        drop(fs);
        let fs = Xfs::open(file_disk(&image.path)).unwrap();
        assert_eq!(content(&fs, file), b"short");
        // Stopped behind the record of the log: it is replayed in memory.
        drop(fs);
        let fs = XfsMut::open(OnFile::open(&image.path, 3)).unwrap();
        assert_eq!(fs.replace(file, b"shorter").unwrap_err().kind(), Kind::Io);
        let fs = Xfs::open(file_disk(&image.path)).unwrap();
        assert!(fs.identity().replayed);
        assert_eq!(content(&fs, file), b"shorter");
    }
}

/// One step of a random sequence. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Create(u8, u8, usize),
    Replace(u8, usize),
    Overwrite(u8),
    Dir(u8, u8),
    Link(u8, u8, usize),
    Remove(u8),
    Xattr(u8, u8, usize),
    Reopen,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..200usize, 900..5000usize, 10_000..400_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    let byte = any::<u8>;
    prop_oneof![
        6 => (byte(), byte(), size()).prop_map(|(a, b, c)| Step::Create(a, b, c)),
        3 => (byte(), size()).prop_map(|(a, b)| Step::Replace(a, b)),
        1 => byte().prop_map(Step::Overwrite),
        2 => (byte(), byte()).prop_map(|(a, b)| Step::Dir(a, b)),
        2 => (byte(), byte(), 1..400usize).prop_map(|(a, b, c)| Step::Link(a, b, c)),
        3 => byte().prop_map(Step::Remove),
        2 => (byte(), byte(), 0..300usize).prop_map(|(a, b, c)| Step::Xattr(a, b, c)),
        1 => Just(Step::Reopen),
    ]
}

/// What a path should be.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Dir,
    File(Vec<u8>),
    Link(Vec<u8>),
}

#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    xattrs: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    refused: usize,
}

impl Model {
    fn pick(&self, by: u8, want: fn(&Node) -> bool) -> Option<String> {
        let all: Vec<&String> = self
            .nodes
            .iter()
            .filter(|(_, n)| want(n))
            .map(|(p, _)| p)
            .collect();
        let at = usize::from(by) % all.len().max(1);
        all.get(at).map(|path| (*path).clone())
    }

    fn dir(&self, by: u8) -> String {
        if by.is_multiple_of(2) {
            return String::new();
        }
        self.pick(by, |node| *node == Node::Dir).unwrap_or_default()
    }

    /// Notes what was done; a refusal by name is no change.
    fn done<T: std::fmt::Debug>(&mut self, result: &Result<T>, may: bool) -> bool {
        match result {
            Ok(_) => assert!(may),
            Err(error) if error.kind() == Kind::Unsupported => self.refused += 1,
            Err(error) => assert!(!may && error.kind() == Kind::Usage, "{error}"),
        }
        result.is_ok()
    }

    fn apply(&mut self, fs: &XfsMut, step: &Step, nth: usize) {
        let seed = nth as u64;
        let child = |dir: &str, by: u8| {
            let long = "x".repeat(usize::from(by) % 200);
            let name = format!("{by:02x}{long}");
            let path = if dir.is_empty() {
                name.clone()
            } else {
                format!("{dir}/{name}")
            };
            (name, path)
        };
        match step {
            Step::Create(dir, name, _) | Step::Dir(dir, name) | Step::Link(dir, name, _) => {
                let dir = self.dir(*dir);
                let (name, path) = child(&dir, *name);
                let (at, name) = (inode_of(fs, &dir), name.as_bytes());
                let (made, node) = match step {
                    Step::Create(_, _, len) => {
                        let bytes = noise(seed, *len);
                        let made = fs.create(at, name, 0o644, (1, 2), &bytes);
                        (made, Node::File(bytes))
                    }
                    Step::Link(_, _, len) => {
                        let target = vec![b't'; *len];
                        (
                            fs.create_link(at, name, &target, (0, 0)),
                            Node::Link(target),
                        )
                    }
                    _ => (fs.create_dir(at, name, 0o755, (0, 0)), Node::Dir),
                };
                if self.done(&made, !self.nodes.contains_key(&path)) {
                    self.nodes.insert(path, node);
                }
            }
            Step::Replace(by, len) => {
                let Some(path) = self.pick(*by, |node| matches!(node, Node::File(_))) else {
                    return;
                };
                let bytes = noise(seed, *len);
                let replaced = fs.replace(inode_of(fs, &path), &bytes);
                if self.done(&replaced, true) {
                    self.nodes.insert(path, Node::File(bytes));
                }
            }
            Step::Overwrite(by) => {
                let Some(path) = self.pick(*by, |node| matches!(node, Node::File(_))) else {
                    return;
                };
                let Some(Node::File(old)) = self.nodes.get(&path) else {
                    return;
                };
                let bytes = noise(seed, old.len());
                fs.overwrite(inode_of(fs, &path), &bytes).unwrap();
                self.nodes.insert(path, Node::File(bytes));
            }
            Step::Remove(by) => {
                let Some(path) = self.pick(*by, |_| true) else {
                    return;
                };
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
                let inner = format!("{path}/");
                let full = self.nodes.keys().any(|other| other.starts_with(&inner));
                let removed = fs.remove(inode_of(fs, dir), name.as_bytes());
                if self.done(&removed, !full) {
                    self.nodes.remove(&path);
                    self.xattrs.remove(&path);
                }
            }
            Step::Xattr(by, name, len) => {
                let Some(path) = self.pick(*by, |node| !matches!(node, Node::Link(_))) else {
                    return;
                };
                let name = format!("user.{}", name % 3);
                let value = noise(seed, *len);
                let set = fs.set_xattr(inode_of(fs, &path), name.as_bytes(), &value);
                if self.done(&set, true) {
                    self.xattrs.entry(path).or_default().insert(name, value);
                }
            }
            Step::Reopen => {}
        }
    }

    fn compare(&self, fs: &dyn FileSystem, what: &str) {
        let ours = tree(fs).unwrap();
        assert_eq!(ours.len(), self.nodes.len(), "{what}");
        for (path, node) in &self.nodes {
            let seen = &ours[path.as_bytes()];
            match node {
                Node::Dir => assert_eq!(seen.kind, 'd', "{what}: {path}"),
                Node::File(bytes) => assert_eq!(seen.content, sha256(bytes), "{what}: {path}"),
                Node::Link(target) => {
                    assert_eq!(seen.content.as_bytes(), target, "{what}: {path}");
                }
            }
        }
        for (path, all) in &self.xattrs {
            let seen = fs.xattrs(inode_of(fs, path)).unwrap();
            assert_eq!(seen.len(), all.len(), "{what}: {path}");
            for (name, value) in all {
                let wanted = (name.clone().into_bytes(), value.clone());
                assert!(seen.contains(&wanted), "{what}: {path}");
            }
        }
    }
}

proptest! {
    #![proptest_config(support::property(12, 40))]
    #[test]
    fn random_operations_agree_with_a_model_and_with_xfs_repair(
        kind in 0..SHAPES.len(),
        steps in prop::collection::vec(step(), 1..90),
    ) {
        if !has(TOOLS) {
            return Ok(());
        }
        let shape = SHAPES[kind];
        let image = Image::new(shape, "");
        let mut fs = image.open();
        let mut model = Model::default();
        for (nth, step) in steps.iter().enumerate() {
            model.apply(&fs, step, nth);
            if matches!(step, Step::Reopen) {
                drop(fs);
                fs = image.open();
            }
        }
        let what = format!("{shape:?}: {} steps, {} refused", steps.len(), model.refused);
        println!("{what}");
        model.compare(&fs, &what);
        drop(fs);
        assert_sound(&image.path, &what);
        model.compare(&Xfs::open(file_disk(&image.path)).unwrap(), &what);
    }
}
