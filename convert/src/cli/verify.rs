//! `rehost verify`: the boot proof alone.

use std::time::Duration;

use anyhow::Result;
use rehost_runtime::Bus;

use super::args::{BootBus, Booting as BootingArgs, Verify};
use super::{Answer, output};
use crate::interrupt;
use crate::proof::{Booting, Serial, Through, prove};
use crate::secrets::Secrets;

/// Runs the command.
pub(super) fn run(args: &Verify) -> Result<Answer> {
    let voice = args.reporting.voice();
    let (opened, secrets) = args.opening.machine(&args.image, &args.more)?;
    let mut booting = booting(&args.booting, secrets)?;
    booting.bus = match args.bus {
        BootBus::VirtioBlk => Bus::VirtioBlk,
        BootBus::VirtioScsi => Bus::VirtioScsi,
        BootBus::Ahci => Bus::Ahci,
        BootBus::Pvscsi => Bus::Pvscsi,
    };
    booting.vcpus = args.cpus;
    booting.memory_mib = args.memory;
    if args.firmware {
        booting.through = Through::Firmware;
    }
    voice.step(format_args!(
        "Booting {} on a throw-away overlay.",
        args.image.display()
    ));
    let proof = prove(&opened.disks(), &args.image, &booting, voice)?;
    voice.detail(&proof);
    if args.reporting.json {
        output::json(&proof)?;
    }
    Ok(if proof.passed() {
        Answer::Done
    } else {
        Answer::NotVerified
    })
}

/// The options as typed, for a guest on virtio-blk.
pub(super) fn booting(args: &BootingArgs, secrets: Secrets) -> Result<Booting> {
    Ok(Booting {
        engine: args.engine,
        bus: Bus::VirtioBlk,
        vcpus: 1,
        memory_mib: 1024,
        through: Through::Kernel,
        limit: Duration::from_secs(args.timeout),
        serial: if args.show_serial {
            Serial::Shown
        } else {
            Serial::Kept
        },
        secrets,
        root: None,
        cancel: interrupt::flag()?,
    })
}
