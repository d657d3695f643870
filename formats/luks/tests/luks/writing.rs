//! Writes through an unlocked volume against a plain array.

use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::doubles::Faulty;
use rehost_block::{Disk, DiskMut, Kind, Memory};
use rehost_luks::{Limits, LuksDisk, LuksDiskMut, Secret, parse};
use serde_json::json;

use crate::made::{PASSPHRASE, luks1, luks2, memory, metadata};
use crate::support::{Raw, decode_all, noise, open_mut, read_all};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write { at: usize, len: usize, seed: u64 },
    Zero { at: usize, len: usize },
}

pub(crate) fn step(size: usize) -> impl Strategy<Value = Step> {
    let len = prop_oneof![
        0..40usize,
        500..530usize,
        4000..9000usize,
        60_000..280_000usize
    ];
    (0..size, len, any::<u64>(), any::<bool>()).prop_map(move |(at, len, seed, zero)| {
        let len = len.min(size - at);
        if zero {
            Step::Zero { at, len }
        } else {
            Step::Write { at, len, seed }
        }
    })
}

/// Carries the steps out on both.
pub(crate) fn apply(disk: &dyn DiskMut, model: &mut [u8], steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Write { at, len, seed } => {
                let bytes = noise(seed, len);
                disk.write_at(&bytes, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            Step::Zero { at, len } => {
                disk.zero_at(at as u64, len as u64).unwrap();
                model[at..at + len].fill(0);
            }
        }
    }
    disk.sync().unwrap();
}

fn volumes() -> impl Strategy<Value = Vec<u8>> {
    let luks2 = |sector: u32, encryption: &'static str| {
        let mut metadata = metadata();
        metadata["segments"]["0"]["sector_size"] = json!(sector);
        metadata["segments"]["0"]["encryption"] = json!(encryption);
        luks2(&metadata)
    };
    prop_oneof![
        Just(luks1()),
        Just(luks2(512, "aes-xts-plain64")),
        Just(luks2(4096, "aes-xts-plain64")),
        Just(luks2(2048, "serpent-xts-plain")),
        Just(luks2(1024, "twofish-xts-plain64be")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn random_writes_read_back(
        volume in volumes(),
        steps in proptest::collection::vec(step(crate::made::DATA), 1..12),
        read in 1..70_000usize,
    ) {
        let memory = memory(volume);
        let secret = Secret::passphrase(PASSPHRASE);
        let before = memory.to_vec();
        let disk = open_mut(&memory, &secret);
        let mut model = read_all(&disk, 1 << 20);
        apply(&disk, &mut model, &steps);
        // A second reader sees the same, in whatever pieces it reads.
        let again = open_mut(&memory, &secret);
        prop_assert!(read_all(&again, read.max(700)) == model);
        prop_assert!(decode_all(&again) == model);
        let after = memory.to_vec();
        let data = after.len() - crate::made::DATA;
        prop_assert!(before[..data] == after[..data], "the header was touched");
    }
}

#[test]
fn two_halves_of_one_sector_written_at_once_are_both_kept() {
    let mut metadata = metadata();
    metadata["segments"]["0"]["sector_size"] = json!(4096);
    let disk = Arc::new(open_mut(
        &memory(luks2(&metadata)),
        &Secret::passphrase(PASSPHRASE),
    ));
    std::thread::scope(|scope| {
        for part in 0..8u8 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..50u64 {
                    let at = round % 16 * 4096 + u64::from(part) * 512;
                    disk.write_at(&[part + 1; 512], at).unwrap();
                }
            });
        }
    });
    let bytes = read_all(&*disk, 4096);
    for (number, part) in bytes[..16 * 4096].chunks(512).enumerate() {
        assert!(part == [(number % 8) as u8 + 1; 512], "part {number}");
    }
}

#[test]
fn a_range_past_the_end_is_refused_before_anything_is_written() {
    let memory = memory(luks1());
    let before = memory.to_vec();
    let disk = open_mut(&memory, &Secret::passphrase(PASSPHRASE));
    let size = disk.size();
    for (offset, len) in [(size, 1), (size - 10, 11), (u64::MAX, 1), (0, size + 1)] {
        let bytes = vec![1; usize::try_from(len).unwrap()];
        let error = disk.write_at(&bytes, offset).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert_eq!(disk.zero_at(offset, len).unwrap_err().kind(), Kind::Usage);
        let mut bytes = bytes;
        let error = disk.read_at(&mut bytes, offset).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
    assert!(memory.to_vec() == before);
}

#[test]
fn a_full_container_is_an_error_of_its_own() {
    let faulty = Arc::new(Faulty::after(Memory::new("volume", luks1()), 2));
    let header = parse(&*faulty).unwrap();
    let secret = Secret::passphrase(PASSPHRASE);
    let key = header
        .unlock(&*faulty, &secret, &Limits::default())
        .unwrap();
    let container: Arc<dyn DiskMut> = Arc::new(Raw(faulty));
    let disk: LuksDiskMut = LuksDisk::new("volume", container, &header, &key).unwrap();
    disk.write_at(&[1; 512], 0).unwrap();
    disk.write_at(&[2; 100], 10).unwrap();
    let error = disk.write_at(&[3; 100], 10).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    let mut bytes = [0; 512];
    disk.read_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[0], bytes[10], bytes[110]), (1, 2, 1));
}
