//! A boot that the firmware begins: which firmware, and the serial console that the copy gets for it.
//!
//! The guest's own boot loader chooses the kernel and its command line, so both must come to the serial
//! port by what is written on the disk. It is written to overlays that end with the boot; the guest stays
//! as it is. What cannot be given a console is told, and booted all the same: it may have one.
//!
//! Left out on purpose: Secure Boot. The firmware starts what is not signed, too; said where the machine
//! asks for it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};
use rehost_inject::plan::Change;
use rehost_inspect::Inspection;
use rehost_runtime::{self as runtime, Bus, EngineChoice, Machine, Start, UefiImage};
use serde::Serialize;

use super::{ADDED, Booting};
use crate::edit::{edit, plan_console};
use crate::guest::{choose_root, look};
use crate::source::{Firmware, Vm, disks};

/// The firmware that is to start a guest.
#[derive(Debug, Clone)]
pub struct StartedBy {
    /// Which.
    pub firmware: Firmware,
    /// Why that one, in one sentence.
    pub evidence: String,
}

/// What a guest was started by, and what its copy got so that it could be watched.
#[derive(Debug, Clone, Serialize)]
pub struct FirmwareProof {
    /// Which firmware.
    pub kind: Firmware,
    /// Why that one.
    pub evidence: String,
    /// The firmware itself; `None` for the BIOS that QEMU brings along. Its memory was empty.
    pub image: Option<UefiImage>,
    /// What was changed on the copy that was booted, and on nothing else.
    pub added: Vec<Added>,
    /// What was not added or is not proven, and why.
    pub notes: Vec<String>,
}

/// A line, the command line of a unified kernel image, or a whole file, that the copy has and the guest
/// does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// The file in the guest.
    pub path: String,
    /// From 1; `None` where it is no text file, or all of it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The line as the copy has it; `None` where the file is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl StartedBy {
    /// What the description of `vm` says.
    #[must_use]
    pub fn described(vm: &Vm) -> Self {
        Self {
            firmware: vm.firmware,
            evidence: format!("{} has it so", vm.path.display()),
        }
    }

    /// Whether a new machine whose first disk is on `bus` can be started so here, by `engine`.
    ///
    /// # Errors
    /// Unsupported when the firmware is not here, does not find the disk, or no engine has it.
    pub fn check(&self, engine: EngineChoice, bus: Bus) -> Result<()> {
        let firmware = FirmwareProof::new(self)?.engine();
        // The bus of the proof is that of the new machine.
        firmware.finds_disks_on(bus).map_err(|error| {
            error.without_hint().hint(
                "leave --through-firmware out, or take another --disk-bus (sata, nvme), which the new machine \
                 then has",
            )
        })?;
        let machine = Machine {
            vcpus: 1,
            memory_mib: 1,
            disks: Vec::new(),
            nics: Vec::new(),
            start: Start::Firmware(firmware),
        };
        rehost_runtime::choose(engine, &machine).map(|_| ())
    }

    /// What is found on the disks.
    #[must_use]
    pub fn found(inspection: &Inspection) -> Self {
        let (firmware, evidence) = disks::firmware(inspection);
        Self {
            firmware,
            evidence: evidence.to_owned(),
        }
    }
}

impl FirmwareProof {
    /// Finds the firmware.
    ///
    /// # Errors
    /// As [`UefiImage::find`].
    pub(super) fn new(by: &StartedBy) -> Result<Self> {
        let image = match by.firmware {
            Firmware::Bios => None,
            Firmware::Efi | Firmware::EfiSecureBoot => Some(UefiImage::find()?),
        };
        let mut notes = Vec::new();
        if by.firmware == Firmware::EfiSecureBoot {
            notes.push(
                "Secure Boot is not proven: this firmware starts what is not signed, too"
                    .to_owned(),
            );
        }
        Ok(Self {
            kind: by.firmware,
            evidence: by.evidence.clone(),
            image,
            added: Vec::new(),
            notes,
        })
    }

    /// The same for the engine.
    pub(super) fn engine(&self) -> runtime::Firmware {
        match &self.image {
            None => runtime::Firmware::Bios,
            Some(image) => runtime::Firmware::Uefi(image.clone()),
        }
    }

    /// The disks with a serial console for the guest on them. What keeps it from having one is noted: the
    /// firmware boots what nobody here can read, too.
    pub(super) fn listen(
        &mut self,
        disks: &[Arc<dyn Disk>],
        name: &Path,
        booting: &Booting,
    ) -> Vec<Arc<dyn Disk>> {
        self.add_console(disks, booting).unwrap_or_else(|error| {
            let why = error.in_file(name);
            self.added.clear();
            self.notes
                .push(format!("no serial console was added: {why}"));
            disks.to_vec()
        })
    }

    fn add_console(
        &mut self,
        disks: &[Arc<dyn Disk>],
        booting: &Booting,
    ) -> std::result::Result<Vec<Arc<dyn Disk>>, Error> {
        let secrets = &booting.secrets;
        let mut guest = look(disks, secrets)?;
        if let Some(root) = &booting.root {
            choose_root(&mut guest, root)?;
        }
        let plan = plan_console(&guest, (disks, secrets), ADDED)?;
        for edit in &plan.edits {
            let file = |line, text| Added {
                path: edit.path.clone(),
                line,
                text,
            };
            match &edit.change {
                Change::Text { lines } => self.added.extend(
                    lines
                        .iter()
                        .map(|line| file(Some(line.line), Some(line.after.trim().to_owned()))),
                ),
                Change::CommandLine { line } => {
                    self.added.push(file(None, Some(line.after.clone())));
                }
                _ => self.added.push(file(None, None)),
            }
        }
        self.notes
            .extend(plan.notes.iter().map(|note| note.what.clone()));
        Ok(edit(&plan, &guest, disks, secrets)?.disks())
    }

    /// What is said before the boot, a sentence each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![self.to_string()];
        if !self.added.is_empty() {
            let mut files: Vec<&str> = self.added.iter().map(|added| &*added.path).collect();
            files.dedup();
            sentences.push(format!(
                "its copy, and nothing else, gets a serial console in {}",
                files.join(", ")
            ));
        }
        sentences.extend(self.notes.iter().cloned());
        sentences
    }
}

impl fmt::Display for FirmwareProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.image {
            None => write!(f, "started by QEMU's BIOS")?,
            Some(image) => write!(
                f,
                "started by UEFI with an empty memory, {}",
                image.code.display()
            )?,
        }
        write!(f, " ({})", self.evidence)
    }
}
