//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use std::fs;
use std::path::{Path, PathBuf};

use rehost_block::{Disk, Kind, SameFolder};
use rehost_image::{Format, Image, VhdKind};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::judge::{have, run, runs};
use crate::{footer, in_memory, patch};

/// Larger disks are compared run by run with qemu-img's reading instead of hashed.
const HASHED: u64 = 1 << 30;

fn sha256(disk: &dyn Disk) -> String {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    let hash = Sha256::digest(&bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks `from` to `to` by its suffix.
fn unpack(from: &Path, to: &Path) -> bool {
    let tool = match from.extension().and_then(|suffix| suffix.to_str()) {
        Some("gz") => "zcat",
        Some("bz2") => "bzcat",
        _ => {
            fs::copy(from, to).unwrap();
            return true;
        }
    };
    if !have(&[tool]) {
        return false;
    }
    let bytes = run(Path::new("."), tool, &[from.as_os_str()]);
    fs::write(to, bytes).unwrap();
    true
}

/// A parent of zeroes for the differencing disk `child`, whose own parent is not in the corpora.
fn stand_in(child: &Path, size: usize, to: &Path) {
    let child = fs::read(child).unwrap();
    let mut parent = in_memory(VhdKind::Fixed, &vec![0; size]);
    let end = footer(&parent);
    patch(&mut parent, end, 68, &child[512 + 40..512 + 56]);
    fs::write(to, parent).unwrap();
}

/// What is not a hole of `image` is the same in qemu-img's reading, and of the recorded length.
fn assert_runs(folder: &Path, name: &str, image: &Image, record: &Value) {
    if !have(&["qemu-img"]) {
        return;
    }
    run(
        folder,
        "qemu-img",
        &["convert", "-O", "raw", name, "judged.raw"],
    );
    let judged = rehost_block::File::open(folder.join("judged.raw")).unwrap();
    let disk = image.disk();
    let (mut at, mut data) = (0, 0);
    for (word, len) in runs(&*disk) {
        if word != "zero" {
            let mut ours = vec![1; usize::try_from(len).unwrap()];
            let mut theirs = vec![2; ours.len()];
            disk.read_at(&mut ours, at).unwrap();
            rehost_block::Storage::read_at(&judged, &mut theirs, at).unwrap();
            assert!(ours == theirs, "{name} at {at}");
            data += len;
        }
        at += len;
    }
    assert_eq!(
        Some(data),
        record["qemu_map"]["data_bytes"].as_u64(),
        "{name}"
    );
}

#[test]
fn every_vhd_of_the_corpora_has_the_recorded_content_or_a_named_error() {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        println!("skipped: needs the corpora (REHOST_CORPORA)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let records = fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let mut images = Vec::new();
    for record in records.lines() {
        let record: Value = serde_json::from_str(record).unwrap();
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        if text("category") != "image/vhd" {
            continue;
        }
        let from = root.join(text("origin")).join(text("stored"));
        // Extents must lie beside their descriptors, under their own names.
        let name = match from.extension().and_then(|suffix| suffix.to_str()) {
            Some("gz" | "bz2") => from.file_stem().unwrap(),
            _ => from.file_name().unwrap(),
        };
        let name = name.to_str().unwrap().to_owned();
        if unpack(&from, &folder.path().join(&name)) {
            images.push((name, record));
        }
    }
    let (mut same, mut refused) = (0, 0);
    for (name, record) in images {
        let known = record["guest_sha256"].as_str();
        match Image::open(folder.path().join(&name), Some(Format::Vhd), &SameFolder) {
            Ok(image) => {
                assert_eq!(Some(image.size()), record["guest_size"].as_u64(), "{name}");
                if image.size() <= HASHED {
                    assert_eq!(Some(sha256(&*image.disk()).as_str()), known, "{name}");
                } else {
                    assert_runs(folder.path(), &name, &image, &record);
                }
                same += 1;
            }
            // QEMU read it without its parent, as if that were zeroes.
            Err(error) => {
                println!("{name}: {error}");
                assert_eq!(name, "fat-differential.vhd", "{name}: {error}");
                assert_eq!(error.kind(), Kind::Io, "{name}: {error}");
                let (child, parent) = (folder.path().join(&name), "fat-parent.vhd");
                assert!(error.to_string().contains(parent), "{name}: {error}");
                stand_in(&child, 4 << 20, &folder.path().join(parent));
                let image = Image::open(&child, None, &SameFolder).unwrap();
                assert_eq!(Some(sha256(&*image.disk()).as_str()), known, "{name}");
                refused += 1;
            }
        }
    }
    println!("{same} images with the recorded content, {refused} refused by name");
    assert!(same >= 3 && refused >= 1, "{same} and {refused}");
}
