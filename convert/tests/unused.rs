//! `convert --skip-unused` and `--zero-swap`: what is left out nobody misses, judged by the checkers of
//! the filesystems; and in doubt nothing is.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{guest, have, judge, run};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Bytes of which a copy cannot leave out any by itself.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// A part of a file, as a file of its own.
fn cut(disk: &Path, start: u64, len: u64, part: &Path) {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    fs::File::open(disk)
        .unwrap()
        .read_exact_at(&mut bytes, start)
        .unwrap();
    fs::write(part, bytes).unwrap();
}

/// Four partitions full of noise, then made into filesystems and a swap area.
const PARTS: [(&str, u64, u64); 4] = [
    ("vfat", 1, 40),
    ("ext4", 41, 64),
    ("swap", 105, 20),
    ("xfs", 125, 320),
];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("file"), noise(1, 700_000)).unwrap();
    fs::write(tree.join("sub/other"), noise(2, 5)).unwrap();
    let proto = folder.join("proto");
    let lines = format!(
        "/dev/null\n0 0\nd--755 0 0\nfile ---644 0 0 {}\n$\n",
        text(&tree.join("file"))
    );
    fs::write(&proto, lines).unwrap();
    let whole = fs::File::create(&path).unwrap();
    whole.set_len(446 * MIB).unwrap();
    let part = folder.join("part");
    let mut table = String::from("label: dos\nunit: sectors\n");
    for (nth, (kind, start, len)) in PARTS.into_iter().enumerate() {
        let (start, len) = (start * MIB, len * MIB);
        table += &format!("start={}, size={}, type=83\n", start / 512, len / 512);
        // The large one is left with holes: 8 MiB of noise here and there.
        let mut bytes = noise(nth as u64 + 9, len.min(64 * MIB));
        bytes.resize(usize::try_from(len).unwrap(), 0);
        fs::write(&part, bytes).unwrap();
        let name = text(&part);
        let mut make = match kind {
            "vfat" => Command::new("mkfs.vfat"),
            "ext4" => Command::new("mke2fs"),
            "swap" => Command::new("mkswap"),
            _ => Command::new("mkfs.xfs"),
        };
        match kind {
            "vfat" => make.args(["-F", "16", name]),
            "ext4" => make
                .args(["-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d"])
                .args([text(&tree), name]),
            "swap" => make.args(["-L", "pages", name]),
            _ => make.args(["-q", "-f", "-K", "-p", text(&proto), name]),
        };
        judge(&mut make);
        if kind == "vfat" {
            judge(Command::new("mcopy").args(["-i", name, text(&tree.join("file")), "::file"]));
        }
        whole
            .write_all_at(&fs::read(&part).unwrap(), start)
            .unwrap();
    }
    let mut sfdisk = Command::new("sfdisk");
    let mut child = sfdisk
        .args(["-q", "--no-reread", "--no-tell-kernel", text(&path)])
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()),
        )
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    path
}

const TOOLS: [&str; 10] = [
    "mkfs.vfat",
    "fsck.fat",
    "mke2fs",
    "e2fsck",
    "mkswap",
    "blkid",
    "mkfs.xfs",
    "xfs_repair",
    "sfdisk",
    "mcopy",
];

/// What `--json` says of a volume.
fn volume<'a>(said: &'a Value, name: &str) -> &'a Value {
    said["unused"]
        .as_array()
        .unwrap()
        .iter()
        .find(|left| left["volume"] == name)
        .unwrap_or_else(|| panic!("no volume {name}: {said}"))
}

#[test]
fn what_filesystems_do_not_use_is_left_out_and_nobody_misses_it() {
    if !TOOLS.iter().all(|tool| have(tool)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let (target, raw) = (folder.path().join("to.qcow2"), folder.path().join("to.raw"));
    let said = run(["convert", "--json", "--skip-unused", "--zero-swap"]
        .iter()
        .map(Path::new)
        .chain([&*source, &*target]))
    .exits(0)
    .json();
    for (name, kind, least) in [
        ("1", "vfat", 38),
        ("2", "ext4", 50),
        ("3", "swap", 19),
        ("4", "xfs", 50),
    ] {
        let left = volume(&said, name);
        assert_eq!(left["filesystem"], kind, "{said}");
        assert!(left["kept_because"].is_null(), "{said}");
        let (unused, skipped) = (&left["unused_bytes"], &left["skipped_bytes"]);
        assert!(skipped.as_u64().unwrap() >= least * MIB, "{said}");
        assert!(unused.as_u64() >= skipped.as_u64(), "{said}");
    }
    // The noise that is left is files and metadata.
    assert!(fs::metadata(&target).unwrap().len() < 30 * MIB, "{said}");
    run([Path::new("convert"), &target, &raw]).exits(0);
    let part = folder.path().join("part");
    for (kind, start, len) in PARTS {
        cut(&raw, start * MIB, len * MIB, &part);
        match kind {
            "vfat" => {
                judge(Command::new("fsck.fat").args(["-n", text(&part)]));
            }
            "ext4" => {
                judge(Command::new("e2fsck").args(["-fn", text(&part)]));
            }
            "swap" => {
                let says = judge(Command::new("blkid").args(["-p", text(&part)]));
                assert!(says.contains("LABEL=\"pages\""), "{says}");
                let before = folder.path().join("before");
                cut(&source, start * MIB, len * MIB, &before);
                let (before, after) = (fs::read(&before).unwrap(), fs::read(&part).unwrap());
                assert!(before[..4096] == after[..4096]);
                assert!(before[4096] != 0 && after[4096..].iter().all(|byte| *byte == 0));
            }
            _ => {
                judge(Command::new("xfs_repair").args(["-n", text(&part)]));
            }
        }
    }
    for (number, path) in [
        ("1", "/file"),
        ("2", "/file"),
        ("2", "/sub/other"),
        ("4", "/file"),
    ] {
        let cat = |image: &Path| {
            run(["cat", "--volume", number, text(image), path])
                .exits(0)
                .stdout
        };
        assert!(cat(&source) == cat(&target), "{number} {path}");
    }
    let plain = folder.path().join("plain.qcow2");
    let said = run(["convert", text(&source), text(&plain)]).exits(0);
    assert!(!said.stderr.contains("left out"), "{}", said.stderr);
    assert!(fs::metadata(&plain).unwrap().len() > 180 * MIB);
    run(["compare", text(&source), text(&plain)]).exits(0);
}

#[test]
fn of_a_filesystem_in_doubt_nothing_is_left_out_and_swap_only_on_request() {
    if !TOOLS.iter().all(|tool| have(tool)) || !have("debugfs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let target = folder.path().join("to.qcow2");
    let part = folder.path().join("part");
    cut(&source, 41 * MIB, 64 * MIB, &part);
    judge(Command::new("debugfs").args(["-w", "-R", "feature needs_recovery", text(&part)]));
    let whole = fs::OpenOptions::new().write(true).open(&source).unwrap();
    whole
        .write_all_at(&fs::read(&part).unwrap(), 41 * MIB)
        .unwrap();
    let ran = run([
        "convert",
        "--json",
        "--skip-unused",
        text(&source),
        text(&target),
    ])
    .exits(0);
    assert!(
        ran.stderr.contains("journal holds changes"),
        "{}",
        ran.stderr
    );
    let said = ran.json();
    let ext = volume(&said, "2");
    assert_eq!(ext["skipped_bytes"], 0, "{said}");
    assert!(ext["kept_because"].as_str().unwrap().contains("journal"));
    assert!(volume(&said, "1")["skipped_bytes"].as_u64().unwrap() > 30 * MIB);
    let volumes = said["unused"].as_array().unwrap();
    assert!(volumes.iter().all(|left| left["filesystem"] != "swap"));
    let (before, after) = (folder.path().join("a"), folder.path().join("b"));
    let raw = folder.path().join("to.raw");
    run([Path::new("convert"), &target, &raw]).exits(0);
    for (_, start, len) in [PARTS[1], PARTS[2]] {
        cut(&source, start * MIB, len * MIB, &before);
        cut(&raw, start * MIB, len * MIB, &after);
        assert!(fs::read(&before).unwrap() == fs::read(&after).unwrap());
    }
}

#[test]
fn where_partitions_overlap_nothing_is_left_out() {
    if !TOOLS.iter().all(|tool| have(tool)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    // The second entry of the table is made to begin a sector earlier.
    let whole = fs::OpenOptions::new().write(true).open(&source).unwrap();
    let start = u32::try_from(41 * MIB / 512 - 1).unwrap();
    whole
        .write_all_at(&start.to_le_bytes(), 446 + 16 + 8)
        .unwrap();
    let target = folder.path().join("to.raw");
    let said = run([
        "convert",
        "--json",
        "--skip-unused",
        text(&source),
        text(&target),
    ])
    .exits(0)
    .json();
    let left = volume(&said, "1");
    assert_eq!(left["skipped_bytes"], 0, "{said}");
    assert!(left["kept_because"].as_str().unwrap().contains("overlap"));
    run(["compare", text(&source), text(&target)]).exits(0);
}

#[test]
fn the_sample_guest_loses_no_file() {
    let Some(guest) = guest("tiny") else { return };
    if !have("e2fsck") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (target, raw) = (folder.path().join("to.qcow2"), folder.path().join("to.raw"));
    let disk = fs::read_dir(&guest)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.ends_with("guest.vmdk"))
        .unwrap();
    let said = run([
        "convert",
        "--json",
        "--skip-unused",
        "--zero-swap",
        text(&disk),
        text(&target),
    ])
    .exits(0)
    .json();
    let left = volume(&said, "1");
    assert!(left["kept_because"].is_null(), "{said}");
    assert!(volume(&said, "5")["filesystem"] == "swap", "{said}");
    run([Path::new("convert"), &target, &raw]).exits(0);
    let part = folder.path().join("part");
    let size = fs::metadata(&raw).unwrap().len();
    let start = u64::from(u32::from_le_bytes({
        let mut at = [0; 4];
        let file = fs::File::open(&raw).unwrap();
        file.read_exact_at(&mut at, 446 + 8).unwrap();
        at
    })) * 512;
    cut(&raw, start, size - start, &part);
    judge(Command::new("e2fsck").args(["-fn", text(&part)]));
}
