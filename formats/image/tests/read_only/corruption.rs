//! One field changed, one error that names it; and no change at all that makes a reader panic.

use proptest::prelude::*;
use rehost_block::{Kind, Result};
use rehost_image::Format;

use crate::made::{self, CLUSTER, MAGICS};
use crate::support::{open_bytes, read_start};

fn read(name: &str, bytes: Vec<u8>) -> Result<()> {
    let format: Format = name.parse().unwrap();
    read_start(&open_bytes("disk", bytes, Some(format))?, 4 << 20)
}

type Case<'a> = (&'a str, Kind, usize, &'a [u8]);

fn assert_named(name: &str, whole: &[u8], cases: &[Case<'_>]) {
    read(name, whole.to_vec()).unwrap();
    for (named, kind, at, value) in cases {
        let mut bytes = whole.to_vec();
        bytes[*at..at + value.len()].copy_from_slice(value);
        let error = read(name, bytes).unwrap_err();
        assert_eq!(error.kind(), *kind, "{named}: {error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn each_damaged_field_of_a_qed_is_named() {
    use Kind::{Corrupt, Unsupported};
    let l2 = made::QED_L2;
    let cases: [Case<'_>; 16] = [
        ("the magic is missing", Corrupt, 0, b"x"),
        ("cluster_size is out of range", Corrupt, 4, &[1]),
        ("cluster_size is out of range", Corrupt, 4, &[0; 4]),
        ("table_size is out of range", Corrupt, 8, &[3]),
        ("header_size is wrong", Corrupt, 12, &[0]),
        ("feature bit 4", Unsupported, 16, &[16]),
        (
            "backing file name has an impossible length",
            Corrupt,
            16,
            &[1],
        ),
        ("L1 table lies outside", Corrupt, 40, &[1]),
        ("L1 table lies outside", Corrupt, 44, &[1]),
        ("image_size is wrong", Corrupt, 48, &[1]),
        ("image_size is wrong", Corrupt, 55, &[1]),
        ("L2 table lies outside", Corrupt, CLUSTER, &[1]),
        ("L2 table lies outside", Corrupt, CLUSTER + 4, &[1]),
        ("cluster lies over the header", Corrupt, l2 + 8, &[2, 0]),
        ("cluster lies over the header", Corrupt, l2 + 8, &[0, 0x31]),
        ("cluster lies past the end", Corrupt, l2 + 8, &[0, 0x70]),
    ];
    assert_named("qed", &made::qed(), &cases);
}

#[test]
fn a_qed_that_was_not_closed_is_checked_when_it_is_opened() {
    let mut torn = made::qed();
    torn[16] = 2;
    let open = |bytes: &[u8]| open_bytes("disk.qed", bytes.to_vec(), None);
    let image = open(&torn).unwrap();
    let told = serde_json::to_value(image.layers()).unwrap();
    assert_eq!(told[0]["details"]["need_check"], true);
    let l2 = made::QED_L2;
    for (at, value, named) in [
        (l2 + 25, 0x50u8, "cluster is in use already"),
        (l2 + 33, 0x70, "cluster lies past the end"),
        (l2 + 33, 0x10, "cluster is in use already"),
        (CLUSTER + 1, 0x10, "L2 table lies in clusters in use"),
    ] {
        let mut bytes = torn.clone();
        bytes[at] = value;
        let error = open(&bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
}

#[test]
fn each_damaged_field_of_a_qcow_is_named() {
    use Kind::{Corrupt, Unsupported};
    let cases: [Case<'_>; 13] = [
        ("the magic is missing", Corrupt, 0, b"x"),
        ("is not version 1", Unsupported, 7, &[2]),
        (
            "past the end of the file",
            Corrupt,
            8,
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ),
        (
            "name is too long",
            Corrupt,
            8,
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        ),
        ("cluster_bits is out of range", Corrupt, 32, &[8]),
        ("cluster_bits is out of range", Corrupt, 32, &[17]),
        ("l2_bits is out of range", Corrupt, 33, &[14]),
        ("AES", Unsupported, 39, &[1]),
        ("encryption method is unknown", Unsupported, 39, &[2]),
        ("L1 table lies outside", Corrupt, 40, &[0xff]),
        ("L1 table lies outside", Corrupt, 24, &[0xff]),
        ("not aligned", Corrupt, CLUSTER + 15, &[1]),
        ("cluster lies past the end", Corrupt, CLUSTER + 8, &[0x0f]),
    ];
    assert_named("qcow", &made::qcow(), &cases);
    // A compressed cluster: bit 63, then twelve bits of length, then the place.
    let compressed: [Case<'_>; 3] = [
        ("past the end", Corrupt, CLUSTER + 8, &[0x80, 0x01, 0xff]),
        ("past the end", Corrupt, CLUSTER + 8, &[0x80, 0, 0]),
        ("deflate", Corrupt, CLUSTER + 8, &[0x80, 0x10]),
    ];
    assert_named("qcow", &made::qcow(), &compressed);
}

#[test]
fn each_damaged_field_of_a_parallels_image_is_named() {
    use Kind::{Corrupt, Unsupported};
    let both: [Case<'_>; 13] = [
        ("the magic is missing", Corrupt, 0, b"x"),
        ("version is not read", Unsupported, 16, &[3]),
        ("tracks (cluster size) is wrong", Corrupt, 28, &[0; 4]),
        ("BAT is too short", Corrupt, 32, &[8]),
        ("BAT is too short", Corrupt, 36, &[0xff, 0xff]),
        ("in_use is wrong", Corrupt, 44, &[1]),
        ("data lies over the BAT", Corrupt, 28, &[0; 0]),
        ("is marked as empty", Corrupt, 52, &[1]),
        ("extension lies past the end", Corrupt, 57, &[1]),
        ("magic is missing", Corrupt, 56, &[8]),
        ("cluster lies past the end", Corrupt, 64 + 6, &[1]),
        ("cluster lies before the data", Corrupt, 48, &[16]),
        ("cluster lies past the end", Corrupt, 64 + 4, &[0xff]),
    ];
    for magic in MAGICS {
        let cases: Vec<_> = both
            .iter()
            .filter(|(_, _, _, value)| !value.is_empty())
            .copied()
            .collect();
        assert_named("parallels", &made::parallels(magic), &cases);
    }
    assert_named(
        "parallels",
        &made::parallels(MAGICS[1]),
        &[
            ("data_off is wrong", Corrupt, 48, &[0]),
            ("data_off is wrong", Corrupt, 48, &[9]),
        ],
    );
}

#[test]
fn a_parallels_image_that_was_not_closed_is_checked_when_it_is_opened() {
    for magic in MAGICS {
        let mut torn = made::parallels(magic);
        torn[44..48].copy_from_slice(&0x746f_6e59u32.to_le_bytes());
        let open = |bytes: &[u8]| open_bytes("disk.hds", bytes.to_vec(), None);
        let image = open(&torn).unwrap();
        let told = serde_json::to_value(image.layers()).unwrap();
        assert_eq!(told[0]["details"]["in_use"], true);
        for (from, named) in [(68, "cluster is in use already"), (28, "past the end")] {
            let mut bytes = torn.clone();
            bytes.copy_within(from..from + 4, 64);
            if from == 28 {
                bytes[64..68].copy_from_slice(&1000u32.to_le_bytes());
            }
            let error = open(&bytes).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains(named), "{named}: {error}");
        }
    }
}

#[test]
fn a_truncated_image_is_an_error_where_it_ends() {
    for (name, whole) in made::all() {
        for len in [
            0,
            15,
            40,
            63,
            3000,
            CLUSTER + 8,
            whole.len() - 4096,
            whole.len() - 1,
        ] {
            let error = read(name, whole[..len].to_vec()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{name} {len}: {error}");
        }
    }
}

#[test]
fn tables_for_more_than_memory_are_refused_before_they_are_read() {
    let mut bytes = made::parallels(MAGICS[1]);
    bytes[32..36].fill(0xff);
    bytes[36..44].copy_from_slice(&(1u64 << 34).to_le_bytes());
    let error = read("parallels", bytes).unwrap_err();
    assert!(error.to_string().contains("BAT is too long"), "{error}");
    // A QED may claim a disk of 2^60 bytes: nothing is read of its tables but what is asked for.
    let mut bytes = made::qed();
    bytes[48..56].copy_from_slice(&(1u64 << 29).to_le_bytes());
    let image = open_bytes("disk.qed", bytes, None).unwrap();
    assert_eq!(image.size(), 1 << 29);
    assert_eq!(crate::support::runs(&*image.disk()).len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_damage_makes_a_reader_panic(
        which in 0usize..4,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (name, mut bytes) = made::all().swap_remove(which);
        // Where the structures are: the header, the first entries of each table.
        let places: Vec<usize> = (0..120)
            .chain(CLUSTER..CLUSTER + 64)
            .chain(2 * CLUSTER..2 * CLUSTER + 64)
            .chain(made::QED_L2..made::QED_L2 + 64)
            .collect();
        for (place, byte) in flips {
            if let Some(at) = bytes.get_mut(*place.get(&places)) {
                *at = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Err(error) = read(name, bytes) {
            prop_assert!(error.kind() != Kind::Internal, "{}", error);
        }
    }
}
