//! Recognition: which lines of a guest's serial output mean what.
//!
//! What there is to recognise is data, in [`recognisers`]. This module holds its vocabulary
//! and the matching over a stream of bytes; what follows from a match is the verdict's business.
//!
//! The guest is not trusted: patterns are compiled to automata whose time is linear in the input, and
//! lines are bounded. What a guest prints is evidence of what it printed, no more.

mod lines;

use std::collections::VecDeque;

use regex::{Regex, RegexSet};
use rehost_block::{Error, Result};
use serde::Serialize;

use self::lines::{Lines, Piece};
use crate::recognisers::recognisers;

/// Lines kept for the report.
const TAIL_LINES: usize = 40;
/// Characters of a line kept for the report.
const TAIL_WIDTH: usize = 400;
/// Longest open line that is looked at for prompts.
const PROMPT_MAX: usize = 256;

/// How far a guest has come. Later stages are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was recognised.
    Nothing,
    /// The firmware runs.
    Firmware,
    /// The boot loader runs.
    BootLoader,
    /// The kernel runs.
    Kernel,
    /// The first user program of the initramfs runs.
    Initramfs,
    /// A file system of the disk is mounted.
    Root,
    /// The installed system's init runs.
    Init,
    /// The services that make up the normal system are up.
    Services,
    /// A login prompt stands.
    Login,
}

impl Stage {
    /// The stage in a sentence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing was recognised",
            Self::Firmware => "the firmware ran",
            Self::BootLoader => "the boot loader ran",
            Self::Kernel => "the kernel ran",
            Self::Initramfs => "the initramfs ran",
            Self::Root => "a file system of the disk was mounted",
            Self::Init => "the installed system's init ran",
            Self::Services => "the system's services were up",
            Self::Login => "the login prompt stood",
        }
    }
}

/// What a match says about the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The guest has come this far.
    Progress(Stage),
    /// The system says it is up: a login prompt must follow soon.
    Ready,
    /// The login prompt: the boot succeeded.
    Login,
    /// Something is wrong. It decides nothing, and explains a failure that follows.
    Trouble,
    /// The guest waits for a person. It failed unless it goes on by itself.
    Stuck,
    /// The boot failed.
    Failed,
}

/// Where a pattern is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In lines that have ended.
    Line,
    /// In the first characters of a line, which need not have ended. What the pattern matches is
    /// all that is reported, and must not depend on what may follow.
    Prompt,
}

/// One thing to recognise.
#[derive(Debug)]
pub struct Recogniser {
    /// Its name in reports; stable.
    pub id: &'static str,
    /// Where to look.
    pub shape: Shape,
    /// What to look for: a regular expression.
    pub pattern: &'static str,
    /// What must not match at the same place.
    pub except: Option<&'static str>,
    /// What it means.
    pub meaning: Meaning,
    /// What it means, for people; follows "the guest".
    pub says: &'static str,
}

/// A recogniser that matched.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub(crate) recogniser: &'static Recogniser,
    pub(crate) line: String,
}

/// The matcher over one guest's output.
#[derive(Debug)]
pub(crate) struct Recognition {
    lines: Lines,
    of_lines: Vec<(&'static Recogniser, Option<Regex>)>,
    line_set: RegexSet,
    prompts: Vec<(&'static Recogniser, Regex, Option<Regex>)>,
    /// Prompts seen in the line that is open, so that each counts once.
    seen: Vec<&'static str>,
    tail: VecDeque<String>,
}

impl Recognition {
    /// # Errors
    /// Internal when the table holds a pattern that does not compile (a test guards it).
    pub(crate) fn new() -> Result<Self> {
        let broken = |error: regex::Error| {
            Error::internal("a recogniser's pattern is broken").because(error)
        };
        let mut of_lines = Vec::new();
        let mut prompts = Vec::new();
        for recogniser in recognisers() {
            let except = recogniser.except.map(Regex::new).transpose();
            let except = except.map_err(broken)?;
            match recogniser.shape {
                Shape::Line => of_lines.push((recogniser, except)),
                Shape::Prompt => {
                    let pattern = Regex::new(recogniser.pattern).map_err(broken)?;
                    prompts.push((recogniser, pattern, except));
                }
            }
        }
        let line_set = RegexSet::new(of_lines.iter().map(|(recogniser, _)| recogniser.pattern))
            .map_err(broken)?;
        Ok(Self {
            lines: Lines::default(),
            of_lines,
            line_set,
            prompts,
            seen: Vec::new(),
            tail: VecDeque::new(),
        })
    }

    /// Takes what the guest sent and gives what was recognised, in order.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Sighting> {
        self.assemble(|lines, see| lines.push(bytes, see))
    }

    /// The guest has ended: its open line is its last.
    pub(crate) fn finish(&mut self) -> Vec<Sighting> {
        self.assemble(|lines, see| lines.finish(see))
    }

    /// The last lines, the open one included.
    pub(crate) fn tail(&self) -> Vec<String> {
        let mut tail: Vec<String> = self.tail.iter().cloned().collect();
        let open = self.lines.open();
        if !open.trim().is_empty() {
            tail.push(shorten(&open));
        }
        tail
    }

    fn assemble(
        &mut self,
        feed: impl FnOnce(&mut Lines, &mut dyn FnMut(Piece<'_>)),
    ) -> Vec<Sighting> {
        let mut lines = std::mem::take(&mut self.lines);
        let mut found = Vec::new();
        feed(&mut lines, &mut |piece| self.see(piece, &mut found));
        self.lines = lines;
        found
    }

    fn see(&mut self, piece: Piece<'_>, found: &mut Vec<Sighting>) {
        let (Piece::Line(line) | Piece::Overwritten(line) | Piece::Open(line)) = piece;
        self.prompts_in(line, found);
        if matches!(piece, Piece::Open(_)) {
            return;
        }
        self.seen.clear();
        self.patterns_in(line, found);
        if matches!(piece, Piece::Line(_)) && !line.trim().is_empty() {
            if self.tail.len() >= TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(shorten(line));
        }
    }

    fn patterns_in(&self, line: &str, found: &mut Vec<Sighting>) {
        let mut failed = false;
        for at in self.line_set.matches(line) {
            let Some((recogniser, except)) = self.of_lines.get(at) else {
                continue;
            };
            if except.as_ref().is_some_and(|except| except.is_match(line)) {
                continue;
            }
            // A line fails once: the table has the closer word before the wider one.
            if recogniser.meaning == Meaning::Failed && std::mem::replace(&mut failed, true) {
                continue;
            }
            found.push(Sighting {
                recogniser,
                line: shorten(line),
            });
        }
    }

    fn prompts_in(&mut self, line: &str, found: &mut Vec<Sighting>) {
        let start = match line.char_indices().nth(PROMPT_MAX) {
            Some((end, _)) => line.get(..end).unwrap_or(line),
            None => line,
        };
        for (recogniser, pattern, except) in &self.prompts {
            if self.seen.contains(&recogniser.id) {
                continue;
            }
            let Some(hit) = pattern.find(start) else {
                continue;
            };
            if except.as_ref().is_some_and(|except| except.is_match(start)) {
                continue;
            }
            self.seen.push(recogniser.id);
            // What stands before the prompt came before it, though its line has not ended.
            self.patterns_in(start.get(..hit.start()).unwrap_or_default(), found);
            found.push(Sighting {
                recogniser,
                line: hit.as_str().trim_end().to_owned(),
            });
        }
    }
}

/// A line as reports carry it.
fn shorten(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(TAIL_WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// What is seen when the bytes come in these chunks, and the tail.
    fn seen<'a>(
        recognition: &mut Recognition,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<(&'static str, String)>, Vec<String>) {
        recognition.lines = Lines::default();
        recognition.seen.clear();
        recognition.tail.clear();
        let mut found = Vec::new();
        for chunk in chunks {
            found.extend(recognition.push(chunk));
        }
        found.extend(recognition.finish());
        let found = found
            .into_iter()
            .map(|sighting| (sighting.recogniser.id, sighting.line));
        (found.collect(), recognition.tail())
    }

    #[test]
    fn what_is_seen_does_not_depend_on_where_the_bytes_are_split() {
        let mut fresh = Recognition::new().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let mut recordings = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|suffix| suffix != "serial") {
                continue;
            }
            recordings += 1;
            let bytes = fs::read(&path).unwrap();
            let whole = seen(&mut fresh, [bytes.as_slice()]);
            assert!(
                !whole.0.is_empty(),
                "{}: nothing recognised",
                path.display()
            );
            assert_eq!(
                seen(&mut fresh, bytes.chunks(1)),
                whole,
                "{}",
                path.display()
            );
            assert_eq!(
                seen(&mut fresh, bytes.chunks(7)),
                whole,
                "{}",
                path.display()
            );
            if bytes.len() <= 1500 {
                for at in 0..bytes.len() {
                    let (a, b) = bytes.split_at(at);
                    assert_eq!(
                        seen(&mut fresh, [a, b]),
                        whole,
                        "{} at {at}",
                        path.display()
                    );
                }
            }
        }
        assert!(recordings >= 15);
    }

    #[test]
    fn a_last_login_line_is_no_prompt_however_it_comes() {
        let mut fresh = Recognition::new().unwrap();
        let bytes = b"Last login: Tue Nov 17 10:00:00 on ttyS0\r\n";
        assert_eq!(seen(&mut fresh, bytes.chunks(1)).0, []);
        assert_eq!(seen(&mut fresh, [bytes.as_slice()]).0, []);
    }

    #[test]
    fn a_line_that_fails_twice_counts_once_under_its_closest_name() {
        let mut fresh = Recognition::new().unwrap();
        let line =
            b"[ 2.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00\n";
        let ids: Vec<_> = seen(&mut fresh, [line.as_slice()]).0;
        assert_eq!(ids.len(), 1);
        assert_eq!(ids[0].0, "kernel-init-died");
    }

    #[test]
    fn the_tail_is_bounded_in_lines_and_width() {
        let mut recognition = Recognition::new().unwrap();
        for nth in 0..1000 {
            recognition.push(format!("line {nth} {}\n", "x".repeat(2000)).as_bytes());
        }
        recognition.push("an open one".as_bytes());
        let tail = recognition.tail();
        assert_eq!(tail.len(), TAIL_LINES + 1);
        assert!(
            tail.iter()
                .all(|line| line.chars().count() <= TAIL_WIDTH + 1)
        );
        assert_eq!(tail.last().map(String::as_str), Some("an open one"));
        assert!(tail[TAIL_LINES - 1].starts_with("line 999 "));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn noise_before_a_prompt_does_not_hide_it(
            noise in prop::collection::vec(any::<u8>(), 0..2000),
            chunk in 1..300usize,
        ) {
            let mut recognition = Recognition::new().unwrap();
            let mut bytes = noise;
            bytes.extend(b"\nguest login: ");
            let mut found = Vec::new();
            for part in bytes.chunks(chunk) {
                found.extend(recognition.push(part));
            }
            prop_assert!(found.iter().any(|seen| seen.line == "guest login:"));
        }
    }
}
