//! VMDKs written here: qemu-img finds the same content in them, and the structures are VMware's.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder, is_zero};
use rehost_image::{
    Adapter, Compression, Format, Image, OneFile, TargetOptions, TargetSpec, VmdkKind, VmdkOptions,
    Written, create,
};

use crate::support::second::assert_second;
use crate::support::writing::{self, any_writes, samples, written};
use crate::support::{have, judge, patchwork, run, text};

const KINDS: [(VmdkKind, &str); 2] = [
    (VmdkKind::MonolithicSparse, "monolithicSparse"),
    (VmdkKind::StreamOptimized, "streamOptimized"),
];

fn spec(kind: VmdkKind, size: usize, name: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vmdk, size as u64, name).unwrap();
    spec.options = TargetOptions::Vmdk(VmdkOptions {
        kind,
        ..VmdkOptions::default()
    });
    spec
}

fn write(path: &Path, kind: VmdkKind, disk: &[u8], step: usize) -> Written {
    let name = path.file_name().unwrap().to_str().unwrap();
    writing::write(path, &spec(kind, disk.len(), name), disk, step)
}

#[test]
fn qemu_img_reads_what_is_written() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (kind, word) in KINDS {
        for (nth, disk) in samples(70 << 20, 64 << 20).iter().enumerate() {
            let name = format!("{word} {nth}.vmdk");
            let path = folder.path().join(&name);
            let written = write(&path, kind, disk, 2 << 20);
            assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
            judge(folder.path(), &name, disk);
            let info = run(folder.path(), "qemu-img", &["info", &name]);
            assert!(String::from_utf8_lossy(&info).contains(word));
        }
    }
}

#[test]
fn libvmdk_and_dissect_read_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(70 << 20);
    for (kind, word) in KINDS {
        let path = folder.path().join(format!("{word}.vmdk"));
        write(&path, kind, &disk, 2 << 20);
        assert_second("vmdk", &path, &[], &["libvmdk", "dissect"], &disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_pattern_survives(
        sectors in 1usize..9000,
        writes in any_writes(),
    ) {
        if have(&["qemu-img"]) {
            let disk = written(sectors, writes);
            let folder = tempfile::tempdir().unwrap();
            for (kind, word) in KINDS {
                let name = format!("{word}.vmdk");
                write(&folder.path().join(&name), kind, &disk, 192 << 10);
                judge(folder.path(), &name, &disk);
            }
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn a_stream_ends_as_importers_want_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vmdk");
    write(
        &path,
        VmdkKind::StreamOptimized,
        &text(1, 80 << 20),
        1 << 20,
    );
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..12], b"KDMV\x03\0\0\0\x01\0\x03\0");
    assert_eq!(u64_at(&bytes, 56), u64::MAX);
    let end = bytes.len();
    // Footer marker: one sector, no data, type 3; then the header with the real directory offset;
    // then the end-of-stream marker.
    assert_eq!(u64_at(&bytes, end - 1536), 1);
    assert_eq!(u64_at(&bytes, end - 1528), 3 << 32);
    assert!(is_zero(&bytes[end - 512..]));
    let footer = &bytes[end - 1024..end - 512];
    assert_eq!(&footer[..56], &bytes[..56]);
    assert_eq!(&footer[64..], &bytes[64..512]);
    let gd = usize::try_from(u64_at(footer, 56)).unwrap() * 512;
    // Its marker is before it: type 2, one sector.
    assert_eq!(u64_at(&bytes, gd - 512), 1);
    assert_eq!(u64_at(&bytes, gd - 504), 2 << 32);
    // 80 MiB are three grain tables, each behind a marker of type 1 and four sectors.
    for nth in 0..3 {
        let entry = &bytes[gd + nth * 4..gd + nth * 4 + 4];
        let table = u32::from_le_bytes(entry.try_into().unwrap()) as usize * 512;
        assert_eq!(u64_at(&bytes, table - 512), 4);
        assert_eq!(u64_at(&bytes, table - 504), 1 << 32);
    }
    assert_eq!(u64_at(&bytes, gd + 12) & 0xffff_ffff, 0);
}

#[test]
fn both_directories_of_a_sparse_disk_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vmdk");
    write(
        &path,
        VmdkKind::MonolithicSparse,
        &patchwork(70 << 20),
        1 << 20,
    );
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..12], b"KDMV\x01\0\0\0\x03\0\0\0");
    let at = |field: usize| usize::try_from(u64_at(&bytes, field)).unwrap() * 512;
    let tables = |directory: usize| -> Vec<&[u8]> {
        (0..3)
            .map(|nth| {
                let entry = &bytes[directory + nth * 4..directory + nth * 4 + 4];
                let table = u32::from_le_bytes(entry.try_into().unwrap()) as usize * 512;
                &bytes[table..table + 2048]
            })
            .collect()
    };
    assert_ne!(at(48), at(56));
    assert!(tables(at(48)) == tables(at(56)));
    assert!(tables(at(56)).iter().any(|table| !is_zero(table)));
}

#[test]
fn an_unpublished_file_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, word) in KINDS {
        let path = folder.path().join(word);
        let storage = Arc::new(File::create_new(&path).unwrap());
        let target = create(&spec(kind, 1 << 20, word), storage, &OneFile).unwrap();
        let disk = text(1, 1 << 20);
        target.put(0, target.pack(0, &disk).unwrap()).unwrap();
        drop(target);
        let error = Image::open(&path, Some(Format::Vmdk), &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
}

#[test]
fn what_a_vmdk_cannot_be_is_refused() {
    let memory = || Arc::new(Memory::new("x.vmdk", Vec::new()));
    let refused = |spec: &TargetSpec| create(spec, memory(), &OneFile).unwrap_err().to_string();
    let mut plain = spec(VmdkKind::MonolithicSparse, 4096, "x.vmdk");
    plain.compression = Some(Compression::Zlib(6));
    assert!(refused(&plain).contains("monolithicSparse"));
    let mut stream = spec(VmdkKind::StreamOptimized, 4096, "x.vmdk");
    stream.compression = Some(Compression::Zstd(3));
    assert!(refused(&stream).contains("zstd"));
    for (kind, _) in KINDS {
        assert!(refused(&spec(kind, 0, "x.vmdk")).contains("size"));
        assert!(refused(&spec(kind, 1 << 50, "x.vmdk")).contains("size"));
        assert!(refused(&spec(kind, 4096, "a\"b")).contains("quotes"));
    }
}

#[test]
fn the_adapter_asked_for_is_in_the_descriptor() {
    for (adapter, word) in [
        (Adapter::LsiLogic, "\"lsilogic\""),
        (Adapter::BusLogic, "\"buslogic\""),
        (Adapter::Ide, "\"ide\""),
    ] {
        let memory = Arc::new(Memory::new("x.vmdk", Vec::new()));
        let mut spec = spec(VmdkKind::MonolithicSparse, 1 << 20, "x.vmdk");
        if let TargetOptions::Vmdk(options) = &mut spec.options {
            options.adapter = adapter;
        }
        create(&spec, memory.clone(), &OneFile)
            .unwrap()
            .publish()
            .unwrap();
        let text = String::from_utf8_lossy(&memory.to_vec()[512..]).into_owned();
        assert!(text.contains(&format!("ddb.adapterType = {word}")));
    }
}
