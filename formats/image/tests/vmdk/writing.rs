//! VMDKs written here: others find the same content in them, and the structures are VMware's.

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
use crate::support::writing::{self, Beside, any_writes, samples, written};
use crate::support::{assert_content, have, judge, patchwork, qemu_content, run, text};

pub(crate) const KINDS: [VmdkKind; 5] = [
    VmdkKind::MonolithicSparse,
    VmdkKind::MonolithicFlat,
    VmdkKind::TwoGbMaxExtentSparse,
    VmdkKind::TwoGbMaxExtentFlat,
    VmdkKind::StreamOptimized,
];

pub(crate) const SPLIT: u64 = 4_192_256 * 512;

pub(crate) fn spec(kind: VmdkKind, size: u64, name: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vmdk, size, name).unwrap();
    spec.options = TargetOptions::Vmdk(VmdkOptions {
        kind,
        ..VmdkOptions::default()
    });
    spec
}

pub(crate) fn write(path: &Path, kind: VmdkKind, disk: &[u8], step: usize) -> Written {
    let name = path.file_name().unwrap().to_str().unwrap();
    writing::write(path, &spec(kind, disk.len() as u64, name), disk, step)
}

/// Whether qemu-img checks this kind ("does not support checks" for flat ones).
fn is_flat(kind: VmdkKind) -> bool {
    matches!(
        kind,
        VmdkKind::MonolithicFlat | VmdkKind::TwoGbMaxExtentFlat
    )
}

/// As [`judge`], without `qemu-img check` for the kinds that it does not check.
fn judge_kind(folder: &Path, name: &str, kind: VmdkKind, disk: &[u8]) {
    if is_flat(kind) {
        assert_content(&folder.join(name), disk, name);
        assert!(qemu_content(folder, name) == disk, "{name}");
    } else {
        judge(folder, name, disk);
    }
}

#[test]
fn qemu_img_reads_what_is_written() {
    if !have(&["qemu-img"]) {
        return;
    }
    for kind in KINDS {
        let word = kind.as_str();
        for (nth, disk) in samples(70 << 20, 64 << 20).iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let name = format!("{word} {nth}.vmdk");
            let path = folder.path().join(&name);
            let written = write(&path, kind, disk, 2 << 20);
            let files = fs::read_dir(folder.path()).unwrap();
            let lengths = files.map(|file| file.unwrap().metadata().unwrap().len());
            assert_eq!(written.file_bytes, lengths.sum::<u64>());
            judge_kind(folder.path(), &name, kind, disk);
            let info = run(folder.path(), "qemu-img", &["info", &name]);
            assert!(String::from_utf8_lossy(&info).contains(word));
        }
    }
}

#[test]
fn libvmdk_and_dissect_read_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(40 << 20);
    for kind in KINDS {
        let path = folder.path().join(format!("{}.vmdk", kind.as_str()));
        write(&path, kind, &disk, 2 << 20);
        assert_second("vmdk", &path, &[], &["libvmdk", "dissect"], &disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn any_pattern_survives(
        sectors in 1usize..9000,
        writes in any_writes(),
    ) {
        if have(&["qemu-img"]) {
            let disk = written(sectors, writes);
            let folder = tempfile::tempdir().unwrap();
            for kind in KINDS {
                let name = format!("{}.vmdk", kind.as_str());
                write(&folder.path().join(&name), kind, &disk, 192 << 10);
                judge_kind(folder.path(), &name, kind, &disk);
            }
        }
    }
}

#[test]
fn a_split_disk_is_cut_and_named_as_vmware_does_it() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    for (kind, letter, word) in [
        (VmdkKind::TwoGbMaxExtentSparse, 's', "SPARSE"),
        (VmdkKind::TwoGbMaxExtentFlat, 'f', "FLAT"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my disk.vmdk");
        let spec = spec(kind, 5 << 30, "my disk.vmdk");
        let storage = Arc::new(File::create_new(&path).unwrap());
        let files = Beside(folder.path().to_owned());
        let target = create(&spec, storage, &files).unwrap();
        let data = text(1, 256 << 10);
        target
            .put(SPLIT - (128 << 10), target.pack(0, &data).unwrap())
            .unwrap();
        // Room is given up to the end of an extent.
        let end = 2 * SPLIT - (64 << 10);
        let placed = target.place(end, 256 << 10).unwrap().unwrap();
        assert_eq!(placed.len, 64 << 10);
        assert_eq!(placed.offset % 65_536, 0);
        placed
            .storage
            .write_at(&data[..64 << 10], placed.offset)
            .unwrap();
        target.publish().unwrap();
        let said = fs::read_to_string(&path).unwrap();
        let offset = if word == "FLAT" { " 0" } else { "" };
        for (nth, sectors) in [(1, 4_192_256), (2, 4_192_256), (3, 2_101_248)] {
            let line = format!("RW {sectors} {word} \"my disk-{letter}{nth:03}.vmdk\"{offset}\n");
            assert!(said.contains(&line), "{line}{said}");
        }
        let image = Image::open(&path, None, &SameFolder).unwrap();
        let mut found = vec![0; data.len()];
        image
            .disk()
            .read_at(&mut found, SPLIT - (128 << 10))
            .unwrap();
        assert!(found == data);
        image.disk().read_at(&mut found[..64 << 10], end).unwrap();
        assert!(found[..64 << 10] == data[..64 << 10]);
        // qemu-img finds the same everywhere: nothing else is anywhere.
        run(
            folder.path(),
            "qemu-img",
            &["convert", "-O", "raw", "my disk.vmdk", "judged"],
        );
        let judged = Image::open(folder.path().join("judged"), Some(Format::Raw), &SameFolder);
        let judged = judged.unwrap();
        assert_eq!(judged.size(), 5 << 30);
        for (at, len) in [(SPLIT - (128 << 10), 256 << 10), (end, 64 << 10)] {
            judged.disk().read_at(&mut found[..len], at).unwrap();
            assert!(found[..len] == data[..len], "{kind:?}");
        }
    }
}

#[test]
fn a_flat_disk_is_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(3 << 20);
    write(
        &folder.path().join("d.vmdk"),
        VmdkKind::MonolithicFlat,
        &disk,
        1 << 20,
    );
    assert!(fs::read(folder.path().join("d-flat.vmdk")).unwrap() == disk);
}

#[test]
fn room_of_every_uncompressed_kind_can_be_shared() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((3 << 20) + 512);
    for kind in KINDS {
        let name = format!("{}.vmdk", kind.as_str());
        let path = folder.path().join(&name);
        let storage = Arc::new(File::create_new(&path).unwrap());
        let files = Beside(folder.path().to_owned());
        let spec = spec(kind, disk.len() as u64, &name);
        let target = create(&spec, storage, &files).unwrap();
        let len = disk.len() as u64;
        let Some(placed) = target.place(0, len).unwrap() else {
            assert_eq!(kind, VmdkKind::StreamOptimized);
            continue;
        };
        assert_eq!((placed.len, placed.offset % 65_536), (len, 0));
        placed.storage.write_at(&disk, placed.offset).unwrap();
        assert_eq!(target.publish().unwrap().data_bytes, len);
        assert_content(&path, &disk, &name);
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
    assert_eq!(u64_at(&bytes, 20), 128);
    assert_eq!(u64_at(&bytes, 48), 0);
    assert_eq!(u64_at(&bytes, 56), u64::MAX);
    assert_eq!(&bytes[72..79], b"\0\n \r\n\x01\0");
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
    let said = String::from_utf8_lossy(&bytes[512..21 * 512]);
    for line in [
        "createType=\"streamOptimized\"\n",
        "\nRW 163840 SPARSE \"s.vmdk\"\n",
        "ddb.adapterType = \"lsilogic\"\n",
        "ddb.geometry.heads = \"255\"\n",
        "ddb.virtualHWVersion = \"8\"\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
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
    for kind in KINDS {
        let word = kind.as_str();
        let path = folder.path().join(word);
        let storage = Arc::new(File::create_new(&path).unwrap());
        let files = Beside(folder.path().to_owned());
        let target = create(&spec(kind, 1 << 20, word), storage, &files).unwrap();
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
    let mut stream = spec(VmdkKind::StreamOptimized, 4096, "x.vmdk");
    stream.compression = Some(Compression::Zstd(3));
    assert!(refused(&stream).contains("zstd"));
    for kind in KINDS {
        let word = kind.as_str();
        if kind != VmdkKind::StreamOptimized {
            let mut plain = spec(kind, 4096, "x.vmdk");
            plain.compression = Some(Compression::Zlib(6));
            assert!(refused(&plain).contains(word));
        }
        assert!(refused(&spec(kind, 0, "x.vmdk")).contains("size"));
        assert!(refused(&spec(kind, u64::MAX, "x.vmdk")).contains("size"));
        assert!(refused(&spec(kind, 4096, "a\"b")).contains("quotes"));
    }
    // Too many extents for a descriptor, found before any file is made.
    let many = spec(VmdkKind::TwoGbMaxExtentFlat, 1 << 50, "x.vmdk");
    assert!(refused(&many).contains("too many extents"));
    let split = spec(VmdkKind::TwoGbMaxExtentFlat, 1 << 30, "x.vmdk");
    assert!(refused(&split).contains("x-f001.vmdk"));
}

#[test]
fn the_adapter_and_hardware_asked_for_are_in_the_descriptor() {
    for (adapter, word) in [
        (Adapter::LsiLogic, "lsilogic"),
        (Adapter::BusLogic, "buslogic"),
        (Adapter::Ide, "ide"),
        (Adapter::Pvscsi, "pvscsi"),
        (Adapter::LegacyEsx, "legacyESX"),
    ] {
        let memory = Arc::new(Memory::new("x.vmdk", Vec::new()));
        let mut spec = TargetSpec::new(Format::Vmdk, 1 << 20, "x.vmdk").unwrap();
        spec.options
            .parse(&format!("adapter_type={word},hwversion=13"))
            .unwrap();
        let TargetOptions::Vmdk(options) = &spec.options else {
            panic!("not the options of a VMDK");
        };
        assert_eq!(options.adapter, adapter);
        create(&spec, memory.clone(), &OneFile)
            .unwrap()
            .publish()
            .unwrap();
        let text = String::from_utf8_lossy(&memory.to_vec()[512..]).into_owned();
        assert!(text.contains(&format!("ddb.adapterType = \"{word}\"")));
        assert!(text.contains("ddb.virtualHWVersion = \"13\""));
    }
}
