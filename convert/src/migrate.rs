//! The pipeline: one function that reads like the sentences it prints.
//!
//! Nothing is written outside the output folder, and nothing there before the edited guest has
//! booted (unless that was waived): a migration that would fail costs no copy.

mod boots;
mod machine;
mod open;
mod results;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rehost_block::{Disk, Error, Result};
use rehost_image::{Compression, Format};
use rehost_inject::plan::{EditPlan, FirstBoot, PlanOptions, SerialConsole};
use rehost_inspect::Guest;
use rehost_inspect::model::GuestSystem;

use crate::edit::{Edited, cards, edit, plan};
use crate::guest::{OpenedVm, choose_root, look};
use crate::hardware::Hardware;
use crate::interrupt;
use crate::proof::{Booting, Network};
use crate::report::{Ending, Report, Step};
use crate::source::disks::Wishes;
use crate::source::{Firmware, Vm};
use crate::target::{Form, file_name};
use crate::unfinished::Existing;
use crate::voice::{Voice, bytes};
use crate::write::spare_sources;

use machine::image_name;

/// How far a migration goes.
#[derive(Debug, Clone, Copy)]
pub enum Stop<'a> {
    /// The plan is made, and that is all.
    AfterPlan,
    /// Everything is done; the results go to this folder.
    Never {
        /// Made if missing.
        folder: &'a Path,
    },
}

/// Whether a boot is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// It is.
    Run,
    /// It was waived.
    Skipped,
}

/// How the written image is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proving {
    /// Not at all.
    Skipped,
    /// Its kernel is put into memory.
    ThroughKernel,
    /// The new machine's firmware starts its boot loader.
    ThroughFirmware,
}

/// What is to be done.
#[derive(Debug)]
pub struct Migration<'a> {
    /// The VM: a VMX file, a libvirt domain, or its first disk.
    pub source: &'a Path,
    /// Further disks of it.
    pub more: &'a [PathBuf],
    /// The format of disks that no description says one for; without it, their signatures decide.
    pub format: Option<Format>,
    /// Folders outside the VM's own from which disks may be opened.
    pub allow_paths: &'a [PathBuf],
    /// What the user says of the machine.
    pub wishes: Wishes,
    /// The machine that the guest is moved to.
    pub hardware: Hardware,
    /// How far it goes.
    pub stop: Stop<'a>,
    /// Whether the guest gets a serial console for good.
    pub serial_console: SerialConsole,
    /// What the guest does once, when it starts on its new hardware.
    pub first_boot: FirstBoot,
    /// Names of reasons against the boot that were accepted: what does not boot is copied nevertheless.
    pub accepted: &'a [String],
    /// Whether the edited guest is booted before it is copied.
    pub preflight: Boots,
    /// Whether and how the written image is booted.
    pub proof: Proving,
    /// Whether a guest that is booted must answer for its static addresses, too.
    pub network: Boots,
    /// How guests are booted; sizes come from the VM, the bus from the machine it is moved to.
    pub booting: Booting,
    /// Whether and how the written images are compressed.
    pub compression: Option<Compression>,
    /// What becomes of files in the way.
    pub existing: Existing,
    /// Copy threads.
    pub threads: Option<NonZeroUsize>,
    /// Set from outside to give up.
    pub cancel: &'a AtomicBool,
}

/// Runs a migration. The report says how far it came, also when an error ended it.
#[must_use]
pub fn migrate(migration: &Migration<'_>, voice: Voice) -> (Report, Option<Error>) {
    let mut run = Run {
        migration,
        voice,
        report: Report::new(),
        folder: None,
    };
    let ended = run.steps();
    let mut error = match ended {
        Ok(ending) => {
            run.report.ending = ending;
            None
        }
        Err(error) => {
            run.report.error = Some(error.to_string());
            Some(error)
        }
    };
    // Until the folder was found to be free for this run, a report in it is another run's.
    if let Some(folder) = &run.folder {
        let written = run.write_report(folder);
        error = error.or(written.err());
    }
    (run.report, error)
}

struct Run<'a> {
    migration: &'a Migration<'a>,
    voice: Voice,
    report: Report,
    /// Where the results go, once nothing is in the way there.
    folder: Option<PathBuf>,
}

impl Run<'_> {
    fn steps(&mut self) -> Result<Ending> {
        let opened = self.timed("open", Self::open)?;
        let disks = opened.disks();
        let guest = self.timed("inspect", |run| run.inspect(&disks))?;
        self.settle_machine(&guest, &opened)?;
        let plan = self.timed("plan", |run| run.plan(&guest, &disks))?;
        let Stop::Never { folder } = self.migration.stop else {
            return Ok(Ending::Planned);
        };
        self.claim(folder, &opened)?;
        let edited = self.timed("edit", |run| run.edit(&plan, &guest, &disks))?;
        if !self.timed("preflight", |run| run.preflight(&edited.disks()))? {
            return Ok(Ending::PreflightFailed);
        }
        let written = self.timed("copy", |run| run.copy(&edited, folder))?;
        self.timed("describe", |run| run.describe(&written, folder))?;
        self.timed("proof", |run| run.prove_written(&written))
    }

    /// Runs a step, keeps its time, and gives up between steps when asked to.
    fn timed<T>(
        &mut self,
        step: &'static str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        interrupt::check(self.migration.cancel)?;
        let begun = Instant::now();
        let result = body(self);
        self.report.steps.push(Step {
            step,
            seconds: begun.elapsed().as_secs_f64(),
        });
        result
    }

    fn inspect(&mut self, disks: &[Arc<dyn Disk>]) -> Result<Guest> {
        self.voice.step("Looking at the guest.");
        let mut guest = look(disks, &self.migration.booting.secrets)?;
        if let Some(root) = &self.migration.booting.root {
            choose_root(&mut guest, root)?;
        }
        let inspection = &guest.inspection;
        self.voice.detail(inspection);
        self.report.inspection = Some(inspection.clone());
        let in_file = |error: Error| error.in_file(self.migration.source);
        // A guest that could not be booted is better refused before it is edited and copied.
        let boot = guest
            .system()
            .and_then(GuestSystem::default_boot)
            .map_err(in_file)?;
        self.report
            .decided("which system is moved", &*inspection.choice);
        self.report.decided(
            format!(
                "it boots {} with \"{}\"",
                boot.kernel,
                boot.command_line.trim()
            ),
            boot.reason,
        );
        Ok(guest)
    }

    fn plan(&mut self, guest: &Guest, disks: &[Arc<dyn Disk>]) -> Result<EditPlan> {
        self.voice.step("Planning the edits.");
        let hardware = self.migration.hardware;
        // What cannot be described is better refused before the guest is edited and booted.
        let bus = hardware.boot_bus(self.firmware())?;
        let form = Form::of(&hardware)?;
        form.check(bus.name, self.firmware(), disks.len())?;
        let vm = self.vm()?;
        let count = vm.nics.len();
        form.check_cards(count)
            .map_err(|error| error.hint(form.fewer_cards(vm.described)))?;
        if self.migration.network != Boots::Skipped {
            Network::check_cards(count)?;
        }
        self.check_firmware()?;
        let secrets = &self.migration.booting.secrets;
        let options = PlanOptions {
            serial_console: self.migration.serial_console,
            cards: self.report.vm.as_ref().map(cards).unwrap_or_default(),
            bus: hardware.bus,
            first_boot: self.migration.first_boot.clone(),
            ..PlanOptions::default()
        };
        let plan = plan(guest, (disks, secrets), hardware.target, &options)?;
        // Where the plan is all that was asked for, it is the result, and the caller's to print.
        if matches!(self.migration.stop, Stop::Never { .. }) {
            self.voice.detail(&plan);
        }
        self.report.plan = Some(plan.clone());
        let accepted = self.migration.accepted;
        plan.bootable(accepted)
            .map_err(|error| error.in_file(self.migration.source))?;
        for note in plan.obstacles(&[]) {
            self.report.decided(
                format!("it is moved although {}", note.what),
                format!("--accept {}", note.id),
            );
        }
        Ok(plan)
    }

    /// What is in the way is better known before a guest is booted for a minute.
    fn claim(&mut self, folder: &Path, opened: &OpenedVm) -> Result<()> {
        fs::create_dir_all(folder)
            .map_err(|error| Error::io("cannot be made", error).in_file(folder))?;
        let home = folder
            .canonicalize()
            .map_err(|error| Error::io("cannot be opened", error).in_file(folder))?;
        let outputs = self.outputs(&home, opened.images.len());
        // Its description as well: of the source there may be no other.
        let sources: Vec<PathBuf> = opened
            .images
            .iter()
            .flat_map(|image| image.files().to_vec())
            .chain([self.migration.source.to_owned()])
            .chain(self.migration.more.iter().cloned())
            .collect();
        for output in outputs {
            spare_sources(&output, &sources)
                .map_err(|error| error.hint("choose another output folder"))?;
            if self.migration.existing == Existing::Keep && output.exists() {
                return Err(Error::usage("exists already")
                    .in_file(&output)
                    .hint("choose another output folder or replace it with --force"));
            }
        }
        // Better known now than after a boot and a copy.
        tempfile::tempfile_in(folder)
            .map_err(|error| Error::io("cannot be written to", error).in_file(folder))?;
        self.folder = Some(folder.to_owned());
        Ok(())
    }

    /// The files that a finished run leaves, but for the report, which is always replaced.
    fn outputs(&self, folder: &Path, disks: usize) -> Vec<PathBuf> {
        let name = self.name();
        let format = self.migration.hardware.format();
        let mut outputs: Vec<PathBuf> = (0..disks)
            .map(|nth| folder.join(image_name(&name, nth, format)))
            .collect();
        if let Ok(form) = Form::of(&self.migration.hardware) {
            outputs.push(folder.join(format!("{name}.{}", form.suffix())));
        }
        outputs
    }

    /// The machine, once it is known.
    fn vm(&self) -> Result<&Vm> {
        let vm = self.report.vm.as_ref();
        vm.ok_or_else(|| Error::internal("a migration without a VM"))
    }

    fn firmware(&self) -> Firmware {
        let vm = self.report.vm.as_ref();
        vm.map_or(Firmware::Bios, |vm| vm.firmware)
    }

    fn name(&self) -> String {
        let given = self.report.vm.as_ref().map(|vm| vm.name.as_str());
        let stem = self
            .migration
            .source
            .file_stem()
            .map(|stem| stem.to_string_lossy());
        file_name(
            given
                .filter(|name| !name.trim().is_empty())
                .or(stem.as_deref())
                .unwrap_or(""),
        )
    }

    fn edit(&mut self, plan: &EditPlan, guest: &Guest, disks: &[Arc<dyn Disk>]) -> Result<Edited> {
        self.voice
            .step("Applying the plan to an overlay; the source stays as it is.");
        let edited = edit(plan, guest, disks, &self.migration.booting.secrets)?;
        for replayed in &edited.ledger.replayed {
            self.voice
                .detail(format_args!("replayed the log of {}", replayed.at));
        }
        for file in &edited.ledger.files {
            let written: u64 = file
                .ranges
                .iter()
                .map(|range| range.end - range.start)
                .sum();
            self.voice
                .detail(format_args!("{}: {} written", file.path, bytes(written)));
        }
        self.report.ledger = Some(edited.ledger.clone());
        Ok(edited)
    }
}
