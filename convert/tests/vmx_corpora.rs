//! VMX files of other projects, against what those projects recorded about them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use rehost::source::vmx::{Vm, read};
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
            .map(|(at, disk)| format!("{at} [{}]", disk.slot.bus.prefix()))
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
