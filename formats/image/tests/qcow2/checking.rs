//! `check` counts as qemu-img does and names what is wrong; what `repair` mends, qemu-img finds
//! nothing wrong with.

use std::fs;
use std::path::Path;

use rehost_image::{Repair, Severity};

use crate::judging::{SORTS, assert_sound, check, qemu_check, qemu_content_at, qemu_io, repair};
use crate::support::{have, run, try_run};

const MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// An image with data, zeroes, holes, compressed clusters and a snapshot.
fn make(folder: &Path, image: &str, sort: &crate::judging::Sort) {
    sort.create(folder, image, 4 << 20, None);
    let mut commands = vec![
        "write -P 1 0 300k".to_owned(),
        "write -P 2 1M 64k".to_owned(),
        "write -z 2M 128k".to_owned(),
        "write -P 3 3500k 100k".to_owned(),
        "write -P 4 512k 8k".to_owned(),
        "discard 0 8k".to_owned(),
    ];
    if !sort.data_file {
        commands.push("write -c -P 5 2560k 256k".to_owned());
    }
    qemu_io(folder, image, &commands);
    if sort.snapshots {
        run(folder, "qemu-img", &["snapshot", "-c", "first", image]);
        let commands = ["write -P 6 100k 100k", "write -P 7 2600k 4k"].map(str::to_owned);
        qemu_io(folder, image, &commands);
    }
}

#[test]
fn sound_images_of_every_kind_count_as_qemu_img_does() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for sort in &SORTS {
        make(folder, "disk.qcow2", sort);
        assert_sound(folder, "disk.qcow2", sort.options);
    }
}

#[test]
fn bitmaps_and_luks_headers_are_no_leaks() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "b.qcow2", "64M"],
    );
    for (name, granularity) in [("one", "64k"), ("two", "4k")] {
        let args = ["bitmap", "--add", "-g", granularity, "b.qcow2", name];
        run(folder, "qemu-img", &args);
    }
    qemu_io(
        folder,
        "b.qcow2",
        &["write 1M 1M".to_owned(), "write 40M 4k".to_owned()],
    );
    assert_sound(folder, "b.qcow2", "bitmaps");
    let storage = std::sync::Arc::new(rehost_block::File::open(folder.join("b.qcow2")).unwrap());
    let found =
        rehost_image::bitmaps(Path::new("b"), rehost_image::Format::Qcow2, storage).unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|x| {
            (
                x.name.as_str(),
                x.granularity,
                x.bits_set,
                x.recording,
                x.in_use,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("one", 65536, Some(17), true, false),
            ("two", 4096, Some(257), true, false)
        ]
    );

    // A LUKS header, as far as qcow2 is concerned: an area that the header names.
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "l.qcow2", "4M"],
    );
    let mut bytes = fs::read(folder.join("l.qcow2")).unwrap();
    let at = Places::of(&bytes);
    let cluster = bytes.len().div_ceil(65536) as u64;
    bytes.resize((cluster as usize + 1) * 65536, 0);
    put(&mut bytes, at.block + cluster * 2, &[0, 1]);
    let leaked = folder.join("l.qcow2");
    fs::write(&leaked, &bytes).unwrap();
    assert_eq!(check(&leaked).unwrap().leaks, 1);
    put(&mut bytes, 32, &2u32.to_be_bytes());
    put(&mut bytes, 112, &0x0537_be77u32.to_be_bytes());
    put(&mut bytes, 116, &16u32.to_be_bytes());
    put(&mut bytes, 120, &(cluster * 65536).to_be_bytes());
    put(&mut bytes, 128, &65536u64.to_be_bytes());
    put(&mut bytes, 136, &[0; 8]);
    fs::write(&leaked, &bytes).unwrap();
    let found = check(&leaked).unwrap();
    assert!(found.is_clean(), "{:#?}", found.findings);
}

fn word(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u64, field: &[u8]) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Where the structures of an image with 64 KiB clusters are.
struct Places {
    l1: u64,
    l2: u64,
    table: u64,
    block: u64,
    snapshots: u64,
}

impl Places {
    fn of(bytes: &[u8]) -> Self {
        let (l1, table) = (word(bytes, 40), word(bytes, 48));
        Self {
            l1,
            l2: word(bytes, l1) & MASK,
            table,
            block: word(bytes, table),
            snapshots: word(bytes, 64),
        }
    }
}

/// One flipped field: where, what, and what is to be said of it.
struct Flip {
    at: u64,
    field: u64,
    structure: &'static str,
    says: &'static str,
    severity: Severity,
    repair: Repair,
}

#[test]
fn one_flipped_field_is_one_named_finding_that_repair_mends() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "sound.qcow2", &SORTS[0]);
    let sound = fs::read(folder.join("sound.qcow2")).unwrap();
    let content = qemu_content_at(folder, "sound.qcow2", None);
    let at = Places::of(&sound);
    let copied = 1u64 << 63;
    let active = at.l2;
    // The write after the snapshot copied clusters 1 to 3.
    let own = word(&sound, active + 8);
    assert!(own & copied != 0);
    let shared = active + 4 * 8;
    assert!(word(&sound, shared) & copied == 0 && word(&sound, shared) != 0);
    let block_word = |cluster: u64| at.block + cluster * 2;
    let free = fs::metadata(folder.join("sound.qcow2")).unwrap().len() / 65536 - 1;
    let pair = |cluster: u64, count: u16| {
        let place = block_word(cluster) & !7;
        let mut bytes = word(&sound, place).to_be_bytes();
        let skip = usize::try_from(block_word(cluster) - place).unwrap();
        bytes[skip..skip + 2].copy_from_slice(&count.to_be_bytes());
        (place, u64::from_be_bytes(bytes))
    };
    let high = pair(free, 7);
    let low = pair((own & MASK) / 65536, 0);
    let safe = |at, field, structure, says| Flip {
        at,
        field,
        structure,
        says,
        severity: Severity::Corruption,
        repair: Repair::Safe,
    };
    let flips = [
        Flip {
            severity: Severity::Leak,
            ..safe(high.0, high.1, "refcount block", "is leaked: 7")
        },
        safe(
            low.0,
            low.1,
            "refcount block",
            "is too low: 0, 1 references",
        ),
        safe(
            active + 8,
            own & !copied,
            "L2 table",
            "copied flag is missing",
        ),
        safe(
            shared,
            word(&sound, shared) | copied,
            "L2 table",
            "copied flag is set",
        ),
        safe(
            at.l1,
            word(&sound, at.l1) & !copied,
            "L1 table",
            "copied flag is missing",
        ),
        safe(active + 8, own | 1 << 57, "L2 table", "reserved bits"),
        safe(at.l1, word(&sound, at.l1) | 4, "L1 table", "reserved bits"),
        safe(72, 2, "header", "corrupt bit"),
        safe(at.table, at.block | 1, "refcount table", "reserved"),
        safe(
            at.table,
            at.block | 512,
            "refcount table",
            "not at a cluster",
        ),
        safe(at.table, 1 << 40, "refcount table", "outside the file"),
        safe(at.table, 0, "refcount block", "is too low: 0"),
        safe(at.table, at.l1, "cluster", "at once"),
        safe(48, 1 << 40, "header", "refcount table lies outside"),
        safe(48, 77, "header", "refcount table is not at"),
    ];
    for flip in &flips {
        let what = format!("{} {:#x} {}", flip.at, flip.field, flip.says);
        let mut bytes = sound.clone();
        put(&mut bytes, flip.at, &flip.field.to_be_bytes());
        let path = folder.join("flipped.qcow2");
        fs::write(&path, &bytes).unwrap();
        let found = check(&path).unwrap();
        let finding = found
            .findings
            .iter()
            .find(|x| x.structure == flip.structure && x.text.contains(flip.says))
            .unwrap_or_else(|| panic!("{what}: {:#?}", found.findings));
        assert_eq!(finding.severity, flip.severity, "{what}");
        if flip.structure != "cluster" {
            assert_eq!(finding.repair, flip.repair, "{what}");
        }
        let left = repair(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(left.is_clean(), "{what}: {:#?}", left.findings);
        assert_sound(folder, "flipped.qcow2", &what);
        assert!(
            qemu_content_at(folder, "flipped.qcow2", None) == content,
            "{what}"
        );
        let before = qemu_content_at(folder, "sound.qcow2", Some("first"));
        assert!(
            qemu_content_at(folder, "flipped.qcow2", Some("first")) == before,
            "{what}"
        );
    }
}

#[test]
fn what_cannot_be_mended_is_named_and_stays() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make(folder, "sound.qcow2", &SORTS[0]);
    let sound = fs::read(folder.join("sound.qcow2")).unwrap();
    let at = Places::of(&sound);
    let own = word(&sound, at.l2 + 8);
    let snapshot_l1 = word(&sound, at.snapshots);
    for (place, field, structure, says) in [
        (
            at.l2 + 8,
            own & !MASK | 1 << 40,
            "L2 table",
            "past the end of the file",
        ),
        (
            at.l2 + 8,
            own + 512,
            "L2 table",
            "not at a cluster boundary",
        ),
        (
            at.l1,
            1 << 63 | 1 << 41,
            "L1 table",
            "past the end of the file",
        ),
        (
            at.l1,
            1 << 63 | 512,
            "L1 table",
            "not at a cluster boundary",
        ),
        (
            at.l2 + 8,
            at.l1 | 1 << 63,
            "cluster",
            "L1 table and guest data at once",
        ),
        (snapshot_l1, 1 << 41, "L1 table", "past the end of the file"),
        (
            at.snapshots,
            512,
            "snapshot table",
            "not at a cluster boundary",
        ),
        (
            at.snapshots,
            1 << 41,
            "snapshot table",
            "past the end of the file",
        ),
    ] {
        let mut bytes = sound.clone();
        put(&mut bytes, place, &field.to_be_bytes());
        put(&mut bytes, 72, &2u64.to_be_bytes());
        let path = folder.join("flipped.qcow2");
        fs::write(&path, &bytes).unwrap();
        let left = repair(&path).unwrap();
        let finding = left
            .findings
            .iter()
            .find(|x| x.structure == structure && x.text.contains(says))
            .unwrap_or_else(|| panic!("{says}: {:#?}", left.findings));
        assert_eq!(finding.repair, Repair::No, "{says}");
        assert!(
            left.findings.iter().any(|x| x.text.contains("corrupt bit")),
            "{says}: {:#?}",
            left.findings
        );
    }
}

#[test]
fn a_dirty_image_is_mended_like_qemu_img_does() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
        "d.qcow2",
        "64M",
    ];
    run(folder, "qemu-img", &create);
    // Killed before it could write its refcounts.
    let crash = [
        "-f",
        "qcow2",
        "-c",
        "write -P 9 0 3M",
        "-c",
        "flush",
        "-c",
        "sigraise 9",
        "d.qcow2",
    ];
    let _ = try_run(folder, "qemu-io", &crash);
    let found = check(&folder.join("d.qcow2")).unwrap();
    // Besides, qemu-img counts the copied flags that contradict the stale refcounts.
    let judged = qemu_check(folder, "d.qcow2");
    assert_eq!(Some(found.corruptions * 2), judged["corruptions"].as_u64());
    assert_eq!(found.corruptions, 48, "{:#?}", found.findings);
    let left = repair(&folder.join("d.qcow2")).unwrap();
    assert!(left.is_clean(), "{:#?}", left.findings);
    assert_sound(folder, "d.qcow2", "mended");
    let expected = [vec![9; 3 << 20], vec![0; 61 << 20]].concat();
    assert!(qemu_content_at(folder, "d.qcow2", None) == expected);
}
