//! The volumes that others recorded (`REHOST_CORPORA`).

use std::io::Read;
use std::path::PathBuf;

use rehost_block::{Kind, Memory};
use rehost_luks::{Limits, Secret, Version, detect, parse};
use serde_json::Value;

#[test]
fn recorded_volumes_are_recognised_as_blkid_did() {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        println!("skipped: needs the corpora (REHOST_CORPORA)");
        return;
    };
    let records = std::fs::read_to_string(root.join("EXPECTED.jsonl")).unwrap();
    let mut seen = 0;
    for line in records.lines() {
        let known: Value = serde_json::from_str(line).unwrap();
        let Some(blkid) = known.get("blkid").filter(|known| known["TYPE"].is_string()) else {
            continue;
        };
        let stored = known["stored"].as_str().unwrap();
        if !stored.ends_with(".img.xz") {
            continue;
        }
        let file = root.join(known["origin"].as_str().unwrap()).join(stored);
        let packed = std::fs::File::open(file).unwrap();
        let mut start = Vec::new();
        liblzma::read::XzDecoder::new(packed)
            .take(64 << 10)
            .read_to_end(&mut start)
            .unwrap();
        let storage = Memory::new(stored, start);
        let found = detect(&storage).unwrap();
        if blkid["TYPE"] != "crypto_LUKS" {
            assert_eq!(found, None, "{stored}");
            continue;
        }
        seen += 1;
        let header = parse(&storage).unwrap();
        let version = match header.version() {
            Version::Luks1 => "1",
            Version::Luks2 => "2",
        };
        assert_eq!(found, Some(header.version()));
        assert_eq!(blkid["VERSION"], version, "{stored}");
        assert_eq!(blkid["UUID"], header.uuid(), "{stored}");
        // These are headers alone, cut before their keys.
        let secret = Secret::passphrase("any");
        let error = header
            .unlock(&storage, &secret, &Limits::default())
            .unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Corrupt | Kind::Unsupported),
            "{error}"
        );
    }
    assert!(seen > 0, "the corpora have no LUKS volume");
}
