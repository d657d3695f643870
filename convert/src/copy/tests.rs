//! Unit tests of the copy engine: patchwork disks copied to targets in memory and read back.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use proptest::prelude::*;
use rehost_block::doubles::Faulty;
use rehost_block::{Codec, Located, Memory, Packed, Run, SameFolder, Storage};
use rehost_image::{Format, Image, OneFile, TargetSpec, create};

use super::*;

/// A codec that repeats its one packed byte, and counts.
#[derive(Debug, Default)]
struct Repeat {
    decoded: AtomicUsize,
}

impl Codec for Repeat {
    fn name(&self) -> &'static str {
        "repeat"
    }

    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        assert_ne!(packed[0], 99, "a byte that makes this codec panic");
        self.decoded.fetch_add(1, Ordering::SeqCst);
        plain.fill(packed[0]);
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Patch {
    Zero(u64),
    Data(u64, u8),
    Packed(u64, u8),
}

/// A disk of patches in a row.
#[derive(Debug)]
struct Patchwork {
    patches: Vec<(u64, Patch)>,
    size: u64,
    storage: Arc<dyn Storage>,
    codec: Arc<Repeat>,
}

impl Patchwork {
    fn new(patches: Vec<Patch>) -> Self {
        let mut bytes = Vec::new();
        let mut placed = Vec::new();
        let mut size = 0;
        for patch in patches {
            placed.push((size, patch.clone()));
            let (len, byte) = match patch {
                Patch::Zero(len) => (len, 0),
                Patch::Data(len, byte) | Patch::Packed(len, byte) => (len, byte),
            };
            // Stored at its own guest offset, so that no table is needed.
            bytes.resize((size + len) as usize, byte);
            size += len;
        }
        Self {
            patches: placed,
            size,
            storage: Arc::new(Memory::new("patchwork", bytes)),
            codec: Arc::default(),
        }
    }
}

impl Disk for Patchwork {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let Some((start, patch)) = self.patches.iter().rfind(|(start, _)| *start <= offset) else {
            return Ok(Located::new(Run::End, 0));
        };
        let within = offset - start;
        let (run, len) = match patch {
            Patch::Zero(len) => (Run::Zero, *len),
            Patch::Data(len, _) => (
                Run::At {
                    storage: Arc::clone(&self.storage),
                    offset,
                },
                *len,
            ),
            Patch::Packed(len, _) => (
                Run::Packed(Packed {
                    storage: Arc::clone(&self.storage),
                    offset: *start,
                    len: 1,
                    codec: self.codec.clone(),
                    unit: NonZeroU64::new(*len).unwrap(),
                    skip: within,
                }),
                *len,
            ),
        };
        Ok(Located::new(run, (len - within).min(want)))
    }
}

fn spec(kind: usize, size: u64) -> TargetSpec {
    let format = [Format::Raw, Format::Vmdk, Format::Vmdk][kind];
    let mut spec = TargetSpec::new(format, size, "copy.img").unwrap();
    if kind == 2 {
        spec.options.parse("subformat=streamOptimized").unwrap();
    }
    spec
}

fn threads(count: usize) -> CopyOptions<'static> {
    CopyOptions {
        threads: NonZeroUsize::new(count).unwrap(),
        ..CopyOptions::default()
    }
}

fn read_back(memory: &Memory, format: Format) -> Image {
    let copy = Arc::new(Memory::new("copy.img", memory.to_vec()));
    Image::from_storage(PathBuf::from("copy.img"), copy, Some(format), &SameFolder).unwrap()
}

fn patch() -> impl Strategy<Value = Patch> {
    let len = prop_oneof![
        1u64..9000,
        Just(65_536u64),
        Just(4096),
        60_000u64..300_000,
        Just(1 << 20),
        Just(3 << 20),
    ];
    (len, 0u8..4, 0..3).prop_map(|(len, byte, kind)| match kind {
        0 => Patch::Zero(len),
        1 => Patch::Data(len, byte),
        _ => Patch::Packed(len, byte),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_disk_reads_the_same_from_any_target(
        patches in prop::collection::vec(patch(), 1..24),
        kind in 0usize..3,
        count in 1usize..5,
    ) {
        let disk = Patchwork::new(patches);
        let memory = Arc::new(Memory::new("copy.img", Vec::new()));
        let spec = spec(kind, disk.size);
        let target = create(&spec, memory.clone(), &OneFile).unwrap();
        let copied = copy(&disk, &*target, &threads(count)).unwrap();
        prop_assert_eq!(copied.data + copied.zero + copied.hole, disk.size);
        target.publish().unwrap();

        let image = read_back(&memory, spec.format());
        prop_assert!(image.size() - disk.size < 512);
        let mut expected = vec![1; disk.size as usize];
        disk.read_at(&mut expected, 0).unwrap();
        let mut found = vec![2; disk.size as usize];
        image.disk().read_at(&mut found, 0).unwrap();
        prop_assert!(expected == found);
        prop_assert!(compare(&disk, &*image.disk()).unwrap().same());
        let mapped: u64 = map(&disk).map(|extent| extent.unwrap().length).sum();
        prop_assert_eq!(mapped, disk.size);
    }

    #[test]
    fn the_first_difference_is_found_wherever_it_is(
        patches in prop::collection::vec(patch(), 1..12),
        place in any::<prop::sample::Index>(),
    ) {
        let disk = Patchwork::new(patches);
        let mut bytes = vec![0; disk.size as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 0x80;
        // A second difference behind it must not be the answer.
        *bytes.last_mut().unwrap() ^= 0x40;
        let other = rehost_block::StorageDisk::new(Arc::new(Memory::new("other", bytes)));
        let found = compare(&disk, &other).unwrap();
        prop_assert_eq!(found.first_difference, Some(place as u64));
        prop_assert_eq!(compare(&other, &disk).unwrap().first_difference, Some(place as u64));
    }
}

#[test]
fn sizes_that_differ_by_zeroes_are_the_same_disk() {
    let short = Patchwork::new(vec![Patch::Data(5000, 7)]);
    let padded = Patchwork::new(vec![
        Patch::Data(5000, 7),
        Patch::Zero(70),
        Patch::Data(9, 0),
    ]);
    let longer = Patchwork::new(vec![
        Patch::Data(5000, 7),
        Patch::Zero(70),
        Patch::Data(9, 1),
    ]);
    let compared = compare(&short, &padded).unwrap();
    assert!(compared.same());
    assert_eq!(compared.sizes, (5000, 5079));
    assert_eq!(
        compare(&longer, &short).unwrap().first_difference,
        Some(5070)
    );
}

#[test]
fn large_packed_units_are_decoded_once_each() {
    const UNIT: u64 = 2 << 20;
    let disk = Patchwork::new((1..9).map(|byte| Patch::Packed(UNIT, byte)).collect());
    let memory = Arc::new(Memory::new("copy.img", Vec::new()));
    let target = create(&spec(1, disk.size), memory, &OneFile).unwrap();
    let copied = copy(&disk, &*target, &threads(4)).unwrap();
    assert_eq!(copied.compressed, disk.size);
    assert_eq!(disk.codec.decoded.load(Ordering::SeqCst), 8);
}

#[test]
fn holes_are_never_read() {
    let disk = Patchwork::new(vec![Patch::Zero(64 << 20), Patch::Data(4096, 1)]);
    let memory = Arc::new(Memory::new("copy.img", Vec::new()));
    let target = create(&spec(1, disk.size), memory, &OneFile).unwrap();
    let copied = copy(&disk, &*target, &threads(2)).unwrap();
    assert_eq!(copied.hole, 64 << 20);
    assert_eq!(copied.data, 4096);
}

#[test]
fn a_full_target_ends_the_copy_and_is_no_image() {
    let disk = Patchwork::new((0..40).map(|n| Patch::Data(1 << 20, 1 + n % 3)).collect());
    for kind in 0..3 {
        for writes in [3, 10, 20] {
            let memory = Memory::new("copy.img", Vec::new());
            let full = Arc::new(Faulty::after(memory, writes));
            let target = create(&spec(kind, disk.size), full.clone(), &OneFile).unwrap();
            let error = copy(&disk, &*target, &threads(3)).unwrap_err();
            assert_eq!(error.kind(), rehost_block::Kind::Io, "{error}");
            assert!(target.publish().is_err());
            assert_unpublished(full.inner(), kind);
        }
    }
}

#[test]
fn a_disk_that_fills_up_while_it_is_published_leaves_no_image() {
    let disk = Patchwork::new(vec![Patch::Data(3 << 20, 5)]);
    for kind in 0..3 {
        // Counts the writes of a run that succeeds, then fails each of its last ones in turn.
        let total = (1..60)
            .find(|writes| {
                let full = Arc::new(Faulty::after(Memory::new("copy.img", Vec::new()), *writes));
                let Ok(target) = create(&spec(kind, disk.size), full, &OneFile) else {
                    return false;
                };
                copy(&disk, &*target, &threads(1)).is_ok() && target.publish().is_ok()
            })
            .unwrap();
        for writes in total.saturating_sub(6)..total {
            let full = Arc::new(Faulty::after(Memory::new("copy.img", Vec::new()), writes));
            let target = match create(&spec(kind, disk.size), full.clone(), &OneFile) {
                Ok(target) => target,
                Err(_) => continue,
            };
            if copy(&disk, &*target, &threads(1)).is_ok() {
                assert!(target.publish().is_err());
            }
            assert_unpublished(full.inner(), kind);
        }
    }
}

/// The file says by itself that it is not finished.
fn assert_unpublished(memory: &Memory, kind: usize) {
    let bytes = memory.to_vec();
    if kind == 0 {
        assert!(bytes.starts_with(b"rehost: this raw image is unfinished"));
        return;
    }
    assert!(!bytes.starts_with(b"KDMV"));
    let left = Arc::new(Memory::new("copy.img", bytes));
    let opened = Image::from_storage("copy.img".into(), left, Some(Format::Vmdk), &SameFolder);
    assert!(opened.is_err());
}

#[test]
fn a_set_flag_cancels() {
    let disk = Patchwork::new(vec![Patch::Data(8 << 20, 1)]);
    let memory = Arc::new(Memory::new("copy.img", Vec::new()));
    let target = create(&spec(2, disk.size), memory, &OneFile).unwrap();
    let cancel = AtomicBool::new(true);
    let options = CopyOptions {
        cancel: Some(&cancel),
        ..CopyOptions::default()
    };
    let error = copy(&disk, &*target, &options).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
}

#[test]
fn progress_reaches_the_end() {
    #[derive(Default)]
    struct Last(AtomicU64, AtomicU64);
    impl Progress for Last {
        fn advance(&self, done: u64, total: u64, data: u64) {
            assert!(done <= total);
            self.0.fetch_max(done, Ordering::SeqCst);
            self.1.fetch_max(data, Ordering::SeqCst);
        }
    }
    let disk = Patchwork::new(vec![
        Patch::Data(5 << 20, 1),
        Patch::Zero(9 << 20),
        Patch::Packed(1 << 20, 2),
    ]);
    let last = Last::default();
    let memory = Arc::new(Memory::new("copy.img", Vec::new()));
    let target = create(&spec(0, disk.size), memory, &OneFile).unwrap();
    let options = CopyOptions {
        progress: Some(&last),
        ..threads(3)
    };
    copy(&disk, &*target, &options).unwrap();
    assert_eq!(last.0.into_inner(), disk.size);
    assert_eq!(last.1.into_inner(), 6 << 20);
}

#[test]
#[should_panic]
fn a_worker_that_panics_does_not_leave_the_others_waiting() {
    let patches = (0..32).map(|n| Patch::Packed(1 << 20, if n == 5 { 99 } else { 1 }));
    let disk = Patchwork::new(patches.collect());
    let memory = Arc::new(Memory::new("copy.img", Vec::new()));
    let target = create(&spec(2, disk.size), memory, &OneFile).unwrap();
    let _ = copy(&disk, &*target, &threads(4));
}

#[test]
fn neighbours_are_mapped_as_one() {
    let disk = Patchwork::new(vec![
        Patch::Data(4096, 1),
        Patch::Data(4096, 2),
        Patch::Zero(100),
        Patch::Zero(200),
        Patch::Packed(65_536, 1),
        Patch::Packed(65_536, 1),
    ]);
    let extents: Vec<_> = map(&disk).map(|extent| extent.unwrap()).collect();
    let seen: Vec<_> = extents
        .iter()
        .map(|e| (e.start, e.length, e.kind))
        .collect();
    assert_eq!(
        seen,
        [
            (0, 8192, Kind::Data),
            (8192, 300, Kind::Zero),
            (8492, 131_072, Kind::Packed)
        ]
    );
    assert_eq!(extents[0].offset, Some(0));
    assert_eq!(extents[1].file, None);
}
