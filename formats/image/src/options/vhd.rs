//! Options of VHD targets.

use serde::Serialize;

use super::{OptionDescription, small_size, switch};

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

/// What a VHD target can be asked for. A target with a backing file is differencing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct VhdOptions {
    /// The kind.
    pub kind: VhdKind,
    /// Whether the size is rounded up to whole MiB, as Azure asks for; such disks are fixed.
    pub azure: bool,
    /// Bytes per block, a power of two from 512 KiB to 256 MiB; 2 MiB if `None`.
    pub block_size: Option<u32>,
}

impl VhdOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[
        OptionDescription {
            name: "subformat",
            values: "dynamic, fixed",
            default: "dynamic",
            about: "the kind of VHD",
        },
        OptionDescription {
            name: "azure",
            values: "on, off",
            default: "off",
            about: "as Azure asks for: fixed, the size rounded up to whole MiB",
        },
        OptionDescription {
            name: "block_size",
            values: "a power of two from 512K to 256M",
            default: "2M",
            about: "bytes per block of a dynamic disk",
        },
    ];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "subformat" => {
                self.kind = match value {
                    "dynamic" => VhdKind::Dynamic,
                    "fixed" => VhdKind::Fixed,
                    _ => return None,
                };
            }
            "azure" => self.azure = switch(value)?,
            "block_size" => self.block_size = Some(small_size(value)?),
            _ => return None,
        }
        Some(())
    }
}
