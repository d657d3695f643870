//! The initramfs: initramfs-tools, dracut, and those of Alpine and Arch.

use super::entry;
use crate::recognise::Meaning::{Failed, Progress, Stuck, Trouble};
use crate::recognise::Shape::{Line, Prompt};
use crate::recognise::{Recogniser, Stage};

pub(super) const TABLE: &[Recogniser] = &[
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
        r"Please unlock disk \S+: |Please enter passphrase for disk [^:]{1,100}: |^Enter passphrase for \S+: ",
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
        r"initramfs emergency recovery shell launched|^Launching initramfs emergency recovery shell",
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
        r"^ \* Mounting boot media|^(\[ *[0-9.]+\] )?Alpine Init [0-9]",
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
];
