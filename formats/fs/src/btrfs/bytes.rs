//! Fields put into items that are made in memory.

use rehost_block::{Error, Result};

/// Puts `value` at byte `at` of `raw`.
pub(super) fn put(raw: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    let place = at
        .checked_add(value.len())
        .and_then(|end| raw.get_mut(at..end))
        .ok_or_else(|| Error::internal("a field lies outside its structure"))?;
    place.copy_from_slice(value);
    Ok(())
}

pub(super) fn put16(raw: &mut [u8], at: usize, value: u16) -> Result<()> {
    put(raw, at, &value.to_le_bytes())
}

pub(super) fn put32(raw: &mut [u8], at: usize, value: u32) -> Result<()> {
    put(raw, at, &value.to_le_bytes())
}

pub(super) fn put64(raw: &mut [u8], at: usize, value: u64) -> Result<()> {
    put(raw, at, &value.to_le_bytes())
}
