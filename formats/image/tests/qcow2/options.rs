//! What a target can be asked for, as qemu-img sees it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rehost_block::{File, Result, SameFolder, StorageMut};
use rehost_image::{Format, Image, Payload, Target, TargetFiles, TargetSpec, create};

use crate::support::{have, noise, patchwork, run};

/// Further files beside the image, under their own names.
#[derive(Debug)]
struct Folder(PathBuf);

impl TargetFiles for Folder {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        Ok(Arc::new(File::create_new(self.0.join(name))?))
    }
}

const SIZE: u64 = (5 << 20) + 512;

fn begin(
    folder: &Path,
    name: &str,
    options: &str,
    change: impl FnOnce(&mut TargetSpec),
) -> Box<dyn Target> {
    let mut spec = TargetSpec::new(Format::Qcow2, SIZE, name).unwrap();
    spec.options.parse(options).unwrap();
    change(&mut spec);
    let storage = Arc::new(File::create_new(folder.join(name)).unwrap());
    create(&spec, storage, &Folder(folder.to_owned())).unwrap()
}

/// Puts what is not zero of `disk`, the last unit first.
fn fill(target: &dyn Target, disk: &[u8]) {
    let unit = usize::try_from(target.unit().get()).unwrap();
    let mut units: Vec<(usize, &[u8])> = disk.chunks(unit).enumerate().collect();
    units.reverse();
    for (index, bytes) in units {
        if bytes.iter().any(|byte| *byte != 0) {
            let at = (index * unit) as u64;
            target.put(at, target.pack(at, bytes).unwrap()).unwrap();
        }
    }
}

fn assert_sound(folder: &Path, name: &str, disk: &[u8]) {
    std::fs::write(folder.join("expected.raw"), disk).unwrap();
    run(folder, "qemu-img", &["check", "-q", name]);
    run(
        folder,
        "qemu-img",
        &[
            "compare",
            "-q",
            "-F",
            "raw",
            "-f",
            "qcow2",
            name,
            "expected.raw",
        ],
    );
    let image = Image::open(folder.join(name), None, &SameFolder).unwrap();
    let mut found = vec![0; disk.len()];
    image.disk().read_at(&mut found, 0).unwrap();
    assert!(found == disk, "{name}: read back here");
}

fn told(folder: &Path, name: &str) -> serde_json::Value {
    let output = Command::new("qemu-img")
        .current_dir(folder)
        .args(["info", "--output=json", name])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Data with holes, zero subclusters in stored clusters, and a last unit that is short.
fn disk() -> Vec<u8> {
    let mut disk = patchwork(usize::try_from(SIZE).unwrap());
    disk[3 << 20..4 << 20].fill(0);
    disk[(4 << 20) + 2048..(4 << 20) + 40_000].fill(0);
    let end = disk.len();
    disk[end - 700..].copy_from_slice(&noise(7, 700));
    disk
}

#[test]
fn every_option_gives_an_image_that_qemu_img_finds_sound() {
    if !have(&["qemu-img"]) {
        return;
    }
    let disk = disk();
    let options = [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "cluster_size=2M",
        "lazy_refcounts=on",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16K",
        "extended_l2=on,cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=2,cluster_size=4K",
        "refcount_bits=4",
        "refcount_bits=8",
        "refcount_bits=32",
        "refcount_bits=64,cluster_size=1K",
        "preallocation=metadata",
        "preallocation=metadata,extended_l2=on",
        "preallocation=falloc",
        "preallocation=full,cluster_size=4K",
        "data_file=data.raw",
        "data_file=data.raw,data_file_raw=on",
        "data_file=data.raw,extended_l2=on",
        "data_file=data.raw,data_file_raw=on,preallocation=full",
    ];
    for options in options {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let target = begin(folder, "a.qcow2", options, |_| ());
        fill(&*target, &disk);
        let written = target.publish().unwrap();
        assert_sound(folder, "a.qcow2", &disk);
        let mut lengths = 0;
        for name in ["a.qcow2", "data.raw"] {
            lengths += std::fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
        }
        assert_eq!(written.file_bytes, lengths, "{options}");
        if options.contains("data_file_raw=on") {
            let raw = std::fs::read(folder.join("data.raw")).unwrap();
            assert!(raw == disk, "{options}: the data file is a raw image");
        }
        let data = &told(folder, "a.qcow2")["format-specific"]["data"];
        for word in options.split(',') {
            let (name, value) = word.split_once('=').unwrap();
            match name {
                "compat" => assert_eq!(data["compat"], value),
                "lazy_refcounts" => assert_eq!(data["lazy-refcounts"], true),
                "extended_l2" => assert_eq!(data["extended-l2"], true),
                "refcount_bits" => assert_eq!(data["refcount-bits"].to_string(), value),
                "data_file" => assert_eq!(data["data-file"], value),
                "data_file_raw" => assert_eq!(data["data-file-raw"], true),
                _ => {}
            }
        }
    }
}

#[test]
fn compressed_clusters_go_with_narrow_refcounts_and_subclusters() {
    if !have(&["qemu-img"]) {
        return;
    }
    let disk = disk();
    for options in [
        "refcount_bits=1",
        "refcount_bits=2,cluster_size=4K",
        "extended_l2=on",
        "compat=0.10",
    ] {
        for codec in ["zlib", "zstd"] {
            if options == "compat=0.10" && codec == "zstd" {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let target = begin(folder.path(), "a.qcow2", options, |spec| {
                spec.compression = Some(codec.parse().unwrap());
            });
            fill(&*target, &disk);
            target.publish().unwrap();
            assert_sound(folder.path(), "a.qcow2", &disk);
        }
    }
}

#[test]
fn a_child_holds_what_differs_and_zeroes_hide_its_parent() {
    if !have(&["qemu-img"]) {
        return;
    }
    let below = noise(3, usize::try_from(SIZE).unwrap());
    for options in [
        "",
        "compat=0.10",
        "cluster_size=512",
        "extended_l2=on",
        "data_file=data.raw",
    ] {
        for parent in ["raw", "qcow2"] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            std::fs::write(folder.join("base.raw"), &below).unwrap();
            run(
                folder,
                "qemu-img",
                &[
                    "convert",
                    "-f",
                    "raw",
                    "-O",
                    "qcow2",
                    "base.raw",
                    "base.qcow2",
                ],
            );
            let name = format!("base.{parent}");
            let base = Image::open(folder.join(&name), None, &SameFolder).unwrap();
            let target = begin(folder, "child.qcow2", options, |spec| {
                spec.backing = base.as_backing(PathBuf::from(&name));
            });
            let mut expected = below.clone();
            let unit = usize::try_from(target.unit().get()).unwrap();
            let changed = unit * 2..unit * 4;
            expected[changed.clone()].fill(0x5a);
            target
                .put(changed.start as u64, Payload::Plain(&expected[changed]))
                .unwrap();
            let hidden = unit * 8..unit * 11;
            expected[hidden.clone()].fill(0);
            target
                .put(hidden.start as u64, Payload::Zero(hidden.len() as u64))
                .unwrap();
            target.publish().unwrap();
            assert_sound(folder, "child.qcow2", &expected);
            let told = told(folder, "child.qcow2");
            assert_eq!(told["backing-filename"], name.as_str(), "{options}");
            assert_eq!(told["backing-filename-format"], parent, "{options}");
        }
    }
}

#[test]
fn room_that_was_placed_is_the_callers_to_fill() {
    if !have(&["qemu-img"]) {
        return;
    }
    let disk = noise(9, usize::try_from(SIZE).unwrap());
    for options in ["", "extended_l2=on", "data_file=data.raw"] {
        let folder = tempfile::tempdir().unwrap();
        let target = begin(folder.path(), "a.qcow2", options, |_| ());
        let mut at = 0;
        while at < SIZE {
            let placed = target.place(at, SIZE - at).unwrap().unwrap();
            assert_eq!(placed.offset % 4096, 0, "placed where blocks can be shared");
            let from = usize::try_from(at).unwrap();
            let to = usize::try_from(at + placed.len).unwrap();
            placed
                .storage
                .write_at(&disk[from..to], placed.offset)
                .unwrap();
            at += placed.len;
        }
        target.publish().unwrap();
        assert_sound(folder.path(), "a.qcow2", &disk);
    }
}

#[test]
fn options_that_exclude_each_other_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |options: &str, codec: Option<&str>| {
        let mut spec = TargetSpec::new(Format::Qcow2, SIZE, "a.qcow2").unwrap();
        spec.options.parse(options).unwrap();
        spec.compression = codec.map(|codec| codec.parse().unwrap());
        let storage = Arc::new(rehost_block::Memory::new("a.qcow2", Vec::new()));
        let files = Folder(folder.path().to_owned());
        create(&spec, storage, &files).unwrap_err().to_string()
    };
    for (options, codec, said) in [
        ("compat=0.10,extended_l2=on", None, "extended_l2"),
        ("compat=0.10,lazy_refcounts=on", None, "lazy_refcounts"),
        ("compat=0.10,refcount_bits=1", None, "refcount_bits"),
        ("compat=0.10,data_file=d", None, "data_file"),
        ("compat=0.10", Some("zstd"), "zstd"),
        ("data_file=d", Some("zlib"), "compression"),
        ("data_file_raw=on", None, "data_file"),
        ("preallocation=full", Some("zlib"), "preallocation"),
        ("extended_l2=on,cluster_size=8K", None, "16384"),
        ("refcount_bits=3", None, "power of two"),
        ("refcount_bits=128", None, "power of two"),
        ("cluster_size=256", None, "512"),
        ("cluster_size=4M", None, "2097152"),
    ] {
        let error = refused(options, codec);
        assert!(error.contains(said), "{options}: {error}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was made"
    );
}
