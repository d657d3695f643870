//! `rehost migrate`: the whole path.

use std::num::{NonZeroU32, NonZeroU64};

use anyhow::Result;

use super::args::{Hypervisor, Migrate, Shape};
use super::inject::{console, first_boot, hardware};
use super::verify::{booting, firmware};
use super::{Answer, output};
use crate::interrupt;
use crate::migrate::{Boots, Migration, Proving, Stop, migrate};
use crate::proof::Booting;
use crate::report::Ending;
use crate::source::disks::{Cards, Wishes};
use crate::unfinished::Existing;

/// Runs the command.
pub(super) fn run(args: &Migrate) -> Result<Answer> {
    let voice = args.reporting.voice();
    let migration = Migration {
        source: &args.source,
        more: &args.more.disks,
        format: args.opening.format,
        allow_paths: &args.opening.allow_paths,
        wishes: wishes(&args.shape, args.to),
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
        proof: match (args.no_verify, args.through_firmware) {
            (true, _) => Proving::Skipped,
            (false, false) => Proving::ThroughKernel,
            (false, true) => Proving::ThroughFirmware,
        },
        network: if args.booting.check_network {
            Boots::Run
        } else {
            Boots::Skipped
        },
        booting: Booting {
            root: args.editing.root.clone(),
            ..booting(&args.booting, args.opening.keys.secrets()?)?
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

/// The machine as typed.
fn wishes(args: &Shape, target: Hypervisor) -> Wishes {
    let cards = match target {
        Hypervisor::Physical => Cards::Own,
        Hypervisor::Kvm | Hypervisor::Vmware | Hypervisor::Hyperv => Cards::Made,
    };
    Wishes {
        vcpus: args.cpus.and_then(NonZeroU32::new),
        memory_mib: args.memory.and_then(NonZeroU64::new),
        firmware: args.firmware.map(firmware),
        macs: args.macs.clone(),
        cards,
    }
}
