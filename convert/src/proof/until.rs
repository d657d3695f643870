//! How long a guest runs: until it was judged and has answered, or until somebody gives up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rehost_block::Result;
use rehost_runtime::{Ended, Engine, Machine, Next, Watch};

use super::network::Question;

/// An engine whose guest is stopped when the flag is set, and runs on until it has answered.
#[derive(Debug)]
pub(super) struct Interruptible<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) question: Option<&'a Question>,
    pub(super) cancel: &'a AtomicBool,
}

impl Engine for Interruptible<'_> {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn run(&self, machine: &Machine, limit: Duration, watch: &mut dyn Watch) -> Result<Ended> {
        let mut watch = UntilInterrupted {
            watch,
            question: self.question,
            since: None,
            cancel: self.cancel,
        };
        self.engine.run(machine, limit, &mut watch)
    }
}

struct UntilInterrupted<'a> {
    watch: &'a mut dyn Watch,
    question: Option<&'a Question>,
    /// When the watcher first had enough.
    since: Option<Instant>,
    cancel: &'a AtomicBool,
}

impl UntilInterrupted<'_> {
    fn or(&mut self, next: Next) -> Next {
        if self.cancel.load(Ordering::Relaxed) {
            return Next::Stop;
        }
        match self.question {
            Some(question) => question.or(next, &mut self.since),
            None => next,
        }
    }
}

impl Watch for UntilInterrupted<'_> {
    fn serial(&mut self, bytes: &[u8]) -> Next {
        let next = self.watch.serial(bytes);
        self.or(next)
    }

    fn idle(&mut self) -> Next {
        let next = self.watch.idle();
        self.or(next)
    }
}
