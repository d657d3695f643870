//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use rehost_block::{Disk, Kind, SameFolder};
use rehost_image::{Format, Image};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn sha256(disk: &dyn Disk) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < disk.size() {
        let len = buffer.len().min(usize::try_from(disk.size() - at).unwrap());
        disk.read_at(&mut buffer[..len], at).unwrap();
        hash.update(&buffer[..len]);
        at += len as u64;
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Errors that are ours on purpose, though QEMU reads the image.
const REFUSED_BY_NAME: [&str; 2] = ["the corrupt bit is set", "qcow version 1 is not read"];

#[test]
fn every_qcow2_of_the_corpora_has_the_recorded_content_or_a_named_error() {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        println!("skipped: needs the corpora (REHOST_CORPORA)");
        return;
    };
    let records = fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (mut same, mut refused) = (0, 0);
    for (number, record) in records.lines().enumerate() {
        let record: Value = serde_json::from_str(record).unwrap();
        let text = |key: &str| record[key].as_str().unwrap_or_default();
        let stored = text("stored");
        if !text("category").starts_with("image/qcow") || stored.ends_with(".bz2") {
            continue;
        }
        let mut bytes = fs::read(root.join(text("origin")).join(stored)).unwrap();
        if stored.ends_with(".gz") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut plain)
                .unwrap();
            bytes = plain;
        }
        let path = folder.path().join(format!("{number}.img"));
        fs::write(&path, bytes).unwrap();
        let known = record["guest_sha256"].as_str();
        match Image::open(&path, Some(Format::Qcow2), &SameFolder) {
            Ok(image) => {
                assert_eq!(Some(sha256(&*image.disk()).as_str()), known, "{stored}");
                same += 1;
            }
            Err(error) => {
                let line = error.to_string();
                println!("{stored}: {line}");
                let ours = REFUSED_BY_NAME.iter().any(|name| line.contains(name));
                assert!(known.is_none() || ours, "{stored}: {line}");
                assert_ne!(error.kind(), Kind::Internal, "{stored}: {line}");
                refused += 1;
            }
        }
    }
    println!("{same} images with the recorded content, {refused} refused by name");
    assert!(same >= 2 && refused >= 5, "{same} and {refused}");
}
