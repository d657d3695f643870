//! The whole path on the sample VMware guest, judged by qemu-img, e2fsck, libvirt's schema and a
//! real boot.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{guest, hashes, have, judge, rehost, run};
use serde_json::Value;

/// Every judge the tests of this file call.
const JUDGES: [&str; 5] = [
    "qemu-img",
    "qemu-system-x86_64",
    "e2fsck",
    "virt-xml-validate",
    "sfdisk",
];

fn here() -> bool {
    JUDGES.iter().all(|tool| have(tool))
}

/// The first partition of an image as a file of its own, taken out by qemu-img.
fn first_partition(image: &Path, folder: &Path) -> PathBuf {
    let raw = folder.join("whole.raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(image)
            .arg(&raw),
    );
    let table: Value =
        serde_json::from_str(&judge(Command::new("sfdisk").arg("-J").arg(&raw))).unwrap();
    let start = table["partitiontable"]["partitions"][0]["start"]
        .as_u64()
        .unwrap();
    let part = folder.join("part.raw");
    judge(
        Command::new("dd")
            .args(["bs=1M", "conv=sparse", "status=none", "iflag=skip_bytes"])
            .arg(format!("skip={}", start * 512))
            .arg(format!("if={}", raw.display()))
            .arg(format!("of={}", part.display())),
    );
    fs::remove_file(raw).unwrap();
    part
}

#[test]
fn a_vmware_guest_becomes_a_proven_kvm_guest() {
    let Some(guest) = guest("debian12").filter(|_| here()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let before = hashes(&guest);

    let vmx = guest.join("guest.vmx");
    let migrated = run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to".as_ref(),
        "kvm".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
        "--check-network".as_ref(),
        "--json".as_ref(),
    ])
    .exits(0);
    assert_eq!(hashes(&guest), before, "the source was changed");

    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["guest.qcow2", "guest.xml", "report.json"]);

    // The report on disk is the one on standard output, and holds both boots.
    let report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report, migrated.json());
    assert_eq!(report["ending"], "proven");
    for boot in ["preflight", "proof"] {
        let verdict = &report[boot]["verdict"];
        assert_eq!(verdict["outcome"], "booted", "{boot}");
        assert!(
            verdict["line"].as_str().unwrap().contains("login:"),
            "{boot}: {verdict}"
        );
        assert_eq!(report[boot]["bus"], "virtio-blk");
        // It is reached where it always was, on a card of another model in another slot.
        let network = &report[boot]["network"];
        assert_eq!(network["cards"][0]["model"], "virtio-net");
        assert_eq!(network["answers"][0]["interface"], "ens192");
        assert_eq!(network["answers"][0]["address"], "192.0.2.10");
        assert_eq!(
            network["answers"][0]["card"], "00:0c:29:2e:c0:31",
            "{network}"
        );
        assert!(
            report[boot]["command_line"]
                .as_str()
                .unwrap()
                .contains("console=ttyS0")
        );
        let seen = verdict["milestones"].as_array().unwrap();
        assert!(
            seen.iter()
                .any(|milestone| milestone["id"] == "disk-virtio-blk"),
            "{seen:?}"
        );
    }

    // The image, by qemu-img; the filesystem that was edited, by e2fsck.
    let image = out.join("guest.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&image),
    );
    let part = first_partition(&image, folder.path());
    judge(Command::new("e2fsck").arg("-fn").arg(&part));

    // The domain, by libvirt's schema; the machine's facts in it.
    let domain = out.join("guest.xml");
    judge(Command::new("virt-xml-validate").arg(&domain).arg("domain"));
    let xml = fs::read_to_string(&domain).unwrap();
    for part in [
        "<memory unit=\"MiB\">1024</memory>",
        "<vcpu>2</vcpu>",
        "<mac address=\"00:0c:29:2e:c0:31\"/>",
        "564d3c5a-8f1e-4270-9b06-d1a4772ec031",
        "bus=\"virtio\"",
        "type=\"qcow2\"",
    ] {
        assert!(xml.contains(part), "{part} is missing in\n{xml}");
    }
    assert!(
        !xml.contains("firmware=\"efi\""),
        "a BIOS machine stays one"
    );

    // The proof's console is not left in the guest.
    let grub = run([
        "cat".as_ref(),
        image.as_os_str(),
        "/boot/grub/grub.cfg".as_ref(),
    ])
    .exits(0);
    assert!(!grub.stdout.contains("ttyS0"), "{}", grub.stdout);

    // What is done is done: there is nothing left to edit.
    let again = run([
        "inject".as_ref(),
        image.as_os_str(),
        "--dry-run".as_ref(),
        "--json".as_ref(),
    ])
    .exits(0);
    assert_eq!(
        again.json()["plan"]["edits"],
        Value::Array(vec![]),
        "{}",
        again.stdout
    );
}

#[test]
fn a_guest_that_names_its_devices_by_path_boots_on_virtio() {
    let Some(guest) = guest("tiny").filter(|_| here()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let vmx = guest.join("guest.vmx");
    run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(0);
    let image = out.join("guest.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&image),
    );
    let part = first_partition(&image, folder.path());
    judge(Command::new("e2fsck").arg("-fn").arg(&part));
    for file in ["/etc/fstab", "/boot/grub/grub.cfg", "/etc/default/grub"] {
        let text = run(["cat".as_ref(), image.as_os_str(), file.as_ref()])
            .exits(0)
            .stdout;
        let names = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        assert!(
            !names.clone().any(|line| line.contains("/dev/sda")),
            "{file}:\n{text}"
        );
        assert!(
            names.clone().any(|line| line.contains("UUID=")),
            "{file}:\n{text}"
        );
    }
}

#[test]
fn the_unedited_guest_fails_on_virtio_with_the_line_that_decided() {
    let Some(guest) = guest("debian12").filter(|_| here()) else {
        return;
    };
    let vmx = guest.join("guest.vmx");
    let ran = run(["verify".as_ref(), vmx.as_os_str(), "--json".as_ref()]).exits(3);
    let verdict = &ran.json()["verdict"];
    assert_eq!(verdict["outcome"], "failed");
    assert!(
        verdict["line"].as_str().unwrap().contains("(initramfs)"),
        "{verdict}"
    );
    assert!(ran.stderr.contains("(initramfs)"), "{}", ran.stderr);
}

#[test]
fn the_unedited_guest_boots_on_the_hardware_it_comes_from() {
    let Some(guest) = guest("debian12").filter(|_| here()) else {
        return;
    };
    let vmx = guest.join("guest.vmx");
    run([
        "verify".as_ref(),
        vmx.as_os_str(),
        "--bus".as_ref(),
        "pvscsi".as_ref(),
    ])
    .exits(0);
}

#[test]
fn a_stream_optimized_vm_is_edited_and_written_too() {
    let Some(guest) = guest("debian12").filter(|_| here()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // The two samples are one disk in two encodings.
    let (sparse, stream) = (guest.join("guest.vmdk"), guest.join("guest-stream.vmdk"));
    run(["compare".as_ref(), sparse.as_os_str(), stream.as_os_str()]).exits(0);

    let out = folder.path().join("out");
    let vmx = guest.join("guest-stream.vmx");
    run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "--no-verify".as_ref(),
        "--compress=zstd:1".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(0);
    let report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["ending"], "unproven");
    let image = PathBuf::from(report["disks"][0]["path"].as_str().unwrap());
    judge(
        Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&image),
    );
    let part = first_partition(&image, folder.path());
    judge(Command::new("e2fsck").arg("-fn").arg(&part));

    // Outside of what the ledger lists, the written disk is the source's.
    let raw = folder.path().join("source.raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(&stream)
            .arg(&raw),
    );
    let written = folder.path().join("written.raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(&image)
            .arg(&written),
    );
    let files = report["ledger"]["files"].as_array().unwrap();
    let listed: Vec<(u64, u64)> = files
        .iter()
        .flat_map(|file| file["ranges"].as_array().unwrap())
        .map(|range| {
            (
                range["start"].as_u64().unwrap(),
                range["end"].as_u64().unwrap(),
            )
        })
        .collect();
    let changed = differing_blocks(&raw, &written);
    assert!(!changed.is_empty());
    for at in changed {
        assert!(
            listed
                .iter()
                .any(|(start, end)| at < *end && at + 512 > *start),
            "byte {at} was changed, and the ledger does not say so"
        );
    }
}

/// Offsets of the 512-byte blocks that differ between two files of one length.
fn differing_blocks(a: &Path, b: &Path) -> Vec<u64> {
    use std::io::Read;
    let (mut a, mut b) = (fs::File::open(a).unwrap(), fs::File::open(b).unwrap());
    assert_eq!(a.metadata().unwrap().len(), b.metadata().unwrap().len());
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offsets = Vec::new();
    let mut at = 0;
    loop {
        let len = a.read(&mut ours).unwrap();
        if len == 0 {
            return offsets;
        }
        b.read_exact(&mut theirs[..len]).unwrap();
        if ours[..len] != theirs[..len] {
            for (nth, (x, y)) in ours[..len]
                .chunks(512)
                .zip(theirs[..len].chunks(512))
                .enumerate()
            {
                if x != y {
                    offsets.push(at + nth as u64 * 512);
                }
            }
        }
        at += len as u64;
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let Some(guest) = guest("debian12") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let vmx = guest.join("guest.vmx");
    let plan = || {
        run([
            "migrate".as_ref(),
            vmx.as_os_str(),
            "--to=kvm".as_ref(),
            "--dry-run".as_ref(),
            "--json".as_ref(),
            "-o".as_ref(),
            out.as_os_str(),
        ])
        .exits(0)
    };
    let first = plan();
    assert!(!out.exists());
    assert_eq!(first.json()["ending"], "planned");
    let edits = first.json()["plan"]["edits"].clone();
    assert!(!edits.as_array().unwrap().is_empty());
    assert_eq!(
        edits,
        plan().json()["plan"]["edits"],
        "the same guest, the same plan"
    );
    let shown = run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "--dry-run".as_ref(),
        "--quiet".as_ref(),
    ])
    .exits(0);
    assert!(shown.stdout.contains("adds modules"), "{}", shown.stdout);
    assert_eq!(shown.stderr, "");
}

#[test]
fn a_boot_that_is_interrupted_is_no_verdict_about_the_guest() {
    let Some(guest) = guest("tiny").filter(|_| have("qemu-system-x86_64")) else {
        return;
    };
    let mut child = rehost()
        .args(["verify", "--engine=qemu", "--show-serial"])
        .arg(guest.join("guest.vmx"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).split(b'\n');
    // The kernel's first line: the guest runs.
    let is_kernel = |line: &[u8]| line.windows(13).any(|part| part == b"Linux version");
    assert!(lines.any(|line| is_kernel(&line.unwrap())));
    judge(Command::new("kill").arg("-INT").arg(child.id().to_string()));
    let last = lines.last().unwrap().unwrap();
    let last = String::from_utf8_lossy(&last);
    assert!(last.starts_with("rehost: interrupted"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_kvm_that_cannot_run_guests_is_named() {
    let Some(guest) = guest("debian12") else {
        return;
    };
    let vmx = guest.join("guest.vmx");
    let ran = run([
        "verify".as_ref(),
        vmx.as_os_str(),
        "--engine=kvm".as_ref(),
        "--timeout=120".as_ref(),
    ]);
    if ran.code == 3 {
        println!("this machine's KVM runs guests, and the unedited guest failed as it should");
        return;
    }
    ran.exits(2).says(&["kvm", "--engine qemu"]);
}

/// A VMX in a folder of its own, with `lines` about its disk.
fn vmx(folder: &Path, lines: &str) -> PathBuf {
    let path = folder.join("vm.vmx");
    let head = ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"19\"\n\
                displayName = \"vm\"\nmemSize = \"512\"\nnumvcpus = \"1\"\n\
                scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\n";
    fs::write(&path, format!("{head}{lines}")).unwrap();
    path
}

#[track_caller]
fn migration_fails(vmx: &Path, parts: &[&str]) {
    let out = vmx.with_file_name("out");
    run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(2)
    .says(parts);
    assert!(!out.exists(), "something was written");
}

const ONE_DISK: &str = "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk.vmdk\"\n";

#[test]
fn a_vmx_naming_a_missing_disk_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    migration_fails(
        &vmx(folder.path(), ONE_DISK),
        &["disk.vmdk", "No such file"],
    );
}

#[test]
fn a_vmx_naming_a_disk_outside_its_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let disk = away.path().join("secret.vmdk");
    fs::write(&disk, b"secret").unwrap();
    let lines = format!(
        "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{}\"\n",
        disk.display()
    );
    migration_fails(
        &vmx(folder.path(), &lines),
        &["secret.vmdk", "outside", "--allow-path"],
    );
}

#[test]
fn a_disk_without_a_system_is_named_as_such() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.vmdk");
    judge(
        Command::new("qemu-img")
            .args(["create", "-qf", "vmdk"])
            .arg(&disk)
            .arg("16M"),
    );
    migration_fails(&vmx(folder.path(), ONE_DISK), &["no operating system"]);
}

#[test]
fn a_guest_without_a_kernel_is_named_as_such() {
    if !have("qemu-img") || !have("mke2fs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    for dir in ["etc", "sbin", "usr/lib/systemd", "boot"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(
        root.join("etc/os-release"),
        "ID=debian\nVERSION_ID=\"12\"\n",
    )
    .unwrap();
    fs::write(root.join("sbin/init"), b"\x7fELF").unwrap();
    fs::write(root.join("usr/lib/systemd/systemd"), b"\x7fELF").unwrap();
    let raw = folder.path().join("disk.raw");
    judge(
        Command::new("mke2fs")
            .args(["-qt", "ext4", "-d"])
            .arg(&root)
            .arg(&raw)
            .arg("32M"),
    );
    let disk = folder.path().join("disk.vmdk");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vmdk"])
            .arg(&raw)
            .arg(&disk),
    );
    migration_fails(&vmx(folder.path(), ONE_DISK), &["no kernel"]);
}

#[test]
fn a_corrupt_disk_names_file_structure_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = b"KDMV".to_vec();
    bytes.extend([0xff; 2044]);
    fs::write(folder.path().join("disk.vmdk"), bytes).unwrap();
    migration_fails(&vmx(folder.path(), ONE_DISK), &["disk.vmdk", "at byte"]);
}

#[test]
fn a_second_run_does_not_replace_the_first_unless_forced() {
    let Some(guest) = guest("tiny") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let vmx = guest.join("guest.vmx");
    let args = [
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "--no-verify".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ];
    run(args).exits(0);
    let first = hashes(&out);
    run(args).exits(2).says(&["exists already", "--force"]);
    assert_eq!(hashes(&out), first);
    run(args.into_iter().chain(["--force".as_ref()])).exits(0);
}
