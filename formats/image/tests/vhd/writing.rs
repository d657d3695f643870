//! VHDs written here: qemu-img finds the same content in them, and may write on in them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder, StorageMut};
use rehost_image::{Compression, Format, Image, OneFile, TargetSpec, VhdKind, create};

use crate::support::writing::{any_writes, samples, written};
use crate::support::{assert_content, have, noise, run, text};
use crate::{KINDS, in_memory, kind_of, qemu_content, write};

fn judge(folder: &Path, name: &str, disk: &[u8]) {
    assert_content(&folder.join(name), disk, name);
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
    for (kind, word) in KINDS {
        for (nth, disk) in samples(30 << 20, 20 << 20).iter().enumerate() {
            let name = format!("{word} {nth}.vhd");
            let path = folder.path().join(&name);
            let written = write(&path, kind, disk);
            assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
            judge(folder.path(), &name, disk);
        }
    }
}

#[test]
fn qemu_writes_on_in_a_dynamic_disk() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for start in [noise(1, 3 << 20), Vec::new()] {
        let mut disk = start;
        disk.resize(12 << 20, 0);
        write_on(folder.path(), &mut disk);
    }
}

fn write_on(folder: &Path, disk: &mut [u8]) {
    let path = folder.join("a.vhd");
    write(&path, VhdKind::Dynamic, disk);
    let mut args = vec!["-f", "vpc", "a.vhd"];
    for (command, at, len, byte) in [
        ("write -P 0x11 1M 700k", 1 << 20, 700 << 10, 0x11),
        ("write -P 0x22 7M 3M", 7 << 20, 3 << 20, 0x22),
    ] {
        args.extend(["-c", command]);
        disk[at..at + len].fill(byte);
    }
    run(folder, "qemu-io", &args);
    judge(folder, "a.vhd", disk);
    fs::remove_file(path).unwrap();
}

#[test]
fn sizes_are_exact_and_other_readers_agree() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (kind, word) in KINDS {
        // The third size is more than any geometry can say; nothing is stored.
        for size in [512u64, 12_345 * 512, 1 << 40] {
            let path = folder.path().join(format!("{word}{size}"));
            let mut spec = TargetSpec::new(Format::Vhd, size, "a.vhd").unwrap();
            spec.options = kind_of(kind);
            let storage = Arc::new(File::create_new(&path).unwrap());
            create(&spec, storage, &OneFile).unwrap().publish().unwrap();
            let image = Image::open(&path, None, &SameFolder).unwrap();
            assert_eq!((image.size(), image.format()), (size, Format::Vhd));
            let args = ["info", "-f", "vpc", "--output=json", path.to_str().unwrap()];
            let judged = run(folder.path(), "qemu-img", &args);
            let judged: serde_json::Value = serde_json::from_slice(&judged).unwrap();
            assert_eq!(judged["virtual-size"], size);
            fs::remove_file(path).unwrap();
        }
    }
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
            for (kind, word) in KINDS {
                let name = format!("{word}.vhd");
                write(&folder.path().join(&name), kind, &disk);
                judge(folder.path(), &name, &disk);
            }
        }
    }
}

#[test]
fn a_size_of_no_whole_sector_is_rounded_up_with_zeroes() {
    for (kind, word) in KINDS {
        let memory = Arc::new(Memory::new("disk.vhd", Vec::new()));
        let mut spec = TargetSpec::new(Format::Vhd, 5000, "disk.vhd").unwrap();
        spec.options = kind_of(kind);
        let target = create(&spec, memory.clone(), &OneFile).unwrap();
        let disk = noise(1, 5000);
        target.put(0, target.pack(0, &disk).unwrap()).unwrap();
        target.publish().unwrap();
        let image = Image::from_storage("a".into(), memory, None, &SameFolder).unwrap();
        let mut bytes = vec![1; 5120];
        assert_eq!(image.size(), 5120);
        image.disk().read_at(&mut bytes, 0).unwrap();
        assert!(bytes[..5000] == disk && bytes[5000..] == [0; 120], "{word}");
    }
}

#[test]
fn data_of_a_dynamic_disk_lies_at_whole_pages() {
    let bytes = in_memory(VhdKind::Dynamic, &noise(1, 7 << 20));
    for entry in bytes[1536..1552].as_chunks::<4>().0 {
        let data = (u64::from(u32::from_be_bytes(*entry)) + 1) * 512;
        assert_eq!(data % 4096, 0);
    }
    assert_eq!(bytes.len() % 512, 0);
    assert_eq!(bytes[..512], bytes[bytes.len() - 512..]);
}

#[test]
fn an_unpublished_file_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, word) in KINDS {
        let path = folder.path().join(word);
        let storage = Arc::new(File::create_new(&path).unwrap());
        let mut spec = TargetSpec::new(Format::Vhd, 3 << 20, word).unwrap();
        spec.options = kind_of(kind);
        let target = create(&spec, storage, &OneFile).unwrap();
        let disk = text(1, 2 << 20);
        target.put(0, target.pack(0, &disk).unwrap()).unwrap();
        drop(target);
        let error = Image::open(&path, Some(Format::Vhd), &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("footer: is missing"), "{error}");
        assert!(!fs::read(&path).unwrap().starts_with(&disk[..512]));
    }
}

#[test]
fn what_a_vhd_cannot_be_is_refused() {
    let refused = |change: &dyn Fn(&mut TargetSpec)| {
        KINDS.map(|(kind, _)| {
            let mut spec = TargetSpec::new(Format::Vhd, 4096, "x.vhd").unwrap();
            spec.options = kind_of(kind);
            change(&mut spec);
            let storage: Arc<dyn StorageMut> = Arc::new(Memory::new("x.vhd", Vec::new()));
            create(&spec, storage, &OneFile).unwrap_err().to_string()
        })
    };
    for error in refused(&|spec| spec.compression = Some(Compression::Zlib(6))) {
        assert!(error.contains("VHDs cannot be compressed"), "{error}");
    }
    for size in [0, (2040 << 30) + 1, u64::MAX] {
        for error in refused(&|spec| spec.size = size) {
            assert!(error.contains("size cannot be that of a VHD"), "{error}");
        }
    }
}
