//! `Log`: the journal as a file. Each line is a checksum, a space and JSON; the first line says
//! whose journal it is, each other one is a checkpoint. A line that is not whole ends the journal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rehost_block::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{Checkpoint, Identity};

/// Longest line that is read. Ours: a checkpoint of 256 MiB in units of 4 KiB takes a tenth of it.
const MOST_LINE: u64 = 64 << 20;

/// An open journal, to be appended to.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: fs::File,
}

impl Log {
    /// A new journal at `path`, in place of an older one.
    ///
    /// # Errors
    /// Io when it cannot be written.
    pub(super) fn create(path: &Path, identity: &Identity) -> Result<Self> {
        let file = fs::File::create(path)
            .map_err(|error| Error::io("cannot create", error).in_file(path))?;
        let mut log = Self {
            path: path.to_owned(),
            file,
        };
        log.line(identity)?;
        Ok(log)
    }

    /// Opens the journal at `path`, gives every whole checkpoint to `each`, and cuts what follows.
    ///
    /// # Errors
    /// Usage when it is the journal of another conversion; Io; and what `each` gives.
    pub(super) fn open(
        path: &Path,
        identity: &Identity,
        mut each: impl FnMut(Checkpoint) -> Result<()>,
    ) -> Result<Self> {
        let failed = |error| Error::io("cannot be read", error).in_file(path);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let mut reader = BufReader::new(&file);
        let (theirs, mut end): (Identity, u64) =
            next(&mut reader).map_err(failed)?.ok_or_else(|| {
                Error::corrupt("is no journal of this program")
                    .in_file(path)
                    .hint("begin again without --resume")
            })?;
        identity
            .check(&theirs)
            .map_err(|error| error.in_file(path))?;
        // Ends because every line is taken once.
        while let Some((checkpoint, len)) = next(&mut reader).map_err(failed)? {
            each(checkpoint)?;
            end += len;
        }
        drop(reader);
        let mut log = Self {
            path: path.to_owned(),
            file,
        };
        log.cut(end)?;
        Ok(log)
    }

    /// Whether there is a journal at `path` with a checkpoint. One that was killed before that has
    /// nothing to go on from.
    pub(super) fn is_begun(path: &Path) -> bool {
        fs::File::open(path).is_ok_and(|file| {
            let mut reader = BufReader::new(file);
            let whose: std::io::Result<Option<(Identity, u64)>> = next(&mut reader);
            let first: std::io::Result<Option<(Checkpoint, u64)>> = next(&mut reader);
            matches!((whose, first), (Ok(Some(_)), Ok(Some(_))))
        })
    }

    /// Appends a checkpoint, and returns once it is on stable storage.
    ///
    /// # Errors
    /// Io when it cannot be written.
    pub(super) fn append(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.line(checkpoint)
    }

    fn line<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let json = serde_json::to_string(value)
            .map_err(|error| Error::internal("journal cannot be put into words").because(error))?;
        let line = format!("{} {json}\n", sum(json.as_bytes()));
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|error| Error::io("cannot write", error).in_file(&self.path))
    }

    fn cut(&mut self, end: u64) -> Result<()> {
        use std::io::Seek;
        self.file
            .set_len(end)
            .and_then(|()| self.file.seek(std::io::SeekFrom::Start(end)))
            .map(drop)
            .map_err(|error| Error::io("cannot be cut", error).in_file(&self.path))
    }
}

/// The next whole line, and its length in bytes.
fn next<T: DeserializeOwned>(reader: impl BufRead) -> std::io::Result<Option<(T, u64)>> {
    let mut line = Vec::new();
    reader.take(MOST_LINE).read_until(b'\n', &mut line)?;
    let len = line.len() as u64;
    let Some(line) = line.strip_suffix(b"\n") else {
        return Ok(None);
    };
    let whole = line
        .split_at_checked(16)
        .and_then(|(sum, json)| Some((sum, json.strip_prefix(b" ")?)))
        .filter(|(before, json)| *before == sum(json).as_bytes())
        .and_then(|(_, json)| serde_json::from_slice(json).ok());
    Ok(whole.map(|value| (value, len)))
}

/// Enough of a SHA-256 to know a torn line.
fn sum(json: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(json).into();
    crate::checksum::hex(&digest)[..16].to_owned()
}
