//! `Counts`: how often each symbol occurs, and about how many bits that takes.

use crate::symbols::{
    DISTANCES, END, FIRST_LENGTH, LENGTH_SLOT, LITERALS, SHORTEST, distance_slot,
};

/// Parts of a bit in which [`Counts::cost`] counts.
pub(crate) const BIT: u64 = 256;

/// What a block's header costs, in bits: about so many, and more for each symbol that it names.
const HEADER: u64 = 60;
const NAMED: u64 = 4;

/// The symbols of a block or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    pub(crate) literals: [u32; LITERALS],
    pub(crate) distances: [u32; DISTANCES],
}

impl Counts {
    pub(crate) const NONE: Self = Self {
        literals: [0; LITERALS],
        distances: [0; DISTANCES],
    };

    #[inline(always)]
    pub(crate) fn literal(&mut self, byte: u8) {
        self.literals[usize::from(byte)] += 1;
    }

    #[inline(always)]
    pub(crate) fn repeat(&mut self, length: usize, distance: usize) {
        let slot = LENGTH_SLOT[(length - SHORTEST) & 255];
        self.literals[FIRST_LENGTH + usize::from(slot & 31)] += 1;
        self.distances[distance_slot(distance as u16).0] += 1;
    }

    /// Both together.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        let more = other.literals.iter().chain(&other.distances);
        for (count, more) in sum.literals.iter_mut().chain(&mut sum.distances).zip(more) {
            *count += more;
        }
        sum
    }

    /// About how much a block with these symbols takes, extra bits left out, in [`BIT`]s.
    pub(crate) fn cost(&self) -> u64 {
        let mut counts = self.literals;
        counts[END] += 1;
        HEADER * BIT + entropy(&counts) + entropy(&self.distances)
    }
}

/// The entropy of all symbols, and what naming them costs.
fn entropy(counts: &[u32]) -> u64 {
    let mut all = 0u32;
    let mut sum = 0u64;
    for count in counts {
        if *count > 0 {
            all += count;
            sum += u64::from(*count) * log2(*count);
            // Taken off the sum, which is.
            sum = sum.saturating_sub(NAMED * BIT);
        }
    }
    (u64::from(all) * log2(all.max(1))).saturating_sub(sum)
}

/// The binary logarithm of `number`, which is not 0, in 1/256; a little too small.
#[inline]
fn log2(number: u32) -> u64 {
    let whole = number.ilog2();
    let part = (number << (31 - whole)) >> 23 & 255;
    u64::from(whole) * BIT + u64::from(LOG2[part as usize])
}

/// The binary logarithms of 1 + n/256, in 1/256.
const LOG2: [u8; 256] = logarithms();

const fn logarithms() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        // Squaring doubles the logarithm; each time it passes 1 is a bit of it.
        let mut square = (256 + at as u64) << 23;
        let mut logarithm = 0u32;
        let mut bit = 0;
        while bit < 8 {
            square = (square * square) >> 31;
            logarithm <<= 1;
            if square >= 2 << 31 {
                square >>= 1;
                logarithm |= 1;
            }
            bit += 1;
        }
        table[at] = logarithm as u8;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_one_part() {
        for number in [1u32, 2, 3, 5, 100, 255, 256, 1000, 65_535, 1 << 20] {
            let exact = f64::from(number).log2() * 256.0;
            let found = log2(number) as f64;
            assert!(
                (-2.5..=0.5).contains(&(found - exact)),
                "{number}: {found} {exact}"
            );
        }
    }

    #[test]
    fn unlike_parts_are_cheaper_apart_and_like_ones_together() {
        let part = |range: std::ops::Range<u8>| {
            let mut counts = Counts::NONE;
            for _ in 0..100 {
                range.clone().for_each(|byte| counts.literal(byte));
            }
            counts
        };
        let (low, high) = (part(0..40), part(100..140));
        assert!(low.with(&high).cost() > low.cost() + high.cost());
        assert!(low.with(&low).cost() < low.cost() + low.cost());
    }
}
