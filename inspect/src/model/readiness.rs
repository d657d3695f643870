//! The readiness report: findings, who settles each, and what they come to.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use super::Place;
use crate::findings::catalogue;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Works, but differently than before.
    Warning,
    /// Will not work on another machine unless it is changed.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// Something that whoever moves this machine should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name, for policies: `initramfs-lacks-virtio`.
    pub id: &'static str,
    /// What is so, in one sentence.
    pub what: String,
    /// Where that is seen.
    pub evidence: Vec<Place>,
    /// What would settle it.
    pub fix: Option<String>,
}

impl Finding {
    /// Who settles it.
    #[must_use]
    pub fn settled_by(&self) -> SettledBy {
        catalogue::settled_by(self.id)
    }
}

/// The finding, and who settles it, which follows from its name.
#[derive(Serialize, JsonSchema)]
struct Shown<'a> {
    /// How much it matters.
    severity: Severity,
    /// Stable name, for policies.
    id: &'static str,
    /// What is so, in one sentence.
    what: &'a str,
    /// Where that is seen.
    evidence: &'a [Place],
    /// What would settle it.
    fix: Option<&'a str>,
    /// Who settles it.
    settled_by: SettledBy,
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = Shown {
            severity: self.severity,
            id: self.id,
            what: &self.what,
            evidence: &self.evidence,
            fix: self.fix.as_deref(),
            settled_by: self.settled_by(),
        };
        shown.serialize(serializer)
    }
}

impl JsonSchema for Finding {
    fn schema_name() -> Cow<'static, str> {
        "Finding".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Shown::json_schema(generator)
    }
}

/// Who settles a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettledBy {
    /// `rehost migrate` and `rehost inject`, by an edit of their plan.
    Migrate,
    /// Whoever owns the machine: in the guest, or by what is given to rehost.
    Owner,
    /// Nobody: it is only to be known.
    Nobody,
}

/// Whether a machine is ready to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing stands against it.
    Ready,
    /// The edits of `rehost migrate` make it so.
    AfterMigrate,
    /// Something is left that only its owner can settle.
    NeedsOwner,
}

/// What the findings come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    /// In one word.
    pub verdict: Verdict,
    /// Problems that `rehost migrate` settles.
    pub settled_by_migrate: usize,
    /// Problems that are left to the owner.
    pub left_to_owner: usize,
    /// Warnings, whoever settles them.
    pub warnings: usize,
}

impl Readiness {
    /// What `findings` come to.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let count =
            |wanted: &dyn Fn(&Finding) -> bool| findings.iter().filter(|f| wanted(f)).count();
        let problem = |finding: &Finding| finding.severity == Severity::Problem;
        let by_migrate = |finding: &Finding| finding.settled_by() == SettledBy::Migrate;
        let settled_by_migrate = count(&|finding| problem(finding) && by_migrate(finding));
        let left_to_owner = count(&|finding| problem(finding) && !by_migrate(finding));
        Self {
            verdict: match (settled_by_migrate, left_to_owner) {
                (0, 0) => Verdict::Ready,
                (_, 0) => Verdict::AfterMigrate,
                _ => Verdict::NeedsOwner,
            },
            settled_by_migrate,
            left_to_owner,
            warnings: count(&|finding| finding.severity == Severity::Warning),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        match self.verdict {
            Verdict::Ready => write!(f, "ready to move")?,
            Verdict::AfterMigrate => write!(
                f,
                "ready after the edits of `rehost migrate`: {} problem{}",
                self.settled_by_migrate,
                plural(self.settled_by_migrate)
            )?,
            Verdict::NeedsOwner => write!(
                f,
                "{} problem{} left to you, {} that `rehost migrate` settles",
                self.left_to_owner,
                plural(self.left_to_owner),
                self.settled_by_migrate
            )?,
        }
        match self.warnings {
            0 => Ok(()),
            count => write!(f, "; {count} warning{}", plural(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, id: &'static str) -> Finding {
        Finding {
            severity,
            id,
            what: String::new(),
            evidence: Vec::new(),
            fix: None,
        }
    }

    #[test]
    fn the_verdict_is_the_worst_that_is_left() {
        let by_migrate = finding(Severity::Problem, "initramfs-lacks-virtio");
        let by_owner = finding(Severity::Problem, "no-kernel");
        let warning = finding(Severity::Warning, "cloud-init-active");
        assert_eq!(Readiness::of(&[]).verdict, Verdict::Ready);
        assert_eq!(
            Readiness::of(std::slice::from_ref(&warning)).verdict,
            Verdict::Ready
        );
        let one = Readiness::of(&[by_migrate.clone(), warning.clone()]);
        assert_eq!(
            one.to_string(),
            "ready after the edits of `rehost migrate`: 1 problem; 1 warning"
        );
        let two = Readiness::of(&[by_migrate, by_owner, warning]);
        assert_eq!(two.verdict, Verdict::NeedsOwner);
        assert_eq!((two.left_to_owner, two.settled_by_migrate), (1, 1));
    }
}
