//! VDIs written here: qemu-img finds the same content in them and nothing to complain about.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder};
use rehost_image::{Compression, Format, Image, Payload, TargetSpec, create};

use crate::judge::{assert_content, have, noise, patchwork, qemu_content, run, text};
use crate::{in_memory, write_to};

fn judge(folder: &Path, name: &str, disk: &[u8]) {
    assert_content(&folder.join(name), disk, name);
    run(folder, "qemu-img", &["check", "-f", "vdi", name]);
    assert!(
        qemu_content(folder, name) == disk,
        "{name}: qemu-img reads something else"
    );
}

#[test]
fn qemu_img_reads_what_is_written() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (nth, disk) in [
        patchwork((30 << 20) + 512),
        vec![0; 512],
        text(1, 512),
        vec![0; 40 << 20],
        noise(2, 65_536 + 512),
        [vec![0; 20 << 20], noise(3, 4096)].concat(),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("{nth}.vdi");
        let path = folder.path().join(&name);
        let written = write_to(Arc::new(File::create_new(&path).unwrap()), disk);
        assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
        judge(folder.path(), &name, disk);
    }
}

#[test]
fn qemu_writes_on_in_it() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut disk = [noise(1, 3 << 20), vec![0; 9 << 20]].concat();
    let path = folder.path().join("a.vdi");
    write_to(Arc::new(File::create_new(path).unwrap()), &disk);
    let mut args = vec!["-f", "vdi", "a.vdi"];
    for (command, at, len, byte) in [
        ("write -P 0x11 1M 700k", 1 << 20, 700 << 10, 0x11),
        ("write -P 0x22 7M 3500k", 7 << 20, 3500 << 10, 0x22),
    ] {
        args.extend(["-c", command]);
        disk[at..at + len].fill(byte);
    }
    run(folder.path(), "qemu-io", &args);
    judge(folder.path(), "a.vdi", &disk);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_pattern_survives(
        sectors in 1usize..15_000,
        writes in prop::collection::vec((any::<prop::sample::Index>(), 1usize..200_000, 1u64..99), 0..12),
    ) {
        if have(&["qemu-img"]) {
            let mut disk = vec![0; sectors * 512];
            for (place, len, seed) in writes {
                let at = place.index(disk.len());
                let end = disk.len().min(at + len);
                disk[at..end].copy_from_slice(&noise(seed, end - at));
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.vdi");
            write_to(Arc::new(File::create_new(path).unwrap()), &disk);
            judge(folder.path(), "a.vdi", &disk);
        }
    }
}

#[test]
fn sizes_are_in_sectors_and_two_disks_differ() {
    let one = in_memory(&[1; 5000]);
    let image = Image::from_storage(
        "a".into(),
        Arc::new(Memory::new("a", one.clone())),
        None,
        &SameFolder,
    )
    .unwrap();
    assert_eq!(image.size(), 5120);
    let mut bytes = vec![7; 5120];
    image.disk().read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..5000] == [1; 5000] && bytes[5000..] == [0; 120]);
    let other = in_memory(&[1; 5000]);
    assert_ne!(one[0x188..0x198], other[0x188..0x198]);
}

#[test]
fn an_unpublished_file_is_no_image() {
    let memory = Arc::new(Memory::new("x.vdi", Vec::new()));
    let spec = TargetSpec::new(Format::Vdi, 3 << 20, "x.vdi");
    let target = create(&spec, memory.clone()).unwrap();
    target.put(0, Payload::Plain(&text(1, 2 << 20))).unwrap();
    drop(target);
    let error =
        Image::from_storage("x".into(), memory, Some(Format::Vdi), &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("signature is missing"));
}

#[test]
fn what_a_vdi_cannot_be_is_refused() {
    let refused = |spec: &TargetSpec| {
        let memory = Arc::new(Memory::new("x.vdi", Vec::new()));
        create(spec, memory).unwrap_err().to_string()
    };
    for size in [0, (16 << 40) + 1, u64::MAX] {
        let error = refused(&TargetSpec::new(Format::Vdi, size, "x.vdi"));
        assert!(error.contains("size cannot be that of a VDI"), "{error}");
    }
    let mut spec = TargetSpec::new(Format::Vdi, 4096, "x.vdi");
    spec.compression = Some(Compression::Zstd(3));
    assert!(refused(&spec).contains("VDIs cannot be compressed"));
}
