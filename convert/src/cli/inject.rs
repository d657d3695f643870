//! `rehost inject`: an edited copy of an image, or the image itself edited.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rehost_block::{Error, Overlay};
use rehost_image::Image;
use rehost_inject::apply::Ledger;
use rehost_inject::plan::{EditPlan, FirstBoot, FirstBootFile, PlanOptions, SerialConsole};
use rehost_inject::target::{HYPERV, KVM, PHYSICAL, VMWARE};
use rehost_inspect::model::GuestSystem;
use serde::Serialize;

use super::args::{Editing, GuestConsole, Hypervisor, Inject};
use super::convert::{explained, summary, writing};
use super::{Answer, output};
use crate::edit::{Edited, cards, edit, plan};
use crate::guest::{OpenedVm, choose_root, look, opener};
use crate::hardware::Hardware;
use crate::interrupt;
use crate::source::Vm;
use crate::verbs::inject::inject;
use crate::voice::bytes;
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

/// The result of a change in place as JSON.
#[derive(Serialize)]
struct InjectedInPlace<'a> {
    plan: &'a EditPlan,
    ledger: &'a Ledger,
    image: &'a Path,
    /// What `rehost undo` reads; `None` when nothing was changed.
    undo: Option<&'a Path>,
}

/// Runs the command.
pub(super) fn run(args: &Inject) -> Result<Answer> {
    if explained(&args.writing, args.target.as_deref())? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    let secrets = args.opening.keys.secrets()?;
    let opened = OpenedVm::open(&args.source, &[], &args.opening.options(&secrets))?;
    let image = match &opened.images[..] {
        [image] => image,
        [first, _, ..] if args.in_place || args.editing.dry_run || args.target.is_none() => first,
        _ => anyhow::bail!(
            "inject writes one image; `rehost inject --in-place` edits a VM of several disks, and \
             `rehost migrate` moves it"
        ),
    };
    voice.step(format_args!(
        "Looking at the guest on {}.",
        args.source.display()
    ));
    let disks = opened.disks();
    let mut guest = look(&disks, &secrets)?;
    if let Some(root) = &args.editing.root {
        choose_root(&mut guest, root)?;
    }
    // A guest without a kernel has nothing that drivers could be given to.
    guest
        .system()
        .and_then(GuestSystem::default_boot)
        .map_err(|error| error.in_file(&args.source))?;
    let hardware = hardware(args.hypervisor, &args.editing)?;
    let options = options(&args.editing, hardware, opened.vm.as_ref())?;
    let plan = plan(&guest, (&disks, &secrets), hardware.target, &options)?;
    let bootable = plan
        .bootable(&args.editing.accept)
        .map_err(|error| error.in_file(&args.source));
    if args.in_place && !args.editing.dry_run {
        bootable?;
        return in_place(
            args,
            &opened,
            &plan,
            &edit(&plan, &guest, &disks, &secrets)?,
        );
    }
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
        bootable?;
        return Ok(Answer::Done);
    };
    bootable?;
    voice.step("Planned edits:");
    voice.detail(&plan);
    let writing = writing(&args.writing, target, image.files())?;
    let edited = edit(&plan, &guest, &disks, &secrets)?;
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

/// Puts the edits into the images themselves.
fn in_place(args: &Inject, vm: &OpenedVm, plan: &EditPlan, edited: &Edited) -> Result<Answer> {
    let voice = args.reporting.voice();
    voice.step("Planned edits:");
    voice.detail(plan);
    let opener = opener(&args.opening.allow_paths)?;
    let overlays = edited.overlays.iter().map(|overlay| &**overlay);
    let disks: Vec<(&Image, &Overlay)> = vm.images.iter().zip(overlays).collect();
    let done = if plan.is_empty() {
        voice.step("There is nothing to change.");
        None
    } else {
        let done = inject(&disks, &opener, interrupt::flag()?)?;
        voice.step(format_args!(
            "Changed {} in place ({}). `rehost undo {0}` takes it back, as long as nothing else \
                 changes the image; {} can be deleted when it is to stay.",
            done.image.display(),
            bytes(done.bytes),
            done.undo.display(),
        ));
        Some(done)
    };
    if args.reporting.json {
        output::json(&InjectedInPlace {
            plan,
            ledger: &edited.ledger,
            image: done.as_ref().map_or(&args.source, |done| &done.image),
            undo: done.as_ref().map(|done| done.undo.as_path()),
        })?;
    }
    Ok(Answer::Done)
}

/// The machine as typed.
pub(super) fn hardware(hypervisor: Hypervisor, args: &Editing) -> rehost_block::Result<Hardware> {
    let target = match hypervisor {
        Hypervisor::Kvm => &KVM,
        Hypervisor::Vmware => &VMWARE,
        Hypervisor::Hyperv => &HYPERV,
        Hypervisor::Physical => &PHYSICAL,
    };
    Hardware::new(target, args.disk_bus.as_deref())
}

/// The options as typed.
fn options(
    args: &Editing,
    hardware: Hardware,
    vm: Option<&Vm>,
) -> rehost_block::Result<PlanOptions> {
    Ok(PlanOptions {
        serial_console: console(args),
        cards: vm.map(cards).unwrap_or_default(),
        bus: hardware.bus,
        first_boot: first_boot(args)?,
        ..PlanOptions::default()
    })
}

/// What the guest does when it first boots, read from the files as named.
pub(super) fn first_boot(args: &Editing) -> rehost_block::Result<FirstBoot> {
    let read = |path: &PathBuf| {
        let content =
            fs::read(path).map_err(|error| Error::io("cannot be read", error).in_file(path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(FirstBootFile {
            name: name.into_owned(),
            content: Arc::new(content),
        })
    };
    let all = |paths: &[PathBuf]| paths.iter().map(read).collect::<rehost_block::Result<_>>();
    Ok(FirstBoot {
        packages: all(&args.packages)?,
        guest_agent: args.guest_agent.as_ref().map(read).transpose()?,
        scripts: all(&args.first_boot)?,
    })
}

/// `--console` as typed.
pub(super) const fn console(args: &Editing) -> SerialConsole {
    match args.console {
        Some(GuestConsole::Serial) => SerialConsole::Add,
        None => SerialConsole::Leave,
    }
}
