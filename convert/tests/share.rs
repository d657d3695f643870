//! `convert --share`: blocks shared on a file system that can, copied on one that cannot.
//!
//! The judge of sharing is filefrag, which asks the file system.
#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{have, judge, run, sample_raw};

const SIZE: u64 = 24 << 20;

/// An XFS on a loop device, while it lives.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// `None`, having said why, where the kernel or the rights for it are missing.
    fn xfs() -> Option<Self> {
        if !have("mkfs.xfs") || !have("filefrag") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("xfs.img");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(512 << 20)
            .unwrap();
        judge(
            Command::new("mkfs.xfs")
                .args(["-q", "-m", "reflink=1"])
                .arg(&image),
        );
        let point = folder.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &point])
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: needs root and a kernel that mounts XFS from a loop device");
            return None;
        }
        Some(Self { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

fn convert(folder: &Path, from: &str, to: &str, format: &str, share: &str) -> serde_json::Value {
    let (from, to) = (folder.join(from), folder.join(to));
    let paths = [from.as_os_str(), to.as_os_str()];
    let options = ["convert", "--json", "-q", "--share", share, "--to", format];
    let told = run(options.iter().map(AsRef::as_ref).chain(paths))
        .exits(0)
        .json();
    let format = if format == "vhd" { "vpc" } else { format };
    judge(
        Command::new("qemu-img")
            .args(["compare", "-q", "-F", format])
            .args([folder.join("a.raw"), to]),
    );
    told
}

fn number(told: &serde_json::Value, name: &str) -> u64 {
    told[name].as_u64().unwrap()
}

#[test]
fn what_cannot_be_shared_is_copied_and_adds_up() {
    if !have("qemu-img") {
        return;
    }
    // A file system in memory shares nothing.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = folder.path();
    sample_raw(&folder.join("a.raw"), SIZE);
    for share in ["never", "auto", "always"] {
        for (from, to, format) in [
            ("a.raw", "b", "qcow2"),
            ("b", "c", "raw"),
            ("a.raw", "d", "raw"),
            ("a.raw", "e", "vhdx"),
            ("b", "f", "vmdk"),
        ] {
            let told = convert(folder, from, &format!("{to}-{share}"), format, share);
            let sum = ["data", "shared", "zero", "hole"].map(|name| number(&told, name));
            assert_eq!(sum.iter().sum::<u64>(), SIZE, "{format} {share}: {told}");
            assert_eq!(number(&told, "shared"), 0);
            if to == "b" {
                std::fs::rename(folder.join(format!("b-{share}")), folder.join("b")).unwrap();
            }
        }
    }
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    let Some(mounted) = Mounted::xfs() else {
        return;
    };
    if !have("qemu-img") {
        return;
    }
    let folder = mounted.path();
    sample_raw(&folder.join("a.raw"), SIZE);
    for (from, to, format) in [
        ("a.raw", "b.qcow2", "qcow2"),
        ("b.qcow2", "c.raw", "raw"),
        ("a.raw", "d.raw", "raw"),
    ] {
        let told = convert(&folder, from, to, format, "auto");
        // The sample is in small pieces; whole clusters of it can be shared.
        assert!(number(&told, "shared") >= 256 << 10, "{format}: {told}");
        let extents = Command::new("filefrag")
            .arg("-v")
            .arg(folder.join(to))
            .output()
            .unwrap();
        let extents = String::from_utf8_lossy(&extents.stdout).into_owned();
        assert!(extents.contains("shared"), "{extents}");
    }
    let told = convert(&folder, "a.raw", "e.raw", "raw", "never");
    assert_eq!(number(&told, "shared"), 0);
}
