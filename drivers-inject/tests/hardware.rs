//! The planner's rules for other machines than KVM, and for what stands in the way of any: LVM's
//! lists, udev rules, tools, firmware, labels, filesystems that do not take everything.

#![allow(clippy::unwrap_used)]

mod support;

use rehost_inject::apply::Refusal;
use rehost_inject::guest::GuestFiles;
use rehost_inject::plan::{
    Change, Edit, EditPlan, How, NetworkCard, PlanOptions, SerialConsole, plan,
};
use rehost_inject::target::{KVM, PHYSICAL, Target, VMWARE};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{
    AddressMethod, BootEntry, Firmware, GuestSystem, Init, Interface, InterfaceKind, NetworkTool,
    Place, Selinux, Severity, ToolFound,
};
use support::guest::{Folder, carry_out, entry, inspection, kernel, system, unified_kernel};
use support::{VERSION, have, pack, tree};

const TOOLS: &[&str] = &["cpio", "depmod"];

/// A guest whose initramfs holds the modules that `keep` wants, and `files` besides.
fn guest(keep: &dyn Fn(&str) -> bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
    let folder = tempfile::tempdir().unwrap();
    let guest = Folder(folder.path().to_owned());
    tree(folder.path(), "usr/lib", "", &|_| true);
    let initrd = tempfile::tempdir().unwrap();
    tree(initrd.path(), "usr/lib", "", keep);
    let inside = Folder(initrd.path().to_owned());
    inside.put("/usr/lib/systemd/systemd-udevd", "program");
    inside.put("/usr/bin/filler", vec![b'x'; 60_000]);
    for (path, content) in files {
        inside.put(path, content);
    }
    guest.put(&format!("/boot/initrd.img-{VERSION}"), pack(initrd.path()));
    guest.put(&format!("/boot/vmlinuz-{VERSION}"), "kernel");
    guest.put(&format!("/boot/config-{VERSION}"), "CONFIG_RD_ZSTD=y\n");
    (folder, guest)
}

fn planned(
    system: GuestSystem,
    files: &Folder,
    target: &Target,
    options: &PlanOptions,
) -> EditPlan {
    plan(&inspection(system), files, target, options).unwrap()
}

/// The plan for KVM of a system without kernels.
fn bare(system: GuestSystem, files: &Folder) -> EditPlan {
    planned(system, files, &KVM, &PlanOptions::default())
}

fn edit<'a>(plan: &'a EditPlan, path: &str) -> &'a Edit {
    let mut edits = plan.edits.iter();
    edits.find(|edit| edit.path == path).unwrap_or_else(|| {
        assert!(plan.to_string().is_empty(), "no edit of {path} in {plan}");
        unreachable!()
    })
}

fn text(edit: &Edit) -> String {
    String::from_utf8(edit.content.to_vec()).unwrap()
}

fn added(plan: &EditPlan) -> Vec<String> {
    let edit = edit(plan, &format!("/boot/initrd.img-{VERSION}"));
    let Change::Initramfs { modules, .. } = &edit.change else {
        return Vec::new();
    };
    modules
        .iter()
        .map(|module| module.name.to_string())
        .collect()
}

fn is_virtio(path: &str) -> bool {
    path.contains("virtio") || path.contains("scsi_mod") || path.contains("sd_mod")
}

#[test]
fn a_kvm_guest_gets_vmwares_disks_and_the_way_back_is_planned_too() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest(&is_virtio, &[]);
    let options = PlanOptions::default();
    let there = planned(system(vec![kernel(&files)]), &files, &VMWARE, &options);
    assert_eq!(added(&there), ["vmw_pvscsi"]);
    let lacks = &there.notes[0];
    assert_eq!(
        (lacks.severity, lacks.id),
        (Severity::Warning, "kernel-lacks-driver")
    );
    assert!(lacks.what.contains("network card of VMware"), "{lacks}");
    carry_out(&there, &files);
    // Nothing was taken away: the guest still boots where it came from.
    let names = |plan: &EditPlan| plan.edits.len();
    let back = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    assert!(!added_or_none(&back).contains(&"virtio_blk".to_owned()));
    assert_eq!(
        names(&planned(
            system(vec![kernel(&files)]),
            &files,
            &VMWARE,
            &options
        )),
        0
    );
}

fn added_or_none(plan: &EditPlan) -> Vec<String> {
    if plan.is_empty() {
        Vec::new()
    } else {
        added(plan)
    }
}

#[test]
fn one_bus_is_prepared_for_when_it_is_named() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest(&|path| path.contains("scsi_mod"), &[]);
    let options = PlanOptions {
        bus: KVM.bus("virtio-scsi"),
        ..PlanOptions::default()
    };
    let plan = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    let modules = added(&plan);
    assert!(modules.contains(&"virtio_scsi".to_owned()), "{modules:?}");
    assert!(modules.contains(&"sd_mod".to_owned()), "{modules:?}");
    assert!(!modules.contains(&"virtio_blk".to_owned()), "{modules:?}");
}

#[test]
fn a_kernel_that_cannot_drive_the_bus_is_told_with_those_it_can() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest(&is_virtio, &[]);
    let options = PlanOptions {
        bus: KVM.bus("nvme"),
        ..PlanOptions::default()
    };
    let plan = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    let note = &plan.notes[0];
    assert_eq!(
        (note.severity, note.id),
        (Severity::Problem, "kernel-lacks-driver")
    );
    assert!(note.what.contains("NVMe"), "{note}");
    let fix = note.fix.as_deref().unwrap();
    assert!(fix.contains("virtio-blk, virtio-scsi"), "{note}");
    assert!(note.stops_boot && plan.bootable(&[]).is_err());
    assert!(plan.bootable(&["kernel-lacks-driver".into()]).is_ok());
    // No physical machine's disk either, of those that the made kernel has.
    let plan = planned(
        system(vec![kernel(&files)]),
        &files,
        &PHYSICAL,
        &PlanOptions::default(),
    );
    assert_eq!(plan.notes[0].id, "kernel-lacks-driver");
}

#[test]
fn lvm_forgets_what_the_old_machine_called_its_disks() {
    if !have(TOOLS) {
        return;
    }
    let devices =
        "VERSION=1.1.1\nIDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2 PVID=a PART=2\n";
    let config = "devices {\n\tfilter = [ \"a|/dev/sd.*|\", \"r|.*|\" ]\n}\n";
    let inside = [
        ("/etc/lvm/devices/system.devices", devices),
        ("/etc/lvm/lvm.conf", config),
    ];
    let (_keep, files) = guest(&|path| is_virtio(path), &inside);
    for (path, content) in inside {
        files.put(path, content);
    }
    let options = PlanOptions {
        bus: KVM.bus("virtio-blk"),
        ..PlanOptions::default()
    };
    let plan = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    let list = edit(&plan, "/etc/lvm/devices/system.devices");
    assert_eq!((list.how, &list.change), (How::Remove, &Change::Remove));
    assert!(list.after.is_none());
    let wider = "devices {\n\tfilter = [ \"a|/dev/vd.*|\", \"a|/dev/sd.*|\", \"r|.*|\" ]\n}\n";
    assert_eq!(text(edit(&plan, "/etc/lvm/lvm.conf")), wider);
    let initramfs = edit(&plan, &format!("/boot/initrd.img-{VERSION}"));
    let built = Initramfs::parse(initramfs.content.to_vec()).unwrap();
    assert_eq!(built.text("etc/lvm/lvm.conf").unwrap(), wider);
    let local = built.text("etc/lvm/lvmlocal.conf").unwrap().into_owned();
    assert!(local.contains("use_devicesfile = 0"), "{local}");
    carry_out(&plan, &files);
    let again = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    assert!(again.is_empty(), "{again}");
}

#[test]
fn mdadm_takes_the_disks_of_an_array_under_their_new_names() {
    if !have(TOOLS) {
        return;
    }
    let path = "/etc/mdadm/mdadm.conf";
    let config = "DEVICE /dev/sd[ab]1 # the mirror\n\
                  ARRAY /dev/md0 UUID=1:2:3:4\n  devices=/dev/sda1,/dev/sdb1\n\
                  ARRAY /dev/md1 devices=/dev/sda2,/dev/sdb2\n";
    let wider = "DEVICE partitions /dev/sd[ab]1 # the mirror\n\
                 ARRAY /dev/md0 UUID=1:2:3:4\n  \n\
                 ARRAY /dev/md1 devices=/dev/sda2,/dev/sdb2\n";
    let inside = [(path, config)];
    let (_keep, files) = guest(&|path| is_virtio(path), &inside);
    files.put(path, config);
    let options = PlanOptions {
        bus: KVM.bus("virtio-blk"),
        ..PlanOptions::default()
    };
    let plan = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    assert_eq!(text(edit(&plan, path)), wider);
    let initramfs = edit(&plan, &format!("/boot/initrd.img-{VERSION}"));
    let built = Initramfs::parse(initramfs.content.to_vec()).unwrap();
    assert_eq!(built.text("etc/mdadm/mdadm.conf").unwrap(), wider);
    let note = plan
        .notes
        .iter()
        .find(|note| note.id == "array-by-device-names");
    assert_eq!(note.unwrap().evidence, [Place::line(path, 4)]);
    carry_out(&plan, &files);
    let again = planned(system(vec![kernel(&files)]), &files, &KVM, &options);
    assert!(again.is_empty(), "{again}");
}

#[test]
fn a_vendors_loader_is_copied_where_every_firmware_looks() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    for (name, content) in [
        ("shimx64.efi", "shim"),
        ("grubx64.efi", "grub"),
        ("mmx64.efi", "mok manager"),
        ("fbx64.efi", "fallback"),
        ("BOOTX64.CSV", "list"),
        ("grub.cfg", "configfile"),
    ] {
        files.put(&format!("/boot/efi/EFI/debian/{name}"), content);
    }
    let mut guest = system(Vec::new());
    guest.boot.firmware = Firmware::Uefi;
    let plan = bare(guest.clone(), &files);
    let copies: Vec<(&str, String)> = plan
        .edits
        .iter()
        .map(|edit| (edit.path.as_str(), text(edit)))
        .collect();
    let boot = "/boot/efi/EFI/BOOT";
    let expected = [
        ("BOOTX64.EFI", "shim"),
        ("grubx64.efi", "grub"),
        ("mmx64.efi", "mok manager"),
        ("grub.cfg", "configfile"),
        ("fbx64.efi", "fallback"),
    ]
    .map(|(name, content)| (format!("{boot}/{name}"), content.to_owned()));
    assert_eq!(copies.len(), expected.len(), "{plan}");
    for ((path, content), (to, what)) in copies.iter().zip(&expected) {
        assert_eq!((*path, content), (to.as_str(), what));
    }
    assert!(
        plan.to_string()
            .contains("copy of /boot/efi/EFI/debian/shimx64.efi")
    );
    carry_out(&plan, &files);
    assert!(bare(guest.clone(), &files).is_empty());
    // BIOS machines have no use for it.
    guest.boot.firmware = Firmware::Bios;
    std::fs::remove_file(folder.path().join("boot/efi/EFI/BOOT/BOOTX64.EFI")).unwrap();
    assert!(bare(guest, &files).is_empty());
}

#[test]
fn a_lone_grub_becomes_the_fallback_loader_and_needs_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/efi/EFI/arch/GRUBX64.EFI", "grub");
    files.put("/efi/EFI/Microsoft/Boot/bootmgfw.efi", "another system's");
    let mut guest = system(Vec::new());
    guest.boot.firmware = Firmware::Either;
    let plan = bare(guest, &files);
    assert_eq!(plan.edits.len(), 1, "{plan}");
    assert_eq!(plan.edits[0].path, "/efi/EFI/BOOT/BOOTX64.EFI");
}

#[test]
fn a_unified_image_becomes_the_fallback_loader_and_is_said_to_go_stale() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let image = "/efi/EFI/Linux/arch.efi";
    files.put(image, "image");
    files.put("/efi/EFI/BOOT/BOOTIA32.EFI", "for another firmware");
    let mut guest = system(Vec::new());
    guest.boot.firmware = Firmware::Uefi;
    guest.boot.entries = vec![BootEntry {
        kernel: Some(image.into()),
        ..entry(1, "ro")
    }];
    guest.boot.default = Some(0);
    guest.boot.unified = vec![unified_kernel(image)];
    let plan = bare(guest.clone(), &files);
    let copies: Vec<(&str, String)> = plan
        .edits
        .iter()
        .map(|edit| (edit.path.as_str(), text(edit)))
        .collect();
    assert_eq!(
        copies,
        [("/efi/EFI/BOOT/BOOTX64.EFI", "image".to_owned())],
        "{plan}"
    );
    let note = &plan.notes[0];
    assert_eq!(
        (note.severity, note.id),
        (Severity::Warning, "fallback-goes-stale")
    );
    assert!(note.to_string().contains("bootctl install"), "{note}");
    // Where there is one it is left alone, and nothing is said.
    files.put("/efi/EFI/BOOT/bootx64.efi", "systemd-boot");
    let plan = bare(guest, &files);
    assert!(plan.is_empty() && plan.notes.is_empty(), "{plan}");
}

fn tool(name: &'static str, hypervisor: &'static str) -> ToolFound {
    ToolFound {
        name,
        hypervisor,
        sleeps: name == "open-vm-tools",
        version: None,
        place: Place::file("/etc/vmware-tools/locations"),
    }
}

#[test]
fn tools_that_do_not_ask_where_they_run_are_kept_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/init.d/vmware-tools", "#!/bin/sh\n");
    files.put("/etc/rc3.d/placeholder", "");
    let link = folder.path().join("etc/rc3.d/S19vmware-tools");
    std::os::unix::fs::symlink("../init.d/vmware-tools", &link).unwrap();
    let mut guest = system(Vec::new());
    guest.tools = vec![
        tool("VMware Tools (tarball)", "VMware"),
        tool("open-vm-tools", "VMware"),
    ];
    let mask = "/etc/systemd/system/vmware-tools.service";
    let plan = bare(guest.clone(), &files);
    assert_eq!(plan.edits.len(), 1, "{plan}");
    let target = "/dev/null".to_owned();
    assert_eq!(edit(&plan, mask).change, Change::Link { target });
    // At home they stay.
    let home = planned(guest.clone(), &files, &VMWARE, &PlanOptions::default());
    assert!(home.is_empty(), "{home}");
    // Without systemd the link that starts them goes.
    guest.init = Init::Sysv;
    let plan = bare(guest.clone(), &files);
    assert_eq!(
        edit(&plan, "/etc/rc3.d/S19vmware-tools").change,
        Change::Remove
    );
    carry_out(&plan, &files);
    assert!(bare(guest, &files).is_empty());
}

#[test]
fn a_rule_for_one_driver_takes_any() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let rules = "/etc/udev/rules.d/70-persistent-net.rules";
    files.put(
        rules,
        "# PCI device 0x15ad:0x07b0 (vmxnet3)\n\
         SUBSYSTEM==\"net\", DRIVERS==\"vmxnet3\", ATTR{address}==\"00:0c:29:00:00:01\", NAME=\"eth0\"\n\
         SUBSYSTEM==\"net\", KERNELS==\"0000:03:00.0\", NAME=\"eth1\"\n",
    );
    let plan = bare(system(Vec::new()), &files);
    let new = text(edit(&plan, rules));
    assert!(new.contains("DRIVERS==\"?*\", ATTR{address}"), "{new}");
    assert!(new.starts_with("# PCI device 0x15ad:0x07b0 (vmxnet3)\n"));
    assert_eq!(plan.notes[0].id, "interface-named-by-slot");
}

#[test]
fn an_older_udev_gets_a_rule_instead_of_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let rules = "/etc/udev/rules.d/70-persistent-net.rules";
    files.put("/etc/udev/rules.d/60-other.rules", "");
    let mut guest = system(Vec::new());
    guest.init = Init::Upstart;
    guest.network = vec![Interface {
        name: Some("eth0".into()),
        kind: InterfaceKind::Ethernet,
        mac: None,
        method: AddressMethod::Static,
        addresses: Vec::new(),
        gateways: Vec::new(),
        nameservers: Vec::new(),
        uses: Vec::new(),
        member_of: None,
        vlan: None,
        configured_by: NetworkTool::Ifcfg,
        place: Place::line("/etc/sysconfig/network-scripts/ifcfg-eth0", 1),
    }];
    let options = PlanOptions {
        cards: vec![NetworkCard {
            mac: "00:0C:29:00:00:01".into(),
            old_name: None,
        }],
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &KVM, &options);
    let rule = text(edit(&plan, rules));
    assert!(
        rule.contains("ATTR{address}==\"00:0c:29:00:00:01\""),
        "{rule}"
    );
    assert!(rule.ends_with("NAME=\"eth0\"\n"), "{rule}");
    // Behind what is there.
    files.put(rules, "# mine");
    let plan = planned(guest, &files, &KVM, &options);
    assert_eq!(text(edit(&plan, rules)), format!("# mine\n{rule}"));
}

#[test]
fn everything_is_labelled_anew_only_where_a_new_file_would_have_no_label() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/systemd/system/.labelled", "");
    files.put("/etc/init.d/vboxadd", "#!/bin/sh\n");
    let mut guest = system(Vec::new());
    guest.tools = vec![tool("VirtualBox Guest Additions", "VirtualBox")];
    guest.selinux = Some(Selinux {
        mode: "enforcing".into(),
        policy: None,
        place: Place::line("/etc/selinux/config", 1),
    });
    assert_eq!(bare(guest.clone(), &files).edits.len(), 1);
    std::fs::remove_file(folder.path().join("etc/systemd/system/.labelled")).unwrap();
    let plan = bare(guest, &files);
    assert_eq!(edit(&plan, "/.autorelabel").how, How::Create);
}

#[test]
fn init_systems_without_systemd_are_told_of_the_serial_console() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put(
        "/etc/inittab",
        "id:2:initdefault:\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n",
    );
    files.put("/sbin/getty", "");
    let mut guest = system(Vec::new());
    guest.boot.entries = vec![entry(1, "root=UUID=x ro")];
    guest.init = Init::Sysv;
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &KVM, &options);
    let inittab = text(edit(&plan, "/etc/inittab"));
    assert!(
        inittab.ends_with("\nT0:2345:respawn:/sbin/getty -L 115200 ttyS0 vt102\n"),
        "{inittab}"
    );
    carry_out(&plan, &files);
    let again = planned(guest.clone(), &files, &KVM, &options);
    assert!(
        !again.edits.iter().any(|edit| edit.path == "/etc/inittab"),
        "{again}"
    );
    // A login on whatever is the console is one on the serial line by then.
    let console = "::respawn:/bin/busybox getty -L 115200 console vt100\n";
    files.put("/etc/inittab", console);
    guest.init = Init::Busybox;
    assert!(planned(guest.clone(), &files, &KVM, &options).is_empty());
    guest.init = Init::Upstart;
    let plan = planned(guest, &files, &KVM, &options);
    assert!(text(edit(&plan, "/etc/init/ttyS0.conf")).contains("exec /sbin/getty"));
}

#[test]
fn what_a_filesystem_does_not_take_is_done_otherwise_or_told() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest(
        &|path| path.contains("scsi"),
        &[("/usr/lib/dracut-lib.sh", "")],
    );
    let mut guest = system(vec![kernel(&files)]);
    guest.network = vec![Interface {
        name: Some("ens192".into()),
        kind: InterfaceKind::Ethernet,
        mac: Some("00:0c:29:00:00:01".into()),
        method: AddressMethod::Static,
        addresses: Vec::new(),
        gateways: Vec::new(),
        nameservers: Vec::new(),
        uses: Vec::new(),
        member_of: None,
        vlan: None,
        configured_by: NetworkTool::Ifcfg,
        place: Place::line("/etc/sysconfig/network-scripts/ifcfg-ens192", 1),
    }];
    let initramfs = format!("/boot/initrd.img-{VERSION}");
    let link = "/etc/systemd/network/10-rehost-ens192.link";
    let refusal = |path: &str, how: How| Refusal {
        path: path.to_owned(),
        how,
        why: "it cannot allocate".to_owned(),
    };
    let first = planned(guest.clone(), &files, &KVM, &PlanOptions::default());
    assert_eq!(edit(&first, &initramfs).how, How::Overwrite);
    assert_eq!(edit(&first, link).how, How::Create);

    // A file that cannot be made: the initramfs has it.
    let mut options = PlanOptions {
        refusals: vec![
            refusal(link, How::Create),
            refusal(&initramfs, How::Overwrite),
        ],
        ..PlanOptions::default()
    };
    let second = planned(guest.clone(), &files, &KVM, &options);
    assert_eq!(second.edits.len(), 1, "{second}");
    assert_eq!(edit(&second, &initramfs).how, How::Allocate);
    let built = Initramfs::parse(edit(&second, &initramfs).content.to_vec()).unwrap();
    assert!(
        built
            .read(link.trim_start_matches('/').as_bytes())
            .is_some()
    );
    assert_eq!(second.notes[0].id, "interface-name-in-initramfs");

    // Neither way: nothing is planned, and that is a problem.
    options.refusals.push(refusal(&initramfs, How::Allocate));
    let third = planned(guest, &files, &KVM, &options);
    assert!(third.is_empty(), "{third}");
    let note = &third.notes[0];
    assert_eq!(
        (note.severity, note.id),
        (Severity::Problem, "initramfs-not-writable")
    );
    assert!(note.what.contains("it cannot allocate"), "{note}");
}

#[test]
fn an_initramfs_without_udev_is_told_to_load_the_drivers_in_order() {
    if !have(TOOLS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    tree(folder.path(), "usr/lib", "", &|_| true);
    let initrd = tempfile::tempdir().unwrap();
    let inside = Folder(initrd.path().to_owned());
    inside.put(
        "/init",
        "#!/bin/nash\ninsmod /lib/scsi_mod.ko\nmkrootdev -t ext3 -o ro sda1\n",
    );
    inside.put("/lib/scsi_mod.ko", "x");
    files.put(&format!("/boot/initrd.img-{VERSION}"), pack(initrd.path()));
    let plan = planned(
        system(vec![kernel(&files)]),
        &files,
        &KVM,
        &PlanOptions::default(),
    );
    let built = Initramfs::parse(
        edit(&plan, &format!("/boot/initrd.img-{VERSION}"))
            .content
            .to_vec(),
    );
    let init = built.unwrap().text("init").unwrap().into_owned();
    let at = |module: &str| init.find(&format!("/{module}.ko")).unwrap();
    assert!(
        at("virtio_ring") < at("virtio_blk") && at("virtio") < at("virtio_pci"),
        "{init}"
    );
    assert!(at("virtio_blk") < init.find("mkrootdev").unwrap(), "{init}");
    carry_out(&plan, &files);
    let again = planned(
        system(vec![kernel(&files)]),
        &files,
        &KVM,
        &PlanOptions::default(),
    );
    assert!(again.is_empty(), "{again}");
    assert!(files.read("/boot/nothing").unwrap().is_none());
}
