//! The planner's rules on made guests: what is planned, what is left alone, what is said.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use rehost_block::{Kind, Result};
use rehost_inject::guest::GuestFiles;
use rehost_inject::plan::{
    Change, EditPlan, FirstBootFile, How, NetworkCard, PlanOptions, SerialConsole, plan,
    plan_console,
};
use rehost_inject::target::KVM;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{
    AddressMethod, BootLoaderKind, DeviceRole, EspFound, Firmware, GuestSystem, Init, Interface,
    InterfaceKind, Kernel, NetworkTool, Place, Severity, Verified,
};
use rehost_inspect::unified::Program;
use support::guest::{
    Folder, carry_out, entry, inspection, kernel, named, source, system, unified_kernel,
};
use support::{VERSION, have, pack, tree};

const TOOLS: &[&str] = &["cpio", "depmod"];
const UUID: &str = "UUID=5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12";

/// A Debian guest with one kernel whose initramfs knows VMware's disks only.
fn guest() -> (tempfile::TempDir, Folder) {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    tree(folder.path(), "usr/lib", "", &|_| true);
    let initrd = tempfile::tempdir().unwrap();
    tree(initrd.path(), "usr/lib", "", &|path| {
        ["vmw_pvscsi", "sd_mod", "scsi_mod"]
            .iter()
            .any(|name| path.contains(name))
    });
    let inside = Folder(initrd.path().to_owned());
    inside.put("/conf/conf.d/resume", "RESUME=/dev/sda5\n");
    inside.put("/usr/bin/filler", vec![b'x'; 60_000]);
    inside.put("/usr/lib/systemd/systemd-udevd", "program");
    files.put(&format!("/boot/initrd.img-{VERSION}"), pack(initrd.path()));
    files.put(&format!("/boot/vmlinuz-{VERSION}"), "kernel");
    files.put(&format!("/boot/config-{VERSION}"), "CONFIG_RD_ZSTD=y\n");
    (folder, files)
}

fn planned(system: GuestSystem, files: &Folder, options: &PlanOptions) -> EditPlan {
    plan_of(system, files, options).unwrap()
}

fn plan_of(system: GuestSystem, files: &Folder, options: &PlanOptions) -> Result<EditPlan> {
    plan(&inspection(system), files, &KVM, options)
}

fn interface(name: Option<&str>, mac: Option<&str>, by: NetworkTool) -> Interface {
    Interface {
        name: name.map(str::to_owned),
        kind: InterfaceKind::Ethernet,
        mac: mac.map(str::to_owned),
        method: AddressMethod::Static,
        addresses: Vec::new(),
        gateways: Vec::new(),
        nameservers: Vec::new(),
        uses: Vec::new(),
        member_of: None,
        vlan: None,
        configured_by: by,
        place: Place::line("/etc/network/interfaces", 5),
    }
}

fn card(mac: &str, old_name: Option<&str>) -> NetworkCard {
    NetworkCard {
        mac: mac.into(),
        old_name: old_name.map(str::to_owned),
    }
}

#[test]
fn a_vmware_initramfs_gets_virtio_in_place_and_then_needs_nothing_more() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let options = PlanOptions::default();
    let first = planned(system(vec![kernel(&files)]), &files, &options);
    assert_eq!(first.edits.len(), 1, "{first}");
    assert!(first.notes.is_empty(), "{first}");
    let edit = &first.edits[0];
    assert_eq!(edit.path, format!("/boot/initrd.img-{VERSION}"));
    assert_eq!(edit.how, How::Overwrite);
    let Change::Initramfs {
        modules,
        kernel: of,
        compression,
        ..
    } = &edit.change
    else {
        panic!("{edit}");
    };
    assert_eq!((of.as_str(), *compression), (VERSION, "zstd"));
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    for name in [
        "virtio_pci",
        "virtio_blk",
        "virtio_scsi",
        "virtio_net",
        "crc_test",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.contains(&"sd_mod"), "it is there");

    // The same guest, the same plan.
    let again = planned(system(vec![kernel(&files)]), &files, &options);
    assert_eq!(first.to_json().unwrap(), again.to_json().unwrap());

    carry_out(&first, &files);
    let after = planned(system(vec![kernel(&files)]), &files, &options);
    assert!(after.is_empty(), "{after}");
    assert!(after.to_string().contains("nothing to change"));
}

#[test]
fn the_json_has_hashes_and_no_contents() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let plan = planned(
        system(vec![kernel(&files)]),
        &files,
        &PlanOptions::default(),
    );
    let json: serde_json::Value = serde_json::from_str(&plan.to_json().unwrap()).unwrap();
    let edit = &json["edits"][0];
    assert_eq!(edit["after"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(edit["how"], "overwrite");
    assert!(edit.get("content").is_none());
    assert!(json.to_string().len() < 5000, "{}", json.to_string().len());
}

#[test]
fn bus_names_become_uuids_in_the_guest_and_inside_its_initramfs() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    files.put(
        "/etc/fstab",
        "# disks\n/dev/sda1 / ext4 defaults 0 1\n/dev/sda5 none swap sw 0 0\n",
    );
    let grub = "menuentry 'a' {\n\tlinux /boot/vmlinuz root=/dev/sda1 ro\n\tinitrd /x\n}\n";
    files.put("/boot/grub/grub.cfg", grub);
    files.put("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n");
    let mut guest = system(vec![kernel(&files)]);
    let swap = "UUID=11111111-2222-3333-4444-555555555555";
    guest.device_names = vec![
        named(
            "/dev/sda1",
            Some(UUID),
            DeviceRole::Fstab,
            Place::line("/etc/fstab", 2),
        ),
        named(
            "/dev/sda5",
            Some(swap),
            DeviceRole::Fstab,
            Place::line("/etc/fstab", 3),
        ),
        named(
            "/dev/sda1",
            Some(UUID),
            DeviceRole::BootRoot,
            Place::line("/boot/grub/grub.cfg", 2),
        ),
        named(
            "/dev/sda5",
            Some(swap),
            DeviceRole::Resume,
            Place::line("/etc/initramfs-tools/conf.d/resume", 1),
        ),
        named(
            "/dev/sdz9",
            None,
            DeviceRole::Crypttab,
            Place::line("/etc/crypttab", 1),
        ),
    ];
    let mut inside = named(
        "/dev/sda5",
        Some(swap),
        DeviceRole::Initramfs,
        Place::line("conf/conf.d/resume", 1),
    );
    inside.inside = Some(format!("/boot/initrd.img-{VERSION}"));
    guest.device_names.push(inside);
    let plan = planned(guest, &files, &PlanOptions::default());
    carry_out(&plan, &files);
    let text = |path: &str| String::from_utf8(files.read(path).unwrap().unwrap()).unwrap();
    assert_eq!(
        text("/etc/fstab"),
        format!("# disks\n{UUID} / ext4 defaults 0 1\n{swap} none swap sw 0 0\n")
    );
    assert_eq!(text("/boot/grub/grub.cfg"), grub.replace("/dev/sda1", UUID));
    assert_eq!(
        text("/etc/initramfs-tools/conf.d/resume"),
        format!("RESUME={swap}\n")
    );
    let initrd = files
        .read(&format!("/boot/initrd.img-{VERSION}"))
        .unwrap()
        .unwrap();
    let initrd = Initramfs::parse(initrd).unwrap();
    assert_eq!(
        initrd.text("conf/conf.d/resume").unwrap(),
        format!("RESUME={swap}\n")
    );
    let fstab = plan
        .edits
        .iter()
        .find(|edit| edit.path == "/etc/fstab")
        .unwrap();
    assert_eq!(fstab.how, How::Allocate);
    assert_eq!(plan.notes.len(), 1, "{plan}");
    assert_eq!(plan.notes[0].severity, Severity::Warning);
    assert!(plan.notes[0].what.contains("/dev/sdz9"), "{plan}");
}

#[test]
fn a_configured_interface_keeps_its_name_by_its_address() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let mut guest = system(vec![kernel(&files)]);
    guest.network = vec![interface(Some("ens192"), None, NetworkTool::Ifupdown)];
    let options = PlanOptions {
        cards: vec![card("00:0C:29:AA:BB:CC", Some("ens192"))],
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &options);
    let path = "/etc/systemd/network/10-rehost-ens192.link";
    let link = plan.edits.iter().find(|edit| edit.path == path).unwrap();
    assert_eq!(link.how, How::Create);
    assert!(link.before.is_none());
    let text = String::from_utf8(link.content.to_vec()).unwrap();
    assert!(text.contains("MACAddress=00:0c:29:aa:bb:cc\n") && text.contains("Name=ens192\n"));
    carry_out(&plan, &files);
    let initrd = files
        .read(&format!("/boot/initrd.img-{VERSION}"))
        .unwrap()
        .unwrap();
    let initrd = Initramfs::parse(initrd).unwrap();
    assert_eq!(initrd.read(path.as_bytes()), Some(text.as_bytes()));
    assert!(planned(guest, &files, &options).is_empty());
}

#[test]
fn interfaces_and_cards_are_paired_by_address_then_slot_then_order() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/hostname", "x");
    let mut guest = system(Vec::new());
    guest.network = vec![
        interface(
            Some("ens256"),
            Some("00:00:00:00:00:03"),
            NetworkTool::Netplan,
        ),
        interface(Some("ens192"), None, NetworkTool::Ifupdown),
        interface(Some("eth5"), None, NetworkTool::Ifupdown),
        interface(Some("br0"), None, NetworkTool::Ifupdown),
        interface(Some("eth9"), None, NetworkTool::UdevRule),
    ];
    guest.network[4].mac = Some("00:00:00:00:00:04".into());
    let options = PlanOptions {
        cards: vec![
            card("00:00:00:00:00:01", None),
            card("00:00:00:00:00:02", Some("ens192")),
            card("00:00:00:00:00:03", Some("ens256")),
            card("00:00:00:00:00:04", None),
        ],
        ..PlanOptions::default()
    };
    let plan = planned(guest, &files, &options);
    let pairs: Vec<(String, String)> = plan
        .edits
        .iter()
        .map(|edit| {
            let text = String::from_utf8_lossy(&edit.content).into_owned();
            let mac = text
                .split("MACAddress=")
                .nth(1)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .to_owned();
            (edit.path.rsplit('-').next().unwrap().to_owned(), mac)
        })
        .collect();
    let expected = [
        ("ens256.link", "00:00:00:00:00:03"),
        ("ens192.link", "00:00:00:00:00:02"),
        ("eth5.link", "00:00:00:00:00:01"),
    ];
    assert_eq!(
        pairs,
        expected.map(|(a, b)| (a.to_owned(), b.to_owned())),
        "{plan}"
    );
    assert!(plan.notes.is_empty(), "{plan}");
}

#[test]
fn an_interface_without_a_card_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let mut guest = system(Vec::new());
    guest.network = vec![interface(Some("ens192"), None, NetworkTool::Ifupdown)];
    let plan = planned(guest.clone(), &files, &PlanOptions::default());
    assert!(plan.is_empty());
    assert_eq!(plan.notes[0].id, "interface-name-not-pinned");
    // Without systemd's udev there is nobody to read a link.
    guest.init = Init::Sysv;
    guest.network[0].mac = Some("00:00:00:00:00:03".into());
    let plan = planned(guest.clone(), &files, &PlanOptions::default());
    assert!(plan.is_empty());
    assert_eq!(plan.notes[0].id, "interface-name-not-pinned");
    // Its udev may run under another init.
    files.put("/usr/lib/systemd/network/99-default.link", "[Match]\n");
    let plan = planned(guest, &files, &PlanOptions::default());
    assert!(plan.notes.is_empty() && plan.edits.len() == 1, "{plan}");
}

#[test]
fn a_serial_console_comes_only_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put(
        "/boot/grub/grub.cfg",
        "x\n\tlinux /vmlinuz root=UUID=u ro quiet\n\tlinux /vmlinuz root=UUID=u console=ttyS0\n",
    );
    files.put(
        "/etc/default/grub",
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"\"\n",
    );
    let mut guest = system(Vec::new());
    guest.boot.entries = vec![
        entry(2, "root=UUID=u ro quiet"),
        entry(3, "root=UUID=u console=ttyS0"),
    ];
    guest.boot.sources = vec![
        source("GRUB_CMDLINE_LINUX_DEFAULT", "quiet", 1),
        source("GRUB_CMDLINE_LINUX", "", 2),
    ];
    assert!(planned(guest.clone(), &files, &PlanOptions::default()).is_empty());
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    carry_out(&planned(guest, &files, &options), &files);
    let text = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(
        text("boot/grub/grub.cfg"),
        "x\n\tlinux /vmlinuz root=UUID=u ro quiet console=tty0 console=ttyS0,115200\n\
         \tlinux /vmlinuz root=UUID=u console=ttyS0\n"
    );
    assert_eq!(
        text("etc/default/grub"),
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n\
         GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n"
    );
}

#[test]
fn a_copy_that_is_watched_gets_its_console_in_every_entry_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let menu =
        "x\n\tlinux /vmlinuz root=UUID=u ro quiet\n\tlinux /vmlinuz root=UUID=u console=ttyS0\n";
    files.put("/boot/grub/grub.cfg", menu);
    // Copied with its loader to where firmware looks; another one that only leads to it.
    files.put("/boot/efi/EFI/BOOT/grub.cfg", menu);
    files.put(
        "/boot/efi/EFI/debian/grub.cfg",
        "configfile /boot/grub/grub.cfg\n",
    );
    let source_line = "GRUB_CMDLINE_LINUX=\"\"\n";
    files.put("/etc/default/grub", source_line);
    files.put("/etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n");
    let mut guest = system(Vec::new());
    let mut hidden = entry(1, "root=UUID=u");
    hidden.title = "sealed".into();
    hidden.place = Place::file("/boot/efi/EFI/Linux/sealed.efi");
    guest.boot.config = Some("/boot/grub/grub.cfg".into());
    guest.boot.esp = Some(EspFound {
        path: "/boot/efi".into(),
        loaders: Vec::new(),
        fallback: None,
    });
    guest.boot.entries = vec![
        entry(2, "root=UUID=u ro quiet"),
        entry(3, "root=UUID=u console=ttyS0"),
        hidden,
    ];
    guest.boot.sources = vec![source("GRUB_CMDLINE_LINUX", "", 1)];
    let options = PlanOptions {
        serial_console: SerialConsole::Watch("console=ttyS0 loglevel=6"),
        ..PlanOptions::default()
    };
    let plan = plan_console(&inspection(guest), &files, &KVM, &options).unwrap();
    carry_out(&plan, &files);
    let text = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
    let watched = "x\n\tlinux /vmlinuz root=UUID=u ro quiet console=ttyS0 loglevel=6\n\
                   \tlinux /vmlinuz root=UUID=u console=ttyS0 console=ttyS0 loglevel=6\n";
    assert_eq!(text("boot/grub/grub.cfg"), watched);
    assert_eq!(text("boot/efi/EFI/BOOT/grub.cfg"), watched);
    assert_eq!(text("etc/default/grub"), source_line);
    assert_eq!(plan.edits.len(), 2, "{plan}");
    assert_eq!(plan.notes.len(), 1, "{plan}");
    assert_eq!(plan.notes[0].id, "console-not-added");
    assert!(plan.notes[0].what.contains("\"sealed\""), "{plan}");
}

#[test]
fn kernels_that_cannot_be_helped_are_told_with_their_reason() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    files.put("/boot/initrd.img-6.1-kdump", "x");
    let mut old = kernel(&files);
    old.version = "2.6.18-xen".into();
    old.initramfs = None;
    old.modules = Some("/usr/lib/modules/2.6.18-xen".into());
    files.put(
        "/usr/lib/modules/2.6.18-xen/modules.dep",
        "kernel/drivers/net/virtio_net.ko:\n",
    );
    let mut broken = kernel(&files);
    broken.version = "6.0-broken".into();
    broken.initramfs.as_mut().unwrap().error = Some("gzip stream is broken".into());
    let mut bare = kernel(&files);
    bare.version = "5.0-removed".into();
    bare.modules = None;
    let plan = planned(
        system(vec![old, broken, bare, kernel(&files)]),
        &files,
        &PlanOptions::default(),
    );
    assert_eq!(plan.edits.len(), 1, "the good one: {plan}");
    let ids: Vec<(Severity, &str)> = plan
        .notes
        .iter()
        .map(|note| (note.severity, note.id))
        .collect();
    assert_eq!(
        ids,
        [
            (Severity::Problem, "kernel-lacks-driver"),
            (Severity::Problem, "kernel-without-initramfs"),
            (Severity::Problem, "initramfs-unreadable"),
            (Severity::Note, "kernel-without-modules"),
            (Severity::Note, "kdump-left-alone"),
        ],
        "{plan}"
    );
}

#[test]
fn without_a_system_there_is_no_plan() {
    let folder = tempfile::tempdir().unwrap();
    let mut none = inspection(system(Vec::new()));
    none.chosen = None;
    none.choice = "two systems are installed".into();
    let files = Folder(folder.path().to_owned());
    let error = plan(&none, &files, &KVM, &PlanOptions::default()).unwrap_err();
    assert!(error.to_string().contains("two systems"), "{error}");
}

#[test]
fn the_cards_of_a_bond_keep_their_names_though_only_the_bond_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/systemd/network/README", "");
    let mut guest = system(Vec::new());
    guest.init = Init::Systemd;
    guest.network = vec![
        Interface {
            kind: InterfaceKind::Bond,
            uses: vec!["ens192".into(), "ens224".into()],
            ..interface(Some("bond0"), None, NetworkTool::Netplan)
        },
        Interface {
            kind: InterfaceKind::Vlan,
            uses: vec!["bond0".into()],
            ..interface(Some("bond0.7"), None, NetworkTool::Netplan)
        },
    ];
    let options = PlanOptions {
        cards: vec![
            card("00:0c:29:00:00:01", Some("ens192")),
            card("00:0c:29:00:00:02", Some("ens224")),
        ],
        ..PlanOptions::default()
    };
    let plan = planned(guest, &files, &options);
    let paths: Vec<&str> = plan.edits.iter().map(|edit| edit.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/etc/systemd/network/10-rehost-ens192.link",
            "/etc/systemd/network/10-rehost-ens224.link",
        ]
    );
}

#[test]
fn nothing_on_a_verified_filesystem_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/systemd/network/README", "");
    let mut guest = system(Vec::new());
    guest.init = Init::Systemd;
    guest.network = vec![interface(
        Some("ens192"),
        None,
        NetworkTool::SystemdNetworkd,
    )];
    guest.verified = vec![Verified {
        point: "/".into(),
        by: "roothash".into(),
        place: Place::file("/boot/loader/entries/a.conf"),
    }];
    let options = PlanOptions {
        cards: vec![card("00:0c:29:00:00:01", Some("ens192"))],
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &options);
    assert!(plan.is_empty(), "{plan}");
    let stays = &plan.notes[0];
    assert_eq!(stays.id, "verified-file-stays");
    assert_eq!(
        stays.evidence[0].path,
        "/etc/systemd/network/10-rehost-ens192.link"
    );
    assert!(plan.bootable(&[]).is_ok(), "it boots as it is");
    // What is verified would be mounted over this directory; the one around is any filesystem.
    files.put("/usr/lib/os-release", "");
    guest.verified[0].point = "/usr".into();
    let plan = planned(guest, &files, &options);
    assert_eq!(plan.edits.len(), 1, "{plan}");
}

#[test]
fn lines_that_forbid_the_new_drivers_become_comments_in_the_initramfs_too() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let lines = "# disks\nblacklist virtio_blk\ninstall virtio-net /bin/false\nblacklist floppy\n";
    files.put("/etc/modprobe.d/local.conf", lines);
    let initrd = tempfile::tempdir().unwrap();
    tree(initrd.path(), "usr/lib", "", &|_| true);
    let inside = Folder(initrd.path().to_owned());
    inside.put("/usr/lib/systemd/systemd-udevd", "program");
    inside.put("/etc/modprobe.d/local.conf", lines);
    files.put(&format!("/boot/initrd.img-{VERSION}"), pack(initrd.path()));
    let plan = planned(
        system(vec![kernel(&files)]),
        &files,
        &PlanOptions::default(),
    );
    let changed =
        "# disks\n# blacklist virtio_blk\n# install virtio-net /bin/false\nblacklist floppy\n";
    let content = |path: &str| {
        let edit = plan.edits.iter().find(|edit| edit.path == path).unwrap();
        edit.content.to_vec()
    };
    assert_eq!(content("/etc/modprobe.d/local.conf"), changed.as_bytes());
    let image = Initramfs::parse(content(&format!("/boot/initrd.img-{VERSION}"))).unwrap();
    assert_eq!(image.text("etc/modprobe.d/local.conf").unwrap(), changed);
}

/// A unified kernel image of these sections, each with its length as the header states it.
fn unified(sections: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut file = vec![0u8; 0x400];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x86] = sections.len() as u8;
    file[0x94] = 240;
    let optional = 0x98;
    file[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
    file[optional + 32..optional + 36].copy_from_slice(&0x1000u32.to_le_bytes());
    file[optional + 36..optional + 40].copy_from_slice(&512u32.to_le_bytes());
    for (index, (name, content, stored)) in sections.iter().enumerate() {
        let at = optional + 240 + index * 40;
        file[at..at + name.len()].copy_from_slice(name.as_bytes());
        let fields = [
            content.len() as u32,
            0x10_0000 * (index as u32 + 1),
            *stored,
            file.len() as u32,
        ];
        for (field, value) in fields.iter().enumerate() {
            let at = at + 8 + field * 4;
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        file.extend(*content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

#[test]
fn one_unified_image_with_broken_headers_does_not_end_the_plan() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let path = "/boot/efi/EFI/Linux/old.efi";
    let initrd = files
        .read(&format!("/boot/initrd.img-{VERSION}"))
        .unwrap()
        .unwrap();
    files.put(
        path,
        unified(&[
            (".linux", b"kernel", 512),
            (".initrd", &initrd, 0xffff_fe00),
        ]),
    );
    let mut old = kernel(&files);
    old.version = "6.0-old".into();
    old.image = Some(path.into());
    old.initramfs.as_mut().unwrap().path = path.into();
    let mut guest = system(vec![old, kernel(&files)]);
    guest.boot.entries = vec![entry(1, "ro")];
    guest.boot.default = Some(0);
    guest.boot.unified = vec![unified_kernel(path)];
    let plan = planned(guest, &files, &PlanOptions::default());
    assert_eq!(plan.edits.len(), 1, "the good one: {plan}");
    let note = plan
        .notes
        .iter()
        .find(|note| note.id == "initramfs-not-rebuilt");
    assert_eq!(note.unwrap().evidence[0].path, path, "{plan}");
    assert!(plan.bootable(&[]).is_ok(), "{plan}");
}

#[test]
fn without_a_known_default_one_kernel_has_to_find_its_disk() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let mut old = kernel(&files);
    old.version = "2.6.18-xen".into();
    old.initramfs = None;
    old.modules = Some("/usr/lib/modules/2.6.18-xen".into());
    files.put("/usr/lib/modules/2.6.18-xen/modules.dep", "");
    let told = |kernels: Vec<Kernel>| {
        let mut guest = system(kernels);
        // The default entry starts something else, by hand or by another loader.
        guest.boot.entries = vec![entry(1, "ro")];
        guest.boot.entries[0].kernel = None;
        guest.boot.default = Some(0);
        assert!(guest.default_boot().is_err());
        planned(guest, &files, &PlanOptions::default())
    };
    let lacks = |plan: &EditPlan| {
        let mut notes = plan.notes.iter();
        let note = notes.find(|note| note.id == "kernel-lacks-driver").unwrap();
        assert_eq!(note.severity, Severity::Problem, "{plan}");
    };
    let plan = told(vec![old.clone()]);
    lacks(&plan);
    assert!(plan.bootable(&[]).is_err(), "{plan}");
    // The other one gets its drivers.
    let plan = told(vec![old, kernel(&files)]);
    lacks(&plan);
    assert!(plan.bootable(&[]).is_ok(), "{plan}");
}

#[test]
fn a_line_that_the_guest_needs_on_a_verified_filesystem_is_a_reason_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/etc/fstab", "/dev/sda2 / ext4 defaults 0 1\n");
    let mut guest = system(Vec::new());
    guest.device_names = vec![named(
        "/dev/sda2",
        Some(UUID),
        DeviceRole::Fstab,
        Place::line("/etc/fstab", 1),
    )];
    guest.verified = vec![Verified {
        point: "/".into(),
        by: "roothash".into(),
        place: Place::file("/boot/loader/entries/a.conf"),
    }];
    let plan = planned(guest.clone(), &files, &PlanOptions::default());
    assert!(plan.is_empty(), "{plan}");
    let stays = &plan.notes[0];
    assert_eq!(
        (stays.severity, stays.id),
        (Severity::Problem, "verified-file-stays")
    );
    assert!(plan.bootable(&[]).is_err(), "{plan}");
    assert!(plan.bootable(&["verified-file-stays".into()]).is_ok());
    // What was asked for is done or refused, and not left out.
    let mut options = PlanOptions::default();
    options.first_boot.scripts = vec![FirstBootFile {
        name: "hello".into(),
        content: b"#!/bin/sh\n".to_vec().into(),
    }];
    files.put("/etc/systemd/system/README", "");
    let error = plan_of(guest, &files, &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("first boot"), "{error}");
}

const UNIFIED: &str = "/boot/efi/EFI/Linux/debian.efi";

/// A guest whose firmware starts a unified image alone, with this command line inside.
fn unified_guest(files: &Folder, command_line: &[u8]) -> GuestSystem {
    let initrd = format!("/boot/initrd.img-{VERSION}");
    let initrd = files.read(&initrd).unwrap().unwrap();
    let stored = |content: &[u8]| (content.len() as u32).next_multiple_of(512);
    let image = unified(&[
        (".cmdline", command_line, 512),
        (".initrd", &initrd, stored(&initrd)),
        (".linux", b"kernel", 512),
    ]);
    files.put(UNIFIED, image);
    let mut kernel = kernel(files);
    kernel.image = Some(UNIFIED.into());
    kernel.initramfs.as_mut().unwrap().path = UNIFIED.into();
    let mut guest = system(vec![kernel]);
    let mut entry = entry(1, "root=/dev/sda2 ro");
    entry.kernel = Some(UNIFIED.into());
    entry.place = Place::file(UNIFIED);
    guest.boot.entries = vec![entry];
    guest.boot.default = Some(0);
    guest.boot.firmware = Firmware::Uefi;
    guest.boot.kind = BootLoaderKind::UnifiedKernel;
    guest.boot.unified = vec![unified_kernel(UNIFIED)];
    let place = Place::line(".cmdline", 1);
    let mut root = named("/dev/sda2", Some(UUID), DeviceRole::BootRoot, place);
    root.inside = Some(UNIFIED.into());
    guest.device_names = vec![root];
    guest
}

/// The command line inside a unified image.
fn line_of(image: &[u8]) -> String {
    let program = Program::parse(image).unwrap();
    let section = program.read(image, ".cmdline").unwrap().unwrap();
    String::from_utf8(section).unwrap()
}

#[test]
fn a_unified_image_gets_drivers_and_command_line_in_one_edit_and_the_loader_is_a_copy_of_it() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let guest = unified_guest(&files, b"root=/dev/sda2 ro\n\0");
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &options);
    let paths: Vec<&str> = plan.edits.iter().map(|edit| edit.path.as_str()).collect();
    assert_eq!(paths, [UNIFIED, "/boot/efi/EFI/BOOT/BOOTX64.EFI"], "{plan}");
    let [image, copy] = &plan.edits[..] else {
        unreachable!()
    };
    let Change::Initramfs {
        modules,
        command_line,
        ..
    } = &image.change
    else {
        panic!("{plan}")
    };
    assert!(
        modules
            .iter()
            .any(|module| module.name.as_str() == "virtio_blk")
    );
    let line = command_line.as_ref().unwrap();
    let expected = format!("root={UUID} ro console=tty0 console=ttyS0,115200");
    assert_eq!(
        (line.before.as_str(), &line.after),
        ("root=/dev/sda2 ro", &expected)
    );
    assert_eq!(line_of(&image.content), format!("{expected}\n\0"));
    for reason in [
        "lacks drivers",
        "/dev/sda2, the root device",
        "serial console",
    ] {
        assert!(image.reason.contains(reason), "{}", image.reason);
    }
    assert!(
        plan.to_string().contains(&format!("    + {expected}\n")),
        "{plan}"
    );
    assert_eq!(copy.content, image.content);

    // A copy from before is kept one: that is what firmware starts.
    let loader = "/boot/efi/EFI/BOOT/BOOTX64.EFI";
    files.put(loader, files.read(UNIFIED).unwrap().unwrap());
    let again = planned(guest.clone(), &files, &options);
    let copy = again.edits.iter().find(|edit| edit.path == loader);
    let copy = copy.unwrap();
    assert!(
        copy.before.is_some() && copy.content == image.content,
        "{again}"
    );
    assert!(
        again
            .notes
            .iter()
            .all(|note| note.id != "fallback-goes-stale")
    );

    // As it is found when it was converted.
    carry_out(&again, &files);
    let mut converted = guest;
    converted.boot.entries[0].command_line = expected;
    converted.device_names.clear();
    let plan = planned(converted, &files, &options);
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn a_command_line_is_the_only_change_of_an_image_that_has_the_drivers() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let mut guest = unified_guest(&files, b"root=/dev/sda2 ro");
    let before = files.read(UNIFIED).unwrap().unwrap();
    // Without a module tree nothing is put into its initramfs.
    guest.kernels[0].modules = None;
    let plan = planned(guest.clone(), &files, &PlanOptions::default());
    let edit = &plan.edits[0];
    assert!(matches!(edit.change, Change::CommandLine { .. }), "{plan}");
    assert_eq!(
        edit.how,
        How::Overwrite,
        "what is behind the text is room for it"
    );
    assert_eq!(line_of(&edit.content), format!("root={UUID} ro"));
    assert_eq!(plan.edits[1].content, edit.content);
    let json = plan.to_json().unwrap();
    assert!(json.contains("\"is\": \"command_line\""), "{json}");

    // What is refused by name stays, with the image's own reason.
    let measured = unified(&[
        (".cmdline", b"root=/dev/sda2 ro", 512),
        (".pcrsig", b"{}", 512),
        (".linux", b"kernel", 512),
    ]);
    files.put(UNIFIED, measured);
    let plan = planned(guest.clone(), &files, &PlanOptions::default());
    let note = plan
        .notes
        .iter()
        .find(|note| note.id == "unified-kernel-measured");
    assert_eq!(note.unwrap().severity, Severity::Problem, "{plan}");
    assert!(plan.edits.iter().all(|edit| edit.path != UNIFIED), "{plan}");

    // Headers that lie about one image do not end the plan.
    files.put(UNIFIED, &before[..before.len() / 2]);
    let plan = planned(guest, &files, &PlanOptions::default());
    let note = plan
        .notes
        .iter()
        .find(|note| note.id == "command-line-stays");
    assert!(
        note.unwrap().evidence[0].path.ends_with(":.cmdline"),
        "{plan}"
    );
}

#[test]
fn a_root_inside_an_image_that_must_stay_stops_and_a_console_does_not() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let mut guest = unified_guest(&files, b"root=/dev/sda2 ro");
    guest.kernels[0].modules = None;
    let whole = files.read(UNIFIED).unwrap().unwrap();
    let sealed = unified(&[
        (".cmdline", b"root=/dev/sda2 ro", 512),
        (".pcrsig", b"{}", 512),
        (".linux", b"kernel", 512),
    ]);
    let console = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let verity = Verified {
        point: "/".into(),
        by: "roothash".into(),
        place: Place::file("/boot/loader/entries/a.conf"),
    };
    for (image, verified, id) in [
        (&sealed[..], None, "unified-kernel-measured"),
        (&whole[..], Some(verity), "verified-file-stays"),
        (&whole[..whole.len() / 2], None, "command-line-stays"),
    ] {
        files.put(UNIFIED, image);
        guest.verified = verified.into_iter().collect();
        let told = |guest: &GuestSystem| {
            let plan = planned(guest.clone(), &files, &console);
            let mut notes = plan.notes.iter().filter(|note| note.id == id);
            let note = notes.find(|note| note.evidence[0].path.ends_with(":.cmdline"));
            let note = note.unwrap_or_else(|| panic!("{id}: {plan}"));
            (note.clone(), plan.bootable(&[]).is_ok())
        };
        let (note, boots) = told(&guest);
        assert_eq!((note.severity, boots), (Severity::Problem, false), "{note}");
        // Another entry is what it boots.
        let mut other = guest.clone();
        other.boot.entries.push(entry(1, "root=UUID=1"));
        other.boot.default = Some(1);
        assert!(told(&other).1, "{id}");
        let mut named = guest.clone();
        named.device_names.clear();
        let (note, boots) = told(&named);
        assert_eq!((note.severity, boots), (Severity::Warning, true), "{note}");
        assert!(note.what.contains("serial console"), "{note}");
    }
}

#[test]
fn one_image_found_by_two_paths_or_as_the_loader_is_edited_once() {
    if !have(TOOLS) {
        return;
    }
    let (_keep, files) = guest();
    let mut guest = unified_guest(&files, b"root=/dev/sda2 ro");
    std::os::unix::fs::symlink(files.0.join("boot/efi"), files.0.join("efi")).unwrap();
    let other = "/efi/EFI/Linux/debian.efi";
    // The same, seen from the other mount point.
    let mut again = guest.kernels[0].clone();
    again.image = Some(other.into());
    again.initramfs.as_mut().unwrap().path = other.into();
    guest.kernels.push(again);
    let mut second = guest.boot.entries[0].clone();
    second.kernel = Some(other.into());
    second.place = Place::file(other);
    guest.boot.entries.push(second);
    guest.boot.default = Some(1);
    guest.boot.unified.push(unified_kernel(other));
    let mut name = guest.device_names[0].clone();
    name.inside = Some(other.into());
    guest.device_names.push(name);
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &options);
    let [image, copy] = &plan.edits[..] else {
        panic!("{plan}")
    };
    let line = format!("root={UUID} ro console=tty0 console=ttyS0,115200");
    assert_eq!(line_of(&image.content).trim_end_matches('\0'), line);
    assert!(copy.path.ends_with("BOOTX64.EFI"), "{plan}");
    assert_eq!(copy.content, image.content);

    // An entry that names the loader itself.
    let loader = "/boot/efi/EFI/BOOT/BOOTX64.EFI";
    files.put(loader, files.read(UNIFIED).unwrap().unwrap());
    fs::remove_file(files.0.join(UNIFIED.trim_start_matches('/'))).unwrap();
    std::os::unix::fs::symlink(files.0.join(&loader[1..]), files.0.join(&UNIFIED[1..])).unwrap();
    let plan = planned(guest, &files, &options);
    assert_eq!(plan.edits.len(), 1, "{plan}");
    assert_eq!(plan.edits[0].content, image.content);
}

#[test]
fn one_menu_reached_by_two_paths_gets_both_changes_in_one_edit() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    let own = "/boot/efi/EFI/fedora/grub.cfg";
    let linked = "/boot/grub2/grub.cfg";
    files.put(own, "linux /vmlinuz root=/dev/sda2 ro\n");
    files.put("/boot/grub2/grubenv", "");
    std::os::unix::fs::symlink(files.0.join(&own[1..]), files.0.join(&linked[1..])).unwrap();
    let mut guest = system(Vec::new());
    let mut menu = entry(1, "root=/dev/sda2 ro");
    menu.place = Place::line(linked, 1);
    guest.boot.entries = vec![menu];
    guest.boot.config = Some(linked.into());
    guest.boot.esp = Some(EspFound {
        path: "/boot/efi".into(),
        loaders: Vec::new(),
        fallback: None,
    });
    let place = Place::line(linked, 1);
    guest.device_names = vec![named("/dev/sda2", Some(UUID), DeviceRole::BootRoot, place)];
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let plan = planned(guest, &files, &options);
    assert_eq!(plan.edits.len(), 1, "{plan}");
    let text = String::from_utf8(plan.edits[0].content.to_vec()).unwrap();
    let expected = format!("root={UUID} ro console=tty0 console=ttyS0,115200\n");
    assert!(text.ends_with(&expected), "{text}");
}

#[test]
fn lines_that_the_guest_boots_without_are_no_reason_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/boot/grub/device.map", "(hd0) /dev/sda2\n");
    files.put("/etc/kernel/cmdline", "root=UUID=1 dyndbg=\"file a +p\"\n");
    let mut guest = system(Vec::new());
    let place = Place::line("/boot/grub/device.map", 1);
    guest.device_names = vec![named("/dev/sda2", Some(UUID), DeviceRole::DeviceMap, place)];
    let options = PlanOptions {
        serial_console: SerialConsole::Add,
        ..PlanOptions::default()
    };
    let plan = planned(guest.clone(), &files, &options);
    let line = plan
        .edits
        .iter()
        .find(|edit| edit.path.ends_with("cmdline"));
    let text = String::from_utf8(line.unwrap().content.to_vec()).unwrap();
    assert!(text.contains("\"file a +p\" console=tty0"), "{text}");
    guest.verified = vec![Verified {
        point: "/".into(),
        by: "roothash".into(),
        place: Place::file("/boot/loader/entries/a.conf"),
    }];
    let plan = planned(guest, &files, &options);
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.notes[0].evidence.len(), 2, "{plan}");
    assert_eq!(plan.notes[0].severity, Severity::Warning, "{plan}");
    assert!(plan.bootable(&[]).is_ok(), "{plan}");
}
