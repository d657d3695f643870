//! `Parent`: an image that a target is to be the child of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Chain, Disk, Error, Result};
use rehost_image::{Image, TargetBacking};

use crate::guest::{ImageOptions, open_image};

/// An opened image, and what its child is to call it.
#[derive(Debug)]
pub struct Parent {
    disk: Arc<dyn Disk>,
    backing: TargetBacking,
    files: Vec<PathBuf>,
}

impl Parent {
    /// Opens the image at `path` as the parent of the image that will be called `child`.
    ///
    /// # Errors
    /// As [`open_image`].
    pub fn open(path: &Path, child: &Path, options: &ImageOptions<'_>) -> Result<Self> {
        let image = open_image(path, options)?;
        refuse_wrapped(&image)?;
        let backing = image
            .as_backing(name_for(path, child)?)
            .ok_or_else(|| Error::internal("an image without layers"))?;
        Ok(Self {
            disk: image.disk(),
            backing,
            files: image.files().to_vec(),
        })
    }

    /// The parent of `child`, which is open and calls it `name`.
    ///
    /// # Errors
    /// Usage when it has none.
    pub fn of(child: &Image, name: PathBuf) -> Result<Self> {
        let [_, below, ..] = child.layers() else {
            return Err(Error::usage("has no parent"));
        };
        let layers = child.chain().layers().iter().skip(1).cloned().collect();
        let disk = Arc::new(Chain::new(layers)?);
        Ok(Self {
            backing: TargetBacking {
                name,
                path: below.path.clone(),
                format: below.format,
                size: disk.size(),
                details: below.details.clone(),
            },
            disk,
            files: child
                .files()
                .iter()
                .skip_while(|file| **file != below.path)
                .cloned()
                .collect(),
        })
    }

    /// What the guest would see of it.
    #[must_use]
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// What the child must know.
    #[must_use]
    pub const fn backing(&self) -> &TargetBacking {
        &self.backing
    }

    /// The files it is made of, which the child may not replace.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// The bare name of a parent in the child's own folder, so that both can be moved together; the full
/// path of any other.
fn name_for(parent: &Path, child: &Path) -> Result<PathBuf> {
    let real = |path: &Path| {
        path.canonicalize()
            .map_err(|error| Error::io("cannot open", error).in_file(path))
    };
    let path = real(parent)?;
    let folder = real(crate::unfinished::folder_of(child))?;
    Ok(match (path.parent(), path.file_name()) {
        (Some(home), Some(name)) if home == folder => PathBuf::from(name),
        _ => path,
    })
}

/// A child names its parent's format, and no format is called "raw in gzip": other programs would read
/// the packed bytes as the disk.
///
/// # Errors
/// Usage when the image is in a wrapper.
pub(crate) fn refuse_wrapped(image: &Image) -> Result<()> {
    match image.layers().first().and_then(|layer| layer.wrapper.as_ref().map(|found| (layer, found))) {
        None => Ok(()),
        Some((layer, found)) => Err(Error::usage(format!(
            "is packed with {}, and cannot be a backing file: other programs would read the packed bytes",
            found.wrapper
        ))
        .in_file(&layer.path)
        .hint("unpack it first: rehost convert FILE.gz FILE")),
    }
}
