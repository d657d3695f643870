//! Whole images have nothing wrong with them, each kind of damage is found, and what is mended reads
//! as it did before.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Memory, Result, SameFolder, StorageMut};
use rehost_image::{Check, EditFiles, Format, Repair, Severity, VmdkKind, check, repair};

use crate::reading::make;
use crate::support::corpora::records;
use crate::support::writing::in_memory;
use crate::support::{assert_content, have, noise, open_bytes, patchwork, read_all, run, text};
use crate::writing::{KINDS, spec, write};

/// Opens whatever is asked for.
#[derive(Debug)]
pub(crate) struct Anything;

impl EditFiles for Anything {
    fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
        Ok(Arc::new(File::open_mut(path)?))
    }
}

fn check_file(path: &Path) -> Check {
    let storage = Arc::new(File::open(path).unwrap());
    check(path, Format::Vmdk, storage, &SameFolder).unwrap()
}

fn repair_file(path: &Path) -> Check {
    let storage = Arc::new(File::open_mut(path).unwrap());
    repair(path.into(), Format::Vmdk, storage, &SameFolder, &Anything).unwrap()
}

fn image(kind: VmdkKind) -> Vec<u8> {
    let disk = match kind {
        VmdkKind::StreamOptimized => text(1, 40 << 20),
        _ => patchwork(40 << 20),
    };
    in_memory(&spec(kind, 40 << 20, "disk.vmdk"), &disk, 1 << 20)
}

fn check_bytes(bytes: Vec<u8>) -> Result<Check> {
    let storage = Arc::new(Memory::new("disk.vmdk", bytes));
    check(Path::new("disk.vmdk"), Format::Vmdk, storage, &SameFolder)
}

fn repair_bytes(bytes: Vec<u8>) -> Result<(Check, Vec<u8>)> {
    let storage = Arc::new(Memory::new("disk.vmdk", bytes));
    let check = repair(
        "disk.vmdk".into(),
        Format::Vmdk,
        storage.clone(),
        &SameFolder,
        &Anything,
    )?;
    Ok((check, storage.to_vec()))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn set(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
}

/// Where a directory is, by the field of the header that says it.
fn directory(bytes: &[u8], field: usize) -> usize {
    u32_at(bytes, field) * 512
}

const GD: usize = 56;
const RGD: usize = 48;

#[test]
fn nothing_is_wrong_with_images_of_any_kind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = patchwork((37 << 20) + 1536);
    for kind in KINDS {
        let ours = format!("ours {}.vmdk", kind.as_str());
        write(&folder.join(&ours), kind, &disk, 1 << 20);
        let mut names = vec![ours];
        if have(&["qemu-img"]) {
            let theirs = format!("theirs {}.vmdk", kind.as_str());
            make(
                folder,
                &theirs,
                &disk,
                &format!("subformat={}", kind.as_str()),
            );
            names.push(theirs);
        }
        for name in names {
            let check = check_file(&folder.join(&name));
            assert!(check.is_clean(), "{name}: {:?}", check.findings);
            assert!(check.allocated_units > 0, "{name}");
            assert!(check.total_units >= 593, "{name}");
            let stream = kind == VmdkKind::StreamOptimized;
            assert_eq!(check.compressed_units > 0, stream, "{name}");
            let len = fs::metadata(folder.join(&name)).unwrap().len();
            // qemu-img rounds the end of its streams up to a grain.
            assert!(
                check.image_end <= len && check.image_end + 65_536 > len,
                "{name}"
            );
            if name.starts_with("ours") {
                assert_eq!(check.image_end, len, "{name}");
            }
        }
    }
}

#[test]
fn nothing_is_wrong_with_an_image_that_qemu_io_wrote_to() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        &folder.join("base.vmdk"),
        VmdkKind::MonolithicSparse,
        &patchwork(40 << 20),
        1 << 20,
    );
    let create = "create -f vmdk -o zeroed_grain=on -F vmdk -b base.vmdk child.vmdk";
    run(folder, "qemu-img", &create.split(' ').collect::<Vec<_>>());
    for write in ["write -P 7 35M 300k", "write -P 8 1M 70k", "write -z 3M 1M"] {
        run(
            folder,
            "qemu-io",
            &["-f", "vmdk", "-c", write, "child.vmdk"],
        );
    }
    let found = check_file(&folder.join("child.vmdk"));
    assert!(found.is_clean(), "{:?}", found.findings);
    // The parent changes behind the child's back.
    run(
        folder,
        "qemu-io",
        &["-f", "vmdk", "-c", "write 0 512", "base.vmdk"],
    );
    let found = check_file(&folder.join("child.vmdk"));
    assert_eq!(found.corruptions, 1, "{:?}", found.findings);
    assert!(found.findings[0].text.contains("changed after"));
    assert!(check_file(&folder.join("base.vmdk")).is_clean());
}

/// What is done to an image, what must be found, and whether it can be mended.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), Severity, Repair);

#[test]
fn damage_of_a_sparse_disk_is_found_and_mended_where_a_copy_is_sound() {
    let whole = image(VmdkKind::MonolithicSparse);
    let content = |bytes: &[u8]| {
        let image = open_bytes("disk.vmdk", bytes.to_vec(), Some(Format::Vmdk)).unwrap();
        read_all(&*image.disk(), 1 << 20)
    };
    let disk = content(&whole);
    let (leak, corruption) = (Severity::Leak, Severity::Corruption);
    let table = |bytes: &[u8], field| u32_at(bytes, directory(bytes, field)) * 512;
    let cases: [Case<'_>; 10] = [
        ("was not closed", &|b| b[72] = 1, leak, Repair::Safe),
        (
            "its redundant copy is not",
            &|b| {
                let at = directory(b, GD) + 4;
                set(b, at, 0x7fff_ffff);
            },
            corruption,
            Repair::Safe,
        ),
        (
            "its redundant copy is not",
            &|b| {
                let at = table(b, GD);
                set(b, at + 8, 0x7fff_ffff);
            },
            corruption,
            Repair::Safe,
        ),
        (
            "damaged redundant copy",
            &|b| {
                let at = table(b, RGD);
                set(b, at + 8, 0x7fff_ffff);
            },
            leak,
            Repair::Safe,
        ),
        (
            "missing in the redundant directory",
            &|b| {
                let at = directory(b, RGD);
                set(b, at, 0);
            },
            leak,
            Repair::Safe,
        ),
        (
            "bytes at the end that nothing refers to",
            &|b| b.extend(noise(1, 1 << 20)),
            leak,
            Repair::Safe,
        ),
        (
            "differs from its redundant copy",
            &|b| {
                let at = table(b, GD);
                let other = u32_at(b, at + 12);
                set(b, at + 8, other);
            },
            corruption,
            Repair::No,
        ),
        (
            "lies over a grain",
            &|b| {
                for field in [GD, RGD] {
                    let at = table(b, field);
                    let other = u32_at(b, at + 12);
                    set(b, at + 8, other + 1);
                }
            },
            corruption,
            Repair::No,
        ),
        (
            "65536 bytes that nothing refers to",
            &|b| {
                for field in [GD, RGD] {
                    let at = table(b, field);
                    set(b, at + 8, 0);
                }
            },
            leak,
            Repair::No,
        ),
        (
            "past the end of the file",
            &|b| b.truncate(b.len() - 65_536),
            corruption,
            Repair::No,
        ),
    ];
    for (text, change, severity, mendable) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let found = check_bytes(bytes.clone()).unwrap();
        let finding = found.findings.iter().find(|f| f.text.contains(text));
        let finding = finding.unwrap_or_else(|| panic!("{text}: {:?}", found.findings));
        assert_eq!(
            (finding.severity, finding.repair),
            (severity, mendable),
            "{text}"
        );
        let (left, bytes) = repair_bytes(bytes).unwrap();
        if mendable == Repair::Safe {
            assert!(left.is_clean(), "{text}: {:?}", left.findings);
            assert!(content(&bytes) == disk, "{text}");
        } else {
            assert!(
                left.findings.iter().any(|f| f.text.contains(text)),
                "{text}"
            );
        }
    }
}

#[test]
fn damage_of_a_stream_is_found() {
    let whole = image(VmdkKind::StreamOptimized);
    let marker = 128 * 512;
    let cases: [Case<'_>; 4] = [
        (
            "is for sector 77",
            &|b| b[marker] = 77,
            Severity::Corruption,
            Repair::No,
        ),
        (
            "impossible length",
            &|b| b[marker + 8..marker + 12].fill(0xff),
            Severity::Corruption,
            Repair::No,
        ),
        (
            "something else than the header",
            &|b| b[64] = 1,
            Severity::Corruption,
            Repair::No,
        ),
        (
            "comes before grains of lower sectors",
            &|b| {
                // Two grains of the same length change places.
                let gd = directory(&b[b.len() - 1024..], GD);
                let table = u32_at(b, gd) * 512;
                let place = |b: &[u8], nth: usize| u32_at(b, table + nth * 4) * 512;
                let len = |b: &[u8], nth| place(b, nth + 1) - place(b, nth);
                let nth = (0..500)
                    .find(|nth| len(b, *nth) == len(b, nth + 1))
                    .unwrap();
                let (first, second) = (place(b, nth), place(b, nth + 1));
                let size = second - first;
                let moved = b[first..second].to_vec();
                b.copy_within(second..second + size, first);
                b[second..second + size].copy_from_slice(&moved);
                set(b, table + nth * 4, second / 512);
                set(b, table + nth * 4 + 4, first / 512);
            },
            Severity::Leak,
            Repair::No,
        ),
    ];
    for (text, change, severity, mendable) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let found = check_bytes(bytes).unwrap();
        let finding = found.findings.iter().find(|f| f.text.contains(text));
        let finding = finding.unwrap_or_else(|| panic!("{text}: {:?}", found.findings));
        assert_eq!(
            (finding.severity, finding.repair),
            (severity, mendable),
            "{text}"
        );
    }
}

#[test]
fn an_extent_of_a_split_disk_is_mended_in_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    let disk = patchwork(20 << 20);
    write(&path, VmdkKind::TwoGbMaxExtentSparse, &disk, 1 << 20);
    let extent = folder.path().join("d-s001.vmdk");
    let mut bytes = fs::read(&extent).unwrap();
    bytes[72] = 1;
    let at = u32_at(&bytes, GD) * 512;
    set(&mut bytes, at, 0x7fff_ffff);
    fs::write(&extent, bytes).unwrap();
    assert_eq!(check_file(&path).findings.len(), 2);
    let left = repair_file(&path);
    assert!(left.is_clean(), "{:?}", left.findings);
    assert_content(&path, &disk, "mended");
}

#[test]
fn a_short_flat_extent_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    write(&path, VmdkKind::MonolithicFlat, &noise(1, 1 << 20), 1 << 20);
    let extent = folder.path().join("d-flat.vmdk");
    let extent = fs::OpenOptions::new().write(true).open(extent).unwrap();
    extent.set_len((1 << 20) - 512).unwrap();
    let found = check_file(&path);
    assert_eq!((found.corruptions, found.leaks), (1, 0));
    assert!(
        found.findings[0].text.contains("shorter"),
        "{:?}",
        found.findings
    );
}

#[test]
fn the_corpora_are_as_sound_as_qemu_img_says() {
    let Some(records) = records(|category| category == "image/vmdk") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for record in &records {
        record.unpack(&folder.path().join(record.name()));
    }
    for record in &records {
        if record.known["qemu_check_rc"] == 0 {
            let found = check_file(&folder.path().join(record.name()));
            println!("{}: {:?}", record.name(), found.findings);
            assert_eq!(found.corruptions, 0, "{}", record.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_damage_makes_a_check_panic_and_repairs_end(
        stream in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let disk = text(1, 2 << 20);
        let kind = if stream { VmdkKind::StreamOptimized } else { VmdkKind::MonolithicSparse };
        let mut bytes = in_memory(&spec(kind, 2 << 20, "disk.vmdk"), &disk, 1 << 20);
        let structures = bytes.len().min(70_000);
        for (place, byte) in flips {
            bytes[place.index(structures)] = byte;
        }
        let _ = check_bytes(bytes.clone());
        if let Ok((left, mended)) = repair_bytes(bytes) {
            let open: Vec<_> = left.findings.iter().filter(|f| f.repair == Repair::Safe).collect();
            prop_assert!(open.is_empty(), "{open:?}");
            prop_assert_eq!(repair_bytes(mended.clone()).unwrap().1, mended);
        }
    }
}
