//! What the machine's threads tell the thread that runs the machine.
//!
//! Serial output waits in a bounded buffer: a guest that writes faster than its watcher reads is
//! held up, not buffered without end. The first reason to end stands.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Ended;

/// Serial bytes that may wait for the watcher.
const BACKLOG: usize = 1 << 20;

/// How long nothing must have come before that is told.
const SILENCE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Pending {
    serial: Vec<u8>,
    ended: Option<Ended>,
}

/// Serial output and the end of the run, from any thread to one.
#[derive(Debug, Default)]
pub(super) struct Events {
    pending: Mutex<Pending>,
    changed: Condvar,
}

/// What the running thread has been told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Serial output came.
    Serial(Vec<u8>),
    /// Nothing, for [`SILENCE`].
    Silence,
    /// The run is over, and all serial output before its end was told.
    Ended(Ended),
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest wrote `bytes`. Waits while the backlog is full and the run goes on.
    pub(super) fn serial(&self, bytes: &[u8]) {
        let mut pending = self.lock();
        // Ends because the running thread takes the backlog or ends the run at its time limit.
        while pending.serial.len() >= BACKLOG && pending.ended.is_none() {
            pending = self
                .changed
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        pending.serial.extend_from_slice(bytes);
        drop(pending);
        self.changed.notify_all();
    }

    /// The run is over because of `ended`, unless it was over before.
    pub(super) fn end(&self, ended: Ended) {
        self.lock().ended.get_or_insert(ended);
        self.changed.notify_all();
    }

    /// Whether the run is over.
    pub(super) fn over(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Waits for the next thing to know; at `deadline` the run ends as timed out.
    pub(super) fn wait(&self, deadline: Instant) -> Told {
        let since = Instant::now();
        let mut pending = self.lock();
        // Ends after the silence at the latest.
        loop {
            if !pending.serial.is_empty() {
                let serial = std::mem::take(&mut pending.serial);
                drop(pending);
                self.changed.notify_all();
                return Told::Serial(serial);
            }
            if let Some(ended) = &pending.ended {
                return Told::Ended(ended.clone());
            }
            let now = Instant::now();
            if now >= deadline {
                pending.ended = Some(Ended::TimedOut);
                continue;
            }
            let quiet = SILENCE.saturating_sub(now.saturating_duration_since(since));
            if quiet.is_zero() {
                return Told::Silence;
            }
            let left = quiet.min(deadline.saturating_duration_since(now));
            pending = self
                .changed
                .wait_timeout(pending, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_before_the_end_is_told_first_and_the_first_end_stands() {
        let events = Events::default();
        let far = Instant::now() + Duration::from_secs(60);
        events.serial(b"login: ");
        events.end(Ended::PoweredOff);
        events.end(Ended::Reset);
        assert_eq!(events.wait(far), Told::Serial(b"login: ".to_vec()));
        assert_eq!(events.wait(far), Told::Ended(Ended::PoweredOff));
        assert!(events.over());
    }

    #[test]
    fn passed_deadline_ends_the_run() {
        let events = Events::default();
        assert_eq!(events.wait(Instant::now()), Told::Ended(Ended::TimedOut));
        assert!(events.over());
    }

    #[test]
    fn silence_is_told_before_the_deadline() {
        let events = Events::default();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(events.wait(far), Told::Silence);
        assert!(!events.over());
    }

    #[test]
    fn writer_held_up_by_a_full_backlog_is_let_go_at_the_end() {
        let events = Events::default();
        events.serial(&vec![b'x'; BACKLOG]);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| events.serial(b"y"));
            events.end(Ended::Watched);
            writer.join().unwrap();
        });
    }
}
