//! `commit`: what an image holds goes into its parent, in place.
//!
//! Parent and child change under one journal beside the parent, which every use of the child runs
//! into as well: either both are changed or neither.

use std::sync::atomic::AtomicBool;

use rehost_block::{Error, Opener, Result, Run};
use rehost_image::{Image, LayerMut};
use serde::Serialize;

use super::in_place;
use super::range::{read, store, units};
use crate::interrupt;

/// What becomes of the child's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// It holds nothing afterwards, and reads the same.
    Emptied,
    /// It keeps what it holds.
    Kept,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Committed {
    /// Guest bytes put into the parent.
    pub copied: u64,
    /// The parent's guest-visible size afterwards, in bytes.
    pub parent_size: u64,
}

/// Puts what the first file of `image` holds into the second.
///
/// # Errors
/// Usage when there is no parent; otherwise as [`in_place::change`] and whatever the two images
/// give.
pub fn commit(
    image: &Image,
    child: Child,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<Committed> {
    let [own, parent, ..] = image.layers() else {
        return Err(Error::usage("has no parent to commit to").in_file(
            image
                .files()
                .first()
                .map_or_else(Default::default, Clone::clone),
        ));
    };
    let Some(named) = &own.backing else {
        return Err(Error::internal("a child that names no parent").in_file(&own.path));
    };
    in_place::change(&parent.path, |journal| {
        // Both are opened first: what cannot be changed is refused before anything is.
        let mut below = in_place::open(journal, parent, opener)?;
        let mut above = in_place::open(journal, own, opener)?;
        if below.size() < image.size() {
            below.resize(image.size())?;
        }
        let copied = push_down(image, &mut *below, cancel)?;
        below.flush()?;
        let parent_size = below.size();
        drop(below);
        if child == Child::Emptied {
            above.forget(0, image.size())?;
        }
        // The parent changed, and a child that knows it by an identity must learn the new one.
        let changed = Image::open(&parent.path, Some(parent.format), opener)?;
        above.set_backing(changed.as_backing(named.name.clone()).as_ref())?;
        above.flush()?;
        Ok(Committed {
            copied,
            parent_size,
        })
    })
}

/// Puts into `parent` every unit that the image's own file has a part of. Returns the bytes put.
fn push_down(image: &Image, parent: &mut dyn LayerMut, cancel: &AtomicBool) -> Result<u64> {
    let whole = image.disk();
    let Some(own) = image.chain().layers().first() else {
        return Ok(0);
    };
    let (size, unit) = (own.size(), parent.unit().get());
    let mut copied = 0;
    let mut at = 0;
    // Ends because every round goes on by at least one byte.
    while at < size {
        interrupt::check(cancel)?;
        let located = own.locate(at, size - at)?;
        if located.len == 0 {
            return Err(Error::internal("locate answered with an empty run").at(at));
        }
        let end = at + located.len;
        match located.run {
            Run::Below | Run::End => {
                at = end;
                continue;
            }
            Run::Zero if at.is_multiple_of(unit) && end - end % unit > at => {
                let whole = end - end % unit;
                parent.zero(at, whole - at)?;
                copied += whole - at;
                at = whole;
                continue;
            }
            Run::Zero | Run::At { .. } | Run::Packed(_) => {}
        }
        // The parent's units may be larger than what the child holds of them, and where the child
        // ends the parent may go on.
        let stretch = units(at, end, unit, parent.size());
        let mut bytes = read(&*whole, stretch.start..stretch.end.min(size))?;
        if stretch.end > size {
            let parents = ParentOnly(image);
            bytes.extend(parents.read(size, stretch.end)?);
        }
        store(parent, stretch.start, &bytes)?;
        copied += bytes.len() as u64;
        at = stretch.end;
    }
    Ok(copied)
}

/// The image without its own file.
struct ParentOnly<'a>(&'a Image);

impl ParentOnly<'_> {
    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let layers = self.0.chain().layers().iter().skip(1).cloned().collect();
        read(&rehost_block::Chain::new(layers)?, start..end)
    }
}
