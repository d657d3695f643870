//! Walking disks by stretches: where data is, and where two views of a disk may differ.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Error, Located, Result, Run, is_zero};

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

/// As [`Disk::locate`], with zeroes behind the disk's end.
pub(super) fn locate(disk: &dyn Disk, at: u64, want: u64) -> Result<Located> {
    if at >= disk.size() {
        return Ok(Located::new(Run::Zero, want));
    }
    let located = disk.locate(at, want)?;
    if located.len == 0 {
        return Err(Error::internal("locate answered with an empty run").at(at));
    }
    Ok(located)
}

/// Whether two runs read the same because they are the same bytes.
pub(super) fn same_place(a: &Run, b: &Run) -> bool {
    match (a, b) {
        (Run::Zero, Run::Zero) => true,
        (
            Run::At { storage, offset },
            Run::At {
                storage: other,
                offset: place,
            },
        ) => offset == place && storage.name() == other.name(),
        (Run::Packed(a), Run::Packed(b)) => {
            (a.offset, a.skip) == (b.offset, b.skip) && a.storage.name() == b.storage.name()
        }
        _ => false,
    }
}

/// The next stretch of whole units, of at most about [`PIECE`] bytes, that `from..to` touches.
pub(super) fn units(from: u64, to: u64, unit: u64, size: u64) -> Range<u64> {
    let start = from - from % unit;
    let end = to.min(start + PIECE.next_multiple_of(unit));
    start..end.next_multiple_of(unit).min(size)
}
