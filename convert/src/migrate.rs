//! The pipeline: one function that reads like the sentences it prints.
//!
//! Nothing is written outside the output folder, and nothing there before the edited guest has
//! booted (unless that was waived): a migration that would fail costs no copy.

mod boots;
mod machine;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rehost_block::{Disk, Error, Result};
use rehost_image::Compression;
use rehost_inject::plan::{EditPlan, FirstBoot, PlanOptions, SerialConsole};
use rehost_inspect::Guest;
use rehost_inspect::model::GuestSystem;

use crate::edit::{Edited, cards, edit, plan};
use crate::guest::{ImageOptions, OpenedVm, choose_root, evidence, is_vmx, look};
use crate::hardware::Hardware;
use crate::interrupt;
use crate::proof::Booting;
use crate::report::{Ending, Report, SourceDisk, Step, WrittenDisk};
use crate::target::libvirt::{DiskBus, domain_name};
use crate::unfinished::{Existing, Unfinished};
use crate::voice::{Voice, bytes};
use crate::write::{Writing, default_options, write_unnamed};

use machine::{KVM, REPORT, domain, image_name, to_make};

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

/// What is to be done.
#[derive(Debug)]
pub struct Migration<'a> {
    /// The VM: a VMX file.
    pub source: &'a Path,
    /// Folders outside the VM's own from which disks may be opened.
    pub allow_paths: &'a [PathBuf],
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
    /// Whether the written image is booted.
    pub proof: Boots,
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

    fn open(&mut self) -> Result<OpenedVm> {
        let source = self.migration.source;
        self.voice
            .step(format_args!("Opening {}.", source.display()));
        if !is_vmx(source) {
            return Err(Error::usage("is not a VMX file").in_file(source).hint(
                "migrate takes a whole VM; for a lone disk image use `rehost inject` and `rehost verify`",
            ));
        }
        let options = ImageOptions {
            allow_paths: self.migration.allow_paths,
            secrets: &self.migration.booting.secrets,
            ..ImageOptions::default()
        };
        let opened = OpenedVm::open(source, &[], &options)?;
        if opened.images.is_empty() {
            return Err(Error::usage("names no disk that is present").in_file(source));
        }
        self.report.vm.clone_from(&opened.vm);
        for left_out in opened.vm.iter().flat_map(|vm| &vm.left_out) {
            self.report.decided(
                format!("{} is not carried over", left_out.what),
                format!("{}:{}", source.display(), left_out.line),
            );
        }
        for image in &opened.images {
            self.voice.detail(format_args!(
                "{} ({}, {})",
                image.files().first().unwrap_or(&PathBuf::new()).display(),
                image.format(),
                bytes(image.size())
            ));
            for layer in image.layers() {
                let Some(evidence) = evidence(layer) else {
                    continue;
                };
                self.report.decided(
                    format!("{} is read as {}", layer.path.display(), layer.format),
                    evidence,
                );
            }
            self.report.sources.push(SourceDisk {
                layers: image.layers().to_vec(),
                files: image.files().to_vec(),
            });
        }
        Ok(opened)
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
        if hardware.target.name == KVM {
            // What cannot be described is better refused before the guest is edited and booted.
            DiskBus::named(hardware.boot_bus()?.name)?;
        }
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
        for output in outputs {
            let is_source = opened
                .images
                .iter()
                .any(|image| image.files().contains(&output));
            if is_source {
                return Err(Error::usage("is a disk of the source")
                    .in_file(&output)
                    .hint("choose another output folder"));
            }
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
        if self.migration.hardware.target.name == KVM {
            outputs.push(folder.join(format!("{name}.xml")));
        }
        outputs
    }

    fn name(&self) -> String {
        let given = self.report.vm.as_ref().map(|vm| vm.name.as_str());
        let stem = self
            .migration
            .source
            .file_stem()
            .map(|stem| stem.to_string_lossy());
        domain_name(
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

    fn copy(&mut self, edited: &Edited, folder: &Path) -> Result<Vec<PathBuf>> {
        let name = self.name();
        let mut whole = Vec::new();
        let sources: Vec<PathBuf> = self
            .report
            .sources
            .iter()
            .flat_map(|disk| disk.files.clone())
            .collect();
        for (nth, overlay) in edited.overlays.iter().enumerate() {
            let format = self.migration.hardware.format();
            let path = folder.join(image_name(&name, nth, format));
            self.voice.step(format_args!("Writing {}.", path.display()));
            let options = default_options(format, self.migration.compression)?;
            let writing = Writing {
                compression: self.migration.compression,
                existing: self.migration.existing,
                sources: &sources,
                threads: self.migration.threads,
                ..Writing::new(options, self.migration.cancel)
            };
            let image = write_unnamed(&**overlay, &path, &writing, self.voice)?;
            let outcome = image.outcome();
            self.voice.detail(format_args!(
                "{} in {:.1} s",
                bytes(outcome.written.file_bytes),
                outcome.seconds
            ));
            whole.push((path, image));
        }
        // A machine is finished when all its disks are.
        let mut written = Vec::new();
        for (path, image) in whole {
            self.report.disks.push(WrittenDisk {
                path: path.clone(),
                outcome: image.finish()?,
            });
            written.push(path);
        }
        Ok(written)
    }

    fn describe(&mut self, written: &[PathBuf], folder: &Path) -> Result<()> {
        let Some(vm) = &self.report.vm else {
            return Err(Error::internal("a migration without a VM"));
        };
        let hardware = self.migration.hardware;
        if hardware.target.name != KVM {
            self.voice.step(to_make(vm, hardware.boot_bus()?));
            self.report.decided(
                format!("no machine is described for {}", hardware.target.title),
                "only libvirt domains are written",
            );
            return Ok(());
        }
        let bus = DiskBus::named(hardware.boot_bus()?.name)?;
        let domain = domain(vm, self.name(), bus, written)?;
        let path = folder.join(format!("{}.xml", domain.name));
        self.voice.step(format_args!("Writing {}.", path.display()));
        Unfinished::write(&path, self.migration.existing, domain.to_xml()?.as_bytes())?;
        self.report.domain = Some(domain);
        Ok(())
    }

    fn write_report(&self, folder: &Path) -> Result<()> {
        let path = folder.join(REPORT);
        self.voice.step(format_args!("Writing {}.", path.display()));
        Unfinished::write(&path, Existing::Replace, &self.report.to_json()?)
    }
}
