//! VDIs written here: qemu-img finds the same content in them and nothing to complain about.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{Kind, Memory, SameFolder};
use rehost_image::{Compression, Format, Image, OneFile, Payload, TargetSpec, create};

use crate::support::writing::{any_writes, samples, written};
use crate::support::{have, judge, noise, run, text};
use crate::{in_memory, write};

#[test]
fn qemu_img_reads_what_is_written() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (nth, disk) in samples(30 << 20, 20 << 20).iter().enumerate() {
        let name = format!("{nth}.vdi");
        let path = folder.path().join(&name);
        let written = write(&path, disk);
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
    write(&path, &disk);
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
        writes in any_writes(),
    ) {
        if have(&["qemu-img"]) {
            let disk = written(sectors, writes);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.vdi");
            write(&path, &disk);
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
    let spec = TargetSpec::new(Format::Vdi, 3 << 20, "x.vdi").unwrap();
    let target = create(&spec, memory.clone(), &OneFile).unwrap();
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
        create(spec, memory, &OneFile).unwrap_err().to_string()
    };
    for size in [0, (16 << 40) + 1, u64::MAX] {
        let error = refused(&TargetSpec::new(Format::Vdi, size, "x.vdi").unwrap());
        assert!(error.contains("size cannot be that of a VDI"), "{error}");
    }
    let mut spec = TargetSpec::new(Format::Vdi, 4096, "x.vdi").unwrap();
    spec.compression = Some(Compression::Zstd(3));
    assert!(refused(&spec).contains("VDIs cannot be compressed"));
}
