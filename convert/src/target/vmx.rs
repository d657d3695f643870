//! The VMX of a migrated guest, for VMware ESXi 7.0 U2 and later, Workstation 16.2 and Fusion 12.2.
//!
//! There is no public specification: keys and values are those that VMware's own products write, as
//! seen in the machines of the test corpora, and three more that libvirt's "VMware ESX hypervisor
//! driver" documents (`address`, `checkMACAddress`, `cpuid.coresPerSocket`) and one of VMware's
//! documentation (`uuid.action`). Left out on purpose: CD-ROM drives, USB, sound and the like, and the
//! name of the network, which is ESXi's usual one because the source's means nothing there.

use std::fmt::Write;

use rehost_block::{Error, Result};

use super::{GuestOs, NewMachine};
use crate::source::Firmware;

/// `virtualHW.version`: what ESXi 7.0 U2 and later run.
const HARDWARE: &str = "19";

/// The slots that VMware gives its first devices behind PCI Express bridges; Linux calls a network card
/// in slot 192 `ens192`.
const CONTROLLER_SLOT: u32 = 160;
const NIC_SLOTS: [u32; 3] = [192, 224, 256];

/// Network cards of one machine (VMware's configuration maximums of vSphere 7.0).
pub(super) const MOST_CARDS: usize = 10;

/// A kind of controller, as VMware's keys have it.
struct Controller {
    /// How its keys begin.
    prefix: &'static str,
    /// `virtualDev`.
    model: Option<&'static str>,
    /// Disks that one takes, and how many there may be of it.
    disks: usize,
    most: usize,
}

/// What the keys for `bus` are.
fn controller(bus: &str) -> Result<Controller> {
    let scsi = |model| Controller {
        prefix: "scsi",
        model: Some(model),
        disks: 15,
        most: 4,
    };
    let plain = |prefix, disks, most| Controller {
        prefix,
        model: None,
        disks,
        most,
    };
    match bus {
        "pvscsi" => Ok(scsi("pvscsi")),
        "lsilogic" => Ok(scsi("lsilogic")),
        "lsisas1068" => Ok(scsi("lsisas1068")),
        "sata" => Ok(plain("sata", 30, 4)),
        "nvme" => Ok(plain("nvme", 15, 4)),
        "ide" => Ok(plain("ide", 2, 2)),
        _ => Err(Error::unsupported(format!(
            "a VMware machine has no disks on {bus}"
        ))),
    }
}

/// Refuses what cannot be described.
pub(super) fn check(bus: &str, disks: usize) -> Result<()> {
    let Controller {
        disks: each, most, ..
    } = controller(bus)?;
    if disks > each * most {
        return Err(Error::unsupported(format!(
            "a VMware machine has no room for so many disks on {bus}"
        ))
        .mismatch(format!("at most {}", each * most), disks));
    }
    Ok(())
}

/// The keys in order.
#[derive(Default)]
struct Keys(String);

impl Keys {
    fn add(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) {
        let mut escaped = String::new();
        for c in value.as_ref().chars() {
            // As VMware writes what would end the value or the line.
            if matches!(c, '"' | '|') || c.is_ascii_control() {
                // Writing to a string does not fail.
                let _ = write!(escaped, "|{:02X}", u32::from(c));
            } else {
                escaped.push(c);
            }
        }
        let _ = writeln!(self.0, "{} = \"{escaped}\"", key.as_ref());
    }
}

/// The machine as VMware reads it.
///
/// # Errors
/// Unsupported for buses that VMware's machines do not have, and for more disks than they take.
pub fn vmx(machine: &NewMachine) -> Result<String> {
    check(machine.bus, machine.disks.len())?;
    let mut keys = Keys::default();
    keys.add(".encoding", "UTF-8");
    keys.add("config.version", "8");
    keys.add("virtualHW.version", HARDWARE);
    keys.add("displayName", &machine.name);
    keys.add("guestOS", guest_os(&machine.guest));
    match machine.firmware {
        Firmware::Bios => keys.add("firmware", "bios"),
        Firmware::Efi | Firmware::EfiSecureBoot => keys.add("firmware", "efi"),
    }
    if machine.firmware == Firmware::EfiSecureBoot {
        keys.add("uefi.secureBoot.enabled", "TRUE");
    }
    keys.add("numvcpus", machine.vcpus.to_string());
    keys.add("cpuid.coresPerSocket", machine.cores_per_socket.to_string());
    // VMware gives memory in steps of 4 MiB.
    keys.add(
        "memSize",
        machine.memory_mib.next_multiple_of(4).to_string(),
    );
    if let Some(uuid) = machine.uuid {
        let hex: Vec<String> = uuid
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let (first, last) = hex.split_at(8);
        keys.add(
            "uuid.bios",
            format!("{}-{}", first.join(" "), last.join(" ")),
        );
        // Without it VMware asks whether the machine was copied, and makes new ones if so.
        keys.add("uuid.action", "keep");
    }
    keys.add("nvram", format!("{}.nvram", machine.name));
    for (key, value) in [
        ("vmci0.present", "TRUE"),
        ("hpet0.present", "TRUE"),
        ("svga.present", "TRUE"),
        ("floppy0.present", "FALSE"),
        ("powerType.powerOff", "soft"),
        ("powerType.suspend", "soft"),
        ("powerType.reset", "soft"),
        ("tools.syncTime", "FALSE"),
        ("pciBridge0.present", "TRUE"),
    ] {
        keys.add(key, value);
    }
    for bridge in 4..8 {
        keys.add(format!("pciBridge{bridge}.present"), "TRUE");
        keys.add(format!("pciBridge{bridge}.virtualDev"), "pcieRootPort");
        keys.add(format!("pciBridge{bridge}.functions"), "8");
    }
    add_disks(&mut keys, machine)?;
    add_nics(&mut keys, machine);
    Ok(keys.0)
}

fn add_disks(keys: &mut Keys, machine: &NewMachine) -> Result<()> {
    let Controller {
        prefix,
        model,
        disks,
        ..
    } = controller(machine.bus)?;
    for (nth, disk) in machine.disks.iter().enumerate() {
        let (number, unit) = (nth / disks, nth % disks);
        // IDE is always there.
        if unit == 0 && prefix != "ide" {
            keys.add(format!("{prefix}{number}.present"), "TRUE");
            if let Some(model) = model {
                keys.add(format!("{prefix}{number}.virtualDev"), model);
            }
            if number == 0 && prefix == "scsi" {
                let slot = CONTROLLER_SLOT.to_string();
                keys.add(format!("{prefix}0.pciSlotNumber"), slot);
            }
        }
        // Unit 7 of a SCSI bus is the controller's own.
        let unit = if prefix == "scsi" && unit >= 7 {
            unit + 1
        } else {
            unit
        };
        let at = format!("{prefix}{number}:{unit}");
        keys.add(format!("{at}.present"), "TRUE");
        keys.add(format!("{at}.fileName"), disk.name());
        if prefix == "scsi" {
            keys.add(format!("{at}.deviceType"), "scsi-hardDisk");
        }
    }
    Ok(())
}

fn add_nics(keys: &mut Keys, machine: &NewMachine) {
    for (nth, nic) in machine.nics.iter().enumerate() {
        let mut add = |name: &str, value: &str| keys.add(format!("ethernet{nth}.{name}"), value);
        add("present", "TRUE");
        add("virtualDev", "vmxnet3");
        add("networkName", "VM Network");
        if let Some(slot) = NIC_SLOTS.get(nth) {
            add("pciSlotNumber", &slot.to_string());
        }
        match &nic.mac {
            None => add("addressType", "generated"),
            Some(mac) => {
                add("addressType", "static");
                add("address", mac);
                if !is_free_to_choose(mac) {
                    add("checkMACAddress", "FALSE");
                }
            }
        }
    }
}

/// Whether VMware lets users choose `mac`: from 00:50:56:00:00:00 to 00:50:56:3f:ff:ff. Any other is
/// taken only where it is told not to check.
fn is_free_to_choose(mac: &str) -> bool {
    let fourth = mac
        .get(9..11)
        .and_then(|byte| u8::from_str_radix(byte, 16).ok());
    mac.to_ascii_lowercase().starts_with("00:50:56:") && fourth.is_some_and(|byte| byte <= 0x3f)
}

/// VMware's name for the guest: of what hardware version 19 knows, the nearest that is not newer.
fn guest_os(guest: &GuestOs) -> String {
    if let Some(vmware) = &guest.vmware {
        return vmware.clone();
    }
    // The oldest and newest release that has a name of its own.
    let numbered = |name: &str, oldest: u32, newest: u32| {
        let version = guest.version.unwrap_or(newest).clamp(oldest, newest);
        format!("{name}{version}")
    };
    let name = match guest.id.as_str() {
        "debian" => numbered("debian", 4, 11),
        "ubuntu" => "ubuntu".to_owned(),
        "rhel" => numbered("rhel", 4, 9),
        // CentOS 6 and before have a name without a number.
        "centos" if guest.version.is_some_and(|version| version < 6) => "centos".to_owned(),
        "centos" => numbered("centos", 6, 9),
        "ol" if guest.version.is_some_and(|version| version < 6) => "oraclelinux".to_owned(),
        "ol" => numbered("oraclelinux", 6, 9),
        "rocky" => "rockylinux".to_owned(),
        "almalinux" => "almalinux".to_owned(),
        "fedora" => "fedora".to_owned(),
        "sles" | "sled" => numbered("sles", 10, 15),
        "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => "opensuse".to_owned(),
        "amzn" => numbered("amazonlinux", 2, 3),
        "" => "other".to_owned(),
        _ => "otherlinux".to_owned(),
    };
    if guest.wide {
        format!("{name}-64")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rehost_block::SameFolder;

    use super::super::machine::sample;
    use super::*;
    use crate::source;

    #[test]
    fn what_is_written_is_what_our_reader_reads() {
        for (bus, at) in [
            ("pvscsi", ["scsi0:0", "scsi0:8", "scsi1:0"]),
            ("lsilogic", ["scsi0:0", "scsi0:8", "scsi1:0"]),
            ("lsisas1068", ["scsi0:0", "scsi0:8", "scsi1:0"]),
            ("sata", ["sata0:0", "sata0:7", "sata0:15"]),
            ("nvme", ["nvme0:0", "nvme0:7", "nvme1:0"]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut machine = sample(bus, 16);
            machine.name = "a \"name\" | ü\n".to_owned();
            for disk in &machine.disks {
                std::fs::write(folder.path().join(disk.name()), b"x").unwrap();
            }
            let text = vmx(&machine).unwrap();
            let path = folder.path().join("web.vmx");
            std::fs::write(&path, &text).unwrap();
            let read = source::vmx::read(&path, &SameFolder).unwrap();
            assert_eq!(read.name, machine.name);
            assert_eq!(read.uuid, machine.uuid);
            assert_eq!(read.hardware_version, Some(19));
            assert_eq!((read.vcpus.get(), read.cores_per_socket.get()), (4, 2));
            assert_eq!(read.memory_mib.get(), 1024);
            assert_eq!(read.firmware, machine.firmware);
            assert_eq!(read.guest_os.as_deref(), Some("debian11-64"));
            assert_eq!(read.nics[0].mac, machine.nics[0].mac);
            assert_eq!(read.nics[0].guest_name.as_deref(), Some("ens192"));
            assert_eq!(read.nics[0].model, source::NicModel::Vmxnet3);
            for (nth, at) in [(0, at[0]), (7, at[1]), (15, at[2])] {
                assert_eq!(read.disks[nth].at, at, "{text}");
                assert_eq!(read.disks[nth].named, machine.disks[nth].name());
            }
        }
    }

    #[test]
    fn a_uefi_machine_says_so() {
        let mut machine = sample("pvscsi", 0);
        machine.firmware = Firmware::EfiSecureBoot;
        let text = vmx(&machine).unwrap();
        let read = source::vmx::parse(text.as_bytes(), Path::new("/x.vmx"), &SameFolder).unwrap();
        assert_eq!(read.firmware, Firmware::EfiSecureBoot);
    }

    #[test]
    fn an_address_that_vmware_would_check_is_said_to_be_meant() {
        let mut machine = sample("pvscsi", 0);
        for (mac, checked) in [
            ("00:50:56:3f:00:01", true),
            ("00:50:56:40:00:01", false),
            ("00:0c:29:00:00:01", false),
            ("52:54:00:00:00:01", false),
        ] {
            machine.nics[0].mac = Some(mac.to_owned());
            let text = vmx(&machine).unwrap();
            assert!(text.contains(&format!("ethernet0.address = \"{mac}\"")));
            assert_eq!(!text.contains("checkMACAddress"), checked, "{mac}");
        }
    }

    #[test]
    fn guests_have_the_name_that_is_nearest() {
        let name = |id: &str, version: Option<u32>, wide| {
            guest_os(&GuestOs {
                id: id.to_owned(),
                version,
                wide,
                vmware: None,
            })
        };
        assert_eq!(name("debian", Some(13), true), "debian11-64");
        assert_eq!(name("debian", Some(10), false), "debian10");
        assert_eq!(name("rhel", Some(8), true), "rhel8-64");
        assert_eq!(name("centos", Some(5), true), "centos-64");
        assert_eq!(name("amzn", Some(2023), true), "amazonlinux3-64");
        assert_eq!(name("alpine", Some(3), true), "otherlinux-64");
        assert_eq!(name("", None, true), "other-64");
    }

    #[test]
    fn what_vmware_does_not_have_is_refused_by_name() {
        for (bus, disks, part) in [
            ("storvsc", 1, "storvsc"),
            ("ide", 5, "so many disks on ide"),
        ] {
            let error = vmx(&sample(bus, disks)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
