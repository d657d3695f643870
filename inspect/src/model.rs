//! The inspection as values: what was found on the disks, and where each fact stands.
//!
//! Everything here serialises; the shape is versioned by [`SCHEMA`]. Paths are absolute paths
//! inside the guest as its own mount table assembles it (`/boot/vmlinuz` whether or not `/boot` is
//! a filesystem of its own). Names that are not UTF-8 are shown with replacement characters, so a
//! path printed here is for people and for the planner, and the bytes are read again through
//! the guest tree.

use std::fmt;

use rehost_fs::Identity;
use rehost_volume::Layout;
use serde::Serialize;

/// The version of this shape, as `schema` in the JSON.
pub const SCHEMA: &str = "rehost.inspection/1";

/// All that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The disks, in the order they were given.
    pub disks: Vec<DiskFound>,
    /// The operating systems, in disk and volume order.
    pub systems: Vec<GuestSystem>,
    /// Which of `systems` is meant when none is named.
    pub chosen: Option<usize>,
    /// Why that one, in one sentence.
    pub choice: String,
    /// What concerns the disks and no system.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// The system that is meant when none is named.
    #[must_use]
    pub fn system(&self) -> Option<&GuestSystem> {
        self.chosen.and_then(|chosen| self.systems.get(chosen))
    }
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiskFound {
    /// Size in bytes.
    pub size: u64,
    /// How it is divided.
    pub layout: Layout,
    /// Whose boot code is in sector 0: `GRUB`, `SYSLINUX`, `LILO`, `Windows`.
    pub boot_code: Option<&'static str>,
    /// What each volume holds, in the order of `layout.volumes`.
    pub filesystems: Vec<FilesystemFound>,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilesystemFound {
    /// Number of the volume on its disk; 0 for a disk without a table.
    pub volume: u32,
    /// The content.
    pub content: Content,
}

/// What the first blocks of a volume say it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Content {
    /// A filesystem that was opened.
    Filesystem(Identity),
    /// A swap area, or a container of other volumes.
    Recognised {
        /// `swap`, `LVM2_member`, `crypto_LUKS`, …, as `blkid` prints it.
        kind: String,
        /// Its UUID, where the signature carries one.
        uuid: Option<String>,
        /// Its label, where the signature carries one.
        label: Option<String>,
    },
    /// A filesystem that could not be opened: damaged, or of a kind that is only named.
    Broken {
        /// As `blkid` prints it.
        kind: String,
        /// Its UUID, where the signature carries one.
        uuid: Option<String>,
        /// Its label, where the signature carries one.
        label: Option<String>,
        /// The error, with its place.
        error: String,
    },
    /// Nothing that is known.
    Unknown,
}

impl Content {
    /// `ext4`, `swap`, `LVM2_member`, …
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => Some(identity.kind),
            Self::Recognised { kind, .. } | Self::Broken { kind, .. } => Some(kind),
            Self::Unknown => None,
        }
    }

    /// The UUID, as `blkid` prints it.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => identity.uuid.as_deref(),
            Self::Recognised { uuid, .. } | Self::Broken { uuid, .. } => uuid.as_deref(),
            Self::Unknown => None,
        }
    }

    /// The label.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => identity.label.as_deref(),
            Self::Recognised { label, .. } | Self::Broken { label, .. } => label.as_deref(),
            Self::Unknown => None,
        }
    }
}

/// Names one volume of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct FilesystemRef {
    /// Index of the disk, in the order they were given.
    pub disk: usize,
    /// Number of the volume on it; 0 for a disk without a table.
    pub volume: u32,
    /// UUID of what the volume holds.
    pub uuid: Option<String>,
}

impl fmt::Display for FilesystemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.volume {
            0 => write!(f, "disk {}", self.disk),
            volume => write!(f, "disk {} partition {volume}", self.disk),
        }
    }
}

/// A place in the guest: the evidence of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// Absolute path in the guest.
    pub path: String,
    /// Line, from 1, where the fact is in a text file.
    pub line: Option<u32>,
}

impl Place {
    /// A whole file.
    #[must_use]
    pub fn file(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line: None,
        }
    }

    /// A line (from 1) of a file.
    #[must_use]
    pub fn line(path: impl Into<String>, line: u32) -> Self {
        Self {
            path: path.into(),
            line: Some(line),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// One operating system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GuestSystem {
    /// Which release.
    pub os: OsRelease,
    /// What it calls itself on the network.
    pub hostname: Option<String>,
    /// The architecture of its programs.
    pub architecture: Option<Architecture>,
    /// Its first process.
    pub init: Init,
    /// Where its root directory is.
    pub root: FilesystemRef,
    /// `/etc/fstab`, resolved against the disks.
    pub mounts: Vec<Mount>,
    /// Every kernel that has a module directory or an image.
    pub kernels: Vec<Kernel>,
    /// How it boots.
    pub boot: BootLoader,
    /// Network interfaces that its configuration names.
    pub network: Vec<Interface>,
    /// Settings that name the device to resume from.
    pub resume: Vec<ResumeSetting>,
    /// Every place that names a disk by a name that depends on the bus.
    pub device_names: Vec<DeviceName>,
    /// Programs made for a hypervisor.
    pub tools: Vec<ToolFound>,
    /// The package database.
    pub packages: Option<PackageDatabase>,
    /// SELinux, where it is installed.
    pub selinux: Option<Selinux>,
    /// cloud-init, where it is installed.
    pub cloud_init: Option<CloudInit>,
    /// What somebody who moves this machine should know.
    pub findings: Vec<Finding>,
}

/// The release, from `os-release` (or an older release file).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OsRelease {
    /// `ID`, lower case: `debian`.
    pub id: String,
    /// `VERSION_ID`: `12`.
    pub version_id: Option<String>,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
    /// `ID_LIKE`, split.
    pub id_like: Vec<String>,
    /// Which rules apply to it.
    pub family: Family,
    /// The file that says so.
    pub place: Place,
}

/// A family of distributions that share their tools and layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Debian, Ubuntu and what is made from them.
    Debian,
    /// Fedora, RHEL and its rebuilds, Amazon Linux, Oracle Linux.
    RedHat,
    /// SLES, openSUSE.
    Suse,
    /// Alpine.
    Alpine,
    /// Arch and what is made from it.
    Arch,
    /// None of the above.
    Unknown,
}

/// Architecture of the guest's programs (`e_machine` of its init).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit Arm.
    Aarch64,
    /// Another ELF machine.
    Other(u16),
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86_64 => f.write_str("x86_64"),
            Self::X86 => f.write_str("i386"),
            Self::Aarch64 => f.write_str("aarch64"),
            Self::Other(machine) => write!(f, "ELF machine {machine}"),
        }
    }
}

/// The first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init.
    Sysv,
    /// Upstart.
    Upstart,
    /// OpenRC (usually started by busybox).
    Openrc,
    /// Not recognised.
    Unknown,
}

/// One line of `/etc/fstab`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// First field, as written: `UUID=…`, `/dev/sda1`.
    pub spec: String,
    /// Second field; `none` or `swap` for swap.
    pub point: String,
    /// Third field.
    pub fstype: String,
    /// Fourth field, split at commas.
    pub options: Vec<String>,
    /// The volume that `spec` names, when it is on these disks.
    pub resolved: Option<FilesystemRef>,
    /// Where it stands.
    pub place: Place,
}

impl Mount {
    /// Whether the line is a swap area.
    #[must_use]
    pub fn is_swap(&self) -> bool {
        self.fstype == "swap"
    }
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kernel {
    /// `uname -r`: the name of its module directory.
    pub version: String,
    /// Its image: `/boot/vmlinuz-…`.
    pub image: Option<String>,
    /// Its initramfs: `/boot/initrd.img-…`.
    pub initramfs: Option<InitramfsFound>,
    /// Its build configuration: `/boot/config-…`.
    pub config: Option<String>,
    /// Its modules: `/lib/modules/…`, links resolved (`/usr/lib/modules/…` on merged systems).
    pub modules: Option<String>,
    /// For each driver that decides whether it boots somewhere, whether it has it.
    pub drivers: Vec<DriverFound>,
}

impl Kernel {
    /// How the kernel has the driver `name` (underscores).
    #[must_use]
    pub fn driver(&self, name: &str) -> DriverState {
        self.drivers
            .iter()
            .find(|driver| driver.name == name)
            .map_or(DriverState::Absent, |driver| driver.kernel)
    }

    /// Whether the kernel has the driver before the root filesystem is mounted: built in, or a
    /// module inside the initramfs.
    #[must_use]
    pub fn early(&self, name: &str) -> bool {
        self.drivers.iter().any(|driver| {
            driver.name == name
                && (driver.kernel == DriverState::Builtin || driver.in_initramfs == Some(true))
        })
    }
}

/// How a kernel has a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverState {
    /// Compiled in (`modules.builtin`).
    Builtin,
    /// A module (`modules.dep`).
    Module,
    /// Not there.
    Absent,
}

/// One driver of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriverFound {
    /// Module name, underscores.
    pub name: &'static str,
    /// How the kernel has it.
    pub kernel: DriverState,
    /// Whether the initramfs holds its module; `None` when there is no initramfs that could be
    /// read.
    pub in_initramfs: Option<bool>,
}

/// An initramfs file and what is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitramfsFound {
    /// Path of the file.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// What made it.
    pub generator: Generator,
    /// The archives it is made of, in file order.
    pub segments: Vec<SegmentFound>,
    /// Modules inside, by name (underscores), sorted.
    pub modules: Vec<String>,
    /// Files inside that fix a root or resume device.
    pub hints: Vec<InitramfsHint>,
    /// Why it could not be read, if it could not.
    pub error: Option<String>,
}

/// The program that made an initramfs, by what it left inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// Debian's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
    /// Arch's mkinitcpio.
    Mkinitcpio,
    /// Alpine's mkinitfs.
    Mkinitfs,
    /// Not recognised.
    Unknown,
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::Dracut => "dracut",
            Self::Mkinitcpio => "mkinitcpio",
            Self::Mkinitfs => "mkinitfs",
            Self::Unknown => "unknown generator",
        })
    }
}

/// One archive of an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentFound {
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in the file, padding after it excluded.
    pub len: u64,
    /// `none`, `gzip`, `zstd`, `xz`, `lz4`, ….
    pub compression: String,
    /// Number of entries in the archive.
    pub entries: u64,
}

/// A file inside an initramfs that names a root or resume device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitramfsHint {
    /// Its path inside the archive: `conf/conf.d/resume`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// How the guest boots.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BootLoader {
    /// Which boot loader.
    pub kind: BootLoaderKind,
    /// The file its entries come from.
    pub config: Option<String>,
    /// The firmware it was set up for.
    pub firmware: Firmware,
    /// Its entries, submenus flattened, in menu order.
    pub entries: Vec<BootEntry>,
    /// Which of `entries` it takes unattended.
    pub default: Option<usize>,
    /// Why that one: `set default="0"`, `saved_entry in grubenv`.
    pub default_reason: String,
    /// Lines from which the configuration is generated (`/etc/default/grub`).
    pub sources: Vec<BootSource>,
}

/// Which boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoaderKind {
    /// GRUB 2.
    Grub2,
    /// GRUB 0.97.
    GrubLegacy,
    /// SYSLINUX on ext4, FAT, ….
    Extlinux,
    /// systemd-boot.
    SystemdBoot,
    /// None was found.
    None,
}

impl fmt::Display for BootLoaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grub2 => "GRUB 2",
            Self::GrubLegacy => "GRUB legacy",
            Self::Extlinux => "extlinux",
            Self::SystemdBoot => "systemd-boot",
            Self::None => "none found",
        })
    }
}

/// The firmware a guest was set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// PC BIOS: boot code in sector 0.
    Bios,
    /// UEFI: an EFI system partition, and no boot code in sector 0.
    Uefi,
    /// Both would start it.
    Either,
    /// Neither was found.
    Unknown,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
            Self::Either => "BIOS or UEFI",
            Self::Unknown => "firmware unknown",
        })
    }
}

/// One entry of a boot menu.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootEntry {
    /// Its title.
    pub title: String,
    /// Its identifier (`--id`, `$menuentry_id_option`, file name of a BLS entry).
    pub id: Option<String>,
    /// How the boot loader addresses it: `0`, `1>2`.
    pub index: String,
    /// The kernel, as a path in the guest; `None` for entries that start something else.
    pub kernel: Option<String>,
    /// The initramfs files, as paths in the guest, in order.
    pub initrds: Vec<String>,
    /// The kernel command line, variables expanded.
    pub command_line: String,
    /// The line with the kernel and its command line (or the entry's first line).
    pub place: Place,
}

/// A setting that a boot configuration is generated from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// `GRUB_CMDLINE_LINUX`.
    pub key: String,
    /// Its value, unquoted.
    pub value: String,
    /// Where it stands.
    pub place: Place,
}

/// A network interface that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name in the guest; `None` where it is matched by something else.
    pub name: Option<String>,
    /// The MAC address it is matched by.
    pub mac: Option<String>,
    /// How it gets its address.
    pub method: AddressMethod,
    /// Addresses with prefix length where given.
    pub addresses: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Which tool reads the file.
    pub configured_by: NetworkTool,
    /// Where it stands.
    pub place: Place,
}

/// How an interface gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressMethod {
    /// DHCP (or automatic).
    Dhcp,
    /// Written in the file.
    Static,
    /// None: the interface is up without one, or is part of another.
    None,
}

/// The tool that reads a network configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkTool {
    /// `/etc/network/interfaces`.
    Ifupdown,
    /// `/etc/netplan`.
    Netplan,
    /// NetworkManager keyfiles.
    NetworkManager,
    /// `/etc/systemd/network`.
    SystemdNetworkd,
    /// `ifcfg-*` of Red Hat and SUSE.
    Ifcfg,
    /// `/etc/udev/rules.d/*-persistent-net.rules`: a name for a MAC, no addresses.
    UdevRule,
    /// A systemd `.link` file: a name for a MAC, no addresses.
    SystemdLink,
}

impl fmt::Display for NetworkTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ifupdown => "ifupdown",
            Self::Netplan => "netplan",
            Self::NetworkManager => "NetworkManager",
            Self::SystemdNetworkd => "systemd-networkd",
            Self::Ifcfg => "ifcfg",
            Self::UdevRule => "udev rule",
            Self::SystemdLink => "systemd .link",
        })
    }
}

/// A setting that names the device to resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumeSetting {
    /// As written: `UUID=…`, `/dev/sda2`, `none`.
    pub spec: String,
    /// The volume it names, when it is on these disks.
    pub resolved: Option<FilesystemRef>,
    /// Where it stands.
    pub place: Place,
}

/// A place that names a disk by a name that changes with the bus (`/dev/sda1`,
/// `/dev/disk/by-path/…`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceName {
    /// The name, as written: exactly these bytes stand at `place`.
    pub name: String,
    /// What it names, when it is on these disks.
    pub resolved: Option<FilesystemRef>,
    /// A name for the same that does not depend on the bus, in the syntax of that file:
    /// `UUID=…`, `PARTUUID=…`.
    pub stable: Option<String>,
    /// What reads it.
    pub role: DeviceRole,
    /// Where it stands.
    pub place: Place,
    /// For a file inside an initramfs: the path of the initramfs; `place` is inside it.
    pub inside: Option<String>,
}

/// What reads a device name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceRole {
    /// First field of a line of `/etc/fstab`.
    Fstab,
    /// `root=` of a kernel command line in a boot entry.
    BootRoot,
    /// `resume=` of a kernel command line in a boot entry.
    BootResume,
    /// A command line in a file that boot entries are generated from.
    BootSource,
    /// `RESUME=` of initramfs-tools.
    Resume,
    /// Second field of a line of `/etc/crypttab`.
    Crypttab,
    /// A line of GRUB's `device.map`.
    DeviceMap,
    /// A file inside an initramfs.
    Initramfs,
}

/// A program made for a hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolFound {
    /// `open-vm-tools`, `VMware Tools`, `qemu-guest-agent`, ….
    pub name: &'static str,
    /// Which hypervisor it is for.
    pub hypervisor: &'static str,
    /// The file it was recognised by.
    pub place: Place,
}

/// A package database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageDatabase {
    /// `dpkg`, `rpm`, `apk`, `pacman`.
    pub kind: &'static str,
    /// Installed packages, where the database could be read.
    pub installed: Option<u64>,
    /// Where it is.
    pub place: Place,
}

/// SELinux.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Selinux {
    /// `enforcing`, `permissive`, `disabled`, as configured.
    pub mode: String,
    /// The policy (`targeted`).
    pub policy: Option<String>,
    /// Where it is configured.
    pub place: Place,
}

/// cloud-init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloudInit {
    /// Whether `/etc/cloud/cloud-init.disabled` (or the command line) keeps it off.
    pub disabled: bool,
    /// The configured sources, as written.
    pub datasources: Option<String>,
    /// Where it is configured.
    pub place: Place,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Works, but differently than before.
    Warning,
    /// Will not work on another machine unless it is changed.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// Something that whoever moves this machine should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name, for policies: `initramfs-lacks-virtio`.
    pub id: &'static str,
    /// What is so, in one sentence.
    pub what: String,
    /// Where that is seen.
    pub evidence: Vec<Place>,
    /// What would settle it.
    pub fix: Option<String>,
}
