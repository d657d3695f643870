//! Verbs that change an image in place, as a user runs them: the right bytes, or the old ones.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::images::{content, image, info, journal, sound};
use common::{hash, have, judge, rehost, run, sample_raw};

const SIZE: u64 = 24 << 20;

/// The formats whose images can be changed in place, as this program and as qemu-img call them.
const EDITABLE: [(&str, &str); 6] = [
    ("raw", "raw"),
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhd", "vpc"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
];

#[test]
fn every_editable_format_grows_and_shrinks_and_qemu_img_agrees() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let before = fs::read(&raw).unwrap();
    for (format, theirs) in EDITABLE {
        let path = image(&raw, theirs, &format!("resized.{format}"));
        run(["resize".as_ref(), path.as_os_str(), "+9M".as_ref()]).exits(0);
        let mut expected = before.clone();
        expected.resize(33 << 20, 0);
        assert!(content(&path, theirs) == expected, "{format}");
        sound(&path, theirs);

        let smaller = [
            "resize".as_ref(),
            path.as_os_str(),
            "-3M".as_ref(),
            "--json".as_ref(),
        ];
        run(smaller).exits(2).says(&["--shrink"]);
        let shrunk = run(smaller.into_iter().chain(["--shrink".as_ref()])).exits(0);
        assert_eq!(shrunk.json()["before"], 33 << 20);
        assert_eq!(shrunk.json()["after"], 30 << 20);
        expected.truncate(30 << 20);
        assert!(content(&path, theirs) == expected, "{format}");
        sound(&path, theirs);

        let into_data = ["resize".as_ref(), path.as_os_str(), "10M".as_ref()];
        let shrink = into_data.into_iter().chain(["--shrink".as_ref()]);
        run(shrink.clone()).exits(2).says(&["--force"]);
        assert!(content(&path, theirs) == expected, "{format}");
        run(shrink.chain(["--force".as_ref()])).exits(0);
        expected.truncate(10 << 20);
        assert!(content(&path, theirs) == expected, "{format}");
        sound(&path, theirs);
        assert!(!journal(&path).exists());
        assert_eq!(info(&path, theirs)["virtual-size"], 10 << 20);
    }
}

#[test]
fn a_part_of_a_disk_goes_to_a_file_to_standard_output_and_over_another_disk() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let bytes = fs::read(&raw).unwrap();
    let source = image(&raw, "qcow2", "a.qcow2");
    let part = folder.path().join("part.qcow2");
    let (from, len) = (1_234_567, 3_210_987);
    let range = ["--offset", "1234567", "--length", "3210987"];
    let dd = |target: &Path| {
        let mut command = rehost();
        command.arg("dd").args(range).arg(&source).arg(target);
        command
    };
    judge(&mut dd(&part));
    let mut expected = bytes[from..from + len].to_vec();
    expected.resize(len.next_multiple_of(512), 0);
    assert!(content(&part, "qcow2") == expected);

    let streamed = dd(Path::new("-")).output().unwrap();
    assert!(streamed.status.success());
    assert!(streamed.stdout == bytes[from..from + len]);

    for (format, theirs) in EDITABLE {
        let target = image(&raw, theirs, &format!("over.{format}"));
        let at = 7_000_001;
        judge(dd(&target).args(["--to-offset", &at.to_string()]));
        let mut expected = bytes.clone();
        expected[at..at + len].copy_from_slice(&bytes[from..from + len]);
        assert!(content(&target, theirs) == expected, "{format}");
        sound(&target, theirs);
    }
    let beyond = ["dd", "--offset", "24M", "--length", "1"];
    let args = beyond.iter().map(AsRef::as_ref);
    run(args.chain([source.as_os_str(), "x.raw".as_ref()]))
        .exits(2)
        .says(&["a.qcow2", "past the end"]);
}

#[test]
fn a_killed_change_in_place_is_refused_to_readers_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let (new, raw) = (
        folder.path().join("new.raw"),
        folder.path().join("disk.raw"),
    );
    sample_raw(&raw, 3 * SIZE);
    fs::write(&new, vec![0xa7; 3 * SIZE as usize]).unwrap();
    let before = hash(&raw);
    let after = hash(&new);
    let mut killed = 0;
    for nth in 0..40u64 {
        let mut child = rehost()
            .args(["dd", "--quiet", "--to-offset", "0"])
            .arg(&new)
            .arg(&raw)
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(3 + nth * 7 % 160));
        child.kill().unwrap();
        child.wait().unwrap();
        if journal(&raw).exists() {
            run(["info".as_ref(), raw.as_os_str()]).exits(2).says(&[
                "disk.raw",
                "half changed",
                "rehost undo",
            ]);
            let how: &[&str] = if nth % 2 == 0 {
                &["undo"]
            } else {
                &["check", "--repair"]
            };
            let how = how.iter().map(AsRef::as_ref);
            run(how.chain([raw.as_os_str()])).exits(0);
            assert!(!journal(&raw).exists());
            killed += 1;
        } else if hash(&raw) == after {
            // It was quicker than the signal.
            sample_raw(&raw, 3 * SIZE);
        }
        assert_eq!(hash(&raw), before, "run {nth}");
    }
    assert!(killed > 3, "only {killed} runs were killed in the middle");
    run(["undo".as_ref(), raw.as_os_str()])
        .exits(2)
        .says(&["no journal"]);
}

#[test]
fn an_image_that_qemu_has_open_is_not_changed() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    use std::io::{BufRead, BufReader, Write};
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let mut qemu = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&raw)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = qemu.stdin.take().unwrap();
    writeln!(stdin, "length").unwrap();
    let mut said = String::new();
    BufReader::new(qemu.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    run(["resize".as_ref(), raw.as_os_str(), "+1M".as_ref()])
        .exits(2)
        .says(&["a.raw", "in use by another program"]);
    drop(stdin);
    qemu.wait().unwrap();
    assert!(!journal(&raw).exists());
    run(["resize".as_ref(), raw.as_os_str(), "+1M".as_ref()]).exits(0);
}

#[test]
fn an_error_is_json_too_when_the_result_is() {
    let ran = run(["info", "--json", "/nowhere/disk.qcow2"]).exits(2);
    let error = &ran.json()["error"];
    assert_eq!(error["kind"], "io");
    assert_eq!(error["file"], "/nowhere/disk.qcow2");
    let message = error["message"].as_str().unwrap();
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}
