//! The sample guests that `scripts/build-guest` makes: everything reported is checked against what
//! their builder and foreign tools say. Skipped by name when they were not built.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rehost_block::SameFolder;
use rehost_image::Image;
use rehost_inspect::model::{
    Architecture, BootLoaderKind, DriverState, Family, Firmware, Generator, Init,
};
use rehost_inspect::{Guest, Options, inspect};

fn guest(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("REHOST_GUESTS").map(|guests| PathBuf::from(guests).join(name));
    let folder = folder.filter(|folder| folder.join("guest.vmdk").exists());
    if folder.is_none() {
        eprintln!("skipped: needs the guest {name} (scripts/build-guest) and REHOST_GUESTS");
    }
    folder
}

fn inspected(folder: &Path) -> Guest {
    let image = Image::open(folder.join("guest.vmdk"), None, &SameFolder).unwrap();
    inspect(&[image.disk()], &Options::default()).unwrap()
}

/// What a foreign tool prints; `None` (and a line that says so) when it is not installed.
fn foreign(tool: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "{tool} {arguments:?} failed");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => {
            eprintln!("skipped: needs {tool}");
            None
        }
    }
}

/// `key: value` lines of the builder's own record.
fn built(folder: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(folder.join("build.txt")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn the_debian_guest_is_described_as_its_builder_made_it() {
    let Some(folder) = guest("debian12") else {
        return;
    };
    let guest = inspected(&folder);
    println!("{}", guest.inspection);
    let system = guest.system().unwrap();
    assert_eq!(guest.inspection.systems.len(), 1);
    assert_eq!(system.os.id, "debian");
    assert_eq!(system.os.version_id.as_deref(), Some("12"));
    assert_eq!(system.os.family, Family::Debian);
    assert_eq!(system.architecture, Some(Architecture::X86_64));
    assert_eq!(system.init, Init::Systemd);
    assert_eq!(system.hostname, Some(built(&folder, "hostname")));
    let root = built(&folder, "root filesystem");
    let (kind, uuid) = root.split_once(", ").unwrap();
    assert_eq!(system.root.uuid.as_deref(), Some(uuid));
    assert_eq!(kind, "ext4");
    assert_eq!((system.root.disk, system.root.volume), (0, 1));
    assert_eq!(system.boot.kind, BootLoaderKind::Grub2);
    assert_eq!(system.boot.firmware, Firmware::Bios);
    assert_eq!(system.boot.config.as_deref(), Some("/boot/grub/grub.cfg"));

    // Every menu entry stands on a line of grub.cfg that begins its `linux` command.
    let config = std::fs::read_to_string(folder.join("boot/grub.cfg")).unwrap();
    let lines: Vec<&str> = config.lines().collect();
    let commands = lines
        .iter()
        .filter(|line| line.trim().starts_with("linux\t"));
    assert_eq!(system.boot.entries.len(), commands.count());
    for entry in &system.boot.entries {
        let line = usize::try_from(entry.place.line.unwrap()).unwrap();
        let words: Vec<&str> = lines[line - 1].split_whitespace().collect();
        assert_eq!(words[0], "linux");
        assert_eq!(Some(words[1]), entry.kernel.as_deref());
        assert_eq!(words[2..].join(" "), entry.command_line);
    }

    let image = built(&folder, "kernel");
    let version = image.strip_prefix("vmlinuz-").unwrap();
    let boot = system.default_boot().unwrap();
    assert_eq!(boot.kernel, format!("/boot/{image}"));
    assert_eq!(boot.initrds, [format!("/boot/initrd.img-{version}")]);
    assert!(boot.command_line.contains(&format!("root=UUID={uuid}")));
    // The builder keeps copies of what the boot loader reads.
    for (path, copy) in [
        (&boot.kernel, folder.join("boot").join(&image)),
        (
            &boot.initrds[0],
            folder.join(format!("boot/initrd.img-{version}")),
        ),
    ] {
        let read = guest.tree().unwrap().read(path).unwrap().unwrap();
        assert!(read == std::fs::read(copy).unwrap(), "{path} differs");
    }
}

#[test]
fn as_many_packages_are_counted_as_dpkg_counts() {
    let Some(folder) = guest("debian12") else {
        return;
    };
    let guest = inspected(&folder);
    let status = guest.tree().unwrap().read("/var/lib/dpkg/status");
    let admin = tempfile::tempdir().unwrap();
    std::fs::write(admin.path().join("status"), status.unwrap().unwrap()).unwrap();
    let folder = format!("--admindir={}", admin.path().display());
    let format = "--showformat=${db:Status-Abbrev}\n";
    if let Some(listing) = foreign("dpkg-query", &[&folder, "-W", format]) {
        let installed = listing
            .lines()
            .filter(|line| line.starts_with("ii"))
            .count();
        let counted = guest.system().unwrap().packages.as_ref().unwrap().installed;
        assert_eq!(counted, Some(u64::try_from(installed).unwrap()));
    }
}

#[test]
fn the_kernel_of_the_debian_guest_has_its_virtio_drivers_on_disk_and_not_at_boot() {
    let Some(folder) = guest("debian12") else {
        return;
    };
    let guest = inspected(&folder);
    let system = guest.system().unwrap();
    assert_eq!(system.kernels.len(), 1);
    let kernel = &system.kernels[0];
    let initramfs = kernel.initramfs.as_ref().unwrap();
    assert_eq!(initramfs.generator, Generator::InitramfsTools);
    assert_eq!(initramfs.error, None);

    // The module files are those that the builder's listing of the disk has.
    let tree = std::fs::read_to_string(folder.join("tree.tsv")).unwrap();
    for driver in &kernel.drivers {
        let there = tree.lines().any(|line| {
            let name = line.rsplit('/').next().unwrap_or_default();
            let stem = name.split(".ko").next().unwrap_or_default();
            name.contains(".ko") && stem.replace('-', "_") == driver.name
        });
        assert_eq!(
            driver.kernel == DriverState::Module,
            there,
            "{}",
            driver.name
        );
    }
    for name in ["virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"] {
        assert_eq!(kernel.driver(name), DriverState::Module, "{name}");
        assert!(!kernel.early(name), "{name}");
    }
    for name in ["vmw_pvscsi", "mptspi", "sd_mod", "ahci", "vmxnet3"] {
        assert!(kernel.early(name), "{name}");
    }
    let problem = "initramfs-lacks-virtio";
    assert!(system.findings.iter().any(|finding| finding.id == problem));

    let file = folder.join(format!("boot/initrd.img-{}", kernel.version));
    if let Some(listing) = foreign("lsinitramfs", &[file.to_str().unwrap()]) {
        let listed: BTreeSet<String> = listing
            .lines()
            .filter_map(|line| {
                let name = line.rsplit('/').next()?;
                let (stem, _) = name.split_once(".ko")?;
                Some(stem.replace('-', "_"))
            })
            .collect();
        let found: BTreeSet<String> = initramfs.modules.iter().cloned().collect();
        assert_eq!(found, listed);
    }
}

#[test]
fn the_guest_that_names_its_devices_by_path_has_each_of_them_reported_where_it_stands() {
    let Some(folder) = guest("tiny") else {
        return;
    };
    let guest = inspected(&folder);
    println!("{}", guest.inspection);
    let system = guest.system().unwrap();
    assert!(!system.device_names.is_empty());
    let tree = guest.tree().unwrap();
    for name in system
        .device_names
        .iter()
        .filter(|name| name.inside.is_none())
    {
        let text = tree.read(&name.place.path).unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = usize::try_from(name.place.line.unwrap()).unwrap();
        let line = text.lines().nth(line - 1).unwrap();
        assert!(line.contains(&name.name), "{line}");
        assert!(name.stable.is_some(), "{name:?}");
    }
}
