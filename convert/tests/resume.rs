//! Conversions killed with SIGKILL at random points, and carried on, judged by qemu-img.
#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use common::{have, judge, ran, rehost, sample_raw};

const SIZE: u64 = 48 << 20;

fn convert(options: &[&str], source: &Path, target: &Path) -> Command {
    let mut command = rehost();
    command
        .args([
            "convert",
            "--resume",
            "--checkpoint",
            "512K",
            "--threads",
            "3",
        ])
        .args(options)
        .args([source, target]);
    command
}

fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Kills at random points until a run gets through; gives how many were killed, and how many of the
/// others went on with something.
fn to_the_end(options: &[&str], source: &Path, target: &Path, seed: &mut u64) -> (u32, u32) {
    // Slow enough that a killed run is in the middle of it, then free.
    let slow: Vec<&str> = options
        .iter()
        .chain(&["--rate-limit", "4M"])
        .copied()
        .collect();
    let (mut kills, mut resumed) = (0, 0);
    for _ in 0..5 {
        let mut child = convert(&slow, source, target)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(60 + noise(seed) % 250));
        // The child's own id: it is not waited for yet.
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!target.exists() || output.status.success());
        kills += u32::from(!output.status.success());
        resumed += u32::from(String::from_utf8_lossy(&output.stderr).contains("Going on at"));
        if output.status.success() {
            return (kills, resumed);
        }
    }
    let last = ran(convert(options, source, target).output().unwrap()).exits(0);
    resumed += u32::from(last.stderr.contains("Going on at"));
    (kills, resumed)
}

#[test]
fn a_killed_conversion_goes_on_to_the_same_content_in_every_format() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let mut seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
        | 1;
    println!("seed {seed}");
    let targets: [(&str, &str, &[&str]); 9] = [
        ("raw", "raw", &[]),
        ("qcow2", "qcow2", &[]),
        ("zlib.qcow2", "qcow2", &["--compress", "zlib"]),
        (
            "zstd.qcow2",
            "qcow2",
            &["--compress", "zstd", "--checksum", "sha256"],
        ),
        ("vmdk", "vmdk", &[]),
        ("stream.vmdk", "vmdk", &["--compress", "zlib"]),
        ("vhd", "vpc", &[]),
        ("vhdx", "vhdx", &[]),
        ("raw.gz", "", &[]),
    ];
    let (mut kills, mut resumed) = (0, 0);
    for (name, format, options) in targets {
        let target = folder.path().join(format!("b.{name}"));
        let (killed, carried_on) = to_the_end(options, &raw, &target, &mut seed);
        kills += killed;
        resumed += carried_on;
        if format.is_empty() {
            let plain = Command::new("zcat").arg(&target).output().unwrap();
            assert!(plain.status.success() && plain.stdout == fs::read(&raw).unwrap());
        } else {
            judge(
                Command::new("qemu-img")
                    .args(["compare", "-f", "raw", "-F", format])
                    .args([&raw, &target]),
            );
        }
        if matches!(format, "qcow2" | "vmdk") {
            judge(
                Command::new("qemu-img")
                    .args(["check", "-f", format])
                    .arg(&target),
            );
        }
        // The same bytes as in one go, where nothing in them is random.
        if matches!(format, "raw" | "qcow2" | "") {
            let whole = folder.path().join(format!("whole.{name}"));
            ran(convert(options, &raw, &whole).output().unwrap()).exits(0);
            assert!(
                fs::read(&whole).unwrap() == fs::read(&target).unwrap(),
                "{name}"
            );
            if options.contains(&"--checksum") {
                let sidecar = |image: &Path| {
                    let mut name = image.as_os_str().to_owned();
                    name.push(".checksums.json");
                    fs::read(name).unwrap()
                };
                assert_eq!(sidecar(&whole), sidecar(&target));
            }
        }
        let left = fs::read_dir(folder.path()).unwrap();
        let left = left.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(".partial")
        });
        assert_eq!(left.count(), 0);
    }
    println!("{kills} kills, {resumed} runs went on");
    assert!(kills >= 20, "{kills} kills");
    assert!(resumed >= 8, "{resumed} runs went on");
}

#[test]
fn a_conversion_goes_on_only_with_the_same_source_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, target) = (folder.path().join("a.raw"), folder.path().join("b.qcow2"));
    sample_raw(&raw, SIZE);
    let mut child = convert(&["--rate-limit", "8M"], &raw, &target)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = folder.path().join("b.qcow2.partial.journal");
    // Ends because the copy takes seconds and writes its journal after a fraction of one.
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 3 {
        sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    ran(convert(&["--compress", "zstd"], &raw, &target)
        .output()
        .unwrap())
    .exits(2)
    .says(&["other options"]);
    let file = fs::OpenOptions::new().write(true).open(&raw).unwrap();
    let times = fs::metadata(&raw).unwrap().modified().unwrap();
    file.set_modified(times + Duration::from_secs(1)).unwrap();
    ran(convert(&[], &raw, &target).output().unwrap())
        .exits(2)
        .says(&["a.raw", "source changed", "--resume"]);
    file.set_modified(times).unwrap();
    let on = ran(convert(&[], &raw, &target).output().unwrap()).exits(0);
    assert!(on.stderr.contains("Going on at"), "{}", on.stderr);
    assert!(!journal.exists());
    // Without --resume nothing is gone on with, and what was left is replaced.
    ran(rehost()
        .args(["convert", "--resume", "-o", "subformat=monolithicFlat"])
        .args([&raw, &folder.path().join("c.vmdk")])
        .output()
        .unwrap())
    .exits(2)
    .says(&["--resume", "one file"]);
}
