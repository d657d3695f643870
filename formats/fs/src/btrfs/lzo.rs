//! LZO1X, unpacked.
//!
//! Source: Linux `Documentation/staging/lzo.rst` ("LZO stream format as understood by Linux' LZO decompressor"). The
//! run-length variant of zram is left out: Btrfs does not use it.

/// Unpacks `packed` to the end of `out`; gives how many bytes that were, or nothing when it is not LZO1X or does
/// not fit.
pub(crate) fn unpack(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut from = Reader { packed, at: 0 };
    let mut to = Writer { out, len: 0 };
    // Literals after the last instruction, which decide what a low instruction means: 0 to 3, or 4 after
    // a long run.
    let mut state = 0usize;
    let first = usize::from(*packed.first()?);
    if first > 17 {
        from.at = 1;
        let run = first.checked_sub(17)?;
        to.literals(&mut from, run)?;
        state = run.min(4);
    }
    // Ends because every round takes at least one byte of `packed`.
    loop {
        let code = from.byte()?;
        let (len, distance, literals) = match code {
            0..16 if state == 0 => {
                let run = from.long(code, 15)?.checked_add(3)?;
                to.literals(&mut from, run)?;
                state = 4;
                continue;
            }
            0..16 => {
                let high = from.byte()?.checked_shl(2)?;
                let near = high.checked_add(code >> 2)?;
                match state {
                    4 => (3, near.checked_add(2049)?, code & 3),
                    _ => (2, near.checked_add(1)?, code & 3),
                }
            }
            16..32 => {
                let len = from.long(code & 7, 7)?.checked_add(2)?;
                let pair = from.pair()?;
                let high = (code & 8).checked_shl(11)?;
                let distance = high.checked_add(pair >> 2)?;
                if distance == 0 {
                    return Some(to.len);
                }
                (len, distance.checked_add(16_384)?, pair & 3)
            }
            32..64 => {
                let len = from.long(code & 31, 31)?.checked_add(2)?;
                let pair = from.pair()?;
                (len, (pair >> 2).checked_add(1)?, pair & 3)
            }
            _ => {
                let len = if code < 128 {
                    (code >> 5 & 1).checked_add(3)?
                } else {
                    (code >> 5 & 3).checked_add(5)?
                };
                let high = from.byte()?.checked_shl(3)?;
                let distance = high.checked_add(code >> 2 & 7)?.checked_add(1)?;
                (len, distance, code & 3)
            }
        };
        to.repeat(len, distance)?;
        to.literals(&mut from, literals)?;
        state = literals;
    }
}

struct Reader<'a> {
    packed: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.packed.get(self.at)?;
        self.at = self.at.checked_add(1)?;
        Some(usize::from(byte))
    }

    fn pair(&mut self) -> Option<usize> {
        let low = self.byte()?;
        Some(low | self.byte()?.checked_shl(8)?)
    }

    /// A length that is `short`, or where that is 0, `more` and as much as follows.
    fn long(&mut self, short: usize, more: usize) -> Option<usize> {
        if short != 0 {
            return Some(short);
        }
        let mut len = more;
        // Ends because every round takes a byte.
        loop {
            match self.byte()? {
                0 => len = len.checked_add(255)?,
                last => return len.checked_add(last),
            }
        }
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn literals(&mut self, from: &mut Reader<'_>, count: usize) -> Option<()> {
        let end = from.at.checked_add(count)?;
        let literals = from.packed.get(from.at..end)?;
        let to = self.len.checked_add(count)?;
        self.out.get_mut(self.len..to)?.copy_from_slice(literals);
        from.at = end;
        self.len = to;
        Some(())
    }

    /// Copies from `distance` back; what it copies may begin with what it has just written.
    fn repeat(&mut self, count: usize, distance: usize) -> Option<()> {
        let start = self.len.checked_sub(distance)?;
        let to = self.len.checked_add(count)?;
        if to > self.out.len() {
            return None;
        }
        if distance >= count {
            self.out
                .copy_within(start..start.checked_add(count)?, self.len);
        } else {
            for nth in 0..count {
                let byte = *self.out.get(start.checked_add(nth)?)?;
                *self.out.get_mut(self.len.checked_add(nth)?)? = byte;
            }
        }
        self.len = to;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_overlapping_repeats_come_out() {
        // 4 literals (21 - 17), then 8 bytes from 4 back (0xec: length 8, distance 4), then the end.
        let packed = [21, b'a', b'b', b'c', b'd', 0xec, 0, 17, 0, 0];
        let mut out = [0; 12];
        assert_eq!(unpack(&packed, &mut out), Some(12));
        assert_eq!(&out, b"abcdabcdabcd");
        assert_eq!(unpack(&packed, &mut [0; 11]), None);
        assert_eq!(unpack(&packed[..7], &mut out), None);
        assert_eq!(unpack(&[0xec, 0, 17, 0, 0], &mut out), None);
    }
}
