//! What the writer makes, judged by e2fsck, debugfs, our own reader and, where allowed, the kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut, Kind, Memory, Overlay, is_zero};
use rehost_fs::{Ext4, Ext4Mut, FileSystem, FileSystemMut, Inode};
use support::*;

/// Feature sets that real systems have, and some that are hard.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("ext4 of Debian 12", "32M", &["-t", "ext4", "-b", "4096"]),
    (
        "ext4 of newer mke2fs",
        "32M",
        &[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "metadata_csum_seed,orphan_file",
        ],
    ),
    ("ext4 of 1 KiB blocks", "32M", &["-t", "ext4", "-b", "1024"]),
    (
        "ext4 with few inodes per group",
        "32M",
        &["-t", "ext4", "-b", "1024", "-g", "2048", "-N", "4096"],
    ),
    (
        "ext4 with inline_data",
        "32M",
        &["-t", "ext4", "-b", "4096", "-O", "inline_data"],
    ),
    (
        "ext4 with meta_bg",
        "32M",
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
    ),
    (
        "ext4 with uninit_bg",
        "32M",
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
    ),
    (
        "ext4 without checksums",
        "32M",
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit"],
    ),
    (
        "ext4 with 32-bit descriptors",
        "32M",
        &["-t", "ext4", "-b", "1024", "-O", "^64bit,metadata_csum"],
    ),
    (
        "ext4 without flex_bg",
        "32M",
        &["-t", "ext4", "-b", "1024", "-O", "^flex_bg"],
    ),
    (
        "ext4 of small inodes",
        "32M",
        &["-t", "ext4", "-b", "4096", "-I", "128"],
    ),
    (
        "ext4 without dir_index",
        "32M",
        &["-t", "ext4", "-b", "1024", "-O", "^dir_index"],
    ),
    ("ext3", "32M", &["-t", "ext3", "-b", "4096"]),
    ("ext3 of 1 KiB blocks", "32M", &["-t", "ext3", "-b", "1024"]),
    ("ext2", "32M", &["-t", "ext2", "-b", "1024"]),
    (
        "ext2 without filetype",
        "32M",
        &[
            "-t",
            "ext2",
            "-b",
            "4096",
            "-O",
            "^filetype,^dir_index,^ext_attr",
        ],
    ),
];

// Revision 0 has no features, and inodes of 128 bytes.
const REVISION_0: (&str, &str, &[&str]) = (
    "ext2 of revision 0",
    "16M",
    &["-t", "ext2", "-b", "1024", "-r", "0"],
);

struct Image {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new(size: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs.raw");
        mke2fs(&path, size, args, None);
        Self { folder, path }
    }

    /// A view in memory: the file is not changed.
    fn overlay(&self) -> Arc<Overlay> {
        Arc::new(Overlay::in_memory(file_disk(&self.path)))
    }

    /// What a view holds, as a file for foreign tools.
    fn save(&self, view: &dyn Disk, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(view.size()).unwrap();
        let mut bytes = vec![0; 64 << 10];
        for at in (0..view.size()).step_by(64 << 10) {
            let len = (view.size() - at).min(64 << 10) as usize;
            view.read_at(&mut bytes[..len], at).unwrap();
            if !is_zero(&bytes[..len]) {
                file.write_all_at(&bytes[..len], at).unwrap();
            }
        }
        path
    }
}

fn open(view: &Arc<Overlay>) -> Ext4Mut {
    let disk: Arc<dyn DiskMut> = view.clone();
    Ext4Mut::open(disk).unwrap()
}

#[test]
fn every_operation_leaves_a_clean_filesystem() {
    if !has(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for (what, size, args) in KINDS.iter().chain([&REVISION_0]) {
        let image = Image::new(size, args);
        let view = image.overlay();
        let fs = open(&view);
        let root = fs.root();
        let judge = |step: &str| {
            let path = image.save(&*view, "step.raw");
            assert_clean(&path, &format!("{what}: {step}"));
            path
        };
        let small = fs
            .create(root, b"small", 0o640, (1000, 70_000), b"hello")
            .unwrap();
        judge("create small");
        let content = noise(1, 3_000_000);
        let large = fs.create(root, b"large", 0o755, (0, 0), &content).unwrap();
        fs.create(root, b"empty", 0o644, (0, 0), b"").unwrap();
        judge("create large and empty");
        let dir = fs.create_dir(root, b"dir", 0o750, (5, 6)).unwrap();
        let sub = fs.create_dir(dir, b"sub", 0o755, (0, 0)).unwrap();
        fs.create_link(dir, b"fast", b"../small", (0, 0)).unwrap();
        fs.create_link(dir, b"slow", &[b't'; 700], (0, 0)).unwrap();
        fs.create_link(dir, b"l59", &[b'a'; 59], (0, 0)).unwrap();
        fs.create_link(dir, b"l60", &[b'a'; 60], (0, 0)).unwrap();
        judge("directories and links");
        fs.set_xattr(small, b"security.selinux", b"system_u:object_r:etc_t:s0\0")
            .unwrap();
        fs.set_xattr(small, b"user.big", &noise(2, 700)).unwrap();
        fs.set_xattr(dir, b"user.empty", b"").unwrap();
        judge("attributes");
        fs.set_xattr(small, b"user.big", b"now small").unwrap();
        fs.set_xattr(small, b"security.selinux", &[b'x'; 300])
            .unwrap();
        judge("attributes changed");
        let attributes = fs.xattrs(small).unwrap();
        assert!(
            attributes.contains(&(b"user.big".to_vec(), b"now small".to_vec())),
            "{what}"
        );
        assert!(
            attributes.contains(&(b"security.selinux".to_vec(), vec![b'x'; 300])),
            "{what}"
        );

        let shorter = noise(3, 50_001);
        let before = fs.attributes(large).unwrap();
        fs.replace(large, &shorter).unwrap();
        judge("replace by less");
        let longer = noise(4, 5_000_000);
        fs.replace(small, &longer).unwrap();
        judge("replace by more");
        let after = fs.attributes(large).unwrap();
        assert_eq!(
            (before.mode, before.uid, before.gid),
            (after.mode, after.uid, after.gid)
        );
        assert_eq!(fs.xattrs(small).unwrap().len(), attributes.len());
        let rewritten = noise(5, 5_000_000);
        fs.overwrite(small, &rewritten).unwrap();
        judge("overwrite");
        assert_eq!(
            fs.overwrite(small, b"short").unwrap_err().kind(),
            Kind::Usage
        );

        fs.remove(dir, b"slow").unwrap();
        fs.remove(dir, b"fast").unwrap();
        assert_eq!(fs.remove(root, b"dir").unwrap_err().kind(), Kind::Usage);
        fs.remove(dir, b"sub").unwrap();
        fs.remove(root, b"empty").unwrap();
        judge("remove");
        assert!(fs.attributes(sub).is_err());
        assert_eq!(
            fs.create(root, b"dir", 0, (0, 0), b"").unwrap_err().kind(),
            Kind::Usage
        );
        assert_eq!(
            fs.create(root, b"a/b", 0, (0, 0), b"").unwrap_err().kind(),
            Kind::Usage
        );

        // Content, by a reader that is not ours.
        let path = judge("end");
        let out = image.folder.path().join("out");
        debugfs(&path, &format!("dump small {}", out.display()));
        assert!(std::fs::read(&out).unwrap() == rewritten, "{what}");
        debugfs(&path, &format!("dump large {}", out.display()));
        assert!(std::fs::read(&out).unwrap() == shorter, "{what}");
        let stat = debugfs(&path, "stat small");
        assert!(
            stat.contains("Mode:  0640") && stat.contains("Group: 70000"),
            "{what}: {stat}"
        );
        assert!(
            debugfs(&path, "stat dir/l59").contains("Fast link dest"),
            "{what}"
        );
        // And by a fresh reader of ours.
        let again = Ext4::open(file_disk(&path)).unwrap();
        assert_eq!(tree(&again).unwrap(), tree(&fs).unwrap(), "{what}");
        assert_eq!(again.identity().free, fs.identity().free);
    }
}

#[test]
fn directories_of_thousands_of_names() {
    if !has(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for (what, args) in [
        (
            "1 KiB blocks",
            &["-t", "ext4", "-b", "1024", "-N", "16000"][..],
        ),
        ("4 KiB blocks", &["-t", "ext4", "-b", "4096", "-N", "16000"]),
        ("tea hash", &["-t", "ext4", "-b", "1024", "-N", "16000"]),
        ("ext3", &["-t", "ext3", "-b", "1024", "-N", "16000"]),
        (
            "linear",
            &[
                "-t",
                "ext4",
                "-b",
                "4096",
                "-N",
                "16000",
                "-O",
                "^dir_index",
            ],
        ),
    ] {
        let count = if what == "linear" { 600 } else { 5100 };
        let image = Image::new("64M", args);
        if what == "tea hash" {
            run(
                "tune2fs",
                &["-E", "hash_alg=tea", image.path.to_str().unwrap()],
            );
        }
        let view = image.overlay();
        let fs = open(&view);
        let dir = fs.create_dir(fs.root(), b"many", 0o755, (0, 0)).unwrap();
        let name = |nth: usize| {
            format!(
                "a name of some length, and its number {}",
                nth * 7919 % 65_536
            )
        };
        for nth in 0..count {
            fs.create(dir, name(nth).as_bytes(), 0o644, (0, 0), b"")
                .unwrap();
        }
        assert_clean(&image.save(&*view, "full.raw"), what);
        assert_eq!(fs.read_dir(dir).unwrap().len(), count);
        for nth in 0..count {
            assert!(
                fs.lookup(dir, name(nth).as_bytes()).unwrap().is_some(),
                "{what}: {nth}"
            );
        }
        for nth in (0..count).filter(|nth| nth % 3 != 0) {
            fs.remove(dir, name(nth).as_bytes()).unwrap();
        }
        for nth in (0..count).filter(|nth| nth % 3 == 1) {
            let name = format!("{}.new", name(nth));
            fs.create(dir, name.as_bytes(), 0o644, (0, 0), b"").unwrap();
        }
        let path = image.save(&*view, "edited.raw");
        assert_clean(&path, what);
        // Slots that are free, but keep a name, are listed with inode 0.
        let listed = debugfs(&path, "ls -l many");
        let names = listed
            .lines()
            .filter(|line| line.contains("number") && !line.trim_start().starts_with("0 "))
            .count();
        assert_eq!(names, count * 2 / 3);
        for nth in (0..count).filter(|nth| nth % 3 != 0) {
            assert!(fs.lookup(dir, name(nth).as_bytes()).unwrap().is_none());
        }
    }
}

#[test]
fn names_are_added_to_an_index_that_the_kernels_tools_made() {
    if !has(&["mke2fs", "e2fsck"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("many")).unwrap();
    for nth in 0..3000 {
        std::fs::write(source.join(format!("many/some file called {nth}")), b"").unwrap();
    }
    let path = folder.path().join("fs.raw");
    mke2fs(&path, "64M", &["-t", "ext4", "-b", "1024"], Some(&source));
    // mke2fs -d makes linear directories; e2fsck -D gives them their index.
    let _ = std::process::Command::new("e2fsck")
        .arg("-fyD")
        .arg(&path)
        .output()
        .unwrap();
    let image = Image { folder, path };
    let view = image.overlay();
    let fs = open(&view);
    let dir = fs.lookup(fs.root(), b"many").unwrap().unwrap();
    for nth in 0..2000 {
        let name = format!("one more file called {nth}");
        fs.create(dir, name.as_bytes(), 0o600, (0, 0), b"").unwrap();
    }
    assert_clean(&image.save(&*view, "grown.raw"), "grown index");
    assert_eq!(fs.read_dir(dir).unwrap().len(), 5000);
}

#[test]
fn inline_files_and_directories_move_to_blocks_when_they_grow() {
    if !has(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("dir/sub")).unwrap();
    for len in [0usize, 30, 60, 90, 140] {
        std::fs::write(source.join(format!("dir/f{len}")), noise(1, len)).unwrap();
    }
    for (what, args) in [
        (
            "4 KiB blocks",
            &["-t", "ext4", "-b", "4096", "-O", "inline_data"][..],
        ),
        (
            "1 KiB blocks",
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-I",
                "256",
                "-O",
                "inline_data,^metadata_csum",
            ],
        ),
    ] {
        let path = folder.path().join("fs.raw");
        let _ = std::fs::remove_file(&path);
        mke2fs(&path, "32M", args, Some(&source));
        assert!(
            debugfs(&path, "stat dir/sub").contains("0x10000000"),
            "{what}: is inline"
        );
        let image = Image {
            folder: tempfile::tempdir().unwrap(),
            path,
        };
        let view = image.overlay();
        let fs = open(&view);
        let dir = inode_of(&fs, "dir");
        let sub = inode_of(&fs, "dir/sub");
        let file = inode_of(&fs, "dir/f140");
        fs.set_xattr(file, b"security.selinux", b"label").unwrap();
        assert_clean(&image.save(&*view, "labelled.raw"), what);
        for nth in 0..60 {
            let name = format!("a new file with a rather long name {nth}");
            fs.create(sub, name.as_bytes(), 0o644, (0, 0), b"x")
                .unwrap();
        }
        assert_clean(&image.save(&*view, "filled.raw"), what);
        fs.remove(dir, b"f30").unwrap();
        for name in ["dir/f0", "dir/f60", "dir/f90", "dir/f140"] {
            fs.replace(inode_of(&fs, name), &noise(2, 9000)).unwrap();
            assert_clean(
                &image.save(&*view, "replaced.raw"),
                &format!("{what}: {name}"),
            );
        }
        assert_eq!(
            fs.xattrs(file).unwrap(),
            [(b"security.selinux".to_vec(), b"label".to_vec())]
        );
        let seen = tree(&fs).unwrap();
        assert_eq!(seen[b"dir/f90".as_slice()].content, sha256(&noise(2, 9000)));
        assert_eq!(
            seen.keys()
                .filter(|name| name.starts_with(b"dir/sub/"))
                .count(),
            60
        );
    }
}

#[test]
fn fragmented_free_space_gives_deep_extent_trees() {
    if !has(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for (what, args) in [
        ("extents", &["-t", "ext4", "-b", "1024", "-N", "16000"][..]),
        ("indirect", &["-t", "ext3", "-b", "1024", "-N", "16000"]),
    ] {
        let image = Image::new("32M", args);
        let view = image.overlay();
        let fs = open(&view);
        let root = fs.root();
        for nth in 0..4000 {
            fs.create(
                root,
                format!("f{nth}").as_bytes(),
                0o644,
                (0, 0),
                &[nth as u8; 1024],
            )
            .unwrap();
        }
        // Fill the rest, then free every second block of the small files.
        let free = fs.identity().free as usize;
        fs.create(root, b"filler", 0o644, (0, 0), &vec![1; free - free / 50])
            .unwrap();
        for nth in (0..4000).step_by(2) {
            fs.remove(root, format!("f{nth}").as_bytes()).unwrap();
        }
        let content = noise(9, 1_500_000);
        let inode = fs
            .create(root, b"scattered", 0o644, (0, 0), &content)
            .unwrap();
        assert!(fs.stored(inode).unwrap().len() > 500, "{what}");
        let path = image.save(&*view, "scattered.raw");
        assert_clean(&path, what);
        let out = image.folder.path().join("out");
        debugfs(&path, &format!("dump scattered {}", out.display()));
        assert!(std::fs::read(&out).unwrap() == content);
        fs.replace(inode, &&content[..700_000]).unwrap();
        fs.remove(root, b"filler").unwrap();
        fs.replace(inode, &content).unwrap();
        assert_clean(&image.save(&*view, "again.raw"), what);
    }
}

#[test]
fn a_full_filesystem_is_a_named_error_and_changes_nothing() {
    if !has(&["mke2fs", "e2fsck"]) {
        return;
    }
    let image = Image::new("8M", &["-t", "ext4", "-b", "1024", "-N", "64"]);
    let view = image.overlay();
    let fs = open(&view);
    let root = fs.root();
    let file = fs
        .create(root, b"file", 0o644, (0, 0), &noise(1, 500_000))
        .unwrap();
    let before = image.save(&*view, "before.raw");
    let error = fs
        .create(root, b"big", 0o644, (0, 0), &vec![7; 20 << 20])
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("full"), "{error}");
    assert!(fs.replace(file, &vec![7; 20 << 20]).is_err());
    let after = image.save(&*view, "after.raw");
    assert!(std::fs::read(before).unwrap() == std::fs::read(after).unwrap());
    // A replacement that fits only in place of the old content.
    let free = fs.identity().free as usize;
    fs.create(root, b"rest", 0o644, (0, 0), &vec![1; free - 40_000])
        .unwrap();
    let content = noise(2, 510_000);
    fs.replace(file, &content).unwrap();
    assert_clean(&image.save(&*view, "tight.raw"), "tight");
    let mut seen = vec![0; content.len()];
    fs.read_at(file, &mut seen, 0).unwrap();
    assert!(seen == content);
    // No inode left.
    let mut made = 0;
    let error = loop {
        match fs.create(root, format!("i{made}").as_bytes(), 0, (0, 0), b"") {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("inode"), "{error}");
    assert!(made > 10);
    assert_clean(&image.save(&*view, "inodes.raw"), "no inode left");
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    if !has(&["mke2fs", "debugfs"]) {
        return;
    }
    for (args, word) in [
        (&["-t", "ext4", "-O", "bigalloc"][..], "bigalloc"),
        (&["-t", "ext4", "-O", "quota"], "quota"),
    ] {
        let image = Image::new("32M", args);
        let disk: Arc<dyn DiskMut> = image.overlay();
        let error = Ext4Mut::open(disk).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(word), "{error}");
    }
    let image = Image::new("32M", &["-t", "ext4", "-O", "inline_data"]);
    let data = image.folder.path().join("data");
    std::fs::write(&data, b"tiny").unwrap();
    debugfs_script(
        &image.path,
        &format!(
            "write {0} locked\nsif locked flags 0x80010\nwrite {0} sealed\nsif sealed flags 0x180000\n\
             write {0} inline\nsif inline flags 0x10000000\n",
            data.display()
        ),
    );
    let view = image.overlay();
    let fs = open(&view);
    for (name, word) in [("locked", "immutable"), ("sealed", "verity")] {
        let inode = fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap();
        let error = fs.replace(inode, b"new").unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(fs.remove(fs.root(), name.as_bytes()).is_err());
    }
    let inode = fs.lookup(fs.root(), b"inline").unwrap().unwrap();
    let error = fs.overwrite(inode, b"TINY").unwrap_err();
    assert!(error.to_string().contains("inline"), "{error}");
    assert!(view.written().is_empty());
    // The filesystem's own error state.
    let image = Image::new("8M", &["-t", "ext4"]);
    debugfs_script(&image.path, "set_super_value state 3\n");
    let disk: Arc<dyn DiskMut> = image.overlay();
    assert!(
        Ext4Mut::open(disk)
            .unwrap_err()
            .to_string()
            .contains("errors")
    );
    let image = Image::new("8M", &["-t", "ext4", "-O", "mmp"]);
    let disk: Arc<dyn DiskMut> = image.overlay();
    Ext4Mut::open(disk).unwrap();
    // debugfs would reset the sequence when it ends: changed by hand instead.
    let view = image.overlay();
    let mut sb = [0; 1024];
    view.read_at(&mut sb, 1024).unwrap();
    let block = u64::from_le_bytes(sb[0x168..0x170].try_into().unwrap());
    let size = 1024u64 << u32::from_le_bytes(sb[0x18..0x1c].try_into().unwrap());
    view.write_at(&0x1234u32.to_le_bytes(), block * size + 4)
        .unwrap();
    let disk: Arc<dyn DiskMut> = view;
    assert!(
        Ext4Mut::open(disk)
            .unwrap_err()
            .to_string()
            .contains("in use")
    );
}

#[test]
fn a_failing_write_is_an_error_and_ends_the_writing() {
    if !has(&["mke2fs"]) {
        return;
    }
    let image = Image::new("8M", &["-t", "ext4", "-b", "1024"]);
    for writes in 0..40 {
        let store = rehost_block::doubles::Faulty::after(Memory::new("edits", Vec::new()), writes);
        let view = Arc::new(Overlay::new(file_disk(&image.path), Arc::new(store)));
        let disk: Arc<dyn DiskMut> = view;
        let fs = Ext4Mut::open(disk).unwrap();
        let root = fs.root();
        let made = fs
            .create(root, b"file", 0o644, (0, 0), &noise(1, 30_000))
            .and_then(|inode| fs.replace(inode, &noise(2, 90_000)).map(|()| inode))
            .and_then(|inode| fs.set_xattr(inode, b"user.x", &[1; 500]))
            .and_then(|()| fs.create_dir(root, b"dir", 0o755, (0, 0)).map(drop))
            .and_then(|()| fs.remove(root, b"file"));
        match made {
            Ok(()) => assert!(writes > 10),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Io, "{error}");
                let error = fs.create(root, b"more", 0, (0, 0), b"").unwrap_err();
                assert!(error.to_string().contains("halfway"), "{error}");
            }
        }
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
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..200usize, 900..5000usize, 10_000..400_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    let byte = any::<u8>;
    prop_oneof![
        4 => (byte(), byte(), size()).prop_map(|(a, b, c)| Step::Create(a, b, c)),
        3 => (byte(), size()).prop_map(|(a, b)| Step::Replace(a, b)),
        1 => byte().prop_map(Step::Overwrite),
        2 => (byte(), byte()).prop_map(|(a, b)| Step::Dir(a, b)),
        2 => (byte(), byte(), 1..900usize).prop_map(|(a, b, c)| Step::Link(a, b, c)),
        3 => byte().prop_map(Step::Remove),
        3 => (byte(), byte(), 0..900usize).prop_map(|(a, b, c)| Step::Xattr(a, b, c)),
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
        if by.is_multiple_of(3) {
            return String::new();
        }
        self.pick(by, |node| *node == Node::Dir).unwrap_or_default()
    }
}

fn inode_of(fs: &dyn FileSystem, path: &str) -> Inode {
    rehost_fs::path::find(fs, path.as_bytes(), rehost_fs::path::LastLink::Keep)
        .unwrap()
        .unwrap()
}

fn apply(fs: &Ext4Mut, model: &mut Model, step: &Step, nth: usize) {
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
        Step::Create(dir, name, len) => {
            let dir = model.dir(*dir);
            let (name, path) = child(&dir, *name);
            let content = noise(seed, *len);
            let made = fs.create(inode_of(fs, &dir), name.as_bytes(), 0o644, (1, 2), &content);
            assert_eq!(made.is_ok(), !model.nodes.contains_key(&path), "{made:?}");
            model.nodes.entry(path).or_insert(Node::File(content));
        }
        Step::Replace(by, len) => {
            let Some(path) = model.pick(*by, |node| matches!(node, Node::File(_))) else {
                return;
            };
            let content = noise(seed, *len);
            fs.replace(inode_of(fs, &path), &content).unwrap();
            model.nodes.insert(path, Node::File(content));
        }
        Step::Overwrite(by) => {
            let Some(path) = model.pick(*by, |node| matches!(node, Node::File(_))) else {
                return;
            };
            let Some(Node::File(old)) = model.nodes.get(&path) else {
                return;
            };
            let content = noise(seed, old.len());
            fs.overwrite(inode_of(fs, &path), &content).unwrap();
            model.nodes.insert(path, Node::File(content));
        }
        Step::Dir(dir, name) => {
            let dir = model.dir(*dir);
            let (name, path) = child(&dir, *name);
            let made = fs.create_dir(inode_of(fs, &dir), name.as_bytes(), 0o755, (0, 0));
            assert_eq!(made.is_ok(), !model.nodes.contains_key(&path), "{made:?}");
            model.nodes.entry(path).or_insert(Node::Dir);
        }
        Step::Link(dir, name, len) => {
            let dir = model.dir(*dir);
            let (name, path) = child(&dir, *name);
            let target = vec![b't'; *len];
            let made = fs.create_link(inode_of(fs, &dir), name.as_bytes(), &target, (0, 0));
            assert_eq!(made.is_ok(), !model.nodes.contains_key(&path), "{made:?}");
            model.nodes.entry(path).or_insert(Node::Link(target));
        }
        Step::Remove(by) => {
            let Some(path) = model.pick(*by, |_| true) else {
                return;
            };
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let inner = format!("{path}/");
            let full = model.nodes.keys().any(|other| other.starts_with(&inner));
            let done = fs.remove(inode_of(fs, dir), name.as_bytes());
            assert_eq!(done.is_ok(), !full, "{done:?}");
            if !full {
                model.nodes.remove(&path);
                model.xattrs.remove(&path);
            }
        }
        Step::Xattr(by, name, len) => {
            let Some(path) = model.pick(*by, |node| !matches!(node, Node::Link(_))) else {
                return;
            };
            let name = format!("user.{}", name % 5);
            let value = noise(seed, *len);
            match fs.set_xattr(inode_of(fs, &path), name.as_bytes(), &value) {
                Ok(()) => {
                    model.xattrs.entry(path).or_default().insert(name, value);
                }
                Err(error) => assert_eq!(error.kind(), Kind::Unsupported, "{error}"),
            }
        }
    }
}

fn compare(fs: &dyn FileSystem, model: &Model, what: &str) {
    let mut ours = tree(fs).unwrap();
    ours.remove(b"lost+found".as_slice());
    assert_eq!(ours.len(), model.nodes.len(), "{what}");
    for (path, node) in &model.nodes {
        let seen = &ours[path.as_bytes()];
        match node {
            Node::Dir => assert_eq!(seen.kind, 'd', "{what}: {path}"),
            Node::File(content) => assert_eq!(seen.content, sha256(content), "{what}: {path}"),
            Node::Link(target) => assert_eq!(seen.content.as_bytes(), target, "{what}: {path}"),
        }
    }
    for (path, all) in &model.xattrs {
        let seen = fs.xattrs(inode_of(fs, path)).unwrap();
        assert_eq!(seen.len(), all.len(), "{what}: {path}");
        for (name, value) in all {
            assert!(
                seen.contains(&(name.clone().into_bytes(), value.clone())),
                "{what}: {path}"
            );
        }
    }
}

proptest! {
    #![proptest_config(support::property(24, 60))]
    #[test]
    fn random_operations_agree_with_a_model_and_with_e2fsck(
        kind in 0..KINDS.len(),
        steps in prop::collection::vec(step(), 1..90),
    ) {
        if !has(&["mke2fs", "e2fsck"]) {
            return Ok(());
        }
        let (what, _, args) = KINDS[kind];
        let image = Image::new("48M", args);
        let view = image.overlay();
        let fs = open(&view);
        let mut model = Model::default();
        for (nth, step) in steps.iter().enumerate() {
            apply(&fs, &mut model, step, nth);
        }
        compare(&fs, &model, what);
        let path = image.save(&*view, "after.raw");
        assert_clean(&path, what);
        compare(&Ext4::open(file_disk(&path)).unwrap(), &model, what);
    }
}

/// Mounts an image through a loop device, when this process may; unmounts when dropped.
struct Mounted {
    point: tempfile::TempDir,
}

impl Mounted {
    fn new(path: &Path, options: &str) -> Option<Self> {
        let point = tempfile::tempdir().unwrap();
        let out = std::process::Command::new("mount")
            .args(["-o", options])
            .arg(path)
            .arg(point.path())
            .output();
        match out {
            Ok(out) if out.status.success() => Some(Self { point }),
            _ => {
                println!("skipped: needs root and a kernel that mounts ext4 from a file");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.point.path())
            .status();
    }
}

#[test]
fn the_kernel_reads_and_extends_what_was_written() {
    if !has(&["mke2fs", "e2fsck", "mount"]) {
        return;
    }
    for (what, size, args) in KINDS {
        let image = Image::new(size, args);
        let view = image.overlay();
        let fs = open(&view);
        let root = fs.root();
        let dir = fs.create_dir(root, b"dir", 0o755, (0, 0)).unwrap();
        for nth in 0..300 {
            let name = format!("a rather long file name, to fill blocks, number {nth}");
            fs.create(
                dir,
                name.as_bytes(),
                0o644,
                (0, 0),
                &noise(nth, nth as usize * 7),
            )
            .unwrap();
        }
        fs.create(root, b"large", 0o600, (3, 4), &noise(1, 2_000_000))
            .unwrap();
        fs.create_link(root, b"link", b"dir", (0, 0)).unwrap();
        let path = image.save(&*view, "mounted.raw");
        let Some(mounted) = Mounted::new(&path, "loop") else {
            return;
        };
        assert_same_tree(&host_tree(mounted.point.path()), &tree(&fs).unwrap(), what);
        // The kernel goes on where we stopped.
        for nth in 0..200 {
            let name = format!("dir/and the kernel's own file with a long name {nth}");
            std::fs::write(mounted.point.path().join(name), b"kernel").unwrap();
        }
        std::fs::remove_file(mounted.point.path().join("large")).unwrap();
        drop(mounted);
        assert_clean(&path, &format!("{what}: after the kernel"));
    }
}

#[test]
fn a_journal_left_by_a_crash_is_replayed_like_e2fsck_does() {
    if !has(&["mke2fs", "e2fsck", "mount"]) {
        return;
    }
    for (what, args) in [
        ("ext4", &["-t", "ext4", "-b", "4096"][..]),
        ("ext4 of 1 KiB blocks", &["-t", "ext4", "-b", "1024"]),
        (
            "ext4 without checksums",
            &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
        ),
        (
            "ext4 with uninit_bg",
            &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
        ),
        ("ext3", &["-t", "ext3", "-b", "1024"]),
    ] {
        let image = Image::new("64M", args);
        let Some(mounted) = Mounted::new(&image.path, "loop") else {
            return;
        };
        let at = |name: &str| mounted.point.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        for round in 0..4u64 {
            for nth in 0..120u64 {
                std::fs::write(at(&format!("dir/file {nth}")), noise(nth + round, 3000)).unwrap();
            }
            for nth in (0..120u64).step_by(3) {
                std::fs::remove_file(at(&format!("dir/file {nth}"))).unwrap();
            }
            // Blocks that start with the journal's magic are escaped in it.
            std::os::unix::fs::symlink("s".repeat(800), at(&format!("link {round}"))).unwrap();
            std::fs::create_dir(at(&format!("dir/sub {round}"))).unwrap();
            std::fs::File::open(at("dir")).unwrap().sync_all().unwrap();
        }
        // A file without a name, and one that is being written: orphans of the crash.
        let unnamed = std::fs::File::create(at("unnamed")).unwrap();
        unnamed.set_len(5).unwrap();
        unnamed.write_all_at(&noise(8, 300_000), 0).unwrap();
        std::fs::remove_file(at("unnamed")).unwrap();
        unnamed.sync_all().unwrap();
        std::fs::File::open(at("dir")).unwrap().sync_all().unwrap();
        // A copy of the mounted, synced filesystem is what a snapshot of a running machine is.
        let crashed = image.folder.path().join("crashed.raw");
        std::fs::copy(&image.path, &crashed).unwrap();
        drop(unnamed);
        drop(mounted);
        let fsck = image.folder.path().join("fsck.raw");
        std::fs::copy(&crashed, &fsck).unwrap();
        let out = std::process::Command::new("e2fsck")
            .arg("-fy")
            .arg(&fsck)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("orphaned inode"), "{what}: {said}");
        let theirs = tree(&Ext4::open(file_disk(&fsck)).unwrap()).unwrap();
        assert!(theirs.len() > 80);

        // In memory, over a disk that stays as it is.
        let before = std::fs::read(&crashed).unwrap();
        let read = Ext4::open(file_disk(&crashed)).unwrap();
        assert!(read.identity().replayed, "{what}");
        assert_same_tree(&tree(&read).unwrap(), &theirs, what);
        assert!(std::fs::read(&crashed).unwrap() == before);

        // Onto the disk, and then written to.
        let view = Arc::new(Overlay::in_memory(file_disk(&crashed)));
        let fs = open(&view);
        assert_same_tree(&tree(&fs).unwrap(), &theirs, what);
        assert_clean(&image.save(&*view, "replayed.raw"), what);
        fs.create(fs.root(), b"new", 0o644, (0, 0), &noise(1, 100_000))
            .unwrap();
        let path = image.save(&*view, "written.raw");
        assert_clean(&path, what);
        let Some(mounted) = Mounted::new(&path, "loop") else {
            return;
        };
        assert_same_tree(&host_tree(mounted.point.path()), &tree(&fs).unwrap(), what);
        drop(mounted);
        assert_clean(&path, what);
    }
}

#[test]
fn journals_written_by_debugfs_are_replayed() {
    if !has(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for (what, journal) in [("plain", "jo"), ("v2", "jo -c -v 2"), ("v3", "jo -c -v 3")] {
        let image = Image::new("16M", &["-t", "ext4", "-b", "1024"]);
        let block = image.folder.path().join("block");
        // The magic of the journal at its start makes the block an escaped one.
        let mut bytes = noise(5, 1024);
        bytes[..4].copy_from_slice(&0xc03b_3998_u32.to_be_bytes());
        std::fs::write(&block, &bytes).unwrap();
        let data = image.folder.path().join("data");
        std::fs::write(&data, vec![b'a'; 8192]).unwrap();
        debugfs_script(&image.path, &format!("write {} file\n", data.display()));
        let fs = Ext4::open(file_disk(&image.path)).unwrap();
        let inode = inode_of(&fs, "file");
        let place = fs.stored(inode).unwrap()[0].disk.unwrap() / 1024;
        debugfs_script(
            &image.path,
            &format!(
                "{journal}\njw -b {place} {0}\njw -b {1},{2} /dev/zero\njw -r {2}\njc\n",
                block.display(),
                place + 1,
                place + 2
            ),
        );
        let fs = Ext4::open(file_disk(&image.path)).unwrap();
        assert!(fs.identity().replayed, "{what}");
        let mut content = vec![0; 8192];
        fs.read_at(inode, &mut content, 0).unwrap();
        let fsck = image.folder.path().join("fsck.raw");
        std::fs::copy(&image.path, &fsck).unwrap();
        let _ = std::process::Command::new("e2fsck")
            .arg("-fy")
            .arg(&fsck)
            .output()
            .unwrap();
        let out = image.folder.path().join("out");
        debugfs(&fsck, &format!("dump file {}", out.display()));
        assert!(std::fs::read(&out).unwrap() == content, "{what}");
        assert!(content[..1024] == bytes[..], "{what}");
        assert!(
            content[2048..3072].iter().all(|byte| *byte == b'a'),
            "{what}: revoked"
        );
    }
}

#[test]
fn a_small_file_changes_few_blocks() {
    if !has(&["mke2fs"]) {
        return;
    }
    let image = Image::new("16M", &["-t", "ext4"]);
    let view = image.overlay();
    let fs = open(&view);
    assert!(view.written().is_empty());
    fs.create(fs.root(), b"file", 0o644, (0, 0), b"x").unwrap();
    // Two bitmaps, descriptors, inode, directory, content, superblock, each in its own 4 KiB.
    let changed: u64 = view
        .written()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    assert!(changed <= 7 * 4096, "{changed}");
}
