//! The sample guests of `scripts/build-guest`, inspected, planned and edited whole; judged by `e2fsck`,
//! `debugfs`, `cpio` and `modprobe`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rehost_block::{Disk, DiskMut, File, Overlay, StorageDisk};
use rehost_inject::apply::apply;
use rehost_inject::plan::{Change, How, NetworkCard, PlanOptions, plan};
use rehost_inject::target::KVM;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::{Options, inspect};
use support::{ask, have, plain, run, save, unpack};

/// The folder of a sample guest, where it was built.
fn sample(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let guests = std::env::var_os("REHOST_GUESTS").map_or(target.join("guests"), PathBuf::from);
    let folder = guests.join(name);
    let there = folder.join("guest.vmdk").exists();
    if !there {
        println!("skipped: needs scripts/build-guest {name}");
    }
    there.then_some(folder)
}

/// Converts a sample guest and gives the plan's paths with how each is written.
fn convert(name: &str) -> Option<Vec<(String, How)>> {
    if !have(&["qemu-img", "e2fsck", "debugfs", "cpio", "modprobe"]) {
        return None;
    }
    let folder = sample(name)?;
    let work = tempfile::tempdir().unwrap();
    let raw = work.path().join("disk.raw");
    let names =
        [folder.join("guest.vmdk"), raw.clone()].map(|path| path.to_str().unwrap().to_owned());
    ask(
        "qemu-img",
        &["convert", "-O", "raw", &names[0], &names[1]],
        b"",
    );
    let vmx = fs::read_to_string(folder.join("guest.vmx")).unwrap();
    let value = |key: &str| {
        let line = vmx
            .lines()
            .find(|line| line.starts_with(&format!("{key} =")))?;
        Some(line.split('"').nth(1)?.to_owned())
    };
    let options = PlanOptions {
        cards: vec![NetworkCard {
            mac: value("ethernet0.address")
                .or_else(|| value("ethernet0.generatedAddress"))
                .unwrap(),
            old_name: value("ethernet0.pciSlotNumber").map(|slot| format!("ens{slot}")),
        }],
        ..PlanOptions::default()
    };
    let base: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(File::open(&raw).unwrap())));
    let overlay = Arc::new(Overlay::in_memory(base));
    let seen: Arc<dyn Disk> = overlay.clone();
    let started = Instant::now();
    let guest = inspect(&[Arc::clone(&seen)], &Options::default()).unwrap();
    let inspected = started.elapsed();
    let edits = plan(&guest.inspection, guest.tree().unwrap(), &KVM, &options).unwrap();
    let planned = started.elapsed();
    let layout = guest.inspection.disks[0].layout.clone();
    let disks = [overlay.clone() as Arc<dyn DiskMut>];
    let ledger = apply(&edits, &guest.inspection, &disks, &[]).unwrap();
    println!(
        "{name}: inspected {inspected:?}, planned {planned:?}, applied {:?}",
        started.elapsed()
    );
    println!("{edits}");
    assert_eq!(ledger.files.len(), edits.edits.len());

    let again = inspect(&[seen], &Options::default()).unwrap();
    let twice = plan(&again.inspection, again.tree().unwrap(), &KVM, &options).unwrap();
    assert!(twice.is_empty(), "converted twice: {twice}");

    let volume = &layout.volumes[0];
    let part = work.path().join("part");
    save(overlay.as_ref(), volume.range.clone(), &part);
    let part = part.to_str().unwrap();
    let judged = run("e2fsck", &["-fn", part], b"");
    assert!(
        judged.status.success(),
        "{}",
        String::from_utf8_lossy(&judged.stdout)
    );
    for edit in &edits.edits {
        let out = work.path().join("dump");
        let command = format!("dump {} {}", edit.inner_path, out.display());
        ask("debugfs", &["-R", &command, part], b"");
        let content = fs::read(out).unwrap();
        assert_eq!(content, *edit.content, "{}", edit.path);
        if let Change::Initramfs { kernel, .. } = &edit.change {
            let root = work.path().join("initramfs");
            unpack(&root, &plain(&Initramfs::parse(content).unwrap()));
            for (alias, last) in [
                ("virtio:d00000002v00001AF4", "virtio_blk"),
                ("virtio:d00000008v00001AF4", "virtio_scsi"),
                ("virtio:d00000001v00001AF4", "virtio_net"),
                (
                    "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
                    "virtio_pci",
                ),
            ] {
                let root = root.to_str().unwrap();
                let arguments = [
                    "-C",
                    "/dev/null",
                    "-d",
                    root,
                    "-S",
                    kernel,
                    "--show-depends",
                    alias,
                ];
                let said = String::from_utf8(run("modprobe", &arguments, b"").stdout).unwrap();
                let line = said.lines().last().unwrap_or_default();
                assert!(line.contains(last), "{alias}: {said}");
            }
        }
    }
    Some(
        edits
            .edits
            .iter()
            .map(|edit| (edit.path.clone(), edit.how))
            .collect(),
    )
}

#[test]
fn the_debian_guest_from_vmware_gets_virtio_in_place() {
    let Some(edits) = convert("debian12") else {
        return;
    };
    let (path, how) = &edits[0];
    assert!(path.starts_with("/boot/initrd.img-"), "{edits:?}");
    assert_eq!(*how, How::Overwrite, "it fits into the old one");
    assert_eq!(edits.len(), 2, "{edits:?}");
    assert_eq!(edits[1].0, "/etc/systemd/network/10-rehost-ens192.link");
}

#[test]
fn the_tiny_guest_that_names_its_disks_by_bus_gets_uuids() {
    let Some(edits) = convert("tiny") else { return };
    let paths: Vec<&str> = edits.iter().map(|(path, _)| path.as_str()).collect();
    for path in ["/etc/fstab", "/boot/grub/grub.cfg", "/etc/default/grub"] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert!(paths[0].starts_with("/boot/initrd.img-"), "{paths:?}");
}
