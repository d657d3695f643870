//! Disks made by qemu-img, and descriptors written by hand, read here.

use std::fs;
use std::path::Path;

use rehost_block::{Kind, SameFolder};
use rehost_image::{Details, Format, Image};

use crate::support::{assert_content, have, noise, patchwork, run, runs, text};

/// A text descriptor around `extents`.
pub(crate) fn descriptor(create_type: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
         createType=\"{create_type}\"\n\n# Extent description\n{extents}\n\n#DDB\n\
         ddb.adapterType = \"lsilogic\"\n"
    )
}

/// Makes `folder/name` from `disk` with qemu-img.
pub(crate) fn make(folder: &Path, name: &str, disk: &[u8], options: &str) {
    let raw = format!("{name}.raw");
    fs::write(folder.join(&raw), disk).unwrap();
    let args = [
        "convert", "-f", "raw", "-O", "vmdk", "-o", options, &raw, name,
    ];
    run(folder, "qemu-img", &args);
}

#[test]
fn every_kind_that_qemu_img_makes_reads_the_same() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // No multiple of a grain, and more than one grain table.
    let disk = patchwork((37 << 20) + 3 * 512);
    for kind in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let name = format!("{kind}.vmdk");
        make(folder.path(), &name, &disk, &format!("subformat={kind}"));
        let image = assert_content(&folder.path().join(&name), &disk, kind);
        assert!(image.sniffed());
        let Details::Vmdk(details) = &image.layers()[0].details else {
            panic!("not the details of a VMDK");
        };
        assert_eq!(details.create_type, kind);
        assert_eq!(details.adapter.as_deref(), Some("ide"));
        let packed = runs(&*image.disk())
            .iter()
            .any(|(word, _)| *word == "packed");
        assert_eq!(packed, kind == "streamOptimized");
    }
}

#[test]
fn neighbouring_grains_are_one_run() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut disk = vec![0; 100 << 20];
    disk[..80 << 20].copy_from_slice(&noise(1, 80 << 20));
    make(folder.path(), "a.vmdk", &disk, "subformat=monolithicSparse");
    let image = Image::open(folder.path().join("a.vmdk"), None, &SameFolder).unwrap();
    assert_eq!(
        runs(&*image.disk()),
        [("data", 80 << 20), ("zero", 20 << 20)]
    );
}

#[test]
fn a_disk_split_at_2_gb_is_read_across_the_split() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let name = format!("{kind}.vmdk");
        let option = format!("subformat={kind}");
        run(
            folder.path(),
            "qemu-img",
            &["create", "-f", "vmdk", "-o", &option, &name, "5G"],
        );
        let split: u64 = 2_147_418_112;
        let write = format!("write -P 0x5a {} 128k", split - 65_536);
        run(
            folder.path(),
            "qemu-io",
            &["-f", "vmdk", "-c", &write, &name],
        );
        let image = Image::open(folder.path().join(&name), None, &SameFolder).unwrap();
        assert_eq!(image.size(), 5 << 30);
        assert_eq!(image.files().len(), 4, "{:?}", image.files());
        let mut bytes = vec![0; 256 << 10];
        image
            .disk()
            .read_at(&mut bytes, split - (128 << 10))
            .unwrap();
        assert!(bytes[..64 << 10].iter().all(|byte| *byte == 0));
        assert!(bytes[64 << 10..192 << 10].iter().all(|byte| *byte == 0x5a));
        assert!(bytes[192 << 10..].iter().all(|byte| *byte == 0));
    }
}

/// Rows 2 to 4 of what qemu-img 7.2 gets wrong without a word, and extents that it refuses.
#[test]
fn zero_extents_blank_lines_offsets_and_read_only_extents_are_all_counted() {
    let folder = tempfile::tempdir().unwrap();
    let flat = noise(7, 64 << 10);
    fs::write(folder.path().join("data-flat.vmdk"), &flat).unwrap();
    let extents = "RW 16 ZERO\n\nRW 32 FLAT \"data-flat.vmdk\" 8\n\n\
                   RDONLY 8 FLAT \"data-flat.vmdk\" 0\r\nNOACCESS 4 ZERO\n# a comment\n\n\
                   RW 40 VMFS \"data-flat.vmdk\"\nRW 24 ZERO";
    let path = folder.path().join("disk.vmdk");
    fs::write(&path, descriptor("custom", extents)).unwrap();
    let expected = [
        &vec![0; 16 * 512][..],
        &flat[8 * 512..40 * 512],
        &flat[..8 * 512],
        &vec![0; 4 * 512],
        &flat[..40 * 512],
        &vec![0; 24 * 512],
    ]
    .concat();
    assert_content(&path, &expected, "custom");
}

#[test]
fn a_stream_over_several_extents_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(4 << 20);
    let (first, second) = disk.split_at(3 << 20);
    make(
        folder.path(),
        "s001.vmdk",
        first,
        "subformat=streamOptimized",
    );
    make(
        folder.path(),
        "s002.vmdk",
        second,
        "subformat=streamOptimized",
    );
    let extents = "RW 6144 SPARSE \"s001.vmdk\"\nRDONLY 2048 SPARSE \"s002.vmdk\"";
    let path = folder.path().join("disk.vmdk");
    fs::write(&path, descriptor("streamOptimized", extents)).unwrap();
    let image = assert_content(&path, &disk, "two streams");
    assert_eq!(image.layers()[0].compression, Some("zlib"));
}

#[test]
fn a_renamed_file_is_still_its_own_extent() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = text(3, 1 << 20);
    make(folder.path(), "a.vmdk", &disk, "subformat=streamOptimized");
    fs::rename(folder.path().join("a.vmdk"), folder.path().join("b.vmdk")).unwrap();
    assert_content(&folder.path().join("b.vmdk"), &disk, "renamed");
}

#[test]
fn what_is_not_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    for (text, named) in [
        (
            descriptor("vsanSparse", "RW 8 VSANSPARSE \"x\""),
            "VSANSPARSE",
        ),
        (descriptor("vmfs", "RW 8 VMFS \"vsan://52ab/x\""), "vSAN"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Image::open(&path, None, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    for magic in [&b"COWD\x01\0\0\0"[..], b"\xbe\xba\xfe\xca\0\0\0\0"] {
        let mut bytes = magic.to_vec();
        bytes.resize(2048, 0);
        fs::write(&path, bytes).unwrap();
        let error = Image::open(&path, Some(Format::Vmdk), &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        assert!(error.to_string().contains("one extent"), "{error}");
    }
}

#[test]
fn devices_and_their_maps_are_read_where_they_can_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let device = noise(7, 96 << 10);
    let table = noise(8, 4096);
    fs::write(folder.path().join("sdx"), &device).unwrap();
    fs::write(folder.path().join("pt.vmdk"), &table).unwrap();
    let path = folder.path().join("disk.vmdk");
    for (create_type, extents, expected) in [
        ("fullDevice", "RW 192 FLAT \"sdx\" 0", device.clone()),
        (
            "partitionedDevice",
            "RW 8 FLAT \"pt.vmdk\" 0\nRW 100 FLAT \"sdx\" 8 partitionUUID \\.\\PhysicalDrive1\n\
             RDONLY 84 ZERO",
            [&table[..], &device[4096..108 * 512], &vec![0; 84 * 512]].concat(),
        ),
        ("vmfsRawDeviceMap", "RW 192 VMFSRDM \"sdx\"", device.clone()),
        (
            "vmfsPassthroughRawDeviceMap",
            "RW 192 VMFSRDM \"sdx\"",
            device.clone(),
        ),
        ("vmfsRaw", "RW 192 VMFSRAW \"sdx\"", device.clone()),
        ("vmfsThin", "RW 192 VMFS \"sdx\"", device.clone()),
    ] {
        fs::write(&path, descriptor(create_type, extents)).unwrap();
        assert_content(&path, &expected, create_type);
    }
    let gone = descriptor("fullDevice", "RW 8 FLAT \"\\\\.\\PhysicalDrive0\" 0");
    fs::write(&path, gone).unwrap();
    let error = Image::open(&path, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("PhysicalDrive0"), "{error}");
}

#[test]
fn a_noaccess_extent_is_an_error_only_where_it_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), vec![1; 8192]).unwrap();
    let path = folder.path().join("disk.vmdk");
    let extents = "RW 8 FLAT \"x\" 0\nNOACCESS 8 FLAT \"x\" 8\nRW 8 ZERO";
    fs::write(&path, descriptor("custom", extents)).unwrap();
    let disk = Image::open(&path, None, &SameFolder).unwrap().disk();
    let mut sector = [0; 512];
    disk.read_at(&mut sector, 7 * 512).unwrap();
    disk.read_at(&mut sector, 16 * 512).unwrap();
    let error = disk.read_at(&mut sector, 8 * 512).unwrap_err();
    assert!(error.to_string().contains("NOACCESS"), "{error}");
}

#[test]
fn an_extent_outside_the_folder_is_refused() {
    let away = tempfile::tempdir().unwrap();
    let secret = away.path().join("secret");
    fs::write(&secret, vec![1; 4096]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    let extents = format!("RW 8 FLAT \"{}\" 0", secret.display());
    fs::write(&path, descriptor("monolithicFlat", &extents)).unwrap();
    let error = Image::open(&path, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}

#[test]
fn one_extent_of_a_split_disk_is_no_disk() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        "a.vmdk",
        &text(1, 1 << 20),
        "subformat=twoGbMaxExtentSparse",
    );
    let error = Image::open(
        folder.path().join("a-s001.vmdk"),
        Some(Format::Vmdk),
        &SameFolder,
    );
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains("names this one"), "{error}");
}
