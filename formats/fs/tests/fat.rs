//! FAT, judged by fsck.fat, mtools, the crate `fatfs` and, where allowed, the kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::doubles::Faulty;
use rehost_block::{Disk, DiskMut, Kind, Memory, Overlay};
use rehost_fs::{FatMut, FileSystem, FileSystemMut, Inode, open, open_mut};
use support::*;

/// Each width, in the sizes that tools make, and some that are hard.
const KINDS: &[(&str, u64, &[&str])] = &[
    ("FAT12", 1440, &["-F", "12"]),
    (
        "FAT12 with one table",
        2000,
        &["-F", "12", "-f", "1", "-s", "1"],
    ),
    ("FAT16", 16_384, &["-F", "16"]),
    ("FAT32", 34_300, &["-F", "32", "-s", "1"]),
    ("FAT32 of few clusters", 8192, &["-F", "32", "-s", "4"]),
    (
        "FAT32 of 4 KiB sectors",
        16_384,
        &["-F", "32", "-S", "4096", "-s", "1"],
    ),
];

fn tools() -> bool {
    has(&["mkfs.fat", "fsck.fat", "mcopy"])
}

/// The bytes of a fresh filesystem.
fn made(kib: u64, args: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fat.raw");
    let mut all = vec!["-C", "-n", "EFI SYS", "-i", "1234abcd"];
    all.extend(args);
    let kib = kib.to_string();
    all.extend([path.to_str().unwrap(), &kib]);
    run("mkfs.fat", &all);
    std::fs::read(path).unwrap()
}

fn writable(bytes: Vec<u8>) -> Arc<Overlay> {
    Arc::new(Overlay::in_memory(memory_disk(bytes)))
}

fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Runs fsck.fat on a copy: exit code, what it said, and the copy afterwards.
fn fsck(bytes: &[u8], how: &str) -> (i32, String, Vec<u8>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let out = Command::new("fsck.fat")
        .args(["-v", how])
        .arg(file.path())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (
        out.status.code().unwrap(),
        said,
        std::fs::read(file.path()).unwrap(),
    )
}

fn assert_sound(bytes: &[u8], when: &str) {
    let (code, said, _) = fsck(bytes, "-n");
    assert_eq!(code, 0, "fsck.fat {when}: {said}");
    for word in [
        "Dirty bit",
        "differences",
        "Free cluster summary",
        "Orphaned",
    ] {
        assert!(!said.contains(word), "fsck.fat {when}: {said}");
    }
}

/// The tree as mtools copies it out.
fn tree_of_mtools(bytes: &[u8]) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    let (image, out) = (folder.path().join("fat.raw"), folder.path().join("out"));
    std::fs::write(&image, bytes).unwrap();
    std::fs::create_dir(&out).unwrap();
    let done = Command::new("mcopy")
        .env("LC_ALL", "C.UTF-8")
        .env("MTOOLS_SKIP_CHECK", "1")
        .args(["-s", "-n", "-i"])
        .args([&image, Path::new("::*"), &out])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    without_modes(host_tree(&out))
}

/// Whether mtools and `fatfs` read it.
fn is_ordinary(what: &str) -> bool {
    !what.contains("4 KiB sectors") && !what.contains("few clusters")
}

fn without_modes(mut tree: Tree) -> Tree {
    for seen in tree.values_mut() {
        seen.mode = 0;
    }
    tree
}

/// The tree as the crate `fatfs` reads it.
fn tree_of_fatfs(bytes: &[u8]) -> Tree {
    type Disk = Cursor<Vec<u8>>;
    fn walk(dir: &fatfs::Dir<'_, Disk>, path: &str, found: &mut Tree) {
        for entry in dir.iter().map(Result::unwrap) {
            let name = entry.file_name();
            if name == "." || name == ".." {
                continue;
            }
            let name = format!("{path}{name}");
            let mut seen = Seen {
                kind: 'd',
                mode: 0,
                size: None,
                content: String::new(),
            };
            if entry.is_dir() {
                walk(&entry.to_dir(), &format!("{name}/"), found);
            } else {
                let mut content = Vec::new();
                entry.to_file().read_to_end(&mut content).unwrap();
                seen = Seen {
                    kind: 'f',
                    mode: 0,
                    size: Some(content.len() as u64),
                    content: sha256(&content),
                };
            }
            found.insert(name.into_bytes(), seen);
        }
    }
    let fs = fatfs::FileSystem::new(Cursor::new(bytes.to_vec()), fatfs::FsOptions::new()).unwrap();
    let mut found = Tree::new();
    walk(&fs.root_dir(), "", &mut found);
    found
}

fn assert_judged(fs: &dyn FileSystem, disk: &dyn Disk, what: &str) {
    let bytes = bytes_of(disk);
    assert_sound(&bytes, what);
    let ours = without_modes(tree(fs).unwrap());
    // Both tell FAT32 by its cluster count alone, where Linux and fsck.fat do not.
    if is_ordinary(what) {
        if !ours.is_empty() {
            assert_same_tree(&ours, &tree_of_mtools(&bytes), &format!("{what}: mtools"));
        }
        assert_same_tree(&ours, &tree_of_fatfs(&bytes), &format!("{what}: fatfs"));
    }
    let again = open(memory_disk(bytes)).unwrap();
    assert_same_tree(&without_modes(tree(&*again).unwrap()), &ours, what);
    assert_eq!(again.identity(), fs.identity(), "{what}");
}

/// A tree of every kind of name and size.
fn populate(fs: &dyn FileSystemMut) {
    let root = fs.root();
    let efi = fs.create_dir(root, b"EFI", 0o755, (0, 0)).unwrap();
    let boot = fs.create_dir(efi, b"BOOT", 0o755, (0, 0)).unwrap();
    fs.create(boot, b"BOOTX64.EFI", 0o755, (0, 0), &noise(1, 150_000))
        .unwrap();
    fs.create(boot, b"grub.cfg", 0o444, (0, 0), b"set root=x\n")
        .unwrap();
    fs.create(
        boot,
        "ünïcödé ★.txt".as_bytes(),
        0o644,
        (0, 0),
        &noise(2, 512),
    )
    .unwrap();
    fs.create(boot, b"empty", 0o644, (0, 0), b"").unwrap();
    let deep = fs
        .create_dir(boot, b"a directory with a long name", 0o755, (0, 0))
        .unwrap();
    for nth in 0..120u64 {
        let name = format!("vmlinuz-6.1.0-{nth}-amd64 and a bit more");
        fs.create(
            deep,
            name.as_bytes(),
            0o644,
            (0, 0),
            &noise(nth, nth as usize * 10),
        )
        .unwrap();
    }
}

#[test]
fn trees_written_are_read_alike_by_fsck_mtools_and_fatfs() {
    if !tools() {
        return;
    }
    for (what, kib, args) in KINDS {
        let view = writable(made(*kib, args));
        let fs = open_mut(view.clone()).unwrap();
        assert_eq!(fs.identity().label.as_deref(), Some("EFI SYS"));
        assert_eq!(fs.identity().uuid.as_deref(), Some("1234-ABCD"));
        populate(&*fs);
        assert_judged(&*fs, &*view, what);
        let find = |path: &str| {
            rehost_fs::path::find(&*fs, path.as_bytes(), rehost_fs::path::LastLink::Follow).unwrap()
        };
        // Case does not matter, and short names are names too.
        assert_eq!(find("/efi/boot/bootx64.efi"), find("/EFI/BOOT/BOOTX64.EFI"));
        assert_eq!(
            find("/EFI/BOOT/ADIREC~1"),
            find("/EFI/BOOT/A directory with a long name")
        );
        let kernel = find("/EFI/BOOT/BOOTX64.EFI").unwrap();
        assert_eq!(
            fs.attributes(find("/EFI/BOOT/grub.cfg").unwrap())
                .unwrap()
                .mode,
            0o555
        );
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!((now.as_secs() as i64 - fs.attributes(kernel).unwrap().mtime).abs() < 600);
        for (nth, len) in [200_000, 0, 70_000].into_iter().enumerate() {
            fs.replace(kernel, &noise(nth as u64, len)).unwrap();
            assert_judged(&*fs, &*view, &format!("{what}: replaced by {len} bytes"));
        }
        fs.overwrite(kernel, &noise(77, 70_000)).unwrap();
        let deep = find("/EFI/BOOT/a directory with a long name").unwrap();
        let boot = find("/EFI/BOOT").unwrap();
        assert!(
            fs.remove(boot, b"a directory with a long name")
                .unwrap_err()
                .to_string()
                .contains("not empty")
        );
        for entry in fs.read_dir(deep).unwrap().iter().skip(1).step_by(2) {
            fs.remove(deep, &entry.name).unwrap();
        }
        // Into the gaps.
        fs.create(deep, b"x", 0o644, (0, 0), b"x").unwrap();
        fs.create(deep, &[b'y'; 255], 0o644, (0, 0), b"y").unwrap();
        assert_judged(&*fs, &*view, &format!("{what}: after removals"));
        for entry in fs.read_dir(deep).unwrap() {
            fs.remove(deep, &entry.name).unwrap();
        }
        fs.remove(boot, b"a directory with a long name").unwrap();
        assert_judged(&*fs, &*view, &format!("{what}: emptied"));
    }
}

#[test]
fn what_mtools_wrote_is_read_and_extended() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("tree");
    std::fs::create_dir_all(from.join("Some Folder/sub")).unwrap();
    std::fs::write(from.join("Some Folder/lower.txt"), noise(3, 9000)).unwrap();
    std::fs::write(
        from.join("Some Folder/sub/A long name, with pieces"),
        noise(4, 100_000),
    )
    .unwrap();
    for (what, kib, args) in KINDS.iter().filter(|kind| is_ordinary(kind.0)) {
        let image = folder.path().join("fat.raw");
        std::fs::write(&image, made(*kib, args)).unwrap();
        run(
            "mcopy",
            &[
                "-s",
                "-i",
                image.to_str().unwrap(),
                from.join("Some Folder").to_str().unwrap(),
                "::",
            ],
        );
        let view = writable(std::fs::read(&image).unwrap());
        let fs = open_mut(view.clone()).unwrap();
        assert_same_tree(
            &without_modes(tree(&*fs).unwrap()),
            &without_modes(host_tree(&from)),
            what,
        );
        let dir = fs.lookup(fs.root(), b"some folder").unwrap().unwrap();
        fs.create(dir, b"ours", 0o644, (0, 0), b"ours").unwrap();
        fs.remove(dir, b"LOWER.TXT").unwrap();
        assert_judged(&*fs, &*view, what);
    }
}

#[test]
fn a_full_filesystem_is_refused_and_a_tight_one_replaces_in_place() {
    if !tools() {
        return;
    }
    for (what, kib, args) in KINDS.iter().take(3) {
        let view = writable(made(*kib, args));
        let fs = open_mut(view.clone()).unwrap();
        let free = fs.identity().free as usize;
        let big = fs
            .create(fs.root(), b"big", 0o644, (0, 0), &noise(1, free / 3 * 2))
            .unwrap();
        fs.replace(big, &noise(2, free)).unwrap();
        assert_eq!(fs.identity().free, 0);
        assert_judged(&*fs, &*view, what);
        let before = bytes_of(&*view);
        let error = fs
            .create(fs.root(), b"more", 0o644, (0, 0), b"x")
            .unwrap_err();
        assert!(
            error.to_string().contains("full") && error.kind() == Kind::Io,
            "{error}"
        );
        assert!(fs.replace(big, &noise(2, free + 1)).is_err());
        assert!(bytes_of(&*view) == before);
        fs.replace(big, &noise(3, free - 70_000)).unwrap();
        fs.replace(big, &noise(4, free - 170_000)).unwrap();
        assert_judged(&*fs, &*view, what);
        fs.replace(big, b"").unwrap();
        let error = (0..)
            .map(|nth| fs.create(fs.root(), format!("F{nth}").as_bytes(), 0o644, (0, 0), b""))
            .find_map(Result::err);
        assert!(error.unwrap().to_string().contains("top directory is full"));
        assert_judged(&*fs, &*view, what);
    }
}

#[test]
fn what_fat_cannot_store_is_refused_by_name() {
    if !tools() {
        return;
    }
    let view = writable(made(1440, &[]));
    let before = bytes_of(&*view);
    let fs = open_mut(view.clone()).unwrap();
    let root = fs.root();
    let said = |result: rehost_block::Result<()>| result.unwrap_err().to_string();
    assert!(said(fs.create_link(root, b"l", b"t", (0, 0)).map(drop)).contains("symbolic links"));
    assert!(said(fs.set_xattr(root, b"user.x", b"1")).contains("extended attributes"));
    assert!(said(fs.create(root, b"f", 0o644, (1000, 0), b"").map(drop)).contains("owners"));
    assert!(said(fs.create(root, b"f", 0o600, (0, 0), b"").map(drop)).contains("permissions"));
    assert!(said(fs.create_dir(root, b"f", 0o1777, (0, 0)).map(drop)).contains("permissions"));
    assert!(said(fs.create(root, b"a:b", 0o644, (0, 0), b"").map(drop)).contains("forbids"));
    assert!(said(fs.remove(root, b"none")).contains("no 'none'"));
    assert!(said(fs.replace(root, b"")).contains("top directory"));
    assert!(bytes_of(&*view) == before);
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create(u8, u8, usize),
    Directory(u8, u8),
    Replace(u8, usize),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), 1..2000usize, 1..60_000usize];
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), len.clone()).prop_map(|(dir, name, len)| Step::Create(dir, name, len)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(dir, name)| Step::Directory(dir, name)),
        2 => (any::<u8>(), len).prop_map(|(file, len)| Step::Replace(file, len)),
        3 => any::<u8>().prop_map(Step::Remove),
    ]
}

/// Files and directories that must be there: each path's parent, name, inode and content.
type Model = BTreeMap<String, Option<String>>;

fn find(fs: &dyn FileSystem, path: &str) -> Inode {
    let found = rehost_fs::path::find(fs, path.as_bytes(), rehost_fs::path::LastLink::Keep);
    found.unwrap().unwrap()
}

fn apply(fs: &dyn FileSystemMut, model: &mut Model, step: &Step, seed: u64) {
    let pick = |nth: u8, dirs: bool, model: &Model| {
        let all: Vec<String> = model
            .iter()
            .filter(|(_, content)| content.is_none() == dirs)
            .map(|(path, _)| path.clone())
            .collect();
        (!all.is_empty()).then(|| all[usize::from(nth) % all.len()].clone())
    };
    let name = |nth: u8| match nth % 4 {
        0 => format!("F{nth}.BIN"),
        1 => format!("lower{nth}"),
        2 => format!("A name of some length {nth}.tar.gz"),
        _ => format!("ü{nth}").repeat(usize::from(nth) / 8 + 1),
    };
    let ok = |result: rehost_block::Result<()>| match result {
        Ok(()) => true,
        Err(error) => {
            let said = error.to_string();
            assert!(
                said.contains("full") || said.contains("exists") || said.contains("not empty"),
                "{said}"
            );
            false
        }
    };
    match step {
        Step::Create(dir, nth, len) => {
            let dir = pick(*dir, true, model).unwrap_or_default();
            let content = noise(seed, *len);
            if ok(fs
                .create(
                    find(fs, &dir),
                    name(*nth).as_bytes(),
                    0o644,
                    (0, 0),
                    &content,
                )
                .map(drop))
            {
                model.insert(format!("{dir}/{}", name(*nth)), Some(sha256(&content)));
            }
        }
        Step::Directory(dir, nth) => {
            let dir = pick(*dir, true, model).unwrap_or_default();
            if ok(fs
                .create_dir(find(fs, &dir), name(*nth).as_bytes(), 0o755, (0, 0))
                .map(drop))
            {
                model.insert(format!("{dir}/{}", name(*nth)), None);
            }
        }
        Step::Replace(nth, len) => {
            let Some(path) = pick(*nth, false, model) else {
                return;
            };
            let content = noise(seed, *len);
            if ok(fs.replace(find(fs, &path), &content)) {
                model.insert(path, Some(sha256(&content)));
            }
        }
        Step::Remove(nth) => {
            let Some(path) = pick(*nth, nth % 3 == 0, model) else {
                return;
            };
            let (dir, name) = path.rsplit_once('/').unwrap();
            if ok(fs.remove(find(fs, dir), name.as_bytes())) {
                model.remove(&path);
            }
        }
    }
}

proptest! {
    #![proptest_config(support::property(10, 60))]

    #[test]
    fn random_histories_leave_what_they_say(
        kind in 0..KINDS.len(),
        steps in prop::collection::vec(step(), 40..200),
    ) {
        if !tools() {
            return Ok(());
        }
        let (what, kib, args) = KINDS[kind];
        let view = writable(made(kib, args));
        let fs = FatMut::open(view.clone()).unwrap();
        let mut model = Model::new();
        for (seed, batch) in steps.chunks(40).enumerate() {
            for (nth, step) in batch.iter().enumerate() {
                apply(&fs, &mut model, step, (seed * 100 + nth) as u64);
            }
            assert_sound(&bytes_of(&*view), what);
            let seen: Model = tree(&fs).unwrap().into_iter().map(|(path, seen)| {
                let path = format!("/{}", String::from_utf8(path).unwrap());
                (path, (seen.kind == 'f').then_some(seen.content))
            }).collect();
            prop_assert_eq!(&seen, &model);
        }
        assert_judged(&fs, &*view, what);
    }
}

#[test]
fn a_write_that_fails_anywhere_loses_no_other_file() {
    if !tools() {
        return;
    }
    for (what, kib, args) in [KINDS[0], KINDS[4]] {
        let view = writable(made(kib, args));
        let fs = open_mut(view.clone()).unwrap();
        populate(&*fs);
        let base = bytes_of(&*view);
        let kept = without_modes(tree(&*fs).unwrap());
        let mut finished = false;
        for writes in 0..400 {
            let store = Faulty::after(Memory::new("edits", Vec::new()), writes);
            let view = Arc::new(Overlay::new(memory_disk(base.clone()), Arc::new(store)));
            let disk: Arc<dyn DiskMut> = view.clone();
            let fs = open_mut(disk).unwrap();
            let boot = find(&*fs, "/EFI/BOOT");
            let done = fs
                .create(boot, b"a new file", 0o644, (0, 0), &noise(1, 30_000))
                .and_then(|inode| fs.replace(inode, &noise(2, 60_000)))
                .and_then(|()| fs.create_dir(boot, b"a new directory", 0o755, (0, 0)))
                .and_then(|dir| fs.create(dir, b"x", 0o644, (0, 0), b"x"))
                .and_then(|_| fs.replace(find(&*fs, "/EFI/BOOT/empty"), b"no longer"))
                .and_then(|()| fs.remove(boot, b"a new file"));
            finished = done.is_ok();
            if !finished {
                // Nothing more is written after a failure.
                assert!(fs.remove(boot, b"empty").is_err());
            }
            let (code, said, mended) = fsck(&bytes_of(&*view), "-a");
            assert!(code <= 1, "{what}: after {writes} writes: {said}");
            let (code, said, _) = fsck(&mended, "-n");
            assert_eq!(code, 0, "{what}: after {writes} writes: {said}");
            let after = without_modes(tree(&*open(memory_disk(mended)).unwrap()).unwrap());
            for (path, seen) in &kept {
                if !path.ends_with(b"/empty") {
                    assert_eq!(
                        after.get(path),
                        Some(seen),
                        "{what}: {writes}: {}",
                        String::from_utf8_lossy(path)
                    );
                }
            }
            if finished {
                break;
            }
        }
        assert!(finished, "{what}");
    }
}

/// A FAT16 filesystem with a directory and a file, and where its tables and directories are.
fn target() -> Vec<u8> {
    let view = writable(made(16_384, &["-F", "16", "-s", "4", "-R", "4"]));
    let fs = open_mut(view.clone()).unwrap();
    let dir = fs.create_dir(fs.root(), b"DIR", 0o755, (0, 0)).unwrap();
    fs.create(dir, b"FILE", 0o644, (0, 0), &noise(1, 20_000))
        .unwrap();
    fs.create(fs.root(), b"OTHER", 0o644, (0, 0), &noise(2, 20_000))
        .unwrap();
    bytes_of(&*view)
}

#[test]
fn damage_is_named_with_its_place_and_never_written_to() {
    if !tools() {
        return;
    }
    let good = target();
    let table = 4 * 512;
    let len = usize::from(u16::from_le_bytes([good[22], good[23]])) * 512;
    let root = table + 2 * len;
    let data = root + usize::from(u16::from_le_bytes([good[17], good[18]])) * 32;
    // DIR is cluster 2, FILE 3 to 12, OTHER 13 to 22.
    let set = |bytes: &mut Vec<u8>, cluster: usize, value: u16| {
        for copy in [table, table + len] {
            bytes[copy + cluster * 2..][..2].copy_from_slice(&value.to_le_bytes());
        }
    };
    type Damage<'a> = (&'a str, u64, Box<dyn Fn(&mut Vec<u8>) + 'a>);
    let cases: Vec<Damage<'_>> = vec![
        (
            "chain loops",
            (table + 8 * 2) as u64,
            Box::new(|b| set(b, 8, 8)),
        ),
        (
            "chain leads outside",
            (table + 6 * 2) as u64,
            Box::new(|b| set(b, 6, 0xf000)),
        ),
        (
            "chain contains a free cluster",
            (table + 6 * 2) as u64,
            Box::new(|b| set(b, 6, 0)),
        ),
        (
            "belongs to two",
            (table + 15 * 2) as u64,
            Box::new(|b| set(b, 5, 15)),
        ),
        (
            "tables differ",
            (table + len + 7 * 2) as u64,
            Box::new(|b| b[table + len + 14] ^= 1),
        ),
        (
            "another one is its parent",
            (data + 32) as u64,
            Box::new(|b| {
                // FILE becomes a directory that is DIR itself.
                b[data + 64 + 11] = 0x10;
                b[data + 64 + 26] = 2;
            }),
        ),
        (
            "begins outside",
            (data + 64) as u64,
            Box::new(|b| b[data + 64 + 27] = 0xee),
        ),
        (
            "cannot be the name",
            (data + 64) as u64,
            Box::new(|b| b[data + 66] = b'/'),
        ),
    ];
    for (said, place, damage) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        let view = writable(bytes.clone());
        let error = open_mut(view.clone()).unwrap_err();
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert_eq!(error.kind(), Kind::Corrupt, "{said}");
        assert_eq!(error.offset(), Some(place), "{said}: {error}");
        assert!(view.written().is_empty(), "{said}");
        // Reading meets the damage too, except that it follows no more than it needs.
        let read = open(memory_disk(bytes)).and_then(|fs| tree(&*fs));
        assert!(read.is_err() || said == "belongs to two", "{said}");
    }
}

/// An image and the places in it that are worth damaging.
type Image = (Vec<u8>, Vec<usize>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic_or_hang(
        kind in 0..3usize,
        hits in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..12),
    ) {
        use std::sync::OnceLock;
        static IMAGES: OnceLock<Option<Vec<Image>>> = OnceLock::new();
        let images = IMAGES.get_or_init(|| tools().then(|| {
            [KINDS[0], KINDS[2], KINDS[4]].iter().map(|(_, kib, args)| {
                let view = writable(made(*kib, args));
                let fs = open_mut(view.clone()).unwrap();
                populate(&*fs);
                let bytes = bytes_of(&*view);
                // Where something but zeroes is, and no more of content than of metadata.
                let full: Vec<usize> = (0..bytes.len().min(400_000)).filter(|at| bytes[*at] != 0).take(30_000).collect();
                (bytes, full)
            }).collect()
        }));
        let Some(images) = images else { return Ok(()) };
        let (good, full) = &images[kind];
        let mut bytes = good.clone();
        for (share, value) in hits {
            let at = if value % 2 == 0 { (share * 100.0) as usize } else { full[(share * full.len() as f64) as usize] };
            bytes[at] = value;
        }
        let _ = open(memory_disk(bytes.clone())).and_then(|fs| tree(&*fs));
        let view = writable(bytes);
        match open_mut(view.clone()) {
            Ok(fs) => {
                let _ = fs.create(fs.root(), b"a new file", 0o644, (0, 0), &noise(1, 5000));
                let _ = fs.create_dir(fs.root(), b"a new directory", 0o755, (0, 0));
                let _ = tree(&*fs);
            }
            Err(_) => prop_assert!(view.written().is_empty()),
        }
    }
}

#[test]
fn a_dirty_filesystem_is_written_and_stays_marked() {
    if !tools() {
        return;
    }
    let mut bytes = made(16_384, &["-F", "16"]);
    bytes[0x25] |= 1;
    let view = writable(bytes);
    let fs = open_mut(view.clone()).unwrap();
    fs.create(fs.root(), b"file", 0o644, (0, 0), b"x").unwrap();
    let (_, said, mended) = fsck(&bytes_of(&*view), "-a");
    assert!(said.contains("Dirty bit"), "{said}");
    assert_sound(&mended, "dirty before");
}

/// Mounted through a loop device, when this process may; unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn the_kernel_reads_and_extends_what_was_written() {
    if !tools() {
        return;
    }
    for (what, kib, args) in KINDS.iter().take(5) {
        let view = writable(made(*kib, args));
        let fs = open_mut(view.clone()).unwrap();
        populate(&*fs);
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("fat.raw");
        std::fs::write(&path, bytes_of(&*view)).unwrap();
        let point = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "vfat", "-o", "loop,utf8=1,umask=022"])
            .arg(&path)
            .arg(point.path())
            .output();
        if !out.is_ok_and(|out| out.status.success()) {
            println!("skipped: needs root and a kernel that mounts vfat from a file");
            return;
        }
        let mounted = Mounted(point);
        assert_same_tree(&tree(&*fs).unwrap(), &host_tree(mounted.0.path()), what);
        std::fs::write(
            mounted.0.path().join("EFI/BOOT/the kernel's own"),
            noise(9, 9000),
        )
        .unwrap();
        std::fs::remove_file(mounted.0.path().join("EFI/BOOT/grub.cfg")).unwrap();
        let theirs = host_tree(mounted.0.path());
        drop(mounted);
        let bytes = std::fs::read(&path).unwrap();
        assert_sound(&bytes, what);
        assert_same_tree(
            &tree(&*open(memory_disk(bytes)).unwrap()).unwrap(),
            &theirs,
            what,
        );
    }
}

#[test]
fn images_of_others_open_as_recorded() {
    let Some(root) = corpora() else { return };
    let mut opened = 0;
    for line in std::fs::read_to_string(root.join("EXPECTED.jsonl"))
        .unwrap()
        .lines()
    {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let fat = record["fs"]["tsk_fsstat_type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("fat"));
        if !fat {
            continue;
        }
        let stored = record["stored"].as_str().unwrap();
        let Some(bytes) = unpacked(&root.join(record["origin"].as_str().unwrap()).join(stored))
        else {
            continue;
        };
        let fs = open(memory_disk(bytes)).unwrap_or_else(|error| panic!("{stored}: {error}"));
        let blkid = &record["fs"]["blkid"];
        assert_eq!(
            fs.identity().uuid.as_deref(),
            blkid["UUID"].as_str(),
            "{stored}"
        );
        assert_eq!(
            fs.identity().label.is_some(),
            blkid["LABEL"].is_string(),
            "{stored}"
        );
        tree(&*fs).unwrap_or_else(|error| panic!("{stored}: {error}"));
        opened += 1;
    }
    assert!(opened >= 8, "{opened}");
}
