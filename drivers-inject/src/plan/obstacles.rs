//! What stands against the boot on any target, whatever is edited; and what must not be edited.

use rehost_block::{Error, Result};
use rehost_inspect::model::{FilesystemRef, Finding, Kernel, Place, Severity};
use rehost_inspect::modules::ModuleName;

use super::{Change, Edit, Need, Note, Planner};
use crate::target::Bus;

/// Findings of the inspection that stop the boot where they are problems.
const STOPPING: [&str; 2] = ["foreign-architecture", "luks-hardware-key"];

/// Findings that whoever reads the plan alone should know.
const TOLD: [&str; 3] = ["unknown-os", "verity-root", "unified-kernel-measured"];

impl Planner<'_> {
    /// Takes over what the inspection found.
    pub(super) fn note_findings(&mut self) {
        let mut notes: Vec<Note> = Vec::new();
        for finding in &self.system.findings {
            let stops = finding.severity == Severity::Problem && STOPPING.contains(&finding.id);
            let same = |note: &&mut Note| (note.id, &note.what) == (finding.id, &finding.what);
            match notes.iter_mut().find(same) {
                Some(known) => known.evidence.extend(finding.evidence.iter().cloned()),
                None if stops || TOLD.contains(&finding.id) => notes.push(told(finding, stops)),
                None => {}
            }
        }
        self.notes.extend(notes);
    }

    /// Something about `kernel` that keeps its initramfs from getting drivers: a reason to stop when
    /// that is what the guest boots, and it cannot find its disk as it is. Where nobody knows what the
    /// guest boots, it may be this one ([`Planner::weigh_unknown_default`]).
    pub(super) fn obstacle(
        &mut self,
        kernel: &Kernel,
        id: &'static str,
        what: String,
        place: Place,
        fix: impl Into<String>,
    ) -> Result<()> {
        let stops = self.is_default(kernel)?.unwrap_or(true) && !self.finds_disk(kernel);
        let fix = fix.into();
        self.notes.push(if stops {
            Note::stopping(id, what, vec![place], fix)
        } else {
            Note {
                fix: Some(fix),
                ..Note::new(Severity::Warning, id, what, vec![place])
            }
        });
        Ok(())
    }

    /// Whether `kernel` is what the guest boots unattended; `None` when that is not known.
    fn is_default(&self, kernel: &Kernel) -> Result<Option<bool>> {
        let Some(image) = &kernel.image else {
            return Ok(Some(false));
        };
        let Ok(boot) = self.system.default_boot() else {
            return Ok(None);
        };
        if boot.kernel == *image {
            return Ok(Some(true));
        }
        // Menus name links: /vmlinuz.
        let (named, own) = (self.files.file(&boot.kernel)?, self.files.file(image)?);
        Ok(Some(named.is_some() && named == own))
    }

    /// Where the default is not known, the obstacles among the notes `from` on stop nothing as long as
    /// one kernel finds its disk, as it is or with what `initramfs` adds.
    pub(super) fn weigh_unknown_default(&mut self, from: usize, initramfs: &[Edit]) {
        let mut kernels = self.system.kernels.iter();
        let one_boots =
            kernels.any(|kernel| kernel.image.is_some() && self.will_find_disk(kernel, initramfs));
        if self.system.default_boot().is_ok() || !one_boots {
            return;
        }
        for note in self.notes.iter_mut().skip(from) {
            note.stops_boot = false;
        }
    }

    /// Whether `kernel` finds its disk on the target as it is.
    fn finds_disk(&self, kernel: &Kernel) -> bool {
        self.will_find_disk(kernel, &[])
    }

    /// Whether `kernel` finds its disk on the target with these edits.
    fn will_find_disk(&self, kernel: &Kernel, initramfs: &[Edit]) -> bool {
        let adds = |edit: &Edit, name: &str| match &edit.change {
            Change::Initramfs {
                kernel: of,
                modules,
                ..
            } => {
                let name = ModuleName::new(name);
                *of == kernel.version && modules.iter().any(|module| module.name == name)
            }
            _ => false,
        };
        let has = |name: &str| kernel.early(name) || initramfs.iter().any(|edit| adds(edit, name));
        let drives = |bus: &Bus| bus.drivers.iter().all(|name| has(name));
        self.buses.iter().any(drives)
    }

    /// Whether dm-verity checks the filesystem `at`.
    pub(super) fn is_verified(&self, at: &FilesystemRef) -> Result<bool> {
        for verified in &self.system.verified {
            // A mere directory, which that filesystem would cover, is on one that nobody checks.
            let found = self.files.directory(&verified.point)?;
            if found.is_some_and(|found| found.path == "/" && found.at.is_view(at)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves out the edits of filesystems that dm-verity checks, and says which: where the guest needs
    /// one to boot, that is a reason to stop.
    ///
    /// # Errors
    /// Unsupported when what was asked for at the first boot is among them.
    pub(super) fn spare_verified(&mut self, edits: Vec<Edit>) -> Result<Vec<Edit>> {
        let mut needed = Vec::new();
        let mut spared = Vec::new();
        let mut kept = Vec::new();
        for edit in edits {
            if !self.is_verified(&edit.at)? {
                kept.push(edit);
            } else if edit.need == Need::FirstBoot {
                return Err(Error::unsupported(format!(
                    "nothing can be done at the first boot: {} would be on a filesystem that dm-verity \
                     checks",
                    edit.path
                ))
                .hint("leave it out, and build it into the image where that is built"));
            } else if edit.weight() == Severity::Problem {
                needed.push(Place::file(&edit.path));
            } else {
                spared.push(Place::file(&edit.path));
            }
        }
        let what = "these files are on a filesystem that dm-verity checks, and stay as they are";
        let (id, fix) = (
            "verified-file-stays",
            "make these changes where the image is built",
        );
        if !needed.is_empty() {
            self.notes
                .push(Note::stopping(id, what.to_owned(), needed, fix));
        }
        if !spared.is_empty() {
            self.notes.push(Note {
                fix: Some(fix.to_owned()),
                ..Note::new(Severity::Warning, id, what.to_owned(), spared)
            });
        }
        Ok(kept)
    }
}

fn told(finding: &Finding, stops: bool) -> Note {
    Note {
        fix: finding.fix.clone(),
        stops_boot: stops,
        ..Note::new(
            finding.severity,
            finding.id,
            finding.what.clone(),
            finding.evidence.clone(),
        )
    }
}
