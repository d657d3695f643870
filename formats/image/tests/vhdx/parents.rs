//! Differencing disks, which QEMU does not read: made here as the standard says, over parents that
//! qemu-img or this program made.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rehost_block::{Kind, SameFolder};
use rehost_image::{Details, Image, OneFile, TargetOptions, TargetSpec, VhdxKind};

use crate::bytes::{BAT, BLOCK, HEADERS, ITEMS, METADATA, image_of, put, set, spec, u64_at};
use crate::reading::make;
use crate::support::{assert_content, have, noise, patchwork};

const PARENT_LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
];
const VHDX_LOCATOR: [u8; 16] = [
    0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13,
];
const LOCATOR_AT: usize = 68 << 10;

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut head = VHDX_LOCATOR.to_vec();
    head.extend([0, 0]);
    head.extend(u16::try_from(pairs.len()).unwrap().to_le_bytes());
    let mut texts = Vec::new();
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        let at = 20 + 12 * pairs.len() + texts.len();
        for at in [at, at + key.len()] {
            head.extend(u32::try_from(at).unwrap().to_le_bytes());
        }
        for len in [key.len(), value.len()] {
            head.extend(u16::try_from(len).unwrap().to_le_bytes());
        }
        texts.extend([key, value].concat());
    }
    [head, texts].concat()
}

/// `DataWriteGuid` of the file, as a parent locator has it.
fn linkage(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let at = HEADERS
        .into_iter()
        .max_by_key(|at| u64_at(&bytes, at + 8))
        .unwrap();
    let guid: [u8; 16] = bytes[at + 32..at + 48].try_into().unwrap();
    format!("{{{}}}", uuid::Uuid::from_bytes_le(guid)).to_uppercase()
}

/// Makes a plain image a differencing one.
fn differencing(bytes: &mut [u8], pairs: &[(&str, &str)]) {
    let locator = locator(pairs);
    put(bytes, ITEMS + 4, &2u32.to_le_bytes());
    put(bytes, METADATA + 10, &6u16.to_le_bytes());
    let mut item = PARENT_LOCATOR.to_vec();
    for word in [LOCATOR_AT, locator.len(), 4, 0] {
        item.extend(u32::try_from(word).unwrap().to_le_bytes());
    }
    put(bytes, METADATA + 32 * 6, &item);
    put(bytes, METADATA + LOCATOR_AT, &locator);
}

/// Makes block `nth` a partially present one, of the sectors that `present` tells.
fn partial(bytes: &mut Vec<u8>, nth: usize, sector: usize, present: impl Fn(usize) -> bool) {
    let block = block_size(bytes);
    let ratio = (sector << 23) / block;
    let at = BAT + 8 * (nth + nth / ratio);
    let entry = u64_at(bytes, at);
    assert_eq!(entry & 7, 6, "block {nth} is not there");
    put(bytes, at, &(entry | 7).to_le_bytes());
    let chunk = nth / ratio;
    let at = BAT + 8 * ((chunk + 1) * ratio + chunk);
    if u64_at(bytes, at) == 0 {
        let entry = bytes.len() as u64 | 6;
        put(bytes, at, &entry.to_le_bytes());
        bytes.resize(bytes.len() + (1 << 20), 0);
    }
    let bitmap = usize::try_from(u64_at(bytes, at) >> 20 << 20).unwrap();
    let first = nth % ratio * (block / sector);
    for nth in (0..block / sector).filter(|nth| present(*nth)) {
        bytes[bitmap + (first + nth) / 8] |= 1 << ((first + nth) % 8);
    }
}

fn block_size(bytes: &[u8]) -> usize {
    u64_at(bytes, ITEMS) as u32 as usize
}

/// A child of `parent`, its blocks 1 and 2 its own, half of 2 by turns of 3 sectors, and what
/// it reads as.
fn child(folder: &Path, parent: &str, name: &str, below: &[u8], spec: &TargetSpec) -> Vec<u8> {
    let TargetOptions::Vhdx(options) = &spec.options else {
        panic!("a VHDX is wanted");
    };
    let sector = options.logical_sector.unwrap_or(512) as usize;
    let mut own = vec![0; below.len()];
    own[BLOCK..3 * BLOCK].copy_from_slice(&noise(name.len() as u64, 2 * BLOCK));
    let mut bytes = image_of(&own, spec);
    let linkage = linkage(&folder.join(parent));
    let relative = format!(".\\{parent}");
    differencing(
        &mut bytes,
        &[("parent_linkage", &linkage), ("relative_path", &relative)],
    );
    let present = |nth: usize| nth / 3 % 2 == 1;
    partial(&mut bytes, 2, sector, present);
    // Zeroes of its own, not the parent's.
    put(&mut bytes, BAT + 8 * 3, &2u64.to_le_bytes());
    fs::write(folder.join(name), bytes).unwrap();
    let mut expected = below.to_vec();
    expected[BLOCK..2 * BLOCK].copy_from_slice(&own[BLOCK..2 * BLOCK]);
    for nth in (0..BLOCK / sector).filter(|nth| present(*nth)) {
        let at = 2 * BLOCK + nth * sector;
        expected[at..at + sector].copy_from_slice(&own[at..at + sector]);
    }
    expected[3 * BLOCK..4 * BLOCK].fill(0);
    expected
}

#[test]
fn a_chain_over_a_parent_that_qemu_img_made() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = patchwork(6 << 20);
    make(
        folder.path(),
        "base.vhdx",
        &base,
        "subformat=dynamic,block_size=8M",
    );
    let spec = spec(base.len());
    let middle = child(folder.path(), "base.vhdx", "middle.avhdx", &base, &spec);
    let top = child(
        folder.path(),
        "middle.avhdx",
        "the top.avhdx",
        &middle,
        &spec,
    );
    for (name, expected, layers) in [("middle.avhdx", &middle, 2), ("the top.avhdx", &top, 3)] {
        let image = assert_content(&folder.path().join(name), expected, name);
        assert_eq!(image.layers().len(), layers);
        let Details::Vhdx(details) = &image.layers()[0].details else {
            panic!("{name}");
        };
        assert_eq!(details.kind, VhdxKind::Differencing);
    }
}

#[test]
fn bitmaps_of_4096_byte_sectors_count_in_those() {
    let folder = tempfile::tempdir().unwrap();
    let base = patchwork(5 << 20);
    let mut spec = spec(base.len());
    set(&mut spec, "logical_sector_size", 4096);
    fs::write(folder.path().join("base.vhdx"), image_of(&base, &spec)).unwrap();
    let expected = child(folder.path(), "base.vhdx", "child.vhdx", &base, &spec);
    assert_content(&folder.path().join("child.vhdx"), &expected, "4096");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_bitmap_splits_a_block_between_child_and_parent(
        block in 20u32..23,
        turns in prop::collection::vec(1usize..400, 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let size = (2usize << block) + 512 * 77;
        let (base, own) = (noise(1, size), noise(2, size));
        let mut spec = spec(size);
        set(&mut spec, "block_size", 1 << block);
        fs::write(folder.path().join("base.vhdx"), image_of(&base, &spec)).unwrap();
        let mut bytes = image_of(&own, &spec);
        let linkage = linkage(&folder.path().join("base.vhdx"));
        differencing(&mut bytes, &[("relative_path", "base.vhdx"), ("parent_linkage", &linkage)]);
        let mut map: Vec<bool> = turns
            .iter()
            .enumerate()
            .flat_map(|(nth, len)| vec![nth % 2 == 0; *len])
            .collect();
        map.resize(size / 512, true);
        let per_block = (1usize << block) / 512;
        let mut expected = base.clone();
        for nth in 0..map.len() {
            if map[nth] {
                expected[nth * 512..][..512].copy_from_slice(&own[nth * 512..][..512]);
            }
        }
        for nth in 0..size.div_ceil(1 << block) {
            partial(&mut bytes, nth, 512, |sector| {
                map.get(nth * per_block + sector).copied().unwrap_or(false)
            });
        }
        let path = folder.path().join("child.vhdx");
        fs::write(&path, bytes).unwrap();
        assert_content(&path, &expected, "bitmap");
    }
}

#[test]
fn a_child_with_a_bitmap_in_its_second_chunk_finds_it() {
    // 4096-byte blocks of chunks are too big for a test: 256 MiB blocks have 16 in a chunk.
    let folder = tempfile::tempdir().unwrap();
    let size = (4usize << 30) + (1 << 20);
    let mut spec = spec(size);
    set(&mut spec, "block_size", 256 << 20);
    let make = |seed| {
        let memory = std::sync::Arc::new(
            rehost_block::File::create_new(folder.path().join(format!("{seed}.vhdx"))).unwrap(),
        );
        let target = rehost_image::create(&spec, memory, &OneFile).unwrap();
        target
            .put(4 << 30, rehost_image::Payload::Plain(&noise(seed, 1 << 20)))
            .unwrap();
        target.publish().unwrap();
    };
    make(1);
    make(2);
    let path = folder.path().join("2.vhdx");
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut head = vec![0; 4 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).unwrap();
    let linkage = linkage_of(&folder.path().join("1.vhdx"));
    differencing(
        &mut head,
        &[("parent_linkage", &linkage), ("relative_path", "1.vhdx")],
    );
    // Block 16 is entry 17, behind the first chunk's bitmap; the second chunk's is entry 33.
    let entry = u64_at(&head, BAT + 8 * 17);
    assert_eq!(entry & 7, 6);
    put(&mut head, BAT + 8 * 17, &(entry | 7).to_le_bytes());
    let end = file.metadata().unwrap().len();
    put(&mut head, BAT + 8 * 33, &(end | 6).to_le_bytes());
    std::os::unix::fs::FileExt::write_all_at(&file, &head, 0).unwrap();
    file.set_len(end + (1 << 20)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x0f], end).unwrap();
    let image = Image::open(&path, None, &SameFolder).unwrap();
    let mut found = vec![0; 4096];
    image.disk().read_at(&mut found, 4 << 30).unwrap();
    assert_eq!(found[..2048], noise(2, 2048)[..]);
    assert_eq!(found[2048..], noise(1, 4096)[2048..]);
}

/// As [`linkage`], of a file that is too long to read whole.
fn linkage_of(path: &Path) -> String {
    let image = Image::open(path, None, &SameFolder).unwrap();
    let Details::Vhdx(details) = &image.layers()[0].details else {
        panic!("{}", path.display());
    };
    format!("{{{}}}", details.data_write_guid)
}

#[test]
fn a_parent_that_changed_or_is_missing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let base = patchwork(4 << 20);
    let spec = spec(base.len());
    fs::write(folder.path().join("base.vhdx"), image_of(&base, &spec)).unwrap();
    child(folder.path(), "base.vhdx", "child.vhdx", &base, &spec);
    let path = folder.path().join("child.vhdx");

    fs::write(folder.path().join("base.vhdx"), image_of(&base, &spec)).unwrap();
    let error = Image::open(&path, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("changed after"), "{error}");

    fs::remove_file(folder.path().join("base.vhdx")).unwrap();
    let error = Image::open(&path, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("base.vhdx"), "{error}");
}

#[test]
fn the_parent_is_found_by_each_kind_of_path_and_either_linkage() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    let base = noise(4, 2 << 20);
    let spec = spec(base.len());
    fs::write(folder.path().join("base.vhdx"), image_of(&base, &spec)).unwrap();
    fs::write(folder.path().join("below/far.vhdx"), image_of(&base, &spec)).unwrap();
    let near = linkage(&folder.path().join("base.vhdx"));
    let far = linkage(&folder.path().join("below/far.vhdx"));
    let other = "{00000000-0000-0000-0000-000000000001}";
    let path = folder.path().join("child.vhdx");
    let open = |pairs: &[(&str, &str)]| {
        let mut bytes = image_of(&vec![0; base.len()], &spec);
        differencing(&mut bytes, pairs);
        fs::write(&path, bytes).unwrap();
        Image::open(&path, None, &SameFolder)
    };
    let absolute = folder.path().join("base.vhdx");
    for pairs in [
        &[
            ("relative_path", ".\\below\\far.vhdx"),
            ("parent_linkage", &*far),
        ][..],
        &[
            ("relative_path", "gone.vhdx"),
            ("absolute_win32_path", "D:\\VMs\\base.vhdx"),
            ("parent_linkage", &near),
        ],
        &[
            ("volume_path", "\\\\?\\Volume{0}\\VMs\\base.vhdx"),
            ("parent_linkage", &near),
        ],
        &[
            ("absolute_win32_path", absolute.to_str().unwrap()),
            ("parent_linkage", &near),
        ],
        &[
            ("relative_path", "base.vhdx"),
            ("parent_linkage", other),
            ("parent_linkage2", &near),
        ],
    ] {
        open(pairs).unwrap_or_else(|error| panic!("{pairs:?}: {error}"));
        assert_content(&path, &base, "parent");
    }
    let error = open(&[("relative_path", "base.vhdx"), ("parent_linkage", other)]).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let error = open(&[("relative_path", "child.vhdx"), ("parent_linkage", other)]).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let error = open(&[
        ("relative_path", "../../../../../etc/hostname"),
        ("parent_linkage", other),
    ]);
    assert_eq!(error.unwrap_err().kind(), Kind::Usage);
}
