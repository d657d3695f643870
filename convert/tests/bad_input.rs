//! Guests that cannot be made to boot elsewhere: each is told by name before anything is copied, with
//! what can be done; what does not stand in the way of the boot is done all the same.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::machine::{Making, VERSION, unified};
use common::{Ran, hashes, judge, run};
use serde_json::Value;

const INITRD: &str = "boot/initrd.img-6.1.0-99-test";

/// What `migrate --dry-run` makes of a guest that `change` changed.
fn planned(change: impl FnOnce(&mut Making)) -> Option<(tempfile::TempDir, PathBuf, Ran)> {
    let folder = tempfile::tempdir().unwrap();
    let mut making = Making::guest(folder.path())?;
    change(&mut making);
    let vmx = making.finish();
    let ran = run(["migrate", "--to=kvm", "--dry-run", vmx.to_str().unwrap()]);
    Some((folder, vmx, ran))
}

/// Refused for the reason `id`, in the plan and in the error; and nothing is copied, unless the
/// reason is accepted.
fn is_refused(ran: &Ran, vmx: &Path, id: &str) {
    assert_eq!(ran.code, 2, "{}\n{}", ran.stdout, ran.stderr);
    let accept = format!("--accept {id}");
    assert!(ran.stdout.contains(&accept), "{}", ran.stdout);
    let line = ran.stderr.lines().last().unwrap();
    assert!(
        line.starts_with("rehost: ") && line.contains("would not boot on kvm"),
        "{line}"
    );
    assert!(line.ends_with(&accept), "{line}");

    let folder = vmx.parent().unwrap();
    let before = hashes(folder);
    let out = folder.join("out");
    let migrate = |more: &[&str]| {
        let mut arguments = vec!["migrate", "--to=kvm", "--no-preflight", "--no-verify"];
        arguments.extend(["--json", "-o", out.to_str().unwrap()]);
        arguments.extend(more);
        arguments.push(vmx.to_str().unwrap());
        run(arguments)
    };
    migrate(&[]).exits(2);
    assert!(!out.exists(), "nothing is written");
    let accepted = format!("--accept={id}");
    let report: Value = migrate(&[&accepted]).exits(0).json();
    assert!(out.join("guest.qcow2").is_file());
    let decided = report["decisions"].as_array().unwrap().iter();
    let mut reasons = decided.filter_map(|decision| decision["evidence"].as_str());
    assert!(reasons.any(|reason| reason == accept), "{report}");
    assert_eq!(hashes(folder), before, "the source stays");
}

#[test]
fn a_guest_that_needs_nothing_special_is_planned() {
    let Some((_keep, _, ran)) = planned(|_| {}) else {
        return;
    };
    let plan = ran.exits(0).stdout;
    assert!(plan.contains(&format!("/{INITRD}")), "{plan}");
    assert!(!plan.contains("--accept"), "{plan}");
}

#[test]
fn an_unknown_distribution_gets_all_that_its_files_tell_and_a_finding_for_the_rest() {
    let Some((_keep, _, ran)) = planned(|guest| {
        guest.put(
            "etc/os-release",
            "ID=homemade\nPRETTY_NAME=\"Home Made 1\"\n",
        );
        guest.remove("sbin/init");
        guest.remove("usr/lib/systemd/systemd");
        guest.put("sbin/init", [0x7f, b'E', b'L', b'F', 2, 1]);
    }) else {
        return;
    };
    let plan = ran.exits(0).stdout;
    assert!(plan.contains(&format!("/{INITRD}")), "{plan}");
    assert!(
        plan.contains("adds modules: virtio_pci virtio_blk"),
        "{plan}"
    );
    let told = "Home Made 1 (homemade) is not a distribution whose rules are known";
    assert!(plan.contains(told), "{plan}");
    assert!(plan.contains("what starts its services"), "{plan}");
}

#[test]
fn a_squashed_initramfs_is_refused() {
    let Some((_keep, vmx, ran)) =
        planned(|guest| guest.put(INITRD, guest.initramfs(&["squashfs-root.img"])))
    else {
        return;
    };
    is_refused(&ran, &vmx, "initramfs-squashed");
    assert!(ran.stderr.contains("--omit squash"), "{}", ran.stderr);
}

#[test]
fn an_initramfs_that_cannot_take_more_is_refused() {
    // lz4's frame format, which no kernel unpacks and nothing is written in.
    let Some((_keep, vmx, ran)) =
        planned(|guest| guest.put(INITRD, b"\x04\x22\x4d\x18\x64\x40\xa7not a kernel's"))
    else {
        return;
    };
    is_refused(&ran, &vmx, "initramfs-unreadable");
}

#[test]
fn a_module_tree_without_the_modules_that_it_lists_is_refused() {
    let Some((_keep, vmx, ran)) =
        planned(|guest| guest.remove(&format!("lib/modules/{VERSION}/kernel/virtio_blk.ko")))
    else {
        return;
    };
    is_refused(&ran, &vmx, "initramfs-not-rebuilt");
    assert!(ran.stderr.contains("depmod"), "{}", ran.stderr);
}

#[test]
fn a_root_whose_key_is_in_a_tpm_is_refused() {
    let Some((_keep, vmx, ran)) = planned(|guest| {
        guest.put(
            "etc/crypttab",
            "root UUID=dead-beef none tpm2-device=auto\n",
        );
    }) else {
        return;
    };
    is_refused(&ran, &vmx, "luks-hardware-key");
    assert!(ran.stdout.contains("/etc/crypttab:1"), "{}", ran.stdout);
    let Some((_keep, vmx, ran)) =
        planned(|guest| guest.menu("rd.luks.options=tpm2-device=auto rd.luks.uuid=1"))
    else {
        return;
    };
    is_refused(&ran, &vmx, "luks-hardware-key");
}

#[test]
fn a_verified_root_with_its_initramfs_on_it_is_refused() {
    let Some((_keep, vmx, ran)) = planned(|guest| guest.menu("ro roothash=0123abcd")) else {
        return;
    };
    is_refused(&ran, &vmx, "verity-root");
    assert!(
        ran.stdout.starts_with("plan for kvm: nothing to change"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_guest_for_another_processor_is_refused() {
    let mut program = [0u8; 64];
    program[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    program[18] = 183;
    let Some((_keep, vmx, ran)) = planned(|guest| guest.put("usr/lib/systemd/systemd", program))
    else {
        return;
    };
    is_refused(&ran, &vmx, "foreign-architecture");
}

/// A guest that boots the unified image of `initrd` alone; `more` are further sections.
fn with_unified(
    more: &[(&str, &[u8])],
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Option<(tempfile::TempDir, PathBuf, Ran)> {
    let scratch = tempfile::tempdir().unwrap();
    let image = {
        let making = Making::guest(&scratch.path().join("unused"))?;
        unified(scratch.path(), &making.initramfs(&[]), more)?
    };
    with_image(change(image), |_| {})
}

/// A guest that boots the unified image `image` alone.
fn with_image(
    image: Vec<u8>,
    also: impl FnOnce(&mut Making),
) -> Option<(tempfile::TempDir, PathBuf, Ran)> {
    planned(|guest| {
        also(guest);
        guest.remove("boot/grub/grub.cfg");
        guest.remove(INITRD);
        guest.remove(&format!("boot/vmlinuz-{VERSION}"));
        guest.unified.push(("test.efi", image));
    })
}

/// `file` with a certificate table.
fn signed(mut file: Vec<u8>) -> Vec<u8> {
    let field = |file: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(file[at..at + 4].try_into().unwrap())).unwrap()
    };
    let directory = field(&file, 0x3c) + 24 + 112 + 32;
    file.resize(file.len().next_multiple_of(8), 0);
    let at = u32::try_from(file.len()).unwrap();
    file[directory..directory + 4].copy_from_slice(&at.to_le_bytes());
    file[directory + 4..directory + 8].copy_from_slice(&64u32.to_le_bytes());
    file.extend([7; 64]);
    file
}

#[test]
fn a_signed_unified_image_that_lacks_drivers_is_refused() {
    let Some((_keep, vmx, ran)) = with_unified(&[], signed) else {
        return;
    };
    is_refused(&ran, &vmx, "unified-kernel-signed");
}

#[test]
fn a_unified_image_with_a_tpm_policy_that_lacks_drivers_is_refused() {
    let Some((_keep, vmx, ran)) = with_unified(&[(".pcrsig", b"{}")], |file| file) else {
        return;
    };
    is_refused(&ran, &vmx, "unified-kernel-measured");
}

#[test]
fn a_unified_image_that_finds_no_room_for_its_drivers_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(making) = Making::guest(&scratch.path().join("unused")) else {
        return;
    };
    let Some(image) = unified(scratch.path(), &making.initramfs(&[]), &[]) else {
        return;
    };
    let Some((_keep, vmx, ran)) = with_image(image, |guest| guest.full = true) else {
        return;
    };
    is_refused(&ran, &vmx, "initramfs-not-writable");
}

#[test]
fn an_unsigned_unified_image_gets_the_drivers_inside() {
    let Some((keep, vmx, ran)) = with_unified(&[], |file| file) else {
        return;
    };
    let plan = ran.exits(0).stdout;
    assert!(plan.contains("/EFI/Linux/test.efi"), "{plan}");
    assert!(plan.contains("virtio_blk"), "{plan}");
    let raw = keep.path().join("edited.raw");
    let disk = vmx.with_file_name("disk.vmdk");
    run(["inject".as_ref(), disk.as_os_str(), raw.as_os_str()]).exits(0);
    let image = keep.path().join("edited.efi");
    judge(
        Command::new("mcopy")
            .arg("-i")
            .arg(format!("{}@@41M", raw.display()))
            .arg("::EFI/Linux/test.efi")
            .arg(&image),
    );
    let listed = judge(Command::new("objdump").arg("-h").arg(&image));
    assert!(
        listed.contains(".initrd") && listed.contains(".linux"),
        "{listed}"
    );
    let section = |name: &str, file: &Path| {
        let to = keep.path().join(format!("out{name}"));
        judge(
            Command::new("objcopy")
                .arg(format!("--dump-section={name}={}", to.display()))
                .arg(file)
                .arg(keep.path().join("null")),
        );
        fs::read(to).unwrap()
    };
    assert_eq!(section(".linux", &image), common::machine::kernel());
    let initrd = keep.path().join("initrd");
    fs::write(&initrd, section(".initrd", &image)).unwrap();
    let inside = judge(
        Command::new("sh")
            .args(["-c", "cpio -it --quiet < \"$1\"", "sh"])
            .arg(&initrd),
    );
    assert!(inside.contains("vmw_pvscsi.ko"), "{inside}");
    // A guest that was converted needs nothing more.
    let again = run(["inject".as_ref(), "--dry-run".as_ref(), raw.as_os_str()]).exits(0);
    assert!(
        again.stdout.contains("nothing to change"),
        "{}",
        again.stdout
    );
}
