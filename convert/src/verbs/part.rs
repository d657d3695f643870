//! `dd`: a part of a disk, as a disk of its own or over a part of another.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Error, Opener, Overlay, Result, Window};
use rehost_image::{Image, LayerMut};
use serde::Serialize;

use super::in_place;
use super::range::{PIECE, read, store, units};
use crate::interrupt;

/// A part of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

impl Part {
    /// The part of `disk` from `offset` on, of `length` bytes or to the end.
    ///
    /// # Errors
    /// Usage when it reaches past the end of the disk.
    pub fn of(disk: &dyn Disk, offset: u64, length: Option<u64>) -> Result<Self> {
        let left = disk.size().checked_sub(offset);
        let length = length.or(left);
        match (left, length) {
            (Some(left), Some(length)) if length <= left => Ok(Self { offset, length }),
            _ => Err(Error::usage("range reaches past the end of the disk")
                .at(offset)
                .hint(format!("the disk has {} bytes", disk.size()))),
        }
    }

    /// That part of `disk` as a disk of its own.
    ///
    /// # Errors
    /// Corrupt when it reaches past the end of the disk.
    pub fn window(&self, disk: Arc<dyn Disk>) -> Result<Window> {
        Window::new(disk, self.offset, self.length)
    }
}

/// Writes all of `disk` to `out`, byte for byte.
///
/// # Errors
/// What the disk gives; Io when it cannot be written; Usage when interrupted.
pub fn stream(disk: &dyn Disk, out: &mut dyn Write, cancel: &AtomicBool) -> Result<()> {
    let failed = |error| Error::io("cannot write to standard output", error);
    let mut at = 0;
    // Ends because every round goes on by at least one byte.
    while at < disk.size() {
        interrupt::check(cancel)?;
        let end = disk.size().min(at + PIECE);
        out.write_all(&read(disk, at..end)?).map_err(failed)?;
        at = end;
    }
    out.flush().map_err(failed)
}

/// Writes all of `disk` over a part of `image`, from `offset` on, in place and under a journal.
///
/// # Errors
/// Usage when it does not fit; otherwise as [`in_place::change`].
pub fn write_over(
    disk: &dyn Disk,
    image: &Image,
    offset: u64,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<()> {
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    let end = offset
        .checked_add(disk.size())
        .filter(|end| *end <= image.size())
        .ok_or_else(|| {
            Error::usage("the range does not fit into the target")
                .in_file(&layer.path)
                .mismatch(
                    format!("at most {} bytes", image.size().saturating_sub(offset)),
                    disk.size(),
                )
                .hint("make it larger first with `rehost resize`")
        })?;
    let whole = image.disk();
    in_place::change(&layer.path, |journal| {
        let mut edited = in_place::open(journal, layer, opener)?;
        let unit = edited.unit().get();
        let mut at = offset;
        // Ends because every round goes on by at least one byte.
        while at < end {
            interrupt::check(cancel)?;
            // What of the first and the last unit is not written over stays as it is.
            let stretch = units(at, end, unit, image.size());
            let to = stretch.end.min(end);
            let mut bytes = read(&*whole, stretch.clone())?;
            let new = read(disk, at - offset..to - offset)?;
            let from = (at - stretch.start) as usize;
            bytes[from..from + new.len()].copy_from_slice(&new);
            store(&mut *edited, stretch.start, &bytes)?;
            at = to;
        }
        edited.flush()
    })
}

/// Puts what was written to overlays into the images below them, in place and under one journal, which
/// lies beside the first.
///
/// # Errors
/// As [`in_place::change`].
pub fn write_changed(
    changed: &[(&Image, Arc<Overlay>)],
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<()> {
    let first = changed
        .first()
        .and_then(|(image, _)| image.layers().first());
    let Some(first) = first else {
        return Ok(());
    };
    in_place::change(&first.path, |journal| {
        for (image, overlay) in changed {
            let layer = image
                .layers()
                .first()
                .ok_or_else(|| Error::internal("an image without a file"))?;
            let mut edited = in_place::open(journal, layer, opener)?;
            write_ranges(&mut *edited, overlay, cancel)?;
            edited.flush()?;
        }
        Ok(())
    })
}

/// Puts what was written to an overlay into an image.
fn write_ranges(edited: &mut dyn LayerMut, overlay: &Overlay, cancel: &AtomicBool) -> Result<()> {
    let unit = edited.unit().get();
    // Units that two ranges touch are written once.
    let mut done = 0;
    for range in overlay.written() {
        let mut at = range.start.max(done);
        // Ends because every round goes on by at least one byte.
        while at < range.end {
            interrupt::check(cancel)?;
            let stretch = units(at, range.end, unit, overlay.size());
            let bytes = read(overlay, stretch.clone())?;
            store(edited, stretch.start, &bytes)?;
            at = stretch.end;
        }
        done = at;
    }
    Ok(())
}
