//! `Matcher`: finds earlier places with the same bytes.
//!
//! Chains of places with the same hash of four bytes, as zlib has them, and beside them the last
//! place of each hash of three. With a window of 4 KiB all tables together take 20 KiB. Places are
//! kept modulo 65536: one that is too old may look as if it were near, which costs a comparison,
//! because what lies there is always compared.

use crate::WINDOW;
use crate::symbols::LONGEST;

const HASH_3: u32 = 11;
const HASH_4: u32 = 12;

/// The first place's stamp, so that an empty slot (0) is out of reach of the first 61,440 places.
const FIRST: usize = WINDOW + 1;

/// A repeat: `length` bytes that are the same `distance` bytes before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeat {
    pub(crate) length: usize,
    /// 0 when nothing was found.
    pub(crate) distance: usize,
}

/// The tables of places.
#[derive(Debug)]
pub(crate) struct Matcher {
    last_3: Box<[u16; 1 << HASH_3]>,
    last_4: Box<[u16; 1 << HASH_4]>,
    /// For each place of the window: the one before it with the same hash of four bytes.
    before: Box<[u16; WINDOW]>,
}

impl Matcher {
    pub(crate) fn new() -> Self {
        Self {
            last_3: Box::new([0; 1 << HASH_3]),
            last_4: Box::new([0; 1 << HASH_4]),
            before: Box::new([0; WINDOW]),
        }
    }

    /// Forgets all places: a unit's stream must not depend on the unit before.
    pub(crate) fn forget(&mut self) {
        self.last_3.fill(0);
        self.last_4.fill(0);
    }

    /// Enters place `at`, which has at least four bytes, and gives the place last entered for its
    /// four bytes and for its three.
    #[inline(always)]
    fn enter(&mut self, at: usize, four: u32) -> (u16, u16) {
        let now = stamp(at);
        let slot = hash(four, HASH_4);
        let chain = self.last_4[slot];
        self.before[usize::from(now) % WINDOW] = chain;
        self.last_4[slot] = now;
        let slot = hash(four << 8, HASH_3);
        let near = self.last_3[slot];
        self.last_3[slot] = now;
        (chain, near)
    }

    /// Enters places without a look at what they repeat.
    #[inline(always)]
    pub(crate) fn skip(&mut self, plain: &[u8], places: std::ops::Range<usize>) {
        for at in places {
            if let Some(four) = plain.get(at..).and_then(|rest| rest.first_chunk()) {
                self.enter(at, u32::from_le_bytes(*four));
            }
        }
    }

    /// Enters place `at` and finds the longest repeat there that is longer than `floor`, at `depth`
    /// places or fewer; one of `nice` bytes ends the search.
    #[inline(always)]
    pub(crate) fn find(
        &mut self,
        plain: &[u8],
        at: usize,
        floor: usize,
        depth: u32,
        nice: usize,
    ) -> Repeat {
        let mut best = Repeat {
            length: floor,
            distance: 0,
        };
        let here = &plain[at..];
        let Some(four) = here.first_chunk() else {
            return best;
        };
        let four = u32::from_le_bytes(*four);
        let (mut chain, near) = self.enter(at, four);
        let here = &here[..here.len().min(LONGEST)];
        if floor >= here.len() {
            return best;
        }
        let now = stamp(at);
        let reach = at.min(WINDOW);

        if floor < 3 {
            let distance = usize::from(now.wrapping_sub(near));
            if distance.wrapping_sub(1) < reach
                && (word(plain, at - distance) ^ four).trailing_zeros() >= 24
            {
                best = Repeat {
                    length: 3,
                    distance,
                };
                if here.len() == 3 {
                    return best;
                }
            }
        }

        let mut tail = best.length.max(3) - 3;
        let mut wanted = word(here, tail);
        let mut last = 0;
        for _ in 0..depth {
            let distance = usize::from(now.wrapping_sub(chain));
            // Ends because distances only grow.
            if distance <= last || distance > reach {
                break;
            }
            last = distance;
            let there = &plain[at - distance..];
            if word(there, tail) == wanted && word(there, 0) == four {
                let length = common(here, there);
                if length > best.length {
                    best = Repeat { length, distance };
                    if length >= nice || length == here.len() {
                        break;
                    }
                    tail = length - 3;
                    wanted = word(here, tail);
                }
            }
            chain = self.before[usize::from(chain) % WINDOW];
        }
        best
    }
}

#[inline(always)]
fn stamp(at: usize) -> u16 {
    (at + FIRST) as u16
}

#[inline(always)]
fn hash(four: u32, bits: u32) -> usize {
    (four.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize
}

/// Four bytes at `at`; zeroes when there are fewer.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(four) => u32::from_le_bytes(*four),
        None => 0,
    }
}

/// How many bytes of `here` come first in `there` too, which is longer.
#[inline(always)]
fn common(here: &[u8], there: &[u8]) -> usize {
    let (here_words, here_rest) = here.as_chunks::<8>();
    let (there_words, _) = there[..here.len()].as_chunks::<8>();
    let mut same = 0;
    for (a, b) in here_words.iter().zip(there_words) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return same + (differ.trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    let rest = here_rest.iter().zip(&there[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}
