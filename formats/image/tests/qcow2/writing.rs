//! Images written here: qemu-img finds no fault in them and the same content.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::doubles::Faulty;
use rehost_block::{Disk, File, Kind, Memory, SameFolder, Storage, StorageMut, is_zero};
use rehost_image::{
    Compression, Format, Image, OneFile, Order, Payload, Qcow2Options, Target, TargetOptions,
    TargetSpec, Written, create,
};

use crate::support::{
    assert_content, have, noise, patchwork, qemu_content, read_all, run, runs, text, try_run,
};

fn spec(size: u64, cluster: u32, compression: Option<Compression>) -> TargetSpec {
    TargetSpec {
        compression,
        options: TargetOptions::Qcow2(Qcow2Options {
            cluster_size: Some(cluster),
            ..Qcow2Options::default()
        }),
        ..TargetSpec::new(Format::Qcow2, size, "written.qcow2").unwrap()
    }
}

/// Puts what is not zero of `disk` into `target`, `step` bytes at a time, from four threads that
/// take the pieces in a scattered order, where the target lets them; publishes.
fn fill(target: &dyn Target, disk: &[u8], step: usize) -> Written {
    assert!((step as u64).is_multiple_of(target.unit().get()));
    let mut pieces: Vec<(usize, &[u8])> = disk.chunks(step).enumerate().collect();
    if target.order() == Order::Ascending {
        for (index, piece) in pieces {
            if !is_zero(piece) {
                let offset = (index * step) as u64;
                let payload = target.pack(offset, piece).unwrap();
                target.put(offset, payload).unwrap();
            }
        }
        return target.publish().unwrap();
    }
    let mut state = 88_172_645_463_325_252u64;
    for at in (1..pieces.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        pieces.swap(at, (state >> 33) as usize % (at + 1));
    }
    std::thread::scope(|scope| {
        for part in pieces.chunks(pieces.len().div_ceil(4).max(1)) {
            scope.spawn(move || {
                for (index, piece) in part {
                    if !is_zero(piece) {
                        let offset = (index * step) as u64;
                        let payload = target.pack(offset, piece).unwrap();
                        target.put(offset, payload).unwrap();
                    }
                }
            });
        }
    });
    target.publish().unwrap()
}

fn write(path: &Path, spec: &TargetSpec, disk: &[u8], step: usize) -> Written {
    let storage = Arc::new(File::create_new(path).unwrap());
    fill(&*create(spec, storage, &OneFile).unwrap(), disk, step)
}

/// Fails unless `qemu-img check` finds neither errors nor leaks.
fn assert_faultless(folder: &Path, image: &str, what: &str) {
    let output = try_run(folder, "qemu-img", &["check", "-f", "qcow2", image]);
    assert!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn images_of_every_kind_pass_check_and_compare() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let kinds = [
        None,
        Some(Compression::Zlib(1)),
        Some(Compression::Zlib(6)),
        Some(Compression::Zstd(3)),
    ];
    // The last sizes end inside a cluster.
    for len in [512, 3 << 20, 2_500_096] {
        let disk = patchwork(len);
        fs::write(folder.join("disk.raw"), &disk).unwrap();
        for cluster in [512, 4096, 65536, 2 << 20] {
            for kind in kinds {
                let what = format!("{len} bytes, clusters of {cluster}, {kind:?}");
                let path = folder.join("written.qcow2");
                let step = (cluster as usize).max(1 << 18);
                let written = write(&path, &spec(len as u64, cluster, kind), &disk, step);
                assert_eq!(
                    written.file_bytes,
                    fs::metadata(&path).unwrap().len(),
                    "{what}"
                );
                assert_faultless(folder, "written.qcow2", &what);
                let compare = [
                    "compare",
                    "-f",
                    "raw",
                    "-F",
                    "qcow2",
                    "disk.raw",
                    "written.qcow2",
                ];
                run(folder, "qemu-img", &compare);
                let image = assert_content(&path, &disk, &what);
                let stored: u64 = runs(&*image.disk())
                    .iter()
                    .filter(|(kind, _)| *kind != "zero")
                    .map(|(_, len)| len)
                    .sum();
                assert_eq!(written.data_bytes, stored, "{what}");
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn compressed_images_are_smaller_and_noise_is_stored_plain() {
    let mut disk = text(1, 4 << 20);
    disk.extend(noise(2, 1 << 20));
    for kind in [Compression::Zlib(6), Compression::Zstd(3)] {
        let storage = Arc::new(Memory::new("written.qcow2", Vec::new()));
        let spec = spec(disk.len() as u64, 65536, Some(kind));
        let written = fill(
            &*create(&spec, Arc::<Memory>::clone(&storage), &OneFile).unwrap(),
            &disk,
            1 << 20,
        );
        assert!(written.file_bytes < 3 << 20, "{kind:?}: {written:?}");
        let image =
            Image::from_storage("written.qcow2".into(), storage, None, &SameFolder).unwrap();
        assert_eq!(image.layers()[0].compression, Some(kind.as_str()));
        let runs = runs(&*image.disk());
        assert!(runs.contains(&("packed", 65536)), "{kind:?}");
        let plain: u64 = runs
            .iter()
            .filter(|run| run.0 == "data")
            .map(|run| run.1)
            .sum();
        assert_eq!(plain, 1 << 20, "{kind:?}");
        assert!(read_all(&*image.disk(), 1 << 20) == disk, "{kind:?}");
    }
}

#[test]
fn an_empty_image_of_64_tib_is_small_and_faultless() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let spec = TargetSpec::new(Format::Qcow2, 64 << 40, "big.qcow2").unwrap();
    let storage = Arc::new(File::create_new(folder.join("big.qcow2")).unwrap());
    let target = create(&spec, storage, &OneFile).unwrap();
    target
        .put((64 << 40) - 65536, Payload::Plain(&noise(1, 65536)))
        .unwrap();
    let written = target.publish().unwrap();
    assert!(written.file_bytes < 2 << 20, "{written:?}");
    assert_faultless(folder, "big.qcow2", "64 TiB");
    let image = Image::open(folder.join("big.qcow2"), None, &SameFolder).unwrap();
    assert_eq!(
        runs(&*image.disk()),
        [("zero", (64 << 40) - 65536), ("data", 65536)]
    );
}

#[test]
fn empty_disks_are_images_too() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for size in [0u64, 512, 1 << 30] {
        let name = format!("empty-{size}.qcow2");
        write(&folder.join(&name), &spec(size, 65536, None), &[], 65536);
        assert_faultless(folder, &name, &name);
        let image = Image::open(folder.join(&name), None, &SameFolder).unwrap();
        assert_eq!(image.size(), size);
    }
}

#[test]
fn tables_that_do_not_fit_in_memory_go_to_the_file_and_come_back() {
    if !have(&["qemu-img"]) {
        return;
    }
    // An L2 table of 4 KiB clusters maps 2 MiB; 8192 of them are kept in memory.
    const SPAN: u64 = 2 << 20;
    const TABLES: u64 = 8192 + 300;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("spilled.qcow2");
    let storage = Arc::new(File::create_new(&path).unwrap());
    let target = create(&spec(TABLES * SPAN, 4096, None), storage, &OneFile).unwrap();
    let content = |table: u64, cluster: u64| [(table % 251) as u8 + 1, cluster as u8].repeat(2048);
    let put = |table: u64, cluster: u64| {
        let bytes = content(table, cluster);
        target
            .put(table * SPAN + cluster * 4096, Payload::Plain(&bytes))
            .unwrap();
    };
    (0..TABLES).for_each(|table| put(table, 5));
    (0..100).for_each(|table| put(table, 9));
    target.publish().unwrap();

    assert_faultless(folder, "spilled.qcow2", "spilled");
    let image = Image::open(&path, None, &SameFolder).unwrap();
    let disk = image.disk();
    for table in (0..TABLES).step_by(37).chain(90..110) {
        let mut bytes = vec![0; 4096];
        disk.read_at(&mut bytes, table * SPAN + 5 * 4096).unwrap();
        assert!(bytes == content(table, 5), "table {table}");
        disk.read_at(&mut bytes, table * SPAN + 9 * 4096).unwrap();
        let expected = if table < 100 {
            content(table, 9)
        } else {
            vec![0; 4096]
        };
        assert!(bytes == expected, "table {table}");
    }
}

#[test]
fn until_it_is_published_the_file_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("killed.qcow2");
    // As a device that holds an older image.
    let disk = patchwork(1 << 20);
    write(&path, &spec(1 << 20, 65536, None), &disk, 65536);
    let storage = Arc::new(File::open_mut(&path).unwrap());
    let target = create(&spec(1 << 20, 65536, None), storage, &OneFile).unwrap();
    for (index, part) in disk.chunks(65536).enumerate() {
        target
            .put(index as u64 * 65536, Payload::Plain(part))
            .unwrap();
    }
    drop(target);
    let error = Image::open(&path, Some(Format::Qcow2), &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    if have(&["qemu-img"]) {
        let info = try_run(
            folder.path(),
            "qemu-img",
            &["info", "-f", "qcow2", "killed.qcow2"],
        );
        assert!(!info.status.success());
    }
}

#[test]
fn a_write_that_fails_leaves_no_image_wherever_it_happens() {
    let disk = patchwork(400_000);
    let mut published = false;
    for writes in 0..100 {
        let storage = Arc::new(Faulty::after(Memory::new("full.qcow2", Vec::new()), writes));
        let Ok(target) = create(
            &spec(400_000, 4096, None),
            Arc::<Faulty<_>>::clone(&storage),
            &OneFile,
        ) else {
            continue;
        };
        let mut failed = false;
        for (index, part) in disk.chunks(65536).enumerate() {
            let put = target.put(index as u64 * 65536, Payload::Plain(part));
            failed |= put.is_err();
        }
        let outcome = target.publish();
        assert!(
            !(failed && outcome.is_ok()),
            "published after a failed write"
        );
        if outcome.is_ok() {
            published = true;
            break;
        }
        let bytes: Arc<dyn Storage> = Arc::new(Memory::new("full.qcow2", storage.inner().to_vec()));
        assert_ne!(
            Format::sniff(&*bytes).unwrap(),
            Format::Qcow2,
            "after {writes} writes"
        );
    }
    assert!(published, "with enough writes it must succeed");
}

#[test]
fn payloads_that_are_not_whole_units_or_come_twice_are_refused() {
    let disk = noise(1, 200_000);
    let target = |compression| {
        let storage: Arc<dyn StorageMut> = Arc::new(Memory::new("odd.qcow2", Vec::new()));
        create(&spec(200_000, 65536, compression), storage, &OneFile).unwrap()
    };
    for (offset, len) in [
        (0, 1000),
        (100, 65536),
        (131_072, 65536),
        (196_608, 65536),
        (1 << 40, 65536),
    ] {
        let target = target(None);
        let put = target.put(offset, Payload::Plain(&disk[..len]));
        let expected = (offset, len) == (131_072, 65536);
        assert_eq!(put.is_ok(), expected, "{len} bytes at {offset}");
        assert_eq!(target.publish().is_ok(), expected);
    }
    for compression in [None, Some(Compression::Zstd(1))] {
        let target = target(compression);
        let payload = || target.pack(0, &disk[..65536]).unwrap();
        target.put(0, payload()).unwrap();
        assert!(target.put(0, payload()).is_err());
    }
}

#[test]
fn specifications_that_make_no_sense_are_usage_errors() {
    let storage = || Arc::new(Memory::new("odd.qcow2", Vec::new()));
    for spec in [
        spec(1 << 20, 0, None),
        spec(1 << 20, 256, None),
        spec(1 << 20, 65537, None),
        spec(1 << 20, 4 << 20, None),
        spec(1 << 50, 512, None),
        spec(1 << 20, 65536, Some(Compression::Zlib(0))),
        spec(1 << 20, 65536, Some(Compression::Zstd(99))),
    ] {
        let error = create(&spec, storage(), &OneFile).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{spec:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_pattern_of_puts_reads_back_as_a_plain_array_would(
        cluster_bits in 9u32..=16,
        tail in 0usize..512,
        compression in prop_oneof![
            Just(None), Just(Some(Compression::Zlib(1))), Just(Some(Compression::Zstd(1)))
        ],
        puts in prop::collection::vec((0usize..48, 1usize..9, 0u8..4), 0..20),
    ) {
        let unit = 1usize << cluster_bits;
        let size = 47 * unit + tail.max(1);
        let mut expected = vec![0u8; size];
        let mut taken = [false; 48];
        let storage = Arc::new(Memory::new("any.qcow2", Vec::new()));
        let spec = spec(size as u64, unit as u32, compression);
        let target = create(&spec, Arc::<Memory>::clone(&storage), &OneFile).unwrap();
        for (seed, (first, count, kind)) in puts.into_iter().enumerate() {
            let end = (first + count).min(48);
            if taken[first..end].contains(&true) {
                continue;
            }
            taken[first..end].fill(true);
            let range = first * unit..(end * unit).min(size);
            let bytes = match kind {
                0 => vec![0; range.len()],
                1 => noise(seed as u64, range.len()),
                2 => text(seed as u64, range.len()),
                _ => patchwork(range.len()),
            };
            expected[range.clone()].copy_from_slice(&bytes);
            let offset = range.start as u64;
            let payload = target.pack(offset, &bytes).unwrap();
            target.put(offset, payload).unwrap();
        }
        target.publish().unwrap();
        let image = Image::from_storage("any.qcow2".into(), Arc::<Memory>::clone(&storage), None, &SameFolder)
            .unwrap();
        // A last sector that is not whole is filled up with zeroes.
        expected.resize(size.next_multiple_of(512), 0);
        prop_assert!(read_all(&*image.disk(), 10_007) == expected);

        if have(&["qemu-img"]) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("any.qcow2"), storage.to_vec()).unwrap();
            assert_faultless(folder.path(), "any.qcow2", "any pattern");
            prop_assert!(qemu_content(folder.path(), "any.qcow2") == expected);
        }
    }
}
