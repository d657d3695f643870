//! VMDKs changed in place: they hold what was written, for this program and for qemu-img, and their
//! tables stay in order.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use rehost_block::{File, Kind, Layer, Result, Run, SameFolder};
use rehost_image::{Details, Format, Image, LayerMut, VmdkKind, check, edit};

use crate::checking::Anything;
use crate::reading::{descriptor, make};
use crate::support::{assert_content, have, noise, patchwork, qemu_content, run, text};
use crate::writing::write;

const KINDS: [VmdkKind; 4] = [
    VmdkKind::MonolithicSparse,
    VmdkKind::TwoGbMaxExtentSparse,
    VmdkKind::MonolithicFlat,
    VmdkKind::TwoGbMaxExtentFlat,
];

fn try_open(path: &Path) -> Result<Box<dyn LayerMut>> {
    let storage = Arc::new(File::open_mut(path)?);
    edit(path.into(), Format::Vmdk, storage, &SameFolder, &Anything)
}

fn open(path: &Path) -> Box<dyn LayerMut> {
    try_open(path).unwrap()
}

fn cid(path: &Path) -> u32 {
    let image = Image::open(path, None, &SameFolder).unwrap();
    match &image.layers()[0].details {
        Details::Vmdk(details) => details.cid,
        _ => panic!("not the details of a VMDK"),
    }
}

/// Fails unless the image holds `disk` for all readers, with no table out of order.
fn judge(folder: &Path, name: &str, disk: &[u8]) {
    let path = folder.join(name);
    assert_content(&path, disk, name);
    let storage = Arc::new(File::open(&path).unwrap());
    let found = check(&path, Format::Vmdk, storage, &SameFolder).unwrap();
    assert!(found.corruptions == 0, "{name}: {:?}", found.findings);
    if have(&["qemu-img"]) {
        assert!(qemu_content(folder, name) == disk, "{name}: qemu-img");
    }
}

/// What the layer itself answers, read as a disk without a parent.
fn content(layer: &dyn Layer) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(layer.size()).unwrap()];
    let mut at = 0;
    while at < layer.size() {
        let located = layer.locate(at, u64::MAX).unwrap();
        let start = usize::try_from(at).unwrap();
        let end = start + usize::try_from(located.len).unwrap();
        if let Run::At { storage, offset } = located.run {
            storage.read_at(&mut bytes[start..end], offset).unwrap();
        }
        at += located.len;
    }
    bytes
}

/// One change of a disk.
#[derive(Debug, Clone)]
enum Change {
    Put(Index, usize, u64),
    Zero(Index, usize),
    Forget(Index, usize),
    Resize(usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), 1usize..6, 1u64..99).prop_map(|(at, n, s)| Change::Put(at, n, s)),
        2 => (any::<Index>(), 1usize..20).prop_map(|(at, n)| Change::Zero(at, n)),
        2 => (any::<Index>(), 1usize..20).prop_map(|(at, n)| Change::Forget(at, n)),
        1 => (1usize..50_000).prop_map(Change::Resize),
    ]
}

/// The bytes of `count` units from one of the units of a disk of `len`.
fn range(len: usize, unit: usize, at: Index, count: usize) -> std::ops::Range<usize> {
    let start = at.index(len.div_ceil(unit)) * unit;
    start..len.min(start + count * unit)
}

/// Does `change` to the layer and to the model of it; `below` is what the parent has.
fn apply(layer: &mut dyn LayerMut, disk: &mut Vec<u8>, below: Option<&[u8]>, change: &Change) {
    let unit = usize::try_from(layer.unit().get()).unwrap();
    match change {
        Change::Put(at, count, seed) => {
            let range = range(disk.len(), unit, *at, *count);
            let bytes = noise(*seed, range.len());
            layer.put(range.start as u64, &bytes).unwrap();
            disk[range].copy_from_slice(&bytes);
        }
        Change::Zero(at, count) => {
            let range = range(disk.len(), unit, *at, *count);
            layer.zero(range.start as u64, range.len() as u64).unwrap();
            disk[range].fill(0);
        }
        Change::Forget(at, count) => {
            let range = range(disk.len(), unit, *at, *count);
            layer
                .forget(range.start as u64, range.len() as u64)
                .unwrap();
            match below {
                None => disk[range].fill(0),
                Some(below) => {
                    for at in range {
                        disk[at] = below.get(at).copied().unwrap_or(0);
                    }
                }
            }
        }
        // Sizes of whole grains for a child: half a grain of a parent cannot be hidden.
        Change::Resize(sectors) => {
            let size = match below {
                None => sectors * 512,
                Some(_) => (sectors * 512).next_multiple_of(65_536),
            };
            layer.resize(size as u64).unwrap();
            disk.resize(size, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_changes_are_kept(
        sectors in 1usize..30_000,
        changes in prop::collection::vec(any_change(), 1..14),
    ) {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("d.vmdk");
            let mut disk = patchwork(sectors * 512);
            write(&path, kind, &disk, 1 << 20);
            let mut layer = open(&path);
            for change in &changes {
                apply(&mut *layer, &mut disk, None, change);
            }
            prop_assert!(content(&*layer) == disk, "{kind:?}");
            layer.flush().unwrap();
            drop(layer);
            judge(folder.path(), "d.vmdk", &disk);
        }
    }

    #[test]
    fn any_changes_of_a_child_are_kept(
        grains in 1usize..300,
        changes in prop::collection::vec(any_change(), 1..14),
    ) {
        if have(&["qemu-img"]) {
            let folder = tempfile::tempdir().unwrap();
            let base = patchwork(grains * 65_536);
            write(&folder.path().join("base.vmdk"), VmdkKind::MonolithicSparse, &base, 1 << 20);
            let create = "create -f vmdk -F vmdk -b base.vmdk c.vmdk";
            run(folder.path(), "qemu-img", &create.split(' ').collect::<Vec<_>>());
            let path = folder.path().join("c.vmdk");
            let mut layer = open(&path);
            let mut disk = base.clone();
            for change in &changes {
                apply(&mut *layer, &mut disk, Some(&base), change);
            }
            layer.flush().unwrap();
            drop(layer);
            judge(folder.path(), "c.vmdk", &disk);
        }
    }
}

#[test]
fn a_sparse_disk_grows_past_its_directories() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    // Made by qemu-img and made here; 128 tables fill the first sector of a directory.
    for theirs in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = folder.join("d.vmdk");
        let disk = patchwork((10 << 20) + 512);
        if theirs {
            make(folder, "d.vmdk", &disk, "subformat=monolithicSparse");
        } else {
            write(&path, VmdkKind::MonolithicSparse, &disk, 1 << 20);
        }
        let mut layer = open(&path);
        layer.resize(4 << 30).unwrap();
        layer.resize((9 << 30) + 512).unwrap();
        let far = text(1, 65_536);
        layer.put(9 << 30, &far[..512]).unwrap();
        layer.put(5 << 30, &far).unwrap();
        drop(layer);
        // Others can write where nobody has written yet.
        let write = "write -P 0x77 7G 64k";
        run(folder, "qemu-io", &["-f", "vmdk", "-c", write, "d.vmdk"]);
        run(folder, "qemu-img", &["check", "d.vmdk"]);
        let storage = Arc::new(File::open(&path).unwrap());
        let found = check(&path, Format::Vmdk, storage, &SameFolder).unwrap();
        assert!(found.is_clean(), "{:?}", found.findings);
        let image = Image::open(&path, None, &SameFolder).unwrap();
        assert_eq!(image.size(), (9 << 30) + 512);
        let read = |at: u64, len: usize| {
            let mut bytes = vec![1; len];
            image.disk().read_at(&mut bytes, at).unwrap();
            bytes
        };
        assert!(read(0, disk.len()) == disk);
        assert!(read(disk.len() as u64, 1 << 20) == vec![0; 1 << 20]);
        assert!(read(9 << 30, 512) == far[..512]);
        assert!(read(5 << 30, 65_536) == far);
        assert!(read(7 << 30, 65_536) == vec![0x77; 65_536]);
        let info = run(folder, "qemu-img", &["info", "--output=json", "d.vmdk"]);
        let size = format!("\"virtual-size\": {}", (9u64 << 30) + 512);
        assert!(String::from_utf8_lossy(&info).contains(&size));
        let bytes = fs::read(&path).unwrap();
        let said = String::from_utf8_lossy(&bytes[512..21 * 512]);
        assert!(said.contains("RW 18874369 SPARSE \"d.vmdk\""), "{said}");
    }
}

#[test]
fn the_cid_changes_with_the_first_write_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(format!("{}.vmdk", kind.as_str()));
        write(&path, kind, &noise(1, 1 << 20), 1 << 20);
        let first = cid(&path);
        let mut layer = open(&path);
        layer.resize(2 << 20).unwrap();
        assert_eq!(cid(&path), first);
        layer.put(0, &noise(2, 65_536)).unwrap();
        let second = cid(&path);
        assert_ne!(second, first);
        layer.zero(0, 65_536).unwrap();
        assert_eq!(cid(&path), second);
    }
}

#[test]
fn another_parent_and_none_are_named_in_the_descriptor() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (first, second) = (noise(1, 1 << 20), noise(2, 1 << 20));
    write(
        &folder.join("first.vmdk"),
        VmdkKind::MonolithicSparse,
        &first,
        1 << 20,
    );
    write(
        &folder.join("second one.vmdk"),
        VmdkKind::MonolithicFlat,
        &second,
        1 << 20,
    );
    let piece = noise(3, 65_536);
    for kind in [VmdkKind::MonolithicSparse, VmdkKind::TwoGbMaxExtentSparse] {
        let name = format!("{}.vmdk", kind.as_str());
        let path = folder.join(&name);
        write(&path, kind, &vec![0; 1 << 20], 1 << 20);
        let mut layer = open(&path);
        layer.put(65_536, &piece).unwrap();
        for (parent, below) in [
            (Some("first.vmdk"), &first),
            (Some("second one.vmdk"), &second),
            (None, &vec![0; 1 << 20]),
        ] {
            let backing = parent.map(|parent| {
                let image = Image::open(folder.join(parent), None, &SameFolder).unwrap();
                image.as_backing(parent.into()).unwrap()
            });
            layer.set_backing(backing.as_ref()).unwrap();
            layer.flush().unwrap();
            let mut disk = below.clone();
            disk[65_536..131_072].copy_from_slice(&piece);
            judge(folder, &name, &disk);
        }
    }
    let image = Image::open(folder.join("first.vmdk"), None, &SameFolder).unwrap();
    let backing = image.as_backing("first.vmdk".into()).unwrap();
    let mut flat = open(&folder.join("second one.vmdk"));
    let error = flat.set_backing(Some(&backing)).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    flat.set_backing(None).unwrap();
}

#[test]
fn what_cannot_be_changed_is_refused_by_name_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("s.vmdk");
    write(&path, VmdkKind::StreamOptimized, &text(1, 1 << 20), 1 << 20);
    let error = try_open(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("streamOptimized"), "{error}");

    fs::write(folder.join("x"), noise(1, 16_384)).unwrap();
    let path = folder.join("mixed.vmdk");
    let extents = "RW 8 FLAT \"x\" 0\nRDONLY 8 FLAT \"x\" 8\nRW 8 ZERO\nNOACCESS 8 FLAT \"x\" 16";
    let said = descriptor("custom", extents);
    fs::write(&path, &said).unwrap();
    let mut layer = open(&path);
    for nth in 1..4 {
        let error = layer.put(nth * 4096, &[1; 4096]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains("line"), "{error}");
    }
    // All or nothing.
    assert!(layer.put(0, &[1; 8192]).is_err());
    assert!(layer.put(4096 * 4, &[1; 4096]).is_err());
    assert!(layer.put(512, &[1; 512]).is_err());
    assert!(layer.resize(1 << 20).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), said);
    assert_eq!(fs::read(folder.join("x")).unwrap(), noise(1, 16_384));

    let path = folder.join("split.vmdk");
    write(
        &path,
        VmdkKind::TwoGbMaxExtentSparse,
        &noise(1, 1 << 20),
        1 << 20,
    );
    let error = open(&path).resize(3 << 30).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("add an extent"), "{error}");
}
