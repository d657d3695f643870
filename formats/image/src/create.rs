//! `create`: from what is wanted ([`TargetSpec`]) to an empty [`Target`] of that format.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};
use serde::Serialize;

use crate::raw::RawTarget;
use crate::vdi::VdiTarget;
use crate::vhd::{self, DynamicTarget};
use crate::vhdx::VhdxTarget;
use crate::vmdk::{Adapter, SparseTarget, StreamTarget};
use crate::{Format, Target, qcow2};

/// How the units of a target are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Deflate, level 1 (fast) to 9 (small).
    Zlib(u8),
    /// Zstandard, level 1 (fast) to 22 (small).
    Zstd(u8),
}

impl Compression {
    /// The codec's name in options and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zlib(_) => "zlib",
            Self::Zstd(_) => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (codec, level) = match text.split_once(':') {
            Some((codec, level)) => (codec, Some(level)),
            None => (text, None),
        };
        let level = |default: u8, most: u8| match level {
            None => Ok(default),
            Some(level) => level
                .parse()
                .ok()
                .filter(|level| (1..=most).contains(level))
                .ok_or_else(|| {
                    Error::usage(format!("{codec} has no level {level:?}"))
                        .hint(format!("levels go from 1 (fast) to {most} (small)"))
                }),
        };
        match codec {
            "zlib" => level(6, 9).map(Self::Zlib),
            "zstd" => level(3, 22).map(Self::Zstd),
            _ => {
                Err(Error::usage(format!("unknown codec {codec:?}"))
                    .hint("known codecs: zlib, zstd"))
            }
        }
    }
}

/// Which kind of VMDK to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum VmdkKind {
    /// One growable file, as VMware Workstation makes it.
    #[default]
    #[serde(rename = "monolithicSparse")]
    MonolithicSparse,
    /// One compressed, append-only file, as an OVA carries it.
    #[serde(rename = "streamOptimized")]
    StreamOptimized,
}

/// Which kind of VHD to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VhdKind {
    /// A file that grows with what is stored.
    #[default]
    Dynamic,
    /// The guest's bytes and a footer.
    Fixed,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct TargetSpec {
    /// The format.
    pub format: Format,
    /// Guest-visible size in bytes. Formats that count in sectors round it up to whole ones, and
    /// the rest of the last one reads as zeroes.
    pub size: u64,
    /// Whether and how units are compressed.
    pub compression: Option<Compression>,
    /// Bytes per qcow2 cluster, a power of two from 512 to 2 MiB; 64 KiB when not given.
    pub cluster_size: Option<u32>,
    /// Bytes per VHDX block, a power of two from 1 MiB to 256 MiB; 1 MiB when not given. Other
    /// formats do not look at it.
    pub block_size: Option<u32>,
    /// Bytes per logical sector of a VHDX, 512 or 4096; 512 when not given. Other formats do not
    /// look at it.
    pub sector_size: Option<u32>,
    /// The kind of VMDK. Other formats do not look at it.
    pub vmdk: VmdkKind,
    /// The controller that a VMDK says it hangs on. Other formats do not look at it.
    pub adapter: Adapter,
    /// The kind of VHD. Other formats do not look at it.
    pub vhd: VhdKind,
    /// The image's final file name, for formats whose structures repeat it (a VMDK descriptor).
    pub name: String,
}

impl TargetSpec {
    /// An uncompressed image of `format` with `size` guest bytes, to be called `name`.
    #[must_use]
    pub fn new(format: Format, size: u64, name: impl Into<String>) -> Self {
        Self {
            format,
            size,
            compression: None,
            cluster_size: None,
            block_size: None,
            sector_size: None,
            vmdk: VmdkKind::default(),
            adapter: Adapter::default(),
            vhd: VhdKind::default(),
            name: name.into(),
        }
    }
}

/// An empty image as `spec` asks for, on `storage`. Until it is published, what is on `storage`
/// is recognisably no image.
///
/// # Errors
/// Usage when the format cannot do what is asked for; Io when the storage fails.
pub fn create(spec: &TargetSpec, storage: Arc<dyn StorageMut>) -> Result<Box<dyn Target>> {
    match spec.format {
        Format::Raw => {
            refuse_compression(spec, "raw images")?;
            Ok(Box::new(RawTarget::create(storage, spec.size)?))
        }
        Format::Qcow2 => qcow2::create(spec, storage),
        Format::Vmdk => create_vmdk(spec, storage),
        Format::Vhd => create_vhd(spec, storage),
        Format::Vdi => {
            refuse_compression(spec, "VDIs")?;
            Ok(Box::new(VdiTarget::create(storage, spec.size)?))
        }
        Format::Vhdx => {
            refuse_compression(spec, "VHDX images")?;
            let target = VhdxTarget::create(storage, spec.size, spec.block_size, spec.sector_size)?;
            Ok(Box::new(target))
        }
    }
}

fn create_vmdk(spec: &TargetSpec, storage: Arc<dyn StorageMut>) -> Result<Box<dyn Target>> {
    match spec.vmdk {
        VmdkKind::MonolithicSparse => {
            refuse_compression(spec, "monolithicSparse VMDKs")?;
            let target = SparseTarget::create(storage, spec.size, &spec.name, spec.adapter)?;
            Ok(Box::new(target))
        }
        VmdkKind::StreamOptimized => {
            let level = match spec.compression {
                None => StreamTarget::DEFAULT_LEVEL,
                Some(Compression::Zlib(level)) => level,
                Some(Compression::Zstd(_)) => {
                    return Err(Error::usage("streamOptimized VMDKs cannot use zstd")
                        .hint("leave the compression out, or choose zlib"));
                }
            };
            let target = StreamTarget::create(storage, spec.size, &spec.name, spec.adapter, level)?;
            Ok(Box::new(target))
        }
    }
}

fn create_vhd(spec: &TargetSpec, storage: Arc<dyn StorageMut>) -> Result<Box<dyn Target>> {
    refuse_compression(spec, "VHDs")?;
    match spec.vhd {
        VhdKind::Dynamic => Ok(Box::new(DynamicTarget::create(storage, spec.size)?)),
        VhdKind::Fixed => vhd::fixed(storage, spec.size),
    }
}

fn refuse_compression(spec: &TargetSpec, what: &str) -> Result<()> {
    match spec.compression {
        None => Ok(()),
        Some(compression) => Err(Error::usage(format!(
            "{what} cannot be compressed with {compression}"
        ))
        .hint("write qcow2 or a streamOptimized VMDK instead")),
    }
}
