//! Disks that others made, from the image to the files: what lies on what, and whole trees as other
//! tools recorded them; or an error that names what cannot be read.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result, SameFolder};
use rehost_fs::{FileKind, FileSystem, Inode};
use rehost_image::Image;
use rehost_volume::stack::{Kind as Form, Stack};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Files up to this length are hashed, and the first of those that are longer in each tree.
const SHORT: u64 = 32 << 20;

fn records() -> Option<(PathBuf, Vec<Value>)> {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        println!("skipped: needs REHOST_CORPORA");
        return None;
    };
    let text = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let records = records.collect();
    Some((root, records))
}

fn stored(root: &Path, record: &Value) -> PathBuf {
    let word = |name: &str| record[name].as_str().unwrap();
    root.join(word("origin")).join(word("stored"))
}

fn opened(path: &Path) -> Result<Arc<dyn Disk>> {
    Ok(Image::open(path, None, &SameFolder)?.disk())
}

fn found_on(disk: Arc<dyn Disk>) -> Stack {
    Stack::find(&[("sda".to_owned(), disk)], &[]).unwrap()
}

/// Type, length, content (or target) and permissions of every name.
type Tree = BTreeMap<String, (char, Option<u64>, String, String)>;

fn walk(fs: &dyn FileSystem, folder: Inode, path: &str, tree: &mut Tree) -> Result<()> {
    for entry in fs.read_dir(folder)? {
        let name = format!("{path}{}", String::from_utf8_lossy(&entry.name));
        let about = fs.attributes(entry.inode)?;
        let mode = format!("{:o}", about.mode);
        let seen = match about.kind {
            FileKind::Regular => {
                let long = |seen: &(char, Option<u64>, String, String)| {
                    seen.1.is_some_and(|size| size > SHORT)
                };
                let content = if about.size <= SHORT || !tree.values().any(long) {
                    hash(fs, entry.inode)?
                } else {
                    String::new()
                };
                ('f', Some(about.size), content, mode)
            }
            FileKind::Directory => ('d', None, String::new(), mode),
            FileKind::Symlink => {
                let target = fs.read_link(entry.inode)?;
                let target = String::from_utf8_lossy(&target).into_owned();
                ('l', None, target, String::new())
            }
            _ => ('?', None, String::new(), mode),
        };
        if about.kind == FileKind::Directory {
            walk(fs, entry.inode, &format!("{name}/"), tree)?;
        }
        tree.insert(name, seen);
    }
    Ok(())
}

fn hash(fs: &dyn FileSystem, file: Inode) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let len = fs.read_at(file, &mut piece, at)?;
        if len == 0 {
            let sum = hasher.finalize();
            return Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&piece[..len]);
        at += len as u64;
    }
}

fn recorded(path: &Path) -> Tree {
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap();
    let mut file = flate2::read::GzDecoder::new(file);
    file.read_to_string(&mut text).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.splitn(5, '\t').collect();
        let kind = words[0].chars().next().unwrap();
        let content = if kind == 'd' { "" } else { words[3] };
        let mode = if kind == 'l' { "" } else { words[1] };
        let size = words[2].parse().ok();
        let seen = (kind, size, content.to_owned(), mode.to_owned());
        (words[4].to_owned(), seen)
    };
    text.lines().map(line).collect()
}

/// A tree that was recorded: on which volume of the disk, and by which tool.
struct Case<'a> {
    /// The place of the volume in the stack.
    node: usize,
    /// blkid's name for the filesystem.
    kind: &'a str,
    recorded: PathBuf,
    mounted: bool,
}

/// The recorded trees of a disk.
fn cases<'a>(root: &Path, record: &'a Value, stack: &Stack) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    let mut add = |node: Option<usize>, about: &'a Value| {
        for (tool, mounted) in [("kernel_tree", true), ("sevenzip_tree", false)] {
            let Some(tsv) = about[tool]["tsv"].as_str() else {
                continue;
            };
            cases.push(Case {
                node: node.unwrap_or_else(|| panic!("no volume for {tsv}")),
                kind: about["blkid"]["TYPE"].as_str().unwrap(),
                recorded: root.join(tsv),
                mounted,
            });
        }
    };
    add(Some(0), &record["fs"]);
    add(Some(0), &record["inside"]["fs"]);
    let list = |value: &'a Value| value.as_array().map_or(&[][..], Vec::as_slice);
    let parts = || stack.nodes.iter().enumerate();
    for (nth, part) in (0..).zip(list(&record["inside"]["partitions"])) {
        let mut found = parts().filter(|(_, node)| node.kind == Form::Part);
        let node = found.nth(nth);
        if let Some((_, node)) = node {
            assert_eq!(Some(node.size), part["bytes"].as_u64(), "{}", node.name);
        }
        add(node.map(|(place, _)| place), part);
    }
    for volume in list(&record["lvm"]["volumes"]) {
        let name = format!("test/{}", volume["lv"].as_str().unwrap());
        let (place, node) = stack.named(&name).unwrap();
        assert_eq!(Some(node.size), volume["bytes"].as_u64());
        add(Some(place), &volume["fs"]);
    }
    cases
}

/// What can be wrong with what others made, and is no fault of the caller or of this program.
fn named(error: &Error) {
    let kinds = [Kind::Corrupt, Kind::Unsupported, Kind::Usage];
    // The parent of one image is not in the corpora.
    let absent = error.kind() == Kind::Io && error.to_string().contains("No such file");
    assert!(absent || kinds.contains(&error.kind()), "{error:?}");
}

/// `true` where the tree was read and is the recorded one.
fn agrees(stack: &Stack, case: &Case<'_>) -> bool {
    let disk = stack.nodes[case.node].disk.as_ref().unwrap();
    let fs = match rehost_fs::open(Arc::clone(disk)) {
        Ok(fs) => fs,
        Err(error) => {
            println!("  {}: {error}", case.kind);
            named(&error);
            return false;
        }
    };
    assert_eq!(fs.identity().kind, case.kind);
    let mut ours = Tree::new();
    walk(&*fs, fs.root(), "", &mut ours).unwrap();
    let theirs = recorded(&case.recorded);
    if !case.mounted && case.kind == "iso9660" {
        // 7-Zip shows another set of names than we do: Joliet's, or the short ones.
        println!("  {}: {} names", case.kind, ours.len());
        return true;
    }
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for (name, (kind, size, content, mode)) in &ours {
        let expected = &theirs[name];
        assert_eq!((*kind, *size), (expected.0, expected.1), "{name}");
        if *kind != 'f' || !content.is_empty() {
            assert_eq!(*content, expected.2, "{name}");
        }
        if case.mounted {
            assert_eq!(*mode, expected.3, "{name}");
        }
    }
    true
}

fn compare(wanted: impl Fn(&str) -> bool) -> Option<usize> {
    let (root, records) = records()?;
    let mut read = 0;
    for record in &records {
        let stored_as = record["stored"].as_str().unwrap_or_default();
        let text = record.to_string();
        let word = |name: &str| record[name].as_str().unwrap_or_default();
        let origin = word("origin");
        // Filesystems alone are looked at where they are read, and Apple's disk images are not read.
        let elsewhere = ["e2fsprogs", "btrfs-progs", "ext4-view"].contains(&origin);
        if elsewhere || word("category") == "image/dmg" {
            continue;
        }
        if !text.contains("tree.tsv") || !wanted(stored_as) {
            continue;
        }
        println!("{origin}/{stored_as}");
        let disk = match opened(&stored(&root, record)) {
            Ok(disk) => disk,
            Err(error) => {
                println!("  {error}");
                named(&error);
                continue;
            }
        };
        let stack = found_on(disk);
        for case in cases(&root, record, &stack) {
            read += usize::from(agrees(&stack, &case));
        }
    }
    Some(read)
}

#[test]
fn trees_on_small_disks_are_as_recorded_or_refused_by_name() {
    if let Some(read) = compare(|name| !name.ends_with(".vhdx.gz")) {
        assert!(read >= 7, "{read} trees were read");
    }
}

#[test]
fn trees_on_fragmented_volumes_of_a_group_in_a_vhdx_are_as_recorded() {
    if let Some(read) = compare(|name| name.ends_with("lvm2.vhdx.gz")) {
        assert!(read >= 2, "{read} trees were read");
    }
}

#[test]
fn trees_on_partitions_of_vhdx_disks_are_as_recorded() {
    let other = |name: &str| name.ends_with(".vhdx.gz") && !name.ends_with("lvm2.vhdx.gz");
    if let Some(read) = compare(other) {
        assert!(read >= 1, "{read} trees were read");
    }
}

#[test]
fn disks_that_others_made_open_or_fail_by_name() {
    let Some((root, records)) = records() else {
        return;
    };
    let mut met = 0;
    for record in &records {
        let word = |name: &str| record[name].as_str().unwrap_or_default();
        let small = record["expanded_size"]
            .as_u64()
            .is_some_and(|len| len <= 12 << 20);
        let known = [
            "dfvfs",
            "sleuthkit",
            "util-linux-blkid",
            "go-diskfs",
            "vmdk-rs",
        ];
        if !small || !known.contains(&word("origin")) || word("category") == "expected-output" {
            continue;
        }
        met += 1;
        let disk = match opened(&stored(&root, record)) {
            Ok(disk) => disk,
            Err(error) => {
                named(&error);
                continue;
            }
        };
        let stack = found_on(disk);
        for (node, disk) in stack.open() {
            match rehost_fs::open(Arc::clone(disk)) {
                Ok(fs) => {
                    let walked = walk(&*fs, fs.root(), "", &mut Tree::new());
                    walked.unwrap_or_else(|error| named(&error));
                }
                Err(error) => {
                    println!("{} {}: {error}", word("stored"), node.name);
                    named(&error);
                }
            }
        }
    }
    assert!(met >= 60, "{met}");
}
