//! `rehost inject --in-place` of guests on stacks of volumes: the bytes that change are those that the ledger
//! lists, on every disk of the machine, and `rehost undo` takes them back bit for bit. Judged by qemu-img.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::families::raw;
use common::{guest, hash, have, rehost, run};
use serde_json::Value;

/// A copy of a sample guest that may be changed: its VMX and its disks.
fn copied(name: &str, disks: &[&str], folder: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    let guest = guest(name).filter(|_| have("qemu-img"))?;
    let copy = |file: &str| {
        let to = folder.join(file);
        fs::copy(guest.join(file), &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
        to
    };
    let disks = disks.iter().map(|disk| copy(disk)).collect();
    Some((copy("guest.vmx"), disks))
}

/// The ranges of one disk that the ledger lists.
fn listed(ledger: &Value, disk: usize) -> Vec<(u64, u64)> {
    let entries = ["files", "replayed"].map(|key| ledger[key].as_array().unwrap());
    let mut ranges = Vec::new();
    for entry in entries.into_iter().flatten() {
        if entry["at"]["disk"] == disk {
            ranges.extend(entry["ranges"].as_array().unwrap());
        }
        for other in entry["elsewhere"].as_array().into_iter().flatten() {
            if other["disk"] == disk {
                ranges.extend(other["ranges"].as_array().unwrap());
            }
        }
    }
    let number = |range: &Value, key: &str| range[key].as_u64().unwrap();
    ranges
        .into_iter()
        .map(|range| (number(range, "start"), number(range, "end")))
        .collect()
}

/// The sectors in which two raw images differ, by their offset.
fn different(one: &Path, other: &Path) -> Vec<u64> {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let len = one.metadata().unwrap().len();
    assert_eq!(len, other.metadata().unwrap().len());
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut sectors = Vec::new();
    for start in (0..len).step_by(1 << 20) {
        let piece = usize::try_from((len - start).min(1 << 20)).unwrap();
        one.read_exact(&mut a[..piece]).unwrap();
        other.read_exact(&mut b[..piece]).unwrap();
        let pairs = a[..piece].chunks(512).zip(b[..piece].chunks(512));
        let changed = (start..)
            .step_by(512)
            .zip(pairs)
            .filter(|(_, (a, b))| a != b);
        sectors.extend(changed.map(|(at, _)| at));
    }
    sectors
}

/// Changes a machine in place, holds its disks against the ledger, and takes the change back.
fn there_and_back(name: &str, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let Some((vmx, disks)) = copied(name, names, folder.path()) else {
        return;
    };
    let before: Vec<String> = disks.iter().map(|disk| hash(disk)).collect();
    let old = tempfile::tempdir().unwrap();
    let originals: Vec<PathBuf> = disks
        .iter()
        .map(|disk| {
            let original = old.path().join(disk.file_name().unwrap());
            fs::rename(raw(disk), &original).unwrap();
            original
        })
        .collect();
    let vmx = vmx.to_str().unwrap();
    let json = run(["inject", "--in-place", "--json", vmx]).exits(0).json();
    for (nth, (disk, original)) in disks.iter().zip(&originals).enumerate() {
        let ranges = listed(&json["ledger"], nth);
        let changed = different(original, &raw(disk));
        assert!(!changed.is_empty(), "disk {nth} was not changed");
        let within = |at: u64| {
            ranges
                .iter()
                .any(|(start, end)| at < *end && at + 512 > *start)
        };
        let unlisted: Vec<&u64> = changed.iter().filter(|at| !within(**at)).collect();
        assert!(unlisted.is_empty(), "disk {nth}: {unlisted:?}");
    }
    let again = run(["inject", "--in-place", "--json", vmx]).exits(0).json();
    assert_eq!(
        again["plan"]["edits"].as_array().unwrap().len(),
        0,
        "{again}"
    );
    run(["undo", vmx]).exits(0);
    let after: Vec<String> = disks.iter().map(|disk| hash(disk)).collect();
    assert_eq!(after, before);
}

#[test]
fn each_disk_of_a_killed_run_is_refused_and_brings_both_back() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["guest.vmdk", "guest_1.vmdk"];
    let Some((vmx, disks)) = copied("debian12-raid", &names, folder.path()) else {
        return;
    };
    let before: Vec<String> = disks.iter().map(|disk| hash(disk)).collect();
    let beside = |disk: &Path, ending: &str| disk.with_extension(format!("vmdk.rehost-{ending}"));
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let (second, note) = (&disks[1], beside(&disks[1], "journal"));
    let mut killed = 0;
    for nth in 0..20u64 {
        if nth >= 3 && killed > 0 {
            break;
        }
        let mut child = rehost()
            .args(["inject", "--in-place", "--quiet"])
            .arg(&vmx)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The second disk's turn has come.
        while !note.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_millis(nth % 3));
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        if beside(&disks[0], "journal").exists() {
            killed += 1;
            for command in ["info", "lsblk"] {
                run([command, second.to_str().unwrap()]).exits(2).says(&[
                    "guest_1.vmdk",
                    "half changed",
                    "the journal is that of",
                    "guest.vmdk",
                    "rehost undo",
                ]);
            }
        } else {
            // It was quicker than the signal.
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(
                beside(second, "undo").exists(),
                "it failed by itself, {}: {said}",
                ended.status
            );
        }
        run(["undo".as_ref(), second.as_os_str()]).exits(0);
        let after: Vec<String> = disks.iter().map(|disk| hash(disk)).collect();
        assert_eq!(after, before, "run {nth}");
        assert_eq!(files(), 3, "nothing is left beside the disks");
    }
    assert!(killed > 0, "no run was killed in the middle");

    // So does each disk of a change that was kept.
    run(["inject".as_ref(), "--in-place".as_ref(), vmx.as_os_str()]).exits(0);
    assert!(!note.exists());
    run(["undo".as_ref(), second.as_os_str()]).exits(0);
    let after: Vec<String> = disks.iter().map(|disk| hash(disk)).collect();
    assert_eq!(after, before);
    assert_eq!(files(), 3);
}

#[test]
fn a_guest_on_logical_volumes_is_changed_and_taken_back() {
    there_and_back("debian12-lvm", &["guest.vmdk"]);
}

#[test]
fn both_halves_of_a_mirror_are_changed_together_and_taken_back() {
    there_and_back("debian12-raid", &["guest.vmdk", "guest_1.vmdk"]);
}

#[test]
fn a_subvolume_is_changed_and_taken_back() {
    there_and_back("debian12-btrfs", &["guest.vmdk"]);
}
