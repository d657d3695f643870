//! Guests whose own firmware and boot loader start them: from an empty firmware memory, as a moved machine
//! has it.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::{Path, PathBuf};

use common::{guest, hash, have, run};
use serde_json::Value;

/// A sample guest that UEFI starts, where such firmware is here.
fn uefi_guest(name: &str) -> Option<PathBuf> {
    if let Err(error) = rehost_runtime::UefiImage::find() {
        println!("skipped: needs ovmf ({error})");
        return None;
    }
    guest(name).filter(|_| have("qemu-system-x86_64"))
}

/// Migrates `guest` to KVM, proven through the firmware; gives the image and the proof.
fn proven(guest: &Path, folder: &Path) -> (PathBuf, Value) {
    let out = folder.join("out");
    let report: Value = run([
        "migrate".as_ref(),
        guest.join("guest.vmx").as_os_str(),
        "--to=kvm".as_ref(),
        "--no-preflight".as_ref(),
        "--through-firmware".as_ref(),
        "--timeout=400".as_ref(),
        "--json".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(0)
    .json();
    assert_eq!(report["ending"], "proven", "{report}");
    let proof = report["proof"].clone();
    assert_eq!(proof["firmware"]["kind"], "efi", "{proof}");
    let code = proof["firmware"]["image"]["code"].as_str().unwrap();
    assert!(Path::new(code).is_file(), "{proof}");
    // Nobody but its boot loader chose the kernel.
    for field in ["kernel", "command_line", "boot_reason"] {
        assert!(proof[field].is_null(), "{field}: {proof}");
    }
    assert_eq!(
        proof["firmware"]["notes"].as_array().map(Vec::len),
        Some(0),
        "{proof}"
    );
    assert!(
        saw(&proof, "uefi-starting") && saw(&proof, "login-prompt"),
        "{proof}"
    );
    (out.join("guest.qcow2"), proof)
}

/// Whether the boot reached the milestone `id`.
fn saw(proof: &Value, id: &str) -> bool {
    let milestones = proof["verdict"]["milestones"].as_array().unwrap();
    milestones.iter().any(|milestone| milestone["id"] == id)
}

/// What a file of the guest on `image` holds.
fn content(image: &Path, path: &str) -> String {
    run(["cat", image.to_str().unwrap(), path]).exits(0).stdout
}

#[test]
fn a_grub_guest_boots_through_uefi_and_not_without_its_fallback_loader() {
    let Some(guest) = uefi_guest("debian12-uefi") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (image, proof) = proven(&guest, folder.path());
    assert!(saw(&proof, "grub-loading"), "{proof}");
    let added = proof["firmware"]["added"].as_array().unwrap();
    assert!(!added.is_empty());
    for line in added {
        assert_eq!(line["path"], "/boot/grub/grub.cfg", "{line}");
        assert!(
            line["text"].as_str().unwrap().contains("console=ttyS0"),
            "{line}"
        );
    }
    // That was the copy.
    assert!(!content(&image, "/boot/grub/grub.cfg").contains("ttyS0"));

    let image = image.to_str().unwrap();
    run(["rm", "-r", "--in-place", image, "/boot/efi/EFI/BOOT"]).exits(0);
    let proof = run(["verify", "--firmware", "--json", "--timeout=200", image])
        .exits(3)
        .json();
    assert_eq!(proof["firmware"]["kind"], "efi", "{proof}");
    assert_eq!(proof["verdict"]["recogniser"], "uefi-shell", "{proof}");
    let reason = proof["verdict"]["reason"].as_str().unwrap();
    for part in ["has nothing that its firmware can boot", "Not Found"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn a_bus_that_uefi_may_not_know_is_refused_before_the_copy_with_those_it_knows() {
    let Some(guest) = uefi_guest("debian12-uefi") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    run([
        "migrate".as_ref(),
        guest.join("guest.vmx").as_os_str(),
        "--to=vmware".as_ref(),
        "--no-preflight".as_ref(),
        "--through-firmware".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .exits(2)
    .says(&["leave --through-firmware out", "--disk-bus (sata, nvme)"]);
    assert!(!out.join("guest.vmdk").exists());
}

#[test]
fn a_systemd_boot_guest_boots_through_uefi() {
    let Some(guest) = uefi_guest("debian12-systemd-boot") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (_, proof) = proven(&guest, folder.path());
    let added = proof["firmware"]["added"].as_array().unwrap();
    let entry = &added[0];
    let path = entry["path"].as_str().unwrap();
    assert!(path.starts_with("/boot/efi/loader/entries/"), "{entry}");
    let text = entry["text"].as_str().unwrap();
    assert!(
        text.starts_with("options") && text.contains("console=ttyS0"),
        "{entry}"
    );
}

#[test]
fn a_unified_image_boots_through_uefi_by_systemd_boot_and_by_the_firmware_itself() {
    let Some(guest) = uefi_guest("debian12-uki") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (image, proof) = proven(&guest, folder.path());
    let by_uuid = "root=UUID=1e94b7a3-6d52-4c08-9f3b-a7c15e8d2046 ro quiet ";
    let talks = |added: &Value| {
        let text = added["text"].as_str().unwrap();
        assert!(
            text.starts_with(by_uuid) && text.contains("console=ttyS0"),
            "{text}"
        );
    };
    let added = &proof["firmware"]["added"][0];
    let path = added["path"].as_str().unwrap();
    assert!(path.starts_with("/boot/efi/EFI/Linux/"), "{added}");
    talks(added);

    // Without a boot loader the image is put where every firmware looks, and that copy is heard as well.
    let image = image.to_str().unwrap();
    let folders = ["/boot/efi/EFI/systemd", "/boot/efi/EFI/BOOT"];
    run(["rm", "-r", "--in-place", image, folders[0], folders[1]]).exits(0);
    run(["inject", "--in-place", image]).exits(0);
    let proof = run(["verify", "--firmware", "--timeout=400", "--json", image]);
    let proof = proof.exits(0).json();
    assert_eq!(
        proof["firmware"]["notes"].as_array().map(Vec::len),
        Some(0),
        "{proof}"
    );
    let added = proof["firmware"]["added"].as_array().unwrap();
    let paths: Vec<&str> = added
        .iter()
        .filter_map(|one| one["path"].as_str())
        .collect();
    assert!(
        paths.contains(&"/boot/efi/EFI/BOOT/BOOTX64.EFI"),
        "{paths:?}"
    );
    talks(&added[0]);
    assert!(saw(&proof, "uefi-starting"), "{proof}");
}

#[test]
fn a_bios_guest_boots_through_its_boot_sector() {
    let Some(guest) = guest("tiny").filter(|_| have("qemu-system-x86_64")) else {
        return;
    };
    let (vmx, disk) = (guest.join("guest.vmx"), guest.join("guest.vmdk"));
    let before = hash(&disk);
    let proof = run([
        "verify",
        "--firmware",
        "--bus=pvscsi",
        "--timeout=400",
        "--json",
        vmx.to_str().unwrap(),
    ])
    .exits(0)
    .json();
    assert_eq!(proof["firmware"]["kind"], "bios", "{proof}");
    assert!(proof["firmware"]["image"].is_null(), "{proof}");
    assert!(
        saw(&proof, "seabios") && saw(&proof, "grub-loading"),
        "{proof}"
    );
    assert_eq!(hash(&disk), before);
}
