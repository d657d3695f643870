//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use rehost_block::{Kind, SameFolder};
use rehost_image::{Format, Image};

use crate::support::corpora::{records, sha256};

/// Errors that are ours on purpose, though QEMU reads the image.
const REFUSED_BY_NAME: [&str; 2] = ["the corrupt bit is set", "is qcow version 1"];

#[test]
fn every_qcow2_of_the_corpora_has_the_recorded_content_or_a_named_error() {
    let Some(records) = records(|category| category.starts_with("image/qcow")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut same, mut refused) = (0, 0);
    for (number, record) in records.iter().enumerate() {
        let stored = record.stored();
        if stored.ends_with(".bz2") {
            continue;
        }
        let path = folder.path().join(format!("{number}.img"));
        record.unpack(&path);
        let known = record.known["guest_sha256"].as_str();
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
