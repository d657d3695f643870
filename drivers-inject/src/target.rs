//! What each kind of machine needs from a guest: tables.
//!
//! A driver is named where the guest has it and passed over where it does not: which of them a kernel
//! lacks is told by the plan. Modules that have another name in older kernels are listed with both.
//!
//! Left out on purpose: Fibre Channel and other adapters that need firmware files to find a disk;
//! network cards of physical machines are not put into the initramfs (they are not needed to find the
//! root filesystem, and would triple its size).

/// A way in which a machine offers its disks.
#[derive(Debug, PartialEq, Eq)]
pub struct Bus {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Drivers that are all needed to find a disk there.
    pub drivers: &'static [&'static str],
    /// How Linux calls its disks: `vd` of `/dev/vda`.
    pub disks: &'static str,
}

/// A kind of machine that a guest is prepared for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// How inspection calls the hypervisor whose tools are at home there.
    pub hypervisor: Option<&'static str>,
    /// The buses that a guest is prepared for when none is named, the usual one first.
    pub buses: &'static [Bus],
    /// Buses that it has besides: a guest is prepared for one only when that is named.
    pub other_buses: &'static [Bus],
    /// Drivers of which one is enough for the network.
    pub network: &'static [&'static str],
    /// Whether those go into the initramfs too, where an interface gets its name first.
    pub network_early: Early,
    /// Modules that go along where the kernel has them.
    pub optional: &'static [&'static str],
}

/// Whether network drivers belong into the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// They do.
    Yes,
    /// They are loaded from the root filesystem.
    No,
}

const VIRTIO_BLK: Bus = Bus {
    name: "virtio-blk",
    title: "virtio-blk",
    drivers: &["virtio_pci", "virtio_blk"],
    disks: "vd",
};
const VIRTIO_SCSI: Bus = Bus {
    name: "virtio-scsi",
    title: "virtio-scsi",
    drivers: &["virtio_pci", "virtio_scsi", "sd_mod"],
    disks: "sd",
};
const SATA: Bus = Bus {
    name: "sata",
    title: "SATA (AHCI)",
    drivers: &["ahci", "sd_mod"],
    disks: "sd",
};
const IDE: Bus = Bus {
    name: "ide",
    title: "IDE (PIIX)",
    drivers: &["ata_piix", "sd_mod"],
    disks: "sd",
};
const NVME: Bus = Bus {
    name: "nvme",
    title: "NVMe",
    drivers: &["nvme"],
    disks: "nvme",
};

/// QEMU/KVM with virtio devices.
pub const KVM: Target = Target {
    name: "kvm",
    title: "KVM with virtio devices",
    hypervisor: Some("KVM"),
    buses: &[VIRTIO_BLK, VIRTIO_SCSI],
    other_buses: &[SATA, NVME, IDE],
    network: &["virtio_net"],
    network_early: Early::Yes,
    optional: &["virtio_console", "virtio_rng", "virtio_balloon"],
};

/// VMware ESXi, Workstation and Fusion.
pub const VMWARE: Target = Target {
    name: "vmware",
    title: "VMware",
    hypervisor: Some("VMware"),
    buses: &[
        Bus {
            name: "pvscsi",
            title: "VMware's paravirtual SCSI",
            drivers: &["vmw_pvscsi", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "lsilogic",
            title: "LSI Logic parallel SCSI",
            drivers: &["mptspi", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "lsisas1068",
            title: "LSI Logic SAS",
            drivers: &["mptsas", "sd_mod"],
            disks: "sd",
        },
        SATA,
        NVME,
    ],
    other_buses: &[IDE],
    network: &["vmxnet3", "e1000e", "e1000"],
    network_early: Early::Yes,
    optional: &["vmw_balloon", "vmw_vmci"],
};

/// Hyper-V and Azure.
pub const HYPERV: Target = Target {
    name: "hyperv",
    title: "Hyper-V",
    hypervisor: Some("Hyper-V"),
    buses: &[
        Bus {
            name: "storvsc",
            title: "Hyper-V's synthetic SCSI",
            drivers: &["hv_vmbus", "hv_storvsc", "sd_mod"],
            disks: "sd",
        },
        // What a machine of generation 1 boots from; the synthetic driver takes over where it is.
        IDE,
    ],
    // Disks of Azure's newer machines.
    other_buses: &[NVME],
    network: &["hv_netvsc"],
    network_early: Early::Yes,
    optional: &["hv_utils", "hyperv_keyboard", "hid_hyperv", "pci_hyperv"],
};

/// Real machines, as far as one list goes.
pub const PHYSICAL: Target = Target {
    name: "physical",
    title: "a physical machine",
    hypervisor: None,
    buses: &[
        SATA,
        NVME,
        IDE,
        Bus {
            name: "megaraid",
            title: "Broadcom MegaRAID and Dell PERC",
            drivers: &["megaraid_sas", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "sas",
            title: "LSI and Broadcom SAS adapters",
            drivers: &["mpt3sas", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "sas2",
            title: "LSI SAS-2 adapters, kernels before 4.4",
            drivers: &["mpt2sas", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "hpsa",
            title: "HP Smart Array",
            drivers: &["hpsa", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "smartpqi",
            title: "Microchip Smart Array and SmartRAID",
            drivers: &["smartpqi", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "aacraid",
            title: "Adaptec RAID",
            drivers: &["aacraid", "sd_mod"],
            disks: "sd",
        },
        Bus {
            name: "usb",
            title: "USB disks",
            drivers: &["xhci_pci", "usb_storage", "sd_mod"],
            disks: "sd",
        },
    ],
    other_buses: &[],
    network: &[
        "e1000e",
        "igb",
        "igc",
        "ixgbe",
        "i40e",
        "ice",
        "tg3",
        "bnx2",
        "bnx2x",
        "bnxt_en",
        "mlx4_en",
        "mlx5_core",
        "r8169",
        "r8125",
        "atlantic",
        "be2net",
        "e1000",
        "qede",
        "ena",
    ],
    network_early: Early::No,
    // Intel's RAID mode hides NVMe disks behind vmd; a keyboard for the emergency shell.
    optional: &[
        "vmd",
        "isci",
        "mptsas",
        "mptspi",
        "mpi3mr",
        "pm80xx",
        "arcmsr",
        "uas",
        "ehci_pci",
        "xhci_hcd",
        "usbhid",
        "hid_generic",
    ],
};

/// Every target.
pub const TARGETS: &[Target] = &[KVM, VMWARE, HYPERV, PHYSICAL];

impl Target {
    /// The target called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// All buses that a machine of this kind can have.
    pub fn all_buses(&self) -> impl Iterator<Item = &'static Bus> {
        self.buses.iter().chain(self.other_buses)
    }

    /// Its bus called `name`.
    #[must_use]
    pub fn bus(&self, name: &str) -> Option<&'static Bus> {
        self.all_buses().find(|bus| bus.name == name)
    }

    /// Modules that an initramfs shall hold for `buses`, each once, in table order.
    #[must_use]
    pub fn modules(&self, buses: &[Bus]) -> Vec<&'static str> {
        let early = match self.network_early {
            Early::Yes => self.network,
            Early::No => &[],
        };
        let mut modules: Vec<&'static str> = Vec::new();
        let drivers = buses.iter().flat_map(|bus| bus.drivers);
        for module in drivers.chain(early) {
            if !modules.contains(module) {
                modules.push(module);
            }
        }
        modules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_target_can_find_a_disk() {
        for target in TARGETS {
            assert_eq!(Target::named(target.name), Some(target));
            assert!(!target.buses.is_empty() && !target.network.is_empty());
            let names: Vec<&str> = target.all_buses().map(|bus| bus.name).collect();
            for (nth, name) in names.iter().enumerate() {
                assert!(!names[..nth].contains(name), "{name} twice");
                assert!(target.bus(name).is_some_and(|bus| !bus.drivers.is_empty()));
            }
        }
    }

    #[test]
    fn modules_are_listed_once() {
        let modules = KVM.modules(KVM.buses);
        assert_eq!(
            modules,
            [
                "virtio_pci",
                "virtio_blk",
                "virtio_scsi",
                "sd_mod",
                "virtio_net"
            ]
        );
        assert!(!PHYSICAL.modules(PHYSICAL.buses).contains(&"mlx5_core"));
    }
}
