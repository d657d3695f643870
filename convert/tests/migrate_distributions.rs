//! Guests of other distributions and boot loaders: each stops on virtio before, and reaches its login
//! prompt after. Built by `scripts/test --all-guests`; judged by e2fsck, xfs_repair, fsck.fat, mtools,
//! debugfs, zstd and cpio.

#![allow(clippy::unwrap_used)] // clippy knows `#[test]` functions, not what they share

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::families::{self, Stuck, stuck};
use common::{guest, have, judge, run};
use serde_json::Value;

/// A guest that was converted, and where.
struct Converted {
    folder: tempfile::TempDir,
    report: Value,
    /// Its disk as a raw image.
    whole: PathBuf,
}

/// Converts a sample guest for KVM with one command, and boots it before and after.
fn converted(name: &str, more: &[&str]) -> Option<Converted> {
    let before = match name {
        "rpm-style" => Stuck::Waiting,
        "alpine" => Stuck::In("alpine-shell"),
        _ => Stuck::In("initramfs-shell"),
    };
    let vmx = stuck(name, before, &[])?.join("guest.vmx");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut arguments = vec!["migrate".as_ref(), vmx.as_os_str(), "--to=kvm".as_ref()];
    arguments.extend(more.iter().map(|argument| std::ffi::OsStr::new(*argument)));
    arguments.extend([
        "--no-preflight".as_ref(),
        "--timeout=300".as_ref(),
        "--json".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    let report = run(arguments).exits(0).json();
    assert_eq!(report["ending"], "proven", "{report}");
    let whole = families::raw(&out.join("guest.qcow2"));
    Some(Converted {
        folder,
        report,
        whole,
    })
}

impl Converted {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("out/guest.qcow2")
    }

    /// Partition `number` as a file of its own.
    fn partition(&self, number: usize, name: &str) -> PathBuf {
        let part = self.path(name);
        std::fs::rename(families::partition(&self.whole, number), &part).unwrap();
        part
    }

    /// A file of the guest's, as rehost reads the written image.
    fn text(&self, path: &str) -> String {
        let image = self.image();
        run(["cat".as_ref(), image.as_os_str(), path.as_ref()])
            .exits(0)
            .stdout
    }

    /// The paths that the plan changes.
    fn changed(&self) -> Vec<String> {
        let edits = self.report["plan"]["edits"].as_array().unwrap();
        let path = |edit: &Value| edit["path"].as_str().unwrap().to_owned();
        edits.iter().map(path).collect()
    }

    /// The name of the card is kept, by a file in the root filesystem.
    fn keeps_ens192(&self) {
        let link = self.text("/etc/systemd/network/10-rehost-ens192.link");
        assert!(link.contains("MACAddress=00:0c:29:2e:c0:31\n"), "{link}");
        assert!(link.contains("Name=ens192\n"), "{link}");
    }

    fn boots_again_on(&self, bus: &str) {
        let image = self.image();
        run([
            "verify".as_ref(),
            format!("--bus={bus}").as_ref(),
            "--timeout=300".as_ref(),
            image.as_os_str(),
        ])
        .exits(0);
    }
}

/// A file on a FAT filesystem, by mtools.
fn from_esp(esp: &Path, path: &str) -> PathBuf {
    let to = esp.with_file_name(path.rsplit('/').next().unwrap());
    judge(
        Command::new("mcopy")
            .arg("-i")
            .arg(esp)
            .arg(format!("::{path}"))
            .arg(&to),
    );
    to
}

/// A file on an ext4 filesystem, by debugfs.
fn from_ext4(filesystem: &Path, path: &str) -> PathBuf {
    let to = filesystem.with_file_name(path.rsplit('/').next().unwrap());
    judge(
        Command::new("debugfs")
            .arg("-R")
            .arg(format!("dump {path} {}", to.display()))
            .arg(filesystem),
    );
    to
}

/// What `program` makes of `input`; how it ends is not asked, because what comes behind a stream or an
/// archive, the zeros that fill the file up to its old size among it, ends it with an error.
fn through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap().stdout
    })
}

/// Bytes of the first archive, its trailer included: by its headers.
fn archive_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let field = |index: usize| {
            let from = at + 6 + 8 * index;
            let digits = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let name = at + 110;
        let next = ((name + field(11)).next_multiple_of(4) + field(6)).next_multiple_of(4);
        if bytes[name..].starts_with(b"TRAILER!!!\0") {
            return next.min(bytes.len());
        }
        at = next;
    }
}

/// The modules that cpio lists in all the archives of an initramfs, without folders and endings.
fn modules(initramfs: &[u8]) -> Vec<String> {
    let start = initramfs.iter().position(|byte| *byte != 0);
    let rest = start.map_or(&[][..], |start| &initramfs[start..]);
    match rest {
        [] => Vec::new(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => modules(&through("zstd", &["-dcq"], rest)),
        [0x1f, 0x8b, ..] => modules(&through("gzip", &["-dcq"], rest)),
        _ => {
            let (archive, rest) = rest.split_at(archive_len(rest));
            let listed = through("cpio", &["-it", "--quiet"], archive);
            let listed = String::from_utf8(listed).unwrap();
            let module = |line: &str| {
                let name = line.rsplit('/').next().unwrap_or_default();
                let (name, ending) = name.split_once('.')?;
                ending.starts_with("ko").then(|| name.replace('-', "_"))
            };
            let mut found: Vec<String> = listed.lines().filter_map(module).collect();
            found.extend(modules(rest));
            found
        }
    }
}

#[track_caller]
fn has_virtio(initramfs: &Path) {
    let found = modules(&std::fs::read(initramfs).unwrap());
    for module in ["virtio_blk", "virtio_scsi", "virtio_net", "sd_mod"] {
        assert!(
            found.iter().any(|have| have == module),
            "{module}: {found:?}"
        );
    }
}

#[test]
fn an_rpm_style_guest_with_entries_in_files_boots_on_both_virtio_buses() {
    let Some(converted) = converted("rpm-style", &[]) else {
        return;
    };
    converted.boots_again_on("virtio-scsi");
    let boot = converted.partition(1, "boot");
    judge(Command::new("e2fsck").arg("-fn").arg(&boot));
    let root = converted.partition(2, "root");
    judge(Command::new("xfs_repair").arg("-n").arg(&root));

    // GRUB reads an environment of exactly 1024 bytes.
    let grubenv = std::fs::read(from_ext4(&boot, "/grub2/grubenv")).unwrap();
    assert_eq!(grubenv.len(), 1024);
    let grubenv = String::from_utf8(grubenv).unwrap();
    let by_uuid = "root=UUID=c95a2f7e-1d64-4b83-ae07-63f81d9b5c42 ro";
    assert!(
        grubenv.contains(&format!("\nkernelopts={by_uuid}")),
        "{grubenv}"
    );
    let rescue = "/boot/loader/entries/6b0f3d8a2c7e4915a4d6e1f0b9c85d27-0-rescue.conf";
    let rescue = converted.text(rescue);
    assert!(
        rescue.contains(&format!("\noptions {by_uuid}\n")),
        "{rescue}"
    );
    let fstab = converted.text("/etc/fstab");
    let by_name = |line: &str| line.starts_with("/dev/sd");
    assert!(!fstab.lines().any(by_name), "{fstab}");

    // The rescue kernel's too: with it a migrated machine is mended.
    let images: Vec<String> = converted
        .changed()
        .into_iter()
        .filter(|path| path.contains("/initramfs-"))
        .collect();
    assert_eq!(images.len(), 2, "{images:?}");
    for image in images {
        has_virtio(&from_ext4(&boot, image.trim_start_matches("/boot")));
    }

    converted.keeps_ens192();
    let ifcfg = converted.text("/etc/sysconfig/network-scripts/ifcfg-ens192");
    for line in ["DEVICE=ens192\n", "IPADDR=192.0.2.20\n", "PREFIX=24\n"] {
        assert!(ifcfg.contains(line), "{ifcfg}");
    }
}

#[test]
fn a_guest_of_systemd_boot_gets_its_new_initramfs_on_the_efi_partition() {
    let Some(converted) = converted("debian12-systemd-boot", &[]) else {
        return;
    };
    let esp = converted.partition(1, "esp");
    judge(Command::new("fsck.fat").arg("-n").arg(&esp));
    let changed = converted.changed();
    let image = changed
        .iter()
        .find_map(|path| path.strip_prefix("/boot/efi/"))
        .unwrap();
    has_virtio(&from_esp(&esp, image));
    let root = converted.partition(2, "root");
    judge(Command::new("e2fsck").arg("-fn").arg(&root));
    // Debian's own copy, from which the next update of the loader's is made.
    let copy = changed
        .iter()
        .find(|path| path.starts_with("/boot/initrd.img-"))
        .unwrap();
    has_virtio(&from_ext4(&root, copy));
    converted.keeps_ens192();
}

/// The section `name` of a unified image as a file, by objcopy.
fn section(image: &Path, name: &str) -> PathBuf {
    let to = image.with_file_name(format!("section{name}"));
    judge(
        Command::new("objcopy")
            .arg(format!("--dump-section={name}={}", to.display()))
            .arg(image)
            .arg(image.with_file_name("unused.efi")),
    );
    to
}

#[test]
fn a_guest_of_a_unified_image_boots_from_its_own_new_command_line() {
    if !have("objcopy") {
        return;
    }
    let Some(converted) = converted("debian12-uki", &["--console=serial"]) else {
        return;
    };
    converted.boots_again_on("virtio-scsi");
    let esp = converted.partition(1, "esp");
    judge(Command::new("fsck.fat").arg("-n").arg(&esp));
    let root = converted.partition(2, "root");
    judge(Command::new("e2fsck").arg("-fn").arg(&root));

    // Both changes are one edit.
    let changed = converted.changed();
    let images: Vec<&str> = changed
        .iter()
        .filter_map(|path| path.strip_prefix("/boot/efi"))
        .collect();
    let [image] = images[..] else {
        panic!("{changed:?}")
    };
    let image = from_esp(&esp, image);
    let listed = judge(Command::new("objdump").arg("-h").arg(&image));
    for name in [".text", ".osrel", ".cmdline", ".uname", ".initrd", ".linux"] {
        assert!(listed.contains(&format!(" {name} ")), "{listed}");
    }
    has_virtio(&section(&image, ".initrd"));
    let by_uuid = "root=UUID=1e94b7a3-6d52-4c08-9f3b-a7c15e8d2046 ro quiet";
    let line = format!("{by_uuid} console=tty0 console=ttyS0,115200\n");
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    assert_eq!(read(section(&image, ".cmdline")), line.as_bytes());
    let version = read(section(&image, ".uname"));
    let kernel = format!("boot/vmlinuz-{}", String::from_utf8(version).unwrap());
    let kernel = read(guest("debian12-uki").unwrap().join(kernel));
    assert!(read(section(&image, ".linux")) == kernel);

    // What the next image in the guest is made with.
    assert_eq!(converted.text("/etc/kernel/cmdline"), line);
    let fstab = converted.text("/etc/fstab");
    assert!(!fstab.contains("/dev/sda2 "), "{fstab}");
    // Nothing is left to do, as the command line is read.
    let written = converted.image();
    let inspected = run(["inspect".as_ref(), "--json".as_ref(), written.as_os_str()]);
    let inspected = inspected.exits(0).json();
    let boot = &inspected["systems"][0]["boot"];
    assert_eq!(boot["unified"][0]["command_line"], line.trim());
    assert_eq!(boot["kind"], "systemd-boot");
    let image = written.as_os_str();
    let again = run([
        "inject".as_ref(),
        "--dry-run".as_ref(),
        "--console=serial".as_ref(),
        image,
    ]);
    let again = again.exits(0).stdout;
    assert!(again.contains("nothing to change"), "{again}");
}

/// Two releases with the same disk as the first sample's.
fn a_debian(name: &str) {
    let Some(converted) = converted(name, &[]) else {
        return;
    };
    let root = converted.partition(1, "root");
    judge(Command::new("e2fsck").arg("-fn").arg(&root));
    let image = converted.changed().swap_remove(0);
    has_virtio(&from_ext4(&root, &image));
    converted.keeps_ens192();
    let interfaces = converted.text("/etc/network/interfaces");
    assert!(interfaces.contains("iface ens192 inet static\naddress 192.0.2.10/24\n"));
}

#[test]
fn a_debian_13_guest_with_compressed_modules_boots_on_virtio() {
    a_debian("debian13");
}

#[test]
fn a_debian_11_guest_with_an_initramfs_of_gzip_boots_on_virtio() {
    a_debian("debian11");
}

#[test]
fn an_alpine_guest_boots_on_virtio() {
    let Some(converted) = converted("alpine", &[]) else {
        return;
    };
    let root = converted.partition(1, "root");
    judge(Command::new("e2fsck").arg("-fn").arg(&root));
    has_virtio(&from_ext4(&root, "/boot/initramfs-virt"));
    let interfaces = converted.text("/etc/network/interfaces");
    assert!(interfaces.contains("iface eth0 inet static\naddress 192.0.2.30/24\n"));
    // One card keeps the kernel's first name: nothing to warn of.
    let notes = converted.report["plan"]["notes"].to_string();
    assert!(!notes.contains("interface-name-not-pinned"), "{notes}");
}
