//! Sector bitmaps of VHD and VHDX blocks: one bit a sector, in one order or the other.

use std::ops::Range;

use rehost_block::{Result, StorageMut};

/// Which sector of a byte is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitOrder {
    /// The most significant bit (VHD 1.0, "Sector Bitmap").
    HighFirst,
    /// The least significant bit (\[MS-VHDX\] §2.5.2).
    LowFirst,
}

/// What to make of a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bit {
    /// The sector is this file's.
    Set,
    /// It is its parent's.
    Clear,
}

impl BitOrder {
    /// The bits of sectors `skip..end` of a byte, both at most 8.
    fn mask(self, skip: u64, end: u64) -> u8 {
        match self {
            Self::HighFirst => {
                let [_, bits] = ((0xff00u16 >> end) & (0x00ffu16 >> skip)).to_be_bytes();
                bits
            }
            Self::LowFirst => {
                let [bits, _] = ((0xffu16 << skip) & !(0xffffu16 << end)).to_le_bytes();
                bits
            }
        }
    }

    /// Sets or clears the bits of `sectors` in the bitmap at `at` of `storage`.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(crate) fn mark(
        self,
        storage: &dyn StorageMut,
        at: u64,
        sectors: Range<u64>,
        to: Bit,
    ) -> Result<()> {
        if sectors.is_empty() {
            return Ok(());
        }
        let from = sectors.start / 8;
        let len = sectors.end.div_ceil(8).saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let at = at.saturating_add(from);
        storage.read_at(&mut bytes, at)?;
        let before = bytes.clone();
        for (nth, byte) in (from..).zip(&mut bytes) {
            let first = nth.saturating_mul(8);
            let skip = sectors.start.saturating_sub(first).min(8);
            let end = sectors.end.saturating_sub(first).min(8);
            let bits = self.mask(skip, end);
            match to {
                Bit::Set => *byte |= bits,
                Bit::Clear => *byte &= !bits,
            }
        }
        if bytes == before {
            return Ok(());
        }
        storage.write_at(&bytes, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Memory;

    #[test]
    fn bits_are_set_and_cleared_one_by_one_and_in_rows() {
        for order in [BitOrder::HighFirst, BitOrder::LowFirst] {
            for (from, to) in [(0, 1), (7, 8), (3, 13), (0, 64), (8, 16), (9, 15), (20, 20)] {
                let memory = Memory::new("bits", vec![0; 10]);
                order.mark(&memory, 1, from..to, Bit::Set).unwrap();
                let bytes = memory.to_vec();
                for sector in 0..64 {
                    let shift = match order {
                        BitOrder::HighFirst => 7 - sector % 8,
                        BitOrder::LowFirst => sector % 8,
                    };
                    let bit = bytes[1 + sector / 8] >> shift & 1;
                    let inside = (from..to).contains(&(sector as u64));
                    assert_eq!(bit == 1, inside, "{order:?} {from}..{to}: {sector}");
                }
                assert_eq!((bytes[0], bytes[9]), (0, 0));
                order.mark(&memory, 1, from..to, Bit::Clear).unwrap();
                assert_eq!(memory.to_vec(), [0; 10]);
            }
        }
    }
}
