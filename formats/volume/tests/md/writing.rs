//! Arrays that are written: every member holds afterwards what the table of its layout says, and
//! the array reads the same without any member that it can do without.

use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut, Kind, Overlay};
use rehost_volume::Backing;
use rehost_volume::md::{Array, Member, assemble};

use crate::built::{CHUNK, HEALTHY, Made, Own, contents, disk, lay_out, lay_out_of, member};
use crate::{CASES, images};

/// A write or, where `fill` is zero, a range made to read as zeroes.
#[derive(Debug, Clone)]
struct Change {
    at: usize,
    len: usize,
    fill: u8,
}

impl Change {
    /// Bytes that differ from place to place.
    fn bytes(&self) -> Vec<u8> {
        let step = |nth: usize| self.fill.wrapping_add((nth / 3) as u8);
        (0..self.len).map(step).collect()
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Small ones, chunks and stripes, and long runs that hold whole stripes.
    let len = prop_oneof![1usize..600, Just(CHUNK), Just(3 * CHUNK), 1usize..100_000];
    let at = prop_oneof![0usize..800_000, (0usize..200).prop_map(|nth| nth * CHUNK)];
    let one = (at, len, any::<u8>()).prop_map(|(at, len, fill)| Change {
        at,
        len,
        fill: if fill < 80 { 0 } else { fill },
    });
    proptest::collection::vec(one, 1..12)
}

fn writable(images: &[Vec<u8>]) -> Vec<Arc<dyn DiskMut>> {
    let over =
        |image: &Vec<u8>| -> Arc<dyn DiskMut> { Arc::new(Overlay::in_memory(disk(image.clone()))) };
    images.iter().map(over).collect()
}

fn put_together<'a>(disks: impl IntoIterator<Item = &'a Arc<dyn DiskMut>>) -> Array {
    let members: Vec<Member> = disks
        .into_iter()
        .map(|disk| Member::read(disk).unwrap().unwrap())
        .collect();
    let mut arrays = assemble(&members);
    assert_eq!(arrays.len(), 1);
    arrays.remove(0)
}

fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Makes the changes to the array and to its `plain` bytes.
fn apply(writer: &dyn DiskMut, plain: &mut [u8], changes: &[Change]) {
    for change in changes {
        let at = change.at % plain.len();
        let len = change.len.min(plain.len() - at);
        let place = &mut plain[at..at + len];
        if change.fill == 0 {
            writer.zero_at(at as u64, len as u64).unwrap();
            place.fill(0);
        } else {
            place.copy_from_slice(&change.bytes()[..len]);
            writer.write_at(place, at as u64).unwrap();
        }
    }
    writer.sync().unwrap();
}

/// The array reads as `plain`, complete and without any members that it can lose.
fn reads_as(disks: &[Arc<dyn DiskMut>], plain: &[u8], losses: usize) {
    assert!(contents(&put_together(disks)) == plain);
    for first in 0..disks.len() {
        for second in 0..disks.len() {
            let lost = if first == second { 1 } else { 2 };
            if lost > losses {
                continue;
            }
            let left = (0..)
                .zip(disks)
                .filter(|(slot, _)| *slot != first && *slot != second)
                .map(|(_, disk): (usize, _)| disk);
            let array = put_together(left);
            // Some pairs of a RAID 10 hold both copies of a chunk.
            if lost < 2 || array.disk.is_ok() {
                assert!(contents(&array) == plain, "without {first} and {second}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn members_hold_what_the_table_says_after_any_writes(
        nth in 0..CASES.len(), changes in changes(),
    ) {
        let case = &CASES[nth];
        let (mut plain, before) = images(case, "1.2", HEALTHY);
        let disks = writable(&before);
        let array = put_together(&disks);
        let writer = array.disk.unwrap().writer().unwrap();
        apply(&*writer, &mut plain, &changes);
        let made = Made { version: "1.2", level: case.0, layout: case.1, members: before.len() };
        for (slot, data) in lay_out_of(case.2, &plain).into_iter().enumerate() {
            let expected = member(made, slot, &data, HEALTHY);
            prop_assert!(bytes_of(&*disks[slot]) == expected, "{case:?} slot {slot}");
        }
        reads_as(&disks, &plain, case.3);
    }

    #[test]
    fn far_copies_are_all_written(changes in changes()) {
        let (first, second) = (lay_out(&["0 1 2"]), lay_out(&["2 0 1"]));
        let made = Made { version: "1.2", level: 10, layout: 0x201, members: 3 };
        let before: Vec<_> = (0..3)
            .map(|slot| {
                let data = [first.1[slot].clone(), second.1[slot].clone()].concat();
                member(made, slot, &data, HEALTHY)
            })
            .collect();
        let disks = writable(&before);
        let mut plain = first.0;
        let writer = put_together(&disks).disk.unwrap().writer().unwrap();
        apply(&*writer, &mut plain, &changes);
        reads_as(&disks, &plain, 1);
    }
}

#[test]
fn superblocks_of_every_version_are_left_alone() {
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        let case = &CASES[5];
        let (mut plain, before) = images(case, version, HEALTHY);
        let disks = writable(&before);
        let writer = put_together(&disks).disk.unwrap().writer().unwrap();
        let all = Change {
            at: 0,
            len: plain.len(),
            fill: 200,
        };
        apply(&*writer, &mut plain, &[all]);
        let made = Made {
            version,
            level: 5,
            layout: 2,
            members: 4,
        };
        for (slot, data) in lay_out_of(CASES[5].2, &plain).into_iter().enumerate() {
            // The layout of case 5 is left-symmetric.
            assert_eq!((case.0, case.1), (5, 2));
            let expected = member(made, slot, &data, HEALTHY);
            assert!(bytes_of(&*disks[slot]) == expected, "{version} slot {slot}");
        }
    }
}

fn why(array: Array) -> (Kind, String) {
    let error = array.disk.unwrap().writer().unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn arrays_that_writing_would_harm_are_refused_by_name() {
    for nth in [1, 2, 5, 9, 17] {
        let (_, all) = images(&CASES[nth], "1.2", HEALTHY);
        let (kind, said) = why(put_together(&writable(&all[1..])));
        assert_eq!(kind, Kind::Unsupported, "{nth}");
        assert!(said.contains("slot 0 is missing"), "{said}");
        let dirty = Own {
            resync: 0,
            ..HEALTHY
        };
        let (_, all) = images(&CASES[nth], "1.2", dirty);
        let (kind, said) = why(put_together(&writable(&all)));
        assert_eq!(kind, Kind::Unsupported, "{nth}");
        assert!(said.contains("not stopped cleanly"), "{said}");
    }
    let (_, mut all) = images(&CASES[5], "1.2", HEALTHY);
    let behind = Own {
        events: 8,
        ..HEALTHY
    };
    all[2] = images(&CASES[5], "1.2", behind).1[2].clone();
    let (_, said) = why(put_together(&writable(&all)));
    assert!(said.contains("disagree about its last event"), "{said}");
    let reshaping = Own {
        features: 4,
        ..HEALTHY
    };
    let (_, all) = images(&CASES[5], "1.2", reshaping);
    let error = put_together(&writable(&all)).disk.unwrap_err();
    assert!(error.to_string().contains("being reshaped"), "{error}");
}

#[test]
fn an_array_given_for_reading_cannot_be_written() {
    let (_, all) = images(&CASES[5], "1.2", HEALTHY);
    let mut backed: Vec<Backing> = all.iter().map(|one| (&disk(one.clone())).into()).collect();
    for given in [0, 1] {
        let members: Vec<Member> = backed
            .iter()
            .map(|one| Member::read(one.clone()).unwrap().unwrap())
            .collect();
        let error = assemble(&members).remove(0).disk.unwrap().writer();
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{given}");
        assert!(error.to_string().contains("for reading only"), "{error}");
        // One member given for reading is enough.
        for (slot, disk) in writable(&all).iter().enumerate().skip(1) {
            backed[slot] = disk.into();
        }
    }
}

#[test]
fn a_write_past_the_end_changes_nothing() {
    let (plain, all) = images(&CASES[5], "1.2", HEALTHY);
    let disks = writable(&all);
    let writer = put_together(&disks).disk.unwrap().writer().unwrap();
    let end = plain.len() as u64;
    assert_eq!(
        writer.write_at(&[1; 9], end - 8).unwrap_err().kind(),
        Kind::Usage
    );
    assert_eq!(writer.zero_at(end, 1).unwrap_err().kind(), Kind::Usage);
    assert!(writer.zero_at(u64::MAX, 2).is_err());
    reads_as(&disks, &plain, 1);
}
