//! Differencing VDIs, which know their parent by its UUID alone.
//!
//! No foreign tool here makes them: they are made by changing the header of a dynamic one, as
//! `VirtualBox` lays it out, and what they must hold is put together by hand.

use std::fs;
use std::path::{Path, PathBuf};

use rehost_block::{AllowedFolders, Kind, SameFolder};
use rehost_image::{Details, Image};

use crate::in_memory;
use crate::support::{assert_content, noise, read_all, runs};

const BLOCK: usize = 1 << 20;
const MAP: usize = 1 << 20;

/// The four UUIDs of a header.
const UUID: usize = 0x188;
const MODIFIED: usize = 0x198;
const LINKAGE: usize = 0x1a8;
const PARENT_MODIFIED: usize = 0x1b8;

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// An image of `disk` with the UUID of `me`, over the disk of `parent`.
fn vdi(disk: &[u8], me: u8, parent: Option<u8>) -> Vec<u8> {
    let mut bytes = in_memory(disk);
    set(&mut bytes, UUID, &[me; 16]);
    set(&mut bytes, MODIFIED, &[me + 0x80; 16]);
    if let Some(parent) = parent {
        bytes[0x4c] = 4;
        set(&mut bytes, LINKAGE, &[parent; 16]);
        set(&mut bytes, PARENT_MODIFIED, &[parent + 0x80; 16]);
    }
    bytes
}

/// A base of four blocks and a child in which the first is free, the second stored, the third one
/// of zeroes, the fourth free; and what the child holds.
fn family(folder: &Path) -> (PathBuf, Vec<u8>) {
    let base = noise(1, 4 * BLOCK);
    let mut upper = vec![0; 4 * BLOCK];
    upper[BLOCK..2 * BLOCK].copy_from_slice(&noise(2, BLOCK));
    let mut child = vdi(&upper, 2, Some(1));
    set(&mut child, MAP + 8, &0xffff_fffeu32.to_le_bytes());
    fs::write(folder.join("base.vdi"), vdi(&base, 1, None)).unwrap();
    fs::write(folder.join("{02}.VDI"), child).unwrap();
    let mut expected = base;
    expected[BLOCK..2 * BLOCK].copy_from_slice(&upper[BLOCK..2 * BLOCK]);
    expected[2 * BLOCK..3 * BLOCK].fill(0);
    (folder.join("{02}.VDI"), expected)
}

#[test]
fn free_blocks_are_the_parents_and_zero_blocks_are_zero() {
    let folder = tempfile::tempdir().unwrap();
    let (child, expected) = family(folder.path());
    // Neighbours that are no VDI, or another disk, are not in the way.
    fs::write(folder.path().join("a.vdi"), b"no VDI").unwrap();
    fs::write(folder.path().join("b.vdi"), vdi(&[1; 512], 9, None)).unwrap();
    let image = assert_content(&child, &expected, "child");
    assert_eq!(image.layers().len(), 2);
    assert!(image.layers()[1].path.ends_with("base.vdi"));
    let block = BLOCK as u64;
    let kinds = [
        ("data", block),
        ("data", block),
        ("zero", block),
        ("data", block),
    ];
    assert_eq!(runs(&*image.disk()), kinds);
    let Details::Vdi(details) = &image.layers()[0].details else {
        panic!("no VDI");
    };
    assert_eq!(details.image_type, "differencing");
    assert_eq!(
        details.parent.as_deref(),
        Some("01010101-0101-0101-0101-010101010101")
    );
}

#[test]
fn three_generations_are_one_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut expected) = family(folder.path());
    let mut upper = vec![0; 4 * BLOCK];
    upper[3 * BLOCK..].copy_from_slice(&noise(3, BLOCK));
    let grandchild = folder.path().join("three.vdi");
    fs::write(&grandchild, vdi(&upper, 3, Some(2))).unwrap();
    expected[3 * BLOCK..].copy_from_slice(&upper[3 * BLOCK..]);
    let image = assert_content(&grandchild, &expected, "grandchild");
    assert_eq!(image.layers().len(), 3);
}

#[test]
fn a_snapshot_folder_needs_the_machines_folder_to_be_allowed() {
    let machine = tempfile::tempdir().unwrap();
    let snapshots = machine.path().join("Snapshots");
    fs::create_dir(&snapshots).unwrap();
    let (child, expected) = family(&snapshots);
    fs::rename(snapshots.join("base.vdi"), machine.path().join("base.vdi")).unwrap();
    let error = Image::open(&child, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    let line = error.to_string();
    assert!(
        line.contains("01010101-0101-0101-0101-010101010101"),
        "{line}"
    );
    assert!(line.contains("--allow-path"), "{line}");
    let gate = AllowedFolders::new([machine.path().to_owned()]).unwrap();
    let image = Image::open(&child, None, &gate).unwrap();
    assert!(read_all(&*image.disk(), BLOCK) == expected);
}

#[test]
fn a_changed_or_doubtful_parent_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (child, expected) = family(folder.path());
    let base = folder.path().join("base.vdi");
    let whole = fs::read(&base).unwrap();
    let refused = |named: &str| {
        let error = Image::open(&child, None, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains(named), "{error}");
    };
    let mut changed = whole.clone();
    set(&mut changed, MODIFIED, &[0x77; 16]);
    fs::write(&base, changed).unwrap();
    refused("was changed after");
    fs::write(&base, &whole).unwrap();
    fs::write(folder.path().join("copy.vdi"), &whole).unwrap();
    refused("is there twice");
    fs::remove_file(folder.path().join("copy.vdi")).unwrap();
    // A child that noted no modification takes the parent as it is.
    let mut bytes = fs::read(&child).unwrap();
    set(&mut bytes, PARENT_MODIFIED, &[0; 16]);
    fs::write(&child, &bytes).unwrap();
    assert_content(&child, &expected, "unnoted");
    set(&mut bytes, LINKAGE, &[0; 16]);
    fs::write(&child, &bytes).unwrap();
    refused("names no parent");
    // A disk over itself is a disk without its parent.
    set(&mut bytes, LINKAGE, &[2; 16]);
    fs::write(&child, &bytes).unwrap();
    let error = Image::open(&child, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
}
