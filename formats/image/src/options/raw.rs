//! Options of raw targets.

use serde::Serialize;

use super::{OptionDescription, Preallocation};

/// What a raw target can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RawOptions {
    /// Room taken at once: none, reserved, or written.
    pub preallocation: Preallocation,
}

impl RawOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[OptionDescription {
        name: "preallocation",
        values: "off, falloc, full",
        default: "off",
        about: "take all room at once: reserved by the file system, or written with zeroes",
    }];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "preallocation" => {
                self.preallocation = Preallocation::parse(value)
                    .filter(|kind| !matches!(kind, Preallocation::Metadata))?;
            }
            _ => return None,
        }
        Some(())
    }
}
