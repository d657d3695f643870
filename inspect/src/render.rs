//! The inspection as text for people: what `rehost inspect` prints.

use std::fmt::{self, Display, Write};

use crate::model::{
    AddressMethod, Content, DiskFound, DriverFound, DriverState, Finding, GuestSystem, Inspection,
    Interface, InterfaceKind, Kernel, Mount, SettledBy, ToolFound, VolumeFound,
};
use rehost_volume::stack::{Kind, Use};
use rehost_volume::{Table, Volume};

/// Width of the column of headings.
const HEADING: usize = 16;

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, disk) in self.disks.iter().enumerate() {
            disk_lines(f, number, disk, &self.volumes)?;
        }
        let stacked = |volume: &&VolumeFound| volume.at.name.is_some();
        for volume in self.volumes.iter().filter(stacked) {
            stacked_line(f, volume)?;
        }
        for (number, system) in self.systems.iter().enumerate() {
            writeln!(f)?;
            let mark = if self.systems.len() < 2 {
                String::new()
            } else if self.chosen == Some(number) {
                format!(" (taken: {})", self.choice)
            } else {
                " (not taken)".to_owned()
            };
            writeln!(f, "{}{mark}", system.os.pretty_name)?;
            system_lines(f, system)?;
        }
        if self.findings.is_empty() {
            return Ok(());
        }
        writeln!(f, "\ndisks")?;
        finding_lines(f, &self.findings)
    }
}

fn disk_lines(
    f: &mut fmt::Formatter<'_>,
    number: usize,
    disk: &DiskFound,
    found: &[VolumeFound],
) -> fmt::Result {
    write!(f, "disk {number}: {}", Bytes(disk.size))?;
    match disk.layout.table {
        Table::Mbr => write!(f, ", DOS partition table")?,
        Table::Gpt => write!(f, ", GPT")?,
        Table::None => write!(f, ", no partition table")?,
    }
    if let Some(id) = &disk.layout.id {
        write!(f, " {id}")?;
    }
    if let Some(code) = disk.boot_code {
        write!(f, ", boot code of {code}")?;
    }
    writeln!(f)?;
    for volume in &disk.layout.volumes {
        let at_disk = |found: &&VolumeFound| {
            let here = found.at.name.is_none() && found.at.disk == number;
            let whole = (found.kind == Kind::Disk) == (disk.layout.table == Table::None);
            here && whole && found.at.volume == volume.number
        };
        volume_line(f, volume, found.iter().find(at_disk))?;
        writeln!(f)?;
    }
    Ok(())
}

/// A volume that lies on others.
fn stacked_line(f: &mut fmt::Formatter<'_>, volume: &VolumeFound) -> fmt::Result {
    let kind = match volume.kind {
        Kind::Lvm => "logical volume",
        Kind::Raid => "array",
        Kind::Crypt => "unlocked",
        Kind::Disk | Kind::Part => "partition",
    };
    write!(f, "{kind} {}: {}", volume.name, Bytes(volume.size))?;
    if let Some(form) = &volume.form {
        write!(f, ", {form}")?;
    }
    let kind = volume.content.kind().unwrap_or(match volume.usage {
        Some(_) => "partitions",
        None => "unknown",
    });
    write!(f, ", {kind}")?;
    content_end(f, volume)?;
    writeln!(f)
}

fn volume_line(
    f: &mut fmt::Formatter<'_>,
    volume: &Volume,
    found: Option<&VolumeFound>,
) -> fmt::Result {
    let number = match volume.number {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    let size = volume.range.end.saturating_sub(volume.range.start);
    let active = if volume.bootable { "*" } else { " " };
    let kind = found.and_then(|found| found.content.kind());
    let kind = kind.unwrap_or(match found.and_then(|found| found.usage) {
        Some(Use::Extended) => "extended",
        _ => "unknown",
    });
    let size = Bytes(size).to_string();
    write!(f, "  {number:>2}{active} {size:>10}  {kind:<11}")?;
    match found {
        Some(found) => content_end(f, found),
        None => Ok(()),
    }
}

/// What a volume holds, and where it is mounted.
fn content_end(f: &mut fmt::Formatter<'_>, volume: &VolumeFound) -> fmt::Result {
    let content = &volume.content;
    if let Some(uuid) = content.uuid() {
        write!(f, " UUID={uuid}")?;
    }
    if let Some(label) = content.label() {
        write!(f, " LABEL=\"{label}\"")?;
    }
    match content {
        Content::Filesystem(identity) => write!(f, "  {} free", Bytes(identity.free))?,
        Content::Broken { .. } => write!(f, "  not read")?,
        Content::Recognised { .. } | Content::Unknown => {}
    }
    let points: Vec<&str> = volume
        .mounted
        .iter()
        .map(String::as_str)
        .filter(|point| point.starts_with('/'))
        .collect();
    if !points.is_empty() {
        write!(f, "  on {}", points.join(", "))?;
    }
    Ok(())
}

fn row(f: &mut fmt::Formatter<'_>, heading: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "  {heading:<HEADING$}{text}")
}

fn system_lines(f: &mut fmt::Formatter<'_>, system: &GuestSystem) -> fmt::Result {
    row(f, "root", &system.root)?;
    if let Some(hostname) = &system.hostname {
        row(f, "host name", hostname)?;
    }
    let mut runs = format!("{:?}", system.init).to_lowercase();
    if let Some(architecture) = system.architecture {
        runs = format!("{architecture}, {runs}");
    }
    if let Some(packages) = &system.packages {
        match packages.installed {
            Some(count) => write!(runs, ", {count} {} packages", packages.kind)?,
            None => write!(runs, ", {} packages", packages.kind)?,
        }
    }
    row(f, "runs", runs)?;
    boot_lines(f, system)?;
    for kernel in &system.kernels {
        kernel_lines(f, kernel)?;
    }
    for (number, mount) in system.mounts.iter().enumerate() {
        let heading = if number == 0 { "fstab" } else { "" };
        row(f, heading, MountLine(mount))?;
    }
    for setting in &system.resume {
        let found = match &setting.resolved {
            Some(at) => format!(" ({at})"),
            None => String::new(),
        };
        row(f, "resume", format!("{}{found}", setting.spec))?;
    }
    for (number, interface) in system.network.iter().enumerate() {
        let heading = if number == 0 { "network" } else { "" };
        row(f, heading, InterfaceLine(interface))?;
    }
    if !system.tools.is_empty() {
        let named = |tool: &ToolFound| match &tool.version {
            Some(version) => format!("{} {version}", tool.name),
            None => tool.name.to_owned(),
        };
        let tools: Vec<String> = system.tools.iter().map(named).collect();
        row(f, "tools", tools.join(", "))?;
    }
    if let Some(selinux) = &system.selinux {
        row(f, "selinux", &selinux.mode)?;
    }
    if let Some(cloud) = &system.cloud_init {
        row(
            f,
            "cloud-init",
            if cloud.disabled { "disabled" } else { "active" },
        )?;
    }
    if !system.crypttab.is_empty() {
        let names: Vec<&str> = system
            .crypttab
            .iter()
            .map(|found| found.name.as_str())
            .collect();
        row(f, "encrypted", names.join(", "))?;
    }
    if !system.arrays.is_empty() {
        let names: Vec<&str> = system
            .arrays
            .iter()
            .map(|found| found.device.as_str())
            .collect();
        row(f, "arrays", names.join(", "))?;
    }
    row(f, "verdict", system.readiness)?;
    finding_lines(f, &system.findings)
}

fn boot_lines(f: &mut fmt::Formatter<'_>, system: &GuestSystem) -> fmt::Result {
    let boot = &system.boot;
    let mut line = format!("{}, {}", boot.kind, boot.firmware);
    if let Some(config) = &boot.config {
        let count = boot.entries.len();
        let plural = if count == 1 { "entry" } else { "entries" };
        write!(line, ", {config} ({count} {plural})")?;
    }
    row(f, "boot loader", line)?;
    for image in &boot.unified {
        let mut line = image.path.clone();
        if let Some(version) = &image.version {
            write!(line, ", kernel {version}")?;
        }
        if image.signature.is_some() {
            write!(line, ", signed")?;
        }
        row(f, "unified kernel", line)?;
    }
    if let Some(esp) = &boot.esp {
        let fallback = match &esp.fallback {
            Some(path) => format!("starts {path} by itself"),
            None => "nothing that firmware starts by itself".to_owned(),
        };
        row(f, "efi", format!("{}, {fallback}", esp.path))?;
    }
    match system.default_boot() {
        Ok(choice) => {
            row(f, "boots", &choice.reason)?;
            row(f, "", &choice.kernel)?;
            for initrd in &choice.initrds {
                row(f, "", initrd)?;
            }
            row(f, "", &choice.command_line)
        }
        Err(error) => row(f, "boots", format!("nothing: {error}")),
    }
}

fn kernel_lines(f: &mut fmt::Formatter<'_>, kernel: &Kernel) -> fmt::Result {
    let image = kernel.image.as_deref().unwrap_or("no image");
    row(f, "kernel", format!("{}, {image}", kernel.version))?;
    if let Some(initramfs) = &kernel.initramfs {
        let mut line = format!("{}, {}", initramfs.path, Bytes(initramfs.size));
        match &initramfs.error {
            Some(error) => write!(line, ", not read: {error}")?,
            None => {
                let kinds: Vec<&str> = initramfs
                    .segments
                    .iter()
                    .map(|segment| segment.compression.as_str())
                    .collect();
                write!(
                    line,
                    ", {}, {}, {} modules",
                    initramfs.generator,
                    kinds.join(" + "),
                    initramfs.modules.len()
                )?;
            }
        }
        row(f, "  initramfs", line)?;
    }
    let list = |wanted: &dyn Fn(DriverState, Option<bool>) -> bool| {
        let names: Vec<&str> = kernel
            .drivers
            .iter()
            .filter(|driver| wanted(driver.kernel, driver.in_initramfs))
            .map(|driver| driver.name)
            .collect();
        names.join(" ")
    };
    let groups = [
        (
            "  built in",
            list(&|kernel, _| kernel == DriverState::Builtin),
        ),
        (
            "  at boot",
            list(&|kernel, early| kernel != DriverState::Builtin && early == Some(true)),
        ),
        (
            "  on disk",
            list(&|kernel, early| kernel == DriverState::Module && early != Some(true)),
        ),
        ("  absent", absent(kernel)),
    ];
    for (heading, names) in groups {
        if !names.is_empty() {
            row(f, heading, names)?;
        }
    }
    Ok(())
}

/// Drivers of adapters that no hypervisor offers.
const PHYSICAL: [&str; 15] = [
    "megaraid_sas",
    "mpt3sas",
    "hpsa",
    "smartpqi",
    "aacraid",
    "igb",
    "igc",
    "ixgbe",
    "i40e",
    "ice",
    "tg3",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "r8169",
];

/// The drivers that `kernel` has nowhere: by name, but for those that kernels of virtual machines never
/// have, when it lacks all of them.
fn absent(kernel: &Kernel) -> String {
    let nowhere = |driver: &&DriverFound| {
        driver.kernel == DriverState::Absent && driver.in_initramfs != Some(true)
    };
    let names: Vec<&str> = kernel
        .drivers
        .iter()
        .filter(nowhere)
        .map(|driver| driver.name)
        .collect();
    if !PHYSICAL.iter().all(|name| names.contains(name)) {
        return names.join(" ");
    }
    let mut others: Vec<&str> = names
        .into_iter()
        .filter(|name| !PHYSICAL.contains(name))
        .collect();
    others.push("(and those of physical machines' adapters)");
    others.join(" ")
}

fn finding_lines(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    for finding in findings {
        write!(
            f,
            "  {:<HEADING$}{}",
            finding.severity.to_string(),
            finding.what
        )?;
        let places: Vec<String> = finding.evidence.iter().map(ToString::to_string).collect();
        if !places.is_empty() {
            write!(f, " ({})", places.join(", "))?;
        }
        match (&finding.fix, finding.settled_by()) {
            (Some(fix), SettledBy::Migrate) => write!(f, "; `rehost migrate`: {fix}")?,
            (Some(fix), _) => write!(f, "; {fix}")?,
            (None, _) => {}
        }
        writeln!(f)?;
    }
    Ok(())
}

struct MountLine<'a>(&'a Mount);

impl Display for MountLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mount = self.0;
        let point = if mount.is_swap() {
            "swap"
        } else {
            &mount.point
        };
        write!(f, "{} {point}", mount.spec)?;
        if !mount.is_swap() {
            write!(f, " {}", mount.fstype)?;
        }
        if let Some(at) = &mount.resolved {
            write!(f, " ({at})")?;
        }
        Ok(())
    }
}

struct InterfaceLine<'a>(&'a Interface);

impl Display for InterfaceLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interface = self.0;
        f.write_str(interface.name.as_deref().unwrap_or("unnamed"))?;
        if interface.kind != InterfaceKind::Ethernet {
            write!(f, " {}", interface.kind)?;
        }
        if let Some(number) = interface.vlan {
            write!(f, " {number}")?;
        }
        if !interface.uses.is_empty() {
            write!(f, " of {}", interface.uses.join(" and "))?;
        }
        if let Some(owner) = &interface.member_of {
            write!(f, " in {owner}")?;
        }
        if let Some(mac) = &interface.mac {
            write!(f, " {mac}")?;
        }
        match interface.method {
            AddressMethod::Dhcp => write!(f, " dhcp")?,
            AddressMethod::Static | AddressMethod::None => {}
        }
        for address in &interface.addresses {
            write!(f, " {address}")?;
        }
        for gateway in &interface.gateways {
            write!(f, " via {gateway}")?;
        }
        write!(f, " ({}, {})", interface.configured_by, interface.place)
    }
}

/// A number of bytes in the largest unit that it fills.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            0..1024 => return write!(f, "{} B", self.0),
            1024..0x10_0000 => ("KiB", 10),
            0x10_0000..0x4000_0000 => ("MiB", 20),
            0x4000_0000..0x100_0000_0000 => ("GiB", 30),
            _ => ("TiB", 40),
        };
        let whole = self.0.checked_shr(shift).unwrap_or_default();
        let rest = self
            .0
            .saturating_sub(whole.checked_shl(shift).unwrap_or_default());
        let tenth = rest
            .saturating_mul(10)
            .checked_shr(shift)
            .unwrap_or_default();
        write!(f, "{whole}.{tenth} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_they_fill() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }
}
