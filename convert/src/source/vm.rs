//! The machine that is moved, whoever described it, as types that cannot hold nonsense.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use rehost_image::Format;
use serde::Serialize;
use uuid::Uuid;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// The file that describes it; its first disk, when nothing does.
    pub path: PathBuf,
    /// In which form it is described.
    pub described: Described,
    /// Its name.
    pub name: String,
    /// `guestOS` of a VMX: `debian12-64`.
    pub guest_os: Option<String>,
    /// `virtualHW.version` of a VMX.
    pub hardware_version: Option<u32>,
    /// What starts it.
    pub firmware: Firmware,
    /// Virtual processors.
    pub vcpus: NonZeroU32,
    /// Cores a socket.
    pub cores_per_socket: NonZeroU32,
    /// Memory in MiB.
    pub memory_mib: NonZeroU64,
    /// The UUID that its firmware shows.
    pub uuid: Option<Uuid>,
    /// Hard disks, the one that boots first.
    pub disks: Vec<VmDisk>,
    /// CD-ROM drives.
    pub cdroms: Vec<Cdrom>,
    /// Network adapters, in order.
    pub nics: Vec<Nic>,
    /// The firmware's own memory, as written.
    pub nvram: Option<String>,
    /// What the machine has and this program does not carry over.
    pub left_out: Vec<LeftOut>,
}

/// In which form a machine is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Described {
    /// VMware's VMX.
    Vmx,
    /// A libvirt domain.
    Libvirt,
    /// Not at all: there are its disks alone.
    Disks,
}

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Efi,
    /// UEFI that starts signed boot loaders only.
    EfiSecureBoot,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::Efi => "UEFI",
            Self::EfiSecureBoot => "UEFI with Secure Boot",
        })
    }
}

/// A disk controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// BusLogic parallel SCSI.
    Buslogic,
    /// LSI Logic parallel SCSI: a 53C1030 (`mptspi`) on VMware, a 53C895A (`sym53c8xx`) on QEMU.
    Lsilogic,
    /// LSI Logic SAS (`mptsas`).
    Lsisas1068,
    /// MegaRAID SAS 1078 (`megaraid_sas`).
    Lsisas1078,
    /// VMware paravirtual SCSI (`vmw_pvscsi`).
    Pvscsi,
    /// virtio-blk.
    VirtioBlk,
    /// virtio-scsi.
    VirtioScsi,
    /// AHCI.
    Ahci,
    /// NVMe.
    Nvme,
    /// IDE.
    Ide,
    /// USB.
    Usb,
    /// A SCSI controller whose model the file leaves to the hypervisor.
    Unspecified,
}

/// A hard disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmDisk {
    /// Where it is attached: `scsi0:1`, `vda`.
    pub at: String,
    /// To what.
    pub controller: Controller,
    /// The file, as written.
    pub named: String,
    /// The file, as the opener let it through.
    pub path: PathBuf,
    /// The format that the description says; `None` where it leaves that to the file.
    pub format: Option<Format>,
    /// How snapshots treat it.
    pub mode: DiskMode,
    /// Line of its name, from 1.
    pub line: u32,
}

/// How snapshots treat a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskMode {
    /// Taken into snapshots.
    Persistent,
    /// Never in a snapshot.
    IndependentPersistent,
    /// Writes are thrown away at power-off.
    IndependentNonpersistent,
}

/// A CD-ROM drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cdrom {
    /// Where it is attached.
    pub at: String,
    /// The image in it, as written; `None` for a host drive or an empty one. It is not opened.
    pub image: Option<String>,
}

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its number: N of `ethernetN`, or its place among the others from 0 on.
    pub number: u32,
    /// Its address in lower case with colons; `None` where it is not known, or yet to be made.
    pub mac: Option<String>,
    /// Its model.
    pub model: NicModel,
    /// The network it is on, by the hypervisor's name for it.
    pub network: Option<String>,
    /// How it is connected (`nat`, `bridged`, `hostonly`; libvirt's type of interface).
    pub connection: Option<String>,
    /// `pciSlotNumber` of a VMX.
    pub pci_slot: Option<u32>,
    /// What Linux calls it in the slot that the description gives it, by
    /// systemd.net-naming-scheme(7); `None` where that cannot be told.
    pub guest_name: Option<String>,
}

/// Model of a network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// AMD PCnet32, also called flexible.
    Vlance,
    /// Intel 82545EM, or another of its family.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// VMXNET and VMXNET 2.
    Vmxnet,
    /// VMXNET 3.
    Vmxnet3,
    /// virtio-net.
    Virtio,
    /// The description does not say.
    Unspecified,
    /// Another name, as written.
    Other(String),
}

/// Something the machine has that is not carried over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What, in one phrase.
    pub what: String,
    /// Line of the description, from 1.
    pub line: u32,
}
