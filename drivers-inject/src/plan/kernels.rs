//! The initramfs of every kernel gets the target's drivers.
//!
//! Every kernel, not only the default: it costs seconds and keeps the other entries of the boot menu
//! useful. A kernel that has a driver built in or in its initramfs already needs nothing. Images for
//! kdump are left alone and reported: they start on a running machine's disks. An initramfs inside a
//! unified kernel image is changed there, unless a signature or a TPM policy forbids it.

use std::collections::BTreeMap;

use rehost_block::{Error, Kind, Result};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{Generator, InitramfsFound, Kernel, Place, Severity};
use rehost_inspect::modules::ModuleName;
use rehost_inspect::unified::Program;

use super::drivers::ModuleTree;
use super::network::Link;
use super::{Change, Edit, How, Need, Note, Planner};
use crate::guest::FoundFile;
use crate::initramfs::{AddedModule, Loading, Override, Rebuilt, Unpackers, Wanted, rebuild};
use crate::target::Bus;
use crate::unified::{Part, sealed, with_part};

/// What rebuilds an initramfs in the guest, for people.
const REBUILD: &str = "rebuild it in the guest with the target's drivers";

impl Planner<'_> {
    /// An edit for each initramfs that lacks something.
    pub(super) fn rebuild_initramfs(&mut self, links: &[Link]) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let said = self.notes.len();
        let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
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
            self.note_drivers(kernel, modules, &tree)?;
            let Some(found) = &kernel.initramfs else {
                self.note_without_initramfs(kernel, &tree)?;
                continue;
            };
            if let Some(error) = &found.error {
                let what = format!(
                    "the initramfs of kernel {} cannot be read: {error}",
                    kernel.version
                );
                let place = Place::file(&found.path);
                self.obstacle(kernel, "initramfs-unreadable", what, place, REBUILD)?;
                continue;
            }
            let place = self.files.file(&found.path)?;
            let place = place.map_or_else(
                || (String::new(), found.path.clone()),
                |file| (file.at.to_string(), file.path),
            );
            match owners.get(&place) {
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
                None => owners.insert(place, kernel.version.clone()),
            };
            edits.extend(self.rebuild_one(kernel, modules, found, links)?);
        }
        self.weigh_unknown_default(said, &edits);
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
        let in_file = |error: Error| error.in_file(&found.path);
        if let Some(inner) = &found.squashed {
            let what = format!(
                "most of the initramfs of kernel {} is packed into {inner} inside it, where no module \
                 can be added",
                kernel.version
            );
            let fix = "rebuild it in the guest with `dracut --force --no-hostonly --omit squash`";
            self.obstacle(
                kernel,
                "initramfs-squashed",
                what,
                Place::file(&found.path),
                fix,
            )?;
            return Ok(None);
        }
        let unified = &self.system.boot.unified;
        let program = match unified.iter().any(|image| image.path == found.path) {
            true => Some(Program::parse(&content[..]).map_err(in_file)?),
            false => None,
        };
        let inner = match &program {
            Some(program) => program
                .read(&content[..], Part::Initramfs.section())
                .map_err(in_file)?,
            None => Some(content.clone()),
        };
        let Some(inner) = inner else {
            return Ok(None);
        };
        let old = Initramfs::parse(inner).map_err(in_file)?;
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
        overrides.extend(self.allowed_inside(&old)?);
        overrides.extend(self.array_devices_inside(&old));
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
            let next = match rebuild(&old, &wanted, &read) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(None),
                Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Corrupt) => {
                    self.note_not_rebuilt(kernel, found, &error)?;
                    return Ok(None);
                }
                Err(error) => return Err(in_file(error)),
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
        if let Some(why) = program.as_ref().and_then(sealed) {
            self.note_sealed(kernel, found, &built, why)?;
            return Ok(None);
        }
        if self.is_verified(&file.at)? {
            let what = format!(
                "the initramfs of kernel {} is on a filesystem that dm-verity checks, and gets nothing",
                kernel.version
            );
            let fix = "build the image for the new hardware where it is built";
            self.obstacle(kernel, "verity-root", what, Place::file(&found.path), fix)?;
            return Ok(None);
        }
        self.note_loading(kernel, found, &built);
        let Some(how) = self.takes(&found.path, &file, built.fits) else {
            self.note_no_room(kernel, found, &built)?;
            return Ok(None);
        };
        let inner = built.content.len();
        let after = match program {
            Some(_) => match with_part(&content, Part::Initramfs, &built.content) {
                Ok(image) => image,
                // Whatever is wrong with it is wrong with this one image.
                Err(error) => {
                    self.note_not_rebuilt(kernel, found, &error)?;
                    return Ok(None);
                }
            },
            None => built.content,
        };
        let of_disks = |module: &AddedModule| {
            let mut drivers = self.buses.iter().flat_map(|bus| bus.drivers);
            drivers.any(|name| ModuleName::new(name) == module.name)
        };
        let version = &kernel.version;
        let reason = if built.added.iter().any(of_disks) {
            format!(
                "the initramfs of kernel {version} lacks drivers that find its root filesystem on {}",
                self.hardware()
            )
        } else if built.added.is_empty() {
            format!("the initramfs of kernel {version} names what the new machine calls otherwise")
        } else {
            format!(
                "the initramfs of kernel {version} lacks drivers for {}",
                self.hardware()
            )
        };
        let change = Change::Initramfs {
            kernel: kernel.version.clone(),
            modules: built.added,
            files: built.overridden,
            compression: built.compression.name(),
            setting: built.how,
            // With what is around it in a unified image.
            packed: built.packed + after.len().saturating_sub(inner) as u64,
            command_line: None,
        };
        let evidence = vec![Place::file(&found.path), Place::file(modules)];
        let mut edit = Edit::of_file(
            &found.path,
            file,
            (&content, after),
            change,
            (reason, evidence),
        );
        edit.how = how;
        Ok(Some(edit.needed(Need::Boot)))
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
    pub(super) fn takes(&self, path: &str, file: &FoundFile, fits: bool) -> Option<How> {
        let mut ways = Vec::new();
        if file.plain && fits {
            ways.push(How::Overwrite);
        }
        ways.push(How::Allocate);
        ways.into_iter()
            .find(|how| self.refusal(path, *how).is_none())
    }

    fn note_not_rebuilt(
        &mut self,
        kernel: &Kernel,
        found: &InitramfsFound,
        error: &Error,
    ) -> Result<()> {
        let what = format!(
            "the initramfs of kernel {} cannot be given drivers: {error}",
            kernel.version
        );
        let place = Place::file(&found.path);
        self.obstacle(kernel, "initramfs-not-rebuilt", what, place, REBUILD)
    }

    /// A unified image that must stay as it is, and lacks something.
    fn note_sealed(
        &mut self,
        kernel: &Kernel,
        found: &InitramfsFound,
        built: &Rebuilt,
        why: &str,
    ) -> Result<()> {
        let image = self.system.boot.unified.iter();
        let signed = image
            .filter(|image| image.path == found.path)
            .any(|image| image.signature.is_some());
        let id = if signed {
            "unified-kernel-signed"
        } else {
            "unified-kernel-measured"
        };
        let place = Place::file(&found.path);
        if built.added.is_empty() {
            let what = format!(
                "the unified image of kernel {} names what the new machine calls otherwise, and stays \
                 as it is: {why}",
                kernel.version
            );
            self.note(Severity::Warning, id, what, Some(place));
            return Ok(());
        }
        let what = format!(
            "the unified image of kernel {} lacks drivers that find its root filesystem on {}, and \
             stays as it is: {why}",
            kernel.version,
            self.hardware()
        );
        let fix = "build it again in the guest, with the drivers and signed as before";
        self.obstacle(kernel, id, what, place, fix)
    }

    fn note_no_room(
        &mut self,
        kernel: &Kernel,
        found: &InitramfsFound,
        built: &Rebuilt,
    ) -> Result<()> {
        let why = [How::Allocate, How::Overwrite]
            .into_iter()
            .find_map(|how| self.refusal(&found.path, how))
            .map_or_else(String::new, |refusal| refusal.why.clone());
        let what = format!(
            "the initramfs of kernel {} needs {} bytes and has {}, and its filesystem cannot give it \
             more ({why})",
            kernel.version, built.packed, found.size,
        );
        let fix = format!(
            "make room there, or rebuild it in the guest with the drivers of {}",
            self.hardware()
        );
        let place = Place::file(&found.path);
        self.obstacle(kernel, "initramfs-not-writable", what, place, fix)
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
        self.notes.push(Note::new(
            severity,
            id,
            what,
            evidence.into_iter().collect(),
        ));
    }
}
