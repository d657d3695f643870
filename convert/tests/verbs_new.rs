//! Verbs that make or measure images, as a user runs them, judged by qemu-img and the files' lengths.
#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::{content, image, info, sound};
use common::{hash, have, judge, ran, rehost, run, sample_raw};

const SIZE: u64 = 24 << 20;

/// Kinds of images: the name to write to, how qemu-img calls the format, options.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("raw", "raw", &[]),
    ("raw", "raw", &["-o", "preallocation=falloc"]),
    ("qcow2", "qcow2", &[]),
    ("qcow2", "qcow2", &["-o", "cluster_size=512"]),
    ("qcow2", "qcow2", &["-o", "cluster_size=2M,compat=0.10"]),
    ("qcow2", "qcow2", &["-o", "extended_l2=on,refcount_bits=64"]),
    ("qcow2", "qcow2", &["-o", "preallocation=metadata"]),
    ("qcow2", "qcow2", &["-o", "preallocation=full"]),
    ("qcow2", "qcow2", &["-o", "data_file=data.raw"]),
    ("qcow2", "qcow2", &["--compress", "zlib"]),
    ("qcow2", "qcow2", &["--compress", "zstd:5"]),
    (
        "qcow2",
        "qcow2",
        &["--compress", "zstd", "-o", "cluster_size=4K"],
    ),
    ("vmdk", "vmdk", &[]),
    ("vmdk", "vmdk", &["-o", "subformat=monolithicFlat"]),
    ("vmdk", "vmdk", &["-o", "subformat=twoGbMaxExtentSparse"]),
    ("vmdk", "vmdk", &["-o", "subformat=twoGbMaxExtentFlat"]),
    ("vmdk", "vmdk", &["--compress", "zlib:3"]),
    ("vhd", "vpc", &[]),
    ("vhd", "vpc", &["-o", "subformat=fixed"]),
    ("vhd", "vpc", &["-o", "block_size=512K"]),
    ("vhd", "vpc", &["--azure"]),
    ("vhdx", "vhdx", &[]),
    ("vhdx", "vhdx", &["-o", "subformat=fixed"]),
    (
        "vhdx",
        "vhdx",
        &["-o", "block_size=4M,logical_sector_size=4096"],
    ),
    ("vdi", "vdi", &[]),
    ("vdi", "vdi", &["-o", "subformat=static"]),
];

/// Lengths of all files in a folder together.
fn lengths(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn measure_says_to_the_byte_what_convert_writes() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE + 12_345);
    let full = folder.path().join("full.raw");
    let mut noise = Vec::new();
    let mut state = 1u64;
    while (noise.len() as u64) < SIZE + 12_345 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate((SIZE + 12_345) as usize);
    fs::write(&full, noise).unwrap();
    for (format, _, options) in KINDS {
        let measured = ran(rehost()
            .args(["measure", "--json", "--to", format])
            .args(*options)
            .arg(&raw)
            .output()
            .unwrap())
        .exits(0)
        .json();
        for (source, key) in [(&raw, "required"), (&full, "fully-allocated")] {
            let out = tempfile::tempdir().unwrap();
            judge(
                rehost()
                    .arg("convert")
                    .args(*options)
                    .arg(source)
                    .arg(out.path().join(format!("disk.{format}"))),
            );
            assert_eq!(
                measured[key].as_u64(),
                Some(lengths(out.path())),
                "{key} of {format} {options:?}"
            );
        }
    }
}

#[test]
fn what_create_makes_is_as_long_as_measured_and_reads_as_zeroes() {
    if !have("qemu-img") {
        return;
    }
    for (format, theirs, options) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("disk.{format}"));
        let measured = ran(rehost()
            .args(["measure", "--json", "--size", "10M", "--to", format])
            .args(*options)
            .output()
            .unwrap())
        .exits(0)
        .json();
        judge(
            rehost()
                .args(["create", "--quiet"])
                .arg(&path)
                .arg("10M")
                .args(*options),
        );
        assert_eq!(
            measured["required"].as_u64(),
            Some(lengths(folder.path())),
            "{format} {options:?}"
        );
        if options.iter().any(|words| words.contains("4096")) {
            // QEMU opens no VHDX with such sectors.
            let blank = folder.path().join("blank.raw");
            fs::write(&blank, vec![0; 10 << 20]).unwrap();
            run(["compare".as_ref(), path.as_os_str(), blank.as_os_str()]).exits(0);
            continue;
        }
        assert_eq!(info(&path, theirs)["virtual-size"], 10 << 20);
        assert!(content(&path, theirs).iter().all(|byte| *byte == 0));
        sound(&path, theirs);
        let again = rehost()
            .arg("create")
            .arg(&path)
            .arg("10M")
            .args(*options)
            .output();
        ran(again.unwrap())
            .exits(2)
            .says(&["exists already", "--force"]);
    }
}

#[test]
fn a_created_child_is_its_parent_still() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let bytes = fs::read(&raw).unwrap();
    let base = image(&raw, "qcow2", "base.qcow2");
    let child = folder.path().join("child.qcow2");
    judge(rehost().arg("create").arg(&child).arg("-B").arg(&base));
    assert!(content(&child, "qcow2") == bytes);
    assert_eq!(info(&child, "qcow2")["backing-filename"], "base.qcow2");
    let longer = folder.path().join("longer.qcow2");
    judge(
        rehost()
            .arg("create")
            .arg(&longer)
            .arg("30M")
            .arg("-B")
            .arg(&base),
    );
    let mut expected = bytes;
    expected.resize(30 << 20, 0);
    assert!(content(&longer, "qcow2") == expected);
    assert!(child.metadata().unwrap().len() < 1 << 20);
}

/// An image of `format` in which what was written was overwritten with zeroes again.
fn wasteful(raw: &Path, format: &str, name: &str) -> PathBuf {
    let full = raw.with_file_name("full.raw");
    fs::write(&full, vec![0x5a; SIZE as usize]).unwrap();
    let path = image(&full, format, name);
    let mut writes: Vec<String> = Vec::new();
    let bytes = fs::read(raw).unwrap();
    for (nth, piece) in bytes.chunks(1 << 20).enumerate() {
        let part = raw.with_file_name(format!("{nth}.part"));
        fs::write(&part, piece).unwrap();
        writes.push(format!(
            "write -s {} {}M {}",
            part.display(),
            nth,
            piece.len()
        ));
    }
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", format]);
    for write in &writes {
        qemu.args(["-c", write]);
    }
    judge(qemu.arg(&path));
    path
}

#[test]
fn a_compacted_image_reads_the_same_and_is_smaller() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let bytes = fs::read(&raw).unwrap();
    for (format, theirs) in [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vhdx", "vhdx"),
        ("vdi", "vdi"),
    ] {
        let path = wasteful(&raw, theirs, &format!("wasteful.{format}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = path.metadata().unwrap();
        let said = run(["compact".as_ref(), path.as_os_str(), "--json".as_ref()])
            .exits(0)
            .json();
        let after = path.metadata().unwrap();
        assert!(after.len() < before.len(), "{format}");
        assert_eq!(after.mode() & 0o777, 0o640);
        assert!(content(&path, theirs) == bytes, "{format}");
        sound(&path, theirs);
        let saved = (before.blocks() as i64 - after.blocks() as i64) * 512;
        assert_eq!(said["saved"], saved, "{format}");
    }
}

#[test]
fn a_compacted_child_keeps_its_parent_and_loses_what_that_has_too() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let base = image(&raw, "qcow2", "base.qcow2");
    let child = folder.path().join("child.qcow2");
    judge(rehost().arg("create").arg(&child).arg("-B").arg(&base));
    let copy = folder.path().join("part");
    let bytes = fs::read(&raw).unwrap();
    fs::write(&copy, &bytes[4 << 20..12 << 20]).unwrap();
    judge(
        Command::new("qemu-io")
            .args(["-f", "qcow2", "-c"])
            .arg(format!("write -s {} 4M 8M", copy.display()))
            .args(["-c", "write -P 7 15M 64k", "-c", "write -z 16M 1M"])
            .arg(&child),
    );
    let before = (content(&child, "qcow2"), child.metadata().unwrap().len());
    let parent = hash(&base);
    run(["compact".as_ref(), child.as_os_str()]).exits(0);
    assert!(content(&child, "qcow2") == before.0);
    assert!(child.metadata().unwrap().len() + (7 << 20) < before.1);
    assert_eq!(info(&child, "qcow2")["backing-filename"], "base.qcow2");
    sound(&child, "qcow2");
    assert_eq!(hash(&base), parent);
}

#[test]
fn compact_refuses_what_would_be_lost() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let path = image(&raw, "qcow2", "a.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["snapshot", "-c", "one"])
            .arg(&path),
    );
    let before = hash(&path);
    run(["compact".as_ref(), path.as_os_str()])
        .exits(2)
        .says(&["a.qcow2", "snapshots"]);
    assert_eq!(hash(&path), before);
}

#[test]
fn check_tells_findings_from_soundness_by_its_exit_code() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let path = image(&raw, "vdi", "a.vdi");
    let clean = run(["check".as_ref(), path.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    assert_eq!(clean["corruptions"], 0);
    assert_eq!(clean["format"], "vdi");
    // Two blocks of the disk in one place of the file.
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut header = [0; 0x200];
    file.read_exact_at(&mut header, 0).unwrap();
    let map = u64::from(u32::from_le_bytes(header[0x154..0x158].try_into().unwrap()));
    file.write_all_at(&[0, 0, 0, 0, 0, 0, 0, 0], map).unwrap();
    let found = run(["check".as_ref(), path.as_os_str(), "--json".as_ref()])
        .exits(1)
        .json();
    assert!(found["corruptions"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(found["findings"][0]["severity"], "corruption");
}

#[test]
fn a_packed_image_is_no_parent() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("base.raw");
    sample_raw(&raw, SIZE);
    let packed = folder.path().join("base.raw.gz");
    run([Path::new("convert"), &raw, &packed]).exits(0);
    let child = folder.path().join("child.qcow2");
    let made = run([Path::new("create"), &child, Path::new("-B"), &packed]).exits(2);
    made.says(&["packed with gzip", "unpack"]);
    assert!(!child.exists());
}
