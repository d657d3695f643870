//! Reading a guest's configuration: what cannot be read becomes a finding, and inspection goes on.

use std::cell::RefCell;

use rehost_block::{Error, Result};

use crate::model::{Finding, Place, Severity};
use crate::text::Text;
use crate::tree::{GuestFile, GuestTree};

/// Largest configuration file that is parsed. Ours: a `grub.cfg` of a hundred kernels has 200 KiB.
pub(crate) const MOST_TEXT: u64 = 1 << 20;

/// A guest tree, and what went wrong while it was read.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) tree: &'a GuestTree,
    findings: RefCell<Vec<Finding>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(tree: &'a GuestTree) -> Self {
        Self {
            tree,
            findings: RefCell::new(Vec::new()),
        }
    }

    /// The small text file at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<Text> {
        let read = self.tree.read_at_most(path, MOST_TEXT);
        let bytes = self.noted(path, read).flatten()?;
        Some(Text::new(path, &bytes))
    }

    /// The first bytes of a file.
    pub(crate) fn start(&self, path: &str, len: usize) -> Option<Vec<u8>> {
        let read = self.tree.read_start(path, len);
        self.noted(path, read).flatten()
    }

    /// All of a file that may be larger than a configuration.
    pub(crate) fn bytes_at_most(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        self.noted(path, self.tree.read_at_most(path, most))
            .flatten()
    }

    /// The regular file at `path`, to be read by place.
    pub(crate) fn open(&self, path: &str) -> Option<GuestFile> {
        self.noted(path, self.tree.open(path)).flatten()
    }

    /// Whether there is something at `path`.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.noted(path, self.tree.exists(path)).unwrap_or_default()
    }

    /// Length of what is at `path`.
    pub(crate) fn size(&self, path: &str) -> Option<u64> {
        let attributes = self.noted(path, self.tree.attributes(path)).flatten()?;
        Some(attributes.size)
    }

    /// Names in a directory that are UTF-8, sorted; none when there is no directory.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = self
            .noted(path, self.tree.read_dir(path))
            .unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|entry| String::from_utf8(entry.name).ok())
            .collect()
    }

    /// The path without links, when something is there.
    pub(crate) fn canonical(&self, path: &str) -> Option<String> {
        let location = self.noted(path, self.tree.locate(path)).flatten()?;
        String::from_utf8(location.guest_path).ok()
    }

    /// Adds a finding.
    pub(crate) fn find(&self, finding: Finding) {
        let mut findings = self.findings.borrow_mut();
        // One damaged directory makes one finding, however often it is looked at.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// What was found so far.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    fn noted<T>(&self, path: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.find(unreadable(path, &error)))
            .ok()
    }
}

fn unreadable(path: &str, error: &Error) -> Finding {
    Finding {
        severity: Severity::Warning,
        id: "unreadable-file",
        what: format!("cannot read {path}: {error}"),
        evidence: vec![Place::file(path)],
        fix: None,
    }
}
