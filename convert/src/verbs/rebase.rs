//! `rebase`: another parent for an image, or none, in place.
//!
//! In safe mode the image reads the same afterwards: where the old parents and the new one differ,
//! what the old ones hold is copied into the image first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rehost_block::{Chain, Disk, Error, Layer, Memory, Opener, Result, StorageDisk};
use rehost_image::{Format, Image, LayerMut, TargetBacking, edit};
use serde::Serialize;

use super::in_place;
use super::range::{read, store, units};
use crate::copy::{SameStorage, locate};
use crate::interrupt;

/// What a rebase did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Rebased {
    /// Guest bytes copied into the image.
    pub copied: u64,
}

/// How `child` is to name a parent at `parent`: relative to its own folder where the parent is in or
/// below that, so that both can be moved together.
///
/// # Errors
/// Io when one of them does not exist (the child's folder is enough).
pub fn name_of_parent(child: &Path, parent: &Path) -> Result<PathBuf> {
    let canonical = |path: &Path| {
        path.canonicalize()
            .map_err(|error| Error::io("cannot open", error).in_file(path))
    };
    let folder = match child.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (folder, parent) = (canonical(folder)?, canonical(parent)?);
    Ok(match parent.strip_prefix(&folder) {
        Ok(relative) => relative.to_owned(),
        Err(_) => parent,
    })
}

/// Gives the first file of `image` the parent `new`, or none, under a journal.
///
/// # Errors
/// Usage when the format cannot have that parent; otherwise as [`in_place::change`] and whatever
/// reading the images gives.
pub fn rebase(
    image: &Image,
    new: Option<&Image>,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<Rebased> {
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    let backing = match new {
        Some(new) => new.as_backing(name_of_parent(&layer.path, &new_path(new)?)?),
        None => None,
    };
    if let Some(new) = new
        && new.files().contains(&layer.path)
    {
        return Err(Error::usage("cannot be its own parent").in_file(&layer.path));
    }
    in_place::change(&layer.path, |journal| {
        let mut child = in_place::open(journal, layer, opener)?;
        let copied = copy_differences(image, new, &mut *child, cancel)?;
        set_parent(&mut *child, backing.as_ref())?;
        Ok(Rebased { copied })
    })
}

fn new_path(image: &Image) -> Result<PathBuf> {
    image
        .layers()
        .first()
        .map(|layer| layer.path.clone())
        .ok_or_else(|| Error::internal("an image without a file"))
}

fn set_parent(child: &mut dyn LayerMut, backing: Option<&TargetBacking>) -> Result<()> {
    child.set_backing(backing)?;
    child.flush()
}

/// Puts into `child` every unit that would read otherwise over the new parent. Returns the bytes put.
fn copy_differences(
    image: &Image,
    new: Option<&Image>,
    child: &mut dyn LayerMut,
    cancel: &AtomicBool,
) -> Result<u64> {
    let before = image.disk();
    let after = over(image, new)?;
    let (size, unit) = (before.size(), child.unit().get());
    let mut copied = 0;
    let mut at = 0;
    // Ends because every round goes on by at least one byte.
    while at < size {
        interrupt::check(cancel)?;
        let (old, new) = (
            locate(&*before, at, size - at)?,
            locate(&after, at, size - at)?,
        );
        let len = old.len.min(new.len);
        if SameStorage::Named.place(&old.run, &new.run) {
            at += len;
            continue;
        }
        let stretch = units(at, at + len, unit, size);
        let old = read(&*before, stretch.clone())?;
        let new = read(&after, stretch.clone())?;
        let pairs = old.chunks(unit as usize).zip(new.chunks(unit as usize));
        for (nth, (old, new)) in pairs.enumerate() {
            if old == new {
                continue;
            }
            store(child, stretch.start + nth as u64 * unit, old)?;
            copied += old.len() as u64;
        }
        at = stretch.end;
    }
    Ok(copied)
}

/// The first file of `image` over the files of `new`.
fn over(image: &Image, new: Option<&Image>) -> Result<Chain> {
    let mut layers: Vec<Arc<dyn Layer>> = image.chain().layers().iter().take(1).cloned().collect();
    match new {
        Some(new) => layers.extend(new.chain().layers().iter().cloned()),
        // A parent without a byte: what the child lacks reads as zeroes.
        None => layers.push(Arc::new(StorageDisk::new(Arc::new(Memory::new(
            "(no parent)",
            Vec::new(),
        ))))),
    }
    Chain::new(layers)
}

/// Names `new` as the parent of the image at `path`, whose content and old parents are not looked
/// at. Without a `format` its signature decides.
///
/// # Errors
/// As [`rebase`].
pub fn rename(path: &Path, format: Option<Format>, new: &Image, opener: &dyn Opener) -> Result<()> {
    in_place::settled(path)?;
    in_place::change(path, |journal| {
        let path = journal.image().to_owned();
        if new.files().contains(&path) {
            return Err(Error::usage("cannot be its own parent").in_file(&path));
        }
        let storage = journal.open(&path)?;
        let format = match format {
            Some(format) => format,
            None => Format::sniff(&*storage)?,
        };
        let name = name_of_parent(&path, &new_path(new)?)?;
        let mut child = edit(
            path,
            format,
            storage,
            opener,
            &in_place::Journalled(journal),
        )?;
        set_parent(&mut *child, new.as_backing(name).as_ref())
    })
}
