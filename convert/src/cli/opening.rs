//! From options as typed to opened images.

use std::path::Path;

use rehost_block::Result;
use rehost_image::Image;

use super::args::{Earlier, Keys, MoreDisks, Opening};
use crate::guest::{ImageOptions, OpenedVm, open_image};
use crate::secrets::{self, Secrets};

impl Keys {
    /// What the files hold.
    pub(super) fn secrets(&self) -> Result<Secrets> {
        if let Some(known) = self.known.get() {
            return Ok(Secrets::clone(known));
        }
        let read = secrets::read(&self.key_files, &self.passphrase_files)?;
        Ok(Secrets::clone(self.known.get_or_init(|| read)))
    }
}

impl Opening {
    /// The options, with secrets that were read from the files they name.
    pub(super) fn options<'a>(&'a self, secrets: &'a Secrets) -> ImageOptions<'a> {
        ImageOptions {
            format: self.format,
            allow_paths: &self.allow_paths,
            snapshot: None,
            secrets,
        }
    }

    /// The image at `path`.
    pub(super) fn image(&self, path: &Path) -> Result<Image> {
        let secrets = self.keys.secrets()?;
        open_image(path, &self.options(&secrets))
    }

    /// The image at `path`, as it was at a snapshot if one is named.
    pub(super) fn image_at(&self, path: &Path, earlier: &Earlier) -> Result<Image> {
        let secrets = self.keys.secrets()?;
        let options = ImageOptions {
            snapshot: earlier.snapshot.as_deref(),
            ..self.options(&secrets)
        };
        open_image(path, &options)
    }

    /// The machine at `path` with all its disks, and the secrets for the volumes on them.
    pub(super) fn machine(&self, path: &Path, more: &MoreDisks) -> Result<(OpenedVm, Secrets)> {
        let secrets = self.keys.secrets()?;
        let opened = OpenedVm::open(path, &more.disks, &self.options(&secrets))?;
        Ok((opened, secrets))
    }
}
