//! The initramfs of every kernel gets the target's drivers.
//!
//! Every kernel, not only the default: it costs seconds and keeps the other entries of the boot menu
//! useful. A kernel that has a driver built in or in its initramfs already needs nothing. Images for
//! kdump are left alone and reported: they start on a running machine's disks.

use std::collections::BTreeMap;

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{Generator, InitramfsFound, Kernel, Place, Severity};
use rehost_inspect::modules::ModuleName;

use super::drivers::ModuleTree;
use super::network::Link;
use super::{Change, Edit, How, Note, Planner};
use crate::guest::FoundFile;
use crate::initramfs::{Loading, Override, Rebuilt, Unpackers, Wanted, rebuild};
use crate::target::Bus;

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
            let tree = ModuleTree::read(self.files, modules)?;
            self.note_drivers(kernel, modules, &tree);
            let Some(found) = &kernel.initramfs else {
                self.note_without_initramfs(kernel, &tree);
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
            self.names_inside |= !links.is_empty();
        }
        let unpackers = match &kernel.config {
            Some(path) => self
                .files
                .read(path)?
                .map(|config| Unpackers::from_config(&String::from_utf8_lossy(&config))),
            None => None,
        };
        overrides.extend(self.lvm_inside(&old));
        let mut built = None;
        for (buses, optional) in self.loads() {
            let names = |list: &[&str]| -> Vec<ModuleName> {
                list.iter().map(|name| ModuleName::new(name)).collect()
            };
            let wanted = Wanted {
                version: &kernel.version,
                modules: &names(&self.target.modules(buses)),
                optional: &names(optional),
                overrides: &overrides,
                unpackers: unpackers.as_ref(),
            };
            let files = self.files;
            let read = |path: &str| files.read(&format!("{modules}/{path}"));
            let Some(next) =
                rebuild(&old, &wanted, &read).map_err(|error| error.in_file(&found.path))?
            else {
                return Ok(None);
            };
            let takes = self.takes(&found.path, &file, next.fits);
            built = Some(next);
            if takes.is_some() {
                break;
            }
        }
        let Some(built) = built else {
            return Ok(None);
        };
        self.note_loading(kernel, found, &built);
        let Some(how) = self.takes(&found.path, &file, built.fits) else {
            self.note_no_room(kernel, found, &built);
            return Ok(None);
        };
        let reason = match built.added.first() {
            Some(_) => format!(
                "the initramfs of kernel {} lacks drivers that find its root filesystem on {}",
                kernel.version,
                self.hardware()
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
        let mut edit = Edit::of_file(
            &found.path,
            file,
            (old.file(), built.content),
            change,
            (reason, evidence),
        );
        edit.how = how;
        Ok(Some(edit))
    }

    /// What to put into an initramfs, the most first: where a filesystem has no room for more than
    /// the old file had, less is tried.
    fn loads(&self) -> [(&'static [Bus], &'static [&'static str]); 3] {
        let (buses, optional) = (self.buses, self.target.optional);
        [
            (buses, optional),
            (buses, &[]),
            (buses.get(..1).unwrap_or(buses), &[]),
        ]
    }

    /// How the filesystem takes a new content of `path`, as far as it was not refused; `fits` says
    /// whether that has the old length.
    fn takes(&self, path: &str, file: &FoundFile, fits: bool) -> Option<How> {
        let mut ways = Vec::new();
        if file.plain && fits {
            ways.push(How::Overwrite);
        }
        ways.push(How::Allocate);
        ways.into_iter()
            .find(|how| self.refusal(path, *how).is_none())
    }

    fn note_no_room(&mut self, kernel: &Kernel, found: &InitramfsFound, built: &Rebuilt) {
        let why = [How::Allocate, How::Overwrite]
            .into_iter()
            .find_map(|how| self.refusal(&found.path, how))
            .map_or_else(String::new, |refusal| refusal.why.clone());
        self.note(
            Severity::Problem,
            "initramfs-not-writable",
            format!(
                "the initramfs of kernel {} needs {} bytes and has {}, and its filesystem cannot \
                 give it more ({why}); rebuild it in the guest with the drivers of {}",
                kernel.version,
                built.packed,
                found.size,
                self.hardware()
            ),
            Some(Place::file(&found.path)),
        );
    }

    fn note_loading(&mut self, kernel: &Kernel, found: &InitramfsFound, built: &Rebuilt) {
        if built.loading == Loading::Unknown && !built.added.is_empty() {
            self.note(
                Severity::Warning,
                "initramfs-loader-unknown",
                format!(
                    "the initramfs of kernel {} gets the drivers, but what loads drivers in it is \
                     not known; they may stay unused",
                    kernel.version
                ),
                Some(Place::file(&found.path)),
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
