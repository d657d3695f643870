//! `QemuEngine`: the second engine, QEMU on the host's PATH.
//!
//! The guest's disks are served to QEMU over NBD on a Unix socket in a private folder, so that
//! QEMU sees the same view as every other part of this program and writes where we say. The machine
//! is a q35 with a serial port and nothing else: no network, no display, no user's configuration. A
//! network card, where one is asked for, is plugged into a socket of ours (`wires`).
//!
//! What ends QEMU: the guest, the watcher, the time limit; this process, however it dies, because the
//! kernel kills QEMU with the thread that started it (`process`).
//!
//! UEFI firmware has its code in flash that is never written, and a memory of its own (NVRAM) that is new
//! in every run and ends with it.
//!
//! Left out on purpose: Secure Boot (`uefi`), and a network that leads anywhere.

mod command;
mod devices;
mod monitor;
mod process;
mod wires;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use rehost_block::{Error, Kind, Result};
use rehost_nbd::{Export, Running, Server};
use tempfile::TempDir;

use self::command::Folder;
use self::monitor::{Monitor, Reason};
use self::process::{Output, Process};
use self::wires::Wires;
use crate::{Ended, Engine, Firmware, Machine, Next, Start, Watch};

/// The program that is looked for.
const PROGRAM: &str = "qemu-system-x86_64";
/// What a package manager calls it.
const HINT: &str = "install it (Debian and Ubuntu: apt-get install qemu-system-x86)";
/// Silence after which a watcher is asked again.
const IDLE: Duration = Duration::from_millis(100);
/// How long QEMU may take to go once its serial port has closed.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);

/// What carries out the guest's instructions inside QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor, through `/dev/kvm`.
    Kvm,
    /// Translation: slower, and works everywhere.
    Tcg,
}

/// QEMU as an engine.
#[derive(Debug, Clone)]
pub struct QemuEngine {
    program: PathBuf,
    version: String,
    sandbox: bool,
    accelerator: Accelerator,
}

impl QemuEngine {
    /// Finds QEMU on the PATH. It runs with translation until
    /// [`with_accelerator`](Self::with_accelerator) says otherwise.
    ///
    /// # Errors
    /// Unsupported when it is not there or does not run.
    pub fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let program = env::split_paths(&path)
            .map(|folder| folder.join(PROGRAM))
            .find(|program| program.is_file())
            .ok_or_else(|| {
                Error::unsupported(format!("{PROGRAM} is not on the PATH")).hint(HINT)
            })?;
        Self::at(program)
    }

    /// Uses the QEMU at `program`.
    ///
    /// # Errors
    /// Unsupported when it does not run.
    pub fn at(program: impl Into<PathBuf>) -> Result<Self> {
        let program = program.into();
        let said = ask(&program, &["-version"])?.ok_or_else(|| {
            Error::unsupported("does not answer -version as QEMU does")
                .in_file(&program)
                .hint(HINT)
        })?;
        let version = said
            .split_once("version ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .unwrap_or("unknown")
            .to_owned();
        // A QEMU built without seccomp refuses the option.
        let sandbox = ask(&program, &["-sandbox", command::SANDBOX, "-version"])?.is_some();
        Ok(Self {
            program,
            version,
            sandbox,
            accelerator: Accelerator::Tcg,
        })
    }

    /// Chooses what carries out the guest's instructions. Give [`Accelerator::Kvm`] only where the
    /// KVM self-test passed: a `/dev/kvm` that opens may still be unable to run a guest.
    #[must_use]
    pub const fn with_accelerator(mut self, accelerator: Accelerator) -> Self {
        self.accelerator = accelerator;
        self
    }

    /// QEMU's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What carries out the guest's instructions.
    #[must_use]
    pub const fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Puts what QEMU needs into a private folder.
    fn prepare(machine: &Machine) -> Result<Folder> {
        let folder = tempfile::Builder::new()
            .prefix("rehost-")
            .tempdir()
            .map_err(|error| Error::io("cannot create a private folder", error))?;
        let folder = Folder(folder);
        if let Start::Direct(start) = &machine.start {
            write(&folder.kernel(), &start.kernel)?;
            if let Some(initrd) = &start.initrd {
                write(&folder.initrd(), initrd)?;
            }
        }
        if let Start::Firmware(Firmware::Uefi(image)) = &machine.start {
            // Read and written anew: a copied file would be as read-only as its template.
            let template = fs::read(&image.nvram_template)
                .map_err(|error| Error::io("cannot read", error).in_file(&image.nvram_template))?;
            write(&folder.nvram(), &template)?;
        }
        Ok(folder)
    }
}

impl Engine for QemuEngine {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn run(&self, machine: &Machine, limit: Duration, watch: &mut dyn Watch) -> Result<Ended> {
        command::check(machine)?;
        let deadline = Instant::now()
            .checked_add(limit)
            .ok_or_else(|| Error::usage("time limit is beyond all clocks"))?;
        // Dropped in the opposite order: QEMU first, the folder last.
        let folder = Self::prepare(machine)?;
        let disks = serve(machine, &folder)?;
        let monitor = Monitor::listen(&folder.monitor())?;
        let _wires = Wires::listen(&machine.nics, |nth| folder.wire(nth))?;
        let arguments = command::arguments(machine, &folder, self.accelerator, self.sandbox)?;
        let mut process = Process::start(&self.program, &arguments)?;

        let ended = watched(&mut process, deadline, watch);
        // Errors that came while QEMU ran: once it is killed, its broken requests are our doing.
        let faults = disks.as_ref().map(Running::take_errors).unwrap_or_default();
        let ended = match ended {
            Some(ended) => {
                process.kill();
                ended
            }
            None => exited(&mut process, monitor)?,
        };
        Ok(match faults.into_iter().next() {
            Some(fault) => Ended::Failed(format!("a disk failed: {fault}")),
            None => ended,
        })
    }
}

/// Runs until the watcher or the clock ends it (`Some`), or QEMU itself (`None`).
fn watched(process: &mut Process, deadline: Instant, watch: &mut dyn Watch) -> Option<Ended> {
    // Ends at the deadline at the latest.
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(Ended::TimedOut);
        }
        let next = match process.serial(left.min(IDLE)) {
            Output::Bytes(bytes) => watch.serial(&bytes),
            Output::Silence => watch.idle(),
            Output::Closed => return None,
        };
        if next == Next::Stop {
            return Some(Ended::Watched);
        }
    }
}

/// Why QEMU went by itself.
fn exited(process: &mut Process, monitor: Monitor) -> Result<Ended> {
    let status = process.wait(EXIT_PATIENCE)?;
    let reason = monitor.reason();
    let said = process.complaint();
    Ok(match (status.success(), reason) {
        (true, Some(Reason::Shutdown)) => Ended::PoweredOff,
        (true, Some(Reason::Reset)) => Ended::Reset,
        (true, Some(Reason::Other(reason))) => Ended::Failed(format!("QEMU stopped: {reason}")),
        _ if said.is_empty() => Ended::Failed(format!("QEMU ended with {status}")),
        _ => Ended::Failed(format!("QEMU ended with {status}: {said}")),
    })
}

/// Exports the machine's disks.
fn serve(machine: &Machine, folder: &Folder) -> Result<Option<Running>> {
    if machine.disks.is_empty() {
        return Ok(None);
    }
    let exports = machine
        .disks
        .iter()
        .enumerate()
        .map(|(nth, disk)| Export::writable(command::disk_name(nth), disk.disk.clone()))
        .collect();
    Server::bind(folder.disks(), exports)?.spawn().map(Some)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io("cannot write", error).in_file(path))
}

/// What `program` says on standard output; `None` when it fails.
fn ask(program: &Path, arguments: &[&str]) -> Result<Option<String>> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Error::new(Kind::Unsupported, "cannot run QEMU")
                .because(error)
                .in_file(program)
                .hint(HINT)
        })?;
    Ok(output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        TempDir::path(&self.0).join(name)
    }

    fn kernel(&self) -> PathBuf {
        self.path("kernel")
    }

    fn initrd(&self) -> PathBuf {
        self.path("initrd")
    }

    fn nvram(&self) -> PathBuf {
        self.path("nvram")
    }

    fn disks(&self) -> PathBuf {
        self.path("disks")
    }

    fn monitor(&self) -> PathBuf {
        self.path("monitor")
    }

    fn wire(&self, nth: usize) -> PathBuf {
        self.path(&format!("wire{nth}"))
    }
}
