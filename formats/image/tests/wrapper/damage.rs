//! Cut, changed and lengthened streams: always an error, never short or other data, never a panic.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use rehost_block::{Kind, Memory, Result, SameFolder};
use rehost_image::{Image, Wrap, wrap};

use crate::options;
use crate::support::patchwork;
use crate::support::writing::fill;

const LEN: usize = (1 << 20) + 300_032;

fn own(kind: Wrap) -> Vec<u8> {
    let memory = Arc::new(Memory::new("own", Vec::new()));
    let target = wrap(memory.clone(), LEN as u64, kind).unwrap();
    fill(&*target, &patchwork(LEN), 1 << 20);
    memory.to_vec()
}

/// The same disk in every wrapper, with an index and without.
static ALL: LazyLock<Vec<(&'static str, Vec<u8>)>> = LazyLock::new(|| {
    let disk = patchwork(LEN);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&disk).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&disk).unwrap();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(&disk).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&disk).unwrap();
    let mut frame = zstd::bulk::Compressor::new(1).unwrap();
    frame.include_checksum(true).unwrap();
    vec![
        ("gzip", gzip.finish().unwrap()),
        ("gzip members", own(Wrap::Gzip(1))),
        ("bzip2", bzip2.finish().unwrap()),
        ("zstd", zstd.finish().unwrap()),
        ("zstd frame", frame.compress(&disk).unwrap()),
        ("zstd seekable", own(Wrap::Zstd(1))),
        ("xz", xz.finish().unwrap()),
    ]
});

fn all() -> Vec<(&'static str, Vec<u8>)> {
    ALL.clone()
}

/// Reads the whole disk.
fn read(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let storage = Arc::new(Memory::new("disk", bytes));
    let image = Image::from_storage_with("disk".into(), storage, &options(), &SameFolder)?;
    let disk = image.disk();
    let mut bytes = vec![0; usize::try_from(disk.size().min(8 << 20)).unwrap()];
    disk.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[test]
fn whole_streams_are_read() {
    for (name, bytes) in all() {
        assert!(read(bytes).unwrap() == patchwork(LEN), "{name}");
    }
}

#[test]
fn a_cut_stream_is_an_error() {
    for (name, bytes) in all() {
        for cut in [1, 4, 9, 1000, bytes.len() / 2, bytes.len() - 30] {
            let len = bytes.len() - cut;
            let error = read(bytes[..len].to_vec()).expect_err(name);
            assert_eq!(error.kind(), Kind::Corrupt, "{name} {cut}: {error}");
        }
    }
}

#[test]
fn bytes_behind_a_stream_are_an_error() {
    for (name, mut bytes) in all() {
        bytes.extend(b"tail");
        let error = read(bytes).expect_err(name);
        assert_eq!(error.kind(), Kind::Corrupt, "{name}: {error}");
    }
}

#[test]
fn a_changed_byte_of_the_data_is_an_error() {
    for (name, whole) in all() {
        for nth in 1..8 {
            let mut bytes = whole.clone();
            let at = bytes.len() * nth / 8;
            bytes[at] ^= 0x10;
            let error = read(bytes).expect_err(name);
            assert_eq!(error.kind(), Kind::Corrupt, "{name} {at}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_damage_gives_other_data_or_panics(
        which in 0usize..7,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
    ) {
        let (name, mut bytes) = ALL[which].clone();
        let len = bytes.len();
        for (place, byte, tail) in flips {
            // Where the structures are: the first and the last bytes.
            let at = place.index(len.min(64));
            let at = if tail { len - 1 - at } else { at };
            bytes[at] = byte;
        }
        match read(bytes) {
            Err(error) => prop_assert!(error.kind() != Kind::Internal, "{name}: {}", error),
            // Harmless (a time stamp), or no wrapper any more.
            Ok(found) => prop_assert!(found == patchwork(LEN) || found.len() == len, "{name}"),
        }
    }
}
