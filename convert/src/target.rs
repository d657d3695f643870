//! What a migration leaves for its hypervisor besides the disk images: the machine described in the
//! form that is at home there.

pub mod hyperv;
pub mod libvirt;
mod machine;
pub mod physical;
pub mod vmx;

use rehost_block::{Error, Result};

use crate::hardware::Hardware;
use crate::source::{Described, Firmware};

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

    /// As [`Form::check`], for its network cards.
    ///
    /// # Errors
    /// Unsupported, by name, for more of them than such a machine has.
    pub fn check_cards(self, cards: usize) -> Result<()> {
        let (machine, most) = match self {
            Self::Vmx => ("a VMware machine", vmx::MOST_CARDS),
            Self::HyperV => ("a Hyper-V machine", hyperv::MOST_CARDS),
            // A domain gets a PCI Express port for each; of a physical machine nobody knows.
            Self::Libvirt | Self::Physical => return Ok(()),
        };
        if cards <= most {
            return Ok(());
        }
        Err(
            Error::unsupported(format!("{machine} has no room for so many network cards"))
                .mismatch(format!("at most {most}"), cards),
        )
    }

    /// What can be done about [`Form::check_cards`], where the old machine's cards are known as `described`
    /// says.
    #[must_use]
    pub fn fewer_cards(self, described: Described) -> String {
        let fewer = match described {
            Described::Vmx | Described::Libvirt => {
                "remove those that the guest can do without from a copy of the machine's description"
            }
            Described::Disks => {
                "its cards are those of the guest's network configuration and of --mac: give the machine's \
                 description (VMX, libvirt's XML) in place of its disks, or take out of that configuration \
                 what is no card any more"
            }
        };
        match self {
            Self::HyperV => format!(
                "{fewer}; a generation 1 machine takes up to 4 legacy cards besides, which can be added on the host"
            ),
            Self::Vmx | Self::Libvirt | Self::Physical => fewer.to_owned(),
        }
    }

    /// The content of its file.
    ///
    /// # Errors
    /// As [`Form::check`] and [`Form::check_cards`].
    pub fn write(self, machine: &NewMachine) -> Result<String> {
        self.check_cards(machine.nics.len())?;
        match self {
            Self::Libvirt => libvirt::domain(machine),
            Self::Vmx => vmx::vmx(machine),
            Self::HyperV => hyperv::script(machine),
            Self::Physical => Ok(physical::note(machine)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_network_cards_than_a_machine_takes_are_refused_by_number() {
        for (form, bus, most) in [(Form::Vmx, "pvscsi", 10), (Form::HyperV, "ide", 8)] {
            let mut machine = sample(bus, 1);
            machine.nics = vec![machine.nics[0].clone(); most];
            form.check_cards(most).unwrap();
            form.write(&machine).unwrap();
            machine.nics.push(machine.nics[0].clone());
            for error in [
                form.check_cards(most + 1).unwrap_err(),
                form.write(&machine).unwrap_err(),
            ] {
                assert_eq!(error.kind(), rehost_block::Kind::Unsupported);
                let error = error.to_string();
                assert!(error.contains("network cards"), "{error}");
                assert!(error.contains(&format!("at most {most}")), "{error}");
            }
        }
        Form::Libvirt.check_cards(20).unwrap();
        let lone = Form::Vmx.fewer_cards(Described::Disks);
        assert!(
            lone.contains("configuration") && lone.contains("--mac"),
            "{lone}"
        );
        let hyperv = Form::HyperV.fewer_cards(Described::Vmx);
        assert!(
            hyperv.contains("description") && hyperv.contains("legacy"),
            "{hyperv}"
        );
    }
}
