//! What a guest is asked to do at its first boot is done by the guest itself.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;

use common::{guest, have, run};

#[test]
fn a_guest_boots_and_runs_its_script_and_installs_its_package_before_the_login_prompt() {
    let Some(guest) = guest("debian12").filter(|_| have("qemu-system-x86_64") && have("dpkg-deb"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hello.sh");
    fs::write(
        &script,
        "#!/bin/sh\necho \"the first boot of $(hostname)\"\n",
    )
    .unwrap();
    // A package as small as one can be.
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::write(
        tree.join("DEBIAN/control"),
        "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n\
         Description: small\n",
    )
    .unwrap();
    let package = folder.path().join("small.deb");
    common::judge(
        std::process::Command::new("dpkg-deb")
            .args(["--root-owner-group", "-b"])
            .arg(&tree)
            .arg(&package),
    );
    let image = folder.path().join("out.qcow2");
    run([
        "inject".as_ref(),
        "--first-boot".as_ref(),
        script.as_os_str(),
        "--package".as_ref(),
        package.as_os_str(),
        guest.join("guest.vmdk").as_os_str(),
        image.as_os_str(),
    ])
    .exits(0);
    let ran = run([
        "verify".as_ref(),
        "--show-serial".as_ref(),
        "--timeout=400".as_ref(),
        image.as_os_str(),
    ])
    .exits(0);
    let at = |text: &str| {
        let found = ran.stderr.find(text);
        found.unwrap_or_else(|| panic!("{text} in {}", ran.stderr))
    };
    let order = [
        at("Setting up small (1)"),
        at("rehost first boot: 001-install-small.deb ended with 0"),
        at("the first boot of vmguest"),
        at("rehost first boot: 002-hello.sh ended with 0"),
    ];
    assert!(order.is_sorted(), "{}", ran.stderr);
}
