//! What a migration writes: the disks, the machine's description, the report.

use std::path::{Path, PathBuf};

use rehost_block::{Disk, Error, Result};

use super::Run;
use super::machine::{REPORT, image_name};
use crate::edit::Edited;
use crate::report::WrittenDisk;
use crate::target::{Form, NewDisk};
use crate::unfinished::{Existing, Unfinished};
use crate::voice::bytes;
use crate::write::{Writing, default_options, write_unnamed};

impl Run<'_> {
    pub(super) fn copy(&mut self, edited: &Edited, folder: &Path) -> Result<Vec<NewDisk>> {
        let name = self.name();
        let mut whole = Vec::new();
        let sources: Vec<PathBuf> = self
            .report
            .sources
            .iter()
            .flat_map(|disk| disk.files.clone())
            .collect();
        let format = self.migration.hardware.format();
        for (nth, overlay) in edited.overlays.iter().enumerate() {
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
            whole.push((path, overlay.size(), image));
        }
        // A machine is finished when all its disks are.
        let mut written = Vec::new();
        for (path, size, image) in whole {
            self.report.disks.push(WrittenDisk {
                path: path.clone(),
                outcome: image.finish()?,
            });
            let path = path
                .canonicalize()
                .map_err(|error| Error::io("cannot be opened", error).in_file(path))?;
            written.push(NewDisk { path, format, size });
        }
        Ok(written)
    }

    pub(super) fn describe(&mut self, written: &[NewDisk], folder: &Path) -> Result<()> {
        let machine = self.machine(written.to_vec())?;
        let form = Form::of(&self.migration.hardware)?;
        let path = folder.join(format!("{}.{}", machine.name, form.suffix()));
        self.voice.step(format_args!("Writing {}.", path.display()));
        let text = form.write(&machine)?;
        Unfinished::write(&path, self.migration.existing, text.as_bytes())?;
        if form == Form::Vmx {
            self.report.decided(
                "the VMDK is of the kind that Workstation and Fusion run",
                "ESXi takes it in with `vmkfstools -i NAME.vmdk -d thin NEW.vmdk`",
            );
        }
        self.report.machine = Some(machine);
        self.report.description = Some(path);
        Ok(())
    }

    pub(super) fn write_report(&self, folder: &Path) -> Result<()> {
        let path = folder.join(REPORT);
        self.voice.step(format_args!("Writing {}.", path.display()));
        Unfinished::write(&path, Existing::Replace, &self.report.to_json()?)
    }
}
