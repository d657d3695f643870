//! The machines that a guest can be moved to: what its images are written as, and where it can be
//! booted to prove it.

use rehost_block::{Error, Result};
use rehost_image::Format;
use rehost_inject::target::{Bus, Target};
use rehost_runtime::{Bus as EngineBus, NicModel};

use crate::source::Firmware;

/// A kind of machine, and the bus of its disks where one was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Hardware {
    /// The kind.
    pub target: &'static Target,
    /// The bus; the kind's usual ones if `None`.
    pub bus: Option<&'static Bus>,
}

impl Hardware {
    /// `target` with its disks on the bus called `bus`.
    ///
    /// # Errors
    /// Usage when such a machine has no such bus.
    pub fn new(target: &'static Target, bus: Option<&str>) -> Result<Self> {
        let bus = bus
            .map(|name| {
                target.bus(name).ok_or_else(|| {
                    let names: Vec<&str> = target.all_buses().map(|bus| bus.name).collect();
                    Error::usage(format!("{} has no disks on {name}", target.title))
                        .hint(format!("it has: {}", names.join(", ")))
                })
            })
            .transpose()?;
        Ok(Self { target, bus })
    }

    /// The format that its hypervisor reads; raw for a machine that has none.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.target.name {
            "kvm" => Format::Qcow2,
            "vmware" => Format::Vmdk,
            "hyperv" => Format::Vhdx,
            _ => Format::Raw,
        }
    }

    /// Its boot disk's bus: the one that was asked for, or the usual one. A machine of Hyper-V that BIOS
    /// starts is one of generation 1, and starts from IDE only.
    ///
    /// # Errors
    /// Internal for a target without buses.
    pub fn boot_bus(&self, firmware: Firmware) -> Result<&'static Bus> {
        let usual = if self.target.name == "hyperv" && firmware == Firmware::Bios {
            self.target.bus("ide")
        } else {
            self.target.buses.first()
        };
        self.bus
            .or(usual)
            .ok_or_else(|| Error::internal("a target without buses"))
    }

    /// The same bus of a machine that can be booted here; `None` where no engine has it.
    ///
    /// # Errors
    /// As [`Hardware::boot_bus`].
    pub fn engine_bus(&self, firmware: Firmware) -> Result<Option<EngineBus>> {
        Ok(match self.boot_bus(firmware)?.name {
            "virtio-blk" => Some(EngineBus::VirtioBlk),
            "virtio-scsi" => Some(EngineBus::VirtioScsi),
            "sata" => Some(EngineBus::Ahci),
            "nvme" => Some(EngineBus::Nvme),
            "ide" => Some(EngineBus::Ide),
            "pvscsi" => Some(EngineBus::Pvscsi),
            "lsisas1068" => Some(EngineBus::LsiSas),
            "megaraid" => Some(EngineBus::Megaraid),
            "usb" => Some(EngineBus::Usb),
            // QEMU's LSI SCSI controller is an older one, of another driver than VMware's (mptspi).
            _ => None,
        })
    }

    /// The usual network card of such a machine, as far as an engine has it.
    #[must_use]
    pub fn engine_card(&self) -> Option<NicModel> {
        match self.target.name {
            "kvm" => Some(NicModel::VirtioNet),
            "vmware" => Some(NicModel::Vmxnet3),
            "physical" => Some(NicModel::E1000e),
            _ => None,
        }
    }

    /// The buses that a guest is prepared for, for people.
    #[must_use]
    pub fn prepared_for(&self) -> Vec<&'static str> {
        match self.bus {
            Some(bus) => vec![bus.title],
            None => self.target.buses.iter().map(|bus| bus.title).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_inject::target::{HYPERV, KVM, PHYSICAL, VMWARE};

    #[test]
    fn each_target_is_proven_on_its_own_bus_or_not_at_all() {
        let (bios, efi) = (Firmware::Bios, Firmware::Efi);
        for (target, bus, firmware, format, engine) in [
            (&KVM, None, bios, Format::Qcow2, Some(EngineBus::VirtioBlk)),
            (
                &KVM,
                Some("virtio-scsi"),
                efi,
                Format::Qcow2,
                Some(EngineBus::VirtioScsi),
            ),
            (&VMWARE, None, bios, Format::Vmdk, Some(EngineBus::Pvscsi)),
            (&VMWARE, Some("lsilogic"), bios, Format::Vmdk, None),
            (
                &VMWARE,
                Some("lsisas1068"),
                bios,
                Format::Vmdk,
                Some(EngineBus::LsiSas),
            ),
            (&HYPERV, None, bios, Format::Vhdx, Some(EngineBus::Ide)),
            (&HYPERV, None, efi, Format::Vhdx, None),
            (&PHYSICAL, None, bios, Format::Raw, Some(EngineBus::Ahci)),
            (
                &PHYSICAL,
                Some("nvme"),
                bios,
                Format::Raw,
                Some(EngineBus::Nvme),
            ),
            (
                &PHYSICAL,
                Some("megaraid"),
                bios,
                Format::Raw,
                Some(EngineBus::Megaraid),
            ),
            (&PHYSICAL, Some("smartpqi"), bios, Format::Raw, None),
        ] {
            let hardware = Hardware::new(target, bus).unwrap();
            assert_eq!(hardware.format(), format);
            let found = hardware.engine_bus(firmware).unwrap();
            assert_eq!(found, engine, "{} {bus:?}", target.name);
        }
    }

    #[test]
    fn a_bus_that_a_machine_does_not_have_is_refused_with_those_it_has() {
        let error = Hardware::new(&HYPERV, Some("virtio-blk")).unwrap_err();
        assert!(error.to_string().contains("storvsc"), "{error}");
    }
}
