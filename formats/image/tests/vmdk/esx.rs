//! Snapshots as ESX and ESXi make them, COWD and seSparse, built here from their documents and held
//! against qemu-img and dissect.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rehost_block::{Error, Kind, SameFolder};
use rehost_image::{Image, VmdkKind};

use crate::reading::descriptor;
use crate::support::second::assert_second;
use crate::support::{assert_content, have, noise, patchwork, qemu_content};
use crate::writing::write;

const SECTOR: usize = 512;

/// What a snapshot has of one grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grain {
    /// The parent's.
    Absent,
    /// Zeroes (seSparse only): written, or unmapped by the guest.
    Zero,
    Unmapped,
    Stored,
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put32(file: &mut Vec<u8>, at: usize, value: usize) {
    put(file, at, &u32::try_from(value).unwrap().to_le_bytes());
}

fn put64(file: &mut Vec<u8>, at: usize, value: u64) {
    put(file, at, &value.to_le_bytes());
}

/// A COWD extent of `disk` with grains of `sectors`: tables and grains in the order in which a
/// guest that writes upwards would make them.
fn cowd(disk: &[u8], sectors: usize, grains: &[Grain]) -> Vec<u8> {
    let grain = sectors * SECTOR;
    let tables = grains.len().div_ceil(4096);
    let mut file = Vec::new();
    put(&mut file, 0, b"COWD");
    for (at, value) in [
        (4, 1),
        (8, 3),
        (12, disk.len() / SECTOR),
        (16, sectors),
        (20, 4),
        (24, tables),
    ] {
        put32(&mut file, at, value);
    }
    file.resize((4 * SECTOR + tables * 4).next_multiple_of(SECTOR), 0);
    for (number, part) in grains.chunks(4096).enumerate() {
        if part.iter().all(|grain| *grain == Grain::Absent) {
            continue;
        }
        let table = file.len();
        put32(&mut file, 4 * SECTOR + number * 4, table / SECTOR);
        file.resize(table + 4096 * 4, 0);
        for (nth, what) in part.iter().enumerate() {
            if *what == Grain::Stored {
                let at = file.len();
                put32(&mut file, table + nth * 4, at / SECTOR);
                let start = (number * 4096 + nth) * grain;
                let end = disk.len().min(start + grain);
                file.extend(&disk[start..end]);
                file.resize(at + grain, 0);
            }
        }
    }
    let free = file.len() / SECTOR;
    put32(&mut file, 28, free);
    file
}

/// A seSparse extent of `disk`, laid out as ESXi lays it out, its grains stored from the last to
/// the first.
fn se_sparse(disk: &[u8], grains: &[Grain]) -> Vec<u8> {
    const MIB: u64 = 2048;
    let tables = grains.len().div_ceil(4096) as u64;
    let mut file = Vec::new();
    let stored = grains.iter().filter(|grain| **grain == Grain::Stored);
    let mut next = stored.count() as u64;
    let gts = 6144;
    let bitmap = gts + (tables * 64).next_multiple_of(MIB);
    let first = bitmap + 2 * MIB;
    for (nth, value) in [
        0xcafe_babe,
        0x2_0000_0001,
        (disk.len() / SECTOR) as u64,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        1, // volatile header
        1,
        2, // journal header
        2,
        2048, // journal
        2048,
        4096, // grain directory
        2048,
        gts,
        tables * 64,
        bitmap,
        MIB,
        bitmap + MIB, // back map
        MIB,
        first,
        next * 8,
    ]
    .into_iter()
    .enumerate()
    {
        put64(&mut file, nth * 8, value);
    }
    put64(&mut file, SECTOR, 0xcafe_cafe);
    file.resize(usize::try_from(first).unwrap() * SECTOR, 0);
    for (number, part) in grains.chunks(4096).enumerate() {
        if part.iter().all(|grain| *grain == Grain::Absent) {
            continue;
        }
        // The last table first, to tell a number from a place.
        let table = tables - 1 - number as u64;
        put64(&mut file, 4096 * SECTOR + number * 8, 1 << 60 | table);
        for (nth, what) in part.iter().enumerate() {
            let start = (number * 4096 + nth) * 4096;
            let entry = match what {
                Grain::Absent => 0,
                Grain::Unmapped => 1 << 60,
                Grain::Zero => 2 << 60,
                Grain::Stored => {
                    next -= 1;
                    let at = usize::try_from(first).unwrap() * SECTOR
                        + usize::try_from(next).unwrap() * 4096;
                    let mut bytes = disk[start..disk.len().min(start + 4096)].to_vec();
                    bytes.resize(4096, 0);
                    put(&mut file, at, &bytes);
                    3 << 60 | (next & 0xfff) << 48 | next >> 12
                }
            };
            let at = usize::try_from(gts + table * 64).unwrap() * SECTOR + nth * 8;
            put64(&mut file, at, entry);
        }
    }
    file
}

/// The descriptor of a snapshot of `base.vmdk`, or of a disk that stands alone.
fn snapshot(folder: &Path, create_type: &str, kind: &str, disk: &[u8], parent: Option<u32>) {
    let extent = format!("RW {} {kind} \"s-delta.vmdk\"", disk.len() / SECTOR);
    let mut text = descriptor(create_type, &extent);
    if let Some(cid) = parent {
        let lines = format!("parentCID={cid:08x}\nparentFileNameHint=\"base.vmdk\"");
        text = text.replace("parentCID=ffffffff", &lines);
    }
    fs::write(folder.join("s.vmdk"), text).unwrap();
}

/// The CID of the image at `path`.
fn cid(path: &Path) -> u32 {
    let image = Image::open(path, None, &SameFolder).unwrap();
    match &image.layers()[0].details {
        rehost_image::Details::Vmdk(details) => details.cid,
        _ => panic!("not the details of a VMDK"),
    }
}

/// Every third grain, a run of the rest, and the last.
fn some(count: usize) -> Vec<Grain> {
    (0..count)
        .map(|nth| match nth {
            _ if nth + 1 == count || (100..220).contains(&nth) => Grain::Stored,
            _ if nth % 3 == 0 && !(4096..8192).contains(&nth) => Grain::Stored,
            _ => Grain::Absent,
        })
        .collect()
}

/// `disk` where it is stored, else `base` or zeroes.
fn seen(disk: &[u8], base: &[u8], size: usize, grains: &[Grain]) -> Vec<u8> {
    let mut seen = base.to_vec();
    for (nth, what) in grains.iter().enumerate() {
        let range = nth * size..disk.len().min((nth + 1) * size);
        match what {
            Grain::Absent => {}
            Grain::Zero | Grain::Unmapped => seen[range].fill(0),
            Grain::Stored => seen[range.clone()].copy_from_slice(&disk[range]),
        }
    }
    seen
}

#[test]
fn a_cowd_delta_reads_as_others_read_it() {
    // Two tables and a bit at one sector a grain; a cut last grain at 32.
    for (size, sectors) in [(4104 * 1024, 1), ((5 << 20) + 8192, 32)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (disk, base) = (noise(1, size), patchwork(size));
        write(
            &folder.join("base.vmdk"),
            VmdkKind::MonolithicFlat,
            &base,
            1 << 20,
        );
        let grains = some(size.div_ceil(sectors * SECTOR));
        fs::write(folder.join("s-delta.vmdk"), cowd(&disk, sectors, &grains)).unwrap();
        for over in [false, true] {
            let parent = over.then(|| cid(&folder.join("base.vmdk")));
            snapshot(folder, "vmfsSparse", "VMFSSPARSE", &disk, parent);
            let below = if over { base.clone() } else { vec![0; size] };
            let expected = seen(&disk, &below, sectors * SECTOR, &grains);
            let path = folder.join("s.vmdk");
            assert_content(&path, &expected, "COWD");
            if have(&["qemu-img"]) {
                assert!(qemu_content(folder, "s.vmdk") == expected, "qemu-img");
            }
            assert_second("vmdk", &path, &[], &["dissect"], &expected);
        }
    }
}

#[test]
fn a_sesparse_snapshot_reads_as_others_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Three tables.
    let size = (33 << 20) + 16_384;
    let (disk, base) = (noise(1, size), patchwork(size));
    write(
        &folder.join("base.vmdk"),
        VmdkKind::MonolithicFlat,
        &base,
        1 << 20,
    );
    let mut grains = some(size / 4096);
    grains[1..40].fill(Grain::Zero);
    for unmapped in [false, true] {
        if unmapped {
            grains[50..70].fill(Grain::Unmapped);
        }
        fs::write(folder.join("s-delta.vmdk"), se_sparse(&disk, &grains)).unwrap();
        let parent = cid(&folder.join("base.vmdk"));
        snapshot(folder, "seSparse", "SESPARSE", &disk, Some(parent));
        let expected = seen(&disk, &base, 4096, &grains);
        let path = folder.join("s.vmdk");
        assert_content(&path, &expected, "seSparse");
        if have(&["qemu-img"]) {
            assert!(qemu_content(folder, "s.vmdk") == expected, "qemu-img");
        }
        // dissect gives the parent where the guest unmapped: UNMAP of a thin disk reads as zeroes.
        if !unmapped {
            assert_second("vmdk", &path, &[], &["dissect"], &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_pattern_of_grains_is_read(
        grains in prop::collection::vec(
            prop::sample::select(vec![Grain::Absent, Grain::Zero, Grain::Unmapped, Grain::Stored]),
            1..6000,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let disk = noise(1, grains.len() * 4096);
        fs::write(folder.path().join("s-delta.vmdk"), se_sparse(&disk, &grains)).unwrap();
        snapshot(folder.path(), "seSparse", "SESPARSE", &disk, None);
        let zeroes = vec![0; disk.len()];
        let path = folder.path().join("s.vmdk");
        assert_content(&path, &seen(&disk, &zeroes, 4096, &grains), "seSparse");
        let plain: Vec<Grain> = grains
            .into_iter()
            .map(|grain| if grain == Grain::Stored { grain } else { Grain::Absent })
            .collect();
        fs::write(folder.path().join("s-delta.vmdk"), cowd(&disk, 8, &plain)).unwrap();
        snapshot(folder.path(), "vmfsSparse", "VMFSSPARSE", &disk, None);
        assert_content(&path, &seen(&disk, &zeroes, 4096, &plain), "COWD");
    }
}

/// What opening and reading `extent` of a disk of 1 MiB gives.
fn refused(extent: &[u8], kind: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s-delta.vmdk"), extent).unwrap();
    snapshot(folder.path(), "custom", kind, &vec![0; 1 << 20], None);
    let read = Image::open(folder.path().join("s.vmdk"), None, &SameFolder).and_then(|image| {
        let mut bytes = vec![0; 1 << 20];
        image.disk().read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

#[test]
fn a_journal_that_was_not_replayed_is_refused_by_name() {
    let mut extent = se_sparse(&noise(1, 1 << 20), &[Grain::Stored; 256]);
    put64(&mut extent, SECTOR + 24, 1);
    let error = refused(&extent, "SESPARSE");
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("journal"), "{error}");
    assert_eq!(error.offset(), Some(536));
}

#[test]
fn damaged_esx_extents_are_named() {
    let disk = noise(1, 1 << 20);
    let whole = se_sparse(&disk, &[Grain::Stored; 256]);
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>); 9] = [
        ("version is not known", &|b| b[8] = 2),
        ("grain size is not known", &|b| b[24] = 16),
        ("flags is not known", &|b| b[40] = 1),
        ("volatile header: signature", &|b| b[SECTOR] = 0),
        ("directory is too short", &|b| put64(b, 136, 0)),
        ("directory lies outside", &|b| put64(b, 128, 1 << 40)),
        ("grain directory: entry is not known", &|b| {
            put64(b, 4096 * SECTOR, 7)
        }),
        ("entry of grain 0 is not known", &|b| {
            put64(b, 6144 * SECTOR, 7)
        }),
        ("lies past the end", &|b| b.truncate(b.len() - 4096)),
    ];
    for (named, change) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let error = refused(&bytes, "SESPARSE").to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    let whole = cowd(&disk, 1, &[Grain::Stored; 2048]);
    let cases: [(&str, Change<'_>); 7] = [
        ("version is not known", &|b| b[4] = 2),
        ("capacity is out of range", &|b| put32(b, 12, 0)),
        ("smaller than its descriptor", &|b| put32(b, 12, 1024)),
        ("grain size is out of range", &|b| put32(b, 16, 3)),
        ("directory is too short", &|b| put32(b, 24, 0)),
        ("directory lies outside", &|b| put32(b, 20, 0x7fff_ffff)),
        ("grain: lies past the end", &|b| b.truncate(b.len() - 512)),
    ];
    for (named, change) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let error = refused(&bytes, "VMFSSPARSE").to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
