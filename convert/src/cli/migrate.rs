//! `rehost migrate`: the whole path.

use anyhow::Result;

use super::args::Migrate;
use super::inject::{console, first_boot, hardware};
use super::verify::booting;
use super::{Answer, output};
use crate::interrupt;
use crate::migrate::{Boots, Migration, Stop, migrate};
use crate::proof::Booting;
use crate::report::Ending;
use crate::unfinished::Existing;

/// Runs the command.
pub(super) fn run(args: &Migrate) -> Result<Answer> {
    let voice = args.reporting.voice();
    let migration = Migration {
        source: &args.source,
        allow_paths: &args.allow_paths,
        hardware: hardware(args.to, &args.editing)?,
        stop: match &args.output {
            Some(folder) if !args.editing.dry_run => Stop::Never { folder },
            _ => Stop::AfterPlan,
        },
        serial_console: console(&args.editing),
        first_boot: first_boot(&args.editing)?,
        accepted: &args.editing.accept,
        preflight: if args.no_preflight {
            Boots::Skipped
        } else {
            Boots::Run
        },
        proof: if args.no_verify {
            Boots::Skipped
        } else {
            Boots::Run
        },
        booting: Booting {
            root: args.editing.root.clone(),
            ..booting(&args.booting, args.keys.secrets()?)?
        },
        compression: args.compress,
        existing: Existing::from_force(args.force),
        threads: args.threads,
        cancel: interrupt::flag()?,
    };
    let (report, error) = migrate(&migration, voice);
    if args.reporting.json {
        output::json(&report)?;
    } else if let Some(plan) = report.plan.as_ref().filter(|_| args.editing.dry_run) {
        // Also one that shows why the guest would not boot.
        output::line(plan)?;
    }
    match (error, report.ending) {
        (Some(error), _) => Err(error.into()),
        (None, Ending::PreflightFailed | Ending::ProofFailed) => Ok(Answer::NotVerified),
        (None, _) => Ok(Answer::Done),
    }
}
