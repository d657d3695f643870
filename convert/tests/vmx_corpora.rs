//! VMX files of other projects, against what those projects recorded about them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use rehost::source::{Firmware, Vm, vmx::read};
use rehost::target::{Form, GuestOs, NewDisk, NewMachine, NewNic};
use rehost_block::SameFolder;

fn corpora() -> Option<PathBuf> {
    let folder = std::env::var_os("REHOST_CORPORA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: needs REHOST_CORPORA");
    }
    folder
}

/// The machine, read beside empty files with the names of its disks.
fn machine(name: &str, disks: &[&str]) -> Option<(Vm, String)> {
    let folder = corpora()?.join("virt-v2v/tests");
    let here = tempfile::tempdir().unwrap();
    for disk in disks {
        fs::write(here.path().join(disk), b"").unwrap();
    }
    let vmx = here.path().join(format!("{name}.vmx"));
    fs::copy(folder.join(format!("{name}.vmx")), &vmx).unwrap();
    let expected = fs::read_to_string(folder.join(format!("{name}.expected"))).unwrap();
    Some((read(&vmx, &SameFolder).unwrap(), expected))
}

/// `key: value` of the recorded answer.
fn recorded<'a>(expected: &'a str, key: &str) -> &'a str {
    let line = expected
        .lines()
        .find_map(|line| line.trim().strip_prefix(key));
    line.unwrap().trim_start_matches(':').trim()
}

#[test]
fn machines_of_virt_v2v_are_read_as_it_reads_them() {
    for (name, disks) in [
        ("test-i-vmx-3", ["RHEL-7.1-UEFI.vmdk"].as_slice()),
        ("test-i-vmx-4", &["Windows-7-x64.vmdk"]),
        ("test-i-vmx-6", &["nvme-disk.vmdk"]),
        ("test-i-vmx-7", &["win2019.vmdk", "win2019_1.vmdk"]),
    ] {
        let Some((vm, expected)) = machine(name, disks) else {
            return;
        };
        assert_eq!(vm.name, recorded(&expected, "source name"));
        assert_eq!(vm.vcpus.to_string(), recorded(&expected, "nr vCPUs"));
        let bytes = format!("{} (bytes)", vm.memory_mib.get() << 20);
        assert_eq!(bytes, recorded(&expected, "memory"));
        let firmware = if format!("{:?}", vm.firmware).starts_with("Efi") {
            "uefi"
        } else {
            "bios"
        };
        assert_eq!(firmware, recorded(&expected, "firmware"));
        let secure = format!("{:?}", vm.firmware) == "EfiSecureBoot";
        assert_eq!(secure.to_string(), recorded(&expected, "UEFI secureboot"));
        let buses: Vec<String> = vm
            .disks
            .iter()
            .enumerate()
            .map(|(at, disk)| {
                let bus = disk.at.split(|c: char| c.is_ascii_digit()).next();
                format!("{at} [{}]", bus.unwrap())
            })
            .collect();
        let listed: Vec<&str> = expected
            .lines()
            .skip_while(|line| !line.starts_with("disks:"))
            .skip(1)
            .take_while(|line| line.starts_with('\t'))
            .map(str::trim)
            .collect();
        let listed: Vec<String> = listed
            .iter()
            .map(|line| line.replace("virtio-scsi", "scsi"))
            .collect();
        assert_eq!(buses, listed, "{name}");
        for nic in &vm.nics {
            assert!(expected.contains(&format!("mac: {}", nic.mac.as_ref().unwrap())));
            assert!(expected.contains(nic.network.as_ref().unwrap()));
        }
        let named: Vec<&str> = vm.disks.iter().map(|disk| disk.named.as_str()).collect();
        assert_eq!(named, disks);
    }
}

/// Keys and values of a VMX, the numbers of its devices left out of the keys.
fn settings(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, value)| {
            let (device, rest) = key.split_once('.').unwrap_or((key, ""));
            let device: String = device
                .chars()
                .map(|c| if c.is_ascii_digit() { '#' } else { c })
                .collect();
            let key = format!("{device}.{rest}").to_ascii_lowercase();
            (key, value.trim().trim_matches('"').to_owned())
        })
        .collect()
}

/// What VMware's products did not happen to write into the corpora's machines, and who documents it.
const ELSEWHERE: [&str; 4] = [
    // libvirt, "VMware ESX hypervisor driver", MAC addresses and virtual CPUs
    "ethernet#.address",
    "ethernet#.checkmacaddress",
    "cpuid.corespersocket",
    // VMware, "Configure a virtual machine to keep the same UUID"
    "uuid.action",
];

#[test]
fn every_key_of_a_written_vmx_is_one_that_vmware_writes() {
    let Some(folder) = corpora() else { return };
    let mut known = Vec::new();
    for entry in fs::read_dir(folder.join("virt-v2v/tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix == "vmx") {
            known.extend(settings(&fs::read_to_string(path).unwrap()));
        }
    }
    assert!(known.len() > 300, "the corpora's machines are not there");
    let mut seen = 0;
    for (bus, firmware) in [
        ("pvscsi", Firmware::Bios),
        ("lsilogic", Firmware::Efi),
        ("lsisas1068", Firmware::EfiSecureBoot),
        ("sata", Firmware::Bios),
        ("nvme", Firmware::Bios),
        ("ide", Firmware::Bios),
    ] {
        let machine = NewMachine {
            name: "web".to_owned(),
            uuid: Some("564d3c5a-8f1e-4270-9b06-d1a4772ec031".parse().unwrap()),
            memory_mib: 1024,
            vcpus: 2,
            cores_per_socket: 1,
            firmware,
            bus,
            prepared_for: Vec::new(),
            disks: vec![
                NewDisk {
                    path: "/out/web.vmdk".into(),
                    format: "vmdk".parse().unwrap(),
                    size: 1 << 30,
                };
                3
            ],
            nics: vec![
                NewNic {
                    number: 0,
                    mac: Some("00:0c:29:2e:c0:31".to_owned()),
                    guest_name: None,
                },
                NewNic {
                    number: 1,
                    mac: None,
                    guest_name: None,
                },
            ],
            guest: GuestOs {
                id: "rhel".to_owned(),
                version: Some(8),
                wide: true,
                vmware: None,
            },
        };
        let text = Form::Vmx.write(&machine).unwrap();
        for (key, value) in settings(&text) {
            // An IDE disk has the keys of the corpora's IDE drives, less their kind.
            let there = known.iter().any(|(other, _)| *other == key);
            assert!(there || ELSEWHERE.contains(&key.as_str()), "{key}");
            // Words, of which VMware has some only, are those that it writes.
            let word = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphabetic());
            let free = ["displayname.", "nvram.", "firmware."].contains(&key.as_str());
            if word && there && !free && !key.ends_with(".virtualdev") && !key.ends_with("type") {
                let same = |(other, theirs): &(String, String)| *other == key && *theirs == value;
                assert!(known.iter().any(same), "{key} = {value}");
            }
            seen += 1;
        }
    }
    assert!(seen > 200);
}
