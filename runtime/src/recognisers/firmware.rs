//! Firmware, boot sectors and boot loaders.

use super::entry;
use crate::recognise::Meaning::{Failed, Progress, Stuck, Trouble};
use crate::recognise::Shape::{Line, Prompt};
use crate::recognise::{Recogniser, Stage};

/// Entries that edk2 makes by itself and that start nothing of the guest's disks: its shell, its menu, the network.
const NOT_THE_GUESTS: &str = r#""(EFI Internal Shell|UiApp|UEFI PXEv|UEFI HTTPv)"#;

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
    // UEFI: edk2's boot device selection and its shell.
    Recogniser {
        except: Some(NOT_THE_GUESTS),
        ..entry(
            "uefi-loading",
            Line,
            r"^BdsDxe: loading Boot[0-9A-F]{4} ",
            Progress(Stage::Firmware),
            "started its firmware",
        )
    },
    Recogniser {
        except: Some(NOT_THE_GUESTS),
        ..entry(
            "uefi-starting",
            Line,
            r"^BdsDxe: starting Boot[0-9A-F]{4} ",
            Progress(Stage::BootLoader),
            "started its boot loader",
        )
    },
    entry(
        "uefi-entry-failed",
        Line,
        r"^BdsDxe: failed to (load|start) Boot[0-9A-F]{4} ",
        Trouble,
        "could not start what its firmware tried to boot",
    ),
    entry(
        "uefi-nothing-to-boot",
        Line,
        r"^BdsDxe: No bootable option or device was found",
        Failed,
        "has nothing that its firmware can boot",
    ),
    // Only its prompt: before that, the shell may find a script that boots the guest.
    entry(
        "uefi-shell",
        Prompt,
        r"^(Shell|[Ff][Ss][0-9]+:[^ >]*)> ",
        Stuck,
        "has nothing that its firmware can boot, and waits in the firmware's shell",
    ),
    entry(
        "uefi-exception",
        Line,
        r"^!!!! X64 Exception Type - ",
        Failed,
        "crashed in its firmware or its boot loader",
    ),
    // shim.
    entry(
        "shim-failed",
        Line,
        r"^(Failed to (open|read|load image) .*\\|start_image\(\) returned )",
        Trouble,
        "could not start its second boot loader",
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
        r"^ *error: .*(no such device|no such partition|unknown filesystem|file .* not found|disk .* not found|you need to load the kernel first|invalid magic number)",
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
