//! Arrays of every level and layout against the tables that document them, complete, degraded and
//! damaged; superblocks judged by `mdadm --examine` where it is.

#![allow(clippy::unwrap_used, clippy::panic)]

mod built;
mod damage;
mod writing;

use std::process::Command;

use proptest::prelude::*;
use rehost_block::{Disk as _, Kind, Run};
use rehost_volume::md::Member;

use built::{CHUNK, HEALTHY, Made, Own, array, chunk, contents, disk, lay_out, member};

/// Level, layout number, the table, and how many members any array of it can lose.
type Case = (i32, u32, &'static [&'static str], usize);

const CASES: &[Case] = &[
    (0, 0, &["0 1 2"], 0),
    (1, 0, &["0 0 0"], 2),
    (4, 0, &["0 1 2 P"], 1),
    (5, 0, &["0 1 2 P", "3 4 P 5", "6 P 7 8", "P 9 10 11"], 1),
    (5, 1, &["P 0 1 2", "3 P 4 5", "6 7 P 8", "9 10 11 P"], 1),
    (5, 2, &["0 1 2 P", "4 5 P 3", "8 P 6 7", "P 9 10 11"], 1),
    (5, 3, &["P 0 1 2", "5 P 3 4", "7 8 P 6", "9 10 11 P"], 1),
    (5, 4, &["P 0 1 2"], 1),
    (5, 5, &["0 1 2 P"], 1),
    (
        6,
        0,
        &[
            "Q 0 1 2 P",
            "3 4 5 P Q",
            "6 7 P Q 8",
            "9 P Q 10 11",
            "P Q 12 13 14",
        ],
        2,
    ),
    (
        6,
        1,
        &[
            "P Q 0 1 2",
            "3 P Q 4 5",
            "6 7 P Q 8",
            "9 10 11 P Q",
            "Q 12 13 14 P",
        ],
        2,
    ),
    (
        6,
        2,
        &[
            "Q 0 1 2 P",
            "3 4 5 P Q",
            "7 8 P Q 6",
            "11 P Q 9 10",
            "P Q 12 13 14",
        ],
        2,
    ),
    (
        6,
        3,
        &[
            "P Q 0 1 2",
            "5 P Q 3 4",
            "7 8 P Q 6",
            "9 10 11 P Q",
            "Q 12 13 14 P",
        ],
        2,
    ),
    (6, 4, &["P Q 0 1 2"], 2),
    (6, 5, &["0 1 2 P Q"], 2),
    (6, 16, &["0 1 P Q", "2 P 3 Q", "P 4 5 Q"], 2),
    (6, 18, &["0 1 P Q", "3 P 2 Q", "P 4 5 Q"], 2),
    (10, 0x102, &["0 0 1 1"], 1),
    (10, 0x102, &["0 0 1", "1 2 2"], 1),
    (10, 0x103, &["0 0 0 1", "1 1 2 2", "2 3 3 3"], 2),
    (10, 0x1_0201, &["0 1 2 3", "3 0 1 2"], 1),
    (10, 0x5_0201, &["0 1 2 3", "1 0 3 2"], 1),
];

fn images(case: &Case, version: &'static str, own: Own) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (plain, data) = lay_out(case.2);
    let made = Made {
        version,
        level: case.0,
        layout: case.1,
        members: data.len(),
    };
    let all = (0..)
        .zip(&data)
        .map(|(slot, data)| member(made, slot, data, own))
        .collect();
    (plain, all)
}

#[test]
fn every_layout_reads_as_its_table_says_complete_and_degraded() {
    for case in CASES {
        let (plain, all) = images(case, "1.2", HEALTHY);
        let whole = array(&all);
        assert!(whole.damage.is_empty(), "{case:?}: {:?}", whole.damage);
        assert!(contents(&whole) == plain, "{case:?}");
        for gone in 0..all.len() {
            for second in 0..all.len() {
                let lost = if gone == second { 1 } else { 2 };
                let left: Vec<_> = (0..)
                    .zip(&all)
                    .filter(|(slot, _)| *slot != gone && *slot != second)
                    .map(|(_, image): (usize, _)| image.clone())
                    .collect();
                let array = array(&left);
                assert_eq!(array.damage.len(), lost, "{case:?}");
                match &array.disk {
                    Ok(_) => assert!(contents(&array) == plain, "{case:?} {gone} {second}"),
                    Err(error) => {
                        assert!(lost > case.3, "{case:?} {gone} {second}: {error}");
                        assert_eq!(error.kind(), Kind::Usage);
                        assert!(error.to_string().contains("not there"), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn far_copies_begin_half_way_down_each_member() {
    let (first, second) = (lay_out(&["0 1 2"]), lay_out(&["2 0 1"]));
    let data: Vec<Vec<u8>> = (0..3)
        .map(|slot| [first.1[slot].clone(), second.1[slot].clone()].concat())
        .collect();
    let made = Made {
        version: "1.2",
        level: 10,
        layout: 0x201,
        members: 3,
    };
    let all: Vec<_> = (0..3)
        .map(|slot| member(made, slot, &data[slot], HEALTHY))
        .collect();
    assert!(contents(&array(&all)) == first.0);
    for gone in 0..3 {
        let mut left = all.clone();
        left.remove(gone);
        assert!(contents(&array(&left)) == first.0, "{gone}");
    }
}

#[test]
fn superblocks_of_every_version_are_found_where_they_are() {
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        let (plain, all) = images(&CASES[5], version, HEALTHY);
        let found = Member::read(&disk(all[0].clone())).unwrap().unwrap();
        assert_eq!(found.version(), version);
        let array = array(&all);
        assert_eq!((array.level.as_str(), array.slots), ("raid5", 4));
        assert!(contents(&array) == plain, "{version}");
    }
}

#[test]
fn mdadm_reads_the_superblocks_of_these_tests() {
    for (version, said) in [
        ("0.90", "0.90.00"),
        ("1.0", "1.0"),
        ("1.1", "1.1"),
        ("1.2", "1.2"),
    ] {
        let (_, all) = images(&CASES[5], version, HEALTHY);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &all[1]).unwrap();
        let Ok(out) = Command::new("mdadm")
            .arg("--examine")
            .arg(file.path())
            .output()
        else {
            println!("skipped: needs mdadm");
            return;
        };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let has = |name: &str, value: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(name));
            assert!(
                line.is_some_and(|line| line.contains(value)),
                "{name} {value}: {text}"
            );
        };
        has("Version", said);
        has("Raid Level", "raid5");
        has("Layout", "left-symmetric");
        has("Raid Devices", "4");
        has("Checksum", "correct");
    }
}

#[test]
fn a_member_made_by_mdadm_is_read_as_blkid_reads_it() {
    let corpora = std::env::var_os("REHOST_CORPORA").map(std::path::PathBuf::from);
    let image = corpora
        .map(|root| root.join("util-linux-blkid/tests/ts/blkid/images-fs/mdraid.img.xz"))
        .filter(|image| image.exists());
    let Some(image) = image else {
        println!("skipped: needs REHOST_CORPORA");
        return;
    };
    let out = Command::new("xz").arg("-dc").arg(image).output().unwrap();
    let member = Member::read(&disk(out.stdout)).unwrap().unwrap();
    assert_eq!(member.version(), "0.90");
    assert_eq!(member.uuid(), "37c76b91-011a-05c5-d30c-1fd4c5c3dbbc");
}

#[test]
fn complete_arrays_map_to_their_members_and_lost_chunks_to_a_reconstruction() {
    let (_, all) = images(&CASES[5], "1.2", HEALTHY);
    let disk = array(&all).disk.unwrap();
    let found = disk.locate(3 * CHUNK as u64 + 100, 1 << 20).unwrap();
    assert_eq!(found.len, CHUNK as u64 - 100);
    assert!(
        matches!(found.run, Run::At { offset, .. } if offset == (1 << 20) + CHUNK as u64 + 100)
    );
    let disk = array(&all[1..]).disk.unwrap();
    let Run::At { storage, offset } = disk.locate(100, 50).unwrap().run else {
        panic!("no run");
    };
    let mut bytes = [0; 50];
    storage.read_at(&mut bytes, offset).unwrap();
    assert_eq!(bytes[..], chunk(0)[100..150]);
}

#[test]
fn a_raid0_of_unequal_members_goes_on_over_the_longer_ones() {
    // One row of three, one of two, one of one. The original layout counts the chunks of the
    // second zone from the start of the array, which is odd there.
    for (layout, rest) in [(2, [3, 4]), (1, [4, 3])] {
        let chunks = [vec![0], vec![1, rest[0], 5], vec![2, rest[1]]];
        let data: Vec<Vec<u8>> = chunks
            .into_iter()
            .map(|chunks| chunks.into_iter().flat_map(chunk).collect())
            .collect();
        let all: Vec<_> = (0..3)
            .map(|slot| {
                let made = Made {
                    version: "1.2",
                    level: 0,
                    layout,
                    members: 3,
                };
                member(
                    made,
                    slot,
                    &data[slot],
                    Own {
                        features: 0x1000,
                        ..HEALTHY
                    },
                )
            })
            .collect();
        let plain: Vec<u8> = (0..6).flat_map(chunk).collect();
        assert!(contents(&array(&all)) == plain, "{layout}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_of_a_degraded_array_reads_as_the_plain_bytes(
        nth in 0..CASES.len(), gone in 0usize..5, at in 0usize..400_000, len in 1usize..70_000,
    ) {
        let case = &CASES[nth];
        let (plain, mut all) = images(case, "1.2", HEALTHY);
        if case.3 > 0 {
            all.remove(gone % all.len());
        }
        let disk = array(&all).disk.unwrap();
        let at = at % plain.len();
        let len = len.min(plain.len() - at);
        let mut bytes = vec![0; len];
        disk.read_at(&mut bytes, at as u64).unwrap();
        prop_assert!(bytes == plain[at..at + len]);
    }
}
