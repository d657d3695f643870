//! The machine a guest is booted in, and the contract between an engine and what watches it.
//!
//! No machine has a network, whatever the engine: a guest under test must not reach anything.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rehost_block::{DiskMut, Result};
use serde::Serialize;

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
}

/// A disk of the machine. What the guest writes goes to `disk`, so give an overlay.
#[derive(Debug, Clone)]
pub struct MachineDisk {
    /// Its content.
    pub disk: Arc<dyn DiskMut>,
    /// How the guest sees it.
    pub bus: Bus,
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

/// How the machine starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// The guest's own kernel, placed in memory by the engine.
    Direct(DirectBoot),
    /// The firmware (BIOS) boots the first disk, boot loader and all. QEMU only.
    Firmware,
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
