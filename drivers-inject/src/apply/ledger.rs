//! `Ledger`: what [`super::apply`] did, down to the bytes of the disks.

use std::ops::Range;

use rehost_inspect::model::FilesystemRef;
use serde::Serialize;

use crate::plan::{Digest, How};

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger {
    /// Filesystems whose journal had to be replayed before they could be written.
    pub replayed: Vec<Replayed>,
    /// The files, in the order in which they were written.
    pub files: Vec<Written>,
}

/// A filesystem that was not unmounted cleanly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Which one.
    pub at: FilesystemRef,
    /// The bytes of the disk that its journal wrote.
    pub ranges: Vec<Range<u64>>,
    /// The same on other disks, where the volume lies on several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
}

/// What was written to a further disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// Its number.
    pub disk: usize,
    /// The bytes of it.
    pub ranges: Vec<Range<u64>>,
}

/// One file that was changed or created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Its absolute path in the guest.
    pub path: String,
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// How it was written.
    pub how: How,
    /// What it was; `None` for a new file.
    pub before: Option<Digest>,
    /// What it is; `None` for a removed one.
    pub after: Option<Digest>,
    /// The bytes of the disk that were written for it, metadata included.
    pub ranges: Vec<Range<u64>>,
    /// The same on other disks, where the volume lies on several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
}

/// An edit that its filesystem cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file's absolute path in the guest.
    pub path: String,
    /// How it was to be written.
    pub how: How,
    /// The filesystem's reason.
    pub why: String,
}
