//! Every direction: from VMware, KVM and lone disks to VMware, KVM, Hyper-V and physical machines. Judged
//! by qemu-img, libvirt's schema, our own readers of what was written, and real boots on the hardware of the
//! target as far as QEMU has it.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{guest, have, judge, run};
use serde_json::Value;

const MAC: &str = "00:0c:29:2e:c0:31";

/// The guest `name`, where everything is here that judges it.
fn judged_guest(name: &str) -> Option<PathBuf> {
    let tools = ["qemu-img", "qemu-system-x86_64", "virt-xml-validate"];
    guest(name).filter(|_| tools.iter().all(|tool| have(tool)))
}

/// Migrates without a preflight, so that each machine is booted once, and gives the report.
fn migrated(source: &Path, to: &str, out: &Path, more: &[&str]) -> Value {
    let mut arguments: Vec<&OsStr> = vec!["migrate".as_ref(), source.as_ref()];
    arguments.extend(["--to", to, "--no-preflight", "--json", "-o"].map(OsStr::new));
    arguments.push(out.as_ref());
    arguments.extend(more.iter().map(OsStr::new));
    let report = run(arguments).exits(0).json();
    let file: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report, file);
    report
}

/// The machine that was booted had its only disks on `bus`, so what it reached it reached through them.
#[track_caller]
fn proven_on(report: &Value, bus: &str) {
    assert_eq!(report["ending"], "proven", "{report}");
    assert_eq!(report["proof"]["bus"], bus);
    assert_eq!(report["proof"]["verdict"]["stage"], "login");
}

/// The path that a report has at `key`.
fn path(report: &Value, key: &str) -> PathBuf {
    let found = report.pointer(key).and_then(Value::as_str);
    PathBuf::from(found.unwrap_or_else(|| panic!("no {key} in {report}")))
}

fn qemu_img_is_content(image: &Path, format: &str) {
    judge(
        Command::new("qemu-img")
            .args(["check", "-q", "-f", format])
            .arg(image),
    );
}

/// That a decision of the report says `part`.
#[track_caller]
fn decided(report: &Value, part: &str) {
    let decisions = report["decisions"].as_array().unwrap();
    let told = decisions
        .iter()
        .any(|decision| decision["what"].as_str().unwrap().contains(part));
    assert!(told, "nothing says {part:?} in {decisions:#?}");
}

#[test]
fn a_guest_boots_on_kvm_then_on_vmware_hardware_then_on_kvm_again() {
    let Some(guest) = judged_guest("tiny") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (kvm, vmware, back) = (
        folder.path().join("kvm"),
        folder.path().join("vmware"),
        folder.path().join("back"),
    );
    let mut machines = Vec::new();

    // What VMware has goes to KVM; what libvirt is given goes to VMware; and back from there.
    let report = migrated(&guest.join("guest.vmx"), "kvm", &kvm, &[]);
    proven_on(&report, "virtio-blk");
    machines.push(report["vm"].clone());

    let report = migrated(&kvm.join("guest.xml"), "vmware", &vmware, &[]);
    proven_on(&report, "pvscsi");
    assert_eq!(report["vm"]["described"], "libvirt");
    assert_eq!(report["vm"]["disks"][0]["controller"], "virtioblk");
    machines.push(report["vm"].clone());
    qemu_img_is_content(&vmware.join("guest.vmdk"), "vmdk");
    let vmx = path(&report, "/description");
    assert_eq!(vmx, vmware.join("guest.vmx"));

    let report = migrated(&vmx, "kvm", &back, &[]);
    proven_on(&report, "virtio-blk");
    assert_eq!(report["vm"]["described"], "vmx");
    assert_eq!(report["vm"]["disks"][0]["controller"], "pvscsi");
    machines.push(report["vm"].clone());
    // What the guest needs on either side it has by now.
    assert_eq!(report["plan"]["edits"], Value::Array(vec![]));
    judge(
        Command::new("virt-xml-validate")
            .arg(back.join("guest.xml"))
            .arg("domain"),
    );

    for machine in &machines {
        for key in ["name", "vcpus", "memory_mib", "uuid", "firmware"] {
            assert_eq!(machine[key], machines[0][key], "{key}");
        }
        assert_eq!(machine["nics"].as_array().unwrap().len(), 1);
        assert_eq!(machine["nics"][0]["mac"], MAC);
    }
}

#[test]
fn disks_without_a_description_become_a_machine_that_boots() {
    let Some(guest) = judged_guest("tiny") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (root, data) = (
        folder.path().join("sda.raw"),
        folder.path().join("sdb.vhdx"),
    );
    let vmdk = guest.join("guest.vmdk");
    run(["convert".as_ref(), vmdk.as_os_str(), root.as_os_str()]).exits(0);
    judge(
        Command::new("qemu-img")
            .args(["create", "-qf", "vhdx"])
            .arg(&data)
            .arg("64M"),
    );
    let out = folder.path().join("out");
    let report = migrated(
        &root,
        "kvm",
        &out,
        &[
            "--disk",
            data.to_str().unwrap(),
            "--memory=768",
            "--disk-bus=virtio-scsi",
        ],
    );
    proven_on(&report, "virtio-scsi");
    assert_eq!(report["vm"]["described"], "disks");
    assert_eq!(report["vm"]["firmware"], "bios");
    for part in [
        "started by BIOS",
        "2 processors",
        "768 MiB",
        "address (MAC) of",
    ] {
        decided(&report, part);
    }
    assert_eq!(report["machine"]["disks"].as_array().unwrap().len(), 2);
    let xml = path(&report, "/description");
    judge(Command::new("virt-xml-validate").arg(&xml).arg("domain"));
    let inspected = run(["inspect".as_ref(), xml.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    assert_eq!(inspected["vm"]["disks"].as_array().unwrap().len(), 2);
    assert_eq!(inspected["vm"]["nics"][0]["mac"], Value::Null);
    qemu_img_is_content(&path(&report, "/machine/disks/1/path"), "qcow2");
}

#[test]
fn a_guest_boots_from_nvme_and_from_the_ide_of_hyper_v_generation_1() {
    let Some(guest) = judged_guest("tiny") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (physical, hyperv) = (folder.path().join("nvme"), folder.path().join("hyperv"));
    let vmx = guest.join("guest.vmx");
    let report = migrated(&vmx, "physical", &physical, &["--disk-bus=nvme"]);
    proven_on(&report, "nvme");
    let note = fs::read_to_string(path(&report, "/description")).unwrap();
    for part in ["dd if=guest.raw of=/dev/sdX", "BIOS", MAC, "on: NVMe."] {
        assert!(note.contains(part), "{part} is missing in\n{note}");
    }
    // The image is the whole disk: what `dd` would write is what qemu-img finds in it.
    judge(
        Command::new("qemu-img")
            .args(["info", "-f", "raw"])
            .arg(physical.join("guest.raw")),
    );

    let report = migrated(&vmx, "hyperv", &hyperv, &[]);
    proven_on(&report, "ide");
    decided(&report, "hv_storvsc");
    qemu_img_is_content(&hyperv.join("guest.vhdx"), "vhdx");
    let script = fs::read_to_string(path(&report, "/description")).unwrap();
    for part in [
        "-Generation 1",
        "-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0",
        "(Join-Path $Images 'guest.vhdx')",
        "-StaticMacAddress '000C292EC031'",
    ] {
        assert!(script.contains(part), "{part} is missing in\n{script}");
    }
}

#[test]
fn a_uefi_guest_that_no_engine_can_boot_on_hyper_v_says_so_and_is_not_called_proven() {
    let Some(guest) = judged_guest("debian12-uefi") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let report = migrated(&guest.join("guest.vmx"), "hyperv", &out, &[]);
    assert_eq!(report["ending"], "unproven");
    assert_eq!(report["proof"], Value::Null);
    decided(
        &report,
        "no engine here has disks on Hyper-V's synthetic SCSI",
    );
    let script = fs::read_to_string(path(&report, "/description")).unwrap();
    assert!(script.contains("-Generation 2") && script.contains("-EnableSecureBoot Off"));
}

#[test]
fn a_guest_that_is_not_migrated_boots_and_is_not_reached_at_its_address() {
    let Some(guest) = judged_guest("debian12") else {
        return;
    };
    let vmx = guest.join("guest.vmx");
    let ran = run([
        "verify".as_ref(),
        vmx.as_os_str(),
        "--bus=pvscsi".as_ref(),
        "--nic=vmxnet3".as_ref(),
        "--check-network".as_ref(),
        "--json".as_ref(),
    ])
    .exits(3);
    // The card is the one it had, by model and address; the slot is another, and so is its name.
    let proof = ran.json();
    assert_eq!(proof["verdict"]["outcome"], "booted");
    assert_eq!(proof["network"]["cards"][0]["mac"], MAC);
    let answer = &proof["network"]["answers"][0];
    assert_eq!(
        (&answer["address"], &answer["interface"], &answer["card"]),
        (&"192.0.2.10".into(), &"ens192".into(), &Value::Null)
    );
    assert!(
        ran.stderr
            .contains("nobody answers for 192.0.2.10 (ens192)"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_guest_on_a_physical_machine_boots_from_sata_and_is_reached_at_its_address_on_the_new_card() {
    let Some(guest) = judged_guest("debian12") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let new = "3c:ec:ef:12:34:56";
    let report = migrated(
        &guest.join("guest.vmx"),
        "physical",
        &out,
        &["--check-network", "--mac", new],
    );
    proven_on(&report, "ahci");
    let network = &report["proof"]["network"];
    assert_eq!(network["cards"][0]["model"], "e1000e");
    assert_eq!(network["answers"][0]["address"], "192.0.2.10");
    assert_eq!(network["answers"][0]["card"], new, "{network}");
    let note = fs::read_to_string(path(&report, "/description")).unwrap();
    assert!(note.contains(&format!("{new}  called ens192")), "{note}");
}

/// Boots the stock kernel on `bus` of `target`, which the engine calls `engine`: some 40 s each, so only
/// where it is asked for.
fn stock_kernel(target: &str, bus: &str, engine: &str) {
    if std::env::var_os("REHOST_ALL_BUSES").is_none() {
        println!("skipped: needs REHOST_ALL_BUSES to be set");
        return;
    }
    let Some(guest) = judged_guest("debian12") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let chosen = format!("--disk-bus={bus}");
    let report = migrated(&guest.join("guest.vmx"), target, &out, &[&chosen]);
    proven_on(&report, engine);
}

macro_rules! stock_kernel_boots {
    ($($name:ident: $target:literal $bus:literal $engine:literal,)*) => {$(
        #[test]
        fn $name() {
            stock_kernel($target, $bus, $engine);
        }
    )*};
}

stock_kernel_boots! {
    a_stock_kernel_boots_on_nvme: "physical" "nvme" "nvme",
    a_stock_kernel_boots_on_megaraid: "physical" "megaraid" "megaraid",
    a_stock_kernel_boots_on_usb: "physical" "usb" "usb",
    a_stock_kernel_boots_on_lsi_sas: "vmware" "lsisas1068" "lsi-sas",
    a_stock_kernel_boots_on_ide: "hyperv" "ide" "ide",
    a_stock_kernel_boots_on_virtio_scsi: "kvm" "virtio-scsi" "virtio-scsi",
}

#[test]
fn a_domain_with_a_disk_elsewhere_needs_leave() {
    let folder = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let disk = away.path().join("disk.raw");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let xml = folder.path().join("guest.xml");
    let text = format!(
        "<domain type='kvm'><name>x</name><memory>524288</memory><os><type>hvm</type></os><devices>\
         <disk type='file'><source file='{}'/><target dev='vda'/></disk></devices></domain>",
        disk.display()
    );
    fs::write(&xml, text).unwrap();
    let out = folder.path().join("out");
    let migrate = |more: &[&OsStr]| {
        let mut arguments: Vec<&OsStr> = vec!["migrate".as_ref(), xml.as_ref()];
        arguments.extend(["--to", "kvm", "-o"].map(OsStr::new));
        arguments.push(out.as_ref());
        arguments.extend(more);
        run(arguments).exits(2)
    };
    migrate(&[]).says(&["vda is", "outside its folder", "--allow-path"]);
    migrate(&["--allow-path".as_ref(), away.path().as_ref()]).says(&["no operating system"]);
    assert!(!out.exists(), "something was written");
}

#[test]
fn the_description_of_the_source_is_spared_even_when_forced() {
    let Some(guest) = guest("tiny") else { return };
    let folder = tempfile::tempdir().unwrap();
    let xml = folder.path().join("web.xml");
    let text = format!(
        "<domain type='kvm'><name>web</name><memory>524288</memory><os><type>hvm</type></os><devices>\
         <disk type='file'><driver type='vmdk'/><source file='{}'/><target dev='sda' bus='sata'/></disk>\
         </devices></domain>",
        guest.join("guest.vmdk").display()
    );
    fs::write(&xml, &text).unwrap();
    let mut arguments: Vec<&OsStr> = vec!["migrate".as_ref(), xml.as_ref()];
    arguments.extend(["--to", "kvm", "--no-preflight", "--no-verify", "--force"].map(OsStr::new));
    arguments.extend(["--allow-path".as_ref(), guest.as_os_str(), "-o".as_ref()]);
    arguments.push(folder.path().as_ref());
    run(arguments)
        .exits(2)
        .says(&["web.xml", "belongs to the source"]);
    assert_eq!(fs::read_to_string(&xml).unwrap(), text);
    assert!(!folder.path().join("web.qcow2").exists());
}

#[test]
fn a_target_that_cannot_be_described_is_refused_before_anything_is_booted() {
    let Some(guest) = guest("tiny") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let vmx = guest.join("guest.vmx");
    for (to, bus, part) in [
        ("kvm", "nvme", "nvme"),
        ("hyperv", "nvme", "nvme"),
        ("hyperv", "storvsc", "generation 1"),
        ("vmware", "storvsc", "VMware has no disks on storvsc"),
    ] {
        run([
            "migrate".as_ref(),
            vmx.as_os_str(),
            "--to".as_ref(),
            to.as_ref(),
            "--disk-bus".as_ref(),
            bus.as_ref(),
            "-o".as_ref(),
            out.as_os_str(),
        ])
        .exits(2)
        .says(&[part]);
        assert!(!out.exists(), "something was written");
    }
}
