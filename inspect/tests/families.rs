//! Guests of other families than Debian, built here as file trees: an RPM system with BLS entries,
//! LVM's devices file and a dracut initramfs; an Arch one that firmware starts through a unified image.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rehost_block::{Disk, File, StorageDisk};
use rehost_inspect::model::{
    BootLoaderKind, Family, Firmware, Generator, GuestSystem, InterfaceKind, NetworkTool,
    SettledBy, Severity, Verdict,
};
use rehost_inspect::{Guest, Options, inspect};

const ROOT_UUID: &str = "11111111-2222-4333-8444-555555555555";
const VERSION: &str = "5.14.0-362.el9.x86_64";

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
    let path = root.join(path.trim_start_matches('/'));
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

/// An archive of `files`, packed by cpio.
fn archive(scratch: &Path, name: &str, files: &[&str]) -> Vec<u8> {
    let root = scratch.join(name);
    for file in files {
        write(&root, file, "x\n");
    }
    let list = run(Command::new("find").arg(".").current_dir(&root), b"");
    let mut pack = Command::new("cpio");
    let pack = pack.args(["-o", "-H", "newc", "--quiet"]);
    run(pack.current_dir(&root), &list)
}

/// What every guest here has.
fn base(root: &Path, release: &str) {
    write(root, "etc/os-release", release);
    write(
        root,
        "etc/fstab",
        format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n"),
    );
    write(
        root,
        "usr/lib/systemd/systemd",
        [0x7f, b'E', b'L', b'F', 2, 1],
    );
    fs::create_dir_all(root.join("usr/sbin")).unwrap();
    for (target, name) in [
        ("usr/lib", "lib"),
        ("usr/sbin", "sbin"),
        ("/usr/lib/systemd/systemd", "usr/sbin/init"),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    let modules = format!("usr/lib/modules/{VERSION}");
    write(
        root,
        &format!("{modules}/modules.dep"),
        "kernel/drivers/virtio_pci.ko.xz:\nkernel/drivers/virtio_blk.ko.xz:\n",
    );
    write(
        root,
        &format!("{modules}/modules.builtin"),
        "kernel/fs/ext4/ext4.ko\n",
    );
}

fn ext4(tree: &Path, image: &Path, offset: u64, blocks: &str) {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args([
        "-q", "-F", "-t", "ext4", "-b", "1024", "-U", ROOT_UUID, "-d",
    ]);
    mke2fs.arg(tree).args(["-E", &format!("offset={offset}")]);
    run(mke2fs.arg(image).arg(blocks), b"");
}

fn look(image: &Path) -> Guest {
    let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(File::open(image).unwrap())));
    inspect(&[disk], &Options::default()).unwrap()
}

fn severity(system: &GuestSystem, id: &str) -> Option<Severity> {
    let found = system.findings.iter().find(|finding| finding.id == id);
    found.map(|finding| finding.severity)
}

/// A disk that is one filesystem, as images of cloud machines without a boot loader are.
fn rpm_guest(scratch: &Path, initramfs: &[u8]) -> PathBuf {
    let root = scratch.join("root");
    base(
        &root,
        "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\nPRETTY_NAME=\"Rocky Linux 9.3\"\n",
    );
    write(&root, format!("boot/vmlinuz-{VERSION}").as_str(), kernel());
    write(
        &root,
        format!("boot/initramfs-{VERSION}.img").as_str(),
        initramfs,
    );
    write(
        &root,
        "boot/grub2/grub.cfg",
        "load_env -f /boot/grub2/grubenv\nset default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n",
    );
    let mut grubenv = "# GRUB Environment Block\nsaved_entry=abc-5.14\nkernelopts=root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root resume=/dev/mapper/rl-swap\n".to_owned();
    grubenv.push_str(&"#".repeat(1024 - grubenv.len()));
    write(&root, "boot/grub2/grubenv", grubenv);
    write(
        &root,
        "boot/loader/entries/abc-5.14.conf",
        format!(
            "title Rocky Linux (5.14)\nversion {VERSION}\nlinux /boot/vmlinuz-{VERSION}\n\
             initrd /boot/initramfs-{VERSION}.img $tuned_initrd\noptions $kernelopts $tuned_params\n"
        ),
    );
    write(
        &root,
        "etc/lvm/devices/system.devices",
        "# LVM uses devices listed in this file.\nVERSION=1.1.2\n\
         IDTYPE=sys_wwid IDNAME=naa.6000c2960a8e DEVNAME=/dev/sda2 PVID=x PART=2\n",
    );
    write(
        &root,
        "etc/crypttab",
        "home UUID=dead-beef /etc/keys/home.key luks,tpm2-device=auto\n",
    );
    write(
        &root,
        "etc/mdadm.conf",
        "ARRAY /dev/md/data UUID=00000000:00000000:00000000:00000001\n",
    );
    let scripts = "etc/sysconfig/network-scripts";
    write(
        &root,
        &format!("{scripts}/ifcfg-bond0"),
        "DEVICE=bond0\nTYPE=Bond\nBONDING_OPTS=mode=1\n",
    );
    write(
        &root,
        &format!("{scripts}/ifcfg-ens192"),
        "DEVICE=ens192\nHWADDR=00:50:56:ac:cf:51\nMASTER=bond0\nSLAVE=yes\n",
    );
    write(
        &root,
        &format!("{scripts}/ifcfg-bond0.7"),
        "DEVICE=bond0.7\nVLAN=yes\nIPADDR=192.0.2.7\nPREFIX=24\nGATEWAY=192.0.2.1\n",
    );
    write(
        &root,
        "etc/udev/rules.d/70-persistent-net.rules",
        "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"vmxnet3\", ATTR{address}==\"00:50:56:ac:cf:51\", NAME=\"ens192\"\n",
    );
    write(
        &root,
        "etc/modprobe.d/hard.conf",
        "# x\nblacklist virtio-blk\n",
    );
    write(&root, "etc/multipath/wwids", "/36000c2960a8e/\n");
    write(&root, "usr/bin/vmtoolsd", "x");
    write(&root, "etc/vmware-tools/locations", "x");
    write(&root, "usr/sbin/load_policy", "x");
    write(
        &root,
        "etc/selinux/config",
        "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
    );
    let image = scratch.join("disk.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    ext4(&root, &image, 0, "65536");
    image
}

const TOOLS: [&str; 4] = ["mke2fs", "cpio", "gzip", "zstd"];

#[test]
fn an_rpm_guest_tells_what_will_not_work_elsewhere_and_who_settles_it() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let early = archive(
        scratch.path(),
        "early",
        &["kernel/x86/microcode/GenuineIntel.bin", "early_cpio"],
    );
    let modules = format!("usr/lib/modules/{VERSION}/kernel/drivers/vmw_pvscsi.ko.xz");
    let main = archive(
        scratch.path(),
        "main",
        &[
            &modules,
            "usr/lib/dracut/hostonly-kernel-modules.txt",
            "usr/lib/dracut/build-parameter.txt",
        ],
    );
    let packed = run(Command::new("zstd").arg("-c"), &main);
    let image = rpm_guest(scratch.path(), &[early, packed].concat());
    let guest = look(&image);
    println!("{}", guest.inspection);
    let system = guest.system().unwrap();
    assert_eq!(system.os.family, Family::RedHat);

    // The menu: BLS entries with variables of the environment block.
    assert_eq!(system.boot.kind, BootLoaderKind::Grub2);
    let boot = system.default_boot().unwrap();
    assert_eq!(boot.kernel, format!("/boot/vmlinuz-{VERSION}"));
    assert_eq!(boot.initrds, [format!("/boot/initramfs-{VERSION}.img")]);
    assert!(
        boot.command_line
            .starts_with("root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root")
    );

    let initramfs = system.kernels[0].initramfs.as_ref().unwrap();
    assert_eq!(initramfs.generator, Generator::Dracut);
    assert_eq!(initramfs.host_only, Some(true));
    let kinds: Vec<&str> = initramfs
        .segments
        .iter()
        .map(|s| s.compression.as_str())
        .collect();
    assert_eq!(kinds, ["uncompressed", "zstd"]);
    assert_eq!(initramfs.modules, ["vmw_pvscsi"]);

    let interfaces: Vec<_> = system
        .network
        .iter()
        .filter(|interface| interface.configured_by == NetworkTool::Ifcfg)
        .map(|interface| (interface.kind, interface.uses.join(" "), interface.vlan))
        .collect();
    assert_eq!(
        interfaces,
        [
            (InterfaceKind::Bond, "ens192".to_owned(), None),
            (InterfaceKind::Vlan, "bond0".to_owned(), Some(7)),
            (InterfaceKind::Ethernet, String::new(), None),
        ]
    );
    assert_eq!(
        system.crypttab[0].key.as_deref(),
        Some("/etc/keys/home.key")
    );
    assert_eq!(system.arrays[0].device, "/dev/md/data");
    assert_eq!(system.multipath.as_ref().unwrap().wwids, ["36000c2960a8e"]);
    let tools: Vec<&str> = system.tools.iter().map(|tool| tool.name).collect();
    assert_eq!(tools, ["open-vm-tools", "VMware Tools (tarball)"]);

    for (id, expected) in [
        ("initramfs-lacks-virtio", Severity::Problem),
        ("initramfs-host-only", Severity::Note),
        ("lvm-devices-file", Severity::Problem),
        ("luks-hardware-key", Severity::Problem),
        ("crypttab-not-found", Severity::Problem),
        ("crypttab-key-missing", Severity::Warning),
        ("raid-not-found", Severity::Warning),
        ("virtio-blacklisted", Severity::Problem),
        ("multipath-in-use", Severity::Note),
        ("network-driver-rule", Severity::Warning),
        ("hypervisor-tools", Severity::Note),
        ("hypervisor-tools-fail", Severity::Warning),
        ("selinux-enforcing", Severity::Note),
    ] {
        assert_eq!(severity(system, id), Some(expected), "{id}");
    }
    assert_eq!(system.readiness.verdict, Verdict::NeedsOwner);
    let virtio = system
        .findings
        .iter()
        .find(|f| f.id == "initramfs-lacks-virtio");
    assert_eq!(virtio.unwrap().settled_by(), SettledBy::Migrate);
    let blacklist = system
        .findings
        .iter()
        .find(|f| f.id == "virtio-blacklisted")
        .unwrap();
    assert_eq!(
        blacklist.evidence[0].to_string(),
        "/etc/modprobe.d/hard.conf:2"
    );
}

#[test]
fn what_a_squashed_initramfs_holds_is_not_guessed() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let main = archive(
        scratch.path(),
        "main",
        &["squashfs-root.img", "usr/lib/dracut/build-parameter.txt"],
    );
    let image = rpm_guest(scratch.path(), &run(Command::new("gzip").arg("-c"), &main));
    let guest = look(&image);
    let system = guest.system().unwrap();
    assert_eq!(
        severity(system, "initramfs-squashed"),
        Some(Severity::Problem)
    );
    assert_eq!(severity(system, "initramfs-lacks-virtio"), None);
}

/// A unified image as `ukify` lays it out: a program that ld links, and sections that objcopy adds.
fn unified(scratch: &Path, initrd: &[u8]) -> Vec<u8> {
    let path = |name: &str| scratch.join(name);
    fs::write(
        path("stub.s"),
        ".globl efi_main\nefi_main: ret\n.data\n.long 1\n",
    )
    .unwrap();
    run(
        Command::new("as")
            .arg("-o")
            .arg(path("stub.o"))
            .arg(path("stub.s")),
        b"",
    );
    let mut link = Command::new("ld");
    link.args(["-m", "i386pep", "--subsystem", "10", "-e", "efi_main", "-o"]);
    run(link.arg(path("stub.efi")).arg(path("stub.o")), b"");
    let release = "ID=arch\nPRETTY_NAME=\"Arch Linux\"\nBUILD_ID=rolling\n";
    let parts: [(&str, &[u8]); 5] = [
        (".osrel", release.as_bytes()),
        (
            ".cmdline",
            format!("root=UUID={ROOT_UUID} rw quiet\0")
                .leak()
                .as_bytes(),
        ),
        (".uname", VERSION.as_bytes()),
        (".linux", &kernel()),
        (".initrd", initrd),
    ];
    let mut add = Command::new("objcopy");
    for (number, (name, content)) in parts.iter().enumerate() {
        let file = path(&format!("part{number}"));
        fs::write(&file, content).unwrap();
        add.args(["--add-section", &format!("{name}={}", file.display())]);
        let address = 0x1_4010_0000u64 + 0x10_0000 * number as u64;
        add.args(["--change-section-vma", &format!("{name}={address:#x}")]);
    }
    run(add.arg(path("stub.efi")).arg(path("unified.efi")), b"");
    fs::read(path("unified.efi")).unwrap()
}

/// An EFI system partition that no fstab names, and the root.
fn uefi_guest(scratch: &Path, esp: &[(&str, &[u8])]) -> PathBuf {
    let root = scratch.join("root");
    base(&root, "ID=arch\nPRETTY_NAME=\"Arch Linux\"\n");
    fs::create_dir_all(root.join("efi")).unwrap();
    fs::create_dir_all(root.join("boot")).unwrap();
    let image = scratch.join("disk.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let script = b"label: gpt\nstart=2048, size=40960, type=U\nstart=43008, type=L\n";
    run(Command::new("sfdisk").arg("-q").arg(&image), script);
    let fat = scratch.join("esp.img");
    fs::File::create(&fat).unwrap().set_len(20 << 20).unwrap();
    run(Command::new("mkfs.vfat").arg(&fat), b"");
    let mut made: Vec<String> = Vec::new();
    for (name, content) in esp {
        let mut folder = String::new();
        for part in name
            .split('/')
            .rev()
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            folder = format!("{folder}/{part}");
            if !made.contains(&folder) {
                run(
                    Command::new("mmd")
                        .arg("-i")
                        .arg(&fat)
                        .arg(format!("::{folder}")),
                    b"",
                );
                made.push(folder.clone());
            }
        }
        let file = scratch.join("one");
        fs::write(&file, content).unwrap();
        let mut copy = Command::new("mcopy");
        run(
            copy.arg("-i")
                .arg(&fat)
                .arg(&file)
                .arg(format!("::/{name}")),
            b"",
        );
    }
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", fat.display()))
        .arg(format!("of={}", image.display()));
    run(dd.args(["bs=1M", "seek=1", "conv=notrunc"]), b"");
    ext4(&root, &image, 21 << 20, "40960");
    image
}

const UEFI_TOOLS: [&str; 9] = [
    "mke2fs",
    "cpio",
    "sfdisk",
    "mkfs.vfat",
    "mmd",
    "mcopy",
    "as",
    "ld",
    "objcopy",
];

#[test]
fn a_unified_image_on_a_partition_that_no_fstab_names_is_the_boot_entry() {
    if !have(&UEFI_TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let module = format!("usr/lib/modules/{VERSION}/kernel/drivers/vmw_pvscsi.ko.xz");
    let initrd = archive(
        scratch.path(),
        "initrd",
        &[&module, "init_functions", "config"],
    );
    let uki = unified(scratch.path(), &initrd);
    let image = uefi_guest(scratch.path(), &[("EFI/Linux/arch-linux.efi", &uki)]);
    let guest = look(&image);
    println!("{}", guest.inspection);
    let system = guest.system().unwrap();
    assert_eq!(system.boot.firmware, Firmware::Uefi);
    assert_eq!(system.boot.kind, BootLoaderKind::UnifiedKernel);
    let boot = system.default_boot().unwrap();
    assert_eq!(boot.kernel, "/efi/EFI/Linux/arch-linux.efi");
    assert_eq!(boot.command_line, format!("root=UUID={ROOT_UUID} rw quiet"));
    let found = &system.boot.unified[0];
    assert_eq!(found.version.as_deref(), Some(VERSION));
    assert_eq!(found.initramfs.as_ref().unwrap().modules, ["vmw_pvscsi"]);
    assert!(found.signature.is_none());
    let kernel = &system.kernels[0];
    assert_eq!(
        kernel.image.as_deref(),
        Some("/efi/EFI/Linux/arch-linux.efi")
    );
    let inside = kernel.initramfs.as_ref().unwrap();
    assert_eq!(Some(&inside.path), kernel.image.as_ref());
    assert!(!kernel.early("virtio_blk"));
    for (id, expected) in [
        ("initramfs-lacks-virtio", Severity::Problem),
        ("uefi-entry-lost", Severity::Problem),
    ] {
        assert_eq!(severity(system, id), Some(expected), "{id}");
    }
    assert_eq!(severity(system, "unified-kernel-lacks-virtio"), None);
}

#[test]
fn systemd_boot_takes_the_default_of_its_configuration_among_both_types() {
    if !have(&UEFI_TOOLS) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let initrd = archive(scratch.path(), "initrd", &["init"]);
    let uki = unified(scratch.path(), &initrd);
    let entry = format!(
        "title Older\nversion 5.0\nlinux /vmlinuz\ninitrd /initrd\n\
         options root=UUID={ROOT_UUID} roothash=00\n"
    );
    let image = uefi_guest(
        scratch.path(),
        &[
            ("EFI/Linux/arch+3.efi", &uki),
            ("EFI/systemd/systemd-bootx64.efi", b"MZ"),
            ("EFI/BOOT/BOOTX64.EFI", b"MZ"),
            ("loader/entries/older.conf", entry.as_bytes()),
            ("loader/loader.conf", b"timeout 3\ndefault old*\n"),
            ("vmlinuz", &kernel()),
            ("initrd", &initrd),
        ],
    );
    let guest = look(&image);
    let system = guest.system().unwrap();
    assert_eq!(system.boot.kind, BootLoaderKind::SystemdBoot);
    let ids: Vec<_> = system
        .boot
        .entries
        .iter()
        .filter_map(|e| e.id.as_deref())
        .collect();
    assert_eq!(ids, ["arch.efi", "older"]);
    let boot = system.default_boot().unwrap();
    assert_eq!(
        (boot.entry, boot.kernel.as_str()),
        (Some(1), "/efi/vmlinuz")
    );
    let esp = system.boot.esp.as_ref().unwrap();
    assert_eq!(esp.fallback.as_deref(), Some("/efi/EFI/BOOT/BOOTX64.EFI"));
    assert_eq!(severity(system, "uefi-entry-lost"), None);
    // The root is verified, and the initramfs is not on it.
    assert_eq!(severity(system, "verity-root"), Some(Severity::Warning));
}

#[test]
fn a_volume_that_only_a_token_unlocks_is_told_before_any_copy() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("luks.img");
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let key = scratch.path().join("key");
    fs::write(&key, "rehost").unwrap();
    let mut format = Command::new("cryptsetup");
    format.args(["luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2"]);
    format.args([
        "--pbkdf-force-iterations",
        "1000",
        "--disable-locks",
        "--key-file",
    ]);
    run(format.arg(&key).arg(&image), b"");
    assert!(
        look(&image)
            .inspection
            .findings
            .iter()
            .all(|f| f.id != "luks-hardware-token")
    );
    let token = br#"{"type":"clevis","keyslots":["0"],"jwe":{}}"#;
    let mut import = Command::new("cryptsetup");
    import.args(["token", "import", "--disable-locks", "--json-file", "-"]);
    run(import.arg(&image), token);
    let inspection = look(&image).inspection;
    let found = inspection
        .findings
        .iter()
        .find(|f| f.id == "luks-hardware-token")
        .unwrap();
    assert_eq!(found.severity, Severity::Problem);
    assert!(found.what.contains("Clevis"), "{}", found.what);
}

/// Whether `value` is of the shape that `schema` describes, and has nothing that it does not name.
fn fits(root: &serde_json::Value, schema: &serde_json::Value, value: &serde_json::Value, at: &str) {
    use serde_json::Value;
    if let Some(place) = schema["$ref"].as_str() {
        let mut named = root.pointer(place.trim_start_matches('#')).unwrap().clone();
        // What stands beside a reference holds as well.
        for (name, shape) in schema["properties"].as_object().into_iter().flatten() {
            named["properties"][name] = shape.clone();
        }
        return fits(root, &named, value, at);
    }
    let choices = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(choices) = choices {
        let fitting = choices.iter().filter(|choice| {
            let quiet = std::panic::AssertUnwindSafe(|| fits(root, choice, value, at));
            std::panic::catch_unwind(quiet).is_ok()
        });
        assert!(fitting.count() > 0, "{at}: {value} fits no choice");
        return;
    }
    if let Some(only) = schema.get("const") {
        assert_eq!(only, value, "{at}");
    }
    if let Some(known) = schema["enum"].as_array() {
        assert!(known.contains(value), "{at}: {value}");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(
        kinds.contains(&kind),
        "{at}: {kind} is not one of {kinds:?}"
    );
    if let (Value::Array(items), Some(each)) = (value, schema.get("items")) {
        for (nth, item) in items.iter().enumerate() {
            fits(root, each, item, &format!("{at}/{nth}"));
        }
    }
    if let (Value::Object(fields), Some(known)) = (value, schema["properties"].as_object()) {
        for (name, field) in fields {
            let shape = known
                .get(name)
                .unwrap_or_else(|| panic!("{at}: {name} is not described"));
            fits(root, shape, field, &format!("{at}/{name}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(
                fields.contains_key(name.as_str().unwrap()),
                "{at}: {name} is missing"
            );
        }
    }
}

#[test]
fn what_is_printed_as_json_is_what_the_published_schema_describes() {
    if !have(&TOOLS) {
        return;
    }
    let schema = rehost_inspect::inspection_schema();
    let scratch = tempfile::tempdir().unwrap();
    let image = rpm_guest(scratch.path(), &archive(scratch.path(), "main", &["init"]));
    let value = serde_json::to_value(look(&image).inspection).unwrap();
    assert!(value["systems"][0]["findings"].as_array().unwrap().len() > 5);
    fits(&schema, &schema, &value, "");
}
