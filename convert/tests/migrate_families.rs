//! Guests of other families than the first sample: each stops on virtio before and reaches its login
//! prompt after. Built by `scripts/test --all-guests`; judged by mtools, fsck.fat, e2fsck and xfs_repair.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{guest, have, judge, run};
use serde_json::Value;

/// Converts a sample guest for KVM with one command, and boots it before and after.
fn converted(name: &str, folder: &Path) -> Option<PathBuf> {
    let guest = guest(name).filter(|_| have("qemu-system-x86_64") && have("qemu-img"))?;
    let vmx = guest.join("guest.vmx");
    // Some wait for their root for minutes before they say so.
    run(["verify".as_ref(), "--timeout=100".as_ref(), vmx.as_os_str()]).exits(3);
    let out = folder.join("out");
    let ran = run([
        "migrate".as_ref(),
        vmx.as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "--json".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(0);
    let report: Value = ran.json();
    assert_eq!(report["ending"], "proven", "{report}");
    let image = out.join("guest.qcow2");
    let raw = folder.join("whole.raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(&image)
            .arg(&raw),
    );
    Some(raw)
}

/// Partition `number` of a raw disk as a file of its own.
fn partition(raw: &Path, number: usize, name: &str) -> PathBuf {
    let table: Value =
        serde_json::from_str(&judge(Command::new("sfdisk").arg("-J").arg(raw))).unwrap();
    let entry = &table["partitiontable"]["partitions"][number - 1];
    let sectors = |key: &str| entry[key].as_u64().unwrap();
    let part = raw.with_file_name(name);
    judge(
        Command::new("dd")
            .args(["bs=512", "conv=sparse", "status=none"])
            .arg(format!("skip={}", sectors("start")))
            .arg(format!("count={}", sectors("size")))
            .arg(format!("if={}", raw.display()))
            .arg(format!("of={}", part.display())),
    );
    part
}

#[test]
fn a_uefi_guest_boots_and_has_a_loader_where_every_firmware_looks() {
    let folder = tempfile::tempdir().unwrap();
    let Some(raw) = converted("debian12-uefi", folder.path()) else {
        return;
    };
    let esp = partition(&raw, 1, "esp");
    judge(Command::new("fsck.fat").arg("-n").arg(&esp));
    let copied = |path: &str| {
        let to = esp.with_file_name(path.rsplit('/').next().unwrap());
        judge(
            Command::new("mcopy")
                .arg("-i")
                .arg(&esp)
                .arg(format!("::{path}"))
                .arg(&to),
        );
        common::hash(&to)
    };
    let (vendor, fallback) = ("/EFI/debian/grubx64.efi", "/EFI/BOOT/BOOTX64.EFI");
    assert_eq!(copied(vendor), copied(fallback));
    let root = partition(&raw, 2, "root");
    judge(Command::new("e2fsck").arg("-fn").arg(&root));
}

#[test]
fn a_guest_on_xfs_with_dracut_boots_on_virtio() {
    let folder = tempfile::tempdir().unwrap();
    let Some(raw) = converted("debian12-xfs-dracut", folder.path()) else {
        return;
    };
    let root = partition(&raw, 1, "root");
    judge(Command::new("xfs_repair").arg("-n").arg(&root));
}
