//! Files written through stacks of volumes with `rehost cp` and `rehost rm`: the bytes of the filesystem are
//! taken out of the disks again by the tests' own arithmetic, or by qemu-img and cryptsetup, and judged by
//! the filesystem's checker and the kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

#[allow(dead_code)]
#[path = "../../formats/volume/tests/lvm/built.rs"]
mod lvm;
#[allow(dead_code)]
#[path = "../../formats/volume/tests/md/built.rs"]
mod md;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::stacked::{
    MIB, Target, ext4, judge_filesystem, partitioned, qemu_img, raw_of, tree_before, write,
};
use common::{have, judge, run};

const UUID: &str = "11111111-2222-4333-8444-555555555555";
const EXTENT: usize = MIB / 2;

/// The two physical volumes of a group whose `vg/root` is `filesystem`: one half on each.
fn halves(filesystem: &[u8]) -> [Vec<u8>; 2] {
    assert_eq!(filesystem.len() % (2 * EXTENT), 0);
    let half = u32::try_from(filesystem.len() / 2 / EXTENT).unwrap();
    let segments = [
        lvm::linear(0, half, "pv0", 1),
        lvm::linear(half, half, "pv1", 0),
    ];
    let root = lvm::volume("root", ", \"VISIBLE\"", &[&segments[0], &segments[1]]);
    let text =
        lvm::group(2, 7, &root).replace("pe_count = 14", &format!("pe_count = {}", half + 2));
    [0u8, 1].map(|nth| {
        let half = filesystem.len() / 2;
        let mut volume = lvm::physical(nth, &text, 512);
        volume.truncate(MIB);
        volume.resize(MIB + half + 2 * EXTENT, 0);
        let (first, second) = filesystem.split_at(half);
        let (part, at) = if nth == 0 {
            (first, EXTENT)
        } else {
            (second, 0)
        };
        volume[MIB + at..][..half].copy_from_slice(part);
        volume
    })
}

/// The filesystem of [`halves`] again.
fn joined(volumes: [&[u8]; 2], len: usize) -> Vec<u8> {
    let half = len / 2;
    [
        &volumes[0][MIB + EXTENT..][..half],
        &volumes[1][MIB..][..half],
    ]
    .concat()
}

/// An image of `disk` in `format`.
fn image(folder: &Path, name: &str, disk: &[u8], format: &str) -> String {
    let raw = write(folder, name, disk);
    if format == "raw" {
        return raw;
    }
    let made = format!("{raw}.{format}");
    qemu_img(&["convert", "-f", "raw", "-O", format, &raw, &made]);
    fs::remove_file(raw).unwrap();
    made
}

/// A group over a partition and a whole disk, written to and judged.
fn assert_written_on_a_group(kind: &str, filesystem: &[u8], scratch: &Path, large: usize) {
    for format in ["raw", "qcow2"] {
        let [first, second] = halves(filesystem);
        let first = partitioned(&[(0x8e, &first)]);
        let images = [
            image(scratch, "first", &first, format),
            image(scratch, "second", &second, format),
        ];
        let target = Target {
            image: &images[0],
            more: &["--disk", &images[1], "--volume", "vg/root"],
        };
        target.change(scratch, large);
        target.assert_changed(scratch);
        let [first, second] = [&images[0], &images[1]].map(|image| raw_of(image, format));
        let found = joined([&first[MIB..], &second], filesystem.len());
        judge_filesystem(scratch, kind, &found);
    }
}

#[test]
fn ext4_on_a_volume_group_over_two_disks_is_written() {
    if !["mke2fs", "e2fsck", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let filesystem = ext4(scratch, &tree_before(scratch), UUID, "root", 12 << 10);
    assert_written_on_a_group("ext4", &filesystem, scratch, 3_000_000);
}

#[test]
fn xfs_on_a_volume_group_over_two_disks_is_written() {
    if !["mkfs.xfs", "xfs_repair", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let tree = tree_before(scratch);
    let file = |name: &str| format!("{name} ---644 0 0 {}\n", tree.join(name).display());
    let proto = scratch.join("proto");
    let lines = format!(
        "/dev/null\n0 0\nd--755 0 0\n{}{}$\n",
        file("keep"),
        file("old")
    );
    fs::write(&proto, lines).unwrap();
    let made = write(scratch, "xfs", &[]);
    fs::OpenOptions::new()
        .write(true)
        .open(&made)
        .and_then(|file| file.set_len(300 << 20))
        .unwrap();
    judge(
        Command::new("mkfs.xfs")
            .args(["-q", "-f", "-p"])
            .arg(&proto)
            .arg(&made),
    );
    let filesystem = fs::read(&made).unwrap();
    assert_written_on_a_group("xfs", &filesystem, scratch, 3_000_000);
}

/// Arrays by their tables of chunks: name, level, layout, members, and chunks of the table.
const ARRAYS: [(&str, i32, u32, usize, &[&str]); 4] = [
    ("raid1", 1, 0, 2, &["0 0"]),
    ("raid5", 5, 2, 3, &["0 1 P", "3 P 2", "P 4 5"]),
    (
        "raid6",
        6,
        2,
        4,
        &["Q 0 1 P", "2 3 P Q", "5 P Q 4", "P Q 6 7"],
    ),
    ("raid10", 10, 0x102, 4, &["0 0 1 1"]),
];

/// The array that its members' data are by its table.
fn plain_of(table: &[&str], members: &[&[u8]], chunks: usize) -> Vec<u8> {
    let rows: Vec<Vec<&str>> = table.iter().map(|row| row.split(' ').collect()).collect();
    let numbers = rows.iter().flatten().filter_map(|cell| cell.parse().ok());
    let period = numbers.max().map_or(0, |most: usize| most + 1);
    let mut plain = Vec::new();
    for nth in 0..chunks {
        let cell = (nth % period).to_string();
        let (row, slot) = (0..rows.len())
            .find_map(|row| Some((row, rows[row].iter().position(|one| **one == cell)?)))
            .unwrap();
        let row = nth / period * rows.len() + row;
        plain.extend_from_slice(&members[slot][row * md::CHUNK..][..md::CHUNK]);
    }
    plain
}

#[test]
fn arrays_are_written_with_their_mirrors_and_parity() {
    if !["mke2fs", "e2fsck", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let tree = tree_before(scratch);
    for (nth, (name, level, layout, members, table)) in ARRAYS.into_iter().enumerate() {
        // One image format each: the stack above is the same.
        let format = ["raw", "qcow2"][nth % 2];
        let made = md::Made {
            version: "1.2",
            level,
            layout,
            members,
        };
        let data = match name {
            "raid1" => 1,
            "raid10" => 2,
            "raid5" => members - 1,
            _ => members - 2,
        };
        let chunks = md::ROWS * data;
        let kib = chunks * md::CHUNK / 1024;
        let filesystem = ext4(scratch, &tree, UUID, name, kib);
        let data = md::lay_out_of(table, &filesystem);
        let images: Vec<String> = (0..members)
            .map(|slot| {
                let member = md::member(made, slot, &data[slot], md::HEALTHY);
                let disk = partitioned(&[(0xfd, &member)]);
                image(scratch, &format!("{name}-{slot}"), &disk, format)
            })
            .collect();
        let mut more: Vec<&str> = images[1..]
            .iter()
            .flat_map(|image| ["--disk", image])
            .collect();
        more.extend(["--volume", "md0"]);
        let target = Target {
            image: &images[0],
            more: &more,
        };
        target.change(scratch, 50_000);
        target.assert_changed(scratch);

        let disks: Vec<Vec<u8>> = images.iter().map(|image| raw_of(image, format)).collect();
        let start = 2 * MIB;
        let found: Vec<&[u8]> = disks
            .iter()
            .zip(&data)
            .map(|(disk, data)| &disk[start..][..data.len()])
            .collect();
        let plain = plain_of(table, &found, chunks);
        assert!(plain != filesystem);
        judge_filesystem(scratch, "ext4", &plain);
        // Mirrors and parity are what a new array of this content would have.
        let expected = md::lay_out_of(table, &plain);
        for (slot, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(found == expected, "{name}: member {slot}");
        }
        // And what is read without any one member is the same.
        for left_out in 0..members {
            let rest: Vec<&String> = (0..members)
                .filter(|slot| *slot != left_out)
                .map(|slot| &images[slot])
                .collect();
            let mut more: Vec<&str> = rest[1..].iter().flat_map(|one| ["--disk", one]).collect();
            more.extend(["--volume", "md0"]);
            let degraded = Target {
                image: rest[0],
                more: &more,
            };
            degraded.assert_changed(scratch);
        }
    }
}

/// LUKS1 of `plain` by qemu-img, whose passphrase is `right`; it measures its own key derivation, which a
/// busy machine can make it give up.
fn luks1(folder: &Path, plain: &str) -> String {
    let luks = format!("{plain}.luks");
    let words = [
        "convert",
        "-f",
        "raw",
        "-O",
        "luks",
        "--object",
        "secret,id=s,data=right",
    ];
    let made = (0..5).any(|_| {
        let _ = fs::remove_file(&luks);
        let out = Command::new("qemu-img")
            .current_dir(folder)
            .args(words)
            .args(["-o", "key-secret=s,iter-time=10", plain, &luks])
            .output()
            .unwrap();
        let said = common::ran(out);
        let busy = said.stderr.contains("accurate CPU usage");
        assert!(said.code == 0 || busy, "{}", said.stderr);
        said.code == 0
    });
    assert!(made, "qemu-img cannot measure its key derivation here");
    luks
}

/// What qemu-img reads of such a volume.
fn opened1(folder: &Path, luks: &[u8]) -> Vec<u8> {
    let name = write(folder, "luks.written", luks);
    let plain = format!("{name}.plain");
    let options = format!("driver=luks,key-secret=s,file.filename={name}");
    let secret = [
        "--object",
        "secret,id=s,data=right",
        "--image-opts",
        &options,
    ];
    qemu_img(&[&["convert", "-O", "raw"][..], &secret, &[&plain]].concat());
    fs::read(plain).unwrap()
}

#[test]
fn ext4_in_luks1_is_written() {
    if !["mke2fs", "e2fsck", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let plain = ext4(scratch, &tree_before(scratch), UUID, "root", 8 << 10);
    let luks = luks1(scratch, scratch.join("root.ext4").to_str().unwrap());
    let luks = fs::read(luks).unwrap();
    let key = write(scratch, "key", b"right");
    for format in ["raw", "qcow2"] {
        let image = image(scratch, "disk", &partitioned(&[(0x83, &luks)]), format);
        let target = Target {
            image: &image,
            more: &["--key-file", &key],
        };
        target.change(scratch, 1_000_000);
        target.assert_changed(scratch);
        let disk = raw_of(&image, format);
        let found = opened1(scratch, &disk[MIB..][..luks.len()]);
        assert_eq!(found.len(), plain.len());
        judge_filesystem(scratch, "ext4", &found);
    }
}

#[test]
fn ext4_in_luks2_is_written() {
    if !["mke2fs", "e2fsck", "qemu-img", "cryptsetup"]
        .into_iter()
        .all(have)
    {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let plain = ext4(scratch, &tree_before(scratch), UUID, "root", 8 << 10);
    let key = write(scratch, "key", b"right");
    // cryptsetup encrypts and decrypts files where they are, without the kernel's device mapper.
    let mut room = plain.clone();
    room.resize(plain.len() + 32 * MIB, 0);
    let luks = write(scratch, "luks2", &room);
    let cryptsetup = |verb: &[&str], file: &str| {
        Command::new("cryptsetup")
            .args([
                "reencrypt",
                "-q",
                "--force-offline-reencrypt",
                "--key-file",
                &key,
            ])
            .args(verb)
            .arg(file)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output()
            .unwrap()
    };
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let verb = [
        "--encrypt",
        "--type",
        "luks2",
        "--reduce-device-size",
        "32M",
    ];
    let made = common::ran(cryptsetup(&[&verb[..], &quick].concat(), &luks));
    if made.code != 0 {
        println!(
            "skipped: needs cryptsetup with the kernel's crypto: {}",
            made.stderr
        );
        return;
    }
    let luks = fs::read(luks).unwrap();
    for format in ["raw", "qcow2"] {
        let image = image(scratch, "disk", &partitioned(&[(0x83, &luks)]), format);
        let target = Target {
            image: &image,
            more: &["--key-file", &key],
        };
        target.change(scratch, 1_000_000);
        target.assert_changed(scratch);
        let disk = raw_of(&image, format);
        let written = write(scratch, "written", &disk[MIB..][..luks.len()]);
        let header = scratch.join("header");
        let _ = fs::remove_file(&header);
        let header = header.to_str().unwrap();
        let opened = common::ran(cryptsetup(&["--decrypt", "--header", header], &written));
        assert_eq!(opened.code, 0, "{}", opened.stderr);
        let mut found = fs::read(&written).unwrap();
        found.truncate(plain.len());
        judge_filesystem(scratch, "ext4", &found);
    }
}

#[test]
fn ext4_on_lvm_in_luks_on_a_mirror_is_written_through_all_of_them() {
    if !["mke2fs", "e2fsck", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let filesystem = ext4(scratch, &tree_before(scratch), UUID, "root", 6 << 10);
    let [first, second] = halves(&filesystem);
    // The group's second physical volume is a disk of its own, in the clear.
    let luks = luks1(scratch, &write(scratch, "pv", &first));
    let luks = fs::read(luks).unwrap();
    let made = md::Made {
        version: "1.2",
        level: 1,
        layout: 0,
        members: 2,
    };
    let images: Vec<String> = (0..2)
        .map(|slot| {
            let member = md::member(made, slot, &luks, md::HEALTHY);
            let disk = partitioned(&[(0xfd, &member)]);
            image(scratch, &format!("member{slot}"), &disk, "qcow2")
        })
        .collect();
    let other = write(scratch, "other", &second);
    let key = write(scratch, "key", b"right");
    let target = Target {
        image: &images[0],
        more: &[
            "--disk",
            &images[1],
            "--disk",
            &other,
            "--key-file",
            &key,
            "--volume",
            "vg/root",
        ],
    };
    let listed = run([
        "lsblk",
        &images[0],
        "--disk",
        &images[1],
        "--disk",
        &other,
        "--key-file",
        &key,
    ]);
    assert!(listed.exits(0).stdout.contains("vg/root"));
    target.change(scratch, 1_000_000);
    target.assert_changed(scratch);
    let members: Vec<Vec<u8>> = images
        .iter()
        .map(|image| raw_of(image, "qcow2")[2 * MIB..][..luks.len()].to_vec())
        .collect();
    assert!(members[0] == members[1], "both halves of the mirror");
    let first = opened1(scratch, &members[0]);
    let second = fs::read(&other).unwrap();
    judge_filesystem(
        scratch,
        "ext4",
        &joined([&first, &second], filesystem.len()),
    );
}
