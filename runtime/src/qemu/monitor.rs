//! `Monitor`: QEMU's own word for why it stopped, from its machine protocol (QMP).
//!
//! QEMU connects to us, is told to send events, and is asked for nothing else.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rehost_block::{Error, Result};
use rustix::net::{Shutdown, shutdown};
use serde_json::Value;

/// Bytes of one event (limit of ours; the longest that matters has a few hundred).
const EVENT_MAX: u64 = 64 * 1024;

/// Why QEMU says the machine stopped (`ShutdownCause` in QEMU's `qapi/run-state.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// The guest powered off.
    Shutdown,
    /// The guest reset the machine, or panicked so that it would.
    Reset,
    /// Something else, in QEMU's words.
    Other(String),
}

/// Listens to one QEMU.
pub(super) struct Monitor {
    path: PathBuf,
    listener: Arc<UnixListener>,
    listening: Option<JoinHandle<Option<Reason>>>,
}

impl Monitor {
    /// Waits for QEMU on a new socket at `path`.
    pub(super) fn listen(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).map_err(|error| {
            Error::io("cannot listen on a Unix socket", error)
                .in_file(path)
                .hint("set TMPDIR to a writable folder with a short path")
        })?;
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        let listening = thread::Builder::new()
            .name("qemu monitor".to_owned())
            .spawn(move || listen(&accepting))
            .map_err(|error| Error::io("cannot start a thread", error))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            listening: Some(listening),
        })
    }

    /// What QEMU, which has ended, said last.
    pub(super) fn reason(mut self) -> Option<Reason> {
        self.finish()
    }

    /// Ends because QEMU has ended: its socket is closed, or was never opened, and then shutting the
    /// listener down wakes the thread.
    fn finish(&mut self) -> Option<Reason> {
        let woken = shutdown(&self.listener, Shutdown::Both);
        match self.listening.take() {
            Some(listening) if woken.is_ok() => listening.join().ok().flatten(),
            _ => None,
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.finish();
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(listener: &UnixListener) -> Option<Reason> {
    let (stream, _) = listener.accept().ok()?;
    (&stream)
        .write_all(b"{\"execute\": \"qmp_capabilities\"}\n")
        .ok()?;
    let mut reader = BufReader::new(&stream);
    let mut reason = None;
    let mut line = Vec::new();
    // Ends when QEMU closes its end, as it does when it goes.
    loop {
        line.clear();
        match (&mut reader).take(EVENT_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return reason,
            Ok(_) => reason = shutdown_reason(&line).or(reason),
        }
    }
}

/// The reason in a `SHUTDOWN` event.
fn shutdown_reason(line: &[u8]) -> Option<Reason> {
    let event: Value = serde_json::from_slice(line).ok()?;
    if event.get("event")?.as_str()? != "SHUTDOWN" {
        return None;
    }
    Some(match event.get("data")?.get("reason")?.as_str()? {
        "guest-shutdown" => Reason::Shutdown,
        "guest-reset" | "guest-panic" => Reason::Reset,
        other => Reason::Other(other.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_events_give_their_reason_and_others_none() {
        let event = |reason: &str| {
            format!(
                "{{\"timestamp\": {{\"seconds\": 1, \"microseconds\": 2}}, \"event\": \"SHUTDOWN\", \
                 \"data\": {{\"guest\": true, \"reason\": \"{reason}\"}}}}"
            )
        };
        let reason = |text: &str| shutdown_reason(text.as_bytes());
        assert_eq!(reason(&event("guest-shutdown")), Some(Reason::Shutdown));
        assert_eq!(reason(&event("guest-reset")), Some(Reason::Reset));
        assert_eq!(
            reason(&event("host-signal")),
            Some(Reason::Other("host-signal".to_owned()))
        );
        assert_eq!(reason("{\"event\": \"RESUME\"}"), None);
        assert_eq!(reason("not json"), None);
    }
}
