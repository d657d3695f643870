//! Verbs on children and parents, and on internal snapshots, as a user runs them, judged by qemu-img.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::{content, image, info, journal, sound};
use common::{hash, have, judge, rehost, run, sample_raw};

const SIZE: u64 = 24 << 20;

/// A raw base, a qcow2 child of it with `size` bytes, changed here and there by qemu-io.
fn chain(folder: &Path, base_format: &str, size: &str) -> (PathBuf, PathBuf) {
    let raw = folder.join("a.raw");
    sample_raw(&raw, SIZE);
    let base = image(&raw, base_format, &format!("base.{base_format}"));
    let child = folder.join("child.qcow2");
    judge(
        rehost()
            .arg("create")
            .arg(&child)
            .arg(size)
            .arg("-B")
            .arg(&base)
            .args(["-F", base_format]),
    );
    judge(
        Command::new("qemu-io")
            .args(["-f", "qcow2"])
            .args(["-c", "write -P 1 100k 3k", "-c", "write -P 2 5M 2M"])
            .args(["-c", "write -z 9M 1M", "-c", "write -P 3 23M 1M"])
            .arg(&child),
    );
    (base, child)
}

#[test]
fn commit_puts_the_childs_data_into_its_parent_and_empties_it() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    for (base_format, keep) in [("raw", false), ("qcow2", false), ("qcow2", true)] {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = chain(folder.path(), base_format, "30M");
        let before = content(&child, "qcow2");
        let child_hash = hash(&child);
        let mut args = vec!["commit".as_ref(), child.as_os_str(), "--json".as_ref()];
        if keep {
            args.push("--keep".as_ref());
        }
        let said = run(args).exits(0).json();
        assert_eq!(said["emptied"], !keep);
        assert_eq!(said["parent_size"], 30 << 20);
        assert!(content(&base, base_format) == before, "{base_format}");
        assert!(content(&child, "qcow2") == before, "{base_format}");
        sound(&base, base_format);
        sound(&child, "qcow2");
        if !keep {
            let map = judge(
                Command::new("qemu-img")
                    .args(["map", "--output=json", "-f", "qcow2"])
                    .arg(&child),
            );
            assert!(!map.contains("\"depth\": 0, \"present\": true"), "{map}");
        } else {
            assert_eq!(hash(&child), child_hash);
        }
        assert!(!journal(&base).exists());
    }
}

#[test]
fn rebase_keeps_the_content_whatever_the_new_parent_holds() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, child) = chain(folder.path(), "qcow2", "24M");
    let before = content(&child, "qcow2");
    // The new parent differs in its middle and is shorter.
    let other = folder.path().join("other.raw");
    let mut bytes = fs::read(folder.path().join("a.raw")).unwrap();
    bytes[3 << 20..4 << 20].fill(0x77);
    bytes.truncate(20 << 20);
    fs::write(&other, bytes).unwrap();
    let rebase = |to: &Path, extra: &[&str]| {
        let mut command = rehost();
        command
            .arg("rebase")
            .arg("-b")
            .arg(to)
            .arg(&child)
            .args(extra);
        command
    };
    judge(&mut rebase(&other, &["-F", "raw"]));
    assert!(content(&child, "qcow2") == before);
    assert_eq!(info(&child, "qcow2")["backing-filename"], "other.raw");
    sound(&child, "qcow2");
    // Back again by name only: the content that differs now comes from the old base.
    judge(&mut rebase(&base, &["--unsafe"]));
    assert_eq!(info(&child, "qcow2")["backing-filename"], "base.qcow2");
    assert!(content(&child, "qcow2") == before);
    let own = rebase(&child, &[]).output().unwrap();
    common::ran(own).exits(2).says(&["its own parent"]);
}

#[test]
fn flatten_needs_no_parent_any_more() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, child) = chain(folder.path(), "qcow2", "30M");
    let before = content(&child, "qcow2");
    let alone = folder.path().join("alone.vhdx");
    run(["flatten".as_ref(), child.as_os_str(), alone.as_os_str()]).exits(0);
    run(["flatten".as_ref(), child.as_os_str()]).exits(0);
    fs::remove_file(&base).unwrap();
    assert!(content(&child, "qcow2") == before);
    assert!(content(&alone, "vhdx") == before);
    assert!(info(&child, "qcow2").get("backing-filename").is_none());
    sound(&child, "qcow2");
    run(["flatten".as_ref(), child.as_os_str()])
        .exits(2)
        .says(&["stands alone already"]);
}

#[test]
fn snapshots_are_taken_read_gone_back_to_and_forgotten() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let path = image(&raw, "qcow2", "a.qcow2");
    let first = content(&path, "qcow2");
    let snapshot = |option: &str, name: &str| {
        run([
            "snapshot".as_ref(),
            path.as_os_str(),
            option.as_ref(),
            name.as_ref(),
        ])
    };
    snapshot("--create", "first").exits(0);
    judge(
        Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write -P 9 1M 4M"])
            .arg(&path),
    );
    let second = content(&path, "qcow2");
    assert!(first != second);
    snapshot("--create", "second").exits(0);
    snapshot("--create", "second")
        .exits(2)
        .says(&["a.qcow2", "second"]);
    sound(&path, "qcow2");
    let seen = judge(Command::new("qemu-img").args(["snapshot", "-l"]).arg(&path));
    assert!(seen.contains("first") && seen.contains("second"), "{seen}");
    let list = run(["snapshot".as_ref(), path.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    assert_eq!(list["snapshots"][1]["name"], "second");
    let told = run(["info".as_ref(), path.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    assert_eq!(told["layers"][0]["snapshots"][0]["name"], "first");

    let at = folder.path().join("first.raw");
    judge(
        rehost()
            .arg("convert")
            .args(["--snapshot", "first"])
            .arg(&path)
            .arg(&at),
    );
    assert!(fs::read(&at).unwrap() == first);
    let mut compare = rehost();
    compare.arg("compare").arg(&at).arg(&path);
    common::ran(compare.output().unwrap()).exits(1);
    judge(compare.args(["--right-snapshot", "first"]));

    snapshot("--apply", "first").exits(0);
    assert!(content(&path, "qcow2") == first);
    snapshot("--delete", "first").exits(0);
    snapshot("--apply", "second").exits(0);
    assert!(content(&path, "qcow2") == second);
    snapshot("--delete", "second").exits(0);
    sound(&path, "qcow2");
    snapshot("--delete", "second")
        .exits(2)
        .says(&["a.qcow2", "second"]);
    let vhdx = image(&raw, "vhdx", "a.vhdx");
    run([
        "snapshot".as_ref(),
        vhdx.as_os_str(),
        "--create".as_ref(),
        "x".as_ref(),
    ])
    .exits(2)
    .says(&["a.vhdx", "no internal snapshots"]);
}

#[test]
fn lost_clusters_are_found_and_mended() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let path = image(&raw, "qcow2", "a.qcow2");
    let before = content(&path, "qcow2");
    // The refcount block counts a cluster at the end of what is used, which nothing refers to.
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut entry = [0; 8];
    use std::os::unix::fs::FileExt;
    file.read_exact_at(&mut entry, 48).unwrap();
    let table = u64::from_be_bytes(entry);
    file.read_exact_at(&mut entry, table).unwrap();
    let block = u64::from_be_bytes(entry);
    let end = file.metadata().unwrap().len() / 65_536;
    file.set_len((end + 1) * 65_536).unwrap();
    file.write_all_at(&1u16.to_be_bytes(), block + 2 * end)
        .unwrap();
    let check = ["check".as_ref(), path.as_os_str(), "--json".as_ref()];
    let found = run(check).exits(1).json();
    assert_eq!(found["leaks"], 1, "{found}");
    let mended = run(check.into_iter().chain(["--repair".as_ref()]))
        .exits(0)
        .json();
    assert_eq!(mended["leaks-fixed"], 1, "{mended}");
    assert_eq!(mended["leaks"], 0);
    sound(&path, "qcow2");
    assert!(content(&path, "qcow2") == before);
}
