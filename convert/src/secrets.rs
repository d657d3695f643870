//! What opens encrypted images and volumes, as users give it: key files and passphrases.

use std::fs::File;
use std::io::{IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Result};
use rehost_image::Secret;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Longest passphrase. cryptsetup's own limit for typed ones.
const MOST: usize = 512;

/// Secrets that are tried in turn.
pub type Secrets = Arc<[Secret]>;

/// Reads key files, of which every byte counts, and passphrases, the first line of a file each (`-`:
/// standard input).
///
/// # Errors
/// Io when a file cannot be read; Usage when it is empty or too long.
pub fn read(key_files: &[PathBuf], passphrase_files: &[PathBuf]) -> Result<Secrets> {
    let keys = key_files.iter().map(|path| Secret::key_file(path, 0, None));
    let passphrases = passphrase_files.iter().map(|path| passphrase(path));
    keys.chain(passphrases).collect()
}

fn passphrase(path: &Path) -> Result<Secret> {
    if path != Path::new("-") {
        let line = File::open(path).and_then(first_line);
        let line = line.map_err(|error| Error::io("cannot read the passphrase", error));
        return line.and_then(checked).map_err(|error| error.in_file(path));
    }
    let failed = |error| Error::io("cannot read the passphrase from standard input", error);
    if !stdin().is_terminal() {
        return first_line(stdin().lock()).map_err(failed).and_then(checked);
    }
    let _ = write!(std::io::stderr(), "Passphrase: ");
    let hidden = Hidden::begin()?;
    let line = first_line(stdin().lock());
    drop(hidden);
    let _ = writeln!(std::io::stderr());
    line.map_err(failed).and_then(checked)
}

/// The bytes up to the end of the first line. Byte by byte: what comes after is somebody else's.
fn first_line(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    // Room for all of it at once, so that no smaller copy is left behind.
    let mut line = Vec::with_capacity(MOST + 1);
    let mut byte = [0];
    // Ends with the line, the file, or the longest passphrase.
    while line.len() <= MOST && from.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(line)
}

fn checked(line: Vec<u8>) -> Result<Secret> {
    match line.len() {
        0 => Err(Error::usage("holds no passphrase in its first line")),
        1..=MOST => Ok(Secret::from(line)),
        _ => Err(Error::usage("has a first line too long for a passphrase")
            .hint("give a key file with --key-file FILE")),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn begin() -> Result<Self> {
        let failed = |error: rustix::io::Errno| Error::io("cannot hide what is typed", error);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &hidden).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // What is typed next may stay hidden if this fails; nothing else can be done.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_without_its_end() {
        assert_eq!(first_line(&b"right\nwrong\n"[..]).unwrap(), b"right");
        assert_eq!(first_line(&b"alone"[..]).unwrap(), b"alone");
        assert!(checked(first_line(&b"\nsecond"[..]).unwrap()).is_err());
        assert!(checked(first_line(&[b'x'; 600][..]).unwrap()).is_err());
    }
}
