//! Workers on several threads, and `Turnstile`, which lets them through one at a time, in the order of their
//! chunks.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Kind, Result};

/// Runs `work` once on each of `threads` threads and gives all results.
pub(crate) fn in_parallel<R: Send>(
    threads: NonZeroUsize,
    work: impl Fn() -> R + Sync,
) -> Result<Vec<R>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|nth| format!("worker-{nth}"))
        .build()
        .map_err(|error| Error::new(Kind::Io, "cannot start threads").because(error))?;
    Ok(pool.broadcast(|_| work()))
}

/// Whose turn it is, and whether everybody is to stop.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    next: Mutex<u64>,
    moved: Condvar,
    stopped: AtomicBool,
}

/// The right to write. The next chunk's worker gets it when this is dropped.
pub(crate) struct Turn<'a> {
    turnstile: &'a Turnstile,
    next: MutexGuard<'a, u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.next += 1;
        self.turnstile.moved.notify_all();
    }
}

/// Stops everybody when its thread panics.
pub(crate) struct StopOnPanic<'a>(&'a Turnstile);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Turnstile {
    /// Waits until all chunks before `number` are through; nothing when everybody is to stop.
    ///
    /// Ends because chunks are handed out in order: the worker with the lowest number never waits.
    pub(crate) fn wait_for(&self, number: u64) -> Option<Turn<'_>> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self
            .moved
            .wait_while(next, |next| *next != number && !self.stopped())
            .unwrap_or_else(PoisonError::into_inner);
        (!self.stopped()).then_some(Turn {
            turnstile: self,
            next,
        })
    }

    /// Makes everybody stop.
    pub(crate) fn stop(&self) {
        // Under the lock, so that no waiter looks at the flag before and sleeps after this.
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::SeqCst);
        self.moved.notify_all();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(crate) const fn stop_on_panic(&self) -> StopOnPanic<'_> {
        StopOnPanic(self)
    }
}
