//! The indexes written here, judged by `depmod` and `modprobe`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rehost_inject::kmod::Indexes;
use rehost_inspect::modules::{Dependencies, index, parse_aliases};
use support::{depmod, have, modprobe, tree};

/// Rebuilds the indexes of a module directory from depmod's text files.
fn rebuilt(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let text = |name: &str| String::from_utf8(fs::read(folder.join(name)).unwrap()).unwrap();
    let indexes = Indexes {
        dependencies: Dependencies::parse(&text("modules.dep")),
        aliases: parse_aliases(&text("modules.alias")),
        symbols: parse_aliases(&text("modules.symbols")),
    };
    indexes.files().unwrap()
}

fn compare(folder: &Path) {
    for (name, ours) in rebuilt(folder) {
        let theirs = fs::read(folder.join(name)).unwrap();
        if name.ends_with(".bin") {
            let sorted = |bytes: &[u8]| {
                let mut entries = index::read(bytes).unwrap();
                entries.sort();
                entries
            };
            assert!(!sorted(&theirs).is_empty(), "{name}");
            assert_eq!(sorted(&ours), sorted(&theirs), "{name}");
            assert_eq!(ours.len(), theirs.len(), "{name}");
        } else {
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

#[test]
fn indexes_say_what_depmod_says() {
    if !have(&["depmod", "xz"]) {
        return;
    }
    for suffix in ["", ".xz"] {
        let root = tempfile::tempdir().unwrap();
        compare(&tree(root.path(), "usr/lib", suffix, &|_| true));
    }
}

/// Whole kernels: those of this machine, and of the sample guest `tiny`.
#[test]
fn indexes_say_what_depmod_says_of_whole_kernels() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let guests = std::env::var_os("REHOST_GUESTS").map_or(target.join("guests"), PathBuf::from);
    let parents = [
        PathBuf::from("/lib/modules"),
        guests.join("tiny/kept/usr/lib/modules"),
    ];
    let folders: Vec<PathBuf> = parents
        .iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("modules.dep.bin").exists())
        .collect();
    if folders.is_empty() {
        println!("skipped: needs scripts/build-guest tiny, or a kernel in /lib/modules");
    }
    for folder in folders {
        compare(&folder);
    }
}

#[test]
fn modprobe_resolves_aliases_from_our_indexes() {
    if !have(&["depmod", "modprobe"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let folder = tree(root.path(), "usr/lib", "", &|_| true);
    let aliases = [
        "virtio:d00000002v00001AF4",
        "virtio:d00000008v00001AF4",
        "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
        "virtio-blk",
        "block-major-8-1",
        "acpi*:VMW0001:x",
        "no-such-thing",
    ];
    depmod(root.path());
    let expected = aliases.map(|alias| modprobe(root.path(), alias));
    assert_eq!(
        expected[0].last().map(String::as_str),
        Some("virtio_blk.ko")
    );
    assert_eq!(expected[0].len(), 3, "{:?}", expected[0]);
    assert!(expected[6].is_empty());
    for (name, content) in rebuilt(&folder) {
        fs::write(folder.join(name), content).unwrap();
    }
    assert_eq!(aliases.map(|alias| modprobe(root.path(), alias)), expected);
}
