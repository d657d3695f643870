//! Reads a deflate stream bit by bit, as RFC 1951 describes it, and measures what it is made of.

/// What a stream is made of.
pub(crate) struct Walked {
    pub(crate) plain: Vec<u8>,
    /// The largest distance.
    pub(crate) furthest: usize,
    pub(crate) blocks: usize,
    /// Bytes of the stream, the last one begun included.
    pub(crate) read: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Reader<'_> {
    fn bits(&mut self, count: usize) -> usize {
        (0..count).fold(0, |bits, nth| {
            let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
            self.at += 1;
            bits | usize::from(bit) << nth
        })
    }

    /// The next symbol of the canonical code with these lengths.
    fn symbol(&mut self, code: &Code) -> usize {
        let (mut bits, mut first, mut before) = (0, 0, 0);
        for count in &code.of_each[1..] {
            bits |= self.bits(1);
            if bits < first + count {
                return code.symbols[before + bits - first];
            }
            before += count;
            first = (first + count) << 1;
            bits <<= 1;
        }
        panic!("no such code");
    }
}

struct Code {
    of_each: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut of_each = [0; 16];
        lengths.iter().for_each(|length| of_each[*length] += 1);
        of_each[0] = 0;
        let taken: usize = (1..16).map(|length| of_each[length] << (15 - length)).sum();
        assert_eq!(taken, 1 << 15, "a code that is not full");
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|s| lengths[*s] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { of_each, symbols }
    }
}

const BASE: [usize; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const EXTRA: [usize; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const DISTANCE: [usize; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Reads all of `stream`; panics where it is none.
pub(crate) fn walk(stream: &[u8]) -> Walked {
    let mut reader = Reader {
        bytes: stream,
        at: 0,
    };
    let mut walked = Walked {
        plain: Vec::new(),
        furthest: 0,
        blocks: 0,
        read: 0,
    };
    let mut last = false;
    while !last {
        last = reader.bits(1) == 1;
        walked.blocks += 1;
        match reader.bits(2) {
            0 => stored(&mut reader, &mut walked),
            1 => {
                let lengths = (0..288).map(|symbol| match symbol {
                    0..144 | 280.. => 8,
                    144..256 => 9,
                    _ => 7,
                });
                let literals = Code::new(&lengths.collect::<Vec<_>>());
                packed(&mut reader, &mut walked, &literals, &Code::new(&[5; 32]));
            }
            2 => {
                let (literals, distances) = codes(&mut reader);
                packed(&mut reader, &mut walked, &literals, &distances);
            }
            _ => panic!("no such block"),
        }
    }
    walked.read = reader.at.div_ceil(8);
    walked
}

fn stored(reader: &mut Reader<'_>, walked: &mut Walked) {
    reader.at = reader.at.next_multiple_of(8);
    let (len, check) = (reader.bits(16), reader.bits(16));
    assert_eq!(len, !check & 0xffff);
    let from = reader.at / 8;
    walked.plain.extend(&reader.bytes[from..from + len]);
    reader.at += len * 8;
}

fn codes(reader: &mut Reader<'_>) -> (Code, Code) {
    let (literals, distances) = (reader.bits(5) + 257, reader.bits(5) + 1);
    assert!(literals <= 286 && distances <= 30);
    let mut own = [0; 19];
    for symbol in &ORDER[..reader.bits(4) + 4] {
        own[*symbol] = reader.bits(3);
    }
    let own = Code::new(&own);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match reader.symbol(&own) {
            16 => (lengths[lengths.len() - 1], 3 + reader.bits(2)),
            17 => (0, 3 + reader.bits(3)),
            18 => (0, 11 + reader.bits(7)),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(length, times));
    }
    assert_eq!(lengths.len(), literals + distances);
    let (literals, distances) = lengths.split_at(literals);
    (Code::new(literals), Code::new(distances))
}

fn packed(reader: &mut Reader<'_>, walked: &mut Walked, literals: &Code, distances: &Code) {
    loop {
        match reader.symbol(literals) {
            256 => return,
            byte @ 0..256 => walked.plain.push(byte as u8),
            length => {
                let length = BASE[length - 257] + reader.bits(EXTRA[length - 257]);
                let slot = reader.symbol(distances);
                let distance = DISTANCE[slot] + reader.bits((slot / 2).saturating_sub(1));
                walked.furthest = walked.furthest.max(distance);
                let from = walked.plain.len() - distance;
                (from..from + length).for_each(|at| walked.plain.push(walked.plain[at]));
            }
        }
    }
}
