//! Initramfs images laid out as mkinitcpio, SUSE's mkinitrd and Red Hat's old mkinitrd lay them out: each
//! gets the drivers and whatever it needs to load them. Judged by cpio and modprobe.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rehost_inject::initramfs::{Loading, Rebuilt, Shell, Wanted, rebuild};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::modules::ModuleName;
use support::{VERSION, ask, have, modprobe, pack, plain, tree, unpack};

const TOOLS: &[&str] = &["cpio", "depmod", "modprobe", "zstd", "gzip"];

fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn vmware_only(path: &str) -> bool {
    ["vmw_pvscsi", "sd_mod", "scsi_mod"]
        .iter()
        .any(|name| path.contains(name))
}

/// `old` with virtio's drivers of the module tree in `folder`.
fn with_virtio(old: Vec<u8>, folder: &Path) -> Option<Rebuilt> {
    let modules = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"].map(ModuleName::new);
    let wanted = Wanted {
        version: VERSION,
        modules: &modules,
        ..Wanted::default()
    };
    let read = |path: &str| Ok(fs::read(folder.join(path)).ok());
    rebuild(&Initramfs::parse(old).unwrap(), &wanted, &read).unwrap()
}

/// What the kernel unpacks of it.
fn unpacked(rebuilt: &Rebuilt) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let image = Initramfs::parse(rebuilt.content.clone()).unwrap();
    unpack(out.path(), &plain(&image));
    out
}

#[test]
fn mkinitcpio_without_udev_is_told_the_names_and_modprobe_finds_them() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = initrd.path();
    // As `lsinitcpio` lists an image of mkinitcpio 37 with HOOKS=(base autodetect modconf block
    // filesystems): the merged /usr, hooks as functions, and the configuration that init reads.
    for folder in [
        "usr/bin",
        "usr/lib/modules",
        "hooks",
        "new_root",
        "run",
        "sys",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib"),
        ("usr/sbin", "bin"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    put(root, "VERSION", "37.3");
    put(root, "buildconfig", "MODULES=()\nHOOKS=(base autodetect)\n");
    put(
        root,
        "config",
        "MODULES=\"ext4\"\nEARLYHOOKS=\"\"\nHOOKS=\"keymap\"\nLATEHOOKS=\"\"\n",
    );
    put(
        root,
        "init",
        "#!/usr/bin/ash\n. /init_functions\nmount_setup\n. /config\n\
         # shellcheck disable=SC2086\n[ -n \"$MODULES\" ] && modprobe -qab $MODULES\nrun_hookfunctions\n",
    );
    put(root, "init_functions", "#!/usr/bin/ash\n");
    put(root, "hooks/keymap", "run_hook () { :; }\n");
    put(root, "usr/bin/busybox", vec![0x90; 30_000]);
    put(root, "usr/bin/kmod", "kmod");
    symlink("kmod", root.join("usr/bin/modprobe")).unwrap();
    put(root, "etc/modprobe.d/keep", "");
    tree(root, "usr/lib", ".zst", &vmware_only);
    let folder = tree(guest.path(), "usr/lib", ".zst", &|_| true);
    let old = ask("zstd", &["-qc"], &pack(root));

    let built = with_virtio(old, &folder).unwrap();
    assert_eq!(built.loading, Loading::MkinitcpioConfig);
    let out = unpacked(&built);
    assert!(out.path().join("lib").is_symlink());
    let config = fs::read_to_string(out.path().join("config")).unwrap();
    // The shell says what init would load.
    let listed = ask("sh", &["-c", &format!("{config}echo $MODULES")], b"");
    let listed = String::from_utf8(listed).unwrap();
    let listed: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(listed.first(), Some(&"ext4"));
    for name in ["virtio_pci", "virtio_blk", "virtio_scsi"] {
        assert!(listed.contains(&name), "{listed:?}");
        let found = modprobe(out.path(), name);
        assert_eq!(found, modprobe(guest.path(), name));
        assert!(found.last().unwrap().ends_with(".ko.zst"), "{found:?}");
        for file in &found {
            let stem = file.split('.').next().unwrap();
            let folder = out.path().join("usr/lib/modules").join(VERSION);
            assert!(holds(&folder, file), "{stem}");
        }
    }
    assert!(
        with_virtio(built.content, &folder).is_none(),
        "once is enough"
    );
}

/// Whether a file of this name is somewhere below `folder`.
fn holds(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holds(&path, name)
        } else {
            path.file_name().unwrap() == name
        }
    })
}

#[test]
fn mkinitrd_of_suse_has_udev_and_needs_the_modules_alone() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = initrd.path();
    // SLES 11: `init` runs the parts of /boot in order, of which 04-udev.sh starts udev.
    put(root, "init", "#!/bin/bash\nexec /run_all.sh\n");
    put(
        root,
        "run_all.sh",
        "source boot/03-rtc.sh\nsource boot/04-udev.sh\n[ \"$debug\" ] && echo running 11-block.sh\n",
    );
    put(
        root,
        "boot/04-udev.sh",
        "/sbin/udevd --daemon\n/sbin/udevadm trigger\n",
    );
    put(root, "config/block.sh", "block_modules=' mptspi sd_mod'\n");
    put(
        root,
        "mkinitrd.config",
        "RESOLVED_INITRD_MODULES='scsi_mod sd_mod vmw_pvscsi'\n",
    );
    put(root, "sbin/udevd", "program");
    put(root, "bin/bash", vec![0x90; 30_000]);
    fs::create_dir_all(root.join("lib")).unwrap();
    tree(root, "lib", "", &vmware_only);
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let old = ask("gzip", &["-c"], &pack(root));

    let built = with_virtio(old, &folder).unwrap();
    assert_eq!(built.loading, Loading::Udev);
    assert!(built.overridden.is_empty());
    let out = unpacked(&built);
    for alias in ["virtio:d00000002v00001AF4", "virtio_pci", "virtio_scsi"] {
        let found = modprobe(out.path(), alias);
        assert!(!found.is_empty(), "{alias}");
        assert_eq!(found, modprobe(guest.path(), alias));
    }
    assert!(with_virtio(built.content, &folder).is_none());
}

/// The init of a RHEL 5 image of the time on VMware, as its mkinitrd 5.1 wrote it.
const NASH: &str = "#!/bin/nash\n\nmount -t proc /proc /proc\nsetquiet\necho Mounting proc filesystem\n\
    echo Mounting sysfs filesystem\nmount -t sysfs /sys /sys\necho Creating /dev\n\
    mount -o mode=0755 -t tmpfs /dev /dev\nmkdir /dev/pts\necho Creating block device nodes.\nmkblkdevs\n\
    echo \"Loading scsi_mod.ko module\"\ninsmod /lib/scsi_mod.ko \n\
    echo \"Loading sd_mod.ko module\"\ninsmod /lib/sd_mod.ko \n\
    echo \"Loading vmw_pvscsi.ko module\"\ninsmod /lib/vmw_pvscsi.ko \n\
    echo Waiting for driver initialization.\nstabilized --hash --interval 250 /proc/scsi/scsi\n\
    mkblkdevs\necho Scanning and configuring dmraid supported devices\n\
    resume LABEL=SWAP-sda2\necho Creating root device.\nmkrootdev -t ext3 -o defaults,ro sda1\n\
    echo Mounting root filesystem.\nmount /sysroot\necho Switching to new root and running init.\n\
    switchroot\n";

#[test]
fn a_nash_script_of_rhel_5_loads_each_driver_after_what_it_needs() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = initrd.path();
    put(root, "init", NASH);
    for module in ["scsi_mod", "sd_mod", "vmw_pvscsi"] {
        put(root, &format!("lib/{module}.ko"), module);
    }
    put(root, "bin/nash", vec![0x90; 20_000]);
    symlink("nash", root.join("bin/insmod")).unwrap();
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let old = ask("gzip", &["-c"], &pack(root));

    let built = with_virtio(old, &folder).unwrap();
    assert_eq!(built.loading, Loading::Script(Shell::Nash));
    let out = unpacked(&built);
    let init = fs::read_to_string(out.path().join("init")).unwrap();
    let loaded: Vec<&str> = init
        .lines()
        .filter_map(|line| line.trim().strip_prefix("insmod /"))
        .collect();
    for file in &loaded {
        let content = fs::read(out.path().join(file)).unwrap();
        let plain =
            content.starts_with(b"\x7fELF") || file.starts_with("lib/") && content.len() < 20;
        assert!(plain, "{file} is what insmod takes");
    }
    let at = |file: &str| {
        let stem = file.split('.').next().unwrap();
        let same = |path: &&str| {
            path.rsplit('/')
                .next()
                .unwrap()
                .starts_with(&format!("{stem}.ko"))
        };
        loaded
            .iter()
            .position(same)
            .unwrap_or_else(|| panic!("{file} in {init}"))
    };
    for name in ["virtio_pci", "virtio_blk", "virtio_scsi"] {
        // What a module needs, and what that needs, in any order among themselves.
        for file in modprobe(guest.path(), name) {
            let own = file.split('.').next().unwrap();
            for needed in modprobe(guest.path(), own) {
                assert!(at(&needed) <= at(&file), "{needed} before {file}: {init}");
            }
        }
    }
    // All of them before the script waits for its disks; everything else as it was.
    let drivers = init.find("virtio_blk.ko").unwrap();
    assert!(drivers < init.find("echo Waiting").unwrap());
    let others: String = init
        .split_inclusive('\n')
        .filter(|line| !line.contains("/kernel/"))
        .collect();
    assert_eq!(others, NASH);
    assert!(with_virtio(built.content, &folder).is_none());
}
