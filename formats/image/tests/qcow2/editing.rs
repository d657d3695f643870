//! Images changed in place at random, against a plain byte model: qemu-img finds no fault and reads
//! the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rehost_block::{Run, SameFolder};
use rehost_image::{Details, Format, Image, LayerMut, OpenOptions, TargetBacking};

use crate::judging::{SORTS, Sort, assert_sound, edit, edit_snapshots, qemu_content_at, qemu_io};
use crate::support::{have, noise, read_all, run};

/// One change; places are in 1/1000 of the disk.
#[derive(Debug, Clone)]
enum Step {
    Put(u64, u64, u8),
    Zero(u64, u64),
    Forget(u64, u64),
    Resize(u64),
    Snapshot(bool),
    Apply(bool),
    Delete(bool),
    /// Everything is closed, and qemu-io writes.
    Theirs(u64, u64, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = 0..1000u64;
    let len = 1..300u64;
    let step = prop_oneof![
        5 => (place.clone(), len.clone(), any::<u8>()).prop_map(|(a, b, c)| Step::Put(a, b, c)),
        3 => (place.clone(), len.clone()).prop_map(|(a, b)| Step::Zero(a, b)),
        3 => (place.clone(), len.clone()).prop_map(|(a, b)| Step::Forget(a, b)),
        2 => (1..1500u64).prop_map(Step::Resize),
        1 => any::<bool>().prop_map(Step::Snapshot),
        1 => any::<bool>().prop_map(Step::Apply),
        1 => any::<bool>().prop_map(Step::Delete),
        2 => (place, len, any::<u8>()).prop_map(|(a, b, c)| Step::Theirs(a, b, c)),
    ];
    prop::collection::vec(step, 1..14)
}

const SIZE: usize = 900 << 10;

/// What the image should hold.
struct Model {
    disk: Vec<u8>,
    backing: Option<Vec<u8>>,
    snapshots: BTreeMap<&'static str, Vec<u8>>,
}

impl Model {
    /// A range of whole clusters near there.
    fn range(&self, unit: u64, at: u64, len: u64) -> (usize, usize) {
        let size = self.disk.len() as u64;
        let from = size * at / 1000 / unit * unit;
        let to = (from + size * len / 1000).next_multiple_of(unit).min(size);
        (from as usize, to as usize)
    }

    fn below(&self, at: usize) -> u8 {
        let backing = self.backing.as_ref();
        backing.and_then(|x| x.get(at)).copied().unwrap_or(0)
    }
}

fn name(which: bool) -> &'static str {
    if which { "one" } else { "two" }
}

fn apply(path: &Path, sort: &Sort, model: &mut Model, step: &Step) {
    let layer = || edit(path).unwrap_or_else(|error| panic!("{error}"));
    match *step {
        Step::Put(at, len, seed) => {
            let mut layer = layer();
            let (from, to) = model.range(layer.unit().get(), at, len);
            let bytes = noise(u64::from(seed), to - from);
            layer.put(from as u64, &bytes).unwrap();
            model.disk[from..to].copy_from_slice(&bytes);
            assert_layer(&*layer, model);
            layer.flush().unwrap();
        }
        Step::Zero(at, len) => {
            let mut layer = layer();
            let (from, to) = model.range(layer.unit().get(), at, len);
            layer.zero(from as u64, (to - from) as u64).unwrap();
            model.disk[from..to].fill(0);
            layer.flush().unwrap();
        }
        Step::Forget(at, len) => {
            let mut layer = layer();
            let (from, to) = model.range(layer.unit().get(), at, len);
            layer.forget(from as u64, (to - from) as u64).unwrap();
            for at in from..to {
                model.disk[at] = model.below(at);
            }
            layer.flush().unwrap();
        }
        Step::Resize(part) => {
            let size = SIZE * part as usize / 1000 / 512 * 512;
            let mut layer = layer();
            let done = layer.resize(size as u64);
            let refused = !model.snapshots.is_empty()
                && (size < model.disk.len()
                    || sort.options.contains("0.10") && size > model.disk.len());
            if refused && done.is_err() {
                return;
            }
            done.unwrap_or_else(|error| panic!("{error}"));
            model.disk.resize(size, 0);
            layer.flush().unwrap();
        }
        Step::Snapshot(which) if sort.snapshots && !model.snapshots.contains_key(name(which)) => {
            let mut edit = edit_snapshots(path).unwrap();
            edit.create(name(which), UNIX_EPOCH).unwrap();
            model.snapshots.insert(name(which), model.disk.clone());
            edit.flush().unwrap();
        }
        Step::Apply(which) if model.snapshots.contains_key(name(which)) => {
            let mut edit = edit_snapshots(path).unwrap();
            edit.apply(name(which)).unwrap();
            model.disk = model.snapshots[name(which)].clone();
            edit.flush().unwrap();
        }
        Step::Delete(which) if model.snapshots.contains_key(name(which)) => {
            let mut edit = edit_snapshots(path).unwrap();
            edit.delete(name(which)).unwrap();
            model.snapshots.remove(name(which));
            edit.flush().unwrap();
        }
        Step::Theirs(at, len, pattern) => {
            let (from, to) = model.range(512, at, len);
            if to > from {
                let command = format!("write -P {pattern} {from} {}", to - from);
                qemu_io(path.parent().unwrap(), "disk.qcow2", &[command]);
                model.disk[from..to].fill(pattern);
            }
        }
        Step::Snapshot(_) | Step::Apply(_) | Step::Delete(_) => {}
    }
}

/// What a layer being changed answers is what it holds.
fn assert_layer(layer: &dyn LayerMut, model: &Model) {
    let mut at = 0;
    while at < layer.size() {
        let located = layer.locate(at, u64::MAX).unwrap();
        let range = at as usize..(at + located.len) as usize;
        let found = match located.run {
            Run::At { storage, offset } => {
                let mut bytes = vec![0; range.len()];
                storage.read_at(&mut bytes, offset).unwrap();
                bytes
            }
            Run::Zero => vec![0; range.len()],
            Run::Below => range.clone().map(|at| model.below(at)).collect(),
            Run::Packed(packed) => {
                let skip = packed.skip as usize;
                packed.decode().unwrap()[skip..skip + range.len()].to_vec()
            }
            Run::End => panic!("the disk ends early"),
        };
        assert!(found == model.disk[range], "layer differs at {at}");
        at += located.len;
    }
}

fn assert_model(folder: &Path, model: &Model, what: &str) {
    assert_sound(folder, "disk.qcow2", what);
    assert!(
        qemu_content_at(folder, "disk.qcow2", None) == model.disk,
        "{what}: content differs"
    );
    for (name, disk) in &model.snapshots {
        let options = OpenOptions {
            snapshot: Some(name),
            ..OpenOptions::default()
        };
        let image = Image::open_with(folder.join("disk.qcow2"), &options, &SameFolder).unwrap();
        let found = read_all(&*image.disk(), 1 << 20);
        assert!(found == *disk, "{what}: snapshot {name} differs");
        // Where sizes differ, qemu-img gives the snapshot the active disk's.
        let mut found = qemu_content_at(folder, "disk.qcow2", Some(name));
        found.truncate(disk.len());
        assert!(disk.starts_with(&found), "{what}: snapshot {name} differs");
    }
}

fn random_changes(sort: &Sort, backing: bool, cases: u32) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path: PathBuf = folder.join("disk.qcow2");
    let mut runner = TestRunner::new(Config {
        // More of them for a long run.
        cases: std::env::var("PROPTEST_CASES").map_or(cases, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    });
    runner
        .run(&steps(), |steps| {
            let mut model = Model {
                disk: vec![0; SIZE],
                backing: None,
                snapshots: BTreeMap::new(),
            };
            let below = noise(77, SIZE + 300_000);
            if backing {
                fs::write(folder.join("below.raw"), &below).unwrap();
                model.disk = below[..SIZE].to_vec();
                model.backing = Some(below);
            }
            sort.create(folder, "disk.qcow2", SIZE, backing.then_some("below.raw"));
            if !sort.data_file {
                let command = "write -c -P 200 256k 256k".to_owned();
                qemu_io(folder, "disk.qcow2", &[command]);
                model.disk[256 << 10..512 << 10].fill(200);
            }
            for step in &steps {
                apply(&path, sort, &mut model, step);
            }
            let what = format!("{} backing {backing} {steps:?}", sort.options);
            assert_model(folder, &model, &what);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_changes_without_a_backing_file_keep_every_kind_of_image_sound() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    for sort in &SORTS {
        random_changes(sort, false, 1);
    }
}

#[test]
fn random_changes_over_a_backing_file_keep_every_kind_of_image_sound() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    for sort in SORTS.iter().filter(|x| !x.options.contains("raw")) {
        random_changes(sort, true, 1);
    }
}

#[test]
fn refcount_table_and_l1_table_move_when_they_grow() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("disk.qcow2");
    for options in [
        "cluster_size=512,refcount_bits=64",
        "cluster_size=512,compat=0.10",
    ] {
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            "disk.qcow2",
            "1M",
        ];
        run(folder, "qemu-img", &args);
        let mut layer = edit(&path).unwrap();
        layer.resize(9 << 20).unwrap();
        let disk = noise(5, 9 << 20);
        layer.put(0, &disk).unwrap();
        layer.flush().unwrap();
        drop(layer);
        assert_sound(folder, "disk.qcow2", options);
        assert!(qemu_content_at(folder, "disk.qcow2", None) == disk);
    }
}

#[test]
fn the_backing_file_is_changed_named_and_dropped() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("disk.qcow2");
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "raw", "a.raw", "1M"],
    );
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "vpc", "./b:b.vhd", "1M"],
    );
    for options in ["compat=0.10", "compat=1.1,compression_type=zstd"] {
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            "disk.qcow2",
            "1M",
        ];
        run(folder, "qemu-img", &args);
        for (name, format, told) in [
            ("a.raw", Format::Raw, "raw"),
            ("b:b.vhd", Format::Vhd, "vpc"),
        ] {
            let mut layer = edit(&path).unwrap();
            let backing = TargetBacking {
                name: name.into(),
                path: folder.join(name),
                format,
                size: 1 << 20,
                details: Details::Raw,
            };
            layer.set_backing(Some(&backing)).unwrap();
            layer.flush().unwrap();
            drop(layer);
            let json = run(
                folder,
                "qemu-img",
                &["info", "--output=json", "-U", "disk.qcow2"],
            );
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["backing-filename-format"], told);
            assert!(
                json["full-backing-filename"]
                    .as_str()
                    .unwrap()
                    .ends_with(name),
                "{json}"
            );
            assert_sound(folder, "disk.qcow2", options);
        }
        let mut layer = edit(&path).unwrap();
        layer.set_backing(None).unwrap();
        layer.flush().unwrap();
        let json = run(folder, "qemu-img", &["info", "--output=json", "disk.qcow2"]);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert!(json.get("backing-filename").is_none(), "{json}");
        assert_sound(folder, "disk.qcow2", options);
    }
}

#[test]
fn recording_bitmaps_fall_behind_openly() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "disk.qcow2", "1M"],
    );
    run(folder, "qemu-img", &["bitmap", "--add", "disk.qcow2", "on"]);
    run(
        folder,
        "qemu-img",
        &["bitmap", "--add", "--disable", "disk.qcow2", "off"],
    );
    let mut layer = edit(&folder.join("disk.qcow2")).unwrap();
    layer.put(0, &[1; 65536]).unwrap();
    layer.flush().unwrap();
    assert_sound(folder, "disk.qcow2", "bitmaps");
    let json = run(folder, "qemu-img", &["info", "--output=json", "disk.qcow2"]);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let bitmaps = &json["format-specific"]["data"]["bitmaps"];
    assert_eq!(
        bitmaps[0]["flags"],
        serde_json::json!(["in-use", "auto"]),
        "{json:#}"
    );
    assert_eq!(bitmaps[1]["flags"], serde_json::json!([]), "{json:#}");
}

#[test]
fn damaged_dirty_and_encrypted_images_are_refused_or_mended_first() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("disk.qcow2");
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
        "disk.qcow2",
        "1M",
    ];
    run(folder, "qemu-img", &args);
    let mut bytes = fs::read(&path).unwrap();
    bytes[79] = 2;
    fs::write(&path, &bytes).unwrap();
    let error = edit(&path).unwrap_err().to_string();
    assert!(
        error.contains("corrupt bit") && error.contains("--repair"),
        "{error}"
    );
    bytes[79] = 1;
    fs::write(&path, &bytes).unwrap();
    edit(&path).unwrap();
    assert_sound(folder, "disk.qcow2", "dirty");
    bytes[79] = 0;
    bytes[35] = 2;
    fs::write(&path, &bytes).unwrap();
    let error = edit(&path).unwrap_err().to_string();
    assert!(error.contains("encrypted with LUKS"), "{error}");
}
