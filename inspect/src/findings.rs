//! What follows from the facts: what will not work on another machine, and what will differ.

mod boot;
pub(crate) mod catalogue;
mod storage;

use crate::device::{DeviceSpec, Devices};
use crate::model::{
    Architecture, BootLoaderKind, DeviceRole, DriverState, Family, Finding, Generator, GuestSystem,
    Init, InterfaceKind, Kernel, NetworkTool, Place, Severity, UnifiedKernel,
};
use crate::reader::Reader;

/// Drivers without which no virtio disk appears, and those of which one is enough.
const VIRTIO_BUS: &str = "virtio_pci";
const VIRTIO_DISKS: [&str; 2] = ["virtio_blk", "virtio_scsi"];

/// Tools whose services `migrate` keeps from starting.
const KEPT_FROM_STARTING: [&str; 3] = [
    "VMware Tools (tarball)",
    "VirtualBox Guest Additions",
    "Parallels Tools",
];

/// Adds the findings about `system` to `reader`.
pub(crate) fn derive(reader: &Reader<'_>, devices: &Devices, system: &GuestSystem) {
    release(reader, system);
    if system.kernels.iter().all(|kernel| kernel.image.is_none()) {
        reader.find(Finding {
            severity: Severity::Problem,
            id: "no-kernel",
            what: "no kernel image was found".to_owned(),
            evidence: vec![Place::file("/boot")],
            fix: Some("a machine without a kernel can be copied, not booted".to_owned()),
        });
    }
    for kernel in &system.kernels {
        virtio(reader, kernel, &system.boot.unified);
    }
    device_names(reader, system);
    boot_devices(reader, devices, system);
    network(reader, system);
    boot::derive(reader, devices, system);
    storage::derive(reader, system);
    software(reader, system);
}

fn release(reader: &Reader<'_>, system: &GuestSystem) {
    if system.os.family == Family::Unknown {
        reader.find(Finding {
            severity: Severity::Warning,
            id: "unknown-os",
            what: format!(
                "{} ({}) is not a distribution whose rules are known; what its files say is done all \
                 the same{}",
                system.os.pretty_name,
                system.os.id,
                match unknown_parts(system).as_slice() {
                    [] => String::new(),
                    parts => format!(", but nobody here knows {}", parts.join(", ")),
                }
            ),
            evidence: vec![system.os.place.clone()],
            fix: Some("read the plan, and have the edited guest booted before the copy".to_owned()),
        });
    }
    if let Some(other @ (Architecture::Aarch64 | Architecture::Other(_))) = system.architecture {
        reader.find(Finding {
            severity: Severity::Problem,
            id: "foreign-architecture",
            what: format!("the guest's programs are for {other}, not for x86"),
            evidence: vec![Place::file("/sbin/init")],
            fix: Some("only its disks can be converted (`rehost convert`)".to_owned()),
        });
    }
}

/// What its files do not tell of a system, in words.
fn unknown_parts(system: &GuestSystem) -> Vec<&'static str> {
    let initramfs = |generator| {
        let mut found = system
            .kernels
            .iter()
            .filter_map(|kernel| kernel.initramfs.as_ref());
        found.any(|found| found.error.is_none() && found.generator == generator)
    };
    [
        (system.init == Init::Unknown, "what starts its services"),
        (system.boot.kind == BootLoaderKind::None, "its boot loader"),
        (
            initramfs(Generator::Unknown),
            "what made its initramfs, and will make the next one",
        ),
        (system.network.is_empty(), "how its network is set up"),
        (system.packages.is_none(), "its packages"),
    ]
    .into_iter()
    .filter_map(|(unknown, what)| unknown.then_some(what))
    .collect()
}

fn virtio(reader: &Reader<'_>, kernel: &Kernel, unified: &[UnifiedKernel]) {
    let Some(image) = &kernel.image else {
        return;
    };
    let has = |name: &str| kernel.driver(name) != DriverState::Absent;
    if !has(VIRTIO_BUS) || !VIRTIO_DISKS.iter().any(|name| has(name)) {
        reader.find(Finding {
            severity: Severity::Problem,
            id: "kernel-lacks-virtio",
            what: format!(
                "kernel {} has no virtio disk drivers at all",
                kernel.version
            ),
            evidence: kernel.modules.iter().map(Place::file).collect(),
            fix: Some("use a SATA or IDE disk on the target".to_owned()),
        });
        return;
    }
    // virtio-scsi needs the SCSI disk driver as well.
    let blk = kernel.early("virtio_blk");
    let scsi = kernel.early("virtio_scsi") && kernel.early("sd_mod");
    if kernel.early(VIRTIO_BUS) && (blk || scsi) {
        return;
    }
    let missing: Vec<&str> = [VIRTIO_BUS, "virtio_blk"]
        .into_iter()
        .filter(|name| !kernel.early(name))
        .collect();
    if let Some(whole) = unified.iter().find(|whole| whole.path == *image) {
        lacking_unified(reader, kernel, whole, &missing);
        return;
    }
    let (what, evidence) = match &kernel.initramfs {
        // What is packed away inside may hold them: that has a finding of its own.
        Some(found) if found.error.is_some() || found.squashed.is_some() => return,
        Some(found) => (
            format!(
                "the initramfs of kernel {} lacks {}: on a virtio disk it will not find its root",
                kernel.version,
                missing.join(" and ")
            ),
            Place::file(&found.path),
        ),
        None => (
            format!(
                "kernel {} has no initramfs, and {} is not built in",
                kernel.version,
                missing.join(" and ")
            ),
            Place::file(image),
        ),
    };
    reader.find(Finding {
        severity: Severity::Problem,
        id: "initramfs-lacks-virtio",
        what,
        evidence: vec![evidence],
        fix: Some("adds the modules that the guest has on disk".to_owned()),
    });
}

fn lacking_unified(reader: &Reader<'_>, kernel: &Kernel, image: &UnifiedKernel, missing: &[&str]) {
    let unread =
        |found: &&crate::model::InitramfsFound| found.error.is_some() || found.squashed.is_some();
    if image.initramfs.as_ref().is_some_and(|found| unread(&found)) {
        return;
    }
    let lacks = format!(
        "the unified image of kernel {} lacks {}: on a virtio disk it will not find its root",
        kernel.version,
        missing.join(" and ")
    );
    let forbidden = match (image.signature, image.measured) {
        (Some(_), _) => Some("its signature forbids a change"),
        (None, true) => Some("a TPM policy is bound to its content"),
        (None, false) => None,
    };
    let (id, what, fix) = match forbidden {
        Some(why) => (
            "unified-kernel-lacks-virtio",
            format!("{lacks}, and {why}"),
            "build it again in the guest, with the virtio modules and signed as before",
        ),
        None => (
            "initramfs-lacks-virtio",
            lacks,
            "adds the modules that the guest has on disk",
        ),
    };
    reader.find(Finding {
        severity: Severity::Problem,
        id,
        what,
        evidence: vec![Place::file(&image.path)],
        fix: Some(fix.to_owned()),
    });
}

/// One finding for each name and severity, with every place where it stands.
fn device_names(reader: &Reader<'_>, system: &GuestSystem) {
    let mut findings: Vec<Finding> = Vec::new();
    for name in &system.device_names {
        let severity = match name.role {
            DeviceRole::Fstab | DeviceRole::BootRoot | DeviceRole::Crypttab => Severity::Problem,
            DeviceRole::BootResume
            | DeviceRole::BootSource
            | DeviceRole::Resume
            | DeviceRole::Initramfs => Severity::Warning,
            DeviceRole::DeviceMap => Severity::Note,
        };
        let place = match &name.inside {
            Some(file) => Place {
                path: format!("{file}:{}", name.place.path),
                ..name.place.clone()
            },
            None => name.place.clone(),
        };
        // A line of text, in the guest, its initramfs or a unified image, can be changed.
        let settled = name.stable.is_some() && name.place.line.is_some();
        let finding = Finding {
            severity,
            id: if settled {
                "device-name"
            } else {
                "device-name-stays"
            },
            what: format!("{} depends on the disk's bus", name.name),
            evidence: Vec::new(),
            fix: name.stable.as_ref().map(|stable| match settled {
                true => format!("writes {stable} there"),
                false => format!("use {stable} there in the guest"),
            }),
        };
        let same = |other: &&mut Finding| {
            (other.severity, &other.what, &other.fix) == (severity, &finding.what, &finding.fix)
        };
        match findings.iter_mut().find(same) {
            Some(known) => known.evidence.push(place),
            None => findings.push(Finding {
                evidence: vec![place],
                ..finding
            }),
        }
    }
    for finding in findings {
        reader.find(finding);
    }
}

/// `root=` and resume devices that are on none of the disks.
fn boot_devices(reader: &Reader<'_>, devices: &Devices, system: &GuestSystem) {
    for (number, entry) in system.boot.entries.iter().enumerate() {
        let root = entry
            .command_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("root="));
        let missing = root
            .filter(|root| DeviceSpec::parse(root).names_disk() && devices.resolve(root).is_none());
        if let Some(root) = missing {
            reader.find(Finding {
                severity: if system.boot.default == Some(number) {
                    Severity::Problem
                } else {
                    Severity::Warning
                },
                id: "root-not-found",
                what: format!(
                    "\"{}\" boots root={root}, which is on none of these disks",
                    entry.title
                ),
                evidence: vec![entry.place.clone()],
                fix: None,
            });
        }
    }
    for setting in &system.resume {
        let names_disk = DeviceSpec::parse(&setting.spec).names_disk();
        if names_disk && setting.resolved.is_none() {
            reader.find(Finding {
                severity: Severity::Warning,
                id: "resume-not-found",
                what: format!(
                    "{} is on none of these disks: every boot waits for it (about 30 s)",
                    setting.spec
                ),
                evidence: vec![setting.place.clone()],
                fix: Some("set RESUME=none and rebuild the initramfs in the guest".to_owned()),
            });
        }
    }
}

fn network(reader: &Reader<'_>, system: &GuestSystem) {
    let old_names = system
        .boot
        .default
        .and_then(|at| system.boot.entries.get(at))
        .is_some_and(|entry| {
            let mut words = entry.command_line.split_whitespace();
            words.any(|word| word == "net.ifnames=0")
        });
    let pinned = |name: &str| {
        system.network.iter().any(|other| {
            let names = matches!(
                other.configured_by,
                NetworkTool::UdevRule | NetworkTool::SystemdLink
            );
            other.mac.is_some()
                && other.name.as_deref() == Some(name)
                && (names || other.configured_by == NetworkTool::Netplan)
        })
    };
    let mut seen: Vec<&str> = Vec::new();
    for interface in &system.network {
        let Some(name) = interface.name.as_deref() else {
            continue;
        };
        if interface.kind != InterfaceKind::Ethernet {
            continue;
        }
        // Names that systemd makes from the slot; `enx…` is made from the MAC and stays.
        let from_slot = ["ens", "enp", "eno", "enP"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && name.chars().any(|c| c.is_ascii_digit());
        if !from_slot || old_names || pinned(name) || seen.contains(&name) {
            continue;
        }
        seen.push(name);
        reader.find(Finding {
            severity: Severity::Warning,
            id: "network-name-changes",
            what: format!(
                "{name} ({}) is named after its slot, which will be another one",
                interface.configured_by
            ),
            evidence: vec![interface.place.clone()],
            fix: Some(format!(
                "keeps the MAC address, and the name {name} with it"
            )),
        });
    }
}

fn software(reader: &Reader<'_>, system: &GuestSystem) {
    for tool in system.tools.iter().filter(|tool| tool.hypervisor != "KVM") {
        let (severity, id, what, fix) = if tool.sleeps {
            let what = format!("it stays asleep outside {}", tool.hypervisor);
            (Severity::Note, "hypervisor-tools", what, None)
        } else {
            let what = format!("its services fail outside {}", tool.hypervisor);
            let (id, fix) = if KEPT_FROM_STARTING.contains(&tool.name) {
                ("hypervisor-tools-fail", "keeps them from starting")
            } else {
                (
                    "hypervisor-agent-fails",
                    "uninstall it in the guest, before or after the move",
                )
            };
            (Severity::Warning, id, what, Some(fix.to_owned()))
        };
        reader.find(Finding {
            severity,
            id,
            what: format!("{} is installed; {what}", tool.name),
            evidence: vec![tool.place.clone()],
            fix,
        });
    }
    if let Some(cloud) = system.cloud_init.as_ref().filter(|cloud| !cloud.disabled) {
        reader.find(Finding {
            severity: Severity::Warning,
            id: "cloud-init-active",
            what: "cloud-init may take the copy for a new machine: it would make new host keys"
                .to_owned(),
            evidence: vec![cloud.place.clone()],
            fix: Some("create /etc/cloud/cloud-init.disabled in the guest".to_owned()),
        });
    }
    if let Some(selinux) = system.selinux.as_ref().filter(|s| s.mode == "enforcing") {
        reader.find(Finding {
            severity: Severity::Note,
            id: "selinux-enforcing",
            what: "SELinux is enforcing: files that are created need their label".to_owned(),
            evidence: vec![selinux.place.clone()],
            fix: None,
        });
    }
}
