//! `inject --in-place`: the edits of a guest go into the images that it is in.
//!
//! The edits were made, and checked, on overlays before; what these hold is put into the images under
//! one journal, beside the first of them. When all of it is there the journal is kept as the undo
//! file: the disks of a machine change together, and are put back together.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rehost_block::journal::kept::refuse_second;
use rehost_block::{Disk, Error, Journal, Opener, Overlay, Result, is_zero};
use rehost_image::{Image, LayerDescription};

use super::in_place::{change_and_keep, open, settled};
use super::range::{read, units};
use crate::interrupt;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The first disk's file: `rehost undo` takes its name.
    pub image: PathBuf,
    /// Guest bytes that were put into the images.
    pub bytes: u64,
    /// The file that `rehost undo` reads.
    pub undo: PathBuf,
}

/// Puts what each overlay holds over its image, which is its base, into the image's own file.
///
/// # Errors
/// As [`change_and_keep`], and whatever the images give.
pub fn inject(
    disks: &[(&Image, &Overlay)],
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<Injected> {
    let mut owned = Vec::new();
    for (image, overlay) in disks {
        let [own, ..] = image.layers() else {
            return Err(Error::internal("an image without files"));
        };
        owned.push((own, *overlay));
    }
    let first = owned.first();
    let (first, _) = first.ok_or_else(|| Error::internal("a guest without disks"))?;
    for (own, _) in owned.iter().skip(1) {
        refuse_second(&own.path)?;
        settled(&own.path)?;
    }
    let (bytes, undo) = change_and_keep(&first.path, |journal| {
        let mut bytes = 0;
        for (own, overlay) in &owned {
            if !overlay.written().is_empty() {
                bytes += put(journal, own, overlay, opener, cancel)?;
            }
        }
        Ok(bytes)
    })?;
    Ok(Injected {
        image: first.path.clone(),
        bytes,
        undo,
    })
}

/// Puts what `overlay` holds into the file `own`; gives how much that is.
fn put(
    journal: &Journal,
    own: &LayerDescription,
    overlay: &Overlay,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<u64> {
    let mut layer = open(journal, own, opener)?;
    let unit = layer.unit().get();
    // All is read before anything is written: the overlay reads through the image that changes.
    let mut stretches = Vec::new();
    for range in overlay.written() {
        let mut at = range.start;
        // Ends because every round goes on by at least one unit.
        while at < range.end {
            interrupt::check(cancel)?;
            let stretch = units(at, range.end, unit, overlay.size());
            let start = stretch.start.max(stretches.last().map_or(0, end));
            if start < stretch.end {
                stretches.push((start, read(overlay, start..stretch.end)?));
            }
            at = stretch.end.max(at + 1);
        }
    }
    let mut bytes = 0;
    for (start, plain) in &stretches {
        interrupt::check(cancel)?;
        for (nth, plain) in plain.chunks(unit as usize).enumerate() {
            let offset = start + nth as u64 * unit;
            if is_zero(plain) {
                layer.zero(offset, plain.len() as u64)?;
            } else {
                layer.put(offset, plain)?;
            }
        }
        bytes += plain.len() as u64;
    }
    layer.flush()?;
    Ok(bytes)
}

/// Where a stretch ends.
fn end((start, bytes): &(u64, Vec<u8>)) -> u64 {
    start + bytes.len() as u64
}
