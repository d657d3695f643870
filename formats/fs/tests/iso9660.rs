//! ISO 9660 against those who write it: xorriso and genisoimage; the kernel where it can mount; images
//! that others made; and damage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use rehost_block::Kind;
use rehost_fs::{FileSystem, Iso9660, open};
use serde_json::Value;
use support::*;

const XORRISO: &[&str] = &["xorriso"];
const GENISOIMAGE: &[&str] = &["genisoimage"];

/// Everything that Rock Ridge takes; `plain` leaves out what only it takes.
fn fill(root: &Path, plain: bool) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let path = |name: &str| root.join(name);
    std::fs::create_dir_all(path("many")).unwrap();
    for nth in 0..300u64 {
        let name = format!("many/file-{nth}.txt");
        std::fs::write(path(&name), noise(nth, 10 * nth as usize)).unwrap();
    }
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::write(path("large.bin"), noise(1, 3_000_001)).unwrap();
    std::fs::write(path("two words"), b"x").unwrap();
    std::fs::write(path("grüße"), b"y").unwrap();
    if plain {
        return;
    }
    let deep = "d1/d2/d3/d4/d5/d6/d7/d8/d9/d10/d11";
    std::fs::create_dir_all(path(deep)).unwrap();
    std::fs::write(path(deep).join("bottom"), noise(2, 5000)).unwrap();
    std::fs::write(path("d1/d2/d3/d4/d5/d6/d7/beside"), b"z").unwrap();
    std::fs::write(path(&"n".repeat(250)), b"long").unwrap();
    std::fs::write(path("tool"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(path("tool"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(path("empty"), PermissionsExt::from_mode(0o600)).unwrap();
    for (name, target) in [
        ("abs", "/usr/bin/tool"),
        ("up", "../../x/./y"),
        ("slash", "/"),
        ("dots", ".."),
    ] {
        symlink(target, path(name)).unwrap();
    }
    symlink(format!("{}/end", "p".repeat(240)), path("wide")).unwrap();
    symlink(vec!["component"; 90].join("/"), path("far")).unwrap();
}

/// Leaves out the link of many components, at which genisoimage hangs (1.1.11).
fn without_far(root: &Path) {
    let _ = std::fs::remove_file(root.join("far"));
}

/// Makes `image` of `folder`.
fn make(tool: &str, options: &[&str], folder: &Path, image: &Path) {
    let _ = std::fs::remove_file(image);
    let mut args = if tool == "xorriso" {
        vec!["-as", "mkisofs"]
    } else {
        Vec::new()
    };
    args.extend(["-quiet", "-V", "REHOST TEST"]);
    args.extend(options);
    args.extend(["-o", image.to_str().unwrap(), folder.to_str().unwrap()]);
    run(tool, &args);
}

/// The tree, without the folder into which makers move deep directories.
fn own_tree(image: &Path, what: &str) -> Tree {
    let fs = open(file_disk(image)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(fs.identity().kind, "iso9660");
    assert_eq!(fs.identity().label.as_deref(), Some("REHOST TEST"));
    let mut found = tree(&*fs).unwrap_or_else(|error| panic!("{what}: {error}"));
    found.retain(|name, _| name != b"rr_moved");
    found
}

#[test]
fn trees_with_rock_ridge_read_as_they_were_before() {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    fill(&source, false);
    for (tool, options) in [
        ("xorriso", &["-R"][..]),
        ("xorriso", &["-R", "-J", "-joliet-long", "-iso-level", "3"]),
        ("genisoimage", &["-R", "-input-charset", "utf-8"]),
        (
            "genisoimage",
            &["-R", "-J", "-joliet-long", "-input-charset", "utf-8", "-D"],
        ),
    ] {
        if !has(&[tool]) {
            continue;
        }
        if tool == "genisoimage" {
            without_far(&source);
        }
        make(tool, options, &source, &image);
        let what = format!("{tool} {options:?}");
        assert_same_tree(&own_tree(&image, &what), &host_tree(&source), &what);
    }
}

#[test]
fn owners_times_and_links_are_those_of_the_files() {
    use std::os::unix::fs::MetadataExt as _;
    if !has(XORRISO) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    fill(&source, false);
    make("xorriso", &["-R"], &source, &image);
    let fs = Iso9660::open(file_disk(&image)).unwrap();
    for name in ["large.bin", "many", "abs"] {
        let meta = std::fs::symlink_metadata(source.join(name)).unwrap();
        let inode = fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap();
        let found = fs.attributes(inode).unwrap();
        assert_eq!((found.uid, found.gid), (meta.uid(), meta.gid()), "{name}");
        assert_eq!(found.mtime, meta.mtime(), "{name}");
    }
    let large = fs.lookup(fs.root(), b"large.bin").unwrap().unwrap();
    let stored = fs.stored(large).unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].file, 0..3_000_001);
    let at = stored[0].disk.unwrap() as usize;
    let bytes = std::fs::read(&image).unwrap();
    assert!(bytes[at..at + 3_000_001] == noise(1, 3_000_001));
    assert!(fs.read_at(fs.root(), &mut [0; 9], 0).is_err());
    assert!(fs.read_dir(large).is_err());
}

#[test]
fn a_tree_without_rock_ridge_is_read_by_its_joliet_names() {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    fill(&source, true);
    let mut theirs = host_tree(&source);
    for seen in theirs.values_mut() {
        seen.mode = 0o555;
    }
    for (tool, options) in [
        ("xorriso", &["--norock", "-J"][..]),
        ("genisoimage", &["-J", "-input-charset", "utf-8"]),
    ] {
        if !has(&[tool]) {
            continue;
        }
        make(tool, options, &source, &image);
        assert_same_tree(&own_tree(&image, tool), &theirs, tool);
        let fs = Iso9660::open(file_disk(&image)).unwrap();
        assert!(fs.lookup(fs.root(), b"LARGE.Bin").unwrap().is_some());
    }
}

#[test]
fn a_plain_tree_has_short_names_in_capitals() {
    if !has(GENISOIMAGE) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    fill(&source, true);
    make("genisoimage", &["-input-charset", "utf-8"], &source, &image);
    let found = own_tree(&image, "plain");
    assert_eq!(found[&b"LARGE.BIN"[..]].size, Some(3_000_001));
    assert_eq!(
        found[&b"LARGE.BIN"[..]].content,
        sha256(&noise(1, 3_000_001))
    );
    assert_eq!(found[&b"EMPTY"[..]].size, Some(0));
    let in_many = found.keys().filter(|name| name.starts_with(b"MANY/"));
    assert_eq!(in_many.count(), 300);
}

/// A loop mount that ends with it.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn the_kernel_sees_the_same_tree() {
    if !has(&["genisoimage", "mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    fill(&source, false);
    without_far(&source);
    make(
        "genisoimage",
        &["-R", "-input-charset", "utf-8"],
        &source,
        &image,
    );
    let out = std::process::Command::new("mount")
        .args(["-t", "iso9660", "-o", "loop,ro"])
        .args([&image, &at])
        .output()
        .unwrap();
    if !out.status.success() {
        println!("skipped: needs loop mounts of iso9660");
        return;
    }
    let _mounted = Mount(at.clone());
    let fs = open(file_disk(&image)).unwrap();
    assert_same_tree(&tree(&*fs).unwrap(), &host_tree(&at), "kernel");
}

#[test]
fn images_of_others_have_the_recorded_trees() {
    let Some(root) = corpora() else { return };
    let text = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let mut met = 0;
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["fs"]["blkid"]["TYPE"] != "iso9660" {
            continue;
        }
        let stored = record["stored"].as_str().unwrap();
        let origin = record["origin"].as_str().unwrap();
        let Some(bytes) = unpacked(&root.join(origin).join(stored)) else {
            continue;
        };
        let found = Iso9660::open(memory_disk(bytes)).and_then(|fs| tree(&fs));
        let found = found.unwrap_or_else(|error| panic!("{stored}: {error}"));
        println!("{stored}: {} names", found.len());
        let plain = stored.trim_end_matches(".xz").trim_end_matches(".gz");
        let expected = root.join(format!("EXPECTED/{origin}/{plain}.7z.tree.tsv.gz"));
        if !expected.is_file() {
            continue;
        }
        let Some(expected) = unpacked(&expected) else {
            continue;
        };
        met += 1;
        let expected = String::from_utf8(expected).unwrap();
        for line in expected.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [kind, _, _, hash, name] = fields[..] else {
                panic!("{line}");
            };
            let seen = found.get(name.as_bytes());
            let seen = seen.unwrap_or_else(|| panic!("{stored}: {name} is missing"));
            assert_eq!(seen.kind.to_string(), kind, "{stored}: {name}");
            if kind == "f" {
                assert_eq!(seen.content, hash, "{stored}: {name}");
            }
        }
        assert_eq!(found.len(), expected.lines().count(), "{stored}");
    }
    assert!(met >= 3, "{met}");
}

/// A small image with a folder, and the place of a record by the name in it.
fn small(options: &[&str]) -> Option<Vec<u8>> {
    if !has(GENISOIMAGE) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tree"), folder.path().join("image.iso"));
    std::fs::create_dir_all(source.join("sub/inner")).unwrap();
    std::fs::write(source.join("aa"), noise(1, 4096)).unwrap();
    std::fs::write(source.join("ab"), noise(2, 5000)).unwrap();
    std::os::unix::fs::symlink("x".repeat(240), source.join("link")).unwrap();
    make("genisoimage", options, &source, &image);
    Some(std::fs::read(&image).unwrap())
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    // Behind the descriptors, whose path tables have names as well.
    let from = 20 * 2048;
    let at = bytes[from..]
        .windows(what.len())
        .position(|part| part == what);
    from + at.unwrap_or_else(|| panic!("{what:?} is not in the image"))
}

/// Where the record of the name begins: its length is before it.
fn record(bytes: &[u8], name: &[u8]) -> usize {
    let with_len = [&[name.len() as u8], name].concat();
    find(bytes, &with_len) - 32
}

#[test]
fn a_file_in_several_extents_is_one_file() {
    let Some(mut bytes) = small(&["-R"]) else {
        return;
    };
    let (first, second) = (record(&bytes, b"AA.;1"), record(&bytes, b"AB.;1"));
    bytes[first + 25] |= 0x80;
    bytes.copy_within(first + 33..first + 38, second + 33);
    let name = find(&bytes, b"NM\x07\x01\0ab");
    bytes[name + 6] = b'a';
    let fs = Iso9660::open(memory_disk(bytes.clone())).unwrap();
    assert_eq!(fs.read_dir(fs.root()).unwrap().len(), 3);
    let both = fs.lookup(fs.root(), b"aa").unwrap().unwrap();
    assert_eq!(fs.attributes(both).unwrap().size, 9096);
    assert_eq!(fs.stored(both).unwrap().len(), 2);
    let mut read = vec![0; 10_000];
    assert_eq!(fs.read_at(both, &mut read, 0).unwrap(), 9096);
    assert!(read[..9096] == [noise(1, 4096), noise(2, 5000)].concat());
    let mut part = [0; 100];
    assert_eq!(fs.read_at(both, &mut part, 4050).unwrap(), 100);
    assert_eq!(part, read[4050..4150]);
    if has(XORRISO) {
        let folder = tempfile::tempdir().unwrap();
        let (image, out) = (folder.path().join("image.iso"), folder.path().join("out"));
        std::fs::write(&image, &bytes).unwrap();
        let (image, to) = (image.to_str().unwrap(), out.to_str().unwrap());
        run(
            "xorriso",
            &["-osirrox", "on", "-indev", image, "-extract", "/aa", to],
        );
        assert!(std::fs::read(&out).unwrap() == read[..9096]);
    }
}

/// Opens and walks; the error's text.
fn refused(bytes: Vec<u8>) -> String {
    let error = Iso9660::open(memory_disk(bytes))
        .and_then(|fs| tree(&fs))
        .unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Corrupt | Kind::Unsupported),
        "{error}"
    );
    assert!(error.offset().is_some(), "{error}");
    error.to_string()
}

#[test]
fn directories_in_a_ring_are_refused() {
    for options in [&["-R"][..], &["-J"], &[]] {
        let Some(mut bytes) = small(options) else {
            return;
        };
        // Joliet's tree comes last; its names have two bytes a letter.
        let joliet: Vec<u8> = "sub".bytes().flat_map(|byte| [0, byte]).collect();
        let names: &[&[u8]] = if options == ["-J"] {
            &[&joliet]
        } else {
            &[b"SUB"]
        };
        for name in names {
            let at = record(&bytes, name);
            let root = bytes[16 * 2048 + 158..16 * 2048 + 162].to_vec();
            // In Joliet's descriptor, which is the second.
            let root = if options == ["-J"] {
                bytes[17 * 2048 + 158..17 * 2048 + 162].to_vec()
            } else {
                root
            };
            bytes[at + 2..at + 6].copy_from_slice(&root);
        }
        let error = refused(bytes);
        assert!(error.contains("two places"), "{error}");
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let Some(bytes) = small(&["-R"]) else { return };
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        refused(bytes)
    };
    let file = record(&bytes, b"AB.;1");
    assert!(changed(file + 2, &[0xff; 4]).contains("past the end of the disk"));
    assert!(changed(file + 10, &[0xff; 4]).contains("past the end of the disk"));
    assert!(changed(file + 32, &[0xf0]).contains("reaches past its record"));
    assert!(changed(file + 26, &[1]).contains("interleaved"));
    assert!(changed(16 * 2048 + 128, &[7, 7]).contains("logical blocks"));
    assert!(changed(16 * 2048, &[9]).contains("no primary volume descriptor"));
    assert!(changed(16 * 2048 + 158, &[0xff; 3]).contains("past the end of the disk"));
    // The link's target is in a continuation area, which is made to name itself.
    let link = record(&bytes, b"LINK.;1");
    let len = usize::from(bytes[link]);
    let entry = bytes[link..link + len]
        .windows(4)
        .position(|part| part == [b'C', b'E', 28, 1]);
    let entry = link + entry.expect("a continuation area");
    let mut ring = bytes.clone();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let area = number(entry + 4) * 2048 + number(entry + 12);
    ring.copy_within(entry..entry + 28, area);
    let error = refused(ring);
    assert!(error.contains("continuation areas"), "{error}");
    assert!(changed(entry + 12, &[0xff; 4]).contains("past its block"));
    // A name with a slash: an entry `NM` of Rock Ridge.
    let name = find(&bytes, b"NM\x07\x01\0ab");
    assert!(changed(name + 5, b"/").contains("slash"));
    assert!(changed(name + 2, &[1]).contains("impossible length"));
    // Cut off behind its directories.
    let cut = bytes.len() - 160 * 2048;
    assert!(refused(bytes[..cut].to_vec()).contains("past the end"));
}
