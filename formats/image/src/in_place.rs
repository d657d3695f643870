//! Changing an image file in place: `resize`, `rebase`, `commit`, snapshots and repairs.
//!
//! Nothing here makes a change survive a crash: the caller hands in storages that do (a journal of
//! before-images), so that a format only says what changes.
//!
//! What a format cannot have changed in place is refused by name before anything is written.

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Layer, Opener, Result, StorageMut};

use crate::create::TargetBacking;
use crate::layer::Opening;
use crate::{Format, Image, qcow2, raw, vdi, vhd, vhdx, vmdk, wrapper};

/// Opens the further files of an image (extents, a data file) for writing. The path has passed the
/// [`Opener`] before.
pub trait EditFiles: fmt::Debug {
    /// The file at `path`.
    ///
    /// # Errors
    /// Io when it cannot be opened.
    fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>>;
}

/// One image file that can be changed. What it answers as a [`Layer`] is what it holds now.
pub trait LayerMut: Layer {
    /// Guest bytes per allocation unit. Offsets and lengths below are multiples of it, but for the
    /// last unit of the disk.
    fn unit(&self) -> NonZeroU64;

    /// Stores `plain`, giving it room where it has none.
    ///
    /// # Errors
    /// Usage when the range lies outside the disk or off its units; Unsupported when this kind of
    /// image cannot be written to; Io when the storage fails.
    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()>;

    /// Makes the range read as zeroes, whatever the parent holds.
    ///
    /// # Errors
    /// As [`LayerMut::put`].
    fn zero(&mut self, offset: u64, len: u64) -> Result<()>;

    /// Forgets what is stored in the range: it reads as the parent, or as zeroes without one.
    ///
    /// # Errors
    /// As [`LayerMut::put`].
    fn forget(&mut self, offset: u64, len: u64) -> Result<()>;

    /// Changes the guest-visible size. What is cut off is forgotten, what is new reads as zeroes
    /// even if a parent has bytes there.
    ///
    /// # Errors
    /// Usage for a size that the format cannot have; Unsupported when this kind of image cannot be
    /// resized.
    fn resize(&mut self, size: u64) -> Result<()>;

    /// Names another parent, or none. Content is the caller's business.
    ///
    /// # Errors
    /// Usage when the format cannot have such a parent.
    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()>;

    /// Writes what is still in memory. Does not sync: the journal does.
    ///
    /// # Errors
    /// Io when the storage fails.
    fn flush(&mut self) -> Result<()>;
}

/// What `edit` of each format takes.
#[derive(Debug)]
pub(crate) struct Editing<'a> {
    /// Where the image is.
    pub(crate) path: &'a Path,
    /// Its bytes, which may be changed.
    pub(crate) storage: Arc<dyn StorageMut>,
    /// The gate for every further file.
    pub(crate) opener: &'a dyn Opener,
    /// Opens those that pass for writing.
    pub(crate) files: &'a dyn EditFiles,
}

impl<'a> Editing<'a> {
    /// The same file, to be read as it is: its active disk, without a key.
    pub(crate) fn opening(&self) -> Opening<'a> {
        Opening {
            path: self.path,
            storage: self.storage.clone(),
            opener: self.opener,
            snapshot: None,
            key: None,
        }
    }

    /// The error for formats that cannot be edited like that.
    pub(crate) fn refused(&self, format: Format, what: &str) -> Error {
        Error::unsupported(format!("{format} images cannot be {what}"))
            .in_file(self.path)
            .hint("convert it into a new image instead")
    }
}

/// Opens one image file for changes. Its parents are not looked at.
///
/// # Errors
/// As [`Image::open`]; Unsupported, by name, for what cannot be changed in place.
pub fn edit(
    path: PathBuf,
    format: Format,
    storage: Arc<dyn StorageMut>,
    opener: &dyn Opener,
    files: &dyn EditFiles,
) -> Result<Box<dyn LayerMut>> {
    wrapper::refuse(&path, &*storage)?;
    let editing = Editing {
        path: &path,
        storage,
        opener,
        files,
    };
    match format {
        Format::Raw => Ok(raw::edit(&editing)),
        Format::Qcow2 => qcow2::edit(&editing),
        Format::Vdi => vdi::edit(&editing),
        Format::Vhd => vhd::edit(&editing),
        Format::Vhdx => vhdx::edit(&editing),
        Format::Vmdk => vmdk::edit(&editing),
        _ => Err(editing.refused(format, "changed in place")),
    }
    .map_err(|error| error.in_file(&path))
}

impl Image {
    /// What a child that is to be made over this image must know of it, `name` being what the child
    /// is to call it.
    #[must_use]
    pub fn as_backing(&self, name: PathBuf) -> Option<TargetBacking> {
        let layer = self.layers().first()?;
        Some(TargetBacking {
            name,
            path: layer.path.clone(),
            format: layer.format,
            size: self.size(),
            details: layer.details.clone(),
        })
    }
}
