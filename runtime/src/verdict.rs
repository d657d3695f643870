//! `boot`: runs a machine, watches its serial console and says whether it booted.
//!
//! A guest *booted* when its login prompt stands, nothing less. A system that says it is up and
//! shows no prompt is *unclear*; a prompt that waits for a person is a failure once it has stood
//! for a while. After a failure the guest may run on for a moment, so that the report has the lines
//! that explain it.

use std::io::Write;
use std::time::{Duration, Instant};

use rehost_block::Result;
use serde::Serialize;

use crate::recognise::{Meaning, Recognition, Sighting, Stage};
use crate::{Ended, Engine, Machine, Next, Watch};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The whole boot.
    pub total: Duration,
    /// From the first target or runlevel that means *up* to the login prompt.
    pub login: Duration,
    /// How long a prompt that waits for a person must stand to be a failure.
    pub stuck: Duration,
    /// How long a guest that failed runs on, for the lines that explain it.
    pub linger: Duration,
}

impl Default for Limits {
    /// Generous enough for QEMU without hardware virtualization.
    fn default() -> Self {
        Self {
            total: Duration::from_secs(300),
            login: Duration::from_secs(60),
            stuck: Duration::from_secs(5),
            linger: Duration::from_secs(1),
        }
    }
}

/// What became of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The login prompt was reached.
    Booted,
    /// The guest failed.
    Failed,
    /// The time was up.
    TimedOut,
    /// It cannot be said: the engine failed, or the system is up without a prompt.
    Unclear,
}

/// Something the guest was seen to reach.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Milestone {
    /// The recogniser that saw it.
    pub id: &'static str,
    /// What it means; follows "the guest".
    pub says: &'static str,
    /// The line.
    pub line: String,
    /// When, in seconds from the start.
    pub seconds: f64,
}

/// What was seen of a boot, and what follows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What became of it.
    pub outcome: Outcome,
    /// How far the guest came.
    pub stage: Stage,
    /// Why, in one sentence.
    pub reason: String,
    /// The recogniser that decided; `None` when none did.
    pub recogniser: Option<&'static str>,
    /// The line that decided.
    pub line: Option<String>,
    /// What the guest reached and what went wrong, each when it was first seen.
    pub milestones: Vec<Milestone>,
    /// The last lines of the serial console.
    pub tail: Vec<String>,
    /// The engine that ran it.
    pub engine: &'static str,
    /// Why the run ended.
    pub ended: Ended,
    /// How long it ran, in seconds.
    pub seconds: f64,
}

impl Verdict {
    /// Whether the guest reached its login prompt.
    #[must_use]
    pub fn booted(&self) -> bool {
        self.outcome == Outcome::Booted
    }

    /// Whether the milestone called `id` was seen (`disk-virtio-blk`, say).
    #[must_use]
    pub fn saw(&self, id: &str) -> bool {
        self.milestones.iter().any(|milestone| milestone.id == id)
    }
}

/// Boots `machine` and judges what it writes to its serial console, which goes to `live` as well,
/// byte for byte.
///
/// # Errors
/// As [`Engine::run`]: the machine could not be started. A guest that fails is a verdict.
pub fn boot(
    machine: &Machine,
    engine: &dyn Engine,
    limits: &Limits,
    live: Option<&mut (dyn Write + Send)>,
) -> Result<Verdict> {
    let start = Instant::now();
    let mut watcher = Watcher {
        judge: Judge::new(*limits)?,
        start,
        live,
    };
    let ended = engine.run(machine, limits.total, &mut watcher)?;
    Ok(watcher.judge.close(start.elapsed(), ended, engine.name()))
}

/// The judge with a clock and a listener.
struct Watcher<'a> {
    judge: Judge,
    start: Instant,
    live: Option<&'a mut (dyn Write + Send)>,
}

impl Watch for Watcher<'_> {
    fn serial(&mut self, bytes: &[u8]) -> Next {
        if let Some(live) = &mut self.live
            && live.write_all(bytes).and_then(|()| live.flush()).is_err()
        {
            // A terminal that has gone is no reason to stop the proof.
            self.live = None;
        }
        self.judge.see(self.start.elapsed(), bytes)
    }

    fn idle(&mut self) -> Next {
        self.judge.wait(self.start.elapsed())
    }
}

/// A sighting and when it was.
#[derive(Debug, Clone)]
struct Seen {
    sighting: Sighting,
    at: Duration,
}

/// Decides. Times come from outside, as the time since the start.
#[derive(Debug)]
struct Judge {
    limits: Limits,
    recognition: Recognition,
    stage: Stage,
    milestones: Vec<Milestone>,
    /// The latest thing that went wrong: it explains a failure.
    trouble: Option<Sighting>,
    ready: Option<Seen>,
    stuck: Option<Seen>,
    /// The first login prompt or failure: final.
    decided: Option<Seen>,
}

impl Judge {
    fn new(limits: Limits) -> Result<Self> {
        Ok(Self {
            limits,
            recognition: Recognition::new()?,
            stage: Stage::Nothing,
            milestones: Vec::new(),
            trouble: None,
            ready: None,
            stuck: None,
            decided: None,
        })
    }

    fn see(&mut self, now: Duration, bytes: &[u8]) -> Next {
        for sighting in self.recognition.push(bytes) {
            self.weigh(now, sighting);
        }
        self.wait(now)
    }

    /// Whether to go on, `now`.
    fn wait(&mut self, now: Duration) -> Next {
        let passed = |seen: &Seen, limit| now.saturating_sub(seen.at) >= limit;
        let enough = match (&self.decided, &self.stuck, &self.ready) {
            (Some(seen), _, _) if seen.sighting.recogniser.meaning == Meaning::Login => true,
            (Some(seen), _, _) => passed(seen, self.limits.linger),
            (None, Some(seen), _) => passed(seen, self.limits.stuck),
            (None, None, Some(seen)) => passed(seen, self.limits.login),
            (None, None, None) => false,
        };
        if enough { Next::Stop } else { Next::Continue }
    }

    fn weigh(&mut self, now: Duration, sighting: Sighting) {
        self.note(now, &sighting);
        let seen = || Seen {
            sighting: sighting.clone(),
            at: now,
        };
        match sighting.recogniser.meaning {
            Meaning::Progress(stage) => self.advance(stage),
            Meaning::Ready => {
                self.advance(Stage::Services);
                self.ready.get_or_insert_with(seen);
            }
            Meaning::Login => {
                if self.decided.is_none() {
                    self.stage = Stage::Login;
                    self.decided = Some(seen());
                }
            }
            Meaning::Failed => {
                self.decided.get_or_insert_with(seen);
            }
            Meaning::Stuck => {
                self.stuck.get_or_insert_with(seen);
            }
            Meaning::Trouble => self.trouble = Some(sighting),
        }
    }

    /// A guest that gets further was not stuck.
    fn advance(&mut self, stage: Stage) {
        if stage > self.stage {
            self.stage = stage;
            self.stuck = None;
        }
    }

    /// Keeps the first sighting of everything in the table.
    fn note(&mut self, now: Duration, sighting: &Sighting) {
        let id = sighting.recogniser.id;
        if self.milestones.iter().all(|known| known.id != id) {
            self.milestones.push(Milestone {
                id,
                says: sighting.recogniser.says,
                line: sighting.line.clone(),
                seconds: seconds(now),
            });
        }
    }

    /// The run is over.
    fn close(mut self, now: Duration, ended: Ended, engine: &'static str) -> Verdict {
        for sighting in self.recognition.finish() {
            self.weigh(now, sighting);
        }
        let decided = self.decided.take().or_else(|| self.stuck.take());
        let (outcome, reason) = self.conclude(decided.as_ref(), &ended);
        // Without one, the line that came nearest to deciding is the one that said "up".
        let decider = decided.or_else(|| self.ready.take());
        let (recogniser, line) = decider
            .map(|seen| (seen.sighting.recogniser.id, seen.sighting.line))
            .unzip();
        Verdict {
            outcome,
            stage: self.stage,
            reason,
            recogniser,
            line,
            milestones: self.milestones,
            tail: self.recognition.tail(),
            engine,
            ended,
            seconds: seconds(now),
        }
    }

    fn conclude(&self, decided: Option<&Seen>, ended: &Ended) -> (Outcome, String) {
        let login = decided.is_some_and(|seen| seen.sighting.recogniser.meaning == Meaning::Login);
        let seen = decided.map(|seen| {
            format!(
                "the guest {} after {:.1} s (\"{}\")",
                seen.sighting.recogniser.says,
                seconds(seen.at),
                seen.sighting.line.trim()
            )
        });
        match (seen, ended) {
            (Some(seen), Ended::Failed(why)) if login => (
                Outcome::Unclear,
                format!("{seen}, but the machine failed: {why}"),
            ),
            (Some(seen), _) if login => (Outcome::Booted, seen),
            (Some(seen), Ended::Failed(why)) => (
                Outcome::Failed,
                self.explained(format!("{seen}; the machine failed: {why}")),
            ),
            (Some(seen), _) => (Outcome::Failed, self.explained(seen)),
            (None, Ended::Failed(why)) => (
                Outcome::Unclear,
                self.so_far(format!("the machine failed: {why}")),
            ),
            (None, Ended::PoweredOff) => (
                Outcome::Failed,
                self.so_far("the guest powered off before its login prompt".to_owned()),
            ),
            (None, Ended::Reset) => (
                Outcome::Failed,
                self.so_far("the guest reset itself before its login prompt".to_owned()),
            ),
            (None, Ended::TimedOut) => (
                Outcome::TimedOut,
                self.so_far(format!(
                    "the guest did not reach its login prompt within {} s",
                    self.limits.total.as_secs()
                )),
            ),
            (None, Ended::Watched) => match &self.ready {
                Some(ready) => (
                    Outcome::Unclear,
                    format!(
                        "the guest {} (\"{}\"), but no login prompt came to the serial console \
                         within {} s; does it run a getty there?",
                        ready.sighting.recogniser.says,
                        ready.sighting.line.trim(),
                        self.limits.login.as_secs()
                    ),
                ),
                None => (
                    Outcome::Unclear,
                    self.so_far("the run was stopped".to_owned()),
                ),
            },
        }
    }

    /// Adds what went wrong before.
    fn explained(&self, sentence: String) -> String {
        match &self.trouble {
            Some(trouble) => format!(
                "{sentence}; before that, it {} (\"{}\")",
                trouble.recogniser.says,
                trouble.line.trim()
            ),
            None => sentence,
        }
    }

    /// Adds how far the guest came.
    fn so_far(&self, sentence: String) -> String {
        let so_far = match self.stage {
            Stage::Nothing => ": nothing it wrote to the serial console was recognised".to_owned(),
            stage => format!(": last, {}", stage.as_str()),
        };
        self.explained(sentence + &so_far)
    }
}

/// Seconds to the millisecond, as reports carry them.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
