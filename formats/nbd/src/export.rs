//! `Export`: a disk under a name, as clients see it.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Result};

use crate::wire::{STRING_MAX, flag};

/// What is exported, and whether it can be written.
#[derive(Debug, Clone)]
enum Content {
    ReadOnly(Arc<dyn Disk>),
    Writable(Arc<dyn DiskMut>),
}

/// A disk offered to clients.
#[derive(Debug, Clone)]
pub struct Export {
    name: String,
    description: Option<String>,
    content: Content,
}

impl Export {
    /// `disk` under `name`; clients can only read it.
    #[must_use]
    pub fn read_only(name: impl Into<String>, disk: Arc<dyn Disk>) -> Self {
        Self {
            name: name.into(),
            description: None,
            content: Content::ReadOnly(disk),
        }
    }

    /// `disk` under `name`; clients write to it, so give an overlay.
    #[must_use]
    pub fn writable(name: impl Into<String>, disk: Arc<dyn DiskMut>) -> Self {
        Self {
            name: name.into(),
            description: None,
            content: Content::Writable(disk),
        }
    }

    /// Adds a sentence for people who list the exports.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk().size()
    }

    pub(crate) fn description(&self) -> &str {
        self.description.as_deref().unwrap_or_default()
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        match &self.content {
            Content::ReadOnly(disk) => disk,
            Content::Writable(disk) => disk,
        }
    }

    pub(crate) fn writer(&self) -> Option<&dyn DiskMut> {
        match &self.content {
            Content::ReadOnly(_) => None,
            Content::Writable(disk) => Some(disk),
        }
    }

    /// The transmission flags.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        // One disk object answers every connection, so a flush on one covers them all.
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::CAN_MULTI_CONN;
        flags |= match self.content {
            Content::ReadOnly(_) => flag::READ_ONLY,
            Content::Writable(_) => flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES,
        };
        if structured {
            flags |= flag::SEND_DF;
        }
        flags
    }

    /// Refuses what the protocol cannot carry.
    pub(crate) fn check_all(exports: &[Self]) -> Result<()> {
        if exports.is_empty() {
            return Err(Error::usage("an NBD server needs at least one export"));
        }
        for (nth, export) in exports.iter().enumerate() {
            if export.name.len() > STRING_MAX || export.description().len() > STRING_MAX {
                return Err(
                    Error::usage("export name or description is too long").mismatch(
                        format!("at most {STRING_MAX} bytes"),
                        export.name.len().max(export.description().len()),
                    ),
                );
            }
            let earlier = exports.iter().take(nth);
            if earlier.into_iter().any(|other| other.name == export.name) {
                return Err(Error::usage(format!(
                    "two exports are called '{}'",
                    export.name
                )));
            }
        }
        Ok(())
    }

    /// The export a client means; the empty name is the first one.
    pub(crate) fn find<'a>(exports: &'a [Self], name: &[u8]) -> Option<&'a Self> {
        exports
            .iter()
            .find(|export| export.name.as_bytes() == name)
            .or_else(|| exports.first().filter(|_| name.is_empty()))
    }
}
