//! QEMU's command line for a [`Machine`]: pure.

use std::ffi::OsString;
use std::path::Path;

use rehost_block::{Error, Result};
use tempfile::TempDir;

use super::Accelerator;
use super::devices::{self, Attachment};
use crate::{Bus, Firmware, Machine, Start};

/// A private folder for one run.
pub(super) struct Folder(pub(super) TempDir);

/// What QEMU's seccomp filter is told to deny.
pub(super) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Disks of one machine (limit of ours; each virtio-blk disk takes a PCI slot of 31).
const DISKS_MAX: usize = 16;
/// Network cards of one machine (limit of ours; VMware's machines have as many).
const NICS_MAX: usize = 10;
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
    for bus in Bus::ALL {
        let attachment = attachment(bus)?;
        let count = machine.disks.iter().filter(|disk| disk.bus == bus).count();
        if count > attachment.capacity {
            let disks = attachment.disks;
            return Err(
                Error::unsupported(format!("machine has too many {disks} disks"))
                    .mismatch(format!("at most {}", attachment.capacity), count),
            );
        }
    }
    if machine.nics.len() > NICS_MAX {
        return Err(Error::unsupported("machine has too many network cards")
            .mismatch(format!("at most {NICS_MAX}"), machine.nics.len()));
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
        Start::Firmware(_) if machine.disks.is_empty() => {
            Err(Error::usage("firmware has no disk to boot from"))
        }
        Start::Firmware(firmware) => {
            let first = machine.disks.first();
            first.map_or(Ok(()), |disk| firmware.finds_disks_on(disk.bus))
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
    // Without graphics the firmware and what it boots use the serial port as their screen.
    let mut board = "q35,graphics=off,usb=off".to_owned();
    if let Start::Firmware(Firmware::Uefi(image)) = &machine.start {
        board.push_str(",pflash0=code,pflash1=nvram");
        for (name, path, format, read_only) in [
            ("code", &image.code, image.formats[0], true),
            ("nvram", &folder.nvram(), image.formats[1], false),
        ] {
            let node = serde_json::json!({
                "driver": format.driver(),
                "node-name": name,
                "read-only": read_only,
                "file": { "driver": "file", "filename": text(path)? },
            });
            add(&["-blockdev", &node.to_string()]);
        }
    }
    add(&["-machine", &board]);
    add(match accelerator {
        Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => &["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"],
    });
    add(&["-smp", &machine.vcpus.to_string()]);
    add(&["-m", &format!("{}M", machine.memory_mib)]);
    // A GRUB that is told to be graphical hangs in a BIOS machine without a VGA adapter: it waits for a
    // retrace. What is drawn goes nowhere.
    let vga = match machine.start {
        Start::Firmware(Firmware::Bios) => "std",
        _ => "none",
    };
    // No network of the host's: said although -nodefaults implies it.
    add(&["-nic", "none", "-display", "none", "-vga", vga]);
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
    for bus in Bus::ALL {
        if machine.disks.iter().any(|disk| disk.bus == bus)
            && let Some(controller) = attachment(bus)?.controller
        {
            add(&["-device", controller]);
        }
    }
    let socket = text(&folder.disks())?;
    let mut seen: Vec<Bus> = Vec::new();
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
        let unit = seen.iter().filter(|bus| **bus == disk.bus).count();
        seen.push(disk.bus);
        let device = attachment(disk.bus)?.disk(&name, unit, nth + 1);
        add(&["-device", &device]);
    }
    for (nth, nic) in machine.nics.iter().enumerate() {
        let path = text(&folder.wire(nth))?.replace(',', ",,");
        let wire = format!("stream,id=wire{nth},server=off,addr.type=unix,addr.path={path}");
        add(&["-netdev", &wire]);
        let card = devices::card(nic.model);
        add(&[
            "-device",
            &format!("{card},netdev=wire{nth},mac={}", nic.mac),
        ]);
    }
    Ok(arguments)
}

fn attachment(bus: Bus) -> Result<&'static Attachment> {
    Attachment::of(bus).ok_or_else(|| Error::internal("a bus that QEMU's table does not have"))
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
    use crate::{DirectBoot, Mac, MachineDisk, MachineNic, Neighbours, NicModel, UefiImage};

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
            nics: Vec::new(),
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
        let line = line(&machine(&[Bus::VirtioBlk], Start::Firmware(Firmware::Bios)));
        assert!(line.contains("-nodefaults") && line.contains("-nic none"));
        assert!(line.contains("-display none -vga std"));
        assert!(!line.contains("netdev") && !line.contains("-net "));
    }

    fn uefi() -> Start {
        Start::Firmware(Firmware::Uefi(UefiImage::of("/code,1.fd", "/vars.fd")))
    }

    #[test]
    fn uefi_is_flash_that_is_read_and_a_memory_of_the_runs_own() {
        let line = line(&machine(&[Bus::VirtioBlk], uefi()));
        for part in [
            r#"{"driver":"raw","file":{"driver":"file","filename":"/code,1.fd"},"node-name":"code","read-only":true}"#,
            r#""node-name":"nvram","read-only":false}"#,
            "-machine q35,graphics=off,usb=off,pflash0=code,pflash1=nvram",
            "-boot strict=on",
            "-vga none",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        assert!(!line.contains("/vars.fd"), "the template itself: {line}");
    }

    #[test]
    fn a_card_hangs_on_a_socket_in_the_private_folder() {
        let mut machine = machine(
            &[Bus::Nvme, Bus::Ide, Bus::Ide, Bus::Ide],
            Start::Firmware(Firmware::Bios),
        );
        machine.nics.push(MachineNic {
            model: NicModel::Vmxnet3,
            mac: Mac([0, 0x0c, 0x29, 0x2e, 0xc0, 0x31]),
            wire: Arc::new(Neighbours::new([])),
        });
        let line = line(&machine);
        for part in [
            "-netdev stream,id=wire0,server=off,addr.type=unix,addr.path=/",
            "-device vmxnet3,romfile=,netdev=wire0,mac=00:0c:29:2e:c0:31",
            "-device nvme,serial=disk0,drive=disk0,id=device-disk0,bootindex=1",
            "-device piix3-ide,id=piix",
            "ide-hd,bus=piix.0,unit=1,drive=disk2",
            "ide-hd,bus=piix.1,unit=0,drive=disk3",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        assert_eq!(line.matches("netdev stream").count(), 1);
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
            Start::Firmware(Firmware::Bios),
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
                machine(&[Bus::Ahci; 7], Start::Firmware(Firmware::Bios)),
                "too many SATA disks",
            ),
            (
                machine(&[Bus::Pvscsi; 16], Start::Firmware(Firmware::Bios)),
                "too many SCSI disks",
            ),
            (
                machine(&[Bus::VirtioBlk; 17], Start::Firmware(Firmware::Bios)),
                "too many disks",
            ),
            (
                machine(&[], Start::Firmware(Firmware::Bios)),
                "no disk to boot from",
            ),
            (
                machine(&[], direct(&"x".repeat(2048))),
                "command line is too long",
            ),
            (machine(&[], direct("a\0b")), "NUL"),
            (machine(&[], uefi()), "no disk to boot from"),
            (
                machine(&[Bus::Megaraid], uefi()),
                "to find a disk on a MegaRAID controller",
            ),
        ] {
            let error = check(&machine).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        check(&machine(&[], direct("quiet"))).unwrap();
    }
}
