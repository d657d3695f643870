//! The machines that a guest can be moved to: what its images are written as, and where it can be
//! booted to prove it.

use rehost_block::{Error, Result};
use rehost_image::Format;
use rehost_inject::target::{Bus, Target};
use rehost_runtime::Bus as EngineBus;

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

    /// Its boot disk's bus: the one that was asked for, or the usual one.
    ///
    /// # Errors
    /// Internal for a target without buses.
    pub fn boot_bus(&self) -> Result<&'static Bus> {
        self.bus
            .or(self.target.buses.first())
            .ok_or_else(|| Error::internal("a target without buses"))
    }

    /// The same bus of a machine that can be booted here; `None` where no engine has it.
    ///
    /// # Errors
    /// As [`Hardware::boot_bus`].
    pub fn engine_bus(&self) -> Result<Option<EngineBus>> {
        Ok(match self.boot_bus()?.name {
            "virtio-blk" => Some(EngineBus::VirtioBlk),
            "virtio-scsi" => Some(EngineBus::VirtioScsi),
            "sata" => Some(EngineBus::Ahci),
            "pvscsi" => Some(EngineBus::Pvscsi),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_inject::target::{HYPERV, KVM, PHYSICAL, VMWARE};

    #[test]
    fn each_target_is_proven_on_its_own_bus_or_not_at_all() {
        for (target, bus, format, engine) in [
            (&KVM, None, Format::Qcow2, Some(EngineBus::VirtioBlk)),
            (
                &KVM,
                Some("virtio-scsi"),
                Format::Qcow2,
                Some(EngineBus::VirtioScsi),
            ),
            (&VMWARE, None, Format::Vmdk, Some(EngineBus::Pvscsi)),
            (&HYPERV, None, Format::Vhdx, None),
            (&PHYSICAL, None, Format::Raw, Some(EngineBus::Ahci)),
            (&PHYSICAL, Some("megaraid"), Format::Raw, None),
        ] {
            let hardware = Hardware::new(target, bus).unwrap();
            assert_eq!(hardware.format(), format);
            assert_eq!(hardware.engine_bus().unwrap(), engine, "{}", target.name);
        }
    }

    #[test]
    fn a_bus_that_a_machine_does_not_have_is_refused_with_those_it_has() {
        let error = Hardware::new(&HYPERV, Some("virtio-blk")).unwrap_err();
        assert!(error.to_string().contains("storvsc"), "{error}");
    }
}
