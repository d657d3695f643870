//! The devices of a VMX file: disks in boot order, CD-ROM drives, network adapters.

use std::path::Path;

use rehost_block::{Error, Opener, Result};

use super::machine::{Bus, Slot};
use super::syntax::{Dictionary, Entry};
use crate::source::{Cdrom, Controller, DiskMode, LeftOut, Nic, NicModel, VmDisk};

/// In the order in which disks are counted when `bios.hddOrder` does not say; ours, so that what is
/// `sda` on VMware's usual controllers stays the first disk.
const BUSES: [Bus; 4] = [Bus::Scsi, Bus::Sata, Bus::Nvme, Bus::Ide];

/// Words that VMware writes instead of a file name for a drive without an image.
const NO_IMAGE: [&str; 4] = [
    "auto detect",
    "emptyBackingString",
    "vmware-null-remote-cdrom",
    "-",
];

/// The hard disks, the one that boots first: those that `bios.hddOrder` names, then by bus,
/// controller and unit.
pub(super) fn disks(
    dictionary: &Dictionary,
    vmx: &Path,
    opener: &dyn Opener,
) -> Result<Vec<VmDisk>> {
    let mut disks = Vec::new();
    for slot in slots(dictionary) {
        if is_cdrom(dictionary, slot) {
            continue;
        }
        disks.push((slot, disk(dictionary, slot, vmx, opener)?));
    }
    let order: Vec<String> = dictionary
        .text("bios.hddOrder")
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    disks.sort_by_key(|(slot, disk)| {
        let named = order.iter().position(|name| *name == disk.at);
        (named.unwrap_or(usize::MAX), *slot)
    });
    Ok(disks.into_iter().map(|(_slot, disk)| disk).collect())
}

/// The places that are occupied, in order. A device is there only when `present` says so.
fn slots(dictionary: &Dictionary) -> Vec<Slot> {
    let mut slots: Vec<Slot> = dictionary
        .entries()
        .filter_map(|(key, _)| slot(key.strip_suffix(".present")?))
        .filter(|slot| dictionary.is_true(&format!("{slot}.present")))
        .filter(|slot| {
            // A controller that is switched off takes its disks with it; IDE has no such key.
            let controller = format!("{}{}", slot.bus.prefix(), slot.controller);
            !dictionary.is_false(&format!("{controller}.present"))
        })
        .collect();
    slots.sort();
    slots
}

/// `scsi0:1`.
fn slot(name: &str) -> Option<Slot> {
    BUSES.into_iter().find_map(|bus| {
        let (controller, unit) = name.strip_prefix(bus.prefix())?.split_once(':')?;
        Some(Slot {
            bus,
            controller: controller.parse().ok()?,
            unit: unit.parse().ok()?,
        })
    })
}

fn is_cdrom(dictionary: &Dictionary, slot: Slot) -> bool {
    let kind = dictionary.text(&format!("{slot}.deviceType"));
    match kind.map(str::to_ascii_lowercase) {
        Some(kind) => kind.contains("cdrom"),
        None => dictionary
            .text(&format!("{slot}.fileName"))
            .is_some_and(|file| file.to_ascii_lowercase().ends_with(".iso")),
    }
}

fn disk(dictionary: &Dictionary, slot: Slot, vmx: &Path, opener: &dyn Opener) -> Result<VmDisk> {
    if let Some(kind) = dictionary.entry(&format!("{slot}.deviceType")) {
        check_kind(kind)?;
    }
    if let Some(redo) = dictionary.entry(&format!("{slot}.redo")) {
        return Err(redo
            .unsupported(&format!("names the redo log \"{}\"", redo.value))
            .hint("commit or discard the changes in VMware first"));
    }
    let Some(file) = dictionary.entry(&format!("{slot}.fileName")) else {
        let there = dictionary.entry(&format!("{slot}.present"));
        return Err(there.map_or_else(
            || Error::internal("a slot that nothing names"),
            |there| there.corrupt("switches on a disk without a fileName"),
        ));
    };
    let opened = opener.open(Path::new(&file.value), vmx).map_err(|error| {
        Error::new(
            error.kind(),
            format!("line {}: {} names \"{}\"", file.line, file.key, file.value),
        )
        .at(file.offset)
        .because(error)
    })?;
    Ok(VmDisk {
        at: slot.to_string(),
        controller: controller(dictionary, slot)?,
        named: file.value.clone(),
        path: opened.path,
        format: None,
        mode: mode(dictionary, slot)?,
        line: file.line,
    })
}

/// Refuses what is no disk image.
fn check_kind(kind: &Entry) -> Result<()> {
    let value = kind.value.to_ascii_lowercase();
    if value.contains("rdm") || value.contains("passthru") {
        return Err(kind
            .unsupported(&format!("\"{}\" is a raw device map", kind.value))
            .hint("copy the device itself, or clone the machine with its disks converted"));
    }
    if value == "rawdisk" {
        return Err(kind
            .unsupported("\"rawDisk\" is a physical disk of the old host")
            .hint("copy the device itself"));
    }
    let known = [
        "disk",
        "plaindisk",
        "scsi-harddisk",
        "ata-harddisk",
        "nvme-harddisk",
    ];
    if !known.contains(&value.as_str()) {
        return Err(kind
            .unsupported("is a kind of device that is not known")
            .mismatch("a hard disk or a cdrom", &kind.value));
    }
    Ok(())
}

fn controller(dictionary: &Dictionary, slot: Slot) -> Result<Controller> {
    match slot.bus {
        Bus::Sata => return Ok(Controller::Ahci),
        Bus::Nvme => return Ok(Controller::Nvme),
        Bus::Ide => return Ok(Controller::Ide),
        Bus::Scsi => {}
    }
    // VMware's first SCSI controller was LSI Logic's, and what the file does not say is that.
    let Some(entry) = dictionary.entry(&format!("scsi{}.virtualDev", slot.controller)) else {
        return Ok(Controller::Lsilogic);
    };
    match entry.value.to_ascii_lowercase().as_str() {
        "pvscsi" => Ok(Controller::Pvscsi),
        "lsilogic" => Ok(Controller::Lsilogic),
        "lsisas1068" => Ok(Controller::Lsisas1068),
        "buslogic" => Ok(Controller::Buslogic),
        _ => Err(entry
            .unsupported("is a controller that is not known")
            .mismatch("pvscsi, lsilogic, lsisas1068 or buslogic", &entry.value)),
    }
}

fn mode(dictionary: &Dictionary, slot: Slot) -> Result<DiskMode> {
    let Some(entry) = dictionary.entry(&format!("{slot}.mode")) else {
        return Ok(DiskMode::Persistent);
    };
    match entry.value.to_ascii_lowercase().as_str() {
        "persistent" | "undoable" => Ok(DiskMode::Persistent),
        "independent-persistent" => Ok(DiskMode::IndependentPersistent),
        "independent-nonpersistent" | "nonpersistent" => Ok(DiskMode::IndependentNonpersistent),
        _ => Err(entry
            .unsupported("is a mode that is not known")
            .mismatch("persistent or independent-persistent", &entry.value)),
    }
}

/// The CD-ROM drives. Their images are not opened: a drive without its disc is still a drive.
pub(super) fn cdroms(dictionary: &Dictionary) -> Vec<Cdrom> {
    slots(dictionary)
        .into_iter()
        .filter(|slot| is_cdrom(dictionary, *slot))
        .map(|slot| {
            let kind = dictionary.text(&format!("{slot}.deviceType"));
            let is_image = kind.is_none_or(|kind| kind.eq_ignore_ascii_case("cdrom-image"));
            let file = dictionary.text(&format!("{slot}.fileName"));
            Cdrom {
                at: slot.to_string(),
                image: file
                    .filter(|file| is_image && !NO_IMAGE.contains(file))
                    .map(str::to_owned),
            }
        })
        .collect()
}

/// The network adapters that are present, by number.
pub(super) fn nics(dictionary: &Dictionary) -> Result<Vec<Nic>> {
    let mut numbers: Vec<u32> = dictionary
        .entries()
        .filter_map(|(key, _)| {
            let name = key.strip_prefix("ethernet")?.strip_suffix(".present")?;
            name.parse().ok()
        })
        .filter(|number: &u32| dictionary.is_true(&format!("ethernet{number}.present")))
        .collect();
    numbers.sort_unstable();
    numbers
        .iter()
        .map(|number| nic(dictionary, *number))
        .collect()
}

fn nic(dictionary: &Dictionary, number: u32) -> Result<Nic> {
    let key = |name: &str| format!("ethernet{number}.{name}");
    let text = |name: &str| dictionary.text(&key(name));
    let model = match text("virtualDev") {
        None => NicModel::Unspecified,
        Some(name) => match name.to_ascii_lowercase().as_str() {
            "vlance" | "flexible" => NicModel::Vlance,
            "e1000" => NicModel::E1000,
            "e1000e" => NicModel::E1000e,
            "vmxnet" | "vmxnet2" => NicModel::Vmxnet,
            "vmxnet3" => NicModel::Vmxnet3,
            _ => NicModel::Other(name.to_owned()),
        },
    };
    let (fixed, made) = (key("address"), key("generatedAddress"));
    // `static` means the address that somebody chose; everything else one that was generated.
    let keys = match text("addressType") {
        Some(kind) if !kind.eq_ignore_ascii_case("static") => [made, fixed],
        _ => [fixed, made],
    };
    let mac = match keys.iter().find_map(|key| dictionary.entry(key)) {
        Some(entry) => Some(mac(entry)?),
        None => None,
    };
    let pci_slot = dictionary
        .number::<i64>(&key("pciSlotNumber"))?
        // -1 is "not placed yet".
        .and_then(|slot| u32::try_from(slot).ok());
    Ok(Nic {
        number,
        mac,
        model,
        network: text("networkName")
            .or_else(|| text("vnet"))
            .map(str::to_owned),
        connection: text("connectionType").map(str::to_owned),
        pci_slot,
        // udev names a card in hot-plug slot N so.
        guest_name: pci_slot.map(|slot| format!("ens{slot}")),
    })
}

fn mac(entry: &Entry) -> Result<String> {
    let mac = entry.value.trim().replace('-', ":").to_ascii_lowercase();
    let parts: Vec<&str> = mac.split(':').collect();
    let valid = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if valid {
        Ok(mac)
    } else {
        Err(entry
            .corrupt("is no MAC address")
            .mismatch("six bytes in hex with colons", &entry.value))
    }
}

/// Devices that are present and not carried over, and settings that change what the disks mean.
pub(super) fn left_out(dictionary: &Dictionary) -> Vec<LeftOut> {
    const DEVICES: [(&str, &str); 7] = [
        ("floppy", "a floppy drive"),
        ("serial", "a serial port"),
        ("parallel", "a parallel port"),
        ("sound", "a sound device"),
        ("pcipassthru", "a host PCI device"),
        ("sharedfolder", "a shared folder"),
        ("vtpm", "a TPM"),
    ];
    let mut found: Vec<LeftOut> = dictionary
        .entries()
        .filter_map(|(key, entry)| {
            let device = key.strip_suffix(".present")?;
            let name = device.trim_end_matches(|c: char| c.is_ascii_digit());
            let (_, what) = DEVICES.iter().find(|(prefix, _)| *prefix == name)?;
            dictionary.is_true(key).then(|| LeftOut {
                what: format!("{what} ({device})"),
                line: entry.line,
            })
        })
        .collect();
    found.extend(dictionary.entries().filter_map(|(key, entry)| {
        let shared = key.ends_with(".sharedbus") && !entry.value.eq_ignore_ascii_case("none")
            || key.ends_with(".sharing") && entry.value.eq_ignore_ascii_case("multi-writer");
        (shared && !entry.value.is_empty()).then(|| LeftOut {
            what: format!(
                "disks shared with other machines ({} = {})",
                entry.key, entry.value
            ),
            line: entry.line,
        })
    }));
    found.sort_by_key(|left_out| left_out.line);
    found
}
