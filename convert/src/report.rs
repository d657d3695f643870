//! `report.json`: every decision of a migration, with its evidence.
//!
//! The shape is versioned by `schema`. A report is written on success and on failure alike; a run
//! that was killed leaves none, and its image keeps the name `….partial`.

use std::path::PathBuf;

use rehost_block::{Error, Result};
use rehost_image::LayerDescription;
use rehost_inject::apply::Ledger;
use rehost_inject::plan::EditPlan;
use rehost_inspect::Inspection;
use serde::Serialize;

use crate::proof::Proof;
use crate::source::Vm;
use crate::target::NewMachine;
use crate::write::Outcome;

/// The version of this shape.
pub const SCHEMA: &str = "rehost.migration/1";

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Only the plan was asked for.
    Planned,
    /// The written image reached its login prompt.
    Proven,
    /// Everything was written, and the proof was not asked for.
    Unproven,
    /// The edited guest did not pass before anything was copied.
    PreflightFailed,
    /// The written image did not pass.
    ProofFailed,
    /// An error ended it.
    Failed,
}

/// Something that was decided without asking.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// What was decided.
    pub what: String,
    /// From what it follows.
    pub evidence: String,
}

/// A source disk.
#[derive(Debug, Clone, Serialize)]
pub struct SourceDisk {
    /// The image and its parents.
    pub layers: Vec<LayerDescription>,
    /// Every file that was opened, all read-only.
    pub files: Vec<PathBuf>,
}

/// A disk that was written.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenDisk {
    /// The image.
    pub path: PathBuf,
    /// What the copy did.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A whole migration.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The program's version.
    pub rehost: &'static str,
    /// How it ended.
    pub ending: Ending,
    /// The error, where one ended it.
    pub error: Option<String>,
    /// Decisions in the order they were taken.
    pub decisions: Vec<Decision>,
    /// The machine that is moved: as it is described, or as it was put together for disks alone.
    pub vm: Option<Vm>,
    /// Its disks.
    pub sources: Vec<SourceDisk>,
    /// What was found on them.
    pub inspection: Option<Inspection>,
    /// What was to be changed.
    pub plan: Option<EditPlan>,
    /// What was changed: files, and byte ranges of each disk.
    pub ledger: Option<Ledger>,
    /// The boot of the edited guest before anything was copied.
    pub preflight: Option<Proof>,
    /// The images that were written.
    pub disks: Vec<WrittenDisk>,
    /// The new machine.
    pub machine: Option<NewMachine>,
    /// The file that describes it to its hypervisor.
    pub description: Option<PathBuf>,
    /// The boot of what was written.
    pub proof: Option<Proof>,
    /// Wall time of each step in seconds.
    pub steps: Vec<Step>,
}

/// A step and its time.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its name.
    pub step: &'static str,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Report {
    /// A report in which nothing has happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            schema: SCHEMA,
            rehost: env!("CARGO_PKG_VERSION"),
            ending: Ending::Failed,
            error: None,
            decisions: Vec::new(),
            vm: None,
            sources: Vec::new(),
            inspection: None,
            plan: None,
            ledger: None,
            preflight: None,
            disks: Vec::new(),
            machine: None,
            description: None,
            proof: None,
            steps: Vec::new(),
        }
    }

    /// The report as a file holds it.
    ///
    /// # Errors
    /// Internal when it cannot be serialised.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("report").because(error))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Notes a decision.
    pub fn decided(&mut self, what: impl Into<String>, evidence: impl Into<String>) {
        self.decisions.push(Decision {
            what: what.into(),
            evidence: evidence.into(),
        });
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}
