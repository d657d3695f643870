//! Results on standard output: JSON for programs, lines for people.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::voice::plain;

/// Bytes of a listing that are written at a time.
const BULK: usize = 64 << 10;

/// Prints `value` as indented JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

/// An error as JSON.
#[derive(Serialize)]
struct Failure<'a> {
    error: Failed<'a>,
}

#[derive(Serialize)]
struct Failed<'a> {
    /// Who is at fault; `other` for errors of no kind.
    kind: &'static str,
    /// The line on standard error.
    message: String,
    file: Option<&'a Path>,
    structure: Option<&'static str>,
    offset: Option<u64>,
}

/// Prints what ended a command whose result was wanted as JSON.
pub(super) fn error(error: &anyhow::Error) -> Result<()> {
    let known = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<rehost_block::Error>());
    json(&Failure {
        error: Failed {
            kind: known.map_or("other", |known| known.kind().as_str()),
            message: format!("{error:#}"),
            file: known.and_then(rehost_block::Error::path),
            structure: known.and_then(rehost_block::Error::structure),
            offset: known.and_then(rehost_block::Error::offset),
        },
    })
}

/// Prints the lines of `text`, which hold nothing that drives a terminal.
pub(super) fn line(text: impl std::fmt::Display) -> Result<()> {
    let text = text.to_string();
    let mut stdout = io::stdout().lock();
    for line in text.split('\n') {
        writeln!(stdout, "{}", plain(line))?;
    }
    Ok(())
}

/// Prints a name that the guest chose: as it is for programs, so that it shows on a terminal.
pub(super) fn name(bytes: &[u8]) -> Result<()> {
    if io::stdout().is_terminal() {
        raw(plain(&String::from_utf8_lossy(bytes)).as_bytes())
    } else {
        raw(bytes)
    }
}

/// Standard output for much at once: what is given is written in large pieces.
#[derive(Debug)]
pub(super) struct Bulk {
    out: BufWriter<File>,
    terminal: bool,
}

impl Bulk {
    /// Standard output, to which nobody else may write until [`Bulk::finish`].
    pub(super) fn new() -> Result<Self> {
        let stdout = io::stdout();
        // Past the standard library's buffer, which looks for line ends in all of it.
        let file = File::from(stdout.as_fd().try_clone_to_owned()?);
        Ok(Self {
            out: BufWriter::with_capacity(BULK, file),
            terminal: stdout.is_terminal(),
        })
    }

    /// Writes bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// Writes a name that the guest chose, as [`name`] does.
    pub(super) fn name(&mut self, bytes: &[u8]) -> Result<()> {
        if self.terminal {
            self.raw(plain(&String::from_utf8_lossy(bytes)).as_bytes())
        } else {
            self.raw(bytes)
        }
    }

    /// Writes `value` as JSON, in one line without its end.
    pub(super) fn json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.out.flush()?;
        Ok(())
    }
}

/// A name for JSON: as text, and in hex where it is not UTF-8.
pub(super) fn both(bytes: &[u8]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let exact = std::str::from_utf8(bytes).is_err().then(|| hex(bytes));
    (text, exact)
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Prints bytes as they are.
pub(super) fn raw(bytes: &[u8]) -> Result<()> {
    io::stdout().write_all(bytes)?;
    Ok(())
}

/// Whether an error only says that nobody reads standard output any more.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
