//! `rehost inject`: an edited copy of an image.

use std::path::Path;

use anyhow::Result;
use rehost_inject::apply::Ledger;
use rehost_inject::plan::{EditPlan, PlanOptions, SerialConsole};
use rehost_inject::target::KVM;
use rehost_inspect::model::GuestSystem;
use serde::Serialize;

use super::args::{Editing, Hypervisor, Inject};
use super::convert::{explained, summary, writing};
use super::{Answer, output};
use crate::edit::{cards, edit, plan};
use crate::guest::{OpenedVm, look};
use crate::source::vmx::Vm;
use crate::write::{Outcome, write_image};

/// The result as JSON.
#[derive(Serialize)]
struct Injected<'a> {
    plan: &'a EditPlan,
    ledger: Option<&'a Ledger>,
    target: Option<&'a Path>,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

/// Runs the command.
pub(super) fn run(args: &Inject) -> Result<Answer> {
    if explained(&args.writing, args.target.as_deref())? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    let secrets = args.opening.keys.secrets()?;
    let opened = OpenedVm::open(&args.source, &[], &args.opening.options(&secrets))?;
    let [image] = &opened.images[..] else {
        anyhow::bail!("inject edits one image; migrate moves a VM of several disks");
    };
    voice.step(format_args!(
        "Looking at the guest on {}.",
        args.source.display()
    ));
    let disks = opened.disks();
    let guest = look(&disks, &secrets)?;
    // A guest without a kernel has nothing that drivers could be given to.
    guest
        .system()
        .and_then(GuestSystem::default_boot)
        .map_err(|error| error.in_file(&args.source))?;
    let Hypervisor::Kvm = args.hypervisor;
    let plan = plan(&guest, &KVM, &options(&args.editing, opened.vm.as_ref()))?;
    let Some(target) = args.target.as_deref().filter(|_| !args.editing.dry_run) else {
        if args.reporting.json {
            output::json(&Injected {
                plan: &plan,
                ledger: None,
                target: None,
                outcome: None,
            })?;
        } else {
            output::line(&plan)?;
        }
        return Ok(Answer::Done);
    };
    voice.step("Planned edits:");
    voice.detail(&plan);
    let writing = writing(&args.writing, target, image.files())?;
    let edited = edit(&plan, &guest, &disks)?;
    voice.step(format_args!(
        "Writing {} ({}) from {}.",
        target.display(),
        writing.options.format(),
        image.format()
    ));
    let outcome = write_image(&*edited.overlays[0], target, &writing, voice)?;
    voice.step(summary(&outcome));
    if args.reporting.json {
        output::json(&Injected {
            plan: &plan,
            ledger: Some(&edited.ledger),
            target: Some(target),
            outcome: Some(outcome),
        })?;
    }
    Ok(Answer::Done)
}

/// The options as typed.
fn options(args: &Editing, vm: Option<&Vm>) -> PlanOptions {
    PlanOptions {
        serial_console: console(args),
        cards: vm.map(cards).unwrap_or_default(),
    }
}

/// `--serial-console` as typed.
pub(super) const fn console(args: &Editing) -> SerialConsole {
    if args.serial_console {
        SerialConsole::Add
    } else {
        SerialConsole::Leave
    }
}
