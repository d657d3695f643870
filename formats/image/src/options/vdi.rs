//! Options of VDI targets.

use serde::Serialize;

use super::OptionDescription;

/// Which kind of VDI to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VdiKind {
    /// Blocks come as they are written.
    #[default]
    Dynamic,
    /// All blocks are in the file.
    Static,
}

/// What a VDI target can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct VdiOptions {
    /// The kind.
    pub kind: VdiKind,
}

impl VdiOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[OptionDescription {
        name: "subformat",
        values: "dynamic, static",
        default: "dynamic",
        about: "the kind of VDI",
    }];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "subformat" => {
                self.kind = match value {
                    "dynamic" => VdiKind::Dynamic,
                    "static" => VdiKind::Static,
                    _ => return None,
                };
            }
            _ => return None,
        }
        Some(())
    }
}
