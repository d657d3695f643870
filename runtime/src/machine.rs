//! The machine a guest is booted in, and the contract between an engine and what watches it.
//!
//! No machine has a network, whatever the engine: a guest under test must not reach anything. A network
//! card that is asked for hangs on a wire whose other end is in this process, and leads nowhere else.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rehost_block::{DiskMut, Error, Result};
use serde::Serialize;

use crate::UefiImage;

/// On which virtual bus a disk is shown to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio-blk on PCI.
    VirtioBlk,
    /// A SCSI disk on a virtio-scsi controller.
    VirtioScsi,
    /// A SATA disk on an AHCI controller.
    Ahci,
    /// A SCSI disk on VMware's paravirtual controller.
    Pvscsi,
    /// An NVMe controller with one namespace.
    Nvme,
    /// A disk on the IDE controller of Intel's PIIX3.
    Ide,
    /// A SCSI disk on an LSI 53C895A, which Linux drives with `sym53c8xx`.
    Lsi,
    /// A disk on an LSI SAS1068, which Linux drives with `mptsas`.
    LsiSas,
    /// A disk on a MegaRAID SAS 2108.
    Megaraid,
    /// A USB mass storage device on an xHCI controller.
    Usb,
}

impl Bus {
    /// All of them, the built-in engine's first.
    pub const ALL: [Self; 10] = [
        Self::VirtioBlk,
        Self::VirtioScsi,
        Self::Ahci,
        Self::Pvscsi,
        Self::Nvme,
        Self::Ide,
        Self::Lsi,
        Self::LsiSas,
        Self::Megaraid,
        Self::Usb,
    ];

    /// Its controller, for messages.
    #[must_use]
    pub const fn controller(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk controller",
            Self::VirtioScsi => "virtio-scsi controller",
            Self::Ahci => "AHCI controller",
            Self::Pvscsi => "VMware SCSI controller",
            Self::Nvme => "NVMe controller",
            Self::Ide => "IDE controller",
            Self::Lsi => "LSI SCSI controller",
            Self::LsiSas => "LSI SAS controller",
            Self::Megaraid => "MegaRAID controller",
            Self::Usb => "USB controller",
        }
    }
}

/// A disk of the machine. What the guest writes goes to `disk`, so give an overlay.
#[derive(Debug, Clone)]
pub struct MachineDisk {
    /// Its content.
    pub disk: Arc<dyn DiskMut>,
    /// How the guest sees it.
    pub bus: Bus,
}

/// Model of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// virtio-net on PCI.
    VirtioNet,
    /// VMware's VMXNET 3.
    Vmxnet3,
    /// Intel 82574L.
    E1000e,
    /// Intel 82545EM.
    E1000,
}

/// The address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("{text:?} is no MAC address"))
                .hint("six bytes in hex with colons, as in 00:0c:29:2e:c0:31")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .filter(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)?;
        }
        // The first byte's last bit is a group's, which no card is.
        let alone = bytes.first().is_some_and(|first| first & 1 == 0);
        if parts.next().is_some() || !alone {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The other end of a network card's wire.
pub trait Wire: fmt::Debug + Send + Sync {
    /// The guest sent this Ethernet frame.
    fn received(&self, frame: &[u8]);

    /// A frame for the guest, if one is due. Asked several times a second, and again at once after
    /// each frame.
    fn due(&self) -> Option<Vec<u8>>;
}

/// A network card of the machine.
#[derive(Debug, Clone)]
pub struct MachineNic {
    /// How the guest sees it.
    pub model: NicModel,
    /// Its address.
    pub mac: Mac,
    /// What it is plugged into.
    pub wire: Arc<dyn Wire>,
}

/// What a boot loader would have put into memory.
#[derive(Clone)]
pub struct DirectBoot {
    /// The kernel file (bzImage).
    pub kernel: Vec<u8>,
    /// The initramfs, all its files joined.
    pub initrd: Option<Vec<u8>>,
    /// The kernel command line.
    pub command_line: String,
}

impl fmt::Debug for DirectBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectBoot")
            .field("kernel_bytes", &self.kernel.len())
            .field("initrd_bytes", &self.initrd.as_ref().map(Vec::len))
            .field("command_line", &self.command_line)
            .finish()
    }
}

/// The firmware of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// PC BIOS: the one that QEMU brings along.
    Bios,
    /// UEFI with an empty memory, as a machine has it that a disk was just moved to: no boot entry of
    /// the old one is known. It starts what is not signed, too.
    Uefi(UefiImage),
}

/// What edk2's firmware has drivers for only where it is built with them: of PVSCSI_ENABLE, MPT_SCSI_ENABLE
/// and LSI_SCSI_ENABLE its releases and distributions set some or none (Debian 12: none), and no build says
/// which. It has nothing for MegaRAID.
const UNSURE_IN_UEFI: [Bus; 4] = [Bus::Pvscsi, Bus::LsiSas, Bus::Lsi, Bus::Megaraid];

impl Firmware {
    /// Whether it finds a boot disk on `bus`. One that does not would say of every guest that there is
    /// nothing to boot.
    ///
    /// # Errors
    /// Unsupported when it does not, or that is not known.
    pub fn finds_disks_on(&self, bus: Bus) -> Result<()> {
        match self {
            Self::Uefi(_) if UNSURE_IN_UEFI.contains(&bus) => Err(Error::unsupported(format!(
                "QEMU's UEFI firmware cannot be relied on to find a disk on a {}",
                bus.controller()
            ))
            .hint("prove the guest on another bus, or by its kernel alone")),
            Self::Uefi(_) | Self::Bios => Ok(()),
        }
    }
}

/// How the machine starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// The guest's own kernel, placed in memory by the engine.
    Direct(DirectBoot),
    /// The firmware boots the first disk that it can, boot loader and all. QEMU only.
    Firmware(Firmware),
}

/// A virtual machine to boot.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Number of virtual processors, at least 1.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disks, the boot disk first.
    pub disks: Vec<MachineDisk>,
    /// Network cards.
    pub nics: Vec<MachineNic>,
    /// How it starts.
    pub start: Start,
}

/// What a watcher wants after it has seen more serial output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Let the guest run on.
    Continue,
    /// Enough was seen: stop the machine.
    Stop,
}

/// Sees what the guest writes to its first serial port.
pub trait Watch: Send {
    /// `bytes` came, in order.
    fn serial(&mut self, bytes: &[u8]) -> Next;

    /// Nothing has come for a moment. Engines call it several times a second while the guest is
    /// silent, so that a watcher can act on a prompt that stands or a message that fails to come.
    fn idle(&mut self) -> Next {
        Next::Continue
    }
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The watcher had seen enough.
    Watched,
    /// The guest powered off.
    PoweredOff,
    /// The guest reset its machine (a triple fault among others).
    Reset,
    /// The time was up.
    TimedOut,
    /// The engine could not go on: its own words (an emulation failure, a dead QEMU).
    Failed(String),
}

/// Something that can run a machine.
pub trait Engine: fmt::Debug {
    /// `kvm` or `qemu`.
    fn name(&self) -> &'static str;

    /// Runs `machine` until it ends, `watch` stops it, or `limit` has passed.
    ///
    /// # Errors
    /// Unsupported when this engine lacks what the machine asks for; Io when it cannot be started.
    fn run(&self, machine: &Machine, limit: Duration, watch: &mut dyn Watch) -> Result<Ended>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_cards_are_read_as_they_are_written() {
        let mac: Mac = "00:0C:29:2e:c0:31".parse().unwrap();
        assert_eq!(mac.to_string(), "00:0c:29:2e:c0:31");
        assert_eq!("00-0c-29-2e-c0-31".parse::<Mac>().unwrap(), mac);
        for wrong in [
            "",
            "00:0c:29:2e:c0",
            "00:0c:29:2e:c0:31:00",
            "00:0c:29:2e:c0:+1",
            "01:00:5e:00:00:01",
        ] {
            let error = wrong.parse::<Mac>().unwrap_err().to_string();
            assert!(error.contains("no MAC address"), "{error}");
        }
    }
}
