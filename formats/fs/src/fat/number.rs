//! Checked stores that do not panic.

use rehost_block::{Error, Result};

use crate::number::length;

/// Stores `value` at byte `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    at.checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end))
        .ok_or_else(|| Error::internal(format!("a field at byte {at} exceeds its structure")))?
        .copy_from_slice(value);
    Ok(())
}

/// One bit per cluster; bits outside count as set.
#[derive(Debug, Clone)]
pub(super) struct Bits(Vec<u8>);

impl Bits {
    /// `count` clear bits.
    pub(super) fn new(count: u32) -> Result<Self> {
        Ok(Self(vec![
            0;
            length(u64::from(count / 8).saturating_add(1))?
        ]))
    }

    fn place(bit: u32) -> (usize, u8) {
        let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        (at, 1u8.rotate_left(bit % 8))
    }

    pub(super) fn get(&self, bit: u32) -> bool {
        let (at, mask) = Self::place(bit);
        self.0.get(at).is_none_or(|byte| byte & mask != 0)
    }

    pub(super) fn set(&mut self, bit: u32) {
        let (at, mask) = Self::place(bit);
        if let Some(byte) = self.0.get_mut(at) {
            *byte |= mask;
        }
    }

    pub(super) fn clear(&mut self, bit: u32) {
        let (at, mask) = Self::place(bit);
        if let Some(byte) = self.0.get_mut(at) {
            *byte &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_kept_apart_and_count_as_set_outside() {
        let mut bits = Bits::new(20).unwrap();
        bits.set(9);
        bits.set(10);
        bits.clear(9);
        assert!(bits.get(10) && !bits.get(9) && !bits.get(8) && !bits.get(18));
        assert!(bits.get(1000));
    }
}
