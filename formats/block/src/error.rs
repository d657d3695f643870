//! The one error type of the format crates: who is at fault, where, and what can be done.
//!
//! Messages are lower-case, one line per cause. The context (path, structure, byte offset, expected
//! and found) is kept as data so that reports can carry it, and is composed into the line by
//! [`Display`](fmt::Display).

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is at fault. Small and stable: exit codes and reports depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller asked for something that makes no sense or is not allowed.
    Usage,
    /// The operating system refused or failed.
    Io,
    /// The input is well formed and uses something this program does not do.
    Unsupported,
    /// The input contradicts its own format.
    Corrupt,
    /// This program broke one of its own rules.
    Internal,
}

impl Kind {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Io => "io",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

/// What went wrong, with its place.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: Kind,
    what: String,
    path: Option<PathBuf>,
    structure: Option<&'static str>,
    offset: Option<u64>,
    expected: Option<String>,
    found: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` is a lower-case sentence without its place.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                what: what.into(),
                path: None,
                structure: None,
                offset: None,
                expected: None,
                found: None,
                hint: None,
                source: None,
            }),
        }
    }

    /// [`Kind::Usage`].
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// [`Kind::Unsupported`].
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, what)
    }

    /// [`Kind::Corrupt`].
    #[must_use]
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, what)
    }

    /// [`Kind::Internal`].
    #[must_use]
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// [`Kind::Io`] with the operating system's own error as the source.
    #[must_use]
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::new(Kind::Io, what).because(source.into())
    }

    /// The file the error is about. The innermost call wins: a path once set stays.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.inner
            .path
            .get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// The on-disk structure, under the specification's name. The innermost call wins.
    #[must_use]
    pub fn in_structure(mut self, structure: &'static str) -> Self {
        self.inner.structure.get_or_insert(structure);
        self
    }

    /// The byte offset of the offending field in its file. The innermost call wins.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.inner.offset.get_or_insert(offset);
        self
    }

    /// What the specification or the context asked for, and what was there.
    #[must_use]
    pub fn mismatch(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        self.inner.expected = Some(expected.to_string());
        self.inner.found = Some(found.to_string());
        self
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint.get_or_insert(hint.into());
        self
    }

    /// The same without its hint: for an error that explains a decision, where nothing is left to
    /// do.
    #[must_use]
    pub fn without_hint(mut self) -> Self {
        self.inner.hint = None;
        self
    }

    /// The error below this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// The file, where one is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The on-disk structure, where one is known.
    #[must_use]
    pub fn structure(&self) -> Option<&'static str> {
        self.inner.structure
    }

    /// The byte offset in the file, where one is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.inner.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.inner;
        if let Some(path) = &inner.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(structure) = inner.structure {
            write!(f, "{structure}: ")?;
        }
        f.write_str(&inner.what)?;
        if let Some(offset) = inner.offset {
            write!(f, " at byte {offset}")?;
        }
        if let (Some(expected), Some(found)) = (&inner.expected, &inner.found) {
            write!(f, " (expected {expected}, found {found})")?;
        }
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)
    }
}

impl StdError for Error {
    // The source is part of the message (one line per cause), so it is not offered a second time
    // to callers that print chains.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_file_structure_offset_and_remedy() {
        let error = Error::corrupt("cluster offset points past the end of the file")
            .in_structure("L2 table")
            .at(0x50000)
            .mismatch("less than 65536", 131_072)
            .hint("check the image with the tool that wrote it")
            .in_file("disk.qcow2");
        assert_eq!(
            error.to_string(),
            "disk.qcow2: L2 table: cluster offset points past the end of the file at byte 327680 \
             (expected less than 65536, found 131072); check the image with the tool that wrote it"
        );
    }

    #[test]
    fn innermost_place_wins() {
        let error = Error::corrupt("bad")
            .in_file("inner")
            .at(1)
            .in_file("outer")
            .at(2);
        assert_eq!(error.path(), Some(Path::new("inner")));
        assert_eq!(error.offset(), Some(1));
    }
}
