//! Sample guests of other families than the first: converted with one command, booted before and after.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{guest, have, judge, run};

/// How a guest is converted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversion<'a> {
    /// The bus of the new machine's disks.
    pub(crate) bus: &'a str,
    /// Options that say how its volumes are opened.
    pub(crate) opening: &'a [&'a str],
}

/// How a guest shows on virtio that it does not find its root.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stuck {
    /// It says so, and ends in the shell of its initramfs: as that shell's recogniser is called.
    In(&'static str),
    /// It only waits: dracut without systemd tries for minutes before it says so (`rd.retry`), and under
    /// software emulation for longer than the 300 s that this was tried for. Its udev has started, and
    /// nothing came of that.
    Waiting,
}

/// The guest `name`, where it can be booted; it does not boot from virtio disks as it is.
#[track_caller]
pub(crate) fn stuck(name: &str, how: Stuck, opening: &[&str]) -> Option<PathBuf> {
    let guest = guest(name).filter(|_| have("qemu-system-x86_64") && have("qemu-img"))?;
    let vmx = guest.join("guest.vmx");
    let limit = match how {
        Stuck::In(_) => "--timeout=300",
        Stuck::Waiting => "--timeout=100",
    };
    let mut arguments = vec!["verify", "--json", limit, vmx.to_str().unwrap()];
    arguments.extend(opening);
    let proof: Value = run(arguments).exits(3).json();
    let verdict = &proof["verdict"];
    // Some say nothing of their initramfs; their root would be the next stage.
    let stage = verdict["stage"].as_str().unwrap();
    assert!(["kernel", "initramfs"].contains(&stage), "{verdict}");
    match how {
        Stuck::In(shell) => {
            assert_eq!(verdict["outcome"], "failed", "{verdict}");
            assert_eq!(verdict["recogniser"], shell, "{verdict}");
            let milestones = verdict["milestones"].as_array().unwrap();
            let lost = ["initramfs-no-device", "alpine-mount"];
            let told = |seen: &Value| lost.iter().any(|id| seen["id"] == *id);
            assert!(milestones.iter().any(told), "{verdict}");
        }
        Stuck::Waiting => {
            assert_eq!(verdict["outcome"], "timed-out", "{verdict}");
            let lines = verdict["tail"].as_array().unwrap().iter();
            // The kernel has something to say at any time.
            let of_kernel = |line: &&str| {
                let time = line.strip_prefix('[').map(str::trim_start);
                time.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()))
            };
            let mut lines = lines.filter_map(Value::as_str);
            let last = lines.rfind(|line| !of_kernel(line)).unwrap();
            assert!(last.starts_with("Starting systemd-udevd"), "{verdict}");
        }
    }
    Some(guest)
}

/// Converts a sample guest for KVM, which proves it by a boot; gives its disks as raw images, and the
/// report.
pub(crate) fn converted(guest: &Path, how: Conversion<'_>, folder: &Path) -> (Vec<PathBuf>, Value) {
    let out = folder.join(how.bus);
    let vmx = guest.join("guest.vmx");
    let bus = format!("--disk-bus={}", how.bus);
    let mut arguments = vec!["migrate", vmx.to_str().unwrap(), "--to=kvm", &bus];
    arguments.extend(["--no-preflight", "--json", "-o", out.to_str().unwrap()]);
    arguments.extend(how.opening);
    let report: Value = run(arguments).exits(0).json();
    assert_eq!(report["ending"], "proven", "{report}");
    let disks = report["disks"].as_array().unwrap();
    let disks = (0..disks.len()).map(|nth| {
        let number = if nth == 0 {
            String::new()
        } else {
            format!("-{nth}")
        };
        raw(&out.join(format!("guest{number}.qcow2")))
    });
    (disks.collect(), report)
}

/// The same disk as a raw image beside it, made by qemu-img.
pub(crate) fn raw(image: &Path) -> PathBuf {
    let raw = image.with_extension("raw");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(image)
            .arg(&raw),
    );
    raw
}

/// Partition `number` of a raw disk as a file of its own.
pub(crate) fn partition(raw: &Path, number: usize) -> PathBuf {
    let table: Value =
        serde_json::from_str(&judge(Command::new("sfdisk").arg("-J").arg(raw))).unwrap();
    let entry = &table["partitiontable"]["partitions"][number - 1];
    let sectors = |key: &str| entry[key].as_u64().unwrap();
    let part = raw.with_extension(format!("part{number}"));
    judge(
        Command::new("dd")
            .args(["bs=512", "conv=sparse", "status=none"])
            .arg(format!("skip={}", sectors("start")))
            .arg(format!("count={}", sectors("size")))
            .arg(format!("if={}", raw.display()))
            .arg(format!("of={}", part.display())),
    );
    part
}
