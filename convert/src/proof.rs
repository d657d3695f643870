//! The proof: boots a guest on throw-away overlays and says whether it reached its login prompt.
//!
//! The kernel, initramfs and command line are those its own boot loader would choose, read from
//! the very disks that are booted; or the firmware starts the boot loader itself. The command line of the
//! copy that is booted gets a serial console; the guest on the disks does not.

mod firmware;
mod network;
mod reach;
mod until;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rehost_block::{Disk, DiskMut, Error, File, Overlay, Result};
use rehost_inspect::unified::Program;
use rehost_inspect::{BootChoice, Guest};
use rehost_runtime::{Bus, DirectBoot, EngineChoice, Limits, Machine, MachineDisk, Start, Verdict};
use serde::Serialize;

use crate::guest::{choose_root, look};
use crate::interrupt;
use crate::secrets::Secrets;
use crate::voice::Voice;

pub use firmware::{Added, FirmwareProof, StartedBy};
use network::Question;
pub use network::{Answered, Card, LeftOut, Network, NetworkProof};
use until::Interruptible;

/// What the proof adds to the command line of the copy it boots. The last console is where
/// systemd starts a login prompt of its own accord (systemd-getty-generator(8)); the level lets the
/// kernel say, also where the guest asks it to be quiet, which disks it found. Linux counts timer ticks
/// against the clock when it starts, and panics ("IO-APIC + timer doesn't work") where a busy host lets a
/// translated machine lose them: that says nothing of the guest.
const ADDED: &str = "console=ttyS0,115200 loglevel=6 no_timer_check";

/// Memory a proof gets at most, in MiB: a login prompt needs no more, whatever the guest has.
const MOST_MEMORY: u32 = 2048;

/// Memory a proof gets at least, in MiB: stock kernels with a large initramfs need it.
const LEAST_MEMORY: u32 = 512;

/// Whether the serial console is shown while the guest boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serial {
    /// It is.
    Shown,
    /// Only the verdict's last lines are.
    Kept,
}

/// How a guest is to be booted.
#[derive(Debug, Clone)]
pub struct Booting {
    /// Which engine.
    pub engine: EngineChoice,
    /// On which bus the disks are.
    pub bus: Bus,
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What starts it.
    pub through: Through,
    /// When it counts as failed.
    pub limit: Duration,
    /// Whether its console is shown.
    pub serial: Serial,
    /// The network cards it gets, and the addresses that it must answer for; without, it has none.
    pub network: Option<Network>,
    /// What may open encrypted volumes, to find the kernel.
    pub secrets: Secrets,
    /// Where the system is that is meant, when there are several ([`choose_root`]).
    pub root: Option<String>,
    /// Set from outside to give up.
    pub cancel: &'static AtomicBool,
}

/// What starts the guest.
#[derive(Debug, Clone)]
pub enum Through {
    /// The engine puts its kernel into memory.
    Kernel,
    /// The firmware starts its boot loader.
    Firmware(StartedBy),
}

impl Booting {
    /// Processors and memory for a proof of a machine that has `vcpus` and `memory_mib`: no more
    /// than this host has processors and than a login prompt needs.
    #[must_use]
    pub fn sized(mut self, vcpus: u32, memory_mib: u64) -> Self {
        let host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let host = u32::try_from(host).unwrap_or(u32::MAX);
        self.vcpus = u8::try_from(vcpus.min(host).max(1)).unwrap_or(u8::MAX);
        self.memory_mib = u32::try_from(memory_mib)
            .unwrap_or(u32::MAX)
            .clamp(LEAST_MEMORY, MOST_MEMORY);
        self
    }
}

/// A boot and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Why this engine.
    pub engine_reason: String,
    /// Virtual processors it had.
    pub vcpus: u8,
    /// Memory it had, in MiB.
    pub memory_mib: u32,
    /// The bus of its disks.
    pub bus: Bus,
    /// The firmware that started its boot loader; `None` when its kernel was put into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwareProof>,
    /// Why this kernel, in one sentence; `None` when its boot loader chose.
    pub boot_reason: Option<String>,
    /// The kernel that was booted; `None` when its boot loader chose.
    pub kernel: Option<String>,
    /// Its initramfs files.
    pub initrds: Vec<String>,
    /// The command line, with what the proof added to it.
    pub command_line: Option<String>,
    /// What was seen.
    pub verdict: Verdict,
    /// Whether it answers for its addresses; `None` when it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkProof>,
}

impl Proof {
    /// Whether the login prompt was reached, and every address answered for that was asked for.
    #[must_use]
    pub fn passed(&self) -> bool {
        let network = self.network.as_ref();
        self.verdict.booted() && network.is_none_or(NetworkProof::passed)
    }
}

impl fmt::Display for Proof {
    /// The verdict, the line that decided and, when it is bad, the last lines of the console.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        write!(
            f,
            "{} ({}, {:.0} s)",
            verdict.reason, verdict.engine, verdict.seconds
        )?;
        if let Some(line) = &verdict.line {
            write!(f, "\n> {line}")?;
        }
        if let Some(network) = &self.network {
            write!(f, "\n{network}")?;
        }
        if !verdict.booted() {
            f.write_str("\nlast lines of its serial console:")?;
            for line in &verdict.tail {
                write!(f, "\n| {line}")?;
            }
        }
        Ok(())
    }
}

/// Boots the guest on `disks`, which are not changed; `name` is for messages.
///
/// # Errors
/// Unsupported when there is no system, no kernel, or no engine that can run it; Usage when it was
/// interrupted; as the disks.
/// A guest that does not boot is no error: the verdict says so.
pub fn prove(
    disks: &[Arc<dyn Disk>],
    name: &Path,
    booting: &Booting,
    voice: Voice,
) -> Result<Proof> {
    let mut firmware = None;
    let mut choice = None;
    let mut copies = disks.to_vec();
    let start = match &booting.through {
        Through::Kernel => {
            let mut guest = look(disks, &booting.secrets)?;
            if let Some(root) = &booting.root {
                choose_root(&mut guest, root)?;
            }
            let (chosen, boot) = direct(&guest, name)?;
            choice = Some(chosen);
            Start::Direct(boot)
        }
        Through::Firmware(by) => {
            let mut proof = FirmwareProof::new(by)?;
            proof.engine().finds_disks_on(booting.bus)?;
            copies = proof.listen(disks, name, booting);
            for sentence in proof.sentences() {
                voice.detail(sentence);
            }
            Start::Firmware(firmware.insert(proof).engine())
        }
    };
    let command_line = match &start {
        Start::Direct(boot) => Some(boot.command_line.clone()),
        Start::Firmware(_) => None,
    };
    let question = booting.network.as_ref().map(Network::ask);
    let machine = Machine {
        vcpus: booting.vcpus,
        memory_mib: booting.memory_mib,
        disks: copies
            .into_iter()
            .map(|disk| {
                Ok(MachineDisk {
                    disk: throw_away(disk)?,
                    bus: booting.bus,
                })
            })
            .collect::<Result<_>>()?,
        nics: question.as_ref().map(Question::nics).unwrap_or_default(),
        start,
    };
    let chosen = rehost_runtime::choose(booting.engine, &machine)?;
    voice.detail(&chosen.reason);
    let limits = Limits {
        total: booting.limit,
        ..Limits::default()
    };
    let mut stderr = std::io::stderr();
    let live: Option<&mut (dyn Write + Send)> = match booting.serial {
        Serial::Shown => Some(&mut stderr),
        Serial::Kept => None,
    };
    let engine = Interruptible {
        engine: &*chosen.engine,
        question: question.as_ref(),
        cancel: booting.cancel,
    };
    let verdict = rehost_runtime::boot(&machine, &engine, &limits, live)?;
    if !verdict.booted() {
        interrupt::check(booting.cancel)?;
    }
    Ok(Proof {
        engine_reason: chosen.reason,
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
        bus: booting.bus,
        firmware,
        boot_reason: choice.as_ref().map(|choice| choice.reason.clone()),
        kernel: choice.as_ref().map(|choice| choice.kernel.clone()),
        initrds: choice.map(|choice| choice.initrds).unwrap_or_default(),
        command_line,
        verdict,
        network: question.as_ref().map(Question::proof),
    })
}

/// What the guest's boot loader would start, and the same as it is put into memory.
fn direct(guest: &Guest, name: &Path) -> Result<(BootChoice, DirectBoot)> {
    let in_file = |error: Error| error.in_file(name);
    let system = guest.system().map_err(in_file)?;
    let tree = guest.tree().map_err(in_file)?;
    let choice = system.default_boot().map_err(in_file)?;
    let read = |path: &str| {
        tree.read(path)?.ok_or_else(|| {
            Error::corrupt(format!("the boot loader names {path}, which is not there"))
                .in_file(name)
        })
    };
    let (kernel, mut initrd) = unpacked(read(&choice.kernel)?)?;
    for path in &choice.initrds {
        // Boot loaders join initramfs files at multiples of four bytes (kernel documentation,
        // "initramfs buffer format").
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(read(path)?);
    }
    let command_line = format!("{} {ADDED}", choice.command_line.trim());
    let boot = DirectBoot {
        kernel,
        initrd: (!initrd.is_empty()).then_some(initrd),
        command_line: command_line.trim().to_owned(),
    };
    Ok((choice, boot))
}

/// Kernel and initramfs of a unified kernel image; any other kernel is itself, and has none. The
/// command line inside is that of the boot entry already.
fn unpacked(image: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>)> {
    // A kernel with an EFI stub is such a program too, and has no section of that name.
    let program = match Program::parse(&image[..]) {
        Ok(program) if program.is_unified() => program,
        _ => return Ok((image, Vec::new())),
    };
    let mut initrd = Vec::new();
    // systemd-stub(7): microcode comes before everything else.
    for section in [".ucode", ".initrd"] {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(program.read(&image[..], section)?.unwrap_or_default());
    }
    let kernel = program.read(&image[..], ".linux")?.unwrap_or_default();
    Ok((kernel, initrd))
}

/// An overlay that ends with the process; what the booting guest writes goes there.
fn throw_away(disk: Arc<dyn Disk>) -> Result<Arc<dyn DiskMut>> {
    let store = Arc::new(File::temporary(std::env::temp_dir())?);
    Ok(Arc::new(Overlay::new(disk, store)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EFI program with `sections`, as the format says.
    fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0u8; 0x400];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x80;
        file[0x80..0x84].copy_from_slice(b"PE\0\0");
        file[0x86] = sections.len() as u8;
        file[0x94] = 240;
        file[0x98..0x9a].copy_from_slice(&0x20bu16.to_le_bytes());
        for (index, (name, content)) in sections.iter().enumerate() {
            let at = 0x98 + 240 + index * 40;
            let (from, len) = (file.len() as u32, content.len() as u32);
            file[at..at + name.len()].copy_from_slice(name.as_bytes());
            file[at + 8..at + 12].copy_from_slice(&len.to_le_bytes());
            file[at + 16..at + 20].copy_from_slice(&len.to_le_bytes());
            file[at + 20..at + 24].copy_from_slice(&from.to_le_bytes());
            file.extend(*content);
        }
        file
    }

    #[test]
    fn a_unified_image_is_booted_by_its_parts_and_any_other_kernel_as_it_is() {
        let image = program(&[
            (".initrd", b"ramfs"),
            (".linux", b"kernel"),
            (".ucode", b"micro"),
        ]);
        let (kernel, initrd) = unpacked(image).unwrap();
        assert_eq!(kernel, b"kernel");
        assert_eq!(initrd, b"micro\0\0\0ramfs");
        for kernel in [program(&[(".text", b"code")]), b"plain".to_vec()] {
            assert_eq!(unpacked(kernel.clone()).unwrap(), (kernel, Vec::new()));
        }
    }
}
