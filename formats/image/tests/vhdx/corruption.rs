//! One field changed, one error that names it; and no change at all that makes a reader panic.

use proptest::prelude::*;
use rehost_block::{Error, Kind, Result};
use rehost_image::Format;

use crate::bytes::{
    BAT, HEADERS, ITEMS, METADATA, TABLES, headers, image_of, put, regions, spec, u64_at,
};
use crate::support::changing::assert_no_verb_fails;
use crate::support::{open_bytes, patchwork, read_start};

fn image() -> Vec<u8> {
    image_of(&patchwork(3 << 20), &spec(3 << 20))
}

fn read(bytes: Vec<u8>) -> Result<()> {
    let image = open_bytes("disk.vhdx", bytes, Some(Format::Vhdx))?;
    read_start(&image, 4 << 20)?;
    image.disk().locate(image.size() / 2, u64::MAX)?;
    Ok(())
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

fn errors(cases: &[(Kind, &str, Change<'_>)]) -> Vec<Error> {
    cases
        .iter()
        .map(|(kind, named, change)| {
            let mut bytes = image();
            change(&mut bytes);
            let error = read(bytes).unwrap_err();
            assert_eq!(error.kind(), *kind, "{named}: {error}");
            assert!(error.to_string().contains(named), "{named}: {error}");
            assert!(error.offset().is_some(), "{error}");
            error
        })
        .collect()
}

#[test]
fn an_unchanged_image_reads() {
    read(image()).unwrap();
}

#[test]
fn either_copy_of_headers_and_region_tables_may_be_damaged() {
    for nth in 0..2 {
        let mut bytes = image();
        bytes[HEADERS[nth] + 20] ^= 1;
        bytes[TABLES[nth] + 20] ^= 1;
        read(bytes).unwrap();
    }
}

#[test]
fn damaged_headers_and_regions_are_named() {
    const BAT_ENTRY: usize = 16;
    const METADATA_ENTRY: usize = 48;
    use Kind::{Corrupt, Unsupported};
    errors(&[
        (Corrupt, "file type identifier: signature", &|b| b[0] = b'V'),
        (Corrupt, "neither header has", &|b| {
            HEADERS.iter().for_each(|at| b[at + 3000] = 1);
        }),
        (Unsupported, "version 3 of VHDX", &|b| headers(b, 66, &[3])),
        (Corrupt, "length of the log", &|b| headers(b, 68, &[1])),
        (Corrupt, "offset of the log", &|b| headers(b, 72, &[1])),
        (Corrupt, "region table: neither copy", &|b| {
            TABLES.iter().for_each(|at| b[at + 9000] = 1);
        }),
        (Corrupt, "has too many entries", &|b| {
            regions(b, 8, &2048u32.to_le_bytes())
        }),
        (Corrupt, "lists no metadata region", &|b| {
            regions(b, 8, &1u32.to_le_bytes())
        }),
        (Unsupported, "needs region 2dc27766", &|b| {
            regions(b, BAT_ENTRY + 15, &[9])
        }),
        (Corrupt, "offset of the block allocation table", &|b| {
            regions(b, BAT_ENTRY + 16, &[1])
        }),
        (Corrupt, "offset of the block allocation table", &|b| {
            regions(b, BAT_ENTRY + 16, &[0; 8])
        }),
        (Corrupt, "length of the metadata region", &|b| {
            regions(b, METADATA_ENTRY + 24, &[1])
        }),
        (Corrupt, "metadata region lies past the end", &|b| {
            regions(b, METADATA_ENTRY + 16, &(1u64 << 40).to_le_bytes())
        }),
        (Corrupt, "metadata region lies over the log", &|b| {
            regions(b, METADATA_ENTRY + 16, &(1u64 << 20).to_le_bytes())
        }),
        (
            Corrupt,
            "metadata region lies over the block allocation table",
            &|b| regions(b, METADATA_ENTRY + 16, &(3u64 << 20).to_le_bytes()),
        ),
        (Corrupt, "lists the metadata region twice", &|b| {
            let entry = b[TABLES[0] + 48..TABLES[0] + 64].to_vec();
            let place = 5u64 << 20;
            regions(b, 8, &3u32.to_le_bytes());
            regions(b, 80, &entry);
            regions(b, 96, &place.to_le_bytes());
            regions(b, 104, &(1u32 << 20).to_le_bytes());
        }),
    ]);
    // An unknown region that need not be known is nobody's business.
    let mut bytes = image();
    regions(&mut bytes, 8, &3u32.to_le_bytes());
    regions(&mut bytes, 80, &[7; 16]);
    read(bytes).unwrap();
}

#[test]
fn damaged_metadata_is_named() {
    use Kind::{Corrupt, Unsupported};
    let item = |nth: usize| METADATA + 32 + 32 * nth;
    errors(&[
        (Corrupt, "metadata table: signature", &|b| b[METADATA] = 0),
        (Corrupt, "has too many entries", &|b| {
            put(b, METADATA + 10, &[0xff, 0xff])
        }),
        (Corrupt, "lists no physical sector size", &|b| {
            b[METADATA + 10] = 4
        }),
        (Unsupported, "needs item 00a16737", &|b| b[item(0) + 3] = 0),
        (Corrupt, "lists item", &|b| {
            b.copy_within(item(0)..item(0) + 32, item(4))
        }),
        (Corrupt, "item lies outside", &|b| b[item(1) + 18] = 0),
        (Corrupt, "item lies outside", &|b| b[item(1) + 18] = 0x10),
        (Corrupt, "length of an item", &|b| b[item(1) + 20] = 4),
        (Corrupt, "block size is out of range", &|b| {
            put(b, ITEMS, &(3u32 << 20).to_le_bytes())
        }),
        (Corrupt, "no parent locator", &|b| b[ITEMS + 4] = 2),
        (Corrupt, "virtual disk size: size is out", &|b| {
            put(b, ITEMS + 8, &[0; 8])
        }),
        (Corrupt, "virtual disk size: size is out", &|b| {
            b[ITEMS + 8] = 1
        }),
        (Corrupt, "virtual disk size: size is out", &|b| {
            put(b, ITEMS + 8, &(65u64 << 40).to_le_bytes())
        }),
        (Corrupt, "block allocation table: is too short", &|b| {
            put(b, ITEMS + 8, &(64u64 << 40).to_le_bytes())
        }),
        (Corrupt, "logical sector size", &|b| b[ITEMS + 33] = 4),
        (Corrupt, "physical sector size", &|b| b[ITEMS + 37] = 0),
    ]);
}

#[test]
fn damaged_block_states_and_places_are_named() {
    use Kind::Corrupt;
    errors(&[
        (Corrupt, "reserved state 4", &|b| b[BAT] = 4),
        (Corrupt, "reserved state 5", &|b| b[BAT] = 5),
        (Corrupt, "partially present in a disk without", &|b| {
            b[BAT] = 7
        }),
        (Corrupt, "payload block lies over the headers", &|b| {
            put(b, BAT, &6u64.to_le_bytes())
        }),
        (Corrupt, "payload block lies over the log", &|b| {
            put(b, BAT, &(1u64 << 20 | 6).to_le_bytes())
        }),
        (Corrupt, "lies over the metadata region", &|b| {
            put(b, BAT, &(2u64 << 20 | 6).to_le_bytes())
        }),
        (Corrupt, "lies over the block allocation table", &|b| {
            put(b, BAT, &(3u64 << 20 | 6).to_le_bytes())
        }),
        (Corrupt, "payload block lies past the end", &|b| {
            put(b, BAT, &u64::MAX.to_le_bytes());
            b[BAT] = 6;
        }),
    ]);
}

#[test]
fn a_truncated_file_is_an_error_with_its_place() {
    let whole = image();
    let last = u64_at(&whole, BAT + 16);
    assert_eq!(last & 7, 6);
    for len in [
        whole.len() - 1,
        whole.len() - (1 << 20),
        BAT + (1 << 20),
        BAT + 100,
        METADATA + 100,
        200_000,
        100_000,
        100,
        0,
    ] {
        let error = read(whole[..len].to_vec()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{len}: {error}");
        assert!(error.offset().is_some(), "{len}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_damage_makes_a_reader_panic(
        flips in prop::collection::vec((0usize..6, 0usize..300, any::<u8>()), 1..6),
        dirty in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = image();
        if dirty {
            headers(&mut bytes, 48, &[1; 16]);
            put(&mut bytes, crate::bytes::LOG, b"loge");
        }
        // The damage goes where the structures are, and their checksums are made right again.
        for (structure, at, byte) in flips {
            match structure {
                0 => headers(&mut bytes, at.max(8), &[byte]),
                1 => regions(&mut bytes, at.max(8), &[byte]),
                2 => bytes[METADATA + at] = byte,
                3 => bytes[ITEMS + at] = byte,
                4 => bytes[BAT + at] = byte,
                _ => bytes[crate::bytes::LOG + 4 + at] = byte,
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        assert_no_verb_fails(&bytes, Format::Vhdx);
        if let Err(error) = read(bytes) {
            prop_assert!(error.kind() != Kind::Internal, "{}", error);
        }
    }
}
