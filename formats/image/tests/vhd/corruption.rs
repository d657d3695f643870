//! One field changed, one error that names it; and no change at all that makes a reader panic.

use proptest::prelude::*;
use rehost_block::{Kind, Result};
use rehost_image::{Format, VhdKind};

use crate::support::changing::assert_no_verb_fails;
use crate::support::{open_bytes, patchwork, read_start};
use crate::{COPY, HEADER, footer, in_memory, patch};

fn image(kind: VhdKind) -> Vec<u8> {
    in_memory(kind, &patchwork(3 << 20))
}

fn read(bytes: Vec<u8>) -> Result<()> {
    read_start(&open_bytes("disk.vhd", bytes, Some(Format::Vhd))?, 6 << 20)
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

fn both(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = footer(bytes);
    patch(bytes, end, at, value);
    patch(bytes, COPY, at, value);
}

fn assert_named(kind: VhdKind, cases: &[(&str, Kind, Change<'_>)]) {
    read(image(kind)).unwrap();
    for (named, fault, change) in cases {
        let mut bytes = image(kind);
        change(&mut bytes);
        let error = read(bytes).unwrap_err();
        assert_eq!(error.kind(), *fault, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn damage_to_a_dynamic_disk_is_named() {
    use Kind::{Corrupt, Unsupported};
    let cases: [(&str, Kind, Change<'_>); 17] = [
        ("footer: checksum does not match", Corrupt, &|b| {
            let at = b.len() - 512 + 40;
            b[at] ^= 1;
            b[40] ^= 1;
        }),
        ("footer: is missing", Corrupt, &|b| {
            let at = b.len() - 512;
            b[at] ^= 1;
            b[0] ^= 1;
        }),
        ("footer: is missing", Corrupt, &|b| b.truncate(100)),
        ("format version is unknown", Unsupported, &|b| {
            both(b, 12, &[0, 2])
        }),
        ("disk type is not read", Unsupported, &|b| {
            both(b, 60, &6u32.to_be_bytes())
        }),
        ("header: lies past the end", Corrupt, &|b| {
            both(b, 16, &[0x7f; 8])
        }),
        ("header: cookie", Corrupt, &|b| {
            both(b, 16, &1024u64.to_be_bytes())
        }),
        ("header: checksum does not match", Corrupt, &|b| {
            b[512 + 100] ^= 1
        }),
        ("header version is unknown", Unsupported, &|b| {
            patch(b, HEADER, 24, &[0, 9])
        }),
        ("block size is out of range", Corrupt, &|b| {
            patch(b, HEADER, 32, &[0, 0x20, 0, 1])
        }),
        ("block size is out of range", Corrupt, &|b| {
            patch(b, HEADER, 32, &[0; 4])
        }),
        ("table is too short for the disk", Corrupt, &|b| {
            patch(b, HEADER, 28, &1u32.to_be_bytes())
        }),
        ("table is too short for the disk", Corrupt, &|b| {
            both(b, 48, &(1u64 << 60).to_be_bytes())
        }),
        ("table lies past the end of the file", Corrupt, &|b| {
            patch(b, HEADER, 16, &(1u64 << 40).to_be_bytes())
        }),
        (
            "table: block lies past the end of the data",
            Corrupt,
            &|b| b[1536..1540].copy_from_slice(&[0x7f; 4]),
        ),
        ("block lies over the dynamic disk header", Corrupt, &|b| {
            b[1536..1540].copy_from_slice(&[0, 0, 0, 1])
        }),
        (
            "block lies over the block allocation table",
            Corrupt,
            &|b| b[1536..1540].copy_from_slice(&[0, 0, 0, 3]),
        ),
    ];
    assert_named(VhdKind::Dynamic, &cases);
}

#[test]
fn a_table_for_more_than_memory_is_refused_before_it_is_read() {
    let mut bytes = image(VhdKind::Dynamic);
    both(&mut bytes, 48, &(1u64 << 50).to_be_bytes());
    patch(&mut bytes, HEADER, 28, &[0xff; 4]);
    let error = read(bytes).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn damage_to_a_fixed_disk_is_named() {
    let cases: [(&str, Kind, Change<'_>); 3] = [
        ("footer: checksum does not match", Kind::Corrupt, &|b| {
            let at = b.len() - 512 + 40;
            b[at] ^= 1;
        }),
        ("footer: is missing", Kind::Corrupt, &|b| {
            b.truncate(b.len() - 4096)
        }),
        ("shorter than its footer says", Kind::Corrupt, &|b| {
            b.drain(..512);
        }),
    ];
    assert_named(VhdKind::Fixed, &cases);
}

#[test]
fn a_truncated_dynamic_disk_is_an_error_where_it_ends() {
    let whole = image(VhdKind::Dynamic);
    for cut in [512 + 4096, 100_000, 1 << 20, 3 << 20] {
        let mut bytes = whole.clone();
        bytes.truncate(whole.len() - cut);
        // The last block has room past the end of the disk: cutting that is no loss.
        let data_end = whole.len() - 512 - (1 << 20);
        let result = read(bytes.clone());
        if bytes.len() >= data_end {
            result.unwrap();
            continue;
        }
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("truncated"), "{error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn damaged_locators_are_named() {
    for (field, value, named) in [
        (8, vec![0x7f; 4], "name is too long"),
        (16, vec![0x7f; 8], "name lies past the end of the file"),
    ] {
        let mut bytes = image(VhdKind::Dynamic);
        both(&mut bytes, 60, &4u32.to_be_bytes());
        patch(&mut bytes, HEADER, 576, b"W2ru");
        patch(&mut bytes, HEADER, 576 + 8, &16u32.to_be_bytes());
        patch(&mut bytes, HEADER, 576 + field, &value);
        let error = read(bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(error.offset(), Some(512 + 576), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_damage_makes_a_reader_panic(
        fixed in any::<bool>(),
        sealed in any::<bool>(),
        differencing in any::<bool>(),
        flips in prop::collection::vec((0usize..2560, any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = image(if fixed { VhdKind::Fixed } else { VhdKind::Dynamic });
        if differencing {
            both(&mut bytes, 60, &4u32.to_be_bytes());
        }
        // The damage goes where the structures are: the first 2 KiB and the footer.
        for (place, byte) in flips {
            let at = if place < 2048 { place } else { bytes.len() - 2560 + place };
            bytes[at] = byte;
        }
        if sealed {
            // Past the checksums, into what they protect.
            let end = footer(&bytes);
            for part in [COPY, HEADER, end] {
                patch(&mut bytes, part, 0, &[]);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        assert_no_verb_fails(&bytes, Format::Vhd);
        if let Err(error) = read(bytes) {
            prop_assert!(error.kind() != Kind::Internal, "{}", error);
        }
    }
}
