//! VDIs made by qemu-img, and what it has no options for.

use std::fs;

use rehost_image::{Details, Format, Image};

use crate::in_memory;
use crate::support::{assert_content, have, noise, open_bytes, patchwork, read_all, run, runs};

fn open(bytes: Vec<u8>) -> Image {
    open_bytes("disk.vdi", bytes, None).unwrap()
}

#[test]
fn what_qemu_img_makes_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    for (option, kind) in [("static=off", "dynamic"), ("static=on", "static")] {
        let name = format!("{kind}.vdi");
        let args = [
            "convert", "-f", "raw", "-O", "vdi", "-o", option, "disk.raw", &name,
        ];
        run(folder.path(), "qemu-img", &args);
        let image = assert_content(&folder.path().join(&name), &disk, &name);
        assert!(image.sniffed());
        assert_eq!(image.format(), Format::Vdi);
        let Details::Vdi(details) = &image.layers()[0].details else {
            panic!("no VDI");
        };
        assert_eq!(details.image_type, kind);
    }
}

#[test]
fn blocks_that_are_free_or_zero_are_zeroes_and_neighbours_are_one_run() {
    let mut disk = noise(1, 6 << 20);
    let mut bytes = in_memory(&disk);
    let map = 1 << 20;
    bytes[map..map + 4].copy_from_slice(&0xffff_fffeu32.to_le_bytes());
    bytes[map + 4..map + 8].copy_from_slice(&0xffff_ffffu32.to_le_bytes());
    disk[..2 << 20].fill(0);
    let image = open(bytes);
    assert!(read_all(&*image.disk(), 77_777) == disk);
    assert_eq!(runs(&*image.disk()), [("zero", 2 << 20), ("data", 4 << 20)]);
}

#[test]
fn small_blocks_with_bytes_before_each_are_read() {
    // Three blocks of 4 KiB, stored in reverse, each after 512 bytes that are not the guest's.
    let mut bytes = in_memory(&[1; 512]);
    let disk = noise(7, 12_000 / 512 * 512);
    bytes.truncate((1 << 20) + 4096);
    bytes[0x158..0x15c].copy_from_slice(&(0x10_1000u32).to_le_bytes());
    bytes[0x170..0x178].copy_from_slice(&(disk.len() as u64).to_le_bytes());
    for (at, value) in [(0x178, 4096u32), (0x17c, 512), (0x180, 3)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    for (nth, place) in [2u32, 1, 0].iter().enumerate() {
        let at = (1 << 20) + nth * 4;
        bytes[at..at + 4].copy_from_slice(&place.to_le_bytes());
    }
    for block in disk.chunks(4096).rev() {
        bytes.extend([0xee; 512]);
        bytes.extend(block);
        bytes.resize(bytes.len() + 4096 - block.len(), 0);
    }
    assert!(read_all(&*open(bytes).disk(), 1000) == disk);
}
