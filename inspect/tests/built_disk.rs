//! A disk built here with mke2fs, mkswap, sfdisk and cpio, judged by blkid and sfdisk.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rehost_block::{Disk, File, Memory, StorageDisk};
use rehost_inspect::model::{
    AddressMethod, BootLoaderKind, Content, DeviceRole, DriverState, Init, Severity,
};
use rehost_inspect::{Guest, Options, inspect};

const ROOT_UUID: &str = "11111111-2222-4333-8444-555555555555";
const BOOT_UUID: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";
const SWAP_UUID: &str = "bbbbbbbb-cccc-4ddd-8eee-ffffffffffff";
const VERSION: &str = "6.1.0-99-test";
const MIB: u64 = 1 << 20;

/// Whether all of `tools` are installed; names the first that is not.
fn have(tools: &[&str]) -> bool {
    for tool in tools {
        let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        if !folders.iter().any(|f| Path::new(f).join(tool).exists()) {
            eprintln!("skipped: needs {tool}");
            return false;
        }
    }
    true
}

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A kernel image with nothing but its setup header.
fn kernel() -> Vec<u8> {
    let mut image = vec![0u8; 4096];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x600u16.to_le_bytes());
    image[0x800..0x800 + VERSION.len()].copy_from_slice(VERSION.as_bytes());
    image
}

/// An initramfs as initramfs-tools lays it out, packed by cpio and gzip.
fn initramfs(scratch: &Path) -> Vec<u8> {
    let root = scratch.join("initramfs");
    write(&root, "conf/initramfs.conf", "MODULES=list\n");
    write(&root, "conf/param.conf", "ROOT=/dev/sda3\n");
    let modules = format!("usr/lib/modules/{VERSION}/kernel/drivers");
    write(&root, &format!("{modules}/vmw_pvscsi.ko"), "x");
    write(&root, &format!("{modules}/sd_mod.ko"), "x");
    let list = run(Command::new("find").arg(".").current_dir(&root), b"");
    let mut pack = Command::new("cpio");
    let cpio = run(
        pack.args(["-o", "-H", "newc", "--quiet"])
            .current_dir(&root),
        &list,
    );
    run(Command::new("gzip").arg("-c"), &cpio)
}

const GRUB: &str = "set default=\"1>0\"\nmenuentry 'Simple' --id simple {\n\
    search --no-floppy --fs-uuid --set=root 66666666-7777-4888-8999-aaaaaaaaaaaa\n\
    linux /vmlinuz-6.1.0-99-test root=/dev/sda3 ro quiet\ninitrd /initrd.img-6.1.0-99-test\n}\n\
    submenu 'More' {\nmenuentry 'Second' {\n\
    search --no-floppy --label --set=root boots\n\
    linux /vmlinuz-6.1.0-99-test root=UUID=11111111-2222-4333-8444-555555555555 resume=/dev/sda2\n\
    initrd /initrd.img-6.1.0-99-test\n}\n}\nmenuentry 'Lost' { linux /vmlinuz-gone\n}\n";

/// Partitions: 1 `/boot`, 2 swap, 3 `/`. `change` may rewrite the two trees before they are packed.
fn disk(scratch: &Path, change: impl Fn(&Path, &Path)) -> std::path::PathBuf {
    let (root, boot) = (scratch.join("root"), scratch.join("boot"));
    write(
        &root,
        "etc/os-release",
        "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Test OS\"\n",
    );
    write(&root, "etc/hostname", "builthost\n");
    let fstab = format!(
        "UUID={ROOT_UUID} / ext4 defaults 0 1\nLABEL=boots /boot ext4 defaults 0 2\n\
         /dev/sda2 none swap sw 0 0\nUUID=dead-beef /srv xfs defaults 0 2\n"
    );
    write(&root, "etc/fstab", fstab);
    write(&root, "etc/network/interfaces", "iface ens192 inet dhcp\n");
    write(
        &root,
        "etc/initramfs-tools/conf.d/resume",
        format!("RESUME=UUID={SWAP_UUID}\n"),
    );
    let modules = format!("usr/lib/modules/{VERSION}");
    write(
        &root,
        &format!("{modules}/modules.dep"),
        "kernel/drivers/virtio_pci.ko:\nkernel/drivers/virtio-blk.ko.xz:\n\
         kernel/drivers/vmw_pvscsi.ko:\nkernel/drivers/sd_mod.ko:\n",
    );
    write(
        &root,
        &format!("{modules}/modules.builtin"),
        "kernel/fs/ext4/ext4.ko\n",
    );
    write(
        &root,
        "usr/lib/systemd/systemd",
        [0x7f, b'E', b'L', b'F', 2, 1],
    );
    fs::create_dir_all(root.join("usr/sbin")).unwrap();
    fs::create_dir_all(root.join("boot")).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    };
    link("usr/lib", "lib");
    link("usr/sbin", "sbin");
    link("/lib/systemd/systemd", "usr/sbin/init");
    link("boot/vmlinuz-6.1.0-99-test", "vmlinuz");
    write(&boot, "vmlinuz-6.1.0-99-test", kernel());
    write(&boot, "initrd.img-6.1.0-99-test", initramfs(scratch));
    write(&boot, "grub/grub.cfg", GRUB);
    change(&root, &boot);

    let image = scratch.join("disk.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(96 * MIB).unwrap();
    let script = b"label: dos\nlabel-id: 0xb01db01d\nstart=2048, size=32768, type=83, bootable\n\
                   start=34816, size=16384, type=82\nstart=51200, type=83\n";
    run(Command::new("sfdisk").arg("-q").arg(&image), script);
    let ext4 = |tree: &Path, uuid: &str, label: &str, offset: u64, blocks: &str| {
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args([
            "-q", "-F", "-t", "ext4", "-b", "1024", "-U", uuid, "-L", label, "-d",
        ]);
        mke2fs.arg(tree).args(["-E", &format!("offset={offset}")]);
        run(mke2fs.arg(&image).arg(blocks), b"");
    };
    ext4(&boot, BOOT_UUID, "boots", MIB, "16384");
    ext4(&root, ROOT_UUID, "root", 25 * MIB, "65536");
    let swap = scratch.join("swap");
    fs::File::create(&swap).unwrap().set_len(8 * MIB).unwrap();
    run(
        Command::new("mkswap")
            .args(["-q", "-U", SWAP_UUID])
            .arg(&swap),
        b"",
    );
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", swap.display()))
        .arg(format!("of={}", image.display()));
    run(dd.args(["bs=1M", "seek=17", "conv=notrunc"]), b"");
    image
}

const TOOLS: [&str; 6] = ["mke2fs", "sfdisk", "mkswap", "blkid", "cpio", "gzip"];

fn open(path: &Path) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(File::open(path).unwrap())))
}

fn look(path: &Path) -> Guest {
    inspect(&[open(path)], &Options::default()).unwrap()
}

#[test]
fn every_volume_has_the_identity_that_blkid_and_sfdisk_give_it() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |_, _| ());
    let guest = look(&image);
    let found = &guest.inspection.disks[0];
    let table = run(Command::new("sfdisk").arg("-d").arg(&image), b"");
    let table = String::from_utf8(table).unwrap();
    let starts: Vec<u64> = table
        .lines()
        .filter_map(|line| {
            line.split_once("start=")?
                .1
                .split(',')
                .next()?
                .trim()
                .parse()
                .ok()
        })
        .collect();
    assert!(table.contains(&format!("0x{}", found.layout.id.as_ref().unwrap())));
    assert_eq!(found.layout.volumes.len(), starts.len());
    for ((volume, content), start) in found
        .layout
        .volumes
        .iter()
        .zip(&found.filesystems)
        .zip(starts)
    {
        assert_eq!(volume.range.start, start * 512);
        let mut blkid = Command::new("blkid");
        blkid.args(["-p", "-o", "export", "-O", &volume.range.start.to_string()]);
        blkid.args(["-S", &(volume.range.end - volume.range.start).to_string()]);
        let told = String::from_utf8(run(blkid.arg(&image), b"")).unwrap();
        let tag = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::to_owned)
        };
        assert_eq!(content.content.kind().map(str::to_owned), tag("TYPE="));
        assert_eq!(content.content.uuid().map(str::to_owned), tag("UUID="));
        assert_eq!(content.content.label().map(str::to_owned), tag("LABEL="));
    }
}

#[test]
fn a_guest_with_a_separate_boot_filesystem_is_read_through_one_tree() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |_, _| ());
    let guest = look(&image);
    println!("{}", guest.inspection);
    let system = guest.system().unwrap();
    assert_eq!((system.root.disk, system.root.volume), (0, 3));
    assert_eq!(system.init, Init::Systemd);
    assert_eq!(system.hostname.as_deref(), Some("builthost"));
    let resolved: Vec<Option<u32>> = system
        .mounts
        .iter()
        .map(|mount| mount.resolved.as_ref().map(|at| at.volume))
        .collect();
    assert_eq!(resolved, [Some(3), Some(1), Some(2), None]);

    // Links lead from the root filesystem into the mounted one, and the place is told apart.
    let tree = guest.tree().unwrap();
    let place = tree.locate("/vmlinuz").unwrap().unwrap();
    assert_eq!((place.at.disk, place.at.volume), (0, 1));
    assert_eq!(place.path, b"/vmlinuz-6.1.0-99-test");
    assert_eq!(place.guest_path, b"/boot/vmlinuz-6.1.0-99-test");
    assert_eq!(tree.read("/vmlinuz").unwrap().unwrap(), kernel());
    let above = tree
        .locate("/boot/grub/../../boot/../etc/hostname")
        .unwrap()
        .unwrap();
    assert_eq!(
        (above.at.volume, above.path),
        (3, b"/etc/hostname".to_vec())
    );
    assert!(tree.locate("/boot/nothing").unwrap().is_none());
    let target = tree.read_link("/sbin/init").unwrap().unwrap();
    assert_eq!(target, b"/lib/systemd/systemd");

    assert_eq!(system.boot.kind, BootLoaderKind::Grub2);
    let boot = system.default_boot().unwrap();
    assert_eq!(boot.entry, Some(1));
    assert_eq!(boot.kernel, "/boot/vmlinuz-6.1.0-99-test");
    assert_eq!(boot.initrds, ["/boot/initrd.img-6.1.0-99-test"]);
    assert_eq!(
        boot.command_line,
        format!("root=UUID={ROOT_UUID} resume=/dev/sda2")
    );
    assert_eq!(system.network[0].method, AddressMethod::Dhcp);

    let kernel = &system.kernels[0];
    assert_eq!(kernel.driver("virtio_blk"), DriverState::Module);
    assert_eq!(kernel.driver("ext4"), DriverState::Builtin);
    assert_eq!(kernel.driver("nvme"), DriverState::Absent);
    assert!(kernel.early("sd_mod") && kernel.early("ext4") && !kernel.early("virtio_pci"));
    let modules = &kernel.initramfs.as_ref().unwrap().modules;
    assert_eq!(*modules, ["sd_mod", "vmw_pvscsi"]);
}

#[test]
fn names_that_depend_on_the_bus_are_found_wherever_they_stand() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |_, _| ());
    let guest = look(&image);
    let system = guest.system().unwrap();
    let names: Vec<(DeviceRole, &str, Option<u32>, Option<&str>)> = system
        .device_names
        .iter()
        .map(|name| {
            (
                name.role,
                name.name.as_str(),
                name.place.line,
                name.stable.as_deref(),
            )
        })
        .collect();
    let root = format!("UUID={ROOT_UUID}");
    let swap = format!("UUID={SWAP_UUID}");
    let (root, swap) = (Some(root.as_str()), Some(swap.as_str()));
    assert_eq!(
        names,
        [
            (DeviceRole::Fstab, "/dev/sda2", Some(3), swap),
            (DeviceRole::BootRoot, "/dev/sda3", Some(4), root),
            (DeviceRole::BootResume, "/dev/sda2", Some(10), swap),
            (DeviceRole::Initramfs, "/dev/sda3", Some(1), root),
        ]
    );
    let initramfs = system.device_names[3].inside.as_deref();
    assert_eq!(initramfs, Some("/boot/initrd.img-6.1.0-99-test"));
    let ids: Vec<(&str, Severity)> = system
        .findings
        .iter()
        .map(|finding| (finding.id, finding.severity))
        .collect();
    for expected in [
        ("initramfs-lacks-virtio", Severity::Problem),
        ("mount-not-found", Severity::Problem),
        ("boot-file-missing", Severity::Warning),
        ("network-name-changes", Severity::Warning),
    ] {
        assert!(ids.contains(&expected), "{expected:?} in {ids:?}");
    }
}

#[test]
fn damaged_and_oversized_files_become_findings_and_the_rest_is_read() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |root, boot| {
        write(root, "etc/network/interfaces", vec![b'#'; 2 << 20]);
        write(root, "etc/netplan/x.yaml", "network: [\n");
        write(boot, "initrd.img-6.1.0-99-test", "no initramfs at all");
        fs::remove_file(boot.join("grub/grub.cfg")).unwrap();
    });
    let guest = look(&image);
    let system = guest.system().unwrap();
    for expected in [
        "unreadable-file",
        "netplan-not-read",
        "initramfs-unreadable",
        "no-boot-loader",
    ] {
        assert!(
            system.findings.iter().any(|f| f.id == expected),
            "{expected}"
        );
    }
    assert_eq!(system.hostname.as_deref(), Some("builthost"));
    // Without a menu, the newest kernel on the root filesystem's UUID.
    let boot = system.default_boot().unwrap();
    assert_eq!(boot.entry, None);
    assert_eq!(boot.command_line, format!("root=UUID={ROOT_UUID} ro"));
}

#[test]
fn a_guest_without_a_kernel_is_inspected_and_only_booting_it_is_an_error() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |root, boot| {
        fs::remove_dir_all(root.join("usr/lib/modules")).unwrap();
        for entry in fs::read_dir(boot).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            } else {
                fs::remove_dir_all(path).unwrap();
            }
        }
        write(root, "etc/os-release", "NAME=\"Odd\"\n");
    });
    let guest = look(&image);
    let system = guest.system().unwrap();
    let error = system.default_boot().unwrap_err();
    assert!(error.to_string().contains("no kernel to boot"), "{error}");
    for expected in ["no-kernel", "unknown-os"] {
        assert!(
            system.findings.iter().any(|f| f.id == expected),
            "{expected}"
        );
    }
    assert_eq!(system.os.pretty_name, "Odd");
}

#[test]
fn two_systems_are_both_read_and_the_choice_is_fixed_and_said() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = disk(scratch.path(), |_, _| ());
    let twice = [open(&image), open(&image)];
    let guest = inspect(&twice, &Options::default()).unwrap();
    assert_eq!(guest.inspection.systems.len(), 2);
    assert_eq!(guest.inspection.chosen, Some(0));
    assert!(guest.inspection.choice.contains("of 2 systems"));
    let asked = Options { root: Some((1, 3)) };
    let guest = inspect(&twice, &asked).unwrap();
    assert_eq!(guest.system().unwrap().root.disk, 1);
    let absent = Options { root: Some((0, 1)) };
    let error = inspect(&twice, &absent).unwrap_err();
    assert!(
        error.to_string().contains("Test OS on disk 0 partition 3"),
        "{error}"
    );
}

#[test]
fn an_empty_disk_has_no_system_and_says_so() {
    let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(Memory::new(
        "empty",
        vec![0; 1 << 20],
    ))));
    let guest = inspect(&[disk], &Options::default()).unwrap();
    assert!(guest.inspection.systems.is_empty());
    let error = guest.system().unwrap_err();
    assert!(error.to_string().contains("no operating system"), "{error}");
    assert!(matches!(
        guest.inspection.disks[0].filesystems[0].content,
        Content::Unknown
    ));
}
