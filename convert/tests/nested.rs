//! The built-in machine boots the migrated guest on true KVM semantics, inside `scripts/nested-kvm`.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{guest, have, judge, ran, run};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../scripts")
        .join(name)
}

#[test]
fn the_builtin_machine_boots_the_migrated_guest() {
    let tools = ["qemu-system-x86_64", "cpio", "apt-get", "depmod"];
    let Some(guest) = guest("debian12").filter(|_| tools.iter().all(|tool| have(tool))) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("guest.qcow2");
    let disk = guest.join("guest.vmdk");
    run(["inject".as_ref(), disk.as_os_str(), image.as_os_str()]).exits(0);
    let program = judge(Command::new(script("build-static")).args([
        "--release",
        "-p",
        "rehost",
        "--bin",
        "rehost",
    ]));

    let nested = Command::new(script("nested-kvm"))
        .args(["--timeout", "300", "--binary", program.trim(), "--payload"])
        .arg(&image)
        .args([
            "--",
            "verify",
            "/dev/vda",
            "--engine",
            "kvm",
            "--timeout",
            "270",
            // One processor: emulated virtualization has been seen to lose a wake-up between two, and
            // the engine's own tests cover two.
            "--cpus",
            "1",
            "--show-serial",
            "--json",
        ])
        .output()
        .unwrap();
    let proof = ran(nested).exits(0);
    let start = proof.stdout.find('{').expect("the proof as JSON");
    let proof: serde_json::Value = serde_json::from_str(&proof.stdout[start..]).unwrap();
    assert_eq!(proof["verdict"]["engine"], "kvm");
    assert_eq!(proof["verdict"]["outcome"], "booted");
    assert!(
        proof["verdict"]["line"]
            .as_str()
            .unwrap()
            .contains("login:"),
        "{proof}"
    );
    let seen = proof["verdict"]["milestones"].as_array().unwrap();
    assert!(
        seen.iter()
            .any(|milestone| milestone["id"] == "disk-virtio-blk"),
        "{seen:?}"
    );
}
