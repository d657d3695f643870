//! Persistent bitmaps survive a conversion from qcow2 to qcow2. The judge is qemu-img.
#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::Path;
use std::process::Command;

use common::{have, judge, run};
use serde_json::Value;

/// The bitmaps as qemu-img tells them.
fn bitmaps(image: &Path) -> Value {
    let told = Command::new("qemu-img")
        .args(["info", "--output=json"])
        .arg(image)
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    told["format-specific"]["data"]["bitmaps"].clone()
}

/// The extents that a bitmap marks, as an NBD client of qemu sees them.
fn dirty(folder: &Path, image: &str, bitmap: &str) -> String {
    let socket = folder.join("nbd.sock");
    let server = format!(
        "qemu-nbd -r -t -f qcow2 -B {bitmap} -k {} {}",
        socket.display(),
        folder.join(image).display()
    );
    let script = format!(
        "{server} & pid=$!; for _ in $(seq 100); do [ -S {socket} ] && break; sleep 0.05; done; \
         nbdinfo --map=qemu:dirty-bitmap:{bitmap} 'nbd+unix:///?socket={socket}'; code=$?; kill $pid; wait $pid; exit $code",
        socket = socket.display(),
    );
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = std::fs::remove_file(socket);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bitmaps_come_along_with_their_bits() {
    if !have("qemu-img") || !have("qemu-io") || !have("qemu-nbd") || !have("nbdinfo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = folder.join("a.qcow2");
    let qemu_img = |args: &[&str]| judge(Command::new("qemu-img").args(args).arg(&source));
    judge(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&source)
            .arg("300M"),
    );
    for (name, granularity) in [("fine", "512"), ("coarse", "1M")] {
        judge(
            Command::new("qemu-img")
                .args(["bitmap", "--add", "-g", granularity])
                .arg(&source)
                .arg(name),
        );
    }
    let writes = [
        "write -P 1 0 1M",
        "write -P 2 5M 64k",
        "write -P 3 200M 80M",
        "write -P 4 299M 512",
    ];
    let mut io = Command::new("qemu-io");
    for write in writes {
        io.args(["-c", write]);
    }
    judge(io.arg(&source));
    qemu_img(&["check", "-q"]);

    for options in [
        "cluster_size=64K",
        "cluster_size=4K",
        "cluster_size=2M",
        "extended_l2=on",
    ] {
        let target = folder.join("b.qcow2");
        let _ = std::fs::remove_file(&target);
        run(["convert", "-q", "-o", options]
            .map(AsRef::<std::ffi::OsStr>::as_ref)
            .into_iter()
            .chain([source.as_os_str(), target.as_os_str()]))
        .exits(0);
        judge(Command::new("qemu-img").args(["check", "-q"]).arg(&target));
        judge(
            Command::new("qemu-img")
                .args(["compare", "-q"])
                .arg(&source)
                .arg(&target),
        );
        assert_eq!(bitmaps(&target), bitmaps(&source), "{options}");
        for name in ["fine", "coarse"] {
            let expected = dirty(folder, "a.qcow2", name);
            assert!(expected.contains('1'), "{expected}");
            assert_eq!(dirty(folder, "b.qcow2", name), expected, "{options} {name}");
        }
    }
}

#[test]
fn a_target_without_bitmaps_says_that_they_are_left_out() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&source)
            .arg("3M"),
    );
    judge(
        Command::new("qemu-img")
            .args(["bitmap", "--add"])
            .arg(&source)
            .arg("nightly"),
    );
    for (name, options) in [("b.raw", ""), ("b.qcow2", "compat=0.10")] {
        let target = folder.path().join(name);
        let told = run(["convert", "-o", options]
            .map(AsRef::<std::ffi::OsStr>::as_ref)
            .into_iter()
            .chain([source.as_os_str(), target.as_os_str()]))
        .exits(0);
        assert!(told.stderr.contains("1 bitmaps"), "{}", told.stderr);
    }
}
