//! Boot loaders and their menus.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::{InitramfsFound, Place};

/// How the guest boots.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
    /// The EFI system partition, where one is mounted or found.
    pub esp: Option<EspFound>,
    /// Kernels that are EFI programs with their initramfs and command line inside.
    pub unified: Vec<UnifiedKernel>,
}

/// An EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EspFound {
    /// Where the guest has it: `/boot/efi`.
    pub path: String,
    /// The EFI programs below its folder `EFI`, as paths in the guest.
    pub loaders: Vec<String>,
    /// The one that firmware starts when it knows no entry: `EFI/BOOT/BOOTX64.EFI`.
    pub fallback: Option<String>,
}

/// A unified kernel image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnifiedKernel {
    /// Its path in the guest.
    pub path: String,
    /// `uname -r` of the kernel inside, where the image says it.
    pub version: Option<String>,
    /// The system that it says it is of.
    pub os: Option<String>,
    /// The command line inside.
    pub command_line: Option<String>,
    /// Where its signature begins in the file, in bytes; `None` when it is not signed.
    pub signature: Option<u64>,
    /// Whether it carries values that a TPM policy is made from (`.pcrsig`).
    pub measured: bool,
    /// Names of its sections, in file order.
    pub sections: Vec<String>,
    /// Files that systemd-stub adds to it: `*.addon.efi`, credentials.
    pub addons: Vec<String>,
    /// The initramfs inside; its path is that of the image.
    pub initramfs: Option<InitramfsFound>,
    /// Why it could not be read, if it could not.
    pub error: Option<String>,
}

/// Which boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
    /// None: the firmware starts a unified kernel image.
    UnifiedKernel,
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
            Self::UnifiedKernel => "unified kernel image",
            Self::None => "none found",
        })
    }
}

/// The firmware a guest was set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BootSource {
    /// `GRUB_CMDLINE_LINUX`.
    pub key: String,
    /// Its value, unquoted.
    pub value: String,
    /// Where it stands.
    pub place: Place,
}
