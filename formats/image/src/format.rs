//! The formats by name.

use std::fmt;
use std::str::FromStr;

use rehost_block::{Error, Result};
use serde::Serialize;

/// A disk image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The guest's bytes as they are.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// VMware virtual disk, all kinds that begin with a sparse header or a descriptor.
    Vmdk,
    /// Microsoft virtual hard disk, version 1 (`vpc` for QEMU).
    Vhd,
    /// VirtualBox disk image.
    Vdi,
    /// Hyper-V virtual disk, version 2: `.vhdx`, and `.avhdx` for checkpoints.
    Vhdx,
    /// Parallels expanding image, or a disk folder by its descriptor. Read only.
    Parallels,
    /// QEMU enhanced disk. Read only.
    Qed,
    /// QEMU copy-on-write, version 1. Read only.
    Qcow,
}

impl Format {
    /// The name used by `--from`, `--to` and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Parallels => "parallels",
            Self::Qed => "qed",
            Self::Qcow => "qcow",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "raw" | "img" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vmdk" => Ok(Self::Vmdk),
            "vhd" | "vpc" => Ok(Self::Vhd),
            "vdi" => Ok(Self::Vdi),
            "vhdx" | "avhdx" => Ok(Self::Vhdx),
            "parallels" | "hdd" | "hds" => Ok(Self::Parallels),
            "qed" => Ok(Self::Qed),
            "qcow" | "qcow1" => Ok(Self::Qcow),
            _ => Err(Error::usage(format!("unknown format {name:?}"))
                .hint("known formats: raw, qcow2, vmdk, vhd, vhdx, vdi, and to read only parallels, qed, qcow")),
        }
    }
}
