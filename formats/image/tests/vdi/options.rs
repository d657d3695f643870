//! What VDIs can be asked for: static images, shared room, devices.

use std::fs;
use std::sync::Arc;

use rehost_block::File;
use rehost_image::{Details, Format, OneFile, TargetSpec, create};

use crate::support::second::assert_second;
use crate::support::sharing::{Device, fill_places};
use crate::support::writing::{fill, write};
use crate::support::{assert_content, have, judge, patchwork};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vdi, size as u64, "disk.vdi").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

#[test]
fn static_images_have_every_block_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((5 << 20) + 512);
    let path = folder.path().join("static.vdi");
    let written = write(&path, &spec(disk.len(), "subformat=static"), &disk, 2 << 20);
    assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(written.file_bytes, (2 + 6) << 20);
    let image = assert_content(&path, &disk, "static");
    let Details::Vdi(details) = &image.layers()[0].details else {
        panic!("a VDI");
    };
    assert_eq!((details.image_type, details.blocks_stored), ("static", 6));
    if have(&["qemu-img"]) {
        judge(folder.path(), "static.vdi", &disk);
    }
    assert_second("vdi", &path, &[], &["dissect"], &disk);
}

#[test]
fn room_that_is_placed_is_filled_by_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for options in ["", "subformat=static"] {
        let path = folder.path().join("placed.vdi");
        let storage = Arc::new(File::create_new(&path).unwrap());
        let target = create(&spec(disk.len(), options), storage, &OneFile).unwrap();
        fill_places(&*target, &disk, 3 << 20);
        assert_content(&path, &disk, options);
        if have(&["qemu-img"]) {
            judge(folder.path(), "placed.vdi", &disk);
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn old_data_on_a_device_does_not_shine_through() {
    let disk = patchwork((5 << 20) + 512);
    for options in ["", "subformat=static"] {
        let device = Device::new(13 << 20);
        let target = create(&spec(disk.len(), options), device.clone(), &OneFile).unwrap();
        fill(&*target, &disk, 1 << 20);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("device"), device.to_vec()).unwrap();
        if have(&["qemu-img"]) {
            judge(folder.path(), "device", &disk);
        }
    }
}
