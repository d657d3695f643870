//! Kernels, their drivers, and what is inside an initramfs.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// One kernel.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
    /// Whether it holds only what the machine needed that it was made on (dracut's `hostonly`,
    /// `MODULES=dep` of initramfs-tools); `None` where nothing inside says so.
    pub host_only: Option<bool>,
    /// The image inside that most of it is packed away in, which is not looked into
    /// (`squashfs-root.img` of dracut).
    pub squashed: Option<String>,
    /// Files inside that fix a root or resume device.
    pub hints: Vec<InitramfsHint>,
    /// Why it could not be read, if it could not.
    pub error: Option<String>,
}

/// The program that made an initramfs, by what it left inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
    /// mkinitrd of SUSE before dracut, and of Red Hat before RHEL 6.
    Mkinitrd,
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
            Self::Mkinitrd => "mkinitrd",
            Self::Unknown => "unknown generator",
        })
    }
}

/// One archive of an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct InitramfsHint {
    /// Its path inside the archive: `conf/conf.d/resume`.
    pub path: String,
    /// Its text.
    pub text: String,
}
