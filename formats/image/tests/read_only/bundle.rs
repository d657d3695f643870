//! Parallels disk folders: plain and expanding images, snapshots, disks in several parts.

use std::fs;
use std::path::Path;

use rehost_block::{Kind, SameFolder};
use rehost_image::{Details, Format, Image};

use crate::made::{self, CLUSTER, MAGICS};
use crate::support::{assert_content, noise};

const ROOT: &str = "{00000000-0000-0000-0000-00000000000a}";
const MIDDLE: &str = "{00000000-0000-0000-0000-00000000000b}";
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
const NIL: &str = "{00000000-0000-0000-0000-000000000000}";

/// Guest bytes of one storage.
const PART: usize = 8 * CLUSTER;

/// An expanding image of `PART` bytes that holds `clusters`, each filled with noise of its seed.
fn image(clusters: &[(usize, u64)]) -> Vec<u8> {
    let mut bytes = made::parallels(MAGICS[1]);
    bytes[36..40].copy_from_slice(&((PART / 512) as u32).to_le_bytes());
    bytes[64..100].fill(0);
    bytes.truncate(CLUSTER);
    for (nth, (cluster, seed)) in clusters.iter().enumerate() {
        let entry = (nth as u32 + 1).to_le_bytes();
        bytes[64 + cluster * 4..68 + cluster * 4].copy_from_slice(&entry);
        bytes.extend(noise(*seed, CLUSTER));
    }
    bytes
}

/// The disk after images with these clusters were laid over each other, the root first.
fn disk(layers: &[&[(usize, u64)]]) -> Vec<u8> {
    let mut disk = vec![0; PART];
    for (cluster, seed) in layers.iter().copied().flatten() {
        disk[cluster * CLUSTER..(cluster + 1) * CLUSTER].copy_from_slice(&noise(*seed, CLUSTER));
    }
    disk
}

fn storage(start: usize, images: &[(&str, &str, &str)]) -> String {
    let images: String = images
        .iter()
        .map(|(guid, kind, file)| {
            format!("<Image><GUID>{guid}</GUID><Type>{kind}</Type><File>{file}</File></Image>")
        })
        .collect();
    format!(
        "<Storage><Start>{start}</Start><End>{}</End><Blocksize>{}</Blocksize>{images}</Storage>",
        start + PART / 512,
        CLUSTER / 512
    )
}

fn descriptor(storages: &[String], shots: &[(&str, &str)], more: &str) -> String {
    let shots: String = shots
        .iter()
        .map(|(guid, parent)| {
            format!("<Shot><GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>")
        })
        .collect();
    format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n\
         <Disk_Parameters><Disk_size>{}</Disk_size><Padding>0</Padding>{more}</Disk_Parameters>\n\
         <StorageData>{}</StorageData><Snapshots>{shots}</Snapshots></Parallels_disk_image>\n",
        storages.len() * PART / 512,
        storages.concat()
    )
}

fn write(folder: &Path, text: &str) {
    fs::write(folder.join("DiskDescriptor.xml"), text).unwrap();
}

const BASE: [(usize, u64); 3] = [(0, 1), (2, 2), (5, 3)];
const DELTA: [(usize, u64); 2] = [(2, 4), (3, 5)];
const LAST: [(usize, u64); 2] = [(3, 6), (7, 7)];

/// A folder of two parts: one plain, one with two snapshots.
fn two_parts(folder: &Path) -> Vec<u8> {
    fs::write(folder.join("plain & simple.hds"), noise(9, PART)).unwrap();
    for (name, clusters) in [("a.hds", &BASE[..]), ("b.hds", &DELTA), ("c.hds", &LAST)] {
        fs::write(folder.join(name), image(clusters)).unwrap();
    }
    let empty = image(&[]);
    fs::write(folder.join("p1.hds"), &empty).unwrap();
    fs::write(folder.join("p2.hds"), &empty).unwrap();
    let first = storage(
        0,
        &[
            (ROOT, "Plain", "plain &amp; s&#105;mple.hds"),
            (TOP, "Compressed", "p2.hds"),
            (MIDDLE, "Compressed", "p1.hds"),
        ],
    );
    let second = storage(
        PART / 512,
        &[
            (ROOT, "Compressed", "a.hds"),
            (MIDDLE, "Compressed", "b.hds"),
            (TOP, "Compressed", "c.hds"),
        ],
    );
    let shots = [(TOP, MIDDLE), (ROOT, NIL), (MIDDLE, ROOT)];
    write(folder, &descriptor(&[first, second], &shots, ""));
    [noise(9, PART), disk(&[&BASE, &DELTA, &LAST])].concat()
}

#[test]
fn a_folder_of_two_parts_with_snapshots_is_one_disk() {
    let folder = tempfile::tempdir().unwrap();
    let expected = two_parts(folder.path());
    for path in [
        folder.path().to_owned(),
        folder.path().join("DiskDescriptor.xml"),
    ] {
        let image = assert_content(&path, &expected, "folder");
        assert_eq!(image.format(), Format::Parallels);
        assert_eq!(image.files().len(), 7);
        let Details::Parallels(details) = &image.layers()[0].details else {
            panic!("no Parallels details");
        };
        assert_eq!((details.images, details.in_use), (6, false));
        assert_eq!(details.snapshot, Some(TOP.parse().unwrap()));
    }
}

#[test]
fn the_top_may_be_another_snapshot_than_the_usual_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.hds"), image(&BASE)).unwrap();
    fs::write(folder.path().join("b.hds"), image(&DELTA)).unwrap();
    let images = [
        (ROOT, "Compressed", "a.hds"),
        (MIDDLE, "Compressed", "b.hds"),
    ];
    let text = descriptor(&[storage(0, &images)], &[(MIDDLE, ROOT), (ROOT, NIL)], "");
    let text = text.replace(
        "<Snapshots>",
        &format!("<Snapshots><TopGUID>{MIDDLE}</TopGUID>"),
    );
    write(folder.path(), &text);
    assert_content(folder.path(), &disk(&[&BASE, &DELTA]), "top");
}

#[test]
fn a_snapshots_image_is_not_read_without_what_lies_below() {
    let folder = tempfile::tempdir().unwrap();
    two_parts(folder.path());
    // The root alone is whole, and an older state of the disk.
    assert_content(&folder.path().join("a.hds"), &disk(&[&BASE]), "root");
    for name in ["b.hds", "c.hds"] {
        let error = Image::open(folder.path().join(name), None, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().contains("differs from another"),
            "{error}"
        );
    }
    fs::remove_file(folder.path().join("a.hds")).unwrap();
    let error = Image::open(folder.path(), None, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("a.hds"), "{error}");
}

#[test]
fn what_contradicts_the_descriptor_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.hds"), image(&BASE)).unwrap();
    fs::write(folder.path().join("b.hds"), image(&DELTA)).unwrap();
    let images = [(ROOT, "Compressed", "a.hds"), (TOP, "Compressed", "b.hds")];
    let good = descriptor(&[storage(0, &images)], &[(TOP, ROOT), (ROOT, NIL)], "");
    write(folder.path(), &good);
    assert_content(folder.path(), &disk(&[&BASE, &DELTA]), "good");
    let cases = [
        ("Padding>0", "Padding>1", "padded"),
        (
            "</Padding>",
            "</Padding><Encryption><Engine>{00000000-0000-0000-0000-000000000001}</Engine></Encryption>",
            "encrypted",
        ),
        ("<Start>0", "<Start>8", "do not follow each other"),
        ("Disk_size>64", "Disk_size>65", "do not cover the disk"),
        ("Blocksize>8", "Blocksize>16", "another cluster size"),
        ("Compressed", "Weird", "image type"),
        ("b.hds", "a.hds", "twice"),
        ("b.hds", "../b.hds", "b.hds"),
        ("<File>b.hds</File>", "", "has no file"),
        (
            "<Type>Compressed</Type><File>b.hds",
            "<Type>Plain</Type><File>b.hds",
            "plain and lies over",
        ),
        (
            &format!("<ParentGUID>{NIL}"),
            &format!("<ParentGUID>{TOP}"),
            "lies over itself",
        ),
        (
            &format!("<ParentGUID>{ROOT}"),
            &format!("<ParentGUID>{MIDDLE}"),
            "is not described",
        ),
        ("</Snapshots>", "", "XML"),
        ("<End>64</End>", "<End>x</End>", "no number"),
        ("<End>64</End>", "<End>&foo;</End>", "entity"),
        (
            "Parallels_disk_image",
            "Parallels_disk_imagf",
            "no descriptor",
        ),
    ];
    for (from, to, named) in cases {
        assert!(good.contains(from), "{from}");
        write(folder.path(), &good.replace(from, to));
        let path = folder.path().join("DiskDescriptor.xml");
        let error = Image::open(path, Some(Format::Parallels), &SameFolder).unwrap_err();
        assert!(error.to_string().contains(named), "{from}: {error}");
        assert_ne!(error.kind(), Kind::Internal);
    }
    let deep = good.replace("<Snapshots>", &"<x>".repeat(100_000));
    write(folder.path(), &deep);
    let error = Image::open(folder.path(), None, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("inside each other"), "{error}");
}
