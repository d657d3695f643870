//! Checked stores into the bytes of an on-disk structure: the counterpart of `Fields`.

use rehost_block::{Error, Result};

/// Stores `value` at byte `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    at.checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end))
        .ok_or_else(|| Error::internal(format!("a field at byte {at} exceeds its structure")))?
        .copy_from_slice(value);
    Ok(())
}

pub(super) fn put8(bytes: &mut [u8], at: usize, value: u8) -> Result<()> {
    put(bytes, at, &[value])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Result<()> {
    put(bytes, at, &value.to_le_bytes())
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) -> Result<()> {
    put(bytes, at, &value.to_le_bytes())
}

/// Bytes of a bitmap and a mask for one of its bits.
const fn place(bit: u32) -> (u32, u8) {
    let mask = match bit % 8 {
        0 => 0x01,
        1 => 0x02,
        2 => 0x04,
        3 => 0x08,
        4 => 0x10,
        5 => 0x20,
        6 => 0x40,
        _ => 0x80,
    };
    (bit / 8, mask)
}

/// Whether a bit is set; bits outside count as set.
pub(super) fn is_set(bitmap: &[u8], bit: u32) -> bool {
    let (byte, mask) = place(bit);
    usize::try_from(byte)
        .ok()
        .and_then(|byte| bitmap.get(byte))
        .is_none_or(|byte| byte & mask != 0)
}

/// What a bit becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bit {
    Used,
    Free,
}

/// Sets or clears `len` bits from `first` on, none of which may already be so.
pub(super) fn mark(bitmap: &mut [u8], first: u32, len: u32, to: Bit) -> Result<()> {
    for bit in first..first.saturating_add(len) {
        if is_set(bitmap, bit) == (to == Bit::Used) {
            return Err(
                Error::corrupt(format!("bit {bit} of a bitmap contradicts what uses it"))
                    .in_structure("bitmap")
                    .hint("run e2fsck on the original"),
            );
        }
        set(bitmap, bit, to);
    }
    Ok(())
}

/// Sets or clears one bit, whatever it was.
pub(super) fn set(bitmap: &mut [u8], bit: u32, to: Bit) {
    let (byte, mask) = place(bit);
    if let Some(byte) = usize::try_from(byte).ok().and_then(|at| bitmap.get_mut(at)) {
        match to {
            Bit::Used => *byte |= mask,
            Bit::Free => *byte &= !mask,
        }
    }
}

/// The first run of clear bits in `from..end`: its start and length, at most `most`.
pub(super) fn clear_run(bitmap: &[u8], from: u32, end: u32, most: u32) -> Option<(u32, u32)> {
    let mut start = from;
    // Ends because `start` grows.
    while start < end {
        let whole = start.is_multiple_of(8)
            && usize::try_from(start / 8)
                .ok()
                .and_then(|at| bitmap.get(at))
                .is_some_and(|byte| *byte == 0xff);
        if whole {
            start = start.saturating_add(8);
        } else if is_set(bitmap, start) {
            start = start.saturating_add(1);
        } else {
            break;
        }
    }
    if start >= end {
        return None;
    }
    let mut len = 1u32;
    // Ends because `len` grows to `most` or the end.
    while len < most
        && start.saturating_add(len) < end
        && !is_set(bitmap, start.saturating_add(len))
    {
        len = len.saturating_add(1);
    }
    Some((start, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_clear_bits_are_found_and_marked() {
        let mut bitmap = [0xff, 0b0001_1111, 0b1111_1110, 0xff];
        assert_eq!(clear_run(&bitmap, 0, 32, 100), Some((13, 4)));
        assert_eq!(clear_run(&bitmap, 0, 32, 2), Some((13, 2)));
        assert_eq!(clear_run(&bitmap, 17, 32, 2), None);
        mark(&mut bitmap, 13, 4, Bit::Used).unwrap();
        assert_eq!(bitmap, [0xff; 4]);
        assert!(mark(&mut bitmap, 13, 1, Bit::Used).is_err());
        mark(&mut bitmap, 0, 9, Bit::Free).unwrap();
        assert_eq!(clear_run(&bitmap, 0, 32, 100), Some((0, 9)));
    }
}
