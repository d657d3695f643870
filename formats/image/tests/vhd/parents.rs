//! Differencing disks: the parent is found by every kind of locator, and it is the right one.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rehost_block::{AllowedFolders, Kind, SameFolder};
use rehost_image::{Format, Image, VhdKind};

use crate::support::{assert_content, noise, patchwork, read_all};
use crate::{COPY, HEADER, footer, in_memory, patch};

const SIZE: usize = 5 << 20;

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Whether a sector is in the child.
type Owned<'a> = &'a dyn Fn(usize) -> bool;

/// A child of the image `parent`: its first two blocks hold `disk` where `owned`; its parent is
/// named by `locators`.
fn child(
    parent: &[u8],
    disk: &[u8],
    owned: Owned<'_>,
    locators: &[(&[u8; 4], Vec<u8>)],
) -> Vec<u8> {
    let mut stored = disk.to_vec();
    stored[4 << 20..].fill(0);
    let mut bytes = in_memory(VhdKind::Dynamic, &stored);
    for sector in 0..(4 << 20) / 512 {
        let entry = 1536 + sector / 4096 * 4;
        let block = u32::from_be_bytes(bytes[entry..entry + 4].try_into().unwrap()) as usize * 512;
        let bit = 0x80 >> (sector % 8);
        if !owned(sector) {
            bytes[block + sector % 4096 / 8] &= !bit;
        }
    }
    let end = bytes.split_off(bytes.len() - 512);
    for (nth, (code, name)) in locators.iter().enumerate() {
        let at = 576 + nth * 24;
        patch(&mut bytes, HEADER, at, *code);
        patch(&mut bytes, HEADER, at + 4, &512u32.to_be_bytes());
        let len = u32::try_from(name.len()).unwrap();
        patch(&mut bytes, HEADER, at + 8, &len.to_be_bytes());
        let place = bytes.len() as u64;
        patch(&mut bytes, HEADER, at + 16, &place.to_be_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    let parent = &parent[parent.len() - 512..];
    patch(&mut bytes, HEADER, 40, &parent[68..84]);
    patch(&mut bytes, HEADER, 56, &parent[24..28]);
    bytes.extend(end);
    let end = footer(&bytes);
    for footer in [COPY, end] {
        patch(&mut bytes, footer, 60, &4u32.to_be_bytes());
    }
    bytes
}

fn merged(parent: &[u8], disk: &[u8], owned: Owned<'_>) -> Vec<u8> {
    let mut merged = parent.to_vec();
    for sector in (0..(4 << 20) / 512).filter(|sector| owned(*sector)) {
        let range = sector * 512..(sector + 1) * 512;
        merged[range.clone()].copy_from_slice(&disk[range]);
    }
    merged
}

/// `base.vhd`, and `top.vhd` over it with these locators; what the guest sees; where they are.
fn chain(kind: VhdKind, locators: &[(&[u8; 4], Vec<u8>)]) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (below, above) = (patchwork(SIZE), noise(3, SIZE));
    let parent = in_memory(kind, &below);
    let owned = |sector: usize| sector.is_multiple_of(3) || (5000..5100).contains(&sector);
    let path = folder.path().join("top.vhd");
    fs::write(folder.path().join("base.vhd"), &parent).unwrap();
    fs::write(&path, child(&parent, &above, &owned, locators)).unwrap();
    (folder, path, merged(&below, &above, &owned))
}

fn refused(path: &Path) -> rehost_block::Error {
    Image::open(path, None, &SameFolder).unwrap_err()
}

#[test]
fn the_parent_is_found_by_each_kind_of_locator() {
    let locators: [(&[u8; 4], Vec<u8>); 7] = [
        (b"W2ru", wide(".\\base.vhd")),
        (b"W2ku", wide("C:\\VMs\\x\\base.vhd")),
        (b"W2ku", wide("\\\\server\\share\\base.vhd")),
        (b"Wi2r", b".\\base.vhd".to_vec()),
        (b"Wi2k", b"D:\\base.vhd\0".to_vec()),
        (b"MacX", b"file://./base.vhd".to_vec()),
        (b"MacX", b"file://localhost/Users/x/base%2evhd".to_vec()),
    ];
    for locator in locators {
        for kind in [VhdKind::Dynamic, VhdKind::Fixed] {
            let what = String::from_utf8_lossy(&locator.1).into_owned();
            let (_folder, path, expected) = chain(kind, std::slice::from_ref(&locator));
            let image = assert_content(&path, &expected, &what);
            assert_eq!(image.layers().len(), 2, "{what}");
            assert!(image.files()[1].ends_with("base.vhd"));
        }
    }
}

#[test]
fn a_locator_that_leads_nowhere_is_followed_by_the_next_one_and_the_name_in_the_header() {
    let locators: [(&[u8; 4], Vec<u8>); 3] = [
        (b"W2ru", wide("..\\gone\\other.vhd")),
        (b"Mac ", vec![1, 2, 3]),
        (b"MacX", b"file://./base.vhd".to_vec()),
    ];
    let (_folder, path, expected) = chain(VhdKind::Dynamic, &locators);
    assert_content(&path, &expected, "second locator");

    let (_folder, path, expected) = chain(VhdKind::Dynamic, &[]);
    let mut bytes = fs::read(&path).unwrap();
    let name: Vec<u8> = "C:\\x\\base.vhd"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    patch(&mut bytes, HEADER, 64, &name);
    fs::write(&path, bytes).unwrap();
    assert_content(&path, &expected, "name in the header");
}

#[test]
fn a_chain_of_three_reads_through() {
    let (folder, path, middle) = chain(VhdKind::Fixed, &[(b"W2ru", wide(".\\base.vhd"))]);
    let parent = fs::read(&path).unwrap();
    let disk = noise(9, SIZE);
    let owned = |sector: usize| sector.is_multiple_of(5);
    let top = child(&parent, &disk, &owned, &[(b"W2ru", wide(".\\top.vhd"))]);
    let path = folder.path().join("third.vhd");
    fs::write(&path, top).unwrap();
    let image = assert_content(&path, &merged(&middle, &disk, &owned), "three");
    assert_eq!(image.layers().len(), 3);
}

#[test]
fn a_missing_parent_is_an_error() {
    let (folder, path, _) = chain(VhdKind::Fixed, &[(b"W2ru", wide(".\\base.vhd"))]);
    fs::remove_file(folder.path().join("base.vhd")).unwrap();
    let error = refused(&path);
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("base.vhd"), "{error}");

    let (_folder, path, _) = chain(VhdKind::Fixed, &[(b"W2ru", wide("..\\gone\\top.vhd"))]);
    let error = refused(&path);
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("gone/top.vhd"), "{error}");

    let (_folder, path, _) = chain(VhdKind::Fixed, &[]);
    let error = refused(&path);
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("names no parent"), "{error}");
}

#[test]
fn another_or_a_changed_parent_is_an_error() {
    let locators: [(&[u8; 4], Vec<u8>); 1] = [(b"W2ru", wide(".\\base.vhd"))];
    for (at, value, named) in [
        (68, vec![7; 16], "another disk"),
        (24, vec![1, 2, 3, 4], "changed after"),
    ] {
        let (folder, path, expected) = chain(VhdKind::Fixed, &locators);
        let base = folder.path().join("base.vhd");
        let mut bytes = fs::read(&base).unwrap();
        let end = footer(&bytes);
        patch(&mut bytes, end, at, &value);
        // The file's own time is not that of the footer either: it was made an hour later.
        fs::write(&base, bytes).unwrap();
        let file = fs::File::options().write(true).open(&base).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        file.set_modified(later).unwrap();
        let error = refused(&path);
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains("base.vhd"), "{error}");

        // Time stamps that say nothing: Windows 10 leaves them out, blktap never looks at them.
        if at == 24 {
            let whole = fs::read(&path).unwrap();
            let mut none = whole.clone();
            patch(&mut none, HEADER, 56, &[0; 4]);
            let mut blktap = whole;
            let end = footer(&blktap);
            patch(&mut blktap, end, 28, b"tap\0");
            for bytes in [none, blktap] {
                fs::write(&path, bytes).unwrap();
                assert_content(&path, &expected, "no time stamp");
            }
        }
    }
}

#[test]
fn the_time_of_the_parents_file_will_do() {
    let (folder, path, expected) = chain(VhdKind::Fixed, &[(b"W2ru", wide(".\\base.vhd"))]);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(946_684_800 + 400_000_000);
    let base = fs::File::options()
        .write(true)
        .open(folder.path().join("base.vhd"))
        .unwrap();
    base.set_modified(time).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    patch(&mut bytes, HEADER, 56, &400_000_001u32.to_be_bytes());
    fs::write(&path, bytes).unwrap();
    assert_content(&path, &expected, "time of the file");
}

#[test]
fn a_parent_outside_the_folder_needs_permission() {
    let (folder, path, expected) = chain(VhdKind::Fixed, &[(b"W2ru", wide("..\\base.vhd"))]);
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    let moved = below.join("top.vhd");
    fs::rename(path, &moved).unwrap();
    let error = refused(&moved);
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains("--allow-path"), "{error}");
    let opener = AllowedFolders::new([folder.path().to_owned()]).unwrap();
    let image = Image::open(&moved, None, &opener).unwrap();
    assert!(read_all(&*image.disk(), 1 << 20) == expected);
}

#[test]
fn a_parent_that_is_no_vhd_is_named() {
    let (folder, path, _) = chain(VhdKind::Fixed, &[(b"W2ru", wide(".\\base.vhd"))]);
    fs::write(folder.path().join("base.vhd"), vec![0; SIZE]).unwrap();
    let error = refused(&path);
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(
        error.to_string().contains("base.vhd: hard disk footer"),
        "{error}"
    );
}

#[test]
fn a_disk_that_is_its_own_parent_ends() {
    let (_folder, path, _) = chain(VhdKind::Fixed, &[(b"W2ru", wide(".\\top.vhd"))]);
    let mut bytes = fs::read(&path).unwrap();
    let own = bytes[bytes.len() - 512..].to_vec();
    patch(&mut bytes, HEADER, 40, &own[68..84]);
    patch(&mut bytes, HEADER, 56, &own[24..28]);
    fs::write(&path, bytes).unwrap();
    let error = Image::open(&path, Some(Format::Vhd), &SameFolder).unwrap_err();
    assert!(error.to_string().contains("loops back"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_bitmap_takes_each_sector_from_the_right_disk(
        seed in any::<u64>(),
        run in 1usize..200,
    ) {
        let (below, above) = (patchwork(SIZE), noise(3, SIZE));
        let parent = in_memory(VhdKind::Dynamic, &below);
        let dice = noise(seed, SIZE / 512);
        let owned = |sector: usize| dice[sector / run].is_multiple_of(2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("top.vhd");
        fs::write(folder.path().join("base.vhd"), &parent).unwrap();
        let locators: [(&[u8; 4], Vec<u8>); 1] = [(b"W2ru", wide("base.vhd"))];
        fs::write(&path, child(&parent, &above, &owned, &locators)).unwrap();
        assert_content(&path, &merged(&below, &above, &owned), "random bitmap");
    }
}
