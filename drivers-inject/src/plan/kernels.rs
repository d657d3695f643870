//! The initramfs of every kernel gets the target's drivers.
//!
//! Every kernel, not only the default: it costs seconds and keeps the other entries of the boot menu
//! useful. A kernel that has a driver built in or in its initramfs already needs nothing. Images for
//! kdump are left alone and reported: they start on a running machine's disks.

use std::collections::BTreeMap;

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{DriverState, Generator, InitramfsFound, Kernel, Place, Severity};
use rehost_inspect::modules::ModuleName;

use super::network::Link;
use super::{Change, Edit, Note, Planner};
use crate::initramfs::{Override, Unpackers, Wanted, rebuild};

impl Planner<'_> {
    /// An edit for each initramfs that lacks something.
    pub(super) fn rebuild_initramfs(&mut self, links: &[Link]) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for kernel in &self.system.kernels {
            let Some(modules) = &kernel.modules else {
                self.note(
                    Severity::Note,
                    "kernel-without-modules",
                    format!(
                        "kernel {} has no module directory and is left alone",
                        kernel.version
                    ),
                    kernel.image.as_ref().map(Place::file),
                );
                continue;
            };
            self.note_drivers(kernel, modules);
            let Some(found) = &kernel.initramfs else {
                self.note_without_initramfs(kernel);
                continue;
            };
            if let Some(error) = &found.error {
                self.note(
                    Severity::Problem,
                    "initramfs-unreadable",
                    format!(
                        "the initramfs of kernel {} cannot be read: {error}",
                        kernel.version
                    ),
                    Some(Place::file(&found.path)),
                );
                continue;
            }
            match owners.get(&found.path) {
                // A kernel is listed once for each of its images.
                Some(owner) if *owner == kernel.version => continue,
                Some(owner) => {
                    let what = format!(
                        "kernels {owner} and {} share one initramfs, which is edited for {owner}",
                        kernel.version
                    );
                    let place = Some(Place::file(&found.path));
                    self.note(Severity::Warning, "initramfs-shared", what, place);
                    continue;
                }
                None => owners.insert(found.path.clone(), kernel.version.clone()),
            };
            edits.extend(self.rebuild_one(kernel, modules, found, links)?);
        }
        self.note_kdump()?;
        Ok(edits)
    }

    fn rebuild_one(
        &mut self,
        kernel: &Kernel,
        modules: &str,
        found: &InitramfsFound,
        links: &[Link],
    ) -> Result<Option<Edit>> {
        let (Some(file), Some(content)) =
            (self.files.file(&found.path)?, self.files.read(&found.path)?)
        else {
            return Ok(None);
        };
        let old = Initramfs::parse(content).map_err(|error| error.in_file(&found.path))?;
        if let Some(at) = old.garbage() {
            self.note(
                Severity::Note,
                "initramfs-garbage",
                format!("bytes from {at} on are no archive; the kernel ignores them"),
                Some(Place::file(&found.path)),
            );
        }
        let mut overrides: Vec<Override> = self.renamed_inside(&found.path, &old);
        // Both have udev with its rules for links inside.
        if matches!(
            found.generator,
            Generator::InitramfsTools | Generator::Dracut
        ) {
            overrides.extend(links.iter().map(Link::inside));
        }
        let unpackers = match &kernel.config {
            Some(path) => self
                .files
                .read(path)?
                .map(|config| Unpackers::from_config(&String::from_utf8_lossy(&config))),
            None => None,
        };
        let names = |list: &[&str]| -> Vec<ModuleName> {
            list.iter().map(|name| ModuleName::new(name)).collect()
        };
        let wanted = Wanted {
            version: &kernel.version,
            modules: &names(self.target.modules),
            optional: &names(self.target.optional),
            overrides: &overrides,
            unpackers: unpackers.as_ref(),
        };
        let files = self.files;
        let read = |path: &str| files.read(&format!("{modules}/{path}"));
        let Some(built) =
            rebuild(&old, &wanted, &read).map_err(|error| error.in_file(&found.path))?
        else {
            return Ok(None);
        };
        let reason = match built.added.first() {
            Some(_) => format!(
                "the initramfs of kernel {} lacks drivers that find its root filesystem on {}",
                kernel.version, self.target.title
            ),
            None => format!(
                "the initramfs of kernel {} names what the new machine calls otherwise",
                kernel.version
            ),
        };
        let change = Change::Initramfs {
            kernel: kernel.version.clone(),
            modules: built.added,
            files: built.overridden,
            compression: built.compression.name(),
            setting: built.how,
            packed: built.packed,
        };
        let evidence = vec![Place::file(&found.path), Place::file(modules)];
        Ok(Some(Edit::of_file(
            &found.path,
            file,
            (old.file(), built.content),
            change,
            (reason, evidence),
        )))
    }

    /// Says which of the target's drivers a kernel does not have at all.
    fn note_drivers(&mut self, kernel: &Kernel, modules: &str) {
        let has = |name: &&str| kernel.driver(name) != DriverState::Absent;
        let boots = self.target.disk.iter().any(|set| set.iter().all(has));
        let place = || Some(Place::file(format!("{modules}/modules.dep")));
        if !boots {
            self.note(
                Severity::Problem,
                "kernel-lacks-driver",
                format!(
                    "kernel {} has no drivers for a disk on {} and will not find its root there",
                    kernel.version, self.target.title
                ),
                place(),
            );
        }
        if !self.target.network.iter().any(has) {
            self.note(
                Severity::Warning,
                "kernel-lacks-driver",
                format!(
                    "kernel {} has no driver for the network card of {}",
                    kernel.version, self.target.title
                ),
                place(),
            );
        }
    }

    fn note_without_initramfs(&mut self, kernel: &Kernel) {
        let builtin = |name: &&str| kernel.driver(name) == DriverState::Builtin;
        let boots = self.target.disk.iter().any(|set| set.iter().all(builtin));
        if kernel.image.is_some() && !boots {
            self.note(
                Severity::Problem,
                "kernel-without-initramfs",
                format!(
                    "kernel {} has no initramfs, and the drivers of {} are not built in",
                    kernel.version, self.target.title
                ),
                kernel.image.as_ref().map(Place::file),
            );
        }
    }

    fn note_kdump(&mut self) -> Result<()> {
        for name in self.files.names("/boot")? {
            let image = name.starts_with("initr") && name.contains("kdump");
            if image {
                self.note(
                    Severity::Note,
                    "kdump-left-alone",
                    format!("{name} is for kdump and is not edited; the guest makes it anew"),
                    Some(Place::file(format!("/boot/{name}"))),
                );
            }
        }
        Ok(())
    }

    pub(super) fn note(
        &mut self,
        severity: Severity,
        id: &'static str,
        what: String,
        evidence: Option<Place>,
    ) {
        self.notes.push(Note {
            severity,
            id,
            what,
            evidence: evidence.into_iter().collect(),
        });
    }
}
