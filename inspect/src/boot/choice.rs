//! What a guest would boot without anybody at the keyboard: kernel, initrds, command line.

use rehost_block::{Error, Result};
use serde::Serialize;

use crate::model::GuestSystem;
use crate::text::compare_versions;

/// A direct boot: what the guest's own boot loader would load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootChoice {
    /// The kernel, as a path in the guest.
    pub kernel: String,
    /// The initramfs files, in order.
    pub initrds: Vec<String>,
    /// The kernel command line.
    pub command_line: String,
    /// The entry of `boot.entries`; `None` when the guest has no menu.
    pub entry: Option<usize>,
    /// Why this one, in one sentence.
    pub reason: String,
}

impl GuestSystem {
    /// What its boot loader takes unattended. Without a boot menu: the newest kernel, on the root
    /// filesystem's UUID.
    ///
    /// # Errors
    /// Unsupported when the default entry starts no Linux kernel, or there is no kernel at all.
    pub fn default_boot(&self) -> Result<BootChoice> {
        let chosen = self
            .boot
            .default
            .and_then(|at| Some((at, self.boot.entries.get(at)?)));
        if let Some((at, entry)) = chosen {
            let kernel = entry.kernel.clone().ok_or_else(|| {
                Error::unsupported(format!(
                    "the default boot entry \"{}\" ({}) starts no linux kernel",
                    entry.title, entry.place
                ))
                .hint("choose another default entry in the guest")
            })?;
            return Ok(BootChoice {
                kernel,
                initrds: entry.initrds.clone(),
                command_line: entry.command_line.clone(),
                entry: Some(at),
                reason: format!("\"{}\": {}", entry.title, self.boot.default_reason),
            });
        }
        let newest = self
            .kernels
            .iter()
            .filter_map(|kernel| Some((kernel, kernel.image.clone()?)))
            .max_by(|(a, _), (b, _)| compare_versions(&a.version, &b.version));
        let Some((kernel, image)) = newest else {
            return Err(Error::unsupported("this guest has no kernel to boot").hint(
                "neither a boot entry nor an image in /boot was found; `rehost inspect` shows what is there",
            ));
        };
        let root = match &self.root.uuid {
            Some(uuid) => format!("root=UUID={uuid} ro"),
            None => {
                return Err(Error::unsupported(
                    "this guest has no boot menu, and its root filesystem has no uuid to boot from",
                ));
            }
        };
        Ok(BootChoice {
            kernel: image,
            // That of a unified image is inside the image.
            initrds: kernel
                .initramfs
                .iter()
                .map(|initramfs| initramfs.path.clone())
                .filter(|path| Some(path) != kernel.image.as_ref())
                .collect(),
            command_line: root,
            entry: None,
            reason: format!(
                "no boot menu was found: the newest kernel, {}",
                kernel.version
            ),
        })
    }
}
