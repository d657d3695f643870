//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use std::fs;
use std::path::Path;

use rehost_block::{File, Presence, Run, SameFolder, Storage};
use rehost_image::{Details, Format, Image};

use crate::support::corpora::{MOST_HASHED, records, sha256};
use crate::support::{have, run};

/// Fails unless `image`, which is `disk.vhdx` in `folder`, has the content that QEMU sees after
/// replaying its log.
fn compare(folder: &Path, image: &Image, stored: &str) {
    fs::copy(folder.join("disk.vhdx"), folder.join("copy.vhdx")).unwrap();
    run(folder, "qemu-img", &["check", "-r", "all", "copy.vhdx"]);
    let convert = ["convert", "-O", "raw", "copy.vhdx", "disk.raw"];
    run(folder, "qemu-img", &convert);
    let raw = File::open(folder.join("disk.raw")).unwrap();
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < image.size() {
        let located = image.disk().locate(at, 1 << 30).unwrap();
        let (presence, len) = raw.presence(at, located.len).unwrap();
        if !matches!((located.run, presence), (Run::Zero, Presence::Hole)) {
            for start in (at..at + len).step_by(1 << 20) {
                let len = usize::try_from((at + len - start).min(1 << 20)).unwrap();
                image.disk().read_at(&mut ours[..len], start).unwrap();
                raw.read_at(&mut theirs[..len], start).unwrap();
                assert!(ours[..len] == theirs[..len], "{stored}: differs at {start}");
            }
        }
        at += len;
    }
}

#[test]
fn every_vhdx_of_the_corpora_has_the_recorded_content() {
    let Some(records) = records(|category| category == "image/vhdx") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut same = 0;
    for record in records {
        let path = folder.path().join("disk.vhdx");
        record.unpack(&path);
        let stored = record.stored();
        let image = Image::open(&path, Some(Format::Vhdx), &SameFolder)
            .unwrap_or_else(|error| panic!("{stored}: {error}"));
        let Details::Vhdx(details) = &image.layers()[0].details else {
            panic!("{stored}");
        };
        // QEMU read the one with a dirty log after repairing a copy of it.
        let repaired = &record.known["after_log_replay_by_qemu"];
        let known = if repaired.is_null() {
            &record.known
        } else {
            repaired
        };
        assert_eq!(details.replayed > 0, !repaired.is_null(), "{stored}");
        assert_eq!(Some(image.size()), known["guest_size"].as_u64(), "{stored}");
        if image.size() <= MOST_HASHED {
            assert_eq!(known["guest_sha256"], sha256(&*image.disk()), "{stored}");
        } else if have(&["qemu-img"]) {
            compare(folder.path(), &image, stored);
        }
        same += 1;
    }
    println!("{same} images with the recorded content");
    assert!(same >= 5, "{same}");
}

#[test]
fn iotest_images_have_the_patterns_that_were_written() {
    let Some(records) = records(|category| category == "image/vhdx") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for record in records {
        let stored = record.stored();
        let patterns: &[(u8, u64, u64)] = if stored.contains("iotest-dirtylog-10G-4M") {
            &[(0xa5, 0, 18)]
        } else if stored.contains("iotest-dynamic-1G") {
            &[(0xa5, 0, 33), (0x96, 33, 33), (0, 66, 958)]
        } else {
            continue;
        };
        let path = folder.path().join("disk.vhdx");
        record.unpack(&path);
        let image = Image::open(&path, None, &SameFolder).unwrap();
        let mut buffer = vec![0; 1 << 20];
        for (byte, from, len) in patterns {
            for mib in *from..from + len {
                image.disk().read_at(&mut buffer, mib << 20).unwrap();
                assert!(buffer.iter().all(|found| found == byte), "{stored}: {mib}");
            }
        }
    }
}
