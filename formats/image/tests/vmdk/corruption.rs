//! One field changed, one error that names it; and no change at all that makes a reader panic.

use proptest::prelude::*;
use rehost_block::{Error, Kind, Result};
use rehost_image::{Format, TargetOptions, TargetSpec, VmdkKind, VmdkOptions};

use crate::support::writing::in_memory;
use crate::support::{open_bytes, patchwork, read_start, text};

/// An image of a small disk, as written here.
fn image(kind: VmdkKind) -> Vec<u8> {
    let disk = match kind {
        VmdkKind::StreamOptimized => text(1, 2 << 20),
        _ => patchwork(2 << 20),
    };
    let mut spec = TargetSpec::new(Format::Vmdk, 2 << 20, "disk.vmdk").unwrap();
    spec.options = TargetOptions::Vmdk(VmdkOptions {
        kind,
        ..VmdkOptions::default()
    });
    in_memory(&spec, &disk, disk.len())
}

fn read(bytes: Vec<u8>) -> Result<()> {
    let image = open_bytes("disk.vmdk", bytes, Some(Format::Vmdk))?;
    assert!(
        image.size() <= 1 << 50,
        "a size that no header of 512 bytes should get away with"
    );
    read_start(&image, 4 << 20)
}

fn damaged(kind: VmdkKind, change: impl Fn(&mut Vec<u8>)) -> Error {
    let mut bytes = image(kind);
    change(&mut bytes);
    read(bytes).unwrap_err()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where the first grain table of a monolithicSparse image is.
fn table(bytes: &[u8]) -> usize {
    u32_at(bytes, u32_at(bytes, 56) * 512) * 512
}

#[test]
fn an_unchanged_image_reads() {
    read(image(VmdkKind::MonolithicSparse)).unwrap();
    read(image(VmdkKind::StreamOptimized)).unwrap();
}

#[test]
fn damaged_tables_of_a_sparse_disk_are_named() {
    let sparse = VmdkKind::MonolithicSparse;
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>); 6] = [
        ("grain table: lies past the end", &|b| {
            let gd = u32_at(b, 56) * 512;
            b[gd..gd + 4].copy_from_slice(&0x00ff_ffffu32.to_le_bytes());
        }),
        ("grain table: lies over the descriptor", &|b| {
            let gd = u32_at(b, 56) * 512;
            b[gd..gd + 4].copy_from_slice(&2u32.to_le_bytes());
        }),
        ("grain: lies past the end", &|b| {
            let gt = table(b);
            b[gt..gt + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        }),
        ("grain: lies over the descriptor", &|b| {
            let gt = table(b);
            b[gt..gt + 4].copy_from_slice(&1u32.to_le_bytes());
        }),
        ("grain: lies past the end", &|b| {
            b.truncate(b.len() - 65_536)
        }),
        ("descriptor reaches past the end", &|b| b.truncate(100)),
    ];
    for (named, change) in cases {
        let error = damaged(sparse, change);
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn damaged_streams_are_named() {
    let stream = VmdkKind::StreamOptimized;
    let marker = 128 * 512;
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>); 8] = [
        ("marker is for another grain", &|b| b[marker] = 77),
        ("length of a compressed grain", &|b| {
            b[marker + 8..marker + 12].fill(0)
        }),
        ("length of a compressed grain", &|b| {
            b[marker + 8..marker + 12].fill(0xff)
        }),
        ("compressed grain is damaged", &|b| {
            b[marker + 12..marker + 16].fill(0xff)
        }),
        ("compressed grain is damaged", &|b| {
            let len = u32_at(b, marker + 8);
            b[marker + 11 + len] ^= 1; // Adler-32
        }),
        ("stream has no footer", &|b| b.truncate(b.len() - 512)),
        ("stream has no footer", &|b| b.extend([0; 512])),
        ("grain size is out of range", &|b| {
            let footer = b.len() - 1024;
            b[footer + 20] = 3;
        }),
    ];
    for (named, change) in cases {
        let error = damaged(stream, change);
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn a_huge_capacity_is_refused_before_anything_is_allocated() {
    for sectors in [1u64 << 40, 1 << 50, 1 << 54, u64::MAX] {
        let error = damaged(VmdkKind::MonolithicSparse, |bytes| {
            bytes[12..20].copy_from_slice(&sectors.to_le_bytes());
        });
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_damage_makes_a_reader_panic(
        stream in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = image(if stream {
            VmdkKind::StreamOptimized
        } else {
            VmdkKind::MonolithicSparse
        });
        // Most of the damage goes where the structures are.
        let structures = bytes.len().min(70_000);
        for (place, byte) in flips {
            let place = place.index(structures * 2) % bytes.len();
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Err(error) = read(bytes) {
            prop_assert!(error.kind() != Kind::Internal, "{}", error);
        }
    }
}
