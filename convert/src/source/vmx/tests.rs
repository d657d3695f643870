//! Machines as VMware writes them, and every way in which one is refused.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rehost_block::{AllowedFolders, Kind, SameFolder};

use super::*;
use crate::source::{Controller, DiskMode, Firmware, NicModel};

const MACHINE: &str = r#"#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "Web |22front|22 |7c Zürich"
guestOS = "debian12-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
numvcpus = "4"
cpuid.coresPerSocket = "2"
memsize = "2048"
uuid.bios = "56 4d 99 89 a7 21 91 0d-cc 28 e2 db d5 4b 2b 8c"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "data.vmdk"
scsi0:1.mode = "independent-persistent"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "root.vmdk"
scsi0:0.present = "TRUE"
scsi0:0.redo = ""
scsi0:2.present = "FALSE"
scsi0:2.fileName = "gone.vmdk"
scsi1.present = "FALSE"
scsi1:0.present = "TRUE"
scsi1:0.fileName = "gone.vmdk"
sata0.present = "TRUE"
sata0:0.present = "TRUE"
sata0:0.fileName = "third.vmdk"
sata0:1.present = "TRUE"
sata0:1.deviceType = "cdrom-image"
sata0:1.fileName = "/vmfs/volumes/1/iso/debian.iso"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-raw"
ide1:0.fileName = "auto detect"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:4b:2b:8c"
ethernet0.pciSlotNumber = "192"
ethernet1.present = "TRUE"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:ac:cf:51"
ethernet1.generatedAddress = "00:0c:29:00:00:01"
ethernet1.pciSlotNumber = "-1"
ethernet2.present = "FALSE"
floppy0.present = "TRUE"
floppy0.fileName = "/dev/fd0"
nvram = "web.nvram"
"#;

/// A folder with the machine's disks; `text` becomes its VMX.
fn machine(text: &str) -> (tempfile::TempDir, Result<Vm>) {
    let folder = tempfile::tempdir().unwrap();
    for disk in ["root.vmdk", "data.vmdk", "third.vmdk"] {
        fs::write(folder.path().join(disk), b"x").unwrap();
    }
    let path = folder.path().join("web.vmx");
    fs::write(&path, text).unwrap();
    let vm = read(&path, &SameFolder);
    (folder, vm)
}

fn refused(text: &str) -> rehost_block::Error {
    machine(text).1.unwrap_err()
}

/// `MACHINE` with the line of `key` replaced.
fn with(key: &str, line: &str) -> String {
    let lines: Vec<&str> = MACHINE
        .lines()
        .map(|old| if old.starts_with(key) { line } else { old })
        .collect();
    lines.join("\n")
}

#[test]
fn a_machine_is_read_with_disks_in_boot_order_and_its_addresses() {
    let (folder, vm) = machine(MACHINE);
    let vm = vm.unwrap();
    assert_eq!(vm.name, "Web \"front\" | Zürich");
    assert_eq!(vm.firmware, Firmware::EfiSecureBoot);
    assert_eq!((vm.vcpus.get(), vm.cores_per_socket.get()), (4, 2));
    assert_eq!(vm.memory_mib.get(), 2048);
    assert_eq!(
        vm.uuid.unwrap().to_string(),
        "564d9989-a721-910d-cc28-e2dbd54b2b8c"
    );
    let disks: Vec<(String, &str)> = vm
        .disks
        .iter()
        .map(|disk| (disk.at.clone(), disk.named.as_str()))
        .collect();
    assert_eq!(
        disks,
        [
            ("scsi0:0".to_owned(), "root.vmdk"),
            ("scsi0:1".to_owned(), "data.vmdk"),
            ("sata0:0".to_owned(), "third.vmdk")
        ]
    );
    let home = folder.path().canonicalize().unwrap();
    assert_eq!(vm.disks[0].path, home.join("root.vmdk"));
    assert_eq!(
        (vm.disks[0].controller, vm.disks[0].line),
        (Controller::Pvscsi, 19)
    );
    assert_eq!(vm.disks[1].mode, DiskMode::IndependentPersistent);
    assert_eq!(vm.disks[2].controller, Controller::Ahci);
    let images: Vec<Option<&str>> = vm.cdroms.iter().map(|cd| cd.image.as_deref()).collect();
    assert_eq!(images, [Some("/vmfs/volumes/1/iso/debian.iso"), None]);
    let [first, second] = vm.nics.as_slice() else {
        panic!("{:?}", vm.nics)
    };
    assert_eq!(first.mac.as_deref(), Some("00:0c:29:4b:2b:8c"));
    assert_eq!(
        (&first.model, first.pci_slot),
        (&NicModel::Vmxnet3, Some(192))
    );
    assert_eq!(first.guest_name.as_deref(), Some("ens192"));
    assert_eq!(first.network.as_deref(), Some("VM Network"));
    assert_eq!(second.mac.as_deref(), Some("00:50:56:ac:cf:51"));
    assert_eq!(
        (&second.model, second.pci_slot),
        (&NicModel::Unspecified, None)
    );
    assert_eq!(vm.left_out.len(), 1);
    assert_eq!(vm.left_out[0].line, 48);
}

#[test]
fn the_order_of_the_firmware_decides_which_disk_is_first() {
    let (_folder, vm) = machine(&format!("{MACHINE}bios.hddOrder = \"sata0:0, scsi0:1\"\n"));
    let slots: Vec<String> = vm
        .unwrap()
        .disks
        .iter()
        .map(|disk| disk.at.clone())
        .collect();
    assert_eq!(slots, ["sata0:0", "scsi0:1", "scsi0:0"]);
}

#[test]
fn a_missing_disk_is_named_with_its_file_and_line() {
    let error = refused(&with(
        "scsi0:0.fileName",
        "scsi0:0.fileName = \"lost.vmdk\"",
    ));
    assert_eq!(error.kind(), Kind::Io);
    let text = error.to_string();
    for part in [
        "web.vmx: VMX: line 19: scsi0:0.fileName names \"lost.vmdk\"",
        "No such file",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_disk_outside_the_folder_is_refused_unless_it_is_allowed() {
    let away = tempfile::tempdir().unwrap();
    let disk = away.path().join("root.vmdk");
    fs::write(&disk, b"x").unwrap();
    let line = format!("scsi0:0.fileName = \"{}\"", disk.display());
    let (folder, vm) = machine(&with("scsi0:0.fileName", &line));
    let error = vm.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("outside its folder"), "{error}");
    assert!(error.to_string().contains("line 19"), "{error}");
    let gate = AllowedFolders::new([away.path().to_owned()]).unwrap();
    assert!(read(&folder.path().join("web.vmx"), &gate).is_ok());
}

#[test]
fn what_cannot_be_moved_is_refused_by_name() {
    for (key, line, part) in [
        ("nvram", "encryption.data = \"c2VjcmV0\"", "encrypted"),
        (
            "nvram",
            "encryption.keySafe = \"vmware:key/list\"",
            "encrypted",
        ),
        (
            "scsi0:0.deviceType",
            "scsi0:0.deviceType = \"scsi-passthru-rdm\"",
            "raw device map",
        ),
        (
            "scsi0:0.deviceType",
            "scsi0:0.deviceType = \"scsi-nonpassthru-rdm\"",
            "raw device map",
        ),
        (
            "scsi0:0.deviceType",
            "scsi0:0.deviceType = \"rawDisk\"",
            "physical disk",
        ),
        (
            "scsi0:0.redo",
            "scsi0:0.redo = \"root.vmdk.REDO_a1\"",
            "redo log",
        ),
        (
            "scsi0.virtualDev",
            "scsi0.virtualDev = \"weird\"",
            "controller that is not known",
        ),
        (
            "firmware",
            "firmware = \"coreboot\"",
            "firmware that is not known",
        ),
    ] {
        let error = refused(&with(key, line));
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains("line "), "{error}");
    }
}

#[test]
fn one_wrong_line_gives_one_error_with_line_and_offset() {
    for (key, line, part) in [
        ("memsize", "memsize = \"much\"", "no number"),
        ("memsize", "memsize = \"0\"", "amount of memory"),
        ("memsize", "# gone", "there is no memSize"),
        ("numvcpus", "numvcpus = \"0\"", "count of processors"),
        ("numvcpus", "numvcpus = \"99999999999\"", "no number"),
        ("uuid.bios", "uuid.bios = \"56 4d\"", "no UUID"),
        ("scsi0:0.fileName", "", "without a fileName"),
        ("scsi0:0.mode", "", ""),
        ("nvram", "nvram", "neither a comment"),
        ("nvram", "nvram = \"web", "quotes do not end"),
        ("nvram", "= \"web\"", "no key"),
        (
            "nvram",
            "memSize = \"4096\"",
            "another value than in line 11",
        ),
        ("ethernet1.address ", "ethernet1.address = \"zz\"", "no MAC"),
    ] {
        let changed = with(key, line);
        if part.is_empty() {
            assert!(machine(&changed).1.is_ok());
            continue;
        }
        let error = refused(&changed);
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(part), "{line}: {error}");
        if !line.starts_with('#') {
            assert!(error.offset().is_some(), "{error}");
        }
    }
}

#[test]
fn names_are_read_in_the_encoding_that_the_file_declares() {
    let text = b".encoding = \"windows-1252\"\ndisplayName = \"Z\xfcrich \x80\"\nmemSize = \"1\"\n";
    let vm = parse(text, Path::new("/x.vmx"), &SameFolder).unwrap();
    assert_eq!(vm.name, "Zürich €");
    let text = b".encoding = \"GBK\"\ndisplayName = \"plain\"\nmemSize = \"1\"\r\n";
    let vm = parse(text, Path::new("/x.vmx"), &SameFolder).unwrap();
    assert_eq!(vm.name, "plain");
    let text = b".encoding = \"GBK\"\ndisplayName = \"\xd6\xd0\"\nmemSize = \"1\"\n";
    let error = parse(text, Path::new("/x.vmx"), &SameFolder).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn files_that_are_no_vmx_are_refused() {
    for text in [
        "",
        "\n# only comments\n",
        "\u{0}\u{0}\u{0}",
        "KDMV",
        "<xml/>",
    ] {
        assert_eq!(refused(text).kind(), Kind::Corrupt, "{text}");
    }
    assert_eq!(refused(&"#".repeat(2 << 20)).kind(), Kind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, Path::new("/nowhere/x.vmx"), &SameFolder);
    }

    #[test]
    fn a_damaged_machine_never_panics(at in 0..MACHINE.len(), byte in any::<u8>()) {
        let mut bytes = MACHINE.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse(&bytes, Path::new("/nowhere/x.vmx"), &SameFolder);
    }
}
