//! `create`: from what is wanted ([`TargetSpec`]) to an empty [`Target`] of that format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use crate::options::{Compression, TargetOptions};
use crate::qcow2::KeptBitmap;
use crate::target::{Target, TargetFiles};
use crate::{Details, Format, qcow2, raw, vdi, vhd, vhdx, vmdk};

/// The parent of a target that is to hold only what differs from it.
#[derive(Debug, Clone)]
pub struct TargetBacking {
    /// Its name as the child is to store it.
    pub name: PathBuf,
    /// Where it is, links followed: formats that store several names of a parent make them from it.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its guest-visible size in bytes.
    pub size: u64,
    /// What it says of itself: the identity that a VMDK, VHD or VHDX child stores is in it.
    pub details: Details,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct TargetSpec {
    /// Guest-visible size in bytes. Formats that count in sectors round it up to whole ones, and
    /// the rest of the last one reads as zeroes.
    pub size: u64,
    /// The image's final file name, for formats whose structures repeat it (a VMDK descriptor).
    pub name: String,
    /// Whether and how units are compressed.
    pub compression: Option<Compression>,
    /// The parent: units never put are its. `None` for an image that stands alone.
    pub backing: Option<TargetBacking>,
    /// Bitmaps of the source that the target is to have too. Formats without bitmaps leave them out.
    pub bitmaps: Vec<KeptBitmap>,
    /// The format, and what only it can be asked for.
    pub options: TargetOptions,
}

impl TargetSpec {
    /// An uncompressed image of `format` with `size` guest bytes, to be called `name`. A raw one is
    /// wrapped where the suffix of its name is that of a wrapper.
    ///
    /// # Errors
    /// Usage for a format that is not written, or not wrapped as the name says.
    pub fn new(format: Format, size: u64, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let mut options = TargetOptions::new(format)?;
        options.wrap_by_name(Path::new(&name))?;
        Ok(Self {
            size,
            name,
            compression: None,
            backing: None,
            bitmaps: Vec::new(),
            options,
        })
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.options.format()
    }

    /// Refuses what `what` cannot do: compression.
    pub(crate) fn refuse_compression(&self, what: &str) -> Result<()> {
        match self.compression {
            None => Ok(()),
            Some(compression) => Err(Error::usage(format!(
                "{what} cannot be compressed with {compression}"
            ))
            .hint("write qcow2 or a streamOptimized VMDK instead")),
        }
    }

    /// Refuses what `what` cannot do: a parent.
    pub(crate) fn refuse_backing(&self, what: &str) -> Result<()> {
        match self.backing {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!("{what} cannot have a backing file"))
                .hint("write qcow2, or leave the backing file out")),
        }
    }
}

/// An empty image as `spec` asks for, on `storage` and whatever further files it needs from
/// `files`. Until it is published, what is on them is recognisably no image.
///
/// # Errors
/// Usage when the format cannot do what is asked for; Io when the storage fails.
pub fn create(
    spec: &TargetSpec,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Box<dyn Target>> {
    match &spec.options {
        TargetOptions::Raw(options) => raw::create(spec, *options, storage),
        TargetOptions::Qcow2(options) => qcow2::create(spec, options, storage, files),
        TargetOptions::Vmdk(options) => vmdk::create(spec, options, storage, files),
        TargetOptions::Vhd(options) => vhd::create(spec, *options, storage),
        TargetOptions::Vhdx(options) => vhdx::create(spec, *options, storage),
        TargetOptions::Vdi(options) => vdi::create(spec, *options, storage),
    }
}
