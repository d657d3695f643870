//! What the tests of checks, edits and snapshots share: images of every kind made by qemu-img, and
//! its verdict on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{File, Result, SameFolder, StorageMut};
use rehost_image::{Check, EditFiles, Format, LayerMut, Snapshots};

use crate::support::{run, try_run};

/// Opens whatever an image names.
#[derive(Debug)]
pub(crate) struct Files;

impl EditFiles for Files {
    fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
        Ok(Arc::new(File::open_mut(path)?))
    }
}

fn parts(path: &Path) -> (PathBuf, Arc<dyn StorageMut>) {
    let path = path.canonicalize().unwrap();
    let storage = Arc::new(File::open_mut(&path).unwrap());
    (path, storage)
}

pub(crate) fn edit(path: &Path) -> Result<Box<dyn LayerMut>> {
    let (path, storage) = parts(path);
    rehost_image::edit(path, Format::Qcow2, storage, &SameFolder, &Files)
}

pub(crate) fn edit_snapshots(path: &Path) -> Result<Box<dyn Snapshots>> {
    let (path, storage) = parts(path);
    rehost_image::edit_snapshots(path, Format::Qcow2, storage, &SameFolder, &Files)
}

pub(crate) fn check(path: &Path) -> Result<Check> {
    let storage = Arc::new(File::open(path).unwrap());
    let path = path.canonicalize().unwrap();
    rehost_image::check(&path, Format::Qcow2, storage, &SameFolder)
}

pub(crate) fn repair(path: &Path) -> Result<Check> {
    let (path, storage) = parts(path);
    rehost_image::repair(path, Format::Qcow2, storage, &SameFolder, &Files)
}

/// What `qemu-img check` says, as JSON.
pub(crate) fn qemu_check(folder: &Path, image: &str) -> serde_json::Value {
    let args = ["check", "-f", "qcow2", "--output=json", image];
    let output = try_run(folder, "qemu-img", &args);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{image}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Fails unless both find nothing wrong with `image`, and count alike.
pub(crate) fn assert_sound(folder: &Path, image: &str, what: &str) {
    let found = check(&folder.join(image)).unwrap();
    assert!(found.is_clean(), "{what}: {:#?}", found.findings);
    assert_counts(&found, &qemu_check(folder, image), what);
}

/// Fails unless `found` has the counts of qemu-img.
pub(crate) fn assert_counts(found: &Check, judged: &serde_json::Value, what: &str) {
    let count = |name: &str| judged.get(name).map_or(0, |n| n.as_u64().unwrap());
    let theirs = [
        "total-clusters",
        "allocated-clusters",
        "compressed-clusters",
        "fragmented-clusters",
        "image-end-offset",
        "leaks",
        "corruptions",
    ]
    .map(count);
    let ours = [
        found.total_units,
        found.allocated_units,
        found.compressed_units,
        found.fragmented_units,
        found.image_end,
        found.leaks,
        found.corruptions,
    ];
    assert_eq!(ours, theirs, "{what}: {:#?} {judged:#}", found.findings);
}

/// One kind of image: the options of `qemu-img create`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sort {
    pub(crate) options: &'static str,
    pub(crate) data_file: bool,
    /// Counts of 1 bit leave no room for snapshots, data files have none.
    pub(crate) snapshots: bool,
}

const fn sort(options: &'static str) -> Sort {
    Sort {
        options,
        data_file: false,
        snapshots: true,
    }
}

/// Every option that changes how an image is kept.
pub(crate) const SORTS: [Sort; 15] = [
    sort("cluster_size=65536"),
    sort("compat=0.10"),
    sort("compat=0.10,cluster_size=512"),
    sort("cluster_size=512"),
    sort("cluster_size=4096,refcount_bits=64"),
    sort("cluster_size=512,refcount_bits=64"),
    // With compressed clusters, 2 bits are soon used up.
    Sort {
        options: "cluster_size=512,refcount_bits=2",
        data_file: false,
        snapshots: false,
    },
    sort("refcount_bits=4"),
    sort("refcount_bits=8,cluster_size=256k"),
    sort("refcount_bits=32,compression_type=zstd,cluster_size=16k"),
    sort("extended_l2=on,cluster_size=16k"),
    sort("extended_l2=on,cluster_size=128k"),
    Sort {
        options: "refcount_bits=1,cluster_size=1k",
        data_file: false,
        snapshots: false,
    },
    Sort {
        options: "data_file=disk.data,cluster_size=4k",
        data_file: true,
        snapshots: false,
    },
    Sort {
        options: "data_file=disk.data,data_file_raw=on",
        data_file: true,
        snapshots: false,
    },
];

impl Sort {
    /// An empty image of `size` bytes, over `backing` (raw) where there is one.
    pub(crate) fn create(&self, folder: &Path, image: &str, size: usize, backing: Option<&str>) {
        // Images with a data file take over what lies in it.
        let _ = fs::remove_file(folder.join("disk.data"));
        let size = size.to_string();
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", self.options];
        if let Some(backing) = backing {
            args.extend(["-b", backing, "-F", "raw"]);
        }
        args.extend([image, &size]);
        run(folder, "qemu-img", &args);
    }
}

/// Runs qemu-io commands on `image`.
pub(crate) fn qemu_io(folder: &Path, image: &str, commands: &[String]) {
    let mut args = vec!["-f", "qcow2", "-t", "unsafe"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image);
    run(folder, "qemu-io", &args);
}

/// What the guest sees now, and what it saw at `snapshot`.
pub(crate) fn qemu_content_at(folder: &Path, image: &str, snapshot: Option<&str>) -> Vec<u8> {
    let raw = format!("{image}.judged");
    let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
    if let Some(snapshot) = snapshot {
        args.extend(["-l", snapshot]);
    }
    args.extend([image, &raw]);
    run(folder, "qemu-img", &args);
    let bytes = fs::read(folder.join(&raw)).unwrap();
    fs::remove_file(folder.join(raw)).unwrap();
    bytes
}
