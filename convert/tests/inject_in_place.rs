//! `rehost inject --in-place`: what is changed is what the plan lists, and `rehost undo` takes it back
//! bit for bit, also when the run was killed. Judged by qemu-img, e2fsck and debugfs.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{guest, hash, have, judge, rehost, run};
use serde_json::Value;

const JUDGES: [&str; 3] = ["qemu-img", "e2fsck", "debugfs"];

/// Where the guest's partition begins, as its recipe says.
const START: u64 = 1 << 20;

/// A copy of the tiny guest's disk as `format`.
fn disk(folder: &Path, format: &str) -> Option<(PathBuf, PathBuf)> {
    let guest = guest("tiny").filter(|_| JUDGES.iter().all(|tool| have(tool)))?;
    let disk = folder.join(format!("disk.{format}"));
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", format])
            .arg(guest.join("guest.vmdk"))
            .arg(&disk),
    );
    Some((guest, disk))
}

fn inject(disk: &Path) -> common::Ran {
    run([
        "inject".as_ref(),
        "--in-place".as_ref(),
        "--json".as_ref(),
        disk.as_os_str(),
    ])
}

fn undo_file(disk: &Path) -> PathBuf {
    disk.with_extension(format!(
        "{}.rehost-undo",
        disk.extension().unwrap().to_str().unwrap()
    ))
}

/// What a path of the guest is: type and permissions, and a file's hash or a link's target. Without
/// set-id and sticky bits, which debugfs does not bring out.
type Tree = BTreeMap<String, String>;

/// The tree that the recipe of the guest lists.
fn listed(guest: &Path) -> Tree {
    let hashes: BTreeMap<String, String> = fs::read_to_string(guest.join("tree.sha256"))
        .unwrap()
        .lines()
        .map(|line| {
            let (hash, path) = line.split_once("  ").unwrap();
            (path.to_owned(), hash.to_owned())
        })
        .collect();
    fs::read_to_string(guest.join("tree.tsv"))
        .unwrap()
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let (path, kind, mode, target) = (fields[0], fields[1], fields[2], fields[5]);
            let what = match kind {
                "l" => format!("link to {target}"),
                "f" => format!("file {:04o} {}", octal(mode), hashes[path]),
                _ => format!("{kind} {:04o}", octal(mode)),
            };
            (path.to_owned(), what)
        })
        .collect()
}

fn octal(mode: &str) -> u32 {
    u32::from_str_radix(mode, 8).unwrap() & 0o777
}

/// The same of the ext4 filesystem in `disk`, taken out by debugfs; e2fsck finds nothing in it.
fn taken_out(disk: &Path, folder: &Path) -> Tree {
    let raw = folder.join("whole.raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(disk)
            .arg(&raw),
    );
    let part = format!("{}?offset={START}", raw.display());
    judge(Command::new("e2fsck").arg("-fn").arg(&part));
    let root = folder.join("root");
    fs::create_dir(&root).unwrap();
    judge(
        Command::new("debugfs")
            .arg("-R")
            .arg(format!("rdump / {}", root.display()))
            .arg(&part),
    );
    let mut tree = Tree::new();
    walk(&root, "", &mut tree);
    tree.remove("lost+found");
    tree
}

fn walk(folder: &Path, prefix: &str, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let metadata = entry.path().symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        let what = if metadata.is_symlink() {
            format!("link to {}", fs::read_link(entry.path()).unwrap().display())
        } else if metadata.is_dir() {
            walk(&entry.path(), &format!("{path}/"), tree);
            format!("d {mode:04o}")
        } else {
            format!("file {mode:04o} {}", hash(&entry.path()))
        };
        tree.insert(path, what);
    }
}

#[test]
fn exactly_what_the_plan_lists_is_different_and_undo_takes_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some((guest, disk)) = disk(folder.path(), "qcow2") else {
        return;
    };
    let original = folder.path().join("original.qcow2");
    fs::copy(&disk, &original).unwrap();
    let before = hash(&disk);
    let ran = inject(&disk).exits(0);
    assert_ne!(hash(&disk), before);
    judge(
        Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&disk),
    );

    // The files: those of the plan, and no others.
    let json = ran.json();
    let edits = json["plan"]["edits"].as_array().unwrap();
    let planned: BTreeSet<String> = edits
        .iter()
        .map(|edit| {
            edit["path"]
                .as_str()
                .unwrap()
                .trim_start_matches('/')
                .to_owned()
        })
        .collect();
    assert!(planned.len() > 3, "{planned:?}");
    let (old, new) = (listed(&guest), taken_out(&disk, folder.path()));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut different: BTreeSet<String> = paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .cloned()
        .collect();
    // A new file may need its directory.
    different.retain(|path| {
        let directory = format!("{path}/");
        !(new[path].starts_with("d ") && planned.iter().any(|file| file.starts_with(&directory)))
    });
    assert_eq!(different, planned);
    for edit in edits {
        let path = edit["path"].as_str().unwrap().trim_start_matches('/');
        let after = edit["after"]["sha256"].as_str().unwrap();
        assert!(new[path].ends_with(after), "{path}: {}", new[path]);
    }

    // The bytes of the disk: those of the ledger, and no others.
    let ledger = json["ledger"]["files"].as_array().unwrap();
    let ranges: Vec<(u64, u64)> = ledger
        .iter()
        .flat_map(|file| file["ranges"].as_array().unwrap())
        .map(|range| {
            (
                range["start"].as_u64().unwrap(),
                range["end"].as_u64().unwrap(),
            )
        })
        .collect();
    let (ours, theirs) = (raw(&original), raw(&disk));
    assert_eq!(ours.len(), theirs.len());
    for (at, (a, b)) in (0u64..)
        .step_by(512)
        .zip(ours.chunks(512).zip(theirs.chunks(512)))
    {
        let listed = || {
            ranges
                .iter()
                .any(|(start, end)| at < *end && at + 512 > *start)
        };
        assert!(
            a == b || listed(),
            "byte {at} was changed, and the ledger does not say so"
        );
    }

    // Changed twice, the way back would be lost.
    inject(&original).exits(0);
    run(["undo".as_ref(), original.as_os_str()]).exits(0);
    let again = run([
        "inject".as_ref(),
        "--in-place".as_ref(),
        "--for=vmware".as_ref(),
        disk.as_os_str(),
    ]);
    assert!(
        again.code == 2 || again.stderr.contains("nothing to change"),
        "{}",
        again.stderr
    );

    assert!(undo_file(&disk).exists());
    run(["undo".as_ref(), disk.as_os_str()]).exits(0);
    assert_eq!(hash(&disk), before);
    assert_eq!(hash(&original), before);
    assert!(!undo_file(&disk).exists());
    run(["undo".as_ref(), disk.as_os_str()])
        .exits(2)
        .says(&["nothing to undo"]);
}

/// The bytes of a disk as qemu-img reads it.
fn raw(disk: &Path) -> Vec<u8> {
    let format = disk.extension().unwrap().to_str().unwrap();
    common::images::content(disk, format)
}

#[test]
fn a_run_that_is_killed_is_taken_back_wherever_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, disk)) = disk(folder.path(), "raw") else {
        return;
    };
    let before = hash(&disk);
    let mut command = rehost();
    command
        .args(["inject", "--in-place", "--quiet"])
        .arg(&disk)
        .stderr(Stdio::null());
    let journal = disk.with_extension("raw.rehost-journal");
    let (mut killed, mut finished) = (0, 0);
    for nth in 0..8u64 {
        let mut child = command.spawn().unwrap();
        // The plan takes seconds, the change itself a moment: it begins with the journal.
        while !journal.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(nth * nth));
        child.kill().unwrap();
        child.wait().unwrap();
        if journal.exists() {
            killed += 1;
            run(["info".as_ref(), disk.as_os_str()])
                .exits(2)
                .says(&["half changed"]);
        } else {
            finished += 1;
            assert!(undo_file(&disk).exists());
        }
        run(["undo".as_ref(), disk.as_os_str()]).exits(0);
        assert_eq!(hash(&disk), before, "run {nth}");
        assert!(!journal.exists() && !undo_file(&disk).exists());
    }
    assert!(
        killed > 0,
        "no run of {} was killed in the middle",
        killed + finished
    );
}

#[test]
fn a_guest_that_ran_since_is_not_undone() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, disk)) = disk(folder.path(), "raw") else {
        return;
    };
    inject(&disk).exits(0);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let now = file.metadata().unwrap().modified().unwrap();
    file.set_modified(now + Duration::from_secs(1)).unwrap();
    let is = hash(&disk);
    run(["undo".as_ref(), disk.as_os_str()])
        .exits(2)
        .says(&["changed since"]);
    assert_eq!(hash(&disk), is);
}

#[test]
fn another_system_than_the_chosen_one_is_asked_for_by_its_volume() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, disk)) = disk(folder.path(), "qcow2") else {
        return;
    };
    let plan = |root: &str| {
        run([
            "inject".as_ref(),
            "--dry-run".as_ref(),
            "--json".as_ref(),
            "--root".as_ref(),
            root.as_ref(),
            disk.as_os_str(),
        ])
    };
    let edits = |ran: common::Ran| -> Value { ran.exits(0).json()["plan"]["edits"].clone() };
    assert_eq!(edits(plan("1")), edits(plan("0:1")));
    plan("0:5")
        .exits(2)
        .says(&["no operating system on 0:5", "found: Debian"]);
}
