//! Walking disks by stretches of whole units: where data is, reading them, storing them.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Result, Run, is_zero, round_up};
use rehost_image::LayerMut;

use crate::copy::locate;
use crate::interrupt;

/// Bytes read at a time.
pub(super) const PIECE: u64 = 1 << 20;

/// The first byte from `from` on that is not zero.
///
/// # Errors
/// What the disk gives; Usage when interrupted.
pub fn first_set(disk: &dyn Disk, from: u64, cancel: &AtomicBool) -> Result<Option<u64>> {
    let mut at = from;
    // Ends because every round goes on by at least one byte.
    while at < disk.size() {
        interrupt::check(cancel)?;
        let located = locate(disk, at, disk.size() - at)?;
        if matches!(located.run, Run::Zero) {
            at += located.len;
            continue;
        }
        let bytes = read(disk, at..at + located.len.min(PIECE))?;
        if !is_zero(&bytes) {
            let nth = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            return Ok(Some(at + nth as u64));
        }
        at += bytes.len() as u64;
    }
    Ok(None)
}

/// The bytes of `range`, zeroes behind the disk's end.
pub(super) fn read(disk: &dyn Disk, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let there = range.end.min(disk.size()).saturating_sub(range.start);
    disk.read_at(&mut bytes[..there as usize], range.start)?;
    Ok(bytes)
}

/// Stores `bytes`, which begin at `start`, into `layer` unit by unit: units of zeroes as such.
///
/// # Errors
/// What the layer gives.
pub(super) fn store(layer: &mut dyn LayerMut, start: u64, bytes: &[u8]) -> Result<()> {
    let unit = layer.unit().get() as usize;
    let mut at = start;
    for plain in bytes.chunks(unit) {
        let len = plain.len() as u64;
        if is_zero(plain) {
            layer.zero(at, len)?;
        } else {
            layer.put(at, plain)?;
        }
        at += len;
    }
    Ok(())
}

/// The next stretch of whole units, of at most about [`PIECE`] bytes, that `from..to` touches.
pub(super) fn units(from: u64, to: u64, unit: u64, size: u64) -> Range<u64> {
    let start = from - from % unit;
    let end = to.min(start.saturating_add(round_up(PIECE, unit)));
    start..round_up(end, unit).min(size)
}
