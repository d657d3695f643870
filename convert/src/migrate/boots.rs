//! The boots of a migration: of the edited guest before anything is copied, and of what was written.

use std::path::PathBuf;
use std::sync::Arc;

use rehost_block::{Disk, Result};
use rehost_image::Image;
use rehost_runtime::Bus;

use super::{Boots, Run};
use crate::guest::{ImageOptions, open_image};
use crate::proof::{Proof, prove};
use crate::report::Ending;

impl Run<'_> {
    pub(super) fn preflight(&mut self, disks: &[Arc<dyn Disk>]) -> Result<bool> {
        if self.migration.preflight == Boots::Skipped {
            self.report.decided(
                "the edited guest was not booted before the copy",
                "--no-preflight",
            );
            return Ok(true);
        }
        if self.provable()?.is_none() {
            return Ok(true);
        }
        self.voice
            .step("Booting the edited guest before anything is copied.");
        let proof = self.boot(disks)?;
        let passed = proof.passed();
        self.report.preflight = Some(proof);
        if !passed {
            self.voice
                .step("The edited guest does not boot. Nothing was copied.");
        }
        Ok(passed)
    }

    /// The bus on which the guest can be booted here; says so when there is none.
    fn provable(&mut self) -> Result<Option<Bus>> {
        let hardware = self.migration.hardware;
        let bus = hardware.engine_bus()?;
        if bus.is_none() {
            let what = format!(
                "the guest is not booted: no engine here has disks on {}",
                hardware.boot_bus()?.title
            );
            self.voice.step(format_args!("Not proven: {what}."));
            self.report.decided(what, "--to and --disk-bus");
        }
        Ok(bus)
    }

    fn boot(&mut self, disks: &[Arc<dyn Disk>]) -> Result<Proof> {
        let mut booting = self.migration.booting.clone();
        booting.bus = self.migration.hardware.engine_bus()?.unwrap_or(booting.bus);
        if let Some(vm) = &self.report.vm {
            booting = booting.sized(vm.vcpus.get(), vm.memory_mib.get());
        }
        let proof = prove(disks, self.migration.source, &booting, self.voice)?;
        self.report.decided(
            format!(
                "booted with {} processors and {} MiB",
                proof.vcpus, proof.memory_mib
            ),
            "what the machine has, within what this host has and a login prompt needs",
        );
        self.report.decided(
            format!("booted by {}", proof.verdict.engine),
            &*proof.engine_reason,
        );
        self.voice.detail(&proof);
        Ok(proof)
    }

    pub(super) fn prove_written(&mut self, written: &[PathBuf]) -> Result<Ending> {
        if self.migration.proof == Boots::Skipped {
            self.report
                .decided("the written image was not booted", "--no-verify");
            return Ok(Ending::Unproven);
        }
        if self.provable()?.is_none() {
            return Ok(Ending::Unproven);
        }
        self.voice.step("Booting what was written.");
        let images: Vec<Image> = written
            .iter()
            .map(|path| {
                let options = ImageOptions {
                    format: Some(self.migration.hardware.format()),
                    ..ImageOptions::default()
                };
                open_image(path, &options)
            })
            .collect::<Result<_>>()?;
        let disks: Vec<Arc<dyn Disk>> = images.iter().map(Image::disk).collect();
        let proof = self.boot(&disks)?;
        let ending = if proof.passed() {
            Ending::Proven
        } else {
            Ending::ProofFailed
        };
        self.report.proof = Some(proof);
        self.voice.step(match ending {
            Ending::Proven => "Proven: the migrated guest reached its login prompt.",
            _ => "The migrated guest does not boot; do not cut over. Its files are whole, and not proven.",
        });
        Ok(ending)
    }
}
