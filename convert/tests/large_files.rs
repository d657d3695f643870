//! Files that are larger than the memory which the program may use, into filesystems and out again: judged by
//! each filesystem's checker, ext4's content by debugfs.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::stacked::noise;
use common::{hash, have, judge, rehost};

const MIB: u64 = 1 << 20;

/// Memory that the program may map, in KiB: its own code and threads take about a quarter of it.
const MOST_KIB: &str = "409600";

/// The program, which may not map more than [`MOST_KIB`].
fn limited(arguments: &[&Path], stdout: Stdio) {
    let program = rehost();
    let status = Command::new("bash")
        .arg("-c")
        .arg(format!("ulimit -v {MOST_KIB} && exec \"$@\""))
        .arg("bash")
        .arg(program.get_program())
        .args(arguments)
        .stdout(stdout)
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
}

/// 520 MiB and a bit, most of it noughts.
fn large(path: &Path) {
    let file = File::create(path).unwrap();
    let size = 520 * MIB + 1234;
    file.set_len(size).unwrap();
    for (seed, at) in [0, 3 * MIB - 777, 128 * MIB, 400 * MIB + 5, size - 9999]
        .into_iter()
        .enumerate()
    {
        file.write_all_at(&noise(seed as u64 + 1, 9999), at)
            .unwrap();
    }
}

fn goes_in_and_out(make: &[&str], check: &[&str]) {
    if ![make[0], check[0], "bash"].into_iter().all(have) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [image, source, back] = ["image.raw", "source", "back"].map(|name| folder.join(name));
    File::create(&image).unwrap().set_len(800 * MIB).unwrap();
    judge(Command::new(make[0]).args(&make[1..]).arg(&image));
    large(&source);

    let inside = folder.join("image.raw:/large");
    let options = ["cp", "--in-place", "--volume=0"].map(Path::new);
    limited(&[&options[..], &[&source, &inside]].concat(), Stdio::null());
    judge(Command::new(check[0]).args(&check[1..]).arg(&image));
    let out = File::create(&back).unwrap();
    let [cat, volume, path] = ["cat", "--volume=0", "/large"].map(Path::new);
    limited(&[cat, volume, &image, path], out.into());
    assert_eq!(hash(&back), hash(&source), "{}", make[0]);
    if make[0] == "mke2fs" {
        let dumped = folder.join("dumped");
        let ask = format!("dump /large {}", dumped.display());
        judge(Command::new("debugfs").args(["-R", &ask]).arg(&image));
        assert_eq!(hash(&dumped), hash(&source));
    }
}

#[test]
fn a_file_larger_than_memory_goes_into_ext4_and_out() {
    goes_in_and_out(
        &["mke2fs", "-q", "-F", "-t", "ext4"],
        &["e2fsck", "-f", "-n"],
    );
}

#[test]
fn a_file_larger_than_memory_goes_into_xfs_and_out() {
    goes_in_and_out(&["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}

#[test]
fn a_file_larger_than_memory_goes_into_fat_and_out() {
    goes_in_and_out(&["mkfs.vfat", "-F", "32"], &["fsck.fat", "-n"]);
}
