//! Options of VHDX targets.

use serde::Serialize;

use super::{OptionDescription, small_size};

/// Which kind of VHDX to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VhdxSubformat {
    /// Blocks come as they are written.
    #[default]
    Dynamic,
    /// All blocks are in the file.
    Fixed,
}

/// What a VHDX target can be asked for. A target with a backing file is differencing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct VhdxOptions {
    /// The kind.
    pub kind: VhdxSubformat,
    /// Bytes per block, a power of two from 1 MiB to 256 MiB; 1 MiB if `None`.
    pub block_size: Option<u32>,
    /// Bytes per logical sector, 512 or 4096; 512 if `None`.
    pub logical_sector: Option<u32>,
    /// Bytes per physical sector, 512 or 4096; 4096 if `None`.
    pub physical_sector: Option<u32>,
}

impl VhdxOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[
        OptionDescription {
            name: "subformat",
            values: "dynamic, fixed",
            default: "dynamic",
            about: "the kind of VHDX",
        },
        OptionDescription {
            name: "block_size",
            values: "a power of two from 1M to 256M",
            default: "1M",
            about: "bytes per block",
        },
        OptionDescription {
            name: "logical_sector_size",
            values: "512, 4096",
            default: "512",
            about: "bytes per sector that the guest sees",
        },
        OptionDescription {
            name: "physical_sector_size",
            values: "512, 4096",
            default: "4096",
            about: "bytes per sector of the disk that it stands for",
        },
    ];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "subformat" => {
                self.kind = match value {
                    "dynamic" => VhdxSubformat::Dynamic,
                    "fixed" => VhdxSubformat::Fixed,
                    _ => return None,
                };
            }
            "block_size" => self.block_size = Some(small_size(value)?),
            "logical_sector_size" => self.logical_sector = Some(small_size(value)?),
            "physical_sector_size" => self.physical_sector = Some(small_size(value)?),
            _ => return None,
        }
        Some(())
    }
}
