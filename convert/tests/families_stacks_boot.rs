//! Guests whose root is on a stack of volumes: each stops on virtio before, and reaches its login prompt
//! after. Built by `scripts/test --all-guests`; judged by e2fsck, btrfs check, LVM, mdadm and cryptsetup.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::Path;
use std::process::Command;

use common::families::{Conversion, Stuck, converted, partition, stuck};
use common::judge;

/// How initramfs-tools ends where there is no root.
const SHELL: Stuck = Stuck::In("initramfs-shell");

const BUSES: [&str; 2] = ["virtio-blk", "virtio-scsi"];

/// What e2fsck says of the filesystem at byte `offset` of a file: it must find nothing.
fn e2fsck(file: &Path, offset: u64) {
    let place = format!("{}?offset={offset}", file.display());
    judge(Command::new("e2fsck").args(["-fn", &place]));
}

#[test]
fn a_guest_on_logical_volumes_boots_on_virtio() {
    let Some(guest) = stuck("debian12-lvm", SHELL, &[]) else {
        return;
    };
    for bus in BUSES {
        let folder = tempfile::tempdir().unwrap();
        let how = Conversion { bus, opening: &[] };
        let (disks, _) = converted(&guest, how, folder.path());
        e2fsck(&partition(&disks[0], 1), 0);
        let physical = partition(&disks[0], 2);
        let text = judge(
            Command::new("lvm")
                .args(["pvck", "--dump", "metadata"])
                .arg(&physical),
        );
        assert!(text.contains("lvmguest-vg {"), "{text}");
        // Its recipe makes the root first: it begins where the extents do.
        let sectors = field(&text, "pe_start = ");
        e2fsck(&physical, sectors * 512);
    }
}

#[test]
fn a_guest_in_a_btrfs_subvolume_boots_on_virtio() {
    let Some(guest) = stuck("debian12-btrfs", SHELL, &[]) else {
        return;
    };
    for bus in BUSES {
        let folder = tempfile::tempdir().unwrap();
        let how = Conversion { bus, opening: &[] };
        let (disks, report) = converted(&guest, how, folder.path());
        for file in report["ledger"]["files"].as_array().unwrap() {
            assert_eq!(file["at"]["subvolume"], "@", "{file}");
        }
        judge(
            Command::new("btrfs")
                .args(["check", "--readonly", "--check-data-csum"])
                .arg(partition(&disks[0], 1)),
        );
    }
}

#[test]
fn a_guest_on_a_mirror_boots_on_virtio_with_both_halves_written() {
    let Some(guest) = stuck("debian12-raid", SHELL, &[]) else {
        return;
    };
    for bus in BUSES {
        let folder = tempfile::tempdir().unwrap();
        let how = Conversion { bus, opening: &[] };
        let (disks, report) = converted(&guest, how, folder.path());
        let [first, second] = &disks[..] else {
            panic!("{disks:?}");
        };
        let mut halves = Vec::new();
        for disk in [first, second] {
            let member = partition(disk, 1);
            let text = judge(Command::new("mdadm").arg("--examine").arg(&member));
            assert!(text.contains("State : clean"), "{text}");
            assert!(text.contains("- correct"), "{text}");
            let start = field(&text, "Data Offset : ") * 512;
            e2fsck(&member, start);
            halves.push((member, start));
        }
        let (one, start) = &halves[0];
        judge(
            Command::new("cmp")
                .arg(format!("--ignore-initial={start}"))
                .args([one, &halves[1].0]),
        );
        // What was written to one half was written to the other.
        for file in report["ledger"]["files"].as_array().unwrap() {
            let elsewhere = &file["elsewhere"];
            assert_eq!(elsewhere[0]["disk"], 1, "{file}");
            assert_eq!(elsewhere[0]["ranges"], file["ranges"], "{file}");
        }
    }
}

#[test]
fn a_guest_with_an_encrypted_root_boots_on_virtio() {
    let Some(guest) = common::guest("debian12-luks") else {
        return;
    };
    let key = guest.join("kept/etc/keys/root.key");
    let opening = format!("--key-file={}", key.display());
    let Some(guest) = stuck("debian12-luks", SHELL, &[&opening]) else {
        return;
    };
    for bus in BUSES {
        let folder = tempfile::tempdir().unwrap();
        let how = Conversion {
            bus,
            opening: &[&opening],
        };
        let (disks, report) = converted(&guest, how, folder.path());
        e2fsck(&partition(&disks[0], 1), 0);
        let encrypted = partition(&disks[0], 2);
        judge(Command::new("cryptsetup").arg("luksDump").arg(&encrypted));
        judge(
            Command::new("cryptsetup")
                .args(["open", "--test-passphrase", "--key-file"])
                .args([&key, &encrypted]),
        );
        let files = report["ledger"]["files"].as_array().unwrap();
        let on_root = |file: &&serde_json::Value| file["at"]["name"].is_string();
        assert!(files.iter().any(|file| on_root(&file)), "{report}");
    }
}

/// The number behind `name` in what a judge printed.
#[track_caller]
fn field(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
