//! Installed software that matters for a move: hypervisor tools, SELinux, cloud-init.

use crate::model::{CloudInit, PackageDatabase, Place, Selinux, ToolFound};
use crate::reader::Reader;

/// How a tool is recognised.
struct Tool {
    name: &'static str,
    hypervisor: &'static str,
    /// Whether it does nothing elsewhere.
    sleeps: bool,
    /// Names of its package.
    packages: &'static [&'static str],
    /// Files of which one is enough.
    files: &'static [&'static str],
}

const TOOLS: [Tool; 12] = [
    Tool {
        name: "open-vm-tools",
        hypervisor: "VMware",
        sleeps: true,
        packages: &["open-vm-tools"],
        files: &["/usr/bin/vmtoolsd", "/usr/bin/vmware-toolbox-cmd"],
    },
    Tool {
        name: "VMware Tools (tarball)",
        hypervisor: "VMware",
        sleeps: false,
        packages: &["VMwareTools", "vmware-tools-core"],
        files: &[
            "/etc/vmware-tools/locations",
            "/usr/bin/vmware-uninstall-tools.pl",
        ],
    },
    Tool {
        name: "VirtualBox Guest Additions",
        hypervisor: "VirtualBox",
        sleeps: false,
        packages: &["virtualbox-guest-utils", "virtualbox-guest-additions"],
        files: &[
            "/var/lib/VBoxGuestAdditions/config",
            "/usr/sbin/VBoxService",
            "/usr/bin/VBoxService",
        ],
    },
    Tool {
        name: "Hyper-V daemons",
        hypervisor: "Hyper-V",
        sleeps: true,
        packages: &["hyperv-daemons", "hypervkvpd", "linux-cloud-tools-common"],
        files: &["/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd"],
    },
    Tool {
        name: "Azure Linux agent",
        hypervisor: "Azure",
        sleeps: true,
        packages: &["walinuxagent", "WALinuxAgent"],
        files: &["/usr/sbin/waagent", "/usr/bin/waagent"],
    },
    Tool {
        name: "Xen guest utilities",
        hypervisor: "Xen",
        sleeps: true,
        packages: &["xe-guest-utilities", "xen-guest-agent"],
        files: &["/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"],
    },
    Tool {
        name: "qemu-guest-agent",
        hypervisor: "KVM",
        sleeps: true,
        packages: &["qemu-guest-agent"],
        files: &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"],
    },
    Tool {
        name: "spice-vdagent",
        hypervisor: "KVM",
        sleeps: true,
        packages: &["spice-vdagent"],
        files: &["/usr/sbin/spice-vdagentd", "/usr/bin/spice-vdagentd"],
    },
    Tool {
        name: "Parallels Tools",
        hypervisor: "Parallels",
        sleeps: false,
        packages: &[],
        files: &["/usr/bin/prltoolsd", "/usr/lib/parallels-tools/install"],
    },
    Tool {
        name: "Nutanix Guest Tools",
        hypervisor: "Nutanix AHV",
        sleeps: false,
        packages: &["nutanix-guest-agent"],
        files: &["/usr/local/nutanix/ngt/ngt_guest_agent"],
    },
    Tool {
        name: "Google guest agent",
        hypervisor: "Google Compute Engine",
        sleeps: false,
        packages: &["google-guest-agent"],
        files: &["/usr/bin/google_guest_agent"],
    },
    Tool {
        name: "Amazon SSM agent",
        hypervisor: "Amazon EC2",
        sleeps: false,
        packages: &["amazon-ssm-agent"],
        files: &["/usr/bin/amazon-ssm-agent"],
    },
];

/// Programs made for a hypervisor.
pub(crate) fn tools(reader: &Reader<'_>, packages: Option<&PackageDatabase>) -> Vec<ToolFound> {
    TOOLS
        .iter()
        .filter_map(|tool| {
            let package = packages.and_then(|database| {
                let mut names = tool.packages.iter();
                names.find_map(|name| database.package(name))
            });
            let file = tool.files.iter().find(|file| reader.exists(file));
            let place = match (file, packages) {
                (Some(file), _) => Place::file(*file),
                (None, Some(database)) if package.is_some() => database.place.clone(),
                (None, _) => return None,
            };
            Some(ToolFound {
                name: tool.name,
                hypervisor: tool.hypervisor,
                sleeps: tool.sleeps,
                version: package.map(|package| package.version.clone()),
                place,
            })
        })
        .collect()
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
