//! `inject --in-place`: the edits of a guest go into the image that it is in.
//!
//! The edits were made, and checked, on an overlay before; what the overlay holds is put into the
//! image under a journal. When all of it is there the journal is kept as the image's undo file.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Error, Opener, Overlay, Result, is_zero};
use rehost_image::Image;

use super::in_place;
use super::range::{read, units};
use crate::interrupt;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The file that was changed.
    pub image: PathBuf,
    /// Guest bytes that were put into the image.
    pub bytes: u64,
    /// The file that `rehost undo` reads.
    pub undo: PathBuf,
}

/// Puts what `overlay` holds over `image`, which is its base, into the image's own file.
///
/// # Errors
/// As [`in_place::change_and_keep`], and whatever the image gives.
pub fn inject(
    image: &Image,
    overlay: &Overlay,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<Injected> {
    let [own, ..] = image.layers() else {
        return Err(Error::internal("an image without files"));
    };
    let (bytes, undo) = in_place::change_and_keep(&own.path, |journal| {
        let mut layer = in_place::open(journal, own, opener)?;
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
    })?;
    Ok(Injected {
        image: own.path.clone(),
        bytes,
        undo,
    })
}

/// Where a stretch ends.
fn end((start, bytes): &(u64, Vec<u8>)) -> u64 {
    start + bytes.len() as u64
}
