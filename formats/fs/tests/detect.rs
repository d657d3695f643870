//! What volumes hold, judged by blkid: made here, and made by others.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use rehost_fs::{detect, open};
use serde_json::Value;
use support::*;

fn blkid(path: &Path, tag: &str) -> Option<String> {
    let out = std::process::Command::new("blkid")
        .args(["-p", "-o", "value", "-s", tag])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[test]
fn fresh_filesystems_are_named_as_blkid_names_them() {
    if !has(&["blkid"]) {
        return;
    }
    let makers: &[(&str, &[&str])] = &[
        ("mkfs.ext2", &["-q", "-F", "-L", "a label"]),
        ("mkfs.ext4", &["-q", "-F"]),
        ("mkfs.xfs", &["-q", "-f", "-L", "xlabel"]),
        ("mkfs.btrfs", &["-q", "-f", "-L", "b label"]),
        ("mkfs.vfat", &["-F", "32", "-n", "ESP"]),
        ("mkfs.vfat", &["-F", "16"]),
        ("mkswap", &["-L", "pages"]),
        ("mkfs.ntfs", &["-F", "-q", "-f"]),
    ];
    for (tool, args) in makers {
        if !has(&[tool]) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume.raw");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(512 << 20)
            .unwrap();
        let mut all = args.to_vec();
        all.push(path.to_str().unwrap());
        run(tool, &all);
        let disk = file_disk(&path);
        let kind = detect(&disk).unwrap().unwrap();
        assert_eq!(Some(kind.name.to_owned()), blkid(&path, "TYPE"), "{tool}");
        assert_eq!(kind.uuid, blkid(&path, "UUID"), "{tool}");
        assert_eq!(kind.label, blkid(&path, "LABEL"), "{tool}");
        match kind.name {
            "ext2" | "ext4" | "vfat" | "xfs" | "btrfs" => {
                assert_eq!(open(disk).unwrap().identity().kind, kind.name)
            }
            other => {
                let error = open(disk).unwrap_err();
                assert!(error.to_string().contains(other), "{error}");
            }
        }
    }
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(detect(&memory_disk(vec![0; 1 << 20])).unwrap(), None);
    assert_eq!(detect(&memory_disk(noise(1, 1 << 20))).unwrap(), None);
    assert_eq!(detect(&memory_disk(Vec::new())).unwrap(), None);
    assert!(open(memory_disk(vec![0; 4096])).is_err());
}

#[test]
fn images_of_the_blkid_test_suite() {
    let Some(root) = corpora() else { return };
    // Of the names this program knows; another name must not be taken for one of them.
    let known = [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "ntfs",
        "swap",
        "swsuspend",
        "LVM2_member",
        "crypto_LUKS",
        "linux_raid_member",
        "iso9660",
        "squashfs",
    ];
    let mut compared = 0;
    for line in std::fs::read_to_string(root.join("EXPECTED.jsonl"))
        .unwrap()
        .lines()
    {
        let record: Value = serde_json::from_str(line).unwrap();
        let stored = record["stored"].as_str().unwrap_or_default();
        if record["origin"] != "util-linux-blkid" || !stored.contains("images-fs") {
            continue;
        }
        let Some(bytes) = unpacked(&root.join("util-linux-blkid").join(stored)) else {
            continue;
        };
        let found = detect(&memory_disk(bytes)).unwrap();
        let Some(expected) = record["fs"]["blkid"]["TYPE"].as_str() else {
            continue;
        };
        if !known.contains(&expected) {
            let name = found.map(|kind| kind.name);
            assert!(
                name.is_none() || name == Some(expected),
                "{stored}: {name:?}"
            );
            continue;
        }
        let found = found.unwrap_or_else(|| panic!("{stored}: not recognised"));
        assert_eq!(found.name, expected, "{stored}");
        if let Some(uuid) = &found.uuid {
            assert_eq!(
                Some(uuid.as_str()),
                record["fs"]["blkid"]["UUID"].as_str(),
                "{stored}"
            );
        }
        // blkid escapes blanks and bytes that are not ASCII in this output.
        let label = record["fs"]["blkid"]["LABEL"].as_str().unwrap_or_default();
        if expected != "ntfs" && !label.contains("M-") {
            assert_eq!(
                found.label.clone().unwrap_or_default(),
                label.replace("\\ ", " "),
                "{stored}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 15, "{compared}");
}
