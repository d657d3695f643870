//! VHDX made by qemu-img, read here.

use std::fs;
use std::path::Path;

use rehost_block::{Disk, SameFolder};
use rehost_image::{Details, Format, Image, VhdxKind};

use crate::support::{assert_content, have, patchwork, run, runs};

/// Makes `name` with the content `disk` and the given options.
pub(crate) fn make(folder: &Path, name: &str, disk: &[u8], options: &str) {
    fs::write(folder.join("made.raw"), disk).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "vhdx", "-o", options];
    let args: Vec<&str> = convert.into_iter().chain(["made.raw", name]).collect();
    run(folder, "qemu-img", &args);
}

#[test]
fn what_qemu_img_makes_reads_the_same() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 1536);
    for (options, kind, unit) in [
        ("subformat=dynamic,block_size=1M", VhdxKind::Dynamic, 1u64),
        ("subformat=dynamic,block_size=8M", VhdxKind::Dynamic, 8),
        (
            "subformat=dynamic,block_size=2M,block_state_zero=off",
            VhdxKind::Dynamic,
            2,
        ),
        ("subformat=dynamic,log_size=3M", VhdxKind::Dynamic, 8),
        ("subformat=fixed,block_size=4M", VhdxKind::Fixed, 4),
    ] {
        make(folder.path(), "disk.vhdx", &disk, options);
        let image = assert_content(&folder.path().join("disk.vhdx"), &disk, options);
        assert!(image.sniffed());
        assert_eq!(image.format(), Format::Vhdx);
        let layer = &image.layers()[0];
        assert_eq!(layer.unit, Some(unit << 20), "{options}");
        let Details::Vhdx(details) = &layer.details else {
            panic!("{:?}", layer.details);
        };
        assert_eq!(details.kind, kind, "{options}");
        assert_eq!((details.logical_sector, details.replayed), (512, 0));
    }
}

#[test]
fn blocks_of_later_chunks_are_found_behind_the_bitmap_entries_between() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A chunk is 4 GiB, whatever the block size.
    let places = [
        0u64,
        (4 << 30) - (1 << 20),
        4 << 30,
        (8 << 30) + 4096,
        9 << 30,
    ];
    for block in ["1M", "32M", "256M"] {
        let options = format!("block_size={block}");
        let create = ["create", "-f", "vhdx", "-o", &options, "big.vhdx", "10G"];
        run(folder.path(), "qemu-img", &create);
        let mut args = vec!["-f".to_owned(), "vhdx".to_owned(), "big.vhdx".to_owned()];
        for (nth, at) in places.iter().enumerate() {
            args.push("-c".to_owned());
            args.push(format!("write -P {} {at} 64k", nth + 1));
        }
        run(folder.path(), "qemu-io", &args);
        let image = Image::open(folder.path().join("big.vhdx"), None, &SameFolder).unwrap();
        let disk = image.disk();
        assert_eq!(disk.size(), 10 << 30);
        for (nth, at) in places.iter().enumerate() {
            let mut found = vec![0; 64 << 10];
            disk.read_at(&mut found, *at).unwrap();
            assert!(found.iter().all(|byte| usize::from(*byte) == nth + 1));
        }
        let data: u64 = runs(&*disk)
            .iter()
            .filter(|(word, _)| *word == "data")
            .map(|(_, len)| len)
            .sum();
        assert!((5 << 20..=5 << 28).contains(&data), "{data}");
    }
}
