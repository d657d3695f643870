//! Installed software that matters for a move: hypervisor tools, package database, SELinux,
//! cloud-init.

use crate::model::{CloudInit, PackageDatabase, Place, Selinux, ToolFound};
use crate::reader::Reader;

/// Largest package database that is counted. Ours: a full desktop has 10 MiB.
const MOST_DATABASE: u64 = 64 << 20;

/// How each tool is recognised: name, hypervisor, files of which one is enough.
const TOOLS: [(&str, &str, &[&str]); 8] = [
    (
        "open-vm-tools",
        "VMware",
        &["/usr/bin/vmtoolsd", "/usr/bin/vmware-toolbox-cmd"],
    ),
    (
        "VMware Tools (tarball)",
        "VMware",
        &[
            "/etc/vmware-tools/locations",
            "/usr/bin/vmware-uninstall-tools.pl",
        ],
    ),
    (
        "VirtualBox Guest Additions",
        "VirtualBox",
        &[
            "/var/lib/VBoxGuestAdditions/config",
            "/usr/sbin/VBoxService",
        ],
    ),
    (
        "Hyper-V daemons",
        "Hyper-V",
        &["/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd"],
    ),
    (
        "Azure Linux agent",
        "Azure",
        &["/usr/sbin/waagent", "/usr/bin/waagent"],
    ),
    ("Xen guest utilities", "Xen", &["/usr/sbin/xe-daemon"]),
    (
        "qemu-guest-agent",
        "KVM",
        &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"],
    ),
    ("Parallels Tools", "Parallels", &["/usr/bin/prltoolsd"]),
];

/// Programs made for a hypervisor.
pub(crate) fn tools(reader: &Reader<'_>) -> Vec<ToolFound> {
    TOOLS
        .iter()
        .filter_map(|(name, hypervisor, files)| {
            let file = files.iter().find(|file| reader.exists(file))?;
            Some(ToolFound {
                name,
                hypervisor,
                place: Place::file(*file),
            })
        })
        .collect()
}

/// The package database: counted where it is text, named otherwise.
pub(crate) fn packages(reader: &Reader<'_>) -> Option<PackageDatabase> {
    let text = |path: &str| {
        let bytes = reader.tree.read_at_most(path, MOST_DATABASE).ok()??;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let count = |path: &str, counts: fn(&str) -> bool| {
        let text = text(path)?;
        u64::try_from(text.lines().filter(|line| counts(line)).count()).ok()
    };
    let dpkg = "/var/lib/dpkg/status";
    if reader.exists(dpkg) {
        return Some(PackageDatabase {
            kind: "dpkg",
            installed: count(dpkg, |line| line == "Status: install ok installed"),
            place: Place::file(dpkg),
        });
    }
    let apk = "/lib/apk/db/installed";
    if reader.exists(apk) {
        return Some(PackageDatabase {
            kind: "apk",
            installed: count(apk, |line| line.starts_with("P:")),
            place: Place::file(apk),
        });
    }
    let pacman = "/var/lib/pacman/local";
    if reader.exists(pacman) {
        let packages = reader.names(pacman);
        let packages = packages.iter().filter(|name| *name != "ALPM_DB_VERSION");
        return Some(PackageDatabase {
            kind: "pacman",
            installed: u64::try_from(packages.count()).ok(),
            place: Place::file(pacman),
        });
    }
    // Binary databases (sqlite, ndb, Berkeley DB): which packages they list is not read.
    ["/usr/lib/sysimage/rpm", "/var/lib/rpm"]
        .iter()
        .find(|path| reader.exists(path))
        .map(|path| PackageDatabase {
            kind: "rpm",
            installed: None,
            place: Place::file(*path),
        })
}

/// SELinux, as configured.
pub(crate) fn selinux(reader: &Reader<'_>) -> Option<Selinux> {
    let text = reader.text("/etc/selinux/config")?;
    let mode = text.assigned("SELINUX")?;
    // Debian installs the file with the library alone; without the tools nothing is enforced.
    let installed = ["/usr/sbin/load_policy", "/sbin/load_policy"]
        .iter()
        .any(|path| reader.exists(path));
    installed.then(|| Selinux {
        mode: mode.value,
        policy: text.assigned("SELINUXTYPE").map(|found| found.value),
        place: text.place(mode.line),
    })
}

/// cloud-init, as installed and configured.
pub(crate) fn cloud_init(reader: &Reader<'_>) -> Option<CloudInit> {
    let config = "/etc/cloud/cloud.cfg";
    if !reader.exists(config) && !reader.exists("/usr/bin/cloud-init") {
        return None;
    }
    let folder = "/etc/cloud/cloud.cfg.d";
    let drop_ins = reader.names(folder);
    let sources = std::iter::once(config.to_owned())
        .chain(drop_ins.iter().map(|name| format!("{folder}/{name}")))
        .filter(|path| path.ends_with(".cfg"))
        .filter_map(|path| reader.text(&path))
        .flat_map(|text| {
            let found: Vec<(String, Place)> = text
                .statements()
                .filter_map(|(line, statement)| {
                    let value = statement.strip_prefix("datasource_list:")?;
                    Some((value.trim().to_owned(), text.place(line)))
                })
                .collect();
            found
        })
        // Later files win.
        .last();
    let disabled = reader.exists("/etc/cloud/cloud-init.disabled");
    let (datasources, place) = match sources {
        Some((value, place)) => (Some(value), place),
        None => (None, Place::file(config)),
    };
    Some(CloudInit {
        disabled,
        datasources,
        place,
    })
}
