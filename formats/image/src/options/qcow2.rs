//! Options of qcow2 targets.

use std::path::PathBuf;

use serde::Serialize;

use super::{OptionDescription, Preallocation, small_size, switch};

/// The version of the format, by the QEMU release that had it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Compat {
    /// Version 2, which QEMU has from 0.10 on.
    #[serde(rename = "0.10")]
    V2,
    /// Version 3, which QEMU has from 1.1 on.
    #[default]
    #[serde(rename = "1.1")]
    V3,
}

/// What a qcow2 target can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Qcow2Options {
    /// The version.
    pub compat: Compat,
    /// Bytes per cluster, a power of two from 512 to 2 MiB; 64 KiB if `None`.
    pub cluster_size: Option<u32>,
    /// Whether clusters are divided into 32 subclusters.
    pub extended_l2: bool,
    /// Whether the header allows refcounts to be kept lazily.
    pub lazy_refcounts: bool,
    /// Bits per refcount, a power of two up to 64; 16 if `None`.
    pub refcount_bits: Option<u32>,
    /// Room taken at once.
    pub preallocation: Preallocation,
    /// The name of a file that takes the guest's data, in the image's folder.
    pub data_file: Option<PathBuf>,
    /// Whether that file is also a raw image of the same content.
    pub data_file_raw: bool,
}

impl Qcow2Options {
    pub(super) const KNOWN: &[OptionDescription] = &[
        OptionDescription {
            name: "compat",
            values: "0.10 (or v2), 1.1 (or v3)",
            default: "1.1",
            about: "the version of the format",
        },
        OptionDescription {
            name: "cluster_size",
            values: "a power of two from 512 to 2M",
            default: "64K",
            about: "bytes per cluster",
        },
        OptionDescription {
            name: "extended_l2",
            values: "on, off",
            default: "off",
            about: "divide clusters into 32 subclusters",
        },
        OptionDescription {
            name: "lazy_refcounts",
            values: "on, off",
            default: "off",
            about: "let later writers keep refcounts lazily",
        },
        OptionDescription {
            name: "refcount_bits",
            values: "1, 2, 4, 8, 16, 32, 64",
            default: "16",
            about: "bits per refcount",
        },
        OptionDescription {
            name: "preallocation",
            values: "off, metadata, falloc, full",
            default: "off",
            about: "take all room at once: the tables only, reserved, or written with zeroes",
        },
        OptionDescription {
            name: "data_file",
            values: "a file name",
            default: "none",
            about: "store the guest's data in this file beside the image",
        },
        OptionDescription {
            name: "data_file_raw",
            values: "on, off",
            default: "off",
            about: "keep the data file a valid raw image",
        },
    ];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "compat" => {
                self.compat = match value {
                    "0.10" | "v2" => Compat::V2,
                    "1.1" | "v3" => Compat::V3,
                    _ => return None,
                };
            }
            "cluster_size" => self.cluster_size = Some(small_size(value)?),
            "extended_l2" => self.extended_l2 = switch(value)?,
            "lazy_refcounts" => self.lazy_refcounts = switch(value)?,
            "refcount_bits" => self.refcount_bits = Some(value.parse().ok()?),
            "preallocation" => self.preallocation = Preallocation::parse(value)?,
            "data_file" => self.data_file = Some(PathBuf::from(value)),
            "data_file_raw" => self.data_file_raw = switch(value)?,
            _ => return None,
        }
        Some(())
    }
}
