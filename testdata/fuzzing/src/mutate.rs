//! `Mutator`: changed copies of a seed, the same ones every time.

/// Numbers at which parsers break.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    9,
    0x1f,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x200,
    0x1000,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes inputs of inputs.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The mutator of this number; each makes its own sequence.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self {
            state: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A number below `end`, which is not 0. Small ones more often: heads are at starts.
    fn below(&mut self, end: usize) -> usize {
        let shift = self.next() % 4 * 2;
        let most = (end as u64 >> shift).max(1);
        usize::try_from(self.next() % most).unwrap()
    }

    /// `seed` with one to four changes.
    pub fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.next() % 4 {
            if !bytes.is_empty() {
                self.change(&mut bytes);
            }
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.next() % 12 {
            0 => bytes[at] ^= 1 << (self.next() % 8),
            1 => bytes[at] = self.next().to_le_bytes()[0],
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes[at] = bytes[at].wrapping_sub(1),
            4..=8 => self.number(bytes, at),
            9 => {
                let end = bytes.len().min(at + 1 + self.below(64));
                let fill = if self.next().is_multiple_of(2) {
                    0
                } else {
                    0xff
                };
                bytes[at..end].fill(fill);
            }
            10 => {
                let from = self.below(bytes.len());
                let len = (1 + self.below(64)).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + len, at);
            }
            _ => bytes.truncate(at),
        }
    }

    /// Puts one of [`NUMBERS`], or a neighbour of what is there, at a multiple of its width.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let width = 1 << (self.next() % 4);
        let at = at / width * width;
        let Some(place) = bytes.get_mut(at..at + width) else {
            return;
        };
        let nth = usize::try_from(self.next()).unwrap() % NUMBERS.len();
        let number = NUMBERS[nth];
        let little = number.to_le_bytes();
        let big = number.to_be_bytes();
        if self.next().is_multiple_of(2) {
            place.copy_from_slice(&little[..width]);
        } else {
            place.copy_from_slice(&big[8 - width..]);
        }
    }
}
