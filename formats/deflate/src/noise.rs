//! `is_noise`: tells bytes that no codec makes smaller, without trying.
//!
//! Encrypted, random and already compressed data: the bytes are spread evenly, and nothing repeats.
//! Both are looked at in samples only, so it may take a unit for noise of which a part could have
//! been packed; it never takes one for noise that a codec would make much smaller as a whole.

/// Bytes below which looking at a sample is not worth it.
const SMALLEST: usize = 16 << 10;

/// Pieces whose bytes are counted, and the length of each.
const PIECES: usize = 32;
const PIECE: usize = 256;

/// Places where repeats are looked for: the bytes before, and those that could repeat them.
const PROBES: usize = 4;
const BEFORE: usize = 3840;
const PROBE: usize = 256;
const HASH: u32 = 13;

/// By how much the counts may differ from even ones (chi squared; 255 degrees of freedom, so random
/// bytes are below 420 but for one time in a billion). At this many an order-0 code saves 0.2 %.
const UNEVEN: u64 = 440;

/// Whether `bytes` look like noise. Short ones never do.
#[must_use]
pub fn is_noise(bytes: &[u8]) -> bool {
    bytes.len() >= SMALLEST && is_even(bytes) && !repeats(bytes)
}

/// Whether all bytes are about equally frequent.
fn is_even(bytes: &[u8]) -> bool {
    // Two counts a byte, because adding to one count twice in a row has to wait.
    let mut counts = [[0u16; 256]; 2];
    let step = bytes.len() / PIECES;
    for piece in bytes.chunks_exact(step).take(PIECES) {
        for pair in piece[..PIECE].as_chunks::<2>().0 {
            counts[0][usize::from(pair[0])] += 1;
            counts[1][usize::from(pair[1])] += 1;
        }
    }
    let squares: u64 = counts[0]
        .iter()
        .zip(&counts[1])
        .map(|(a, b)| u64::from(a + b))
        .map(|count| count * count)
        .sum();
    let all = (PIECES * PIECE) as u64;
    // The sum of (count - mean)^2 / mean.
    (squares * 256 / all).saturating_sub(all) < UNEVEN
}

/// Whether four bytes in a row come twice within 4 KiB.
fn repeats(bytes: &[u8]) -> bool {
    let step = bytes.len() / PROBES;
    bytes.chunks_exact(step).take(PROBES).any(|chunk| {
        let chunk = &chunk[..BEFORE + PROBE];
        // The last place of each hash. Where data repeats, some last places do.
        let mut places = [0u16; 1 << HASH];
        for (place, four) in (0..).zip(chunk[..BEFORE].windows(4)) {
            places[slot(four)] = place;
        }
        chunk[BEFORE..].windows(4).any(|four| {
            let place = usize::from(places[slot(four)]);
            chunk[place..place + 4] == *four
        })
    })
}

fn slot(four: &[u8]) -> usize {
    let word = four
        .first_chunk()
        .map_or(0, |four| u32::from_le_bytes(*four));
    (word.wrapping_mul(0x9e37_79b1) >> (32 - HASH)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .take(len)
        .collect()
    }

    #[test]
    fn random_bytes_of_any_length_are_noise_and_short_ones_are_not() {
        for len in [SMALLEST, 32_768, 65_535, 65_536, 100_001, 2 << 20] {
            assert!(is_noise(&noise(len)), "{len}");
        }
        assert!(!is_noise(&noise(SMALLEST - 1)));
        assert!(!is_noise(&[]));
    }

    #[test]
    fn bytes_that_a_code_or_a_repeat_makes_smaller_are_not_noise() {
        let plain = noise(65_536);
        let printable: Vec<u8> = plain.iter().map(|byte| byte & 127).collect();
        assert!(!is_noise(&printable));
        // One byte in twelve is zero: an order-0 code saves a percent or two.
        let uneven = plain.iter().enumerate();
        let uneven: Vec<u8> = uneven
            .map(|(i, byte)| if i % 12 == 0 { 0 } else { *byte })
            .collect();
        assert!(!is_noise(&uneven));
        for period in [1024, 3000, 4000] {
            let repeated: Vec<u8> = plain[..period]
                .iter()
                .copied()
                .cycle()
                .take(65_536)
                .collect();
            assert!(!is_noise(&repeated), "{period}");
        }
        let mut half = plain;
        half[32_768..].fill(0);
        assert!(!is_noise(&half));
    }
}
