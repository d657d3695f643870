//! One field changed, one error that names it; and no change at all that makes a reader panic.

use proptest::prelude::*;
use rehost_block::{Kind, Result};
use rehost_image::Format;

use crate::in_memory;
use crate::support::changing::assert_no_verb_fails;
use crate::support::{noise, open_bytes, patchwork, read_start};

fn read(bytes: Vec<u8>) -> Result<()> {
    read_start(&open_bytes("disk.vdi", bytes, Some(Format::Vdi))?, 6 << 20)
}

#[test]
fn each_damaged_field_is_named() {
    use Kind::{Corrupt, Unsupported};
    let whole = in_memory(&patchwork(3 << 20));
    read(whole.clone()).unwrap();
    let cases: [(&str, Kind, usize, &[u8]); 14] = [
        ("signature is missing", Corrupt, 0x40, &[0]),
        ("version is not read", Unsupported, 0x46, &[2]),
        ("header is too short", Corrupt, 0x48, &[0, 0]),
        ("image type is unknown", Unsupported, 0x4c, &[9]),
        ("is an undo image", Unsupported, 0x4c, &[3]),
        ("names no parent", Corrupt, 0x4c, &[4]),
        (
            "is no differencing image, and lies",
            Unsupported,
            0x1a8,
            &[7; 16],
        ),
        ("block map lies over the header", Corrupt, 0x154, &[0; 4]),
        ("map lies past the end", Corrupt, 0x154, &[0xff; 4]),
        ("blocks lie over the block map", Corrupt, 0x158, &[0; 4]),
        ("block size is out of range", Corrupt, 0x178, &[1]),
        ("map is too short", Corrupt, 0x170, &[0xff; 8]),
        ("map is too short", Corrupt, 0x180, &[2]),
        (
            "block lies past the end",
            Corrupt,
            1 << 20,
            &[0, 0, 0, 0x70],
        ),
    ];
    for (named, kind, at, value) in cases {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let error = read(bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn a_map_for_more_than_memory_is_refused_before_it_is_read() {
    let mut bytes = in_memory(&[1; 512]);
    bytes[0x170..0x178].copy_from_slice(&(1u64 << 50).to_le_bytes());
    bytes[0x180..0x184].fill(0xff);
    let error = read(bytes).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn a_truncated_image_is_an_error_where_it_ends() {
    let whole = in_memory(&noise(1, 3 << 20));
    for len in [
        0,
        63,
        300,
        1 << 20,
        (2 << 20) + 1,
        whole.len() - 1_000_000,
        whole.len() - 1,
    ] {
        let error = read(whole[..len].to_vec()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_damage_makes_a_reader_panic(
        flips in prop::collection::vec((0usize..480, any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = in_memory(&patchwork(3 << 20));
        // The damage goes where the structures are: the fields of the header and the map.
        for (place, byte) in flips {
            let at = if place < 464 { place } else { (1 << 20) + place - 464 };
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        assert_no_verb_fails(&bytes, Format::Vdi);
        if let Err(error) = read(bytes) {
            prop_assert!(error.kind() != Kind::Internal, "{}", error);
        }
    }
}
