//! What a guest is asked to do at its first boot is done by the guest itself.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{guest, have, judge, packages, rehost, run};
use serde_json::Value;

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
    judge(
        Command::new("dpkg-deb")
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
        at("rehost first boot: 001-install-deb ended with 0"),
        at("the first boot of vmguest"),
        at("rehost first boot: 002-hello.sh ended with 0"),
    ];
    assert!(order.is_sorted(), "{}", ran.stderr);
}

/// Boots the guest on `disk`, with the agent's port, until it powers itself off; what it writes stays in the
/// disk. Its kernel is put into memory: without a screen its boot loader waits for ever.
fn boots_until_it_powers_off(disk: &Path, report: &Value) {
    let boot = &report["inspection"]["systems"][0]["boot"]["entries"][0];
    let taken_out = |path: &Value, name: &str| {
        let to = disk.with_file_name(name);
        let mut cat = rehost();
        cat.arg("cat").arg(disk).arg(path.as_str().unwrap());
        let status = cat.stdout(fs::File::create(&to).unwrap()).status().unwrap();
        assert!(status.success(), "{path}");
        to
    };
    let mut machine = Command::new("timeout");
    machine.args(["--kill-after=5", "600", "qemu-system-x86_64"]);
    machine.args([
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-vga",
        "none",
    ]);
    machine.args(["-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "1024"]);
    machine.args(["-serial", "stdio"]);
    // As the domain that `migrate` writes has it.
    machine.args(["-device", "virtio-serial"]);
    machine.args(["-chardev", "null,id=agent", "-device"]);
    machine.arg("virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
    machine
        .arg("-kernel")
        .arg(taken_out(&boot["kernel"], "kernel"));
    machine
        .arg("-initrd")
        .arg(taken_out(&boot["initrds"][0], "initrd"));
    machine.arg("-append");
    let line = boot["command_line"].as_str().unwrap();
    machine.arg(format!("{line} console=ttyS0 no_timer_check"));
    machine.arg("-drive");
    let disk = disk.display();
    machine.arg(format!("if=virtio,format=qcow2,cache=unsafe,file={disk}"));
    judge(&mut machine);
}

#[test]
fn a_guest_boots_and_has_debians_guest_agent_installed_for_good() {
    let agent = packages("qemu-guest-agent");
    let (Some(guest), Some((agent, others))) = (guest("debian12"), agent) else {
        return;
    };
    if !have("qemu-system-x86_64") || !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let last = folder.path().join("last.sh");
    fs::write(
        &last,
        "#!/bin/sh\nfor second in $(seq 60); do\n\
         \tsystemctl --quiet is-active qemu-guest-agent && break\n\tsleep 1\ndone\n\
         echo \"the agent is $(systemctl is-active qemu-guest-agent)\"\n\
         systemd-run --quiet --on-active=5 systemctl poweroff\n",
    )
    .unwrap();
    let out = folder.path().join("out");
    let vmx = guest.join("guest.vmx");
    let migrate = |packages: &[&str], more: &[&str]| {
        let agent = format!("--guest-agent={}", agent.display());
        let script = format!("--first-boot={}", last.display());
        let mut arguments = vec![
            "migrate",
            vmx.to_str().unwrap(),
            "--to=kvm",
            &agent,
            &script,
        ];
        arguments.extend(packages);
        arguments.extend(more);
        run(arguments)
    };
    // Without what it depends on: told before anything is copied.
    let plan = migrate(&[], &["--dry-run"]).exits(0).stdout;
    let note = plan
        .lines()
        .find(|line| line.contains("needs lib"))
        .unwrap();
    for package in ["libglib2.0-0", "libnuma1", "liburing2"] {
        assert!(note.contains(package), "{package} in {note}");
    }
    assert!(
        !note.contains("libc6") && !note.contains("libudev1"),
        "{note}"
    );

    let others: Vec<String> = others
        .iter()
        .map(|package| format!("--package={}", package.display()))
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let into = ["--no-preflight", "--no-verify", "--json", "-o"];
    let into: Vec<&str> = into.into_iter().chain(out.to_str()).collect();
    let report = migrate(&others, &into).exits(0).json();
    let notes = report["plan"]["notes"].to_string();
    assert!(!notes.contains("package-needs-more"), "{notes}");
    let written = out.join("guest.qcow2");
    boots_until_it_powers_off(&written, &report);

    let text = |path: &str| {
        let image = written.as_os_str();
        run(["cat".as_ref(), image, path.as_ref()]).exits(0).stdout
    };
    let log = text("/var/log/rehost-first-boot.log");
    let at = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part} in {log}"));
    let order = [
        at("Setting up qemu-guest-agent"),
        at("001-install-deb ended with 0"),
        at("002-start-guest-agent ended with 0"),
        at("the agent is active"),
        at("003-last.sh ended with 0"),
    ];
    assert!(order.is_sorted(), "{log}");
    let status = text("/var/lib/dpkg/status");
    for package in ["qemu-guest-agent", "libglib2.0-0", "libnuma1", "liburing2"] {
        let installed = format!("Package: {package}\nStatus: install ok installed\n");
        assert!(status.contains(&installed), "{package}");
    }
    // Its service is started by the port, at every boot.
    let rule = text("/lib/udev/rules.d/60-qemu-guest-agent.rules");
    assert!(rule.contains("SYSTEMD_WANTS"), "{rule}");
    let list = text("/var/lib/dpkg/info/qemu-guest-agent.list");
    assert!(list.contains("/lib/systemd/system/qemu-guest-agent.service"));
    let left = run(["ls", written.to_str().unwrap(), "/var/lib/rehost"]);
    assert_ne!(left.code, 0, "{}", left.stdout);
}
