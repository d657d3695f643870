//! `Voice`: what people read on standard error while a command runs.
//!
//! Standard output is kept for results. A progress bar is drawn on a terminal; elsewhere progress
//! is a line now and then, so that logs stay readable. Programs get all of it as lines of JSON
//! ([`Form::Json`]).

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Time between progress lines for people when standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Time between progress lines for programs.
const JSON_EVERY: Duration = Duration::from_millis(500);

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// Steps and progress.
    Normal,
    /// Errors only.
    Quiet,
}

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Sentences, and a bar on a terminal.
    #[default]
    People,
    /// Sentences, and no progress.
    Steps,
    /// Lines of JSON.
    Json,
}

/// Says what is being done.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    loudness: Loudness,
    form: Form,
}

/// A line for programs.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Step(&'a str),
    Detail(&'a str),
    Progress {
        phase: &'static str,
        /// Guest bytes dealt with, of `total`.
        done: u64,
        total: u64,
        /// Guest bytes stored.
        data: u64,
        /// Guest bytes dealt with per second since the phase began.
        rate: u64,
        /// Seconds until the end at that rate; null while there is none.
        eta: Option<u64>,
    },
}

impl Line<'_> {
    fn say(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            // A closed standard error is no reason to stop a conversion.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

impl Voice {
    /// A voice of the given loudness.
    #[must_use]
    pub const fn new(loudness: Loudness) -> Self {
        Self::with_form(loudness, Form::People)
    }

    /// A voice of the given loudness and form.
    #[must_use]
    pub const fn with_form(loudness: Loudness, form: Form) -> Self {
        Self { loudness, form }
    }

    /// The one sentence of a step.
    pub fn step(&self, sentence: impl Display) {
        let sentence = sentence.to_string();
        match (self.loudness, self.form) {
            (Loudness::Quiet, _) => {}
            (Loudness::Normal, Form::Json) => Line::Step(&sentence).say(),
            (Loudness::Normal, Form::People | Form::Steps) => {
                // A closed standard error is no reason to stop a conversion.
                let _ = writeln!(std::io::stderr(), "{}", plain(&sentence));
            }
        }
    }

    /// Several lines that belong to the step before, indented.
    pub fn detail(&self, text: impl Display) {
        if self.loudness == Loudness::Normal {
            let text = text.to_string();
            if self.form == Form::Json {
                text.lines().for_each(|line| Line::Detail(line).say());
                return;
            }
            let mut stderr = std::io::stderr().lock();
            for line in text.lines() {
                let _ = writeln!(stderr, "  {}", plain(line));
            }
        }
    }

    /// Progress through a disk of `total` bytes, of which `begin` were dealt with before.
    #[must_use]
    pub fn bar(&self, total: u64, begin: u64) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        let shape = match (self.loudness, self.form) {
            (Loudness::Quiet, _) | (_, Form::Steps) => Shape::Silent,
            (_, Form::Json) => Shape::Json(Mutex::default()),
            (_, Form::People) if terminal => Shape::Drawn(drawn(total)),
            (_, Form::People) => Shape::Lines(Mutex::new(Instant::now())),
        };
        Bar {
            shape,
            total,
            begin,
            started: Instant::now(),
        }
    }
}

fn drawn(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(
        "  {wide_bar} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
    ) {
        bar.set_style(style);
    }
    bar
}

/// Progress on its way.
#[derive(Debug)]
pub struct Bar {
    shape: Shape,
    total: u64,
    begin: u64,
    started: Instant,
}

/// How progress is shown.
#[derive(Debug)]
enum Shape {
    Silent,
    Drawn(ProgressBar),
    /// Lines for people, and when the last was written.
    Lines(Mutex<Instant>),
    /// Lines for programs: when the last was written, and what is to be said last.
    Json(Mutex<(Option<Instant>, (u64, u64))>),
}

impl Bar {
    /// `done` bytes of the disk are dealt with, `data` of them were stored.
    pub fn at(&self, done: u64, data: u64) {
        match &self.shape {
            Shape::Silent => {}
            Shape::Drawn(bar) => {
                bar.set_position(done);
                bar.set_message(self.shares(done, data));
            }
            Shape::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let percent = done
                        .saturating_mul(100)
                        .checked_div(self.total)
                        .unwrap_or(100);
                    let _ = writeln!(
                        std::io::stderr(),
                        "  {percent}% of {}, {}",
                        bytes(self.total),
                        self.shares(done, data)
                    );
                }
            }
            Shape::Json(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let (last, (most, stored)) = &mut *state;
                // Workers report out of order: numbers only grow.
                *most = done.max(*most);
                *stored = data.max(*stored);
                if last.is_none_or(|last| last.elapsed() >= JSON_EVERY) {
                    *last = Some(Instant::now());
                    self.line(*most, *stored).say();
                }
            }
        }
    }

    /// How much of what is done was stored, and which share was not.
    fn shares(&self, done: u64, data: u64) -> String {
        let sparse = done
            .saturating_sub(data)
            .saturating_mul(100)
            .checked_div(done)
            .unwrap_or(0);
        format!("{} data, {sparse}% sparse", bytes(data))
    }

    fn line(&self, done: u64, data: u64) -> Line<'static> {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (done.saturating_sub(self.begin) as f64 / seconds.max(1e-9)) as u64;
        Line::Progress {
            phase: "copy",
            done,
            total: self.total,
            data,
            rate,
            eta: self.total.saturating_sub(done).checked_div(rate),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        match &self.shape {
            Shape::Silent | Shape::Lines(_) => {}
            Shape::Drawn(bar) => bar.finish_and_clear(),
            Shape::Json(state) => {
                let (_, (done, data)) = *state.lock().unwrap_or_else(PoisonError::into_inner);
                self.line(done, data).say();
            }
        }
    }
}

/// The text with its control characters spelled out, all but tabs: much of what is shown was written
/// by the guest, and could otherwise drive the terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut plain, c| {
        if c.is_control() && c != '\t' {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
        plain
    })
}

/// A byte count for people: `1.5 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_wrote_does_not_drive_the_terminal() {
        assert_eq!(
            plain("\x1b[31mred\tümlaut\r\n\u{9b}2J"),
            "\\u{1b}[31mred\tümlaut\\r\\n\\u{9b}2J"
        );
    }
}
