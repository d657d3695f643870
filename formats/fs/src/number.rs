//! Conversions between the widths that filesystems use, and divisions: lossless or checked, never cut off.

use rehost_block::{Error, Result};

/// A length or index as a byte count. Lossless: `usize` is at most 64 bits wide wherever this
/// program builds.
pub(crate) fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A 32-bit field as a length or index. Lossless for the same reason.
pub(crate) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A byte count as a buffer's length.
pub(crate) fn length(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}

/// The low and the high half of a number that ext4 keeps in two fields.
pub(crate) const fn halves(value: u64) -> (u32, u32) {
    let bytes = value.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// The two 16-bit halves, low first.
pub(crate) const fn halves16(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// A number from its low and high 32 bits.
pub(crate) fn join(lo: u32, hi: u32) -> u64 {
    u64::from(lo) | (u64::from(hi) << 32)
}

/// A number from its low and high 16 bits.
pub(crate) fn join16(lo: u16, hi: u16) -> u32 {
    u32::from(lo) | (u32::from(hi) << 16)
}

/// `value / by`, rounded up. `by` comes from checked geometry and is never 0.
pub(crate) fn div_up(value: u64, by: u64) -> u64 {
    value.div_ceil(by.max(1))
}

/// `value / by`. `by` comes from checked geometry and is never 0.
pub(crate) fn div(value: u64, by: u64) -> u64 {
    value.checked_div(by).unwrap_or(0)
}

/// `value % by`. `by` comes from checked geometry and is never 0.
pub(crate) fn rem(value: u64, by: u64) -> u64 {
    value.checked_rem(by).unwrap_or(0)
}
