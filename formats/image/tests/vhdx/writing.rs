//! VHDX written here: qemu-img finds the same content in them and nothing to repair.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder, is_zero};
use rehost_image::{Compression, Details, Format, Image, OneFile, Payload, TargetSpec, create};

use crate::bytes::{BAT, HEADERS, METADATA, image_of, set, spec, u64_at};
use crate::support::writing::{any_writes, samples, write, written};
use crate::support::{assert_content, have, judge, patchwork, run, text};

#[test]
fn qemu_img_reads_what_is_written() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (nth, disk) in samples(7 << 20, 64 << 20).iter().enumerate() {
        for (block, step) in [
            (None, 64 << 10),
            (Some(1 << 20), 4 << 20),
            (Some(8 << 20), 192 << 10),
        ] {
            let name = format!("{nth} {block:?}.vhdx");
            let path = folder.path().join(&name);
            let mut spec = spec(disk.len());
            if let Some(block) = block {
                set(&mut spec, "block_size", block);
            }
            let written = write(&path, &spec, disk, step);
            assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
            assert_eq!(written.file_bytes % (1 << 20), 0);
            judge(folder.path(), &name, disk);
            fs::remove_file(path).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_pattern_survives(
        sectors in 1usize..9000,
        block in 20u32..25,
        writes in any_writes(),
    ) {
        if have(&["qemu-img"]) {
            let disk = written(sectors, writes);
            let folder = tempfile::tempdir().unwrap();
            let mut spec = spec(disk.len());
            set(&mut spec, "block_size", 1 << block);
            write(&folder.path().join("disk.vhdx"), &spec, &disk, 192 << 10);
            judge(folder.path(), "disk.vhdx", &disk);
        }
    }
}

#[test]
fn blocks_of_later_chunks_have_their_entries_where_qemu_looks_for_them() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for block in [1u32 << 20, 64 << 20] {
        let name = format!("{block}.vhdx");
        let mut spec = spec(9 << 30);
        set(&mut spec, "block_size", block);
        let storage = Arc::new(File::create_new(folder.path().join(&name)).unwrap());
        let target = create(&spec, storage, &OneFile).unwrap();
        // Chunks are 4 GiB.
        let places = [(4u64 << 30) - (64 << 10), 4 << 30, (8 << 30) + (1 << 20), 0];
        let mut args = vec!["-r".to_owned(), "-f".to_owned(), "vhdx".to_owned()];
        for (byte, at) in (1..).zip(places) {
            target
                .put(at, Payload::Plain(&vec![byte; 64 << 10]))
                .unwrap();
            args.extend(["-c".to_owned(), format!("read -P {byte} {at} 64k")]);
        }
        for at in ["64k", "3G", "4194368k", "8G"] {
            args.extend(["-c".to_owned(), format!("read -P 0 {at} 1M")]);
        }
        target.publish().unwrap();
        args.push(name.clone());
        let said = run(folder.path(), "qemu-io", &args);
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("verification failed"), "{said}");
        run(folder.path(), "qemu-img", &["check", "-f", "vhdx", &name]);
    }
}

#[test]
fn sectors_of_4096_bytes_round_the_size_up() {
    let disk = patchwork((5 << 20) + 512);
    let mut spec = spec(disk.len());
    set(&mut spec, "logical_sector_size", 4096);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("4k.vhdx");
    fs::write(&path, image_of(&disk, &spec)).unwrap();
    let mut expected = disk.clone();
    expected.resize(disk.len().next_multiple_of(4096), 0);
    let image = assert_content(&path, &expected, "4096");
    let Details::Vhdx(details) = &image.layers()[0].details else {
        panic!("{:?}", image.layers());
    };
    assert_eq!(
        (details.logical_sector, details.physical_sector),
        (4096, 4096)
    );
}

#[test]
fn the_structures_are_what_hyper_v_wants() {
    let bytes = image_of(&patchwork(4 << 20), &spec(4 << 20));
    assert_eq!(&bytes[..8], b"vhdxfile");
    let [first, second] = HEADERS;
    assert_ne!(u64_at(&bytes, first + 8), u64_at(&bytes, second + 8));
    for at in HEADERS {
        assert_eq!(&bytes[at..at + 4], b"head");
        assert!(is_zero(&bytes[at + 48..at + 64]), "log GUID");
        assert!(!is_zero(&bytes[at + 32..at + 48]), "data write GUID");
        assert_eq!(&bytes[at + 66..at + 68], [1, 0]);
    }
    // Log and page 83 identity are there, and the log is empty.
    assert!(is_zero(&bytes[1 << 20..2 << 20]));
    let identity = METADATA + (64 << 10) + 16;
    assert!(!is_zero(&bytes[identity..identity + 16]));
    // Only states of the standard, only whole MiB.
    for nth in 0..5 {
        let entry = u64_at(&bytes, BAT + nth * 8);
        assert!(entry == 0 || entry & 0xf_ffff == 6, "{entry:x}");
    }
    let other = image_of(&patchwork(4 << 20), &spec(4 << 20));
    assert_ne!(
        bytes[identity..identity + 16],
        other[identity..identity + 16]
    );
}

#[test]
fn an_unpublished_file_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let storage = Arc::new(File::create_new(&path).unwrap());
    let target = create(&spec(1 << 20), storage, &OneFile).unwrap();
    target.put(0, Payload::Plain(&text(1, 1 << 20))).unwrap();
    drop(target);
    let error = Image::open(&path, Some(Format::Vhdx), &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("never finished"), "{error}");
    let image = Image::open(&path, None, &SameFolder).unwrap();
    assert_eq!(image.format(), Format::Raw);
}

#[test]
fn a_write_that_fails_leaves_no_image() {
    for writes in 0..12 {
        let memory =
            rehost_block::doubles::Faulty::after(Memory::new("disk.vhdx", Vec::new()), writes);
        let storage = Arc::new(memory);
        let done = create(&spec(2 << 20), storage.clone(), &OneFile).and_then(|target| {
            target.put(0, Payload::Plain(&text(1, 2 << 20)))?;
            target.publish()
        });
        let bytes = storage.inner().to_vec();
        assert_eq!(
            done.is_ok(),
            bytes.starts_with(b"vhdxfile"),
            "{writes} writes"
        );
    }
}

#[test]
fn what_a_vhdx_cannot_be_is_refused() {
    let memory = || Arc::new(Memory::new("x.vhdx", Vec::new()));
    type Change = fn(&mut TargetSpec);
    let cases: [(&str, Change); 7] = [
        ("cannot be compressed", |spec| {
            spec.compression = Some(Compression::Zlib(6))
        }),
        ("block size", |spec| set(spec, "block_size", 3 << 20)),
        ("block size", |spec| set(spec, "block_size", 1 << 19)),
        ("block size", |spec| set(spec, "block_size", 1 << 29)),
        ("sector size", |spec| set(spec, "logical_sector_size", 520)),
        ("size cannot be", |spec| spec.size = 0),
        ("size cannot be", |spec| spec.size = (64 << 40) + 1),
    ];
    for (named, change) in cases {
        let mut spec = spec(4096);
        change(&mut spec);
        let error = create(&spec, memory(), &OneFile).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(named), "{error}");
    }
    let target = create(&spec(64 << 10), memory(), &OneFile).unwrap();
    for (at, len) in [(64 << 10, 512), (512, 512), (0, (64 << 10) + 512)] {
        let error = target.put(at, Payload::Plain(&vec![1; len])).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
