//! Every stream is read back by zlib with a window of 4 KiB, by libdeflate, and by a walk through its
//! symbols that measures how far it reaches back.

#![allow(clippy::unwrap_used, clippy::panic)]
mod walk;

use flate2::{Decompress, FlushDecompress};
use proptest::prelude::*;
use rehost_deflate::{Encoder, Level, WINDOW};
use walk::walk;

fn encoder(level: u8) -> Encoder {
    Encoder::new(Level::new(level).unwrap())
}

fn encoded(level: u8, plain: &[u8]) -> Vec<u8> {
    encoder(level).encode(plain, usize::MAX).unwrap().to_vec()
}

/// Reads `stream` back in all three ways.
fn check(plain: &[u8], stream: &[u8]) {
    let walked = walk(stream);
    assert!(walked.plain == plain, "the walk reads other bytes");
    assert!(
        walked.furthest <= WINDOW,
        "reaches back {} bytes",
        walked.furthest
    );
    assert_eq!(walked.read, stream.len(), "bytes behind the end");

    let mut back = vec![0; plain.len()];
    let len = libdeflater::Decompressor::new()
        .deflate_decompress(stream, &mut back)
        .unwrap();
    assert!(
        len == plain.len() && back == plain,
        "libdeflate reads other bytes"
    );

    // In small steps, so that zlib has nothing but its window of 4 KiB to look back into.
    let mut zlib = Decompress::new_with_window_bits(false, 12);
    let mut back = vec![0; plain.len() + 1];
    let mut ended = false;
    while !ended {
        let (at, filled) = (zlib.total_in() as usize, zlib.total_out() as usize);
        let end = (at + 100).min(stream.len());
        let room = (filled + 300).min(back.len());
        let status = zlib
            .decompress(
                &stream[at..end],
                &mut back[filled..room],
                FlushDecompress::None,
            )
            .unwrap();
        ended = status == flate2::Status::StreamEnd;
        let moved = zlib.total_in() as usize > at || zlib.total_out() as usize > filled;
        assert!(ended || moved, "zlib wants more than there is");
    }
    assert!(back[..plain.len()] == *plain, "zlib reads other bytes");
    assert_eq!(zlib.total_out() as usize, plain.len());
}

/// Never more than stored blocks take: 5 bytes for each 65,535.
fn bound(len: usize) -> usize {
    len + 5 * len.div_ceil(65_535).max(1)
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

fn text(len: usize, seed: u64) -> Vec<u8> {
    let words = [
        "the ",
        "disk",
        " of ",
        "a\n",
        "machine ",
        "boots",
        "0x",
        "e",
        ".",
        "static int ",
    ];
    let picks = noise(len, seed | 1);
    let words = picks
        .iter()
        .map(|pick| words[usize::from(pick % 10)].as_bytes());
    words.flatten().copied().take(len).collect()
}

#[test]
fn repeats_exactly_4096_bytes_back_are_used_and_further_ones_are_not() {
    for (period, furthest) in [(4095, 4095), (4096, 4096), (4097, 0), (20_000, 0)] {
        let plain: Vec<u8> = noise(period, 7).into_iter().cycle().take(65_536).collect();
        for level in 1..=9 {
            let stream = encoded(level, &plain);
            check(&plain, &stream);
            let walked = walk(&stream);
            if furthest > 0 {
                assert_eq!(walked.furthest, furthest, "level {level}");
                assert!(stream.len() < 5000, "level {level}: {}", stream.len());
            } else {
                assert!(stream.len() > 64_000, "level {level}: {}", stream.len());
            }
        }
    }
}

#[test]
fn units_longer_than_the_stamps_of_places_are_packed_as_well_as_short_ones() {
    let plain = text(2 << 20, 5);
    for level in [1, 6, 9] {
        let stream = encoded(level, &plain);
        check(&plain, &stream);
        let first = encoded(level, &plain[..1 << 16]).len();
        assert!(stream.len() < first * 32, "level {level}");
    }
}

#[test]
fn the_smallest_units_and_units_of_one_byte_value_are_packed() {
    for level in 1..=9 {
        for len in [
            0, 1, 2, 3, 4, 5, 258, 259, 512, 4097, 65_535, 65_536, 65_537, 200_000,
        ] {
            for byte in [0, 7, 255] {
                let plain = vec![byte; len];
                let stream = encoded(level, &plain);
                check(&plain, &stream);
                assert!(
                    stream.len() <= len / 200 + 30,
                    "{len} bytes took {}",
                    stream.len()
                );
            }
        }
    }
}

#[test]
fn noise_takes_no_more_than_stored_blocks_do() {
    for len in [1, 100, 65_535, 65_536, 65_537, 300_000] {
        let plain = noise(len, 99);
        for level in [1, 5, 9] {
            let stream = encoded(level, &plain);
            check(&plain, &stream);
            assert!(stream.len() <= bound(len), "{len}: {}", stream.len());
        }
        assert!(encoder(6).encode(&plain, len - 1).is_none());
    }
}

#[test]
fn text_between_noise_gets_blocks_of_its_own() {
    let mut plain = noise(30_000, 3);
    plain.extend(text(30_000, 3));
    plain.extend(noise(5_000, 4));
    for level in 1..=9 {
        let stream = encoded(level, &plain);
        check(&plain, &stream);
        let walked = walk(&stream);
        assert!(
            walked.blocks >= 3,
            "level {level}: {} blocks",
            walked.blocks
        );
        let alone = encoded(level, &plain[30_000..60_000]).len();
        assert!(stream.len() < 35_000 + alone + 1_000, "level {level}");
    }
}

#[test]
fn a_stream_depends_on_its_unit_and_level_alone() {
    let units = [
        text(65_536, 1),
        noise(65_536, 1),
        text(512, 2),
        vec![1; 65_536],
    ];
    for level in 1..=9 {
        let mut kept = encoder(level);
        for unit in units.iter().chain(units.iter().rev()) {
            let stream = kept.encode(unit, usize::MAX).unwrap();
            assert!(stream == encoded(level, unit), "level {level}");
        }
    }
}

#[test]
fn streams_of_program_files_are_no_larger_than_zlibs_of_the_same_level() {
    // This test's own program: code, tables and names. zlib-rs stands in for zlib at its levels.
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let units: Vec<&[u8]> = file.chunks_exact(65_536).step_by(9).take(24).collect();
    let mut before = usize::MAX;
    for level in [1, 3, 6, 9] {
        let mut ours = encoder(level);
        let mut zlib = flate2::Compress::new_with_window_bits(
            flate2::Compression::new(level.into()),
            false,
            12,
        );
        let (mut own, mut theirs) = (0, 0);
        let mut room = vec![0; 100_000];
        for unit in &units {
            own += ours.encode(unit, usize::MAX).unwrap().len();
            zlib.reset();
            zlib.compress(unit, &mut room, flate2::FlushCompress::Finish)
                .unwrap();
            theirs += zlib.total_out() as usize;
        }
        assert!(own <= theirs, "level {level}: {own} bytes, zlib {theirs}");
        assert!(
            own <= before,
            "level {level} makes more than the level before it"
        );
        before = own;
    }
}

/// Bytes of one kind after another, of any length.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (0..3000usize, any::<u64>()).prop_map(|(len, seed)| noise(len, seed | 1)),
        (0..20_000usize, any::<u64>()).prop_map(|(len, seed)| text(len, seed)),
        (0..9000usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        // Few different bytes: deep codes and short repeats.
        (0..9000usize, any::<u64>(), 1..40u8)
            .prop_map(|(len, seed, few)| noise(len, seed | 1).iter().map(|b| b % few).collect()),
        // Skewed counts, to reach the limit of code lengths.
        (0..9000usize, any::<u64>()).prop_map(|(len, seed)| noise(len, seed | 1)
            .iter()
            .map(|b| b.leading_zeros() as u8 * 16 + b % 2)
            .collect()),
        // A period around the window.
        (4000..4200usize, any::<u64>(), 0..20_000usize).prop_map(|(period, seed, len)| noise(
            period,
            seed | 1
        )
        .into_iter()
        .cycle()
        .take(len)
        .collect()),
        proptest::collection::vec(any::<u8>(), 0..300),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_at_any_level_come_back(plain in pieces(), level in 1..=9u8) {
        let stream = encoded(level, &plain);
        check(&plain, &stream);
        prop_assert!(stream.len() <= bound(plain.len()));
    }
}
