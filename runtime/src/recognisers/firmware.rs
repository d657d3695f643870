//! Firmware, boot sectors and boot loaders.

use super::entry;
use crate::recognise::Meaning::{Failed, Progress, Stuck, Trouble};
use crate::recognise::Shape::{Line, Prompt};
use crate::recognise::{Recogniser, Stage};

pub(super) const TABLE: &[Recogniser] = &[
    // Firmware and boot sectors.
    entry(
        "seabios",
        Line,
        r"^SeaBIOS \(version ",
        Progress(Stage::Firmware),
        "started its firmware",
    ),
    entry(
        "no-bootable-device",
        Line,
        r"No bootable device\.",
        Failed,
        "has no bootable disk",
    ),
    entry(
        "no-bootable-medium",
        Line,
        r"FATAL: No bootable medium found",
        Failed,
        "has no bootable disk",
    ),
    entry(
        "boot-failed",
        Line,
        r"^Boot failed: ",
        Trouble,
        "could not boot a disk",
    ),
    entry(
        "mbr-no-system",
        Line,
        r"^(Missing operating system|Operating System not found|Error loading operating system|Invalid partition table)",
        Failed,
        "has no operating system behind its boot sector",
    ),
    // GRUB.
    entry(
        "grub-loading",
        Line,
        r"^(GRUB )?(loading\.+|Loading GRUB|Welcome to GRUB!)",
        Progress(Stage::BootLoader),
        "started its boot loader",
    ),
    entry(
        "grub-version",
        Line,
        r"GNU GRUB +version",
        Progress(Stage::BootLoader),
        "showed its boot menu",
    ),
    entry(
        "grub-error",
        Line,
        r"^ *error: .*(no such device|no such partition|unknown filesystem|file .* not found|disk .* not found|you need to load the kernel first|invalid magic number|no suitable video mode)",
        Trouble,
        "could not load what its boot loader wanted",
    ),
    entry(
        "grub-rescue",
        Prompt,
        r"^grub rescue> ",
        Stuck,
        "fell into the boot loader's rescue shell",
    ),
    entry(
        "grub-shell",
        Prompt,
        r"^grub> ",
        Stuck,
        "fell into the boot loader's shell",
    ),
    // syslinux.
    entry(
        "syslinux",
        Line,
        r"^(SYSLINUX|EXTLINUX|ISOLINUX) [0-9]",
        Progress(Stage::BootLoader),
        "started its boot loader",
    ),
    entry(
        "syslinux-no-kernel",
        Line,
        r"Could not find kernel image|No DEFAULT or UI configuration directive found",
        Failed,
        "has a boot loader without a kernel",
    ),
    entry(
        "syslinux-prompt",
        Prompt,
        r"^boot: ",
        Stuck,
        "waits at the boot loader's prompt",
    ),
];
