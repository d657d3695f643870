//! Options of VMDK targets.

use serde::Serialize;

use super::OptionDescription;

/// Which kind of VMDK to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum VmdkKind {
    /// One growable file, as VMware Workstation makes it.
    #[default]
    #[serde(rename = "monolithicSparse")]
    MonolithicSparse,
    /// A descriptor and one file with the guest's bytes.
    #[serde(rename = "monolithicFlat")]
    MonolithicFlat,
    /// A descriptor and growable files of at most 2 GiB.
    #[serde(rename = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// A descriptor and files with the guest's bytes of at most 2 GiB.
    #[serde(rename = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    /// One compressed, append-only file, as an OVA carries it.
    #[serde(rename = "streamOptimized")]
    StreamOptimized,
}

impl VmdkKind {
    /// The word of `createType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

/// The controller that a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// LSI Logic SCSI, which every VMware product of the last twenty years has.
    #[default]
    LsiLogic,
    /// BusLogic SCSI, for guests of the 1990s.
    BusLogic,
    /// IDE and SATA.
    Ide,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// What monolithicSparse disks of old ESX say: a legacy name of LSI Logic.
    LegacyEsx,
}

impl Adapter {
    /// The word of `ddb.adapterType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LsiLogic => "lsilogic",
            Self::BusLogic => "buslogic",
            Self::Ide => "ide",
            Self::Pvscsi => "pvscsi",
            Self::LegacyEsx => "legacyESX",
        }
    }
}

/// What a VMDK target can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VmdkOptions {
    /// The kind.
    pub kind: VmdkKind,
    /// The controller that it says it hangs on.
    pub adapter: Adapter,
    /// `ddb.virtualHWVersion`; the writer's default if `None`.
    pub hardware_version: Option<u32>,
}

impl VmdkOptions {
    pub(super) const KNOWN: &[OptionDescription] = &[
        OptionDescription {
            name: "subformat",
            values: "monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat, streamOptimized",
            default: "monolithicSparse, or streamOptimized when compressed",
            about: "the kind of VMDK",
        },
        OptionDescription {
            name: "adapter_type",
            values: "lsilogic, buslogic, ide, pvscsi, legacyESX",
            default: "lsilogic",
            about: "the controller that the disk says it hangs on",
        },
        OptionDescription {
            name: "hwversion",
            values: "a number",
            default: "8",
            about: "the virtual hardware version that the descriptor names",
        },
    ];

    pub(super) fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "subformat" => {
                let all = [
                    VmdkKind::MonolithicSparse,
                    VmdkKind::MonolithicFlat,
                    VmdkKind::TwoGbMaxExtentSparse,
                    VmdkKind::TwoGbMaxExtentFlat,
                    VmdkKind::StreamOptimized,
                ];
                self.kind = all.into_iter().find(|one| one.as_str() == value)?;
            }
            "adapter_type" => {
                let all = [
                    Adapter::LsiLogic,
                    Adapter::BusLogic,
                    Adapter::Ide,
                    Adapter::Pvscsi,
                    Adapter::LegacyEsx,
                ];
                self.adapter = all.into_iter().find(|one| one.as_str() == value)?;
            }
            "hwversion" => self.hardware_version = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}
