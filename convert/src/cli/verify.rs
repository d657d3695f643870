//! `rehost verify`: the boot proof alone.

use std::time::Duration;

use anyhow::Result;
use rehost_block::Error;
use rehost_runtime::{Bus, NicModel};

use super::args::{self, BootBus, Booting as BootingArgs, Card, Verify};
use super::{Answer, output};
use crate::guest::{OpenedVm, look};
use crate::interrupt;
use crate::proof::{Booting, Network, Serial, StartedBy, Through, prove};
use crate::secrets::Secrets;
use crate::source::Firmware;
use crate::source::disks::{self, Wishes};

/// Runs the command.
pub(super) fn run(args: &Verify) -> Result<Answer> {
    let voice = args.reporting.voice();
    let (opened, secrets) = args.opening.machine(&args.image, &args.more)?;
    let mut booting = booting(&args.booting, secrets)?;
    booting.bus = bus(args.bus);
    booting.vcpus = args.cpus;
    booting.memory_mib = args.memory;
    if let Some(wished) = args.firmware {
        booting.through = Through::Firmware(started_by(wished, &opened, &booting));
    }
    if args.booting.check_network {
        booting.network = Some(network(args, &opened, &booting)?);
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

/// The firmware as typed, or as the machine has it.
fn started_by(wished: Option<args::StartedBy>, opened: &OpenedVm, booting: &Booting) -> StartedBy {
    if let Some(wished) = wished {
        return StartedBy {
            firmware: firmware(wished),
            evidence: "--firmware".to_owned(),
        };
    }
    if let Some(vm) = &opened.vm {
        return StartedBy::described(vm);
    }
    match look(&opened.disks(), &booting.secrets) {
        Ok(guest) => StartedBy::found(&guest.inspection),
        // The firmware boots what nobody here can read, too.
        Err(error) => StartedBy {
            firmware: Firmware::Bios,
            evidence: format!(
                "the disks cannot be looked at: {}; --firmware=uefi says otherwise",
                error.without_hint()
            ),
        },
    }
}

/// A firmware as typed.
pub(super) const fn firmware(wished: args::StartedBy) -> Firmware {
    match wished {
        args::StartedBy::Bios => Firmware::Bios,
        args::StartedBy::Uefi => Firmware::Efi,
    }
}

/// The bus as typed.
const fn bus(bus: BootBus) -> Bus {
    match bus {
        BootBus::VirtioBlk => Bus::VirtioBlk,
        BootBus::VirtioScsi => Bus::VirtioScsi,
        BootBus::Ahci => Bus::Ahci,
        BootBus::Nvme => Bus::Nvme,
        BootBus::Ide => Bus::Ide,
        BootBus::Pvscsi => Bus::Pvscsi,
        BootBus::Lsi => Bus::Lsi,
        BootBus::LsiSas => Bus::LsiSas,
        BootBus::Megaraid => Bus::Megaraid,
        BootBus::Usb => Bus::Usb,
    }
}

/// The cards as typed, with the addresses that the machine's description gives them, and what the guest
/// is to answer for.
fn network(args: &Verify, opened: &OpenedVm, booting: &Booting) -> Result<Network> {
    let disks = opened.disks();
    let inspection = look(&disks, &booting.secrets)?.inspection;
    let mut vm = match &opened.vm {
        Some(vm) => vm.clone(),
        None => disks::machine(std::slice::from_ref(&args.image), &inspection).0,
    };
    let wishes = Wishes {
        macs: args.macs.clone(),
        ..Wishes::default()
    };
    wishes.apply(&mut vm)?;
    Network::check_cards(vm.nics.len())?;
    let network = Network::of(&inspection, &vm.nics, |_| match args.nic {
        Card::Virtio => NicModel::VirtioNet,
        Card::Vmxnet3 => NicModel::Vmxnet3,
        Card::E1000e => NicModel::E1000e,
        Card::E1000 => NicModel::E1000,
    });
    if network.is_empty() {
        let error = Error::unsupported("the guest has no static address to answer for");
        return Err(error
            .in_file(&args.image)
            .hint("leave --check-network out")
            .into());
    }
    Ok(network)
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
        network: None,
        secrets,
        root: None,
        cancel: interrupt::flag()?,
    })
}
