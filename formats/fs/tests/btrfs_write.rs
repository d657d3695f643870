//! Btrfs written: after every change `btrfs check --check-data-csum` finds nothing and the content is what was
//! written; a write that fails leaves what was before or what is after.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "support/btrfs.rs"]
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{DiskMut, Kind, Memory, Overlay, StorageDisk, doubles::Faulty};
use rehost_fs::{Btrfs, BtrfsMut, Content, FileSystem, FileSystemMut, Inode, Subvol};
use support::*;
use volumes::*;

const CHECKER: &[&str] = &["mkfs.btrfs", "btrfs"];

/// An image filled from a folder with `fill_plain`.
fn made(folder: &Path, args: &[&str]) -> PathBuf {
    let (from, image) = (folder.join("from"), folder.join("fs.raw"));
    if !from.exists() {
        fs::create_dir(&from).unwrap();
        fill_plain(&from);
    }
    let mut all = vec!["--rootdir", text(&from)];
    all.extend(args);
    mkfs(&image, &all);
    image
}

/// Changes over an image that stays as it is.
fn over(image: &Path) -> Arc<Overlay> {
    Arc::new(Overlay::in_memory(file_disk(image)))
}

/// The image with its changes, as a file for foreign tools.
fn written(view: &Overlay, image: &Path) -> PathBuf {
    let path = image.with_extension("written");
    fs::copy(image, &path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for range in view.written() {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        rehost_block::Disk::read_at(view, &mut bytes, range.start).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, range.start).unwrap();
    }
    path
}

fn content(fs: &dyn FileSystem, inode: Inode) -> Vec<u8> {
    rehost_fs::path::read_inode(fs, inode).unwrap()
}

fn named(fs: &dyn FileSystem, path: &str) -> Inode {
    rehost_fs::path::find(fs, path.as_bytes(), rehost_fs::path::LastLink::Keep)
        .unwrap()
        .unwrap_or_else(|| panic!("{path} is not there"))
}

#[test]
fn every_operation_leaves_a_filesystem_that_btrfs_check_and_the_kernel_accept() {
    if !has(CHECKER) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for shape in [
        &["-m", "dup"][..],
        &["-n", "4096", "-M", "--csum", "xxhash"],
        &["-m", "single", "-R", "^free-space-tree", "--csum", "sha256"],
        &["-n", "65536", "--csum", "blake2", "-O", "^no-holes"],
    ] {
        let image = made(folder.path(), shape);
        let view = over(&image);
        let fs = BtrfsMut::open(view.clone()).unwrap();
        let root = fs.root();
        let new = fs.create(root, b"new", 0o640, (7, 8), b"small\n").unwrap();
        let large = fs
            .create(root, b"large", 0o600, (0, 0), &noise(1, 3_000_001))
            .unwrap();
        let dir = fs.create_dir(root, b"folder", 0o755, (1, 2)).unwrap();
        for nth in 0..60u64 {
            let name = format!("file-with-a-long-name-{nth}");
            let bytes = noise(nth, (nth * 97) as usize);
            fs.create(dir, name.as_bytes(), 0o644, (0, 0), &bytes)
                .unwrap();
        }
        fs.create_link(dir, b"link", b"../small", (0, 0)).unwrap();
        fs.set_xattr(new, b"security.selinux", b"system_u:object_r:etc_t:s0\0")
            .unwrap();
        fs.set_xattr(new, b"user.other", &noise(2, 300)).unwrap();
        fs.set_xattr(new, b"user.other", b"shorter").unwrap();
        fs.replace(new, &noise(3, 40_000)).unwrap();
        fs.replace(large, b"now small").unwrap();
        fs.overwrite(named(&fs, "big"), &noise(4, 5_000_001))
            .unwrap();
        fs.overwrite(named(&fs, "small"), b"another of a line\n\n")
            .unwrap();
        fs.remove(named(&fs, "dir"), b"file-250").unwrap();
        fs.remove(root, b"link").unwrap();
        fs.create_dir(dir, b"empty", 0o700, (0, 0)).unwrap();
        fs.remove(dir, b"empty").unwrap();
        assert_eq!(fs.remove(root, b"dir").unwrap_err().kind(), Kind::Usage);
        assert_eq!(fs.remove(root, b"absent").unwrap_err().kind(), Kind::Usage);
        let again = fs.create(root, b"new", 0o600, (0, 0), b"");
        assert_eq!(again.unwrap_err().kind(), Kind::Usage);
        let ours = tree(&fs).unwrap();
        let stat = fs.attributes(new).unwrap();
        assert_eq!(
            (stat.uid, stat.gid, stat.mode, stat.size),
            (7, 8, 0o640, 40_000)
        );
        assert_eq!(content(&fs, new), noise(3, 40_000));
        assert_eq!(content(&fs, named(&fs, "big")), noise(4, 5_000_001));
        assert_eq!(ours[&b"folder/link"[..]].content, "../small");
        let result = written(&view, &image);
        assert_checked(&result, &format!("after {shape:?}"));
        let at = folder.path().join("at");
        let Some(mounted) = Mount::new(&[&result], &at, "noatime") else {
            continue;
        };
        assert_same_tree(&ours, &host_tree(&at), &format!("{shape:?}"));
        assert_same_stat(&fs, &at, &ours);
        // The kernel goes on from there.
        fs::write(at.join("from the kernel"), noise(9, 2_000_000)).unwrap();
        drop(mounted);
        assert_checked(&result, "after the kernel's own writes");
    }
}

#[test]
fn what_the_kernel_made_can_be_replaced_and_removed() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    for shape in [&["-n", "4096", "-M"][..], &["-m", "dup"]] {
        mkfs(&image, shape);
        let Some(mounted) = Mount::new(&[&image], &at, "noatime") else {
            return;
        };
        fill(&at, &mounted);
        fs::create_dir(at.join("nocow")).unwrap();
        run("chattr", &["+C", text(&at.join("nocow"))]);
        fs::write(at.join("nocow/file"), noise(41, 300_000)).unwrap();
        drop(mounted);
        let view = over(&image);
        let fs = BtrfsMut::open(view.clone()).unwrap();
        for name in [
            "packed-zstd",
            "mixed-lzo",
            "prealloc",
            "sparse",
            "inline-zlib",
            "shared",
        ] {
            let bytes = noise(50, 123_456);
            fs.replace(named(&fs, name), &bytes)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(content(&fs, named(&fs, name)), bytes);
        }
        assert_eq!(content(&fs, named(&fs, "big")), noise(1, 5_000_001));
        let nocow = named(&fs, "nocow/file");
        let before = fs.stored(nocow).unwrap();
        fs.overwrite(nocow, &noise(42, 300_000)).unwrap();
        assert_eq!(fs.stored(nocow).unwrap(), before);
        for nth in 0..150 {
            let name = format!("{}-{nth}", "hard-link".repeat(10));
            fs.remove(named(&fs, "many"), name.as_bytes()).unwrap();
        }
        fs.remove(fs.root(), b"mixed-zlib").unwrap();
        fs.create(
            named(&fs, "ro/.."),
            b"beside",
            0o644,
            (0, 0),
            &noise(43, 9000),
        )
        .unwrap();
        // A snapshot and what it was made of share their blocks; a read-only one is not changed at all.
        for (dir, why) in [
            ("ro", "read-only"),
            ("snap", "shared"),
            ("dir/deep", "shared"),
        ] {
            let refused = fs.create(named(&fs, dir), b"x", 0o644, (0, 0), b"x");
            match refused {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
                    assert!(error.to_string().contains(why), "{dir}: {error}");
                }
                // The kernel has copied the top block already.
                Ok(_) => assert_ne!(dir, "ro"),
            }
        }
        let error = fs.remove(fs.root(), b"sub").unwrap_err();
        assert!(error.to_string().contains("subvolume"), "{error}");
        let inner =
            BtrfsMut::open_many(vec![view.clone()], Subvol::Path(b"sub/inner".to_vec())).unwrap();
        inner
            .create(
                inner.root(),
                b"in-a-subvolume",
                0o644,
                (0, 0),
                &noise(44, 20_000),
            )
            .unwrap();
        let result = written(&view, &image);
        assert_checked(&result, &format!("after {shape:?}"));
        let fs = Btrfs::open(file_disk(&result)).unwrap();
        let ours = tree(&fs).unwrap();
        let Some(_mounted) = Mount::new(&[&result], &at, "noatime") else {
            return;
        };
        assert_same_tree(&ours, &host_tree(&at), &format!("{shape:?}"));
        assert_same_stat(&fs, &at, &ours);
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_the_first_write() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, at) = (folder.path().join("fs.raw"), folder.path().join("at"));
    let second = folder.path().join("second.raw");
    let refused = |image: &Path, why: &str| {
        let view = over(image);
        let error = BtrfsMut::open(view.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(view.written().is_empty());
    };
    mkfs_many(&[&image, &second], &["-d", "raid1", "-m", "raid1"]);
    refused(&image, "missing");
    mkfs(&image, &[]);
    let Some(mounted) = Mount::new(&[&image], &at, "noatime") else {
        return;
    };
    run("btrfs", &["quota", "enable", text(&at)]);
    drop(mounted);
    refused(&image, "quota");
    mkfs(&image, &[]);
    let mounted = Mount::new(&[&image], &at, "noatime,commit=300").unwrap();
    let file = fs::File::create(at.join("synced")).unwrap();
    file.sync_all().unwrap();
    let crashed = folder.path().join("crashed");
    fs::copy(&image, &crashed).unwrap();
    drop(file);
    drop(mounted);
    refused(&crashed, "log to replay");
}

/// A file of the host to which somebody writes: every read gives other bytes.
#[derive(Debug, Default)]
struct Restless(std::sync::atomic::AtomicU8);

impl Content for Restless {
    fn size(&self) -> u64 {
        20_000
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> rehost_block::Result<()> {
        buf.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Ok(())
    }
}

#[test]
fn content_that_changes_while_it_is_read_is_an_error_and_not_a_wrong_checksum() {
    if !has(CHECKER) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[]);
    let view = over(&image);
    let fs = BtrfsMut::open(view.clone()).unwrap();
    let error = fs
        .create(fs.root(), b"restless", 0o644, (0, 0), &Restless::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );
    // No superblock leads to what was written.
    let after = Btrfs::open(view).unwrap();
    assert!(after.lookup(after.root(), b"restless").unwrap().is_none());
}

#[test]
fn a_raid1_is_written_on_both_members() {
    if !has(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("at");
    let images = ["a", "b"].map(|name| folder.path().join(name));
    let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    mkfs_many(&paths, &["-d", "raid1", "-m", "raid1"]);
    let Some(mounted) = Mount::new(&paths, &at, "noatime") else {
        return;
    };
    fill_plain(&at);
    drop(mounted);
    let views: Vec<Arc<Overlay>> = paths.iter().map(|path| over(path)).collect();
    let disks: Vec<Arc<dyn DiskMut>> = vec![views[0].clone(), views[1].clone()];
    let fs = BtrfsMut::open_many(disks, Subvol::Default).unwrap();
    fs.replace(named(&fs, "big"), &noise(77, 400_000)).unwrap();
    fs.create(fs.root(), b"new", 0o644, (0, 0), &noise(78, 50_000))
        .unwrap();
    let ours = tree(&fs).unwrap();
    let results: Vec<PathBuf> = views
        .iter()
        .zip(&paths)
        .map(|(view, path)| written(view, path))
        .collect();
    for result in &results {
        let alone = Btrfs::open(file_disk(result)).unwrap();
        assert_same_tree(&tree(&alone).unwrap(), &ours, "one member");
    }
    let results: Vec<&Path> = results.iter().map(PathBuf::as_path).collect();
    let Some(mounted) = Mount::new(&results, &at, "noatime") else {
        return;
    };
    assert_same_tree(&ours, &host_tree(&at), "both members");
    run("btrfs", &["scrub", "start", "-B", text(&at)]);
    let status = run("btrfs", &["scrub", "status", text(&at)]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("no errors found"), "{status}");
    drop(mounted);
}

/// A change that touches every tree.
fn change(fs: &dyn FileSystemMut) -> rehost_block::Result<()> {
    let small = fs.lookup(fs.root(), b"small")?.unwrap();
    fs.replace(small, &noise(5, 30_000))
}

#[test]
fn a_failed_write_leaves_the_old_state_or_the_new_one() {
    if !has(CHECKER) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &["-n", "4096", "-M"]);
    let before = tree(&Btrfs::open(file_disk(&image)).unwrap()).unwrap();
    let (mut failed, mut new) = (0, 0);
    for nth in 0.. {
        let store = Arc::new(Faulty::after(Memory::new("overlay", Vec::new()), nth));
        let view = Arc::new(Overlay::new(file_disk(&image), store));
        let fs = BtrfsMut::open(view.clone()).unwrap();
        let done = change(&fs);
        drop(fs);
        let after =
            Btrfs::open(view.clone()).unwrap_or_else(|error| panic!("write {nth}: {error}"));
        let mut found = tree(&after).unwrap();
        if found != before {
            let small = found.remove(&b"small"[..]).unwrap();
            assert_eq!(small.content, sha256(&noise(5, 30_000)), "write {nth}");
            let mut rest = before.clone();
            rest.remove(&b"small"[..]);
            assert_same_tree(&found, &rest, &format!("write {nth}"));
            new += 1;
        }
        if nth % 5 == 0 || done.is_ok() {
            assert_checked(&written(&view, &image), &format!("after write {nth}"));
        }
        if done.is_ok() {
            break;
        }
        failed += 1;
    }
    println!("{failed} writes failed in turn; {new} states were the new one");
    assert!(failed > 5 && new >= 1);
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8, usize),
    Replace(u8, usize),
    Remove(u8),
    Attribute(u8, usize),
    Directory(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = || prop_oneof![0..3000usize, 0..200_000usize];
    prop::collection::vec(
        prop_oneof![
            3 => (any::<u8>(), len()).prop_map(|(name, len)| Step::Create(name, len)),
            3 => (any::<u8>(), len()).prop_map(|(name, len)| Step::Replace(name, len)),
            2 => any::<u8>().prop_map(Step::Remove),
            1 => (any::<u8>(), 0..1000usize).prop_map(|(name, len)| Step::Attribute(name, len)),
            1 => any::<u8>().prop_map(Step::Directory),
        ],
        1..40,
    )
}

proptest! {
    #![proptest_config(support::property(8, 60))]
    #[test]
    fn any_sequence_of_changes_is_clean_and_reads_back(steps in steps(), mixed in any::<bool>()) {
        if !has(CHECKER) {
            return Ok(());
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("fs.raw");
        mkfs(&image, if mixed { &["-n", "4096", "-M"] } else { &["-m", "dup"] });
        let view = over(&image);
        let fs = BtrfsMut::open(view.clone()).unwrap();
        let mut wanted: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for (nth, step) in steps.iter().enumerate() {
            let name = |number: u8| format!("name-{}", number % 24).into_bytes();
            let bytes = |len: usize| noise(nth as u64, len);
            let there = |number: u8| wanted.get(&name(number));
            match step {
                Step::Create(number, len) if there(*number).is_none() => {
                    fs.create(fs.root(), &name(*number), 0o644, (0, 0), &bytes(*len)).unwrap();
                    wanted.insert(name(*number), Some(bytes(*len)));
                }
                Step::Directory(number) if there(*number).is_none() => {
                    fs.create_dir(fs.root(), &name(*number), 0o755, (0, 0)).unwrap();
                    wanted.insert(name(*number), None);
                }
                Step::Replace(number, len) if matches!(there(*number), Some(Some(_))) => {
                    let inode = fs.lookup(fs.root(), &name(*number)).unwrap().unwrap();
                    fs.replace(inode, &bytes(*len)).unwrap();
                    wanted.insert(name(*number), Some(bytes(*len)));
                }
                Step::Attribute(number, len) if there(*number).is_some() => {
                    let inode = fs.lookup(fs.root(), &name(*number)).unwrap().unwrap();
                    fs.set_xattr(inode, b"user.test", &bytes(*len)).unwrap();
                }
                Step::Remove(number) if there(*number).is_some() => {
                    fs.remove(fs.root(), &name(*number)).unwrap();
                    wanted.remove(&name(*number));
                }
                _ => {}
            }
        }
        let result = written(&view, &image);
        assert_checked(&result, "after a sequence");
        let fs = Btrfs::open(file_disk(&result)).unwrap();
        let mut found = BTreeMap::new();
        for entry in fs.read_dir(fs.root()).unwrap() {
            let is_dir = entry.kind == Some(rehost_fs::FileKind::Directory);
            let bytes = (!is_dir).then(|| content(&fs, entry.inode));
            found.insert(entry.name, bytes);
        }
        prop_assert!(found == wanted);
    }
}

#[test]
fn a_storage_disk_over_memory_is_enough() {
    if !has(CHECKER) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &[]);
    let base = StorageDisk::new(Arc::new(Memory::new("disk", fs::read(&image).unwrap())));
    let fs = rehost_fs::open_mut(Arc::new(Overlay::in_memory(Arc::new(base)))).unwrap();
    let made = fs.create(fs.root(), b"x", 0o644, (0, 0), b"x").unwrap();
    assert_eq!(content(&*fs, made), b"x");
}
