//! `Identity`: what must be the same for a conversion to be the same one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rehost_block::{Error, Result};
use serde::{Deserialize, Serialize};

/// The version of the journal's layout. Others are refused.
const VERSION: u32 = 1;

/// A file of the source, as the file system knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
    device: u64,
    inode: u64,
}

impl SourceFile {
    /// The file at `path` as it is now.
    ///
    /// # Errors
    /// Io when it cannot be examined.
    pub fn at(path: &Path) -> Result<Self> {
        let meta = path
            .metadata()
            .map_err(|error| Error::io("cannot be examined", error).in_file(path))?;
        Ok(Self {
            path: path.to_owned(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

/// A conversion: which source becomes what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    rehost_journal: u32,
    program: String,
    sources: Vec<SourceFile>,
    /// Guest-visible size in bytes.
    size: u64,
    /// Everything that the target was asked for, as text.
    target: String,
    /// What else decides how the disk is cut and what is kept.
    settings: String,
}

impl Identity {
    /// The conversion of a disk of `size` bytes in the files `sources` into `target`, with
    /// `settings`.
    ///
    /// # Errors
    /// Io when a source cannot be examined.
    pub fn new(sources: &[PathBuf], size: u64, target: String, settings: String) -> Result<Self> {
        Ok(Self {
            rehost_journal: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            sources: sources
                .iter()
                .map(|path| SourceFile::at(path))
                .collect::<Result<_>>()?,
            size,
            target,
            settings,
        })
    }

    /// Refuses a journal of another conversion, and says what is different.
    ///
    /// # Errors
    /// Usage when anything is.
    pub(super) fn check(&self, journal: &Self) -> Result<()> {
        const HINT: &str = "begin again without --resume";
        let ours = (self.rehost_journal, &self.program);
        let theirs = (journal.rehost_journal, &journal.program);
        if ours != theirs {
            return Err(
                Error::usage("journal was written by another version of this program")
                    .mismatch(&self.program, &journal.program)
                    .hint(HINT),
            );
        }
        let paths = |of: &Self| -> Vec<PathBuf> {
            of.sources.iter().map(|file| file.path.clone()).collect()
        };
        if paths(self) != paths(journal) {
            return Err(Error::usage("journal is of another source")
                .mismatch(shown(&paths(self)), shown(&paths(journal)))
                .hint(HINT));
        }
        for (file, before) in self.sources.iter().zip(&journal.sources) {
            if file != before {
                return Err(
                    Error::usage("source changed since the conversion was begun")
                        .in_file(&file.path)
                        .hint(HINT),
                );
            }
        }
        for (ours, theirs) in [
            (&self.target, &journal.target),
            (&self.settings, &journal.settings),
            (&self.size.to_string(), &journal.size.to_string()),
        ] {
            if ours != theirs {
                return Err(
                    Error::usage("journal is of a conversion with other options")
                        .mismatch(ours, theirs)
                        .hint("give the same options, or begin again without --resume"),
                );
            }
        }
        Ok(())
    }
}

fn shown(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    shown.join(", ")
}
