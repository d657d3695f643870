//! What a migration leaves for its hypervisor besides the disk images: the machine described in the
//! form that is at home there.

pub mod hyperv;
pub mod libvirt;
mod machine;
pub mod physical;
pub mod vmx;

use rehost_block::{Error, Result};

use crate::hardware::Hardware;
use crate::source::Firmware;

#[cfg(test)]
pub(crate) use machine::sample;
pub use machine::{GuestOs, NewDisk, NewMachine, NewNic, file_name};

/// A form in which a machine is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A libvirt domain.
    Libvirt,
    /// VMware's VMX.
    Vmx,
    /// A PowerShell script that makes a Hyper-V machine.
    HyperV,
    /// A note for people.
    Physical,
}

impl Form {
    /// The form that is at home on `hardware`.
    ///
    /// # Errors
    /// Internal for a target without one.
    pub fn of(hardware: &Hardware) -> Result<Self> {
        match hardware.target.name {
            "kvm" => Ok(Self::Libvirt),
            "vmware" => Ok(Self::Vmx),
            "hyperv" => Ok(Self::HyperV),
            "physical" => Ok(Self::Physical),
            _ => Err(Error::internal("a target that nothing describes")),
        }
    }

    /// How its file's name ends.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Libvirt => "xml",
            Self::Vmx => "vmx",
            Self::HyperV => "ps1",
            Self::Physical => "txt",
        }
    }

    /// Refuses what cannot be described: better known before a guest is edited and booted.
    ///
    /// # Errors
    /// Unsupported, by name, for buses and numbers of disks that such a machine does not have.
    pub fn check(self, bus: &str, firmware: Firmware, disks: usize) -> Result<()> {
        match self {
            Self::Libvirt => libvirt::DiskBus::named(bus).map(drop),
            Self::Vmx => vmx::check(bus, disks),
            Self::HyperV => hyperv::check(bus, firmware, disks),
            Self::Physical => Ok(()),
        }
    }

    /// The content of its file.
    ///
    /// # Errors
    /// As [`Form::check`].
    pub fn write(self, machine: &NewMachine) -> Result<String> {
        match self {
            Self::Libvirt => libvirt::domain(machine),
            Self::Vmx => vmx::vmx(machine),
            Self::HyperV => hyperv::script(machine),
            Self::Physical => Ok(physical::note(machine)),
        }
    }
}
