//! Refcounts of 1 to 64 bits in a refcount block.
//!
//! QEMU `docs/interop/qcow2.txt`, "Refcount block entry": counts of whole bytes are big-endian,
//! narrower ones fill a byte from its lowest bit.

use super::entry::index;

/// Largest refcount table, in bytes. QEMU's: `QCOW_MAX_REFTABLE_SIZE`.
pub(super) const MAX_TABLE_BYTES: u64 = 8 << 20;

/// How wide the counts of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width {
    order: u32,
}

impl Width {
    /// Counts of `1 << order` bits; the header allows orders up to 6.
    pub(super) fn new(order: u32) -> Self {
        Self {
            order: order.min(6),
        }
    }

    fn bits(self) -> u64 {
        1u64.checked_shl(self.order).unwrap_or(64)
    }

    /// The highest count.
    pub(super) fn most(self) -> u64 {
        u64::MAX
            .checked_shr(64u64.saturating_sub(self.bits()).try_into().unwrap_or(0))
            .unwrap_or(u64::MAX)
    }

    /// Counts in a block of `bytes` bytes.
    pub(super) fn per_block(self, bytes: u64) -> u64 {
        bytes.saturating_mul(8).checked_shr(self.order).unwrap_or(1)
    }

    /// Count number `at` of `block`; 0 past its end.
    pub(super) fn get(self, block: &[u8], at: u64) -> u64 {
        let bit = at.saturating_mul(self.bits());
        let from = index(bit / 8);
        if self.order < 3 {
            let byte = block.get(from).copied().unwrap_or(0);
            let shift = u32::try_from(bit % 8).unwrap_or(0);
            return u64::from(byte.checked_shr(shift).unwrap_or(0)) & self.most();
        }
        let to = from.saturating_add(index(self.bits() / 8));
        block
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(0, |count, byte| count << 8 | u64::from(*byte))
    }

    /// Makes count number `at` of `block` `count`, which the caller has compared with
    /// [`Width::most`].
    pub(super) fn set(self, block: &mut [u8], at: u64, count: u64) {
        let bit = at.saturating_mul(self.bits());
        let from = index(bit / 8);
        if self.order < 3 {
            let shift = u32::try_from(bit % 8).unwrap_or(0);
            let place = |bits: u64| {
                u8::try_from(bits & self.most())
                    .unwrap_or(0)
                    .checked_shl(shift)
                    .unwrap_or(0)
            };
            if let Some(byte) = block.get_mut(from) {
                *byte = *byte & !place(u64::MAX) | place(count);
            }
            return;
        }
        let len = index(self.bits() / 8);
        let bytes = count.to_be_bytes();
        let low = bytes.get(bytes.len().saturating_sub(len)..);
        let to = from.saturating_add(len);
        if let (Some(low), Some(place)) = (low, block.get_mut(from..to)) {
            place.copy_from_slice(low);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_keep_to_themselves() {
        for order in 0..=6 {
            let width = Width::new(order);
            let mut block = vec![0; 64];
            let counts = width.per_block(64);
            for at in 0..counts {
                width.set(&mut block, at, (at % 3) & width.most());
            }
            width.set(&mut block, 3, width.most());
            for at in 0..counts {
                let expected = if at == 3 {
                    width.most()
                } else {
                    (at % 3) & width.most()
                };
                assert_eq!(width.get(&block, at), expected, "{at} of order {order}");
            }
        }
    }

    #[test]
    fn narrow_counts_begin_at_the_lowest_bit_and_wide_ones_are_big_endian() {
        assert_eq!(Width::new(1).get(&[0b0000_1100], 1), 3);
        assert_eq!(Width::new(4).get(&[0, 0, 1, 2], 1), 0x102);
        assert_eq!(Width::new(6).most(), u64::MAX);
        assert_eq!(Width::new(0).most(), 1);
    }
}
