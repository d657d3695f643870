//! Options of raw targets.

use serde::Serialize;

use super::{OptionDescription, Preallocation, Wrap};

/// What a raw target can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RawOptions {
    /// Room taken at once: none, reserved, or written.
    pub preallocation: Preallocation,
    /// What the image is wrapped in. [`TargetSpec::new`](crate::TargetSpec::new) takes it from the
    /// suffix of the name.
    pub wrap: Option<Wrap>,
}

impl RawOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[
        OptionDescription {
            name: "preallocation",
            values: "off, falloc, full",
            default: "off",
            about: "take all room at once: reserved by the file system, or written with zeroes",
        },
        OptionDescription {
            name: "wrap",
            values: "none, gz[:LEVEL] (1 to 12), zst[:LEVEL] (1 to 22)",
            default: "by the suffix of the name",
            about: "wrap the image in gzip or zstd, in pieces that can be read at any position",
        },
    ];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "preallocation" => {
                self.preallocation = Preallocation::parse(value)
                    .filter(|kind| !matches!(kind, Preallocation::Metadata))?;
            }
            "wrap" => {
                self.wrap = match value {
                    "none" => None,
                    value => Some(value.parse().ok()?),
                };
            }
            _ => return None,
        }
        Some(())
    }
}
