//! The kernel: its own progress, the disks and file systems it finds, its failures.

use super::entry;
use crate::recognise::Meaning::{Failed, Progress, Trouble};
use crate::recognise::Shape::Line;
use crate::recognise::{Recogniser, Stage};

pub(super) const TABLE: &[Recogniser] = &[
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
];
