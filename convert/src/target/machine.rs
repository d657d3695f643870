//! The machine that a migrated guest is to have, whatever hypervisor it is for.

use std::path::PathBuf;

use rehost_image::Format;
use rehost_inspect::Inspection;
use rehost_inspect::model::Architecture;
use serde::Serialize;
use uuid::Uuid;

use crate::source::Firmware;

/// A machine to be made.
#[derive(Debug, Clone, Serialize)]
pub struct NewMachine {
    /// Its name.
    pub name: String,
    /// The UUID that its firmware shows; the source's own, where it had one.
    pub uuid: Option<Uuid>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// Cores a socket.
    pub cores_per_socket: u32,
    /// What starts it.
    pub firmware: Firmware,
    /// The bus of its disks, as `--disk-bus` has it.
    pub bus: &'static str,
    /// The buses that the guest was prepared for, for people.
    pub prepared_for: Vec<&'static str>,
    /// Disks, the boot disk first.
    pub disks: Vec<NewDisk>,
    /// Network cards.
    pub nics: Vec<NewNic>,
    /// What runs on it.
    pub guest: GuestOs,
}

/// A disk of it.
#[derive(Debug, Clone, Serialize)]
pub struct NewDisk {
    /// The image's absolute path.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes that the guest sees.
    pub size: u64,
}

impl NewDisk {
    /// The image's name in its folder.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// A network card of it.
#[derive(Debug, Clone, Serialize)]
pub struct NewNic {
    /// Its number on the old machine.
    pub number: u32,
    /// Its MAC address, kept from the source so that the guest's configuration still matches.
    pub mac: Option<String>,
    /// What the guest's configuration calls it, where that is known.
    pub guest_name: Option<String>,
}

/// What runs on it, as inspection found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestOs {
    /// `ID` of os-release: `debian`.
    pub id: String,
    /// The whole number that `VERSION_ID` begins with.
    pub version: Option<u32>,
    /// Whether it has programs of 64 bits.
    pub wide: bool,
    /// VMware's own name for it, where the source had one.
    pub vmware: Option<String>,
}

impl GuestOs {
    /// The chosen system of `inspection`.
    #[must_use]
    pub fn of(inspection: Option<&Inspection>, vmware: Option<&str>) -> Self {
        let system = inspection.and_then(Inspection::system);
        let version = system
            .and_then(|system| system.os.version_id.as_deref())
            .and_then(|version| version.split('.').next()?.parse().ok());
        Self {
            id: system.map_or_else(String::new, |system| system.os.id.clone()),
            version,
            wide: system.is_none_or(|system| system.architecture != Some(Architecture::X86)),
            vmware: vmware.map(str::to_owned),
        }
    }
}

/// Keeps what hypervisors and their hosts' file systems allow in a name: nothing that separates folders on
/// Linux or Windows, no wildcard, no line break, and no dot or space at the end.
#[must_use]
pub fn file_name(name: &str) -> String {
    let clean: String = name
        .trim()
        .trim_end_matches(['.', ' '])
        .chars()
        .map(|c| {
            if c.is_control() || r#"/\:*?"<>|"#.contains(c) {
                '-'
            } else {
                c
            }
        })
        .collect();
    if clean.is_empty() {
        "guest".to_owned()
    } else {
        clean
    }
}

#[cfg(test)]
pub(crate) fn sample(bus: &'static str, disks: usize) -> NewMachine {
    NewMachine {
        name: "web".to_owned(),
        uuid: Uuid::try_parse("564d3c5a-8f1e-4270-9b06-d1a4772ec031").ok(),
        memory_mib: 1024,
        vcpus: 4,
        cores_per_socket: 2,
        firmware: Firmware::Bios,
        bus,
        prepared_for: vec!["SATA (AHCI)", "NVMe"],
        disks: (0..disks)
            .map(|nth| NewDisk {
                path: format!("/out/web-{nth}.img").into(),
                format: Format::Raw,
                size: 3 << 30,
            })
            .collect(),
        nics: vec![NewNic {
            number: 0,
            mac: Some("00:0c:29:2e:c0:31".to_owned()),
            guest_name: Some("ens192".to_owned()),
        }],
        guest: GuestOs {
            id: "debian".to_owned(),
            version: Some(12),
            wide: true,
            vmware: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_and_matches_nothing_else() {
        for (name, file) in [
            ("web", "web"),
            ("..\\prod\\db", "..-prod-db"),
            ("*", "-"),
            ("a/b:c?", "a-b-c-"),
            (" .. ", "guest"),
            ("web. ", "web"),
            ("x\ny", "x-y"),
        ] {
            assert_eq!(file_name(name), file, "{name:?}");
        }
    }
}
