//! XFS images that others made: each opens, or fails by name.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rehost_block::Kind;
use rehost_fs::Xfs;
use serde_json::Value;
use support::*;

#[test]
fn foreign_images_are_read_or_refused_by_name() {
    let Some(root) = corpora() else { return };
    let text = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let mut met = 0;
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["fs"]["blkid"]["TYPE"] != "xfs" {
            continue;
        }
        let stored = record["stored"].as_str().unwrap();
        let path = root.join(record["origin"].as_str().unwrap()).join(stored);
        let Some(bytes) = unpacked(&path) else {
            continue;
        };
        met += 1;
        match Xfs::open(memory_disk(bytes)).and_then(|fs| tree(&fs)) {
            Ok(found) => println!("{stored}: {} names", found.len()),
            Err(error) => {
                println!("{stored}: {error}");
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported));
            }
        }
    }
    assert!(met >= 3, "{met}");
}
