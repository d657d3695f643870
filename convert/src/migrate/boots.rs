//! The boots of a migration: of the edited guest before anything is copied, and of what was written.

use std::sync::Arc;

use rehost_block::{Disk, Result};
use rehost_image::Image;
use rehost_runtime::Bus;

use super::{Boots, Proving, Run};
use crate::guest::{ImageOptions, open_image};
use crate::proof::{Network, Proof, StartedBy, Through, prove};
use crate::report::Ending;
use crate::target::NewDisk;

impl Run<'_> {
    pub(super) fn preflight(&mut self, disks: &[Arc<dyn Disk>]) -> Result<bool> {
        if self.migration.preflight == Boots::Skipped {
            self.report.decided(
                "the edited guest was not booted before the copy",
                "--no-preflight",
            );
            return Ok(true);
        }
        let Some(bus) = self.provable()? else {
            return Ok(true);
        };
        self.voice
            .step("Booting the edited guest before anything is copied.");
        let proof = self.boot(disks, bus, Through::Kernel)?;
        let passed = proof.passed();
        self.report.preflight = Some(proof);
        if !passed {
            self.voice
                .step("The edited guest does not pass on its new hardware. Nothing was copied.");
        }
        Ok(passed)
    }

    /// What is to start the written image; `None` when nothing is.
    fn through(&self) -> Option<Through> {
        match self.migration.proof {
            Proving::Skipped => None,
            Proving::ThroughKernel => Some(Through::Kernel),
            Proving::ThroughFirmware => Some(Through::Firmware(StartedBy {
                firmware: self.firmware(),
                evidence: "the new machine has it so".to_owned(),
            })),
        }
    }

    /// A firmware that cannot be had here is better known before anything is copied.
    pub(super) fn check_firmware(&self) -> Result<()> {
        let Some(Through::Firmware(by)) = self.through() else {
            return Ok(());
        };
        match self.migration.hardware.engine_bus(self.firmware())? {
            Some(bus) => by.check(self.migration.booting.engine, bus),
            None => Ok(()),
        }
    }

    /// The bus on which the guest can be booted here; says so when there is none, or when it is not the
    /// only one that the machine will have.
    fn provable(&mut self) -> Result<Option<Bus>> {
        let hardware = self.migration.hardware;
        let firmware = self.firmware();
        let title = hardware.boot_bus(firmware)?.title;
        let bus = hardware.engine_bus(firmware)?;
        let told = |run: &mut Self, what: String| {
            run.voice.step(format_args!("Not proven: {what}."));
            run.report.decided(what, "--to and --disk-bus");
        };
        if bus.is_none() {
            let what = format!("the guest is not booted: no engine here has disks on {title}");
            told(self, what);
        } else if hardware.target.name == "hyperv" && self.report.preflight.is_none() {
            let what = "no engine here has Hyper-V's synthetic devices (hv_storvsc, hv_netvsc), which take \
                        over from the emulated ones on Hyper-V itself";
            told(self, what.to_owned());
        }
        Ok(bus)
    }

    /// What the guest must answer for, and on which cards.
    fn network(&mut self) -> Result<Option<Network>> {
        if self.migration.network == Boots::Skipped {
            return Ok(None);
        }
        let hardware = self.migration.hardware;
        let Some(model) = hardware.engine_card() else {
            let what = format!(
                "the network is not checked: no engine here has the cards of {}",
                hardware.target.title
            );
            self.voice.step(format_args!("Not proven: {what}."));
            self.report.decided(what, "--check-network");
            return Ok(None);
        };
        let nics = &self.vm()?.nics;
        let network = self
            .report
            .inspection
            .as_ref()
            .map(|inspection| Network::of(inspection, nics, |_| model));
        if network.as_ref().is_none_or(Network::is_empty) {
            let what = "the network is not checked: the guest has no static address";
            self.voice.step(format_args!("Not proven: {what}."));
            self.report.decided(what, "--check-network");
            return Ok(None);
        }
        Ok(network)
    }

    fn boot(&mut self, disks: &[Arc<dyn Disk>], bus: Bus, through: Through) -> Result<Proof> {
        let mut booting = self.migration.booting.clone();
        booting.bus = bus;
        booting.through = through;
        booting.network = self.network()?;
        let vm = self.vm()?;
        booting = booting.sized(vm.vcpus.get(), vm.memory_mib.get());
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
        if let Some(firmware) = &proof.firmware {
            let what = format!("booted through its firmware and its boot loader: {firmware}");
            self.report.decided(what, "--through-firmware");
        }
        self.voice.detail(&proof);
        Ok(proof)
    }

    pub(super) fn prove_written(&mut self, written: &[NewDisk]) -> Result<Ending> {
        let Some(through) = self.through() else {
            self.report
                .decided("the written image was not booted", "--no-verify");
            return Ok(Ending::Unproven);
        };
        let Some(bus) = self.provable()? else {
            return Ok(Ending::Unproven);
        };
        self.voice.step("Booting what was written.");
        let images: Vec<Image> = written
            .iter()
            .map(|disk| {
                let options = ImageOptions {
                    format: Some(disk.format),
                    ..ImageOptions::default()
                };
                open_image(&disk.path, &options)
            })
            .collect::<Result<_>>()?;
        let disks: Vec<Arc<dyn Disk>> = images.iter().map(Image::disk).collect();
        let proof = self.boot(&disks, bus, through)?;
        let ending = if proof.passed() {
            Ending::Proven
        } else {
            Ending::ProofFailed
        };
        self.voice.step(match (ending, &proof.network) {
            (Ending::Proven, None) => "Proven: the migrated guest reached its login prompt.",
            (Ending::Proven, Some(_)) => {
                "Proven: the migrated guest reached its login prompt, and answers for its addresses."
            }
            _ if proof.verdict.booted() => {
                "The migrated guest boots, and does not answer for its addresses; do not cut over."
            }
            _ => "The migrated guest does not boot; do not cut over. Its files are whole, and not proven.",
        });
        self.report.proof = Some(proof);
        Ok(ending)
    }
}
