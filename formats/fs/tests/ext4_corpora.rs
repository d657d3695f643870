//! Images that others made and damaged: each opens with the recorded tree, or fails by name.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use rehost_block::Kind;
use rehost_fs::{Ext4, FileSystem as _};
use serde_json::Value;
use support::*;

/// A recorded tree; lines of what the kernel itself could not read are left out.
fn recorded(path: &Path) -> Tree {
    let text = unpacked(path).unwrap();
    let mut found = Tree::new();
    for line in text.split(|byte| *byte == b'\n') {
        let parts: Vec<&[u8]> = line.splitn(5, |byte| *byte == b'\t').collect();
        let [kind, mode, size, content, name] = parts[..] else {
            continue;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if kind == b"!" {
            continue;
        }
        let kind = char::from(kind[0]);
        found.insert(
            name.to_vec(),
            Seen {
                kind,
                mode: u16::from_str_radix(&text(mode), 8).unwrap_or(0o777),
                size: text(size).parse().ok(),
                content: if content == b"-" {
                    String::new()
                } else {
                    text(content)
                },
            },
        );
    }
    found
}

/// Records about ext images, each with the path of its stored file.
fn records(origins: &[&str]) -> Vec<(std::path::PathBuf, Value)> {
    let Some(root) = corpora() else {
        return Vec::new();
    };
    std::fs::read_to_string(root.join("EXPECTED.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| {
            origins.contains(&record["origin"].as_str().unwrap_or_default())
                && record["fs"]["tsk_fsstat_type"]
                    .as_str()
                    .is_some_and(|kind| kind.starts_with("ext"))
        })
        .map(|record| {
            let origin = record["origin"].as_str().unwrap();
            let stored = record["stored"].as_str().unwrap();
            (root.join(origin).join(stored), record)
        })
        .collect()
}

#[test]
fn recorded_trees_are_read() {
    let Some(root) = corpora() else { return };
    for (path, record) in records(&["e2fsprogs", "ext4-view"]) {
        let Some(tsv) = record["fs"]["kernel_tree"]["tsv"].as_str() else {
            continue;
        };
        let Some(bytes) = unpacked(&path) else {
            continue;
        };
        let fs = Ext4::open(memory_disk(bytes)).unwrap();
        let mut ours = tree(&fs).unwrap();
        let theirs = recorded(&root.join(tsv));
        assert!(!ours.is_empty());
        ours.retain(|name, _| name != b"lost+found" || theirs.contains_key(name));
        assert_same_tree(&ours, &theirs, record["stored"].as_str().unwrap());
    }
}

#[test]
fn journals_are_replayed_as_recorded_or_refused_by_name() {
    let Some(root) = corpora() else { return };
    let mut replayed = 0;
    for (path, record) in records(&["e2fsprogs"]) {
        let stored = record["stored"].as_str().unwrap();
        if !stored.contains("/j_") {
            continue;
        }
        let folder = Path::new(stored).parent().unwrap();
        let tsv = root
            .join("EXPECTED/e2fsprogs")
            .join(folder)
            .join("image.after-replay.tree.tsv.gz");
        let Some(bytes) = unpacked(&path) else {
            continue;
        };
        match Ext4::open(memory_disk(bytes)) {
            Ok(fs) => {
                println!("{stored}: opened, replayed {}", fs.identity().replayed);
                if tsv.is_file() {
                    let mut ours = tree(&fs).unwrap();
                    let theirs = recorded(&tsv);
                    ours.retain(|name, _| name != b"lost+found" || theirs.contains_key(name));
                    assert_same_tree(&ours, &theirs, stored);
                    replayed += 1;
                }
            }
            Err(error) => println!("{stored}: {error}"),
        }
    }
    assert!(replayed >= 3, "{replayed}");
}

#[test]
fn damaged_images_never_panic_or_hang() {
    let (mut read, mut refused) = (0, 0);
    for (path, record) in records(&["e2fsprogs", "sleuthkit", "dfvfs", "ltrdata-discutils"]) {
        let Some(bytes) = unpacked(&path) else {
            continue;
        };
        let verdict = Ext4::open(memory_disk(bytes)).and_then(|fs| tree(&fs));
        let stored = record["stored"].as_str().unwrap();
        match verdict {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(
                    matches!(error.kind(), Kind::Corrupt | Kind::Unsupported),
                    "{stored}: {error:?}"
                );
                let line = error.to_string();
                assert!(!line.is_empty() && !line.contains('\n'), "{stored}: {line}");
                println!("{stored}: {line}");
                refused += 1;
            }
        }
    }
    println!("{read} read, {refused} refused");
}
