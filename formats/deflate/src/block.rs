//! `Blocks`: gathers literals and repeats, cuts them into blocks, and writes each in its shortest form.
//!
//! Every [`CHUNK`] symbols it is asked whether those and the ones before are shorter with a code of
//! their own each. RFC 1951, 3.2.3 to 3.2.7.

use crate::bits::Bits;
use crate::cost::Counts;
use crate::huffman::{codes, lengths};
use crate::symbols::{
    DISTANCES, END, FIRST_LENGTH, LENGTH_BASE, LENGTH_EXTRA, LENGTH_SLOT, LITERALS, SHORTEST,
    distance_extra, distance_slot,
};

/// Symbols after which a new block may begin.
const CHUNK: u32 = 1536;

/// Most bytes in a stored block.
const STORED: usize = 65_535;

/// The order in which a header gives the lengths of the code for code lengths.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Literals, then a repeat (or, with length 0, none).
#[derive(Debug, Clone, Copy)]
struct Run {
    literals: u32,
    length: u16,
    distance: u16,
}

/// A stream being made.
#[derive(Debug)]
pub(crate) struct Blocks {
    bits: Bits,
    runs: Vec<Run>,
    /// Literals that are in no run yet.
    literals: u32,
    /// The block: where in the unit it begins, its symbols but for the chunk's, and their cost.
    from: usize,
    block: Counts,
    cost: u64,
    /// The chunk at its end: its first run, where in the unit it begins, and its symbols.
    chunk_run: usize,
    chunk_from: usize,
    chunk: Counts,
    symbols: u32,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            bits: Bits::default(),
            runs: Vec::new(),
            literals: 0,
            from: 0,
            block: Counts::NONE,
            cost: 0,
            chunk_run: 0,
            chunk_from: 0,
            chunk: Counts::NONE,
            symbols: 0,
        }
    }

    /// Begins the stream of a unit of `len` bytes.
    pub(crate) fn start(&mut self, len: usize) {
        self.bits.start(len + 64);
        self.runs.clear();
        self.literals = 0;
        self.from = 0;
        self.block = Counts::NONE;
        self.chunk_run = 0;
        self.chunk_from = 0;
        self.chunk = Counts::NONE;
        self.symbols = 0;
    }

    #[inline(always)]
    pub(crate) fn literal(&mut self, byte: u8) {
        self.chunk.literal(byte);
        self.literals += 1;
        self.symbols += 1;
    }

    #[inline(always)]
    pub(crate) fn repeat(&mut self, length: usize, distance: usize) {
        self.chunk.repeat(length, distance);
        self.runs.push(Run {
            literals: self.literals,
            length: length as u16,
            distance: distance as u16,
        });
        self.literals = 0;
        self.symbols += 1;
    }

    /// Called before each symbol, which begins at `at` of the unit.
    #[inline(always)]
    pub(crate) fn cut(&mut self, plain: &[u8], at: usize) {
        if self.symbols >= CHUNK {
            self.end_chunk(plain, at);
        }
    }

    fn end_chunk(&mut self, plain: &[u8], at: usize) {
        self.runs.push(Run {
            literals: self.literals,
            length: 0,
            distance: 0,
        });
        self.literals = 0;
        self.symbols = 0;
        let chunk = std::mem::replace(&mut self.chunk, Counts::NONE);
        let alone = chunk.cost();
        let first = self.chunk_run == 0;
        let both = self.block.with(&chunk);
        let together = both.cost();
        if first || together <= self.cost + alone {
            self.block = both;
            self.cost = together;
        } else {
            let end = self.chunk_run;
            self.write(plain, self.chunk_from, end, 0);
            self.runs.drain(..end);
            self.from = self.chunk_from;
            self.block = chunk;
            self.cost = alone;
        }
        self.chunk_run = self.runs.len();
        self.chunk_from = at;
    }

    /// Ends the stream. It takes no more than stored blocks would: 5 bytes for each 65,535.
    pub(crate) fn finish(&mut self, plain: &[u8]) -> &[u8] {
        self.end_chunk(plain, plain.len());
        self.write(plain, plain.len(), self.runs.len(), 1);
        self.bits.align();
        // Blocks were cut where codes seemed to pay; stored ones need no cuts.
        let stored = plain.len() + 5 * plain.len().div_ceil(STORED).max(1);
        if self.bits.written().len() > stored {
            self.bits.start(stored);
            self.write_stored(plain, 1);
        }
        self.bits.written()
    }

    /// Writes the block, which ends before run `runs` and place `end`; `last` is its BFINAL bit.
    fn write(&mut self, plain: &[u8], end: usize, runs: usize, last: u64) {
        let plain = &plain[self.from..end];
        self.block.literals[END] = 1;
        let extra = extra_bits(&self.block);
        let dynamic = Dynamic::new(&self.block);
        let of_code = |code: &Code| extra + code.bits(&self.block);
        let dynamic_bits = dynamic.header_bits() + of_code(&dynamic.code);
        let fixed_bits = of_code(&FIXED);
        let pieces = plain.len().div_ceil(STORED).max(1) as u64;
        let stored_bits = plain.len() as u64 * 8 + pieces * 35 + 7;
        self.bits
            .reserve(dynamic_bits.min(fixed_bits).min(stored_bits) + 3);

        if stored_bits <= dynamic_bits.min(fixed_bits) {
            self.write_stored(plain, last);
        } else if fixed_bits <= dynamic_bits {
            self.bits.put(last | 1 << 1, 3);
            write_runs(&mut self.bits, &FIXED, plain, &self.runs[..runs]);
        } else {
            self.bits.put(last | 2 << 1, 3);
            dynamic.write_header(&mut self.bits);
            write_runs(&mut self.bits, &dynamic.code, plain, &self.runs[..runs]);
        }
    }

    fn write_stored(&mut self, plain: &[u8], last: u64) {
        let mut pieces = plain.chunks(STORED).peekable();
        // Ends because there are only so many pieces; a unit of no bytes is one empty piece.
        loop {
            let piece = pieces.next().unwrap_or_default();
            let final_piece = pieces.peek().is_none();
            self.bits.put(if final_piece { last } else { 0 }, 3);
            self.bits.align();
            let len = piece.len() as u64;
            self.bits.put(len | (!len & 0xffff) << 16, 32);
            self.bits.bytes(piece);
            if final_piece {
                return;
            }
        }
    }
}

/// Bits besides the codes.
fn extra_bits(counts: &Counts) -> u64 {
    let lengths = counts.literals[FIRST_LENGTH..].iter().zip(LENGTH_EXTRA);
    let lengths: u64 = lengths
        .map(|(n, bits)| u64::from(*n) * u64::from(bits))
        .sum();
    let distances = counts.distances.iter().enumerate();
    let distances = distances.map(|(slot, n)| u64::from(*n) * u64::from(distance_extra(slot)));
    lengths + distances.sum::<u64>()
}

/// Code lengths of both alphabets.
#[derive(Debug)]
struct Code {
    literals: [u8; 288],
    distances: [u8; 32],
}

/// The code of blocks without one of their own. Four of its symbols never occur, but count.
const FIXED: Code = Code {
    literals: {
        let mut lengths = [8; 288];
        let mut symbol = 144;
        while symbol < 280 {
            lengths[symbol] = if symbol < 256 { 9 } else { 7 };
            symbol += 1;
        }
        lengths
    },
    distances: [5; 32],
};

impl Code {
    /// Bits of all symbols together, without their extra bits.
    fn bits(&self, counts: &Counts) -> u64 {
        let literals = counts.literals.iter().zip(&self.literals);
        let all = literals.chain(counts.distances.iter().zip(&self.distances));
        all.map(|(n, length)| u64::from(*n) * u64::from(*length))
            .sum()
    }
}

/// A code of a block's own, and how its header gives it.
struct Dynamic {
    code: Code,
    /// How many literals and distances the header names.
    literals: usize,
    distances: usize,
    /// The lengths, as symbols of their own code: symbol, extra bits, their number.
    named: Vec<(u8, u8, u8)>,
    lengths: [u8; 19],
    /// How many of those the header gives.
    given: usize,
}

impl Dynamic {
    fn new(counts: &Counts) -> Self {
        let mut code = Code {
            literals: [0; 288],
            distances: [0; 32],
        };
        lengths(&counts.literals, 15, &mut code.literals[..LITERALS]);
        lengths(&counts.distances, 15, &mut code.distances[..DISTANCES]);
        let used = |lengths: &[u8]| lengths.iter().rposition(|length| *length > 0).unwrap_or(0) + 1;
        let literals = used(&code.literals).max(FIRST_LENGTH);
        let distances = used(&code.distances);

        let mut all = [0; 320];
        all[..literals].copy_from_slice(&code.literals[..literals]);
        all[literals..literals + distances].copy_from_slice(&code.distances[..distances]);
        let named = named(&all[..literals + distances]);
        let mut occur = [0; 19];
        for (symbol, _, _) in &named {
            occur[usize::from(*symbol)] += 1;
        }
        let mut own = [0; 19];
        lengths(&occur, 7, &mut own);
        let last = ORDER.iter().rposition(|symbol| own[*symbol] > 0);
        Self {
            code,
            literals,
            distances,
            named,
            lengths: own,
            given: last.map_or(4, |last| (last + 1).max(4)),
        }
    }

    fn header_bits(&self) -> u64 {
        let of_one = |(symbol, _, extra): &(u8, u8, u8)| {
            u64::from(self.lengths[usize::from(*symbol)]) + u64::from(*extra)
        };
        14 + 3 * self.given as u64 + self.named.iter().map(of_one).sum::<u64>()
    }

    fn write_header(&self, bits: &mut Bits) {
        bits.put(self.literals as u64 - 257, 5);
        bits.put(self.distances as u64 - 1, 5);
        bits.put(self.given as u64 - 4, 4);
        for symbol in &ORDER[..self.given] {
            bits.put(u64::from(self.lengths[*symbol]), 3);
        }
        let mut own = [0; 19];
        codes(&self.lengths, &mut own);
        for (symbol, extra, extra_bits) in &self.named {
            let symbol = usize::from(*symbol);
            bits.put(u64::from(own[symbol]), u32::from(self.lengths[symbol]));
            bits.put(u64::from(*extra), u32::from(*extra_bits));
        }
    }
}

/// Code lengths with runs of equal ones put short: symbol, extra bits, their number.
fn named(lengths: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut named = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|a, b| a == b) {
        let length = run[0];
        let mut left = run.len();
        if length != 0 {
            named.push((length, 0, 0));
            left -= 1;
        }
        // Each loop ends because it takes three or more of what is left, or one.
        while length == 0 && left >= 11 {
            let taken = left.min(138);
            named.push((18, (taken - 11) as u8, 7));
            left -= taken;
        }
        while left >= 3 {
            let taken = left.min(if length == 0 { 10 } else { 6 });
            let (symbol, extra_bits) = if length == 0 { (17, 3) } else { (16, 2) };
            named.push((symbol, (taken - 3) as u8, extra_bits));
            left -= taken;
        }
        for _ in 0..left {
            named.push((length, 0, 0));
        }
    }
    named
}

/// Bits and, from bit 24 on, their number.
type Word = u32;

#[inline(always)]
fn push(bits: &mut Bits, word: Word) {
    bits.push(u64::from(word & 0xff_ffff), word >> 24);
}

/// Writes `runs`, whose literals are `plain`'s, and the end of the block.
fn write_runs(bits: &mut Bits, code: &Code, plain: &[u8], runs: &[Run]) {
    let mut own = [0; 288];
    codes(&code.literals, &mut own);
    let word = |symbol: usize| u32::from(own[symbol]) | u32::from(code.literals[symbol]) << 24;
    let mut literals: [Word; 256] = [0; 256];
    let mut whole: [Word; 256] = [0; 256];
    for symbol in 0..256 {
        literals[symbol] = word(symbol);
        // A length with its extra bits: 15 and 5 at most.
        let slot = usize::from(LENGTH_SLOT[symbol]);
        let extra = symbol as u32 - u32::from(LENGTH_BASE[slot]);
        let length = word(FIRST_LENGTH + slot);
        whole[symbol] = (length + (u32::from(LENGTH_EXTRA[slot]) << 24)) | extra << (length >> 24);
    }
    let mut own_distances = [0; 32];
    codes(&code.distances, &mut own_distances);
    let mut distances: [Word; 32] = [0; 32];
    for (slot, word) in distances.iter_mut().enumerate() {
        *word = u32::from(own_distances[slot]) | u32::from(code.distances[slot]) << 24;
    }

    let mut at = 0;
    for run in runs {
        let end = at + run.literals as usize;
        let (threes, rest) = plain[at..end].as_chunks::<3>();
        for three in threes {
            // 45 bits at most, and 7 that were held.
            for byte in three {
                push(bits, literals[usize::from(*byte)]);
            }
            bits.store();
        }
        for byte in rest {
            push(bits, literals[usize::from(*byte)]);
        }
        bits.store();
        at = end;
        if run.length > 0 {
            // 20, 15 and 13 bits at most, and 7 that were held.
            push(bits, whole[(usize::from(run.length) - SHORTEST) & 255]);
            let (slot, extra) = distance_slot(run.distance);
            push(bits, distances[slot & 31]);
            let back = u64::from(run.distance) - 1;
            bits.push(back & ((1 << extra) - 1), extra);
            bits.store();
            at += usize::from(run.length);
        }
    }
    push(bits, word(END));
    bits.store();
}
