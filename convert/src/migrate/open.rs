//! The first step: the machine is read, or put together from its disks, and its disks are opened.

use std::path::PathBuf;

use rehost_block::{Error, Result};
use rehost_inspect::Guest;

use super::Run;
use crate::guest::{ImageOptions, OpenedVm, evidence};
use crate::report::SourceDisk;
use crate::source::disks;
use crate::voice::bytes;

impl Run<'_> {
    pub(super) fn open(&mut self) -> Result<OpenedVm> {
        let source = self.migration.source;
        self.voice
            .step(format_args!("Opening {}.", source.display()));
        let options = ImageOptions {
            format: self.migration.format,
            allow_paths: self.migration.allow_paths,
            secrets: &self.migration.booting.secrets,
            ..ImageOptions::default()
        };
        let opened = OpenedVm::open(source, self.migration.more, &options)?;
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

    /// The machine as the user wishes it; where nothing describes it, as its disks have it.
    pub(super) fn settle_machine(&mut self, guest: &Guest, opened: &OpenedVm) -> Result<()> {
        let (mut vm, mut decisions) = match self.report.vm.take() {
            Some(vm) => (vm, Vec::new()),
            None => {
                let paths: Vec<PathBuf> = opened
                    .images
                    .iter()
                    .filter_map(|image| image.files().first().cloned())
                    .collect();
                disks::machine(&paths, &guest.inspection)
            }
        };
        decisions.extend(self.migration.wishes.apply(&mut vm)?);
        if !decisions.is_empty() {
            self.voice.step("Deciding what the machine is to have.");
        }
        for decision in decisions {
            self.voice
                .detail(format_args!("{} ({})", decision.what, decision.evidence));
            self.report.decisions.push(decision);
        }
        self.report.vm = Some(vm);
        Ok(())
    }
}
