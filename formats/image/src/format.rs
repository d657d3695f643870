//! The formats by name, and telling them apart by content.

use std::fmt;
use std::str::FromStr;

use rehost_block::{Error, Result, Storage};
use serde::Serialize;

use crate::{vdi, vhd};

/// First bytes of a VMDK: a sparse extent, a descriptor, and the two kinds of extent that are
/// recognised to be refused by name (COWD, seSparse).
const VMDK_MAGICS: [&[u8]; 4] = [
    b"KDMV",
    b"# Disk DescriptorFile",
    b"COWD",
    b"\xbe\xba\xfe\xca\0\0\0\0",
];

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
        }
    }

    /// What a storage's first bytes say it is (a fixed VHD's last ones); raw when they say nothing.
    ///
    /// # Errors
    /// Io when these bytes cannot be read.
    pub fn sniff(storage: &dyn Storage) -> Result<Self> {
        let mut head = [0; 512];
        let len = usize::try_from(storage.size())
            .unwrap_or(head.len())
            .min(head.len());
        let head = head.get_mut(..len).unwrap_or_default();
        storage.read_at(head, 0)?;
        Ok(if head.starts_with(b"QFI\xfb") {
            Self::Qcow2
        } else if VMDK_MAGICS.iter().any(|magic| head.starts_with(magic)) {
            Self::Vmdk
        } else if head.starts_with(b"vhdxfile") {
            Self::Vhdx
        } else if vdi::is_vdi(head) {
            Self::Vdi
        } else if head.starts_with(vhd::COOKIE) || vhd::is_fixed(storage) {
            Self::Vhd
        } else {
            Self::Raw
        })
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
            _ => Err(Error::usage(format!("unknown format {name:?}"))
                .hint("known formats: raw, qcow2, vmdk, vhd, vhdx, vdi")),
        }
    }
}
