//! The inspection as values: what was found on the disks, and where each fact stands.
//!
//! Everything here serialises; the shape is versioned by [`SCHEMA`]. Paths are absolute paths
//! inside the guest as its own mount table assembles it (`/boot/vmlinuz` whether or not `/boot` is
//! a filesystem of its own). Names that are not UTF-8 are shown with replacement characters, so a
//! path printed here is for people and for the planner, and the bytes are read again through
//! [`GuestTree`](crate::GuestTree).

mod boot;
mod kernel;
mod network;
mod readiness;
mod shape;
mod storage;
mod volumes;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

pub use boot::{
    BootEntry, BootLoader, BootLoaderKind, BootSource, EspFound, Firmware, UnifiedKernel,
};
pub use kernel::{
    DriverFound, DriverState, Generator, InitramfsFound, InitramfsHint, Kernel, SegmentFound,
};
pub(crate) use network::vlan_of;
pub use network::{AddressMethod, Interface, InterfaceKind, NetworkTool};
pub use readiness::{Finding, Readiness, SettledBy, Severity, Verdict};
pub use storage::{ArrayConfigured, CryptMapping, LvmScope, Multipath, Verified};
pub use volumes::{Content, DiskFound, FilesystemFound, FilesystemRef, VolumeFound};

/// The version of this shape, as `schema` in the JSON.
pub const SCHEMA: &str = "rehost.inspection/1";

/// All that was found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Inspection {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The disks, in the order they were given.
    pub disks: Vec<DiskFound>,
    /// The disks with all that lies on them: partitions, arrays, encrypted and logical volumes.
    /// What lies on others comes after them.
    pub volumes: Vec<VolumeFound>,
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

/// A place in the guest: the evidence of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct Place {
    /// Absolute path in the guest.
    pub path: String,
    /// Line, from 1, where the fact is in a text file.
    pub line: Option<u32>,
    /// Byte, from 0, where the fact is in a binary file.
    pub byte: Option<u64>,
}

impl Place {
    /// A whole file.
    #[must_use]
    pub fn file(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line: None,
            byte: None,
        }
    }

    /// A byte (from 0) of a file.
    #[must_use]
    pub fn byte(path: impl Into<String>, byte: u64) -> Self {
        Self {
            byte: Some(byte),
            ..Self::file(path)
        }
    }

    /// A line (from 1) of a file.
    #[must_use]
    pub fn line(path: impl Into<String>, line: u32) -> Self {
        Self {
            line: Some(line),
            ..Self::file(path)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.byte) {
            (Some(line), _) => write!(f, "{}:{line}", self.path),
            (None, Some(byte)) => write!(f, "{} at byte {byte}", self.path),
            (None, None) => f.write_str(&self.path),
        }
    }
}

/// One operating system.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
    /// `/etc/crypttab`, resolved against the disks.
    pub crypttab: Vec<CryptMapping>,
    /// The arrays of `mdadm.conf`, resolved against the disks.
    pub arrays: Vec<ArrayConfigured>,
    /// device-mapper multipath, where it is set up.
    pub multipath: Option<Multipath>,
    /// What keeps LVM from looking at disks that it does not know.
    pub lvm: Option<LvmScope>,
    /// The filesystems that dm-verity checks.
    pub verified: Vec<Verified>,
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
    /// Whether it is ready to move, by its findings.
    pub readiness: Readiness,
}

/// The release, from `os-release` (or an older release file).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd.
    Systemd,
    /// System V init.
    Sysv,
    /// Upstart.
    Upstart,
    /// OpenRC (usually started by BusyBox).
    Openrc,
    /// BusyBox alone, by its `/etc/inittab`.
    Busybox,
    /// Not recognised.
    Unknown,
}

/// One line of `/etc/fstab`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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

/// A setting that names the device to resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
    /// For a file inside an initramfs, or the section `.cmdline` of a unified kernel image: the path of
    /// that; `place` is inside it.
    pub inside: Option<String>,
}

/// What reads a device name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ToolFound {
    /// `open-vm-tools`, `VMware Tools`, `qemu-guest-agent`, ….
    pub name: &'static str,
    /// Which hypervisor it is for.
    pub hypervisor: &'static str,
    /// Whether it does nothing elsewhere: its services ask first where they run.
    pub sleeps: bool,
    /// Its version, where it is an installed package.
    pub version: Option<String>,
    /// The file it was recognised by.
    pub place: Place,
}

/// A package database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PackageDatabase {
    /// `dpkg`, `rpm`, `apk`, `pacman`.
    pub kind: &'static str,
    /// How it is stored: `text`, `sqlite`, `ndb`, `berkeley-db`.
    pub format: &'static str,
    /// How many packages are installed, where the database could be read.
    pub installed: Option<u64>,
    /// The installed packages, by name.
    pub packages: Vec<Package>,
    /// Where it is.
    pub place: Place,
}

impl PackageDatabase {
    /// The installed package called `name`.
    #[must_use]
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as its package manager writes it: `1:2.38-150.el9`.
    pub version: String,
    /// What it is built for: `amd64`, `noarch`.
    pub architecture: Option<String>,
}

/// SELinux.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Selinux {
    /// `enforcing`, `permissive`, `disabled`, as configured.
    pub mode: String,
    /// The policy (`targeted`).
    pub policy: Option<String>,
    /// Where it is configured.
    pub place: Place,
}

/// cloud-init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CloudInit {
    /// Whether `/etc/cloud/cloud-init.disabled` (or the command line) keeps it off.
    pub disabled: bool,
    /// The configured sources, as written.
    pub datasources: Option<String>,
    /// Where it is configured.
    pub place: Place,
}
