//! The built-in engine on true KVM: the `boot` example runs inside `scripts/nested-kvm`.
//!
//! The guests are Debian's own kernels with busybox. Skipped, by name of what is missing, where
//! QEMU or Debian's packages are absent.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What every inner guest starts with.
const INIT: &str = "#!/bin/sh
PATH=/bin
busybox mount -t proc none /proc
busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t sysfs none /sys
for module in /modules/virtio/*; do insmod \"$module\"; done
";

/// Mounts the disk, writes to it, and reads back what the device then has.
const USE_DISK: &str = "
mount -t ext4 /dev/vda /mnt && cat /mnt/greeting
dd if=/dev/urandom of=/mnt/noise bs=64k count=64 2>/dev/null
sum=$(md5sum </mnt/noise)
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
[ \"$sum\" = \"$(md5sum </mnt/noise)\" ] && echo noise read back
umount /mnt
";

struct Bench {
    folder: TempDir,
    program: PathBuf,
    kernel: PathBuf,
    base: Vec<u8>,
}

impl Bench {
    /// Program and kernel, or `None` after saying what is missing.
    fn new(flavour: &str) -> Option<Self> {
        for tool in ["qemu-system-x86_64", "cpio", "mke2fs", "apt-get", "depmod"] {
            let found = Command::new("sh")
                .args(["-c", "PATH=$PATH:/usr/sbin:/sbin command -v \"$0\"", tool])
                .stdout(Stdio::null())
                .status();
            if !found.is_ok_and(|status| status.success()) {
                println!("skipped: needs {tool}");
                return None;
            }
        }
        let prepared = run(Command::new(script("nested-kvm")).args(["--prepare", flavour]));
        if !prepared.status.success() {
            println!(
                "skipped: needs Debian's packages: {}",
                text(&prepared.stderr)
            );
            return None;
        }
        let kernel = PathBuf::from(text(&prepared.stdout).trim());
        let built = run(Command::new(script("build-static")).args([
            "-p",
            "rehost-runtime",
            "--example",
            "boot",
        ]));
        assert!(built.status.success(), "{}", text(&built.stderr));
        Some(Self {
            folder: tempfile::tempdir().unwrap(),
            program: PathBuf::from(text(&built.stdout).trim()),
            base: fs::read(kernel.join("base.cpio")).unwrap(),
            kernel: kernel.join("vmlinuz"),
        })
    }

    /// Boots a guest whose init runs `script`, with `options` for the example.
    fn boot(&self, script_of_init: &str, options: &[&str]) -> Seen {
        let tree = self.folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("init"), format!("{INIT}{script_of_init}\n")).unwrap();
        let packed = run(Command::new("sh")
            .current_dir(&tree)
            .args(["-c", "chmod +x init && echo init | cpio -o -H newc --quiet"]));
        assert!(packed.status.success());
        let mut initrd = self.base.clone();
        initrd.extend(packed.stdout);
        let initrd_path = self.folder.path().join("initrd");
        fs::write(&initrd_path, initrd).unwrap();
        let disk = self.disk();
        let mut command = Command::new(script("nested-kvm"));
        command
            .args(["--memory", "1536", "--timeout", "600", "--binary"])
            .arg(&self.program)
            .arg("--payload")
            .arg(&disk)
            .args(["--file", &format!("{}:kernel", self.kernel.display())])
            .args(["--file", &format!("{}:initrd", initrd_path.display())])
            .args(["--", "--kernel", "/kernel", "--initrd", "/initrd"])
            .args(["--limit", "500"])
            .args(options);
        let before = fs::read(&disk).unwrap();
        let output = run(&mut command);
        assert!(
            before == fs::read(&disk).unwrap(),
            "the payload was changed"
        );
        Seen::of(&output)
    }

    /// An ext4 image with a greeting.
    fn disk(&self) -> PathBuf {
        let content = self.folder.path().join("content");
        fs::create_dir(&content).unwrap();
        fs::write(content.join("greeting"), "hello from the disk\n").unwrap();
        let disk = self.folder.path().join("disk.img");
        let made = run(Command::new("sh")
            .args([
                "-c",
                "PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -d \"$0\" \"$1\" 32M",
            ])
            .arg(&content)
            .arg(&disk));
        assert!(made.status.success(), "{}", text(&made.stderr));
        disk
    }
}

/// What the inner guest said, and how its run ended.
#[derive(Debug)]
struct Seen {
    code: Option<i32>,
    serial: String,
    console: String,
}

impl Seen {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            serial: text(&output.stdout),
            console: text(&output.stderr),
        }
    }

    #[track_caller]
    fn says(&self, wanted: &str) {
        let said = self.serial.contains(wanted) || self.console.contains(wanted);
        assert!(
            said,
            "{wanted:?} is missing\n{}\n{}",
            self.serial, self.console
        );
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../scripts")
        .join(name)
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn self_test_passes_on_true_kvm() {
    let Some(bench) = Bench::new("cloud") else {
        return;
    };
    let output = run(Command::new(script("nested-kvm"))
        .args(["--memory", "1024", "--binary"])
        .arg(&bench.program)
        .args(["--", "--self-test"]));
    let seen = Seen::of(&output);
    seen.says("/dev/kvm runs guests");
    assert_eq!(seen.code, Some(0));
}

#[test]
fn two_processors_use_a_disk_with_messages_and_power_off() {
    let Some(bench) = Bench::new("cloud") else {
        return;
    };
    let seen = bench.boot(
        &format!("echo processors $(nproc)\n{USE_DISK}\ncat /proc/interrupts\npoweroff -f"),
        &[
            "--disk",
            "/dev/vda",
            "--vcpus",
            "2",
            "--append",
            "console=ttyS0 quiet",
        ],
    );
    seen.says("processors 2");
    seen.says("hello from the disk");
    seen.says("noise read back");
    seen.says("PCI-MSI");
    seen.says("ended: PoweredOff");
    assert_eq!(seen.code, Some(0), "{seen:?}");
}

#[test]
fn pin_interrupts_serve_disks_and_a_reboot_is_a_reset() {
    let Some(bench) = Bench::new("cloud") else {
        return;
    };
    let seen = bench.boot(
        &format!("{USE_DISK}\ncat /proc/interrupts\nreboot -f"),
        &[
            "--disk",
            "/dev/vda",
            "--append",
            "console=ttyS0 quiet pci=nomsi",
        ],
    );
    seen.says("noise read back");
    seen.says("17-fasteoi   virtio0");
    seen.says("ended: Reset");
    assert_eq!(seen.code, Some(3), "{seen:?}");
}

#[test]
fn stock_kernel_with_memory_above_four_gib_panics_into_a_reset() {
    let Some(bench) = Bench::new("stock") else {
        return;
    };
    let seen = bench.boot(
        &format!("{USE_DISK}\ngrep MemTotal /proc/meminfo\necho c >/proc/sysrq-trigger"),
        &[
            "--disk",
            "/dev/vda",
            "--memory",
            "4096",
            "--append",
            "console=ttyS0 quiet panic=-1",
        ],
    );
    seen.says("noise read back");
    seen.says("MemTotal:        4");
    seen.says("Kernel panic - not syncing: sysrq triggered crash");
    seen.says("ended: Reset");
}

#[test]
fn watcher_stops_a_guest_that_goes_on() {
    let Some(bench) = Bench::new("cloud") else {
        return;
    };
    let seen = bench.boot(
        "echo enough was seen\nwhile :; do :; done",
        &[
            "--until",
            "enough was seen",
            "--vcpus",
            "2",
            "--append",
            "console=ttyS0 quiet",
        ],
    );
    seen.says("ended: Watched");
    assert_eq!(seen.code, Some(0), "{seen:?}");
}

#[test]
fn silent_guest_is_stopped_at_its_time_limit() {
    let Some(bench) = Bench::new("cloud") else {
        return;
    };
    let seen = bench.boot(
        "sleep 100000",
        &[
            "--limit",
            "3",
            "--vcpus",
            "2",
            "--append",
            "console=ttyS0 quiet",
        ],
    );
    seen.says("ended: TimedOut");
    assert_eq!(seen.code, Some(3), "{seen:?}");
}
