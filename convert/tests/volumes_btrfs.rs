//! Btrfs as a user reaches it: its subvolumes by name, and filesystems over several disks, written to with
//! `rehost cp` and `rehost rm` and judged by btrfs check and the kernel. The subvolumes need root and
//! loop mounts; says so where there are none.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::stacked::{Mount, Target, assert_tree, qemu_img, raw_of, tree_before};
use common::{have, judge, run};

/// An empty image of so many MiB.
fn room(folder: &Path, name: &str, mib: u64) -> PathBuf {
    let path = folder.join(name);
    fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// A filesystem over so many images that `mkfs.btrfs` fills from a directory, which it does on the first
/// device only; the kernel's balance spreads it where it can.
fn made(folder: &Path, images: &[PathBuf], profile: &[&str]) -> bool {
    let tree = tree_before(folder);
    judge(
        Command::new("mkfs.btrfs")
            .args(["-q", "-f"])
            .args(profile)
            .args(images),
    );
    let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    let at = folder.join("filled");
    let Some(_mounted) = Mount::new(&paths, &at, "noatime") else {
        return false;
    };
    judge(Command::new("cp").arg("-r").arg(tree.join(".")).arg(&at));
    true
}

#[test]
fn filesystems_over_several_disks_are_written_on_all_of_them() {
    if !["mkfs.btrfs", "btrfs", "qemu-img"].into_iter().all(have) {
        return;
    }
    let cases: [(&[&str], usize); 6] = [
        (&["-d", "raid1", "-m", "raid1"], 2),
        (&["-d", "single", "-m", "dup"], 1),
        (&["-d", "dup", "-m", "dup"], 1),
        (&["-d", "raid0", "-m", "raid1"], 2),
        (&["-d", "single", "-m", "raid1"], 2),
        (&["-d", "raid10", "-m", "raid10"], 4),
    ];
    for (nth, (profile, disks)) in cases.into_iter().enumerate() {
        let scratch = tempfile::tempdir().unwrap();
        let scratch = scratch.path();
        let raw: Vec<PathBuf> = (0..disks)
            .map(|disk| room(scratch, &format!("disk{disk}"), 256))
            .collect();
        if !made(scratch, &raw, profile) {
            return;
        }
        let format = ["raw", "qcow2"][nth % 2];
        let images: Vec<String> = raw
            .iter()
            .map(|raw| {
                let raw = raw.to_str().unwrap();
                if format == "raw" {
                    return raw.to_owned();
                }
                let image = format!("{raw}.qcow2");
                qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw, &image]);
                image
            })
            .collect();
        let more: Vec<&str> = images[1..]
            .iter()
            .flat_map(|image| ["--disk", image])
            .collect();
        let target = Target {
            image: &images[0],
            more: &more,
        };
        if disks > 1 {
            // Without its other members it is not written at all.
            let before = common::hash(Path::new(&images[0]));
            let alone = Target {
                image: &images[0],
                more: &["--volume", "0"],
            };
            alone.run("rm", &["/old", "--in-place"]).exits(2);
            assert_eq!(common::hash(Path::new(&images[0])), before);
        }
        target.change(scratch, 3_000_000);
        target.assert_changed(scratch);
        let written: Vec<PathBuf> = images
            .iter()
            .map(|image| {
                let path = PathBuf::from(format!("{image}.written"));
                fs::write(&path, raw_of(image, format)).unwrap();
                path
            })
            .collect();
        let paths: Vec<&Path> = written.iter().map(PathBuf::as_path).collect();
        check(&paths);
        let at = scratch.join("at");
        let Some(_mounted) = Mount::new(&paths, &at, "noatime") else {
            return;
        };
        assert_tree(scratch, &at);
        judge(
            Command::new("btrfs")
                .args(["scrub", "start", "-B"])
                .arg(&at),
        );
        let status = judge(Command::new("btrfs").args(["scrub", "status"]).arg(&at));
        assert!(status.contains("no errors found"), "{profile:?}: {status}");
    }
}

/// `btrfs check` of a filesystem on one image or several, which it wants on loop devices.
fn check(images: &[&Path]) {
    let attached: Vec<String> = images
        .iter()
        .map(|image| judge(Command::new("losetup").args(["-f", "--show"]).arg(image)))
        .map(|device| device.trim().to_owned())
        .collect();
    let _ = Command::new("btrfs")
        .args(["device", "scan"])
        .args(&attached)
        .output();
    let out = Command::new("btrfs")
        .args(["check", "--check-data-csum", &attached[0]])
        .output()
        .unwrap();
    let _ = Command::new("btrfs")
        .args(["device", "scan", "--forget"])
        .args(&attached)
        .output();
    for device in &attached {
        let _ = Command::new("losetup").args(["-d", device]).status();
    }
    let said = common::ran(out);
    assert_eq!(said.code, 0, "{}\n{}", said.stdout, said.stderr);
}

#[test]
fn subvolumes_are_reached_by_the_names_that_mount_takes() {
    if !["mkfs.btrfs", "btrfs"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let image = room(scratch, "disk", 256);
    if !made(scratch, std::slice::from_ref(&image), &[]) {
        return;
    }
    let at = scratch.join("at");
    let mounted = Mount::new(&[&image], &at, "noatime").unwrap();
    for name in ["@", "@home", "@/var"] {
        judge(
            Command::new("btrfs")
                .args(["subvolume", "create"])
                .arg(at.join(name)),
        );
        fs::write(at.join(name).join("here"), name).unwrap();
    }
    fs::write(at.join("@home/old"), "x").unwrap();
    fs::write(at.join("@home/keep"), "x").unwrap();
    let id = judge(
        Command::new("btrfs")
            .args(["inspect-internal", "rootid"])
            .arg(at.join("@home")),
    );
    judge(
        Command::new("btrfs")
            .args(["subvolume", "set-default"])
            .arg(at.join("@")),
    );
    drop(mounted);
    let image = image.to_str().unwrap();
    let cat = |subvolume: &str, volume: &[&str]| {
        let words = ["cat", image, "/here", "--subvolume", subvolume];
        run([&words[..], volume].concat())
    };
    let number = format!("#{}", id.trim());
    for (name, here) in [
        ("@", "@"),
        ("/@home", "@home"),
        (&number, "@home"),
        ("@/var", "@/var"),
    ] {
        assert_eq!(cat(name, &[]).exits(0).stdout, here);
        assert_eq!(cat(name, &["--volume", "0"]).exits(0).stdout, here);
    }
    // Without one, what is mounted without one; the top one by its own name.
    let plain = run(["cat", image, "/here", "--volume", "0"]).exits(0);
    assert_eq!(plain.stdout, "@");
    let top = run(["ls", image, "--subvolume", "/"]).exits(0).stdout;
    assert_eq!(top, "@\n@home\ndir\nkeep\nold\n");
    cat("@nothing", &[])
        .exits(2)
        .says(&["@nothing", "there are: /, @, @home, @/var"]);
    cat("dir", &[]).exits(2).says(&["not a subvolume"]);
    for verb in ["tree", "du"] {
        let said = run([verb, image, "--subvolume", "@home"]).exits(0);
        assert!(!said.stdout.is_empty());
    }

    // Written there, and nowhere else.
    let target = Target {
        image,
        more: &["--subvolume", "@home"],
    };
    target.change(scratch, 200_000);
    target.assert_changed(scratch);
    let target = Target {
        image,
        more: &["--subvolume", "/"],
    };
    target.run("rm", &["/old", "--in-place"]).exits(0);
    check(&[Path::new(image)]);
    let mounted = Mount::new(&[Path::new(image)], &at, "ro,subvolid=5").unwrap();
    assert_tree(scratch, &at.join("@home"));
    assert!(!at.join("old").exists() && !at.join("@/site").exists());
    drop(mounted);

    let other = room(scratch, "other", 8);
    judge(Command::new("mke2fs").args(["-q", "-F"]).arg(&other));
    let other = other.to_str().unwrap();
    run(["ls", other, "--volume", "0", "--subvolume", "@"])
        .exits(2)
        .says(&["has no subvolumes", "ext2"]);
    run(["ls", other, "--subvolume", "@"])
        .exits(2)
        .says(&["no Btrfs"]);
}

/// What du(1) says of a directory in KiB, by itself and with `words`.
fn du(at: &Path, words: &[&str]) -> String {
    let said = judge(Command::new("du").args(words).arg(".").current_dir(at));
    said.replace("\t.", "\t")
}

#[test]
fn du_says_what_du_says_of_a_mount() {
    let makers: [(&str, &[&str], u64); 3] = [
        ("mke2fs", &["-q", "-F", "-t", "ext4"], 64),
        ("mkfs.xfs", &["-q", "-f"], 300),
        ("mkfs.btrfs", &["-q", "-f"], 256),
    ];
    for (make, words, mib) in makers {
        if !have(make) {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let scratch = scratch.path();
        let image = room(scratch, "disk", mib);
        judge(Command::new(make).args(words).arg(&image));
        let at = scratch.join("at");
        let Some(mounted) = Mount::new(&[&image], &at, "noatime") else {
            return;
        };
        fs::create_dir_all(at.join("a/b")).unwrap();
        for (name, len) in [("a/one", 1usize), ("a/b/two", 5000), ("a/three", 1_234_567)] {
            fs::write(at.join(name), common::stacked::noise(3, len)).unwrap();
        }
        fs::hard_link(at.join("a/three"), at.join("a/b/again")).unwrap();
        fs::File::create(at.join("a/hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        std::os::unix::fs::symlink("one", at.join("a/link")).unwrap();
        for nth in 0..300 {
            fs::write(at.join(format!("a/b/name-{nth}")), "").unwrap();
        }
        drop(mounted);
        let _mounted = Mount::new(&[&image], &at, "ro").unwrap();
        let image = image.to_str().unwrap();
        let top = at.join("a");
        // Sums only: which directory a file with two names counts in is a matter of order.
        for words in [&["-s"][..], &["-s", "--apparent-size"], &["-sb"]] {
            let said = run([&["du", "--volume", "0", image, "/a"], words].concat()).exits(0);
            let (ours, theirs) = (said.stdout.replace("\t/a", "\t"), du(&top, words));
            assert_eq!(ours, theirs, "{make} {words:?}");
        }
        let json = run(["du", "-s", "--json", "--volume", "0", image, "/a"])
            .exits(0)
            .json();
        let blocks: u64 = [
            "a", "a/b", "a/one", "a/b/two", "a/three", "a/hole", "a/link",
        ]
        .iter()
        .map(|name| at.join(name).symlink_metadata().unwrap().blocks() * 512)
        .sum();
        assert_eq!(json[0]["allocated"], blocks, "{make}");
    }
}
