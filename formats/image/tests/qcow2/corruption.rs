//! One flipped field, one named error: with its structure and the byte at which it is.

use std::sync::Arc;

use rehost_block::{Error, Kind, Memory, SameFolder, Storage};
use rehost_image::{Compression, Format, Image, OneFile, Payload, TargetSpec, create};

use crate::support::{noise, text};

const CLUSTER: u64 = 65536;
/// Two clusters of data, two of zeroes, one of data, and a short one.
const SIZE: u64 = 6 * CLUSTER - 512;

/// A sound image whose structures are where the fields say.
struct Sample {
    bytes: Vec<u8>,
    l1: u64,
    l2: u64,
}

fn sample(compression: Option<Compression>) -> Sample {
    let storage = Arc::new(Memory::new("sample.qcow2", Vec::new()));
    let spec = TargetSpec {
        compression,
        ..TargetSpec::new(Format::Qcow2, SIZE, "sample.qcow2").unwrap()
    };
    let target = create(&spec, Arc::<Memory>::clone(&storage), &OneFile).unwrap();
    for (index, len) in [(0, CLUSTER), (1, CLUSTER), (4, CLUSTER), (5, CLUSTER - 512)] {
        let len = usize::try_from(len).unwrap();
        let plain = if compression.is_some() {
            text(index, len)
        } else {
            noise(index, len)
        };
        let payload: Payload<'_> = target.pack(index * CLUSTER, &plain).unwrap();
        target.put(index * CLUSTER, payload).unwrap();
    }
    target.publish().unwrap();
    let bytes = storage.to_vec();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1 = word(40);
    let l2 = word(usize::try_from(l1).unwrap()) & 0x00ff_ffff_ffff_fe00;
    Sample { bytes, l1, l2 }
}

/// Opens `bytes` and reads the whole disk.
fn read(bytes: Vec<u8>) -> Result<(), Error> {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new("sample.qcow2", bytes));
    let image = Image::from_storage(
        "sample.qcow2".into(),
        storage,
        Some(Format::Qcow2),
        &SameFolder,
    )?;
    let mut plain = vec![0; usize::try_from(image.size()).unwrap()];
    image.disk().read_at(&mut plain, 0)
}

/// Writes `field` at `at` of a sound image; the error must be of `kind`, name `structure`, be at
/// `at`'s field and contain `says`.
fn assert_named(
    sample: &Sample,
    (at, field): (u64, &[u8]),
    kind: Kind,
    structure: &str,
    offset: u64,
    says: &str,
) {
    let mut bytes = sample.bytes.clone();
    let from = usize::try_from(at).unwrap();
    bytes[from..from + field.len()].copy_from_slice(field);
    let error = read(bytes).expect_err(says);
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(error.structure(), Some(structure), "{text}");
    assert_eq!(error.offset(), Some(offset), "{text}");
    assert!(text.contains(says), "{text:?} does not say {says:?}");
    assert!(text.contains("sample.qcow2"), "{text}");
}

#[test]
fn the_sample_itself_is_sound() {
    for compression in [None, Some(Compression::Zlib(6)), Some(Compression::Zstd(3))] {
        read(sample(compression).bytes).unwrap();
    }
}

#[test]
fn every_header_field_out_of_its_range_is_named() {
    let sample = sample(None);
    let corrupt: &[(u64, &[u8], &str)] = &[
        (0, b"QFI\0", "magic"),
        (20, &8u32.to_be_bytes(), "cluster_bits"),
        (20, &22u32.to_be_bytes(), "cluster_bits"),
        (20, &u32::MAX.to_be_bytes(), "cluster_bits"),
        (32, &7u32.to_be_bytes(), "crypt_method"),
        (36, &0u32.to_be_bytes(), "l1_size is too small"),
        (36, &u32::MAX.to_be_bytes(), "l1_size is too large"),
        (40, &0u64.to_be_bytes(), "L1 table lies outside the file"),
        (
            40,
            &(1u64 << 40).to_be_bytes(),
            "L1 table lies outside the file",
        ),
        (
            40,
            &512u64.to_be_bytes(),
            "l1_table_offset is not at a cluster boundary",
        ),
        (96, &7u32.to_be_bytes(), "refcount_order"),
        (100, &96u32.to_be_bytes(), "header_length"),
        (100, &108u32.to_be_bytes(), "header_length"),
        (100, &0x0100_0000u32.to_be_bytes(), "header_length exceeds"),
        (104, &[1], "compression_type contradicts"),
    ];
    for (at, field, says) in corrupt {
        assert_named(&sample, (*at, field), Kind::Corrupt, "header", *at, says);
    }
    let unsupported: &[(u64, &[u8], &str)] = &[
        (4, &1u32.to_be_bytes(), "qcow version 1"),
        (4, &4u32.to_be_bytes(), "version is unknown"),
        (32, &1u32.to_be_bytes(), "encrypted with AES"),
        (32, &2u32.to_be_bytes(), "encrypted with LUKS"),
        (72, &(1u64 << 5).to_be_bytes(), "feature bit 5,"),
        (72, &(1u64 << 63).to_be_bytes(), "feature bit 63,"),
    ];
    for (at, field, says) in unsupported {
        assert_named(
            &sample,
            (*at, field),
            Kind::Unsupported,
            "header",
            *at,
            says,
        );
    }
}

#[test]
fn backing_names_and_extensions_outside_their_place_are_named() {
    let sample = sample(None);
    let backing = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
    for (offset, len, at, says) in [
        (200, 1024, 16, "too long"),
        (CLUSTER - 4, 8, 8, "outside the first cluster"),
        (u64::MAX, 8, 8, "outside the first cluster"),
    ] {
        let field = backing(offset, len);
        assert_named(&sample, (8, &field), Kind::Corrupt, "header", at, says);
    }
    let extension = [0x1234_5678u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
    assert_named(
        &sample,
        (112, &extension),
        Kind::Corrupt,
        "header",
        112,
        "extension 0x12345678",
    );
}

#[test]
fn an_unknown_feature_is_called_what_the_image_calls_it() {
    let mut sample = sample(None);
    let mut table = [0x6803_f857u32.to_be_bytes(), 48u32.to_be_bytes()].concat();
    table.extend([0, 9]);
    table.extend(b"time travel");
    sample.bytes[112..112 + table.len()].copy_from_slice(&table);
    let field = (1u64 << 9).to_be_bytes();
    assert_named(
        &sample,
        (72, &field),
        Kind::Unsupported,
        "header",
        72,
        "bit 9 (time travel)",
    );
}

#[test]
fn table_entries_that_lead_nowhere_are_named_with_their_place() {
    let sample = sample(None);
    let l1: &[(u64, &str)] = &[
        (0x200, "L2 table offset is not at a cluster boundary"),
        (1 << 40, "L2 table lies outside the file"),
    ];
    for (entry, says) in l1 {
        let field = (entry | 1 << 63).to_be_bytes();
        assert_named(
            &sample,
            (sample.l1, &field),
            Kind::Corrupt,
            "L1 table",
            sample.l1,
            says,
        );
    }
    let l2: &[(u64, &str)] = &[
        (CLUSTER + 512, "cluster offset is not at a cluster boundary"),
        (1 << 40, "cluster lies past the end of the file"),
        (
            1 << 62 | 1 << 40,
            "compressed cluster lies past the end of the file",
        ),
    ];
    for (entry, says) in l2 {
        for index in [0, 1, 4, 5] {
            let place = sample.l2 + index * 8;
            let field = entry.to_be_bytes();
            assert_named(
                &sample,
                (place, &field),
                Kind::Corrupt,
                "L2 table",
                place,
                says,
            );
        }
    }
}

#[test]
fn a_zero_cluster_in_version_2_is_corrupt() {
    let mut sample = sample(None);
    sample.bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
    let place = sample.l2 + 8;
    let field = 1u64.to_be_bytes();
    assert_named(
        &sample,
        (place, &field),
        Kind::Corrupt,
        "L2 table",
        place,
        "no zero clusters",
    );
}

#[test]
fn compressed_clusters_that_do_not_decode_are_corrupt() {
    for compression in [Compression::Zlib(6), Compression::Zstd(3)] {
        let mut sample = sample(Some(compression));
        // The first packed unit begins where the first data cluster does.
        let from = usize::try_from(CLUSTER).unwrap();
        sample.bytes[from..from + 64].fill(0xff);
        let error = read(sample.bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(error.offset(), Some(CLUSTER), "{error}");
    }
}

#[test]
fn a_truncated_image_is_an_error_wherever_it_is_cut_and_never_zeroes() {
    for compression in [None, Some(Compression::Zlib(6))] {
        let sample = sample(compression);
        // What readers need ends with the L1 table; the refcounts follow.
        let needed = usize::try_from(sample.l1 + 8).unwrap();
        for len in (0..needed).step_by(4096).chain([needed - 1]) {
            let error = read(sample.bytes[..len].to_vec()).expect_err("truncated");
            assert_eq!(error.kind(), Kind::Corrupt, "cut at {len}: {error}");
            assert!(error.offset().is_some(), "cut at {len}: {error}");
        }
        read(sample.bytes[..needed].to_vec()).unwrap();
    }
}

#[test]
fn good_clusters_before_a_faulty_one_can_still_be_read() {
    let mut sample = sample(None);
    let place = usize::try_from(sample.l2 + 8).unwrap();
    sample.bytes[place..place + 8].copy_from_slice(&(1u64 << 40).to_be_bytes());
    let storage: Arc<dyn Storage> = Arc::new(Memory::new("sample.qcow2", sample.bytes));
    let image = Image::from_storage("sample.qcow2".into(), storage, None, &SameFolder).unwrap();
    let disk = image.disk();
    assert_eq!(disk.locate(0, u64::MAX).unwrap().len, CLUSTER);
    assert!(disk.locate(CLUSTER, u64::MAX).is_err());
    let mut tail = vec![0; 512];
    disk.read_at(&mut tail, 4 * CLUSTER).unwrap();
    assert!(tail == noise(4, 512));
}
