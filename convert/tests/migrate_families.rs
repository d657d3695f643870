//! Guests of other families than the first sample: each stops on virtio before and reaches its login
//! prompt after. Built by `scripts/test --all-guests`; judged by mtools, fsck.fat, e2fsck and xfs_repair.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::families::{Stuck, partition, raw, stuck};
use common::{judge, run};
use serde_json::Value;

/// Converts a sample guest for KVM with one command, and boots it before and after; gives its disk as a
/// raw image.
fn converted(name: &str, before: Stuck, folder: &Path) -> Option<PathBuf> {
    let guest = stuck(name, before, &[])?;
    let out = folder.join("out");
    let ran = run([
        "migrate".as_ref(),
        guest.join("guest.vmx").as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "--json".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(0);
    let report: Value = ran.json();
    assert_eq!(report["ending"], "proven", "{report}");
    Some(raw(&out.join("guest.qcow2")))
}

#[test]
fn a_uefi_guest_boots_and_has_a_loader_where_every_firmware_looks() {
    let folder = tempfile::tempdir().unwrap();
    let Some(raw) = converted("debian12-uefi", Stuck::In("initramfs-shell"), folder.path()) else {
        return;
    };
    let esp = partition(&raw, 1);
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
    let root = partition(&raw, 2);
    judge(Command::new("e2fsck").arg("-fn").arg(&root));
}

#[test]
fn a_guest_on_xfs_with_dracut_boots_on_virtio() {
    let folder = tempfile::tempdir().unwrap();
    let Some(raw) = converted("debian12-xfs-dracut", Stuck::Waiting, folder.path()) else {
        return;
    };
    let root = partition(&raw, 1);
    judge(Command::new("xfs_repair").arg("-n").arg(&root));
}
