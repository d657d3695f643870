//! `Rate`: a limit of bytes per second that all workers share.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest sleep, so that a cancelled copy ends soon.
const NAP: Duration = Duration::from_millis(100);

/// A bucket that fills at a steady rate: what is taken ahead is waited for by who comes next.
#[derive(Debug)]
pub struct Rate {
    per_second: NonZeroU64,
    /// When everything taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Rate {
    /// At most so many bytes per second.
    #[must_use]
    pub const fn new(per_second: NonZeroU64) -> Self {
        Self {
            per_second,
            paid: Mutex::new(None),
        }
    }

    /// Takes `bytes`, after waiting until what others took is paid for. Comes back early when
    /// `cancel` is set.
    pub(super) fn take(&self, bytes: u64, cancel: Option<&AtomicBool>) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        let begin = {
            let now = Instant::now();
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            // Time in which nobody came is not saved up.
            let begin = paid.map_or(now, |paid| paid.max(now));
            *paid = Some(begin + cost);
            begin
        };
        // Ends because time passes.
        loop {
            let left = begin.saturating_duration_since(Instant::now());
            if left.is_zero() || cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}
