//! The machine that a VMX file describes.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;

use rehost_block::{Error, Opener, Result};
use uuid::Uuid;

use super::devices;
use super::syntax::Dictionary;
use crate::source::{Described, Firmware, Vm};

/// Most virtual CPUs. VMware's own limit (hardware version 20).
const MOST_VCPUS: u32 = 768;

/// Most memory, in MiB. VMware's own limit (24 TiB).
const MOST_MEMORY: u64 = 24 << 20;

/// A kind of bus, with VMware's key prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Bus {
    /// `scsiN:M`.
    Scsi,
    /// `sataN:M`.
    Sata,
    /// `nvmeN:M`.
    Nvme,
    /// `ideN:M`.
    Ide,
}

impl Bus {
    /// The prefix of its keys.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
            Self::Ide => "ide",
        }
    }
}

/// A place on a bus: `scsi0:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot {
    /// The bus.
    pub(super) bus: Bus,
    /// Number of the controller.
    pub(super) controller: u32,
    /// Number on the controller.
    pub(super) unit: u32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.bus.prefix(), self.controller, self.unit)
    }
}

/// Builds the machine.
pub(super) fn build(dictionary: &Dictionary, path: &Path, opener: &dyn Opener) -> Result<Vm> {
    refuse_encrypted(dictionary)?;
    let stem = path.file_stem().unwrap_or_default();
    let name = dictionary.text("displayName").map(str::to_owned);
    Ok(Vm {
        path: path.to_owned(),
        described: Described::Vmx,
        name: name.unwrap_or_else(|| stem.to_string_lossy().into_owned()),
        guest_os: dictionary.text("guestOS").map(str::to_owned),
        hardware_version: dictionary.number("virtualHW.version")?,
        firmware: firmware(dictionary)?,
        vcpus: count(dictionary, "numvcpus")?,
        cores_per_socket: count(dictionary, "cpuid.coresPerSocket")?,
        memory_mib: memory(dictionary)?,
        uuid: uuid(dictionary)?,
        disks: devices::disks(dictionary, path, opener)?,
        cdroms: devices::cdroms(dictionary),
        nics: devices::nics(dictionary)?,
        nvram: dictionary.text("nvram").map(str::to_owned),
        left_out: devices::left_out(dictionary),
    })
}

fn refuse_encrypted(dictionary: &Dictionary) -> Result<()> {
    let keys = ["encryption.data", "encryption.keySafe", "encryptedVM.guid"];
    match keys.iter().find_map(|key| dictionary.entry(key)) {
        Some(entry) => Err(entry
            .unsupported("says that this machine is encrypted")
            .hint("remove the encryption in VMware first (VM settings, Access Control)")),
        None => Ok(()),
    }
}

fn firmware(dictionary: &Dictionary) -> Result<Firmware> {
    let Some(entry) = dictionary.entry("firmware") else {
        return Ok(Firmware::Bios);
    };
    match entry.value.to_ascii_lowercase().as_str() {
        "bios" => Ok(Firmware::Bios),
        "efi" if dictionary.is_true("uefi.secureBoot.enabled") => Ok(Firmware::EfiSecureBoot),
        "efi" => Ok(Firmware::Efi),
        _ => Err(entry
            .unsupported("is a firmware that is not known")
            .mismatch("bios or efi", &entry.value)),
    }
}

fn count(dictionary: &Dictionary, key: &str) -> Result<NonZeroU32> {
    let number: u32 = dictionary.number(key)?.unwrap_or(1);
    let valid = NonZeroU32::new(number).filter(|number| number.get() <= MOST_VCPUS);
    match (valid, dictionary.entry(key)) {
        (Some(number), _) => Ok(number),
        (None, Some(entry)) => Err(entry
            .corrupt("is no count of processors")
            .mismatch(format!("1 to {MOST_VCPUS}"), number)),
        (None, None) => Err(Error::internal(
            "a default count of processors that is not valid",
        )),
    }
}

fn memory(dictionary: &Dictionary) -> Result<NonZeroU64> {
    let Some(entry) = dictionary.entry("memSize") else {
        return Err(Error::corrupt("there is no memSize")
            .hint("is this the VMX file of a machine? a team or a snapshot list has none"));
    };
    let number: u64 = dictionary.number("memSize")?.unwrap_or_default();
    NonZeroU64::new(number)
        .filter(|number| number.get() <= MOST_MEMORY)
        .ok_or_else(|| {
            entry
                .corrupt("is no amount of memory in MiB")
                .mismatch(format!("1 to {MOST_MEMORY}"), number)
        })
}

/// `56 4d 99 89 a7 21 91 0d-cc 28 e2 db d5 4b 2b 8c`, in the order written.
fn uuid(dictionary: &Dictionary) -> Result<Option<Uuid>> {
    let Some(entry) = dictionary.entry("uuid.bios") else {
        return Ok(None);
    };
    let digits: String = entry
        .value
        .chars()
        .filter(|c| !matches!(c, ' ' | '-'))
        .collect();
    match Uuid::try_parse(&digits) {
        Ok(uuid) => Ok(Some(uuid)),
        Err(_) => Err(entry
            .corrupt("is no UUID")
            .mismatch("16 bytes in hex", &entry.value)),
    }
}
