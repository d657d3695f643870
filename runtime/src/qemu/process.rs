//! `Process`: a QEMU that cannot outlive us.
//!
//! Dropping it kills it. If this program dies without dropping anything (`kill -9`), the kernel
//! kills QEMU, because the child asks for that before it becomes QEMU (`PR_SET_PDEATHSIG`). That is
//! tied to the thread that started it, which is the one that waits for it.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rehost_block::{Error, Result};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Bytes of QEMU's complaints that are kept, from the end.
const COMPLAINT_MAX: usize = 4096;
/// Serial output that may wait for the watcher, in reads of at most 4 KiB. Then the guest waits.
const WAITING: usize = 16;

/// What came from the serial port.
pub(super) enum Output {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing in the given time.
    Silence,
    /// QEMU closed it: it has ended or is ending.
    Closed,
}

/// A running QEMU.
pub(super) struct Process {
    child: Child,
    serial: Receiver<Vec<u8>>,
    complaints: Arc<Mutex<Vec<u8>>>,
    complaining: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `program`, whose standard output is the guest's serial port.
    pub(super) fn start(program: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let parent = getpid();
        // SAFETY: between fork and exec the closure only makes two system calls (prctl, getppid)
        // through rustix, which neither allocates nor takes a lock, and builds errors from
        // numbers, which does not allocate either.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above.
                if getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                }
            });
        }
        let mut child = command
            .spawn()
            .map_err(|error| Error::io("cannot start QEMU", error).in_file(program))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, serial) = sync_channel(WAITING);
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let mut process = Self {
            child,
            serial,
            complaints: Arc::clone(&complaints),
            complaining: None,
        };
        let threads = |error| Error::io("cannot start a thread", error);
        if let Some(stdout) = stdout {
            thread::Builder::new()
                .name("qemu serial".to_owned())
                .spawn(move || {
                    // A send fails once the run is over: nobody listens any more.
                    pump(stdout, |bytes| sender.send(bytes.to_vec()).is_ok());
                })
                .map_err(threads)?;
        }
        if let Some(stderr) = stderr {
            let complaining = thread::Builder::new()
                .name("qemu stderr".to_owned())
                .spawn(move || {
                    pump(stderr, |bytes| {
                        keep(&complaints, bytes);
                        true
                    });
                })
                .map_err(threads)?;
            process.complaining = Some(complaining);
        }
        Ok(process)
    }

    /// Waits for serial output.
    pub(super) fn serial(&self, patience: Duration) -> Output {
        match self.serial.recv_timeout(patience) {
            Ok(bytes) => Output::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => Output::Silence,
            Err(RecvTimeoutError::Disconnected) => Output::Closed,
        }
    }

    /// Waits for the end; kills what does not end in time.
    pub(super) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let failed = |error| Error::io("cannot wait for QEMU", error);
        let start = Instant::now();
        // Ends when `patience` has passed at the latest.
        while start.elapsed() < patience {
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        self.child.wait().map_err(failed)
    }

    /// Ends QEMU at once: nothing it holds is worth keeping.
    pub(super) fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what QEMU, which has ended, wrote to standard error, on one line.
    pub(super) fn complaint(&mut self) -> String {
        if let Some(complaining) = self.complaining.take() {
            let _ = complaining.join();
        }
        let bytes = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        lines.join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Hands on what comes until the end, or until `take` has had enough.
fn pump(mut from: impl Read, mut take: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    // Ends when QEMU, which holds the other end, has ended.
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if !take(buffer.get(..len).unwrap_or_default()) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Keeps the end of what comes.
fn keep(kept: &Mutex<Vec<u8>>, bytes: &[u8]) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend_from_slice(bytes);
    let excess = kept.len().saturating_sub(COMPLAINT_MAX);
    kept.drain(..excess);
}
