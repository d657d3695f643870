//! `Voice`: what people read on standard error while a command runs.
//!
//! Standard output is kept for results. A progress bar is drawn on a terminal; elsewhere progress
//! is a line now and then, so that logs stay readable.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between progress lines when standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// Steps and progress.
    Normal,
    /// Errors only.
    Quiet,
}

/// Says what is being done.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    loudness: Loudness,
}

impl Voice {
    /// A voice of the given loudness.
    #[must_use]
    pub const fn new(loudness: Loudness) -> Self {
        Self { loudness }
    }

    /// The one sentence of a step.
    pub fn step(&self, sentence: impl Display) {
        if self.loudness == Loudness::Normal {
            // A closed standard error is no reason to stop a conversion.
            let _ = writeln!(std::io::stderr(), "{}", plain(&sentence.to_string()));
        }
    }

    /// Several lines that belong to the step before, indented.
    pub fn detail(&self, text: impl Display) {
        if self.loudness == Loudness::Normal {
            let text = text.to_string();
            let mut stderr = std::io::stderr().lock();
            for line in text.lines() {
                let _ = writeln!(stderr, "  {}", plain(line));
            }
        }
    }

    /// Progress through `total` bytes.
    #[must_use]
    pub fn bar(&self, total: u64) -> Bar {
        let drawn = self.loudness == Loudness::Normal && std::io::stderr().is_terminal();
        let bar = if drawn {
            ProgressBar::new(total)
        } else {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        };
        if let Ok(style) = ProgressStyle::with_template(
            "  {wide_bar} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        ) {
            bar.set_style(style);
        }
        let lines =
            (self.loudness == Loudness::Normal && !drawn).then(|| Mutex::new(Instant::now()));
        Bar { bar, lines, total }
    }
}

/// Progress on its way.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    lines: Option<Mutex<Instant>>,
    total: u64,
}

impl Bar {
    /// `done` bytes of the disk are dealt with, `data` of them were stored.
    pub fn at(&self, done: u64, data: u64) {
        self.bar.set_position(done);
        self.bar.set_message(format!("{} data", bytes(data)));
        if let Some(lines) = &self.lines {
            let mut last = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= LINE_EVERY {
                *last = Instant::now();
                let percent = done
                    .saturating_mul(100)
                    .checked_div(self.total)
                    .unwrap_or(100);
                let _ = writeln!(
                    std::io::stderr(),
                    "  {percent}% of {}, {} data",
                    bytes(self.total),
                    bytes(data)
                );
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
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
