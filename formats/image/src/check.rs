//! `check`: whether an image's own tables are consistent, and what can be mended.
//!
//! Opening an image checks what reading needs. `check` looks at everything: each entry of each
//! table, references that overlap, room that nothing refers to. One file is checked at a time, its
//! parents are others' business.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Opener, Result, Storage, StorageMut};
use serde::Serialize;

use crate::in_place::{EditFiles, Editing};
use crate::layer::Opening;
use crate::wrapper::{self, Unpacking};
use crate::{Format, qcow2, raw, vdi, vhd, vhdx, vmdk};

/// Findings kept in a [`Check`]; further ones are counted only.
const MOST_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Room is lost, or a copy of something is stale: no guest byte is at risk.
    Leak,
    /// What the guest reads, or what a later writer does, may be wrong.
    Corruption,
}

/// Whether a finding can be mended without guessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// `repair` mends it.
    Safe,
    /// Mending it would need to know what the guest meant.
    No,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, under the specification's name (`refcount table`, `BAT`).
    pub structure: &'static str,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong, one sentence.
    pub text: String,
    /// Whether it can be mended.
    pub repair: Repair,
}

impl Finding {
    /// Whether `repair` mends it.
    pub(crate) const fn is_safe(&self) -> bool {
        matches!(self.repair, Repair::Safe)
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The image's format.
    pub format: Format,
    /// The first 1000 of what is wrong.
    pub findings: Vec<Finding>,
    /// How many findings are of severity `corruption`, those left out above too.
    pub corruptions: u64,
    /// How many are of severity `leak`.
    pub leaks: u64,
    /// Units (clusters, grains, blocks) of the whole disk.
    pub total_units: u64,
    /// Units that are stored.
    pub allocated_units: u64,
    /// Of those, compressed ones.
    pub compressed_units: u64,
    /// Stored units that do not follow their predecessor in the file.
    pub fragmented_units: u64,
    /// Where the last byte that is in use ends, in the image's file.
    pub image_end: u64,
}

impl Check {
    /// Nothing found yet.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self {
            format,
            findings: Vec::new(),
            corruptions: 0,
            leaks: 0,
            total_units: 0,
            allocated_units: 0,
            compressed_units: 0,
            fragmented_units: 0,
            image_end: 0,
        }
    }

    /// Notes something that is wrong.
    pub fn find(&mut self, finding: Finding) {
        let count = match finding.severity {
            Severity::Leak => &mut self.leaks,
            Severity::Corruption => &mut self.corruptions,
        };
        *count = count.saturating_add(1);
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// Whether something can be mended, and nothing is corrupt that could be anything.
    pub(crate) fn is_mendable(&self) -> bool {
        self.corruptions == 0 && self.findings.iter().any(Finding::is_safe)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0
    }
}

/// Checks the image at `path`, one file of a chain (with its extents or data file).
///
/// # Errors
/// As [`Image::open`](crate::Image::open) when it cannot be understood at all.
pub fn check(
    path: &Path,
    format: Format,
    storage: Arc<dyn Storage>,
    opener: &dyn Opener,
) -> Result<Check> {
    let storage = match wrapper::find(path, &*storage, Some(format))? {
        None => storage,
        Some(wrapper) => wrapper::unwrap(storage, wrapper, &Unpacking::from_environment()?)?.0,
    };
    let opening = Opening {
        path,
        storage,
        opener,
        snapshot: None,
        key: None,
    };
    match format {
        Format::Raw => raw::check(&opening),
        Format::Vhd => vhd::check(&opening),
        Format::Vhdx => vhdx::check(&opening),
        Format::Vdi => vdi::check(&opening),
        Format::Vmdk => vmdk::check(&opening),
        Format::Qcow2 => qcow2::check(&opening),
        _ => Err(Error::unsupported(format!(
            "{format} images cannot be checked"
        ))),
    }
    .map_err(|error| error.in_file(path))
}

/// Mends what can be mended without guessing, and checks again.
///
/// # Errors
/// As [`check`]; Unsupported when the format has nothing that could be mended.
pub fn repair(
    path: PathBuf,
    format: Format,
    storage: Arc<dyn StorageMut>,
    opener: &dyn Opener,
    files: &dyn EditFiles,
) -> Result<Check> {
    wrapper::refuse(&path, &*storage)?;
    let editing = Editing {
        path: &path,
        storage,
        opener,
        files,
    };
    match format {
        Format::Vmdk => vmdk::repair(&editing),
        Format::Qcow2 => qcow2::repair(&editing),
        Format::Vdi => vdi::repair(&editing),
        Format::Vhd => vhd::repair(&editing),
        Format::Vhdx => vhdx::repair(&editing),
        _ => Err(editing.refused(format, "repaired")),
    }
    .map_err(|error| error.in_file(&path))
}

/// The frame of a format's `repair`: checks, has the tables rewritten where `mendable` says that no
/// guess is needed, and checks again.
///
/// # Errors
/// What the three give.
pub(crate) fn mend(
    editing: &Editing<'_>,
    check: fn(&Opening<'_>) -> Result<Check>,
    mendable: impl FnOnce(&Check) -> Result<bool>,
    rewrite: impl FnOnce() -> Result<()>,
) -> Result<Check> {
    let opening = editing.opening();
    let before = check(&opening)?;
    if !mendable(&before)? {
        return Ok(before);
    }
    rewrite()?;
    check(&opening)
}
