//! UEFI: a loader at the path that every firmware knows.
//!
//! The firmware's own list of boot entries does not move with a disk. Without it the firmware starts
//! `\EFI\BOOT\BOOTX64.EFI` (UEFI specification 2.10, section 3.5.1.1). Where only a vendor's folder
//! has a loader, it is copied there with what it looks for beside itself: shim starts `grubx64.efi`
//! from its own folder, or `fbx64.efi`, which makes the boot entries anew from each vendor's
//! `BOOTX64.CSV`; Red Hat's GRUB reads the `grub.cfg` beside it. Signatures stay valid, since the files
//! are copied as they are.
//!
//! Left out on purpose: EFI system partitions that the guest does not mount (told), and boot entries
//! of other systems.

use rehost_block::Result;
use rehost_inspect::Inspection;
use rehost_inspect::model::{Firmware, Place, Severity};

use super::{Change, Digest, Edit, Note, Planner};

/// The GPT type of an EFI system partition, and its DOS counterpart.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// The loader that x86-64 firmware starts from a disk that it does not know.
const FALLBACK: &str = "BOOTX64.EFI";

/// Where distributions mount it.
const POINTS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// Architectures as loaders name them.
const ARCHITECTURES: [&str; 3] = ["x64", "aa64", "ia32"];

/// First stages of boot loaders, the one to prefer first; `*` for the architecture.
const LOADERS: [&str; 3] = ["shim*.efi", "grub*.efi", "systemd-boot*.efi"];

/// What a first stage may look for beside itself.
const COMPANIONS: [&str; 3] = ["grub*.efi", "mm*.efi", "grub.cfg"];

/// A loader in a vendor's folder.
struct Vendor {
    /// As the folder is called.
    folder: String,
    /// Names in it.
    names: Vec<String>,
    /// The first stage.
    loader: String,
    architecture: &'static str,
}

/// Whether x86-64 firmware starts what is called so: one for another architecture is no loader for this one.
fn is_loader(name: &str) -> bool {
    name.eq_ignore_ascii_case(FALLBACK)
}

impl Planner<'_> {
    /// Copies of a vendor's loader at the fallback path, where there is none.
    /// A guest whose firmware starts a unified image gets a copy of that, as `initramfs` edits it.
    pub(super) fn add_fallback_loader(
        &mut self,
        inspection: &Inspection,
        initramfs: &[Edit],
    ) -> Result<Vec<Edit>> {
        if !matches!(self.system.boot.firmware, Firmware::Uefi | Firmware::Either) {
            return Ok(Vec::new());
        }
        let Some(esp) = self.esp()? else {
            self.note_unmounted(inspection);
            return Ok(Vec::new());
        };
        if let Some(edit) = self.renew_loader(initramfs)? {
            return Ok(vec![edit]);
        }
        let folders = self.files.names(&format!("{esp}/EFI"))?;
        let fallback = folders
            .iter()
            .find(|name| name.eq_ignore_ascii_case("BOOT"))
            .cloned()
            .unwrap_or_else(|| "BOOT".to_owned());
        let there = self.files.names(&format!("{esp}/EFI/{fallback}"))?;
        let Some(vendor) = self.vendor(esp, &folders)? else {
            let folder = format!("{esp}/EFI/{fallback}");
            return Ok(self
                .copy_unified(&folder, &there, initramfs)?
                .into_iter()
                .collect());
        };
        let first = format!("BOOT{}.EFI", vendor.architecture.to_ascii_uppercase());
        let has = |names: &[String], wanted: &str| {
            names
                .iter()
                .find(|name| name.eq_ignore_ascii_case(wanted))
                .cloned()
        };
        if has(&there, &first).is_some() {
            return Ok(Vec::new());
        }
        let mut copies = vec![(vendor.loader.clone(), first)];
        let is_shim = vendor.loader.to_ascii_lowercase().starts_with("shim");
        for companion in COMPANIONS {
            let companion = companion.replace('*', vendor.architecture);
            // GRUB as the first stage is there already, under the other name.
            let wanted = is_shim || companion == "grub.cfg";
            if let Some(name) = has(&vendor.names, &companion).filter(|_| wanted) {
                copies.push((name.clone(), name));
            }
        }
        // Without its list shim's fallback finds nothing, and stops.
        let list = format!("BOOT{}.CSV", vendor.architecture.to_ascii_uppercase());
        let program = format!("fb{}.efi", vendor.architecture);
        if let (true, Some(_), Some(name)) = (
            is_shim,
            has(&vendor.names, &list),
            has(&vendor.names, &program),
        ) {
            copies.push((name.clone(), name));
        }
        let mut edits = Vec::new();
        for (from, to) in copies {
            let from = format!("{esp}/EFI/{}/{from}", vendor.folder);
            let path = format!("{esp}/EFI/{fallback}/{to}");
            if has(&there, &to).is_some() {
                continue;
            }
            let Some(content) = self.files.read(&from)? else {
                continue;
            };
            let reason = "the boot entry in the old machine's firmware does not move, and there is \
                          no loader where every firmware looks";
            let because = (
                reason.to_owned(),
                vec![Place::file(format!("{esp}/EFI/{}", vendor.folder))],
            );
            let place = self.place_of(&path)?;
            edits.push(Edit::of_new(
                &path,
                place,
                content,
                Change::Copy { from },
                because,
            ));
        }
        Ok(edits)
    }

    /// The unified image that the guest boots, as a loader in `folder`, which holds `there`.
    fn copy_unified(
        &mut self,
        folder: &str,
        there: &[String],
        initramfs: &[Edit],
    ) -> Result<Option<Edit>> {
        let Ok(boot) = self.system.default_boot() else {
            return Ok(None);
        };
        let from = boot.kernel;
        let mut images = self.system.boot.unified.iter();
        let is_unified = images.any(|image| image.path == from);
        if !is_unified || there.iter().any(|name| is_loader(name)) {
            return Ok(None);
        }
        let content = match self.edit_of(&from, initramfs)? {
            Some(edit) => Some(edit.content.to_vec()),
            None => self.files.read(&from)?,
        };
        let Some(content) = content else {
            return Ok(None);
        };
        let path = format!("{folder}/{FALLBACK}");
        self.notes.push(Note {
            fix: Some("run `bootctl install` in the guest, which puts a boot loader there".to_owned()),
            ..Note::new(
                Severity::Warning,
                "fallback-goes-stale",
                format!(
                    "{path} is a copy of {from}: without a boot entry the guest goes on starting that \
                     copy when it updates its kernels"
                ),
                vec![Place::file(&from)],
            )
        });
        let reason = "the boot entry in the old machine's firmware, which starts this image, does not \
                      move, and there is no loader where every firmware looks";
        let because = (reason.to_owned(), vec![Place::file(&from)]);
        let place = self.place_of(&path)?;
        let change = Change::Copy { from };
        Ok(Some(Edit::of_new(&path, place, content, change, because)))
    }

    /// Where the guest has its EFI system partition.
    fn esp(&self) -> Result<Option<&'static str>> {
        for point in POINTS {
            if self.files.directory(&format!("{point}/EFI"))?.is_some() {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }

    /// The loader that firmware starts, where it is a copy of an image among `edits`: it stays one.
    pub(super) fn renew_loader(&self, edits: &[Edit]) -> Result<Option<Edit>> {
        let Some(esp) = self.esp()? else {
            return Ok(None);
        };
        for folder in self.files.names(&format!("{esp}/EFI"))? {
            if !folder.eq_ignore_ascii_case("BOOT") {
                continue;
            }
            let folder = format!("{esp}/EFI/{folder}");
            let names = self.files.names(&folder)?;
            if let Some(name) = names.iter().find(|name| is_loader(name)) {
                return self.renewed_copy(&format!("{folder}/{name}"), edits);
            }
        }
        Ok(None)
    }

    fn renewed_copy(&self, path: &str, edits: &[Edit]) -> Result<Option<Edit>> {
        let (Some(file), Some(content)) = (self.files.file(path)?, self.files.read(path)?) else {
            return Ok(None);
        };
        // An entry may name it as its own image.
        if edits.iter().any(|edit| edit.is_of(&file)) {
            return Ok(None);
        }
        let is = Some(Digest::of(&content));
        let Some(image) = edits.iter().find(|edit| edit.before == is) else {
            return Ok(None);
        };
        let from = image.path.clone();
        let reason = "it is a copy of that image, and the one that firmware starts";
        let because = (reason.to_owned(), vec![Place::file(&from)]);
        let contents = (&content[..], image.content.to_vec());
        let change = Change::Copy { from };
        let edit = Edit::of_file(path, file, contents, change, because);
        Ok(Some(edit.needed(image.need)))
    }

    /// The first folder, by name, with a loader that is known.
    fn vendor(&self, esp: &str, folders: &[String]) -> Result<Option<Vendor>> {
        for folder in folders {
            if folder.eq_ignore_ascii_case("BOOT") || folder.eq_ignore_ascii_case("Microsoft") {
                continue;
            }
            let names = self.files.names(&format!("{esp}/EFI/{folder}"))?;
            for architecture in ARCHITECTURES {
                for pattern in LOADERS {
                    let wanted = pattern.replace('*', architecture);
                    let found = names.iter().find(|name| name.eq_ignore_ascii_case(&wanted));
                    if let Some(loader) = found.cloned() {
                        return Ok(Some(Vendor {
                            folder: folder.clone(),
                            names,
                            loader,
                            architecture,
                        }));
                    }
                }
            }
        }
        Ok(None)
    }

    fn note_unmounted(&mut self, inspection: &Inspection) {
        let volumes = inspection
            .disks
            .iter()
            .flat_map(|disk| &disk.layout.volumes);
        let has_esp = volumes
            .into_iter()
            .any(|volume| ESP.contains(&volume.kind.as_str()));
        if has_esp {
            self.note(
                Severity::Warning,
                "esp-not-mounted",
                "the guest does not mount its EFI system partition, so nobody has looked whether \
                 it holds EFI/BOOT/BOOTX64.EFI; without that, firmware that does not know the \
                 disk's boot entry does not start it"
                    .to_owned(),
                Some(Place::file("/etc/fstab")),
            );
        }
    }
}
