//! Copies judged by qemu-img: every format to every other, in bounded memory, and what a killed
//! copy leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rehost::copy::{Copied, CopyOptions, compare, copy, map};
use rehost_block::{File, SameFolder};
use rehost_image::{Format, Image, OneFile, TargetSpec, create};

/// The variable that turns a test of this program into the child that does the work.
const CHILD: &str = "REHOST_TEST_COPY";

fn have(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let status = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if status.is_err() {
            println!("skipped: needs {tool}");
        }
        status.is_ok()
    })
}

fn qemu_img(folder: &Path, args: &[&str]) {
    let output = Command::new("qemu-img")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len).collect()
}

/// A raw disk of `size` bytes with `islands` of noise, text and zeroes spread over it.
fn disk(path: &Path, size: u64, islands: u64, len: usize) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for nth in 0..islands {
        let at = nth * (size / islands) + nth * 512 % 8192;
        let mut bytes = noise(nth + 1, len);
        if nth % 3 == 1 {
            bytes.iter_mut().for_each(|byte| *byte = *byte & 7 | 64);
        }
        if nth % 4 == 2 {
            bytes[len / 4..len / 2].fill(0);
        }
        let len = bytes.len().min(usize::try_from(size - at).unwrap());
        file.write_all_at(&bytes[..len], at).unwrap();
    }
}

fn target(kind: &str, size: u64) -> TargetSpec {
    let (format, options) = match kind {
        "raw" => (Format::Raw, ""),
        "qcow2" | "qcow2-zlib" | "qcow2-zstd" => (Format::Qcow2, ""),
        "stream" => (Format::Vmdk, "subformat=streamOptimized"),
        _ => (Format::Vmdk, "subformat=monolithicSparse"),
    };
    let mut spec = TargetSpec::new(format, size, format!("to-{kind}")).unwrap();
    spec.options.parse(options).unwrap();
    spec.compression = kind
        .strip_prefix("qcow2-")
        .map(|codec| codec.parse().unwrap());
    spec
}

const KINDS: [&str; 6] = ["raw", "qcow2", "qcow2-zlib", "qcow2-zstd", "vmdk", "stream"];

/// Copies the image `from` to `folder/to-KIND`.
fn convert(from: &Path, folder: &Path, kind: &str, threads: usize) -> Copied {
    let image = Image::open(from, None, &SameFolder).unwrap();
    let storage = File::create_new(folder.join(format!("to-{kind}"))).unwrap();
    let target = create(&target(kind, image.size()), Arc::new(storage), &OneFile).unwrap();
    let options = CopyOptions {
        threads: NonZeroUsize::new(threads).unwrap(),
        ..CopyOptions::default()
    };
    let copied = copy(&*image.disk(), &*target, &options).unwrap();
    target.publish().unwrap();
    copied
}

#[test]
fn every_format_becomes_every_other_and_the_source_stays_as_it_was() {
    if !have(&["qemu-img"]) {
        return;
    }
    const SIZE: u64 = (48 << 20) + 512;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(&folder.join("disk.raw"), SIZE, 20, 700_000);
    let sources = [
        ("raw", "s.raw", ""),
        ("qcow2", "s.qcow2", "compression_type=zstd"),
        ("vmdk", "s.vmdk", "subformat=monolithicSparse"),
        ("vmdk", "stream.vmdk", "subformat=streamOptimized"),
        ("vmdk", "flat.vmdk", "subformat=monolithicFlat"),
    ];
    for (format, name, options) in sources {
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        if format == "qcow2" {
            args.push("-c");
        }
        args.extend(["disk.raw", name]);
        qemu_img(folder, &args);
        let before = fs::read(folder.join(name)).unwrap();
        for kind in KINDS {
            let copied = convert(&folder.join(name), folder, kind, 3);
            assert_eq!(copied.data + copied.zero + copied.hole, SIZE);
            let to = format!("to-{kind}");
            let format = target(kind, 1).format().as_str();
            qemu_img(
                folder,
                &["compare", "-f", "raw", "-F", format, "disk.raw", &to],
            );
            if format != "raw" {
                qemu_img(folder, &["check", "-f", format, &to]);
            }
            let open = |name: &str| Image::open(folder.join(name), None, &SameFolder).unwrap();
            let (ours, theirs) = (open(&to).disk(), open(name).disk());
            assert!(compare(&*ours, &*theirs).unwrap().same());
            let mapped: u64 = map(&*ours).map(|extent| extent.unwrap().length).sum();
            assert_eq!(mapped, SIZE);
            fs::remove_file(folder.join(to)).unwrap();
        }
        assert!(
            fs::read(folder.join(name)).unwrap() == before,
            "{name} changed"
        );
    }
}

/// Starts this test program again, to run only `test`, with `value` for [`CHILD`].
fn child(test: &str, value: &str, shell: &str) -> Output {
    let command = format!("{shell} exec \"$0\" --exact {test} --nocapture");
    Command::new("bash")
        .args(["-c", &command])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, value)
        .output()
        .unwrap()
}

/// In the child: the folder and the kind of target.
fn work() -> Option<(std::path::PathBuf, String)> {
    let work = std::env::var(CHILD).ok()?;
    let (folder, kind) = work.split_once('|').unwrap();
    Some((folder.into(), kind.to_owned()))
}

#[test]
fn a_disk_of_64_gib_is_copied_within_256_mib_of_memory() {
    if let Some((folder, kind)) = work() {
        convert(&folder.join("disk.raw"), &folder, &kind, 32);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        println!(
            "\npeak {}",
            peak.unwrap().split_whitespace().nth(1).unwrap()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    disk(&folder.path().join("disk.raw"), 64 << 30, 64, 3 << 20);
    for kind in ["raw", "qcow2", "qcow2-zstd", "vmdk", "stream"] {
        let value = format!("{}|{kind}", folder.path().display());
        let test = "a_disk_of_64_gib_is_copied_within_256_mib_of_memory";
        let output = child(test, &value, "");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{kind}: {said}");
        let peak = said.lines().find_map(|line| line.strip_prefix("peak "));
        let peak: u64 = peak.unwrap().parse().unwrap();
        println!("{kind}: {} MiB", peak / 1024);
        assert!(peak < 256 << 10, "{kind}: {peak} KiB");
        fs::remove_file(folder.path().join(format!("to-{kind}"))).unwrap();
    }
}

/// `ulimit -f` makes the kernel kill the process at a write past the limit: a run that dies with
/// the target half written.
#[test]
fn a_killed_copy_leaves_no_image() {
    if let Some((folder, kind)) = work() {
        convert(&folder.join("disk.raw"), &folder, &kind, 2);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    disk(&folder.path().join("disk.raw"), 24 << 20, 24, 1 << 20);
    for kind in ["qcow2", "qcow2-zstd", "vmdk", "stream"] {
        let value = format!("{}|{kind}", folder.path().display());
        let output = child("a_killed_copy_leaves_no_image", &value, "ulimit -f 8192;");
        assert!(!output.status.success(), "{kind}");
        let path = folder.path().join(format!("to-{kind}"));
        assert!(fs::metadata(&path).unwrap().len() > 1 << 20, "{kind}");
        let format = target(kind, 1).format();
        let opened = Image::open(&path, Some(format), &SameFolder);
        assert!(opened.is_err(), "{kind}: opened");
        let sniffed = Format::sniff(&File::open(&path).unwrap()).unwrap();
        assert_eq!(sniffed, Format::Raw);
    }
}
