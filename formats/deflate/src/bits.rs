//! `Bits`: writes bits, lowest first, into bytes.

/// A stream of bits. RFC 1951, 3.1.1.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    /// What is written, and room behind it.
    bytes: Vec<u8>,
    len: usize,
    held: u64,
    count: u32,
}

impl Bits {
    /// Begins anew, with room for `room` bytes.
    pub(crate) fn start(&mut self, room: usize) {
        // Eight more, because bits are stored eight bytes at a time.
        if self.bytes.len() < room + 8 {
            self.bytes.resize(room + 8, 0);
        }
        self.len = 0;
        self.held = 0;
        self.count = 0;
    }

    /// Makes sure of room for `bits` more.
    pub(crate) fn reserve(&mut self, bits: u64) {
        let room = self.len + bits as usize / 8 + 32;
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
    }

    /// Adds the low `count` bits of `bits`, whose others are zero. 56 bits at most between two calls
    /// of [`Bits::store`].
    #[inline(always)]
    pub(crate) fn push(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
    }

    /// Moves whole bytes out; 7 bits at most stay.
    #[inline(always)]
    pub(crate) fn store(&mut self) {
        if let Some(place) = self.bytes[self.len..].first_chunk_mut() {
            *place = self.held.to_le_bytes();
        }
        let whole = self.count / 8;
        self.len += whole as usize;
        self.held >>= whole * 8;
        self.count %= 8;
    }

    /// `push` and `store` of 32 bits at most.
    pub(crate) fn put(&mut self, bits: u64, count: u32) {
        self.push(bits, count);
        self.store();
    }

    /// Adds whole bytes, at a byte.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.align();
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Fills up the last byte with zeroes.
    pub(crate) fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.store();
    }

    /// What is written, to the last whole byte.
    pub(crate) fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
