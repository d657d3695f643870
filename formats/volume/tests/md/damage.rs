//! Members that fell behind, arrays that cannot be relied upon, superblocks that lie.

use proptest::prelude::*;
use rehost_block::{Disk as _, Kind};
use rehost_volume::md::Member;

use crate::built::{HEALTHY, Own, array, contents, disk};
use crate::{CASES, images};

#[test]
fn members_that_fell_behind_are_named_and_not_read() {
    let (plain, mut all) = images(&CASES[5], "1.2", HEALTHY);
    let stale = Own {
        events: 7,
        ..HEALTHY
    };
    all[2] = images(&CASES[5], "1.2", stale).1[2].clone();
    all[2][1 << 20..].fill(0);
    let found = array(&all);
    assert!(
        found.damage[0].contains("slot 2 is out of date (event 7"),
        "{:?}",
        found.damage
    );
    assert!(contents(&found) == plain);
    let rebuilding = Own {
        features: 2,
        recovery: 8,
        ..HEALTHY
    };
    all[2] = images(&CASES[5], "1.2", rebuilding).1[2].clone();
    assert!(array(&all).damage[0].contains("being rebuilt"));
    let one_behind = Own {
        events: 8,
        ..HEALTHY
    };
    all[2] = images(&CASES[5], "1.2", one_behind).1[2].clone();
    assert!(array(&all).damage.is_empty());
}

#[test]
fn what_cannot_be_relied_upon_is_refused_by_name() {
    let dirty = Own {
        resync: 0,
        ..HEALTHY
    };
    let (plain, all) = images(&CASES[5], "1.2", dirty);
    assert!(contents(&array(&all)) == plain);
    let error = array(&all[1..]).disk.unwrap_err();
    assert!(error.to_string().contains("not in sync"), "{error}");
    for (features, said) in [(4, "being reshaped"), (0x200, "write journal")] {
        let (_, all) = images(
            &CASES[5],
            "1.2",
            Own {
                features,
                ..HEALTHY
            },
        );
        let error = array(&all).disk.unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (Kind::Unsupported, Some(4096))
        );
        assert!(error.to_string().contains(said), "{error}");
    }
    let (_, all) = images(
        &CASES[5],
        "1.2",
        Own {
            features: 0x8000,
            ..HEALTHY
        },
    );
    let error = Member::read(&disk(all[0].clone())).unwrap_err();
    assert_eq!(
        (error.kind(), error.offset()),
        (Kind::Unsupported, Some(4104))
    );
    let mut broken = images(&CASES[5], "1.2", HEALTHY).1.remove(0);
    broken[4096 + 92] ^= 1;
    let error = Member::read(&disk(broken)).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Corrupt, Some(4312)));
    let mut short = all_but_the_end(images(&CASES[5], "1.2", HEALTHY).1);
    assert!(array(&short).damage[0].contains("slot 0 ends before its data"));
    short.remove(1);
    assert_eq!(array(&short).disk.unwrap_err().kind(), Kind::Usage);
}

fn all_but_the_end(mut all: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let len = all[0].len();
    all[0].truncate(len - 512);
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_flipped_superblock_panics(at in 0usize..264, bit in 0u8..8, nth in 0..CASES.len()) {
        let (_, mut all) = images(&CASES[nth], "1.2", HEALTHY);
        let image = &mut all[0];
        image[4096 + at] ^= 1 << bit;
        // With the checksum mended the field itself must be refused or lived with.
        let old = u32::from_le_bytes(image[4312..4316].try_into().unwrap());
        let delta = u32::from(1u8 << bit) << (at % 4 * 8);
        let up = image[4096 + at] & 1 << bit != 0;
        let sum = if up { old.wrapping_add(delta) } else { old.wrapping_sub(delta) };
        image[4312..4316].copy_from_slice(&sum.to_le_bytes());
        if let Ok(Some(member)) = Member::read(&disk(image.clone()))
            && let Ok(disk) = &rehost_volume::md::assemble(&[member])[0].disk
        {
            let mut bytes = [0; 16];
            let _ = disk.read_at(&mut bytes, disk.size() / 2);
        }
    }
}
