//! `rehost inspect`: what is on the disks of an image or a VM.

use anyhow::Result;
use rehost_inspect::Inspection;
use serde::Serialize;

use super::args::Inspect;
use super::{Answer, lsblk, output};
use crate::guest::look;
use crate::source::Vm;

/// The result as JSON.
#[derive(Serialize)]
struct Inspected<'a> {
    vm: Option<&'a Vm>,
    #[serde(flatten)]
    inspection: &'a Inspection,
}

/// The machine in a few lines.
fn print(vm: &Vm) -> Result<()> {
    output::line(format_args!("machine {} ({})", vm.name, vm.path.display()))?;
    output::line(format_args!(
        "  {} processors ({} a socket), {} MiB memory, firmware {}",
        vm.vcpus, vm.cores_per_socket, vm.memory_mib, vm.firmware
    ))?;
    for (nth, disk) in vm.disks.iter().enumerate() {
        output::line(format_args!(
            "  disk {nth}: {} at {}",
            disk.path.display(),
            disk.at
        ))?;
    }
    for nic in &vm.nics {
        let mac = nic.mac.as_deref().unwrap_or("no address yet");
        output::line(format_args!("  network card {}: {mac}", nic.number))?;
    }
    for left_out in &vm.left_out {
        output::line(format_args!("  not carried over: {}", left_out.what))?;
    }
    output::line("")
}

/// Runs the command.
pub(super) fn run(args: &Inspect) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.source, &args.more)?;
    if args.volumes {
        return lsblk::show(&opened, &secrets, args.json);
    }
    let guest = look(&opened.disks(), &secrets)?;
    if args.json {
        output::json(&Inspected {
            vm: opened.vm.as_ref(),
            inspection: &guest.inspection,
        })?;
    } else {
        if let Some(vm) = &opened.vm {
            print(vm)?;
        }
        output::line(&guest.inspection)?;
    }
    Ok(Answer::Done)
}
