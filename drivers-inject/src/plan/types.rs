//! The plan as values: each edit with what it changes, how it is written, why, and on what evidence.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Error, Result};
use rehost_inspect::model::{FilesystemRef, Place, Severity};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::guest::FoundFile;
use crate::initramfs::AddedModule;

/// The version of this shape, as `schema` in the JSON.
pub const SCHEMA: &str = "rehost.plan/1";

/// Longest new file that is shown to people.
const LONGEST_SHOWN: usize = 4 << 10;

/// All that is to be done.
#[derive(Debug, Clone, Serialize)]
pub struct EditPlan {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// Name of the target.
    pub target: &'static str,
    /// The edits, in the order in which they are applied. Each changes another file.
    pub edits: Vec<Edit>,
    /// What the user should know, the most important first.
    pub notes: Vec<Note>,
}

/// One file that is changed or created.
#[derive(Debug, Clone, Serialize)]
pub struct Edit {
    /// Its absolute path in the guest.
    pub path: String,
    /// The filesystem it is on.
    pub at: FilesystemRef,
    /// Its absolute path in that filesystem, without links.
    pub inner_path: String,
    /// What is different.
    pub change: Change,
    /// How it is written.
    pub how: How,
    /// Why, in one sentence.
    pub reason: String,
    /// Where that is seen.
    pub evidence: Vec<Place>,
    /// The content that the plan was made for; `None` for a new file.
    pub before: Option<Digest>,
    /// The content to be; `None` for a file that is removed.
    pub after: Option<Digest>,
    /// The whole new content.
    #[serde(skip)]
    pub content: Arc<Vec<u8>>,
    /// What depends on it.
    #[serde(skip)]
    pub(super) need: Need,
}

/// What depends on an edit, or on a part of one; the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// The guest boots without it.
    Extra,
    /// The guest needs it to boot, or to find its disks.
    Boot,
    /// What was asked for at the first boot, all of which is done or nothing.
    FirstBoot,
}

/// What an edit changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Change {
    /// An initramfs gets modules and files.
    Initramfs {
        /// Whose it is.
        kernel: String,
        /// Modules that were not in it, in load order.
        modules: Vec<AddedModule>,
        /// Files inside that are new or different.
        files: Vec<String>,
        /// How its main stream is compressed.
        compression: &'static str,
        /// The compressor's setting.
        setting: String,
        /// Bytes of the file without the padding of the initramfs.
        packed: u64,
        /// The command line beside it in a unified kernel image, where that changes too.
        #[serde(skip_serializing_if = "Option::is_none")]
        command_line: Option<LineChange>,
    },
    /// The command line inside a unified kernel image.
    CommandLine {
        /// All of it as its only line.
        line: LineChange,
    },
    /// Lines of a text file.
    Text {
        /// The lines, in order.
        lines: Vec<LineChange>,
    },
    /// A file that was not there.
    Create {
        /// Permissions.
        mode: u16,
    },
    /// A file with the content of another, as the plan leaves that.
    Copy {
        /// The other's absolute path in the guest.
        from: String,
    },
    /// A symbolic link that was not there.
    Link {
        /// Where it leads.
        target: String,
    },
    /// The file goes.
    Remove,
}

/// One line of a text file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineChange {
    /// From 1.
    pub line: u32,
    /// As it is.
    pub before: String,
    /// As it will be.
    pub after: String,
}

/// How a file is written, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Inside its own blocks at the same length: no metadata changes.
    Overwrite,
    /// Into blocks allocated for it; its old ones are freed. Inode, owner and labels stay.
    Allocate,
    /// A new file.
    Create,
    /// Its name is taken out of its directory, and its blocks are freed.
    Remove,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overwrite => "overwritten in place, same size",
            Self::Allocate => "into newly allocated blocks",
            Self::Create => "new file",
            Self::Remove => "removed",
        })
    }
}

/// Length and hash of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Digest {
    /// Bytes.
    pub size: u64,
    /// SHA-256, as hex digits in the JSON.
    #[serde(serialize_with = "hex")]
    pub sha256: [u8; 32],
}

impl Digest {
    /// Of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self {
            size: content.len() as u64,
            sha256: Sha256::digest(content).into(),
        }
    }
}

fn hex<S: Serializer>(bytes: &[u8; 32], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(bytes))
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, sha256 {}", self.size, Hex(&self.sha256))
    }
}

/// Something the user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name: `kernel-lacks-driver`.
    pub id: &'static str,
    /// What is so, in one sentence.
    pub what: String,
    /// Where that is seen.
    pub evidence: Vec<Place>,
    /// What the user can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Whether the guest does not boot on the target because of it.
    pub stops_boot: bool,
}

impl Note {
    /// What is so, and where that is seen.
    pub(super) fn new(
        severity: Severity,
        id: &'static str,
        what: String,
        evidence: Vec<Place>,
    ) -> Self {
        Self {
            severity,
            id,
            what,
            evidence,
            fix: None,
            stops_boot: false,
        }
    }

    /// A reason why the guest does not boot on the target, and what the user can do.
    pub(super) fn stopping(
        id: &'static str,
        what: String,
        evidence: Vec<Place>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            fix: Some(fix.into()),
            stops_boot: true,
            ..Self::new(Severity::Problem, id, what, evidence)
        }
    }
}

impl Edit {
    /// The change of a file that is there.
    pub(super) fn of_file(
        path: &str,
        found: FoundFile,
        (before, after): (&[u8], Vec<u8>),
        change: Change,
        (reason, evidence): (String, Vec<Place>),
    ) -> Self {
        let how = if found.plain && before.len() == after.len() {
            How::Overwrite
        } else {
            How::Allocate
        };
        Self {
            path: path.to_owned(),
            at: found.at,
            inner_path: found.path,
            change,
            how,
            reason,
            evidence,
            before: Some(Digest::of(before)),
            after: Some(Digest::of(&after)),
            content: Arc::new(after),
            need: Need::Extra,
        }
    }

    /// The same, with this depending on it.
    pub(super) fn needed(self, need: Need) -> Self {
        Self { need, ..self }
    }

    /// How much it matters when it cannot be made.
    pub(super) const fn weight(&self) -> Severity {
        match self.need {
            Need::Extra => Severity::Warning,
            Need::Boot | Need::FirstBoot => Severity::Problem,
        }
    }

    /// Whether it is of this file, whatever path leads there.
    pub(super) fn is_of(&self, file: &FoundFile) -> bool {
        self.at.is_view(&file.at) && self.inner_path == file.path
    }

    /// A new file, or link, at `path`, which is `inner_path` on the filesystem `at`.
    pub(super) fn of_new(
        path: &str,
        (at, inner_path): (FilesystemRef, String),
        content: Vec<u8>,
        change: Change,
        (reason, evidence): (String, Vec<Place>),
    ) -> Self {
        Self {
            path: path.to_owned(),
            at,
            inner_path,
            change,
            how: How::Create,
            reason,
            evidence,
            before: None,
            after: Some(Digest::of(&content)),
            content: Arc::new(content),
            need: Need::Extra,
        }
    }

    /// The end of the file `found`, which holds `before`.
    pub(super) fn of_removed(
        path: &str,
        found: FoundFile,
        before: &[u8],
        (reason, evidence): (String, Vec<Place>),
    ) -> Self {
        Self {
            path: path.to_owned(),
            at: found.at,
            inner_path: found.path,
            change: Change::Remove,
            how: How::Remove,
            reason,
            evidence,
            before: Some(Digest::of(before)),
            after: None,
            content: Arc::new(Vec::new()),
            need: Need::Extra,
        }
    }
}

impl EditPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Why the guest does not boot on the target whatever is edited, the reasons named in `accepted`
    /// left out.
    pub fn obstacles<'a>(&'a self, accepted: &'a [String]) -> impl Iterator<Item = &'a Note> {
        let waived = |note: &&Note| !accepted.iter().any(|id| id == note.id);
        self.notes
            .iter()
            .filter(|note| note.stops_boot)
            .filter(waived)
    }

    /// Refuses a guest that does not boot on the target, but for the reasons named in `accepted`.
    ///
    /// # Errors
    /// Unsupported, with the first reason and what the user can do.
    pub fn bootable(&self, accepted: &[String]) -> Result<()> {
        let Some(first) = self.obstacles(accepted).next() else {
            return Ok(());
        };
        let more = match self.obstacles(accepted).skip(1).count() {
            0 => String::new(),
            1 => " (and for one more reason, in the plan)".to_owned(),
            count => format!(" (and for {count} more reasons, in the plan)"),
        };
        let place = match first.evidence.first() {
            Some(place) => format!(" ({place})"),
            None => String::new(),
        };
        let fix = first.fix.as_deref().unwrap_or("mend it in the guest");
        Err(Error::unsupported(format!(
            "the guest would not boot on {}: {}{place}{more}",
            self.target, first.what
        ))
        .hint(format!(
            "{fix}; or take it as it is with --accept {}",
            first.id
        )))
    }

    /// The plan as JSON.
    ///
    /// # Errors
    /// Internal when it cannot be serialised.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("the plan cannot be serialised").because(error))
    }
}

impl fmt::Display for EditPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.edits.len() {
            0 => writeln!(f, "plan for {}: nothing to change", self.target)?,
            1 => writeln!(f, "plan for {}: 1 file to change", self.target)?,
            count => writeln!(f, "plan for {}: {count} files to change", self.target)?,
        }
        for edit in &self.edits {
            write!(f, "{edit}")?;
        }
        for note in &self.notes {
            write!(f, "{note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {} ({})", self.path, self.how)?;
        writeln!(f, "    why: {}", self.reason)?;
        if !self.evidence.is_empty() {
            let places: Vec<String> = self.evidence.iter().map(Place::to_string).collect();
            writeln!(f, "    seen in: {}", places.join(", "))?;
        }
        match &self.change {
            Change::Initramfs {
                modules,
                files,
                setting,
                packed,
                command_line,
                ..
            } => {
                if !modules.is_empty() {
                    let names: Vec<&str> =
                        modules.iter().map(|module| module.name.as_str()).collect();
                    writeln!(f, "    adds modules: {}", names.join(" "))?;
                }
                if !files.is_empty() {
                    writeln!(f, "    writes inside: {}", files.join(" "))?;
                }
                let before = self.before.as_ref().map_or(0, |before| before.size);
                writeln!(
                    f,
                    "    size: {before} bytes before, {packed} after, {setting}"
                )?;
                if let Some(line) = command_line {
                    write!(f, "    command line inside:\n{line}")?;
                }
            }
            Change::CommandLine { line } => write!(f, "    command line inside:\n{line}")?,
            Change::Text { lines } => {
                for line in lines {
                    write!(f, "    line {}:\n{line}", line.line)?;
                }
            }
            Change::Copy { from } => writeln!(f, "    copy of {from}")?,
            Change::Link { target } => writeln!(f, "    leads to {target}")?,
            Change::Remove => {}
            Change::Create { .. } if self.content.len() > LONGEST_SHOWN => {
                writeln!(f, "    {} bytes", self.content.len())?;
            }
            Change::Create { .. } => {
                for line in String::from_utf8_lossy(&self.content).lines() {
                    writeln!(f, "    + {line}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for LineChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    - {}", self.before)?;
        writeln!(f, "    + {}", self.after)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}: {}", self.severity, self.what)?;
        if !self.evidence.is_empty() {
            let places: Vec<String> = self.evidence.iter().map(Place::to_string).collect();
            write!(f, " ({})", places.join(", "))?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        writeln!(f)?;
        if self.stops_boot {
            writeln!(
                f,
                "    the guest does not boot because of it; --accept {} goes on nevertheless",
                self.id
            )?;
        }
        Ok(())
    }
}
