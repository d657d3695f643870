//! Results on standard output: JSON for programs, lines for people.

use std::io::{self, ErrorKind, Write};

use anyhow::Result;
use serde::Serialize;

/// Prints `value` as indented JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

/// Prints `text` and a line break.
pub(super) fn line(text: impl std::fmt::Display) -> Result<()> {
    writeln!(io::stdout(), "{text}")?;
    Ok(())
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
