//! QEMU's command line for a [`Machine`]: pure.

use std::ffi::OsString;
use std::path::Path;

use rehost_block::{Error, Result};
use tempfile::TempDir;

use super::Accelerator;
use crate::{Bus, Machine, Start};

/// A private folder for one run.
pub(super) struct Folder(pub(super) TempDir);

/// What QEMU's seccomp filter is told to deny.
pub(super) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Disks on one bus: what the q35's AHCI controller has ports for, and enough for SCSI.
const AHCI_PORTS: usize = 6;
const SCSI_TARGETS: usize = 15;
/// Disks of one machine (limit of ours; each virtio-blk disk takes a PCI slot of 31).
const DISKS_MAX: usize = 16;
/// Longest kernel command line on x86 (`COMMAND_LINE_SIZE`), its NUL included.
const COMMAND_LINE_MAX: usize = 2048;

/// Refuses what this engine does not do.
pub(super) fn check(machine: &Machine) -> Result<()> {
    if machine.vcpus == 0 || machine.memory_mib == 0 {
        return Err(Error::usage("a machine needs a processor and memory"));
    }
    if machine.disks.len() > DISKS_MAX {
        return Err(Error::unsupported("machine has too many disks")
            .mismatch(format!("at most {DISKS_MAX}"), machine.disks.len()));
    }
    let ports = machine.disks.iter().filter(|disk| disk.bus == Bus::Ahci);
    let ports = ports.count();
    if ports > AHCI_PORTS {
        return Err(Error::unsupported("machine has too many SATA disks")
            .mismatch(format!("at most {AHCI_PORTS}"), ports));
    }
    for bus in [Bus::VirtioScsi, Bus::Pvscsi] {
        let targets = machine.disks.iter().filter(|disk| disk.bus == bus).count();
        if targets > SCSI_TARGETS {
            return Err(Error::unsupported("machine has too many SCSI disks")
                .mismatch(format!("at most {SCSI_TARGETS}"), targets));
        }
    }
    match &machine.start {
        Start::Direct(start) if start.command_line.len() >= COMMAND_LINE_MAX => {
            Err(Error::usage("kernel command line is too long").mismatch(
                format!("less than {COMMAND_LINE_MAX} bytes"),
                start.command_line.len(),
            ))
        }
        Start::Direct(start) if start.command_line.contains('\0') => {
            Err(Error::usage("kernel command line contains a NUL byte"))
        }
        Start::Firmware if machine.disks.is_empty() => {
            Err(Error::usage("firmware has no disk to boot from"))
        }
        _ => Ok(()),
    }
}

/// The export, block node and device of the n-th disk share this name.
pub(super) fn disk_name(nth: usize) -> String {
    format!("disk{nth}")
}

/// QEMU's arguments for a machine that was checked.
pub(super) fn arguments(
    machine: &Machine,
    folder: &Folder,
    accelerator: Accelerator,
    sandbox: bool,
) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-no-user-config", "-nodefaults", "-no-reboot"]);
    if sandbox {
        add(&["-sandbox", SANDBOX]);
    }
    // Without graphics SeaBIOS and what it boots use the serial port as their screen.
    add(&["-machine", "q35,graphics=off,usb=off"]);
    add(match accelerator {
        Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => &["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"],
    });
    add(&["-smp", &machine.vcpus.to_string()]);
    add(&["-m", &format!("{}M", machine.memory_mib)]);
    // No network: said although -nodefaults implies it.
    add(&["-nic", "none", "-display", "none", "-vga", "none"]);
    add(&["-rtc", "base=utc"]);
    add(&["-chardev", "stdio,id=serial,signal=off"]);
    add(&["-serial", "chardev:serial"]);
    let monitor = text(&folder.monitor())?.replace(',', ",,");
    add(&["-chardev", &format!("socket,id=monitor,path={monitor}")]);
    add(&["-mon", "chardev=monitor,mode=control"]);
    if let Start::Direct(start) = &machine.start {
        add(&["-kernel", &text(&folder.kernel())?]);
        if start.initrd.is_some() {
            add(&["-initrd", &text(&folder.initrd())?]);
        }
        add(&["-append", &start.command_line]);
    } else {
        add(&["-boot", "strict=on"]);
    }
    for (bus, controller) in [
        (
            Bus::VirtioScsi,
            "virtio-scsi-pci,id=virtio-scsi,disable-legacy=on",
        ),
        (Bus::Pvscsi, "pvscsi,id=pvscsi"),
    ] {
        if machine.disks.iter().any(|disk| disk.bus == bus) {
            add(&["-device", controller]);
        }
    }
    let socket = text(&folder.disks())?;
    let mut on_bus = [0usize; 4];
    for (nth, disk) in machine.disks.iter().enumerate() {
        let name = disk_name(nth);
        // The JSON form has no commas to escape. Nothing outlives the run, so flushes are dropped
        // (what `cache=unsafe` means elsewhere).
        let node = serde_json::json!({
            "driver": "raw",
            "node-name": name,
            "discard": "unmap",
            "cache": { "direct": false, "no-flush": true },
            "file": {
                "driver": "nbd",
                "export": name,
                "server": { "type": "unix", "path": socket },
            },
        });
        add(&["-blockdev", &node.to_string()]);
        let (place, device) = match disk.bus {
            Bus::VirtioBlk => (0, "virtio-blk-pci,disable-legacy=on"),
            Bus::VirtioScsi => (1, "scsi-hd,bus=virtio-scsi.0"),
            Bus::Ahci => (2, "ide-hd"),
            Bus::Pvscsi => (3, "scsi-hd,bus=pvscsi.0"),
        };
        let count = on_bus.get_mut(place).map(|count| {
            let unit = *count;
            *count += 1;
            unit
        });
        let unit = count.unwrap_or_default();
        let position = match disk.bus {
            Bus::VirtioBlk => String::new(),
            Bus::Ahci => format!(",bus=ide.{unit}"),
            // Target 7 is the controller's own on a parallel SCSI bus.
            Bus::VirtioScsi | Bus::Pvscsi => {
                format!(",scsi-id={}", if unit < 7 { unit } else { unit + 1 })
            }
        };
        add(&[
            "-device",
            &format!(
                "{device}{position},drive={name},id=device-{name},bootindex={},rerror=report,werror=report",
                nth + 1
            ),
        ]);
    }
    Ok(arguments)
}

/// A path as QEMU's option syntax needs it.
fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage("the folder for temporary files has a name that is not UTF-8")
            .in_file(path)
            .hint("set TMPDIR to another folder")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rehost_block::{Memory, Overlay, StorageDisk};

    use super::*;
    use crate::{DirectBoot, MachineDisk};

    fn machine(buses: &[Bus], start: Start) -> Machine {
        let base = Arc::new(StorageDisk::new(Arc::new(Memory::new("d", vec![0; 512]))));
        Machine {
            vcpus: 2,
            memory_mib: 512,
            disks: buses
                .iter()
                .map(|bus| MachineDisk {
                    disk: Arc::new(Overlay::in_memory(base.clone())),
                    bus: *bus,
                })
                .collect(),
            start,
        }
    }

    fn line(machine: &Machine) -> String {
        let folder = Folder(tempfile::tempdir().unwrap());
        let arguments = arguments(machine, &folder, Accelerator::Tcg, true).unwrap();
        let words: Vec<_> = arguments
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn no_machine_has_a_network() {
        let line = line(&machine(&[Bus::VirtioBlk], Start::Firmware));
        assert!(line.contains("-nodefaults") && line.contains("-nic none"));
        assert!(!line.contains("netdev") && !line.contains("-net "));
    }

    #[test]
    fn disks_keep_their_order_and_get_places_on_their_own_bus() {
        let line = line(&machine(
            &[
                Bus::Pvscsi,
                Bus::Ahci,
                Bus::Pvscsi,
                Bus::VirtioBlk,
                Bus::Ahci,
            ],
            Start::Firmware,
        ));
        for part in [
            "scsi-hd,bus=pvscsi.0,scsi-id=0,drive=disk0,id=device-disk0,bootindex=1",
            "ide-hd,bus=ide.0,drive=disk1,id=device-disk1,bootindex=2",
            "scsi-hd,bus=pvscsi.0,scsi-id=1,drive=disk2,id=device-disk2,bootindex=3",
            "virtio-blk-pci,disable-legacy=on,drive=disk3,id=device-disk3,bootindex=4",
            "ide-hd,bus=ide.1,drive=disk4,id=device-disk4,bootindex=5",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        assert_eq!(line.matches("-device pvscsi,id=pvscsi").count(), 1);
        assert!(!line.contains("virtio-scsi"));
    }

    #[test]
    fn machines_that_cannot_be_are_refused_by_name() {
        let direct = |command_line: &str| {
            Start::Direct(DirectBoot {
                kernel: Vec::new(),
                initrd: None,
                command_line: command_line.to_owned(),
            })
        };
        for (machine, named) in [
            (
                machine(&[Bus::Ahci; 7], Start::Firmware),
                "too many SATA disks",
            ),
            (
                machine(&[Bus::Pvscsi; 16], Start::Firmware),
                "too many SCSI disks",
            ),
            (
                machine(&[Bus::VirtioBlk; 17], Start::Firmware),
                "too many disks",
            ),
            (machine(&[], Start::Firmware), "no disk to boot from"),
            (
                machine(&[], direct(&"x".repeat(2048))),
                "command line is too long",
            ),
            (machine(&[], direct("a\0b")), "NUL"),
        ] {
            let error = check(&machine).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        check(&machine(&[], direct("quiet"))).unwrap();
    }
}
