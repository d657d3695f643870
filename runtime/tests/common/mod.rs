//! What the boot tests share: a small guest out of Debian's own kernel and busybox, and the sample
//! guest where it has been built.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rehost_block::{Disk, Overlay, SameFolder, StorageDisk};
use rehost_image::Image;
use rehost_runtime::{
    Bus, DirectBoot, Engine, Limits, Machine, MachineDisk, QemuEngine, Start, Verdict, boot,
};
use sha2::{Digest, Sha256};

/// QEMU, or a word about its absence.
pub(crate) fn qemu() -> Option<QemuEngine> {
    let engine = QemuEngine::find();
    if let Err(error) = &engine {
        println!("skipped: needs qemu-system-x86_64: {error}");
    }
    engine.ok()
}

/// Boots, and keeps the serial output beside the test programs for whoever looks into a failure.
pub(crate) fn judged(
    name: &str,
    machine: &Machine,
    engine: &dyn Engine,
    limits: &Limits,
) -> Verdict {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.serial"));
    let mut serial = File::create(path).unwrap();
    let verdict = boot(machine, engine, limits, Some(&mut serial)).unwrap();
    println!(
        "{name}: {:?} in {} s: {}",
        verdict.outcome, verdict.seconds, verdict.reason
    );
    verdict
}

/// Limits for small guests: none of these boots needs more, even translated on a busy machine.
pub(crate) fn limits(total: u64) -> Limits {
    Limits {
        total: Duration::from_secs(total),
        ..Limits::default()
    }
}

/// A disk with the given bytes under an overlay in memory.
pub(crate) fn memory_disk(bytes: Vec<u8>, bus: Bus) -> MachineDisk {
    let base = StorageDisk::new(Arc::new(rehost_block::Memory::new("disk", bytes)));
    MachineDisk {
        disk: Arc::new(Overlay::in_memory(Arc::new(base))),
        bus,
    }
}

/// A file under an overlay that ends with the test.
pub(crate) fn file_disk(path: &Path, bus: Bus) -> MachineDisk {
    let base = StorageDisk::new(Arc::new(rehost_block::File::open(path).unwrap()));
    over(Arc::new(base), bus)
}

fn over(base: Arc<dyn Disk>, bus: Bus) -> MachineDisk {
    let store = rehost_block::File::temporary(env!("CARGO_TARGET_TMPDIR")).unwrap();
    MachineDisk {
        disk: Arc::new(Overlay::new(base, Arc::new(store))),
        bus,
    }
}

pub(crate) fn sha256(path: &Path) -> String {
    let mut hash = Sha256::new();
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buffer).unwrap();
        if len == 0 {
            return format!("{:x?}", hash.finalize());
        }
        hash.update(&buffer[..len]);
    }
}

/// Debian's cloud kernel, its modules and a static busybox.
pub(crate) struct Parts {
    folder: PathBuf,
}

/// Fetches the parts once for all tests, or says what is missing.
pub(crate) fn parts() -> Option<Parts> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small-guest");
    fs::create_dir_all(&folder).unwrap();
    // Tests run in processes of their own: one fetches, the others wait.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if !folder.join("complete").exists() {
        let script = "set -e; cd \"$1\"
            kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^  Depends: //p' | head -n 1)
            apt-get -q download \"$kernel\" busybox-static
            for package in *.deb; do dpkg-deb -x \"$package\" root; rm \"$package\"; done
            touch complete";
        let output = Command::new("bash")
            .args(["-c", script, "-"])
            .arg(&folder)
            .output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                println!(
                    "skipped: needs Debian's linux-image-cloud-amd64 and busybox-static: {said}"
                );
                return None;
            }
            Err(error) => {
                println!("skipped: needs bash: {error}");
                return None;
            }
        }
    }
    Some(Parts { folder })
}

impl Parts {
    pub(crate) fn kernel(&self) -> Vec<u8> {
        let boot = self.folder.join("root/boot");
        let kernel = fs::read_dir(boot)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_str().unwrap().contains("vmlinuz"));
        fs::read(kernel.unwrap()).unwrap()
    }

    fn module(&self, name: &str) -> Vec<u8> {
        let mut folders = vec![self.folder.join("root/lib/modules")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if path.file_name().unwrap() == format!("{name}.ko").as_str() {
                    return fs::read(path).unwrap();
                }
            }
        }
        panic!("no module {name}");
    }

    /// An initramfs that loads `modules` in this order and then runs `script` in busybox's shell.
    pub(crate) fn initramfs(&self, modules: &[&str], script: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        for folder in ["bin", "dev", "proc", "sys", "modules"] {
            entry(&mut archive, folder, 0o040_755, b"");
        }
        let busybox = fs::read(self.folder.join("root/bin/busybox")).unwrap();
        entry(&mut archive, "bin/busybox", 0o100_755, &busybox);
        let mut init = "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\n\
                        mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys\n"
            .to_owned();
        for module in modules {
            entry(
                &mut archive,
                &format!("modules/{module}.ko"),
                0o100_644,
                &self.module(module),
            );
            init.push_str(&format!("insmod /modules/{module}.ko\n"));
        }
        init.push_str(script);
        entry(&mut archive, "init", 0o100_755, init.as_bytes());
        entry(&mut archive, "TRAILER!!!", 0, b"");
        archive
    }

    /// A machine that runs `script` in the initramfs.
    pub(crate) fn machine(
        &self,
        modules: &[&str],
        script: &str,
        disks: Vec<MachineDisk>,
    ) -> Machine {
        Machine {
            vcpus: 1,
            memory_mib: 512,
            disks,
            nics: Vec::new(),
            start: Start::Direct(DirectBoot {
                kernel: self.kernel(),
                initrd: Some(self.initramfs(modules, script)),
                command_line: "console=ttyS0 panic=-1".to_owned(),
            }),
        }
    }
}

/// The modules of virtio-blk in the cloud kernel, in the order they need.
pub(crate) const VIRTIO_BLK: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];

/// One entry of a cpio archive in the `newc` format.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let mut put = |bytes: &[u8]| {
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    let (size, named) = (content.len() as u32, name.len() as u32 + 1);
    // Inode, mode, owner, group, links, time, size, four device numbers, length of the name with
    // its NUL, checksum.
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, named, 0];
    let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    let header = format!("070701{fields}");
    put(&[header.as_bytes(), name.as_bytes(), b"\0"].concat());
    put(content);
}

/// The sample guest that `scripts/build-guest` makes: a Debian as VMware exports it.
pub(crate) struct Sample {
    folder: PathBuf,
}

/// The sample guest, or a word about its absence.
pub(crate) fn sample() -> Option<Sample> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let guests = std::env::var_os("REHOST_GUESTS").map_or(target.join("guests"), PathBuf::from);
    let folder = guests.join("debian12");
    if folder.join("guest.vmdk").exists() {
        return Some(Sample { folder });
    }
    println!("skipped: needs the sample guest that scripts/build-guest builds");
    None
}

impl Sample {
    fn boot_file(&self, beginning: &str) -> Vec<u8> {
        let file = fs::read_dir(self.folder.join("boot"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(beginning)
            });
        fs::read(file.unwrap()).unwrap()
    }

    /// The guest with its disk on `bus`.
    pub(crate) fn machine(&self, bus: Bus, command_line: &str) -> Machine {
        let text = fs::read_to_string(self.folder.join("build.txt")).unwrap();
        let uuid = text
            .lines()
            .find_map(|line| line.strip_prefix("root filesystem: "))
            .and_then(|root| root.rsplit(", ").next())
            .unwrap();
        let path = self.folder.join("guest.vmdk");
        let image = Image::open(&path, None, &SameFolder).unwrap();
        Machine {
            vcpus: 1,
            memory_mib: 1024,
            disks: vec![over(image.disk(), bus)],
            nics: Vec::new(),
            start: Start::Direct(DirectBoot {
                kernel: self.boot_file("vmlinuz-"),
                initrd: Some(self.boot_file("initrd.img-")),
                command_line: format!("root=UUID={uuid} ro console=ttyS0 {command_line}"),
            }),
        }
    }
}
