//! The table of what is recognised on a guest's serial console.
//!
//! Flat data: an entry says where to look, for what, and what it means. Where two entries match
//! one line, the earlier one explains it. The words are those of the programs named beside them.

use crate::recognise::Meaning::{Failed, Login, Progress, Ready, Stuck, Trouble};
use crate::recognise::Shape::{Line, Prompt};
use crate::recognise::{Meaning, Recogniser, Shape, Stage};

const fn entry(
    id: &'static str,
    shape: Shape,
    pattern: &'static str,
    meaning: Meaning,
    says: &'static str,
) -> Recogniser {
    Recogniser {
        id,
        shape,
        pattern,
        except: None,
        meaning,
        says,
    }
}

/// Everything that is recognised.
pub const RECOGNISERS: &[Recogniser] = &[
    // getty, agetty: the proof. "Last login:" is what login prints after it.
    Recogniser {
        id: "login-prompt",
        shape: Prompt,
        pattern: r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63} login: ",
        except: Some(r"^Last login: "),
        meaning: Login,
        says: "reached the login prompt",
    },
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
    // The kernel.
    entry(
        "kernel",
        Line,
        r"\bLinux version [0-9]+\.[0-9]+",
        Progress(Stage::Kernel),
        "started its kernel",
    ),
    entry(
        "kernel-init",
        Line,
        r"Run /init as init process",
        Progress(Stage::Initramfs),
        "started its initramfs",
    ),
    entry(
        "kernel-no-init",
        Line,
        r"Failed to execute /init \(error|Kernel panic - not syncing: .*(No working init found|No init found|Requested init .* failed)",
        Failed,
        "found no init to run",
    ),
    entry(
        "kernel-no-root",
        Line,
        r"Kernel panic - not syncing: VFS: Unable to mount root",
        Failed,
        "could not mount its root file system",
    ),
    entry(
        "kernel-init-died",
        Line,
        r"Kernel panic - not syncing: Attempted to kill init",
        Failed,
        "lost its init process",
    ),
    entry(
        "kernel-no-memory",
        Line,
        r"Kernel panic - not syncing: .*[Oo]ut of memory",
        Failed,
        "ran out of memory",
    ),
    entry(
        "kernel-panic",
        Line,
        r"Kernel panic - not syncing",
        Failed,
        "panicked",
    ),
    entry(
        "kernel-no-root-device",
        Line,
        r"VFS: Cannot open root device",
        Trouble,
        "could not open its root device",
    ),
    entry(
        "kernel-bad-initramfs",
        Line,
        r"Initramfs unpacking failed|rootfs image is not initramfs|junk within compressed archive|junk at the end of compressed archive",
        Trouble,
        "could not unpack its initramfs",
    ),
    entry(
        "kernel-oops",
        Line,
        r"(BUG: (unable to handle|kernel NULL pointer)|Oops: |general protection fault)",
        Trouble,
        "met a fault in its kernel",
    ),
    entry(
        "kernel-lockup",
        Line,
        r"watchdog: BUG: soft lockup|rcu: INFO: rcu_(sched|preempt) (self-)?detected stall|task .* blocked for more than [0-9]+ seconds",
        Trouble,
        "hung for a while",
    ),
    entry(
        "kernel-oom",
        Line,
        r"Out of memory: Killed process",
        Trouble,
        "ran short of memory",
    ),
    entry(
        "kernel-io-error",
        Line,
        r"(I/O error, dev |Buffer I/O error on dev)",
        Trouble,
        "could not read or write a disk",
    ),
    // Evidence of how the disk came up.
    entry(
        "disk-virtio-blk",
        Line,
        r"virtio_blk virtio[0-9]+: \[vd[a-z]+\] [0-9]+ [0-9]+-byte logical blocks",
        Progress(Stage::Kernel),
        "sees a disk through virtio-blk",
    ),
    entry(
        "disk-virtio-scsi",
        Line,
        r"scsi host[0-9]+: Virtio SCSI HBA",
        Progress(Stage::Kernel),
        "sees a virtio SCSI controller",
    ),
    entry(
        "disk-pvscsi",
        Line,
        r"scsi host[0-9]+: VMware PVSCSI",
        Progress(Stage::Kernel),
        "sees VMware's SCSI controller",
    ),
    entry(
        "disk-ahci",
        Line,
        r"ahci [0-9a-f:.]+: AHCI [0-9a-f.]+ .*ports",
        Progress(Stage::Kernel),
        "sees an AHCI controller",
    ),
    entry(
        "disk-scsi",
        Line,
        r"sd [0-9:]+: \[sd[a-z]+\] Attached SCSI disk",
        Progress(Stage::Kernel),
        "sees a SCSI or SATA disk",
    ),
    // File systems, as the kernel reports them.
    entry(
        "mounted-ext4",
        Line,
        r"EXT4-fs \([^)]+\): mounted filesystem",
        Progress(Stage::Root),
        "mounted an ext4 file system",
    ),
    entry(
        "mounted-xfs",
        Line,
        r"XFS \([^)]+\): Ending (clean mount|recovery)",
        Progress(Stage::Root),
        "mounted an XFS file system",
    ),
    entry(
        "mounted-btrfs",
        Line,
        r"BTRFS( info)? \(device [^)]+\): (first mount|using free.space.tree|disk space caching is enabled|enabling ssd)",
        Progress(Stage::Root),
        "mounted a Btrfs file system",
    ),
    entry(
        "filesystem-damaged",
        Line,
        r"EXT4-fs error \(device|XFS \([^)]+\): (Corruption|Internal error|Metadata corruption)|BTRFS (critical|error) \(device",
        Trouble,
        "found its file system damaged",
    ),
    // initramfs-tools.
    entry(
        "initramfs-tools",
        Line,
        r"^Begin: (Loading essential drivers|Running /scripts/|Mounting root file system)",
        Progress(Stage::Initramfs),
        "started its initramfs",
    ),
    entry(
        "initramfs-waits",
        Line,
        r"^Gave up waiting for (root|suspend/resume)( file system)? device",
        Trouble,
        "gave up waiting for a device",
    ),
    entry(
        "initramfs-no-device",
        Line,
        r"^ALERT! +\S+ does not exist\. +Dropping to a shell!|^ALERT! .*does not exist",
        Trouble,
        "did not find its root device",
    ),
    entry(
        "initramfs-mount",
        Line,
        r"^mount: mounting \S+ on /?root failed|^Failed to mount \S+ as root file system",
        Trouble,
        "could not mount its root file system",
    ),
    entry(
        "initramfs-no-target-init",
        Line,
        r"^No init found\. Try passing init= bootarg|^Target filesystem doesn't have requested |^run-init: .*(No such file|can't execute)",
        Trouble,
        "found no init on its root file system",
    ),
    entry(
        "initramfs-shell",
        Prompt,
        r"^\(initramfs\) ",
        Stuck,
        "dropped to the initramfs shell",
    ),
    entry(
        "fsck-manual",
        Line,
        r"UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY|The root filesystem on \S+ requires a manual fsck|fsck (failed|exited) with (exit )?(status|error) code [4-9]",
        Trouble,
        "found its file system damaged",
    ),
    entry(
        "passphrase",
        Prompt,
        r"^(Please unlock disk \S+|Please enter passphrase for disk [^:]+|Enter passphrase for \S+): ?",
        Stuck,
        "waits for a disk's passphrase",
    ),
    // dracut.
    entry(
        "dracut",
        Line,
        r"dracut-cmdline\[[0-9]+\]: dracut|Welcome to .*\(Initramfs\)!|systemd\[1\]: Running in (initrd|initramfs)",
        Progress(Stage::Initramfs),
        "started its initramfs",
    ),
    entry(
        "dracut-timeout",
        Line,
        r"dracut-initqueue(\[[0-9]+\])?: (Warning: )?(dracut-initqueue:? )?timeout",
        Trouble,
        "waited in vain for its root device",
    ),
    entry(
        "dracut-no-device",
        Line,
        r"Warning: /dev/\S+ does not exist",
        Trouble,
        "did not find its root device",
    ),
    entry(
        "dracut-failed",
        Line,
        r"[Ww]arning: Could not boot\.|dracut: FATAL:|dracut: Refusing to continue",
        Trouble,
        "could not boot from its initramfs",
    ),
    entry(
        "dracut-shell",
        Prompt,
        r"^dracut:/?[^#]{0,40}# ",
        Stuck,
        "dropped to the initramfs shell",
    ),
    entry(
        "initramfs-emergency",
        Line,
        r"^Entering emergency mode\. Exit the shell to continue",
        Failed,
        "dropped to the initramfs emergency shell",
    ),
    // Alpine, Arch.
    entry(
        "alpine-shell",
        Line,
        r"initramfs emergency recovery shell launched",
        Failed,
        "dropped to the initramfs emergency shell",
    ),
    entry(
        "alpine-mount",
        Line,
        r"^Mounting root failed\.",
        Trouble,
        "could not mount its root file system",
    ),
    entry(
        "alpine",
        Line,
        r"^ \* Mounting boot media|^Alpine Init [0-9]",
        Progress(Stage::Initramfs),
        "started its initramfs",
    ),
    entry(
        "arch",
        Line,
        r"^:: running (early )?hook \[",
        Progress(Stage::Initramfs),
        "started its initramfs",
    ),
    entry(
        "arch-no-device",
        Line,
        r"^ERROR: (device '.*' not found|Unable to find root device)",
        Trouble,
        "did not find its root device",
    ),
    entry(
        "arch-shell",
        Line,
        r"^You are (now )?being dropped into an emergency shell",
        Failed,
        "dropped to the initramfs emergency shell",
    ),
    // systemd.
    entry(
        "switch-root",
        Line,
        r"Switching root\.|Starting (initrd-switch-root\.service|Switch Root)",
        Progress(Stage::Root),
        "left its initramfs",
    ),
    entry(
        "systemd",
        Line,
        r"systemd\[1\]: systemd [0-9][^ ]* running in system mode",
        Progress(Stage::Initramfs),
        "started systemd",
    ),
    Recogniser {
        id: "welcome",
        shape: Line,
        pattern: r"^Welcome to .+!$",
        except: Some(r"^Welcome to (GRUB|emergency mode|rescue mode)!|\(Initramfs\)!"),
        meaning: Progress(Stage::Init),
        says: "started the installed system's init",
    },
    entry(
        "local-file-systems",
        Line,
        r"Reached target (\S+ - )?Local File Systems",
        Progress(Stage::Init),
        "mounted its file systems",
    ),
    entry(
        "device-timeout",
        Line,
        r"Timed out waiting for device|Timed out waiting for (dev-\S+\.device)",
        Trouble,
        "waited in vain for a device",
    ),
    entry(
        "unit-failed",
        Line,
        r"\[(FAILED|DEPEND)\]|systemd\[1\]: (Failed to start|Failed to mount|Dependency failed for) ",
        Trouble,
        "could not start a service",
    ),
    entry(
        "emergency-mode",
        Line,
        r"You are in emergency mode|Welcome to emergency mode!",
        Failed,
        "started in emergency mode",
    ),
    entry(
        "rescue-mode",
        Line,
        r"You are in rescue mode|Welcome to rescue mode!",
        Failed,
        "started in rescue mode",
    ),
    entry(
        "root-locked",
        Line,
        r"Cannot open access to console, the root account is locked",
        Failed,
        "stopped in emergency mode with its root account locked",
    ),
    entry(
        "sulogin",
        Prompt,
        r"^(Give root password for (maintenance|system maintenance|login)|Press Enter for (system )?maintenance|Enter root password for )",
        Stuck,
        "asks for the root password for maintenance",
    ),
    entry(
        "multi-user",
        Line,
        r"Reached target (multi-user\.target - )?Multi-User System|Reached target multi-user\.target",
        Ready,
        "reached its multi-user target",
    ),
    entry(
        "graphical",
        Line,
        r"Reached target (graphical\.target - )?Graphical Interface|Reached target graphical\.target",
        Ready,
        "reached its graphical target",
    ),
    // System V init, OpenRC.
    entry(
        "sysv-init",
        Line,
        r"^INIT: version [0-9.]+ booting",
        Progress(Stage::Init),
        "started the installed system's init",
    ),
    entry(
        "sysv-runlevel",
        Line,
        r"^INIT: Entering runlevel: [2-5]",
        Ready,
        "entered its normal runlevel",
    ),
    entry(
        "sysv-respawn",
        Line,
        r"^INIT: Id .* respawning too fast",
        Trouble,
        "could not keep a login program running",
    ),
    entry(
        "openrc",
        Line,
        r"OpenRC [0-9.]+.* is starting up",
        Progress(Stage::Init),
        "started the installed system's init",
    ),
    entry(
        "openrc-default",
        Line,
        r"Caching service dependencies|Starting local \.\.\.",
        Progress(Stage::Services),
        "started its services",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn every_entry_has_a_name_of_its_own_and_compiles() {
        for (nth, entry) in RECOGNISERS.iter().enumerate() {
            Regex::new(entry.pattern).unwrap_or_else(|error| panic!("{}: {error}", entry.id));
            assert!(
                RECOGNISERS
                    .iter()
                    .take(nth)
                    .all(|other| other.id != entry.id)
            );
            assert!(!entry.says.is_empty());
            if let Some(except) = entry.except {
                Regex::new(except).unwrap();
            }
            assert_eq!(
                entry.shape == Prompt,
                entry.pattern.starts_with('^') && matches!(entry.meaning, Login | Stuck),
                "{}: prompts are anchored and wait for a person",
                entry.id
            );
        }
    }
}
