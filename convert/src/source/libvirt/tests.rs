//! Domains as libvirt prints them, and every way in which one is refused.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rehost_block::{AllowedFolders, Kind, SameFolder};
use rehost_image::Format;

use super::*;
use crate::source::{Controller, Described, DiskMode, Firmware, NicModel};

const DOMAIN: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<!-- as virsh dumpxml prints it -->
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; mail</name>
  <uuid>564d9989-a721-910d-cc28-e2dbd54b2b8c</uuid>
  <memory unit='KiB'>2097153</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu placement='static' current='2'>8</vcpu>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <firmware>
      <feature enabled='no' name='enrolled-keys'/>
      <feature enabled='yes' name='secure-boot'/>
    </firmware>
    <nvram>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
  </os>
  <cpu mode='host-model'>
    <topology sockets='2' dies='1' cores='2' threads='2'/>
  </cpu>
  <devices>
    <disk type='file' device='cdrom'>
      <target dev='sdz' bus='sata'/>
      <source file='/isos/debian.iso'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='data.qcow2' index='2'/>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
      <transient/>
    </disk>
    <disk type='file'>
      <driver name='qemu' type='raw'/>
      <source file='root.qcow2'/>
      <target dev='sda' bus='scsi'/>
      <boot order='1'/>
      <address type='drive' controller='1' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='file' device='floppy'>
      <target dev='fda' bus='fdc'/>
    </disk>
    <controller type='scsi' index='0' model='lsilogic'/>
    <controller type='scsi' index='1' model='virtio-scsi'/>
    <interface type='bridge'>
      <mac address='52:54:00:AB:cd:01'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='network'>
      <source network='default'/>
      <model type='rtl8139'/>
    </interface>
    <interface type='hostdev'>
      <mac address='52:54:00:ab:cd:03'/>
    </interface>
    <tpm model='tpm-crb'/>
  </devices>
</domain>
"#;

/// A folder with the domain's disks; `text` becomes its XML.
fn domain(text: &str) -> (tempfile::TempDir, Result<Vm>) {
    let folder = tempfile::tempdir().unwrap();
    for disk in ["root.qcow2", "data.qcow2"] {
        fs::write(folder.path().join(disk), b"x").unwrap();
    }
    let path = folder.path().join("web.xml");
    fs::write(&path, text).unwrap();
    let vm = read(&path, &SameFolder);
    (folder, vm)
}

fn refused(text: &str) -> Error {
    domain(text).1.unwrap_err()
}

#[test]
fn a_domain_is_read_with_disks_in_boot_order_and_its_addresses() {
    let (folder, vm) = domain(DOMAIN);
    let vm = vm.unwrap();
    assert_eq!(
        (vm.name.as_str(), vm.described),
        ("web & mail", Described::Libvirt)
    );
    assert_eq!(vm.firmware, Firmware::EfiSecureBoot);
    assert_eq!((vm.vcpus.get(), vm.cores_per_socket.get()), (8, 4));
    assert_eq!(vm.memory_mib.get(), 2049, "rounded up");
    assert_eq!(
        vm.uuid.unwrap().to_string(),
        "564d9989-a721-910d-cc28-e2dbd54b2b8c"
    );
    let [root, data] = vm.disks.as_slice() else {
        panic!("{:?}", vm.disks)
    };
    let home = folder.path().canonicalize().unwrap();
    assert_eq!(root.path, home.join("root.qcow2"));
    assert_eq!((root.at.as_str(), root.line), ("sda", 34));
    // The driver is taken at its word: this file is raw, whatever its name or content say.
    assert_eq!(
        (root.controller, root.format),
        (Controller::VirtioScsi, Some(Format::Raw))
    );
    assert_eq!(
        (data.controller, data.format),
        (Controller::VirtioBlk, Some(Format::Qcow2))
    );
    assert_eq!(data.mode, DiskMode::IndependentNonpersistent);
    assert_eq!(vm.cdroms[0].image.as_deref(), Some("/isos/debian.iso"));
    let [first, second] = vm.nics.as_slice() else {
        panic!("{:?}", vm.nics)
    };
    assert_eq!(first.mac.as_deref(), Some("52:54:00:ab:cd:01"));
    assert_eq!(first.model, NicModel::Virtio);
    assert_eq!(first.guest_name.as_deref(), Some("enp1s0"));
    assert_eq!(first.network.as_deref(), Some("br0"));
    assert_eq!((second.number, &second.mac), (1, &None));
    assert_eq!(second.model, NicModel::Other("rtl8139".to_owned()));
    let left_out: Vec<&str> = vm.left_out.iter().map(|left| left.what.as_str()).collect();
    assert_eq!(
        left_out,
        ["a floppy drive", "a network card of the host's", "a TPM"]
    );
}

#[test]
fn cards_of_an_i440fx_are_named_after_their_slots() {
    let text = DOMAIN
        .replace("pc-q35-7.2", "pc-i440fx-7.2")
        .replace("bus='0x01' slot='0x00'", "bus='0x00' slot='0x03'");
    let vm = domain(&text).1.unwrap();
    assert_eq!(vm.nics[0].guest_name.as_deref(), Some("ens3"));
}

#[test]
fn a_disk_that_others_share_is_named_and_left_out() {
    let (_folder, vm) = domain(&DOMAIN.replace("<transient/>", "<shareable/>"));
    let vm = vm.unwrap();
    assert_eq!(vm.disks.len(), 1, "{:?}", vm.disks);
    let shared = "a disk shared with other machines";
    assert!(vm.left_out.iter().any(|left| left.what == shared));
}

#[test]
fn older_ways_to_say_uefi_are_understood() {
    let with = |os: &str| {
        let text = DOMAIN
            .replace("<os firmware='efi'>", "<os>")
            .replace("<feature enabled='yes' name='secure-boot'/>", "");
        let (_folder, vm) = domain(&text.replace("<nvram>", &format!("{os}<nvram>")));
        vm.unwrap().firmware
    };
    assert_eq!(with(""), Firmware::Bios);
    assert_eq!(
        with("<loader readonly='yes' type='pflash'>/x/OVMF_CODE.fd</loader>"),
        Firmware::Efi
    );
    assert_eq!(
        with("<loader readonly='yes' secure='yes' type='pflash'>/x/OVMF_CODE.fd</loader>"),
        Firmware::EfiSecureBoot
    );
    assert_eq!(
        with("<loader type='rom'>/x/OVMF.fd</loader>"),
        Firmware::Efi
    );
    assert_eq!(with("<loader>/x/bios.bin</loader>"), Firmware::Bios);
}

#[test]
fn a_block_device_is_opened_only_below_a_folder_that_is_allowed() {
    let text = DOMAIN
        .replace("<disk type='file'>", "<disk type='block'>")
        .replace("file='root.qcow2'", "dev='/dev/zero'");
    let (folder, vm) = domain(&text);
    let error = vm.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    for part in ["line 34", "sda is \"/dev/zero\"", "outside its folder"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let gate = AllowedFolders::new(["/dev".into()]).unwrap();
    let opened = read(&folder.path().join("web.xml"), &gate);
    // A character device is let through by the gate; whether it opens is the image's affair.
    if let Ok(vm) = opened {
        assert_eq!(vm.disks[0].path, Path::new("/dev/zero"));
    }
}

#[test]
fn a_missing_disk_is_named_with_its_file_and_line() {
    let error = refused(&DOMAIN.replace("root.qcow2", "lost.qcow2"));
    assert_eq!(error.kind(), Kind::Io);
    for part in [
        "web.xml: domain XML: line 34: sda is \"lost.qcow2\"",
        "No such file",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn what_cannot_be_moved_is_refused_by_name() {
    for (old, new, part) in [
        (">hvm<", ">xen<", "no full virtual machine"),
        (
            "arch='x86_64'",
            "arch='aarch64'",
            "processor that is not known",
        ),
        (
            "<disk type='file'>",
            "<disk type='network'>",
            "type 'network'",
        ),
        (
            "<disk type='file'>",
            "<disk type='volume'>",
            "type 'volume'",
        ),
        ("<disk type='file'>", "<disk type='nvme'>", "type 'nvme'"),
        (
            "<disk type='file'>",
            "<disk type='vhostuser'>",
            "type 'vhostuser'",
        ),
        ("type='raw'", "type='luks'", "is a luks"),
        ("bus='scsi'", "bus='xen'", "bus that is not known"),
        (
            "<source file='root.qcow2'/>",
            "<source file='root.qcow2'><slices/></source>",
            "part of a file",
        ),
    ] {
        let error = refused(&DOMAIN.replace(old, new));
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains("line "), "{error}");
    }
}

#[test]
fn one_wrong_element_gives_one_error_with_line_and_offset() {
    for (old, new, part) in [
        ("unit='KiB'>2097153", "unit='KiB'>much", "amount of memory"),
        ("unit='KiB'>2097153", "unit='KiB'>0", "amount of memory"),
        ("unit='KiB'>2097153", "unit='miles'>1", "amount of memory"),
        (
            "unit='KiB'>2097153",
            "unit='TiB'>18446744073709551615",
            "amount of memory",
        ),
        (">8</vcpu>", ">0</vcpu>", "count of processors"),
        ("564d9989-", "564d998-", "no UUID"),
        ("52:54:00:AB:cd:01", "52:54:00", "no MAC"),
        ("<target dev='sda' bus='scsi'/>", "", "no <target dev>"),
        ("<source file='root.qcow2'/>", "", "no <source>"),
        (
            "<source file='root.qcow2'/>",
            "<source dev='x'/>",
            "has no file",
        ),
    ] {
        let error = refused(&DOMAIN.replace(old, new));
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn files_that_are_no_domain_are_refused() {
    for text in [
        "",
        "KDMV",
        "<domain>",
        "<network><name>x</name></network>",
        "<domain><name>x</name></domain>",
        "<!DOCTYPE d [<!ENTITY a \"aa\">]><domain>&a;</domain>",
    ] {
        assert_eq!(refused(text).kind(), Kind::Corrupt, "{text}");
    }
    assert_eq!(refused(&" ".repeat(2 << 20)).kind(), Kind::Corrupt);
    let error = parse(b"<domain>\xff</domain>", Path::new("/x.xml"), &SameFolder).unwrap_err();
    assert_eq!(error.offset(), Some(8), "{error}");
}

#[test]
fn a_domain_that_this_program_writes_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    for (bus, controller, firmware) in [
        ("virtio-blk", Controller::VirtioBlk, Firmware::Bios),
        ("virtio-scsi", Controller::VirtioScsi, Firmware::Efi),
        ("sata", Controller::Ahci, Firmware::EfiSecureBoot),
    ] {
        let mut machine = crate::target::sample(bus, 2);
        machine.firmware = firmware;
        for (nth, disk) in machine.disks.iter_mut().enumerate() {
            disk.path = home.join(format!("disk{nth}"));
            disk.format = Format::Qcow2;
            fs::write(&disk.path, b"x").unwrap();
        }
        let xml = home.join("web.xml");
        fs::write(&xml, crate::target::libvirt::domain(&machine).unwrap()).unwrap();
        let vm = read(&xml, &SameFolder).unwrap();
        assert_eq!((vm.name, vm.uuid), (machine.name.clone(), machine.uuid));
        assert_eq!((vm.vcpus.get(), vm.cores_per_socket.get()), (4, 2));
        assert_eq!((vm.memory_mib.get(), vm.firmware), (1024, firmware));
        assert_eq!(vm.nics[0].mac, machine.nics[0].mac);
        for (read, written) in vm.disks.iter().zip(&machine.disks) {
            assert_eq!(
                (&read.path, read.format),
                (&written.path, Some(Format::Qcow2))
            );
            assert_eq!(read.controller, controller);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, Path::new("/nowhere/x.xml"), &SameFolder);
    }

    #[test]
    fn a_damaged_domain_never_panics(at in 0..DOMAIN.len(), byte in any::<u8>()) {
        let mut bytes = DOMAIN.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse(&bytes, Path::new("/nowhere/x.xml"), &SameFolder);
    }
}
