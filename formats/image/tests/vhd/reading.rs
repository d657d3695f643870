//! VHDs made by qemu-img, and the rules that it has no options for.

use std::fs;
use std::path::Path;

use rehost_block::Memory;
use rehost_image::{Details, Format, Image, VhdDetails, VhdKind};

use crate::support::{assert_content, have, noise, open_bytes, patchwork, read_all, run, runs};
use crate::{COPY, HEADER, footer, in_memory, patch, qemu_content};

fn details(image: &Image) -> VhdDetails {
    match &image.layers()[0].details {
        Details::Vhd(details) => details.clone(),
        other => panic!("{other:?}"),
    }
}

fn open(bytes: Vec<u8>) -> Image {
    open_bytes("disk.vhd", bytes, None).unwrap()
}

fn make(folder: &Path, name: &str, disk: &[u8], options: &str) {
    fs::write(folder.join("disk.raw"), disk).unwrap();
    let args = [
        "convert", "-f", "raw", "-O", "vpc", "-o", options, "disk.raw", name,
    ];
    run(folder, "qemu-img", &args);
}

#[test]
fn what_qemu_img_makes_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for (kind, _) in [("dynamic", 0), ("fixed", 1)] {
        for force in ["on", "off"] {
            let name = format!("{kind}-{force}.vhd");
            let options = format!("subformat={kind},force_size={force}");
            make(folder.path(), &name, &disk, &options);
            // Without force_size qemu-img rounds the disk up to its geometry.
            let mut expected = disk.clone();
            let judged = qemu_content(folder.path(), &name);
            expected.resize(judged.len(), 0);
            assert!(judged == expected);
            assert_eq!(force == "off", judged.len() > disk.len());
            let image = assert_content(&folder.path().join(&name), &expected, &name);
            assert!(image.sniffed());
            assert_eq!(image.format(), Format::Vhd);
            assert_eq!(details(&image).disk_type, kind);
        }
    }
}

#[test]
fn a_clear_bit_is_a_zero_sector_whatever_the_block_holds() {
    let disk = noise(1, 4 << 20);
    let mut bytes = in_memory(VhdKind::Dynamic, &disk);
    let block = u32::from_be_bytes(bytes[1536..1540].try_into().unwrap()) as usize * 512;
    let mut expected = disk;
    for sector in [0usize, 7, 8, 9, 100, 4095] {
        bytes[block + sector / 8] &= !(0x80 >> (sector % 8));
        expected[sector * 512..(sector + 1) * 512].fill(0);
    }
    let image = open(bytes);
    for step in [4 << 20, 77_777, 100] {
        assert!(read_all(&*image.disk(), step) == expected, "{step}");
    }
    let found = runs(&*image.disk());
    assert_eq!(
        found[..5],
        [
            ("zero", 512),
            ("data", 3072),
            ("zero", 1536),
            ("data", 90 * 512),
            ("zero", 512)
        ]
    );
}

#[test]
fn a_damaged_or_lost_footer_is_replaced_by_its_copy() {
    let disk = patchwork(3 << 20);
    let whole = in_memory(VhdKind::Dynamic, &disk);
    assert!(!details(&open(whole.clone())).footer_from_copy);
    let mut damaged = whole.clone();
    let at = damaged.len() - 512 + 50;
    damaged[at] ^= 1;
    let mut lost = whole.clone();
    lost.truncate(whole.len() - 512);
    for bytes in [damaged, lost] {
        let image = open(bytes);
        assert!(details(&image).footer_from_copy);
        assert!(read_all(&*image.disk(), 1 << 20) == disk);
    }
    // And the copy does not matter where the footer is there.
    let mut copy = whole;
    copy[20] ^= 1;
    let image = open(copy);
    assert!(read_all(&*image.disk(), 1 << 20) == disk);
}

#[test]
fn a_footer_of_511_bytes_is_found() {
    let disk = patchwork(1 << 20);
    let mut bytes = in_memory(VhdKind::Fixed, &disk);
    bytes.pop();
    let image = open(bytes);
    assert_eq!(image.format(), Format::Vhd);
    assert!(read_all(&*image.disk(), 1 << 20) == disk);
}

#[test]
fn virtual_pcs_disks_are_as_large_as_their_geometry() {
    let disk = patchwork(10 << 20);
    for (kind, size_from) in [(VhdKind::Dynamic, "geometry"), (VhdKind::Fixed, "geometry")] {
        let mut bytes = in_memory(kind, &disk);
        let end = footer(&bytes);
        patch(&mut bytes, end, 28, b"vpc ");
        if kind == VhdKind::Dynamic {
            patch(&mut bytes, COPY, 28, b"vpc ");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.vhd"), &bytes).unwrap();
        let image = open(bytes);
        assert_eq!(image.size(), 301 * 4 * 17 * 512);
        assert_eq!(details(&image).size_from, size_from);
        assert_eq!(details(&image).creator, "vpc");
        let found = read_all(&*image.disk(), 1 << 20);
        assert!(disk.starts_with(&found));
        if have(&["qemu-img"]) {
            assert!(qemu_content(folder.path(), "a.vhd") == found);
        }
    }
}

#[test]
fn a_raw_disk_with_something_like_a_footer_at_its_end_stays_raw() {
    let mut bytes = in_memory(VhdKind::Fixed, &patchwork(1 << 20));
    let at = bytes.len() - 512 + 48;
    bytes[at] ^= 1;
    let storage = Memory::new("disk.img", bytes);
    assert_eq!(Format::sniff(&storage).unwrap(), Format::Raw);
}

#[test]
fn blocks_of_other_sizes_are_read() {
    // Two blocks of 4 KiB: bitmaps are a sector each, of which one byte counts.
    let mut bytes = in_memory(VhdKind::Dynamic, &noise(1, 8192));
    let end = footer(&bytes);
    let footer_bytes = bytes[end.0..].to_vec();
    patch(&mut bytes, HEADER, 32, &4096u32.to_be_bytes());
    patch(&mut bytes, HEADER, 28, &2u32.to_be_bytes());
    bytes.truncate(2048);
    bytes[1536..1544].copy_from_slice(&[0, 0, 0, 13, 0, 0, 0, 4]);
    let disk = noise(7, 8192);
    for half in [&disk[4096..], &disk[..4096]] {
        bytes.extend([0xff]);
        bytes.extend([0; 511]);
        bytes.extend(half);
    }
    bytes.extend(footer_bytes);
    let image = open(bytes);
    assert!(read_all(&*image.disk(), 1000) == disk);
}
