//! The disks and network cards that QEMU has, as its `-device` option names them: a table.
//!
//! Names and properties are those of QEMU 7.2 (`-device help`). Left out, because QEMU has none:
//! LSI's 53C1030 (`mptspi`, VMware's `lsilogic`), Hyper-V's synthetic disks and cards, SAS adapters
//! of the second and third generation, Smart Array.

use crate::{Bus, NicModel};

/// How a bus tells its disks apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Each is a PCI device of its own.
    Slot,
    /// `bus=ide.N`: a port of the q35's own AHCI controller.
    Port,
    /// `scsi-id=N` on a parallel bus, where 7 is the controller's own.
    Parallel,
    /// `scsi-id=N`.
    Target,
    /// Two channels of two units.
    Channel,
    /// `port=N` of a hub, counted from 1.
    Hub,
}

/// A kind of attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The bus.
    bus: Bus,
    /// The `-device` of its controller, where a machine does not have it anyway.
    pub(super) controller: Option<&'static str>,
    /// The `-device` of a disk.
    device: &'static str,
    place: Place,
    /// Disks that fit.
    pub(super) capacity: usize,
    /// What a disk of it is called in messages.
    pub(super) disks: &'static str,
}

/// Failed requests are the guest's to hear of, and do not stop the machine.
const REPORT: &str = ",rerror=report,werror=report";

const TABLE: [Attachment; 10] = [
    Attachment {
        bus: Bus::VirtioBlk,
        controller: None,
        device: "virtio-blk-pci,disable-legacy=on",
        place: Place::Slot,
        capacity: 16,
        disks: "virtio",
    },
    Attachment {
        bus: Bus::VirtioScsi,
        controller: Some("virtio-scsi-pci,id=virtio-scsi,disable-legacy=on"),
        device: "scsi-hd,bus=virtio-scsi.0",
        place: Place::Parallel,
        capacity: 15,
        disks: "SCSI",
    },
    Attachment {
        bus: Bus::Ahci,
        controller: None,
        device: "ide-hd",
        place: Place::Port,
        // What the q35's controller has ports for.
        capacity: 6,
        disks: "SATA",
    },
    Attachment {
        bus: Bus::Pvscsi,
        controller: Some("pvscsi,id=pvscsi"),
        device: "scsi-hd,bus=pvscsi.0",
        place: Place::Parallel,
        capacity: 15,
        disks: "SCSI",
    },
    Attachment {
        bus: Bus::Nvme,
        controller: None,
        device: "nvme",
        place: Place::Slot,
        capacity: 16,
        disks: "NVMe",
    },
    Attachment {
        bus: Bus::Ide,
        controller: Some("piix3-ide,id=piix"),
        device: "ide-hd",
        place: Place::Channel,
        capacity: 4,
        disks: "IDE",
    },
    Attachment {
        bus: Bus::Lsi,
        controller: Some("lsi53c895a,id=lsi"),
        device: "scsi-hd,bus=lsi.0",
        place: Place::Target,
        // Targets 0 to 6; 7 is its own.
        capacity: 7,
        disks: "SCSI",
    },
    Attachment {
        bus: Bus::LsiSas,
        controller: Some("mptsas1068,id=mptsas"),
        device: "scsi-hd,bus=mptsas.0",
        place: Place::Target,
        capacity: 8,
        disks: "SAS",
    },
    Attachment {
        bus: Bus::Megaraid,
        controller: Some("megasas-gen2,id=megasas"),
        device: "scsi-hd,bus=megasas.0",
        place: Place::Target,
        capacity: 15,
        disks: "SAS",
    },
    Attachment {
        bus: Bus::Usb,
        controller: Some("qemu-xhci,id=xhci"),
        device: "usb-storage,bus=xhci.0",
        place: Place::Hub,
        // The ports that it has unless told otherwise.
        capacity: 4,
        disks: "USB",
    },
];

impl Attachment {
    /// How disks are attached to `bus`.
    pub(super) fn of(bus: Bus) -> Option<&'static Self> {
        TABLE.iter().find(|attachment| attachment.bus == bus)
    }

    /// The `-device` of the disk at `unit`, whose block node is called `name`.
    pub(super) fn disk(&self, name: &str, unit: usize, boot_index: usize) -> String {
        let device = self.device;
        let position = match self.place {
            // An NVMe controller needs a serial number.
            Place::Slot if self.bus == Bus::Nvme => format!(",serial={name}"),
            Place::Slot => String::new(),
            Place::Port => format!(",bus=ide.{unit}"),
            Place::Parallel => format!(",scsi-id={}", if unit < 7 { unit } else { unit + 1 }),
            Place::Target => format!(",scsi-id={unit}"),
            Place::Channel => format!(",bus=piix.{},unit={}", unit / 2, unit % 2),
            Place::Hub => format!(",port={}", unit + 1),
        };
        // NVMe controllers do not have the option, and do as it says.
        let errors = if self.bus == Bus::Nvme { "" } else { REPORT };
        format!("{device}{position},drive={name},id=device-{name},bootindex={boot_index}{errors}")
    }
}

/// The `-device` of a network card. Without an option ROM: nothing is booted from it.
pub(super) const fn card(model: NicModel) -> &'static str {
    match model {
        NicModel::VirtioNet => "virtio-net-pci,disable-legacy=on,romfile=",
        NicModel::Vmxnet3 => "vmxnet3,romfile=",
        NicModel::E1000e => "e1000e,romfile=",
        NicModel::E1000 => "e1000-82545em,romfile=",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bus_has_its_attachment_and_places_that_differ() {
        for bus in Bus::ALL {
            let attachment = Attachment::of(bus).unwrap();
            let mut lines: Vec<String> = (0..attachment.capacity)
                .map(|unit| attachment.disk("d", unit, 1))
                .collect();
            let count = lines.len();
            lines.sort();
            lines.dedup();
            if attachment.place != Place::Slot {
                assert_eq!(lines.len(), count, "{bus:?}");
            }
        }
    }
}
