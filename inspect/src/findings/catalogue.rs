//! Every finding there is: its stable name, who settles it, and what it means.
//!
//! Policies and scripts match on the names; one that was published keeps its meaning. The table is part
//! of the JSON schema.

use crate::model::SettledBy::{self, Migrate, Nobody, Owner};

/// One kind of finding.
#[derive(Debug, Clone, Copy)]
pub struct FindingKind {
    /// Its stable name.
    pub id: &'static str,
    /// Who settles it.
    pub settled_by: SettledBy,
    /// What it means.
    pub meaning: &'static str,
}

const fn entry(id: &'static str, settled_by: SettledBy, meaning: &'static str) -> FindingKind {
    FindingKind {
        id,
        settled_by,
        meaning,
    }
}

/// All of them, by name.
pub const CATALOGUE: &[FindingKind] = &[
    entry(
        "boot-file-missing",
        Owner,
        "a boot entry names a kernel or initramfs that is not there",
    ),
    entry(
        "cloud-init-active",
        Owner,
        "cloud-init may take the copy for a new machine",
    ),
    entry(
        "crypttab-key-missing",
        Owner,
        "the key file of an encrypted volume is not there",
    ),
    entry(
        "crypttab-not-found",
        Owner,
        "an encrypted volume that is opened at boot is on none of the disks",
    ),
    entry(
        "device-name",
        Migrate,
        "a disk is called by a name that depends on its bus",
    ),
    entry(
        "device-name-stays",
        Owner,
        "a disk is called by a name that depends on its bus, and nothing else is known to call it",
    ),
    entry(
        "extlinux-not-followed",
        Nobody,
        "a part of extlinux's menu was not read",
    ),
    entry(
        "filesystem-full",
        Owner,
        "a filesystem has hardly any room left",
    ),
    entry(
        "filesystem-not-read",
        Owner,
        "a filesystem could not be opened",
    ),
    entry(
        "foreign-architecture",
        Owner,
        "the guest's programs are not for x86",
    ),
    entry(
        "grub-not-followed",
        Nobody,
        "a part of GRUB's menu was not followed",
    ),
    entry(
        "hypervisor-agent-fails",
        Owner,
        "an agent of a cloud or hypervisor is installed that fails elsewhere",
    ),
    entry(
        "hypervisor-tools",
        Nobody,
        "tools of a hypervisor are installed",
    ),
    entry(
        "hypervisor-tools-fail",
        Migrate,
        "tools of a hypervisor are installed that get in the way elsewhere",
    ),
    entry(
        "initramfs-host-only",
        Nobody,
        "an initramfs holds only what the old machine needed",
    ),
    entry(
        "initramfs-lacks-virtio",
        Migrate,
        "an initramfs lacks the drivers for virtio disks",
    ),
    entry(
        "initramfs-lz4-frame",
        Owner,
        "an initramfs is compressed in a way that no kernel unpacks",
    ),
    entry(
        "initramfs-squashed",
        Owner,
        "an initramfs keeps its modules in an image inside, which is not looked into",
    ),
    entry("initramfs-unreadable", Owner, "an initramfs cannot be read"),
    entry(
        "kdump-left-alone",
        Nobody,
        "an initramfs for crash dumps is left as it is",
    ),
    entry(
        "kernel-lacks-virtio",
        Owner,
        "a kernel has no virtio disk drivers",
    ),
    entry(
        "luks-hardware-key",
        Owner,
        "an encrypted volume is unlocked by hardware that does not move",
    ),
    entry(
        "luks-hardware-token",
        Owner,
        "a LUKS2 token unlocks a volume with hardware or a server that does not move",
    ),
    entry(
        "lvm-devices-file",
        Migrate,
        "LVM looks only at disks that it knows by the old machine's names",
    ),
    entry(
        "lvm-filter",
        Migrate,
        "LVM's filter rejects the names that disks have on virtio",
    ),
    entry(
        "mount-failed",
        Owner,
        "a filesystem could not be mounted where fstab says",
    ),
    entry(
        "mount-not-found",
        Owner,
        "fstab names a filesystem that is on none of the disks",
    ),
    entry(
        "multipath-in-use",
        Owner,
        "multipath names disks by the old storage's identities",
    ),
    entry(
        "netplan-not-read",
        Nobody,
        "a netplan file is not understood",
    ),
    entry(
        "network-driver-match",
        Owner,
        "a network configuration holds only for the old card's driver",
    ),
    entry(
        "network-driver-rule",
        Migrate,
        "a udev rule names a card by its address, but only with the old card's driver",
    ),
    entry(
        "network-name-changes",
        Migrate,
        "an interface is named after its slot",
    ),
    entry(
        "no-boot-loader",
        Owner,
        "no boot loader configuration was found",
    ),
    entry("no-fstab", Nobody, "there is no fstab"),
    entry("no-kernel", Owner, "no kernel image was found"),
    entry("no-system", Owner, "no operating system was found"),
    entry("not-shut-down", Owner, "a filesystem was not unmounted"),
    entry(
        "packages-unreadable",
        Nobody,
        "the package database was not read as a whole",
    ),
    entry(
        "partition-table-damaged",
        Owner,
        "a partition table contradicts itself",
    ),
    entry(
        "partition-table-unreadable",
        Owner,
        "a partition table cannot be read",
    ),
    entry(
        "raid-not-found",
        Owner,
        "a configured array has no member on the disks",
    ),
    entry(
        "resume-not-found",
        Owner,
        "the device to resume from is on none of the disks",
    ),
    entry(
        "root-not-found",
        Owner,
        "a boot entry's root device is on none of the disks",
    ),
    entry(
        "selinux-enforcing",
        Nobody,
        "SELinux is enforcing: created files need their label",
    ),
    entry(
        "uefi-entry-lost",
        Migrate,
        "there is no program that firmware starts when it remembers nothing",
    ),
    entry(
        "uefi-loader-unknown",
        Owner,
        "there is no program that firmware starts when it remembers nothing, and none that is known to copy",
    ),
    entry(
        "unified-kernel-lacks-virtio",
        Owner,
        "a unified kernel image that must not be changed lacks the drivers for virtio disks",
    ),
    entry(
        "unified-kernel-measured",
        Owner,
        "a TPM policy is bound to a unified kernel image",
    ),
    entry(
        "unified-kernel-signed",
        Nobody,
        "a unified kernel image is signed and is never changed",
    ),
    entry(
        "unified-kernel-unreadable",
        Owner,
        "a unified kernel image cannot be read",
    ),
    entry(
        "unknown-os",
        Nobody,
        "the distribution is not known by name",
    ),
    entry("unreadable-file", Owner, "a file cannot be read"),
    entry(
        "verity-root",
        Owner,
        "a filesystem is verified block by block: nothing on it is changed",
    ),
    entry(
        "virtio-blacklisted",
        Migrate,
        "the guest is told not to load a virtio driver",
    ),
    entry(
        "volume-damaged",
        Owner,
        "a volume contradicts itself, or a part of it is missing",
    ),
    entry(
        "volume-group-damaged",
        Owner,
        "a volume group contradicts itself, or a part of it is missing",
    ),
    entry(
        "volume-locked",
        Owner,
        "an encrypted volume was not unlocked",
    ),
    entry(
        "volume-not-opened",
        Owner,
        "a volume is a container that was not opened",
    ),
    entry("volume-unreadable", Owner, "a volume cannot be read"),
    entry(
        "wicked-not-read",
        Nobody,
        "a file of wicked is not understood",
    ),
];

/// Who settles the finding called `id`; its owner, where the name is not known.
pub(crate) fn settled_by(id: &str) -> SettledBy {
    CATALOGUE
        .iter()
        .find(|entry| entry.id == id)
        .map_or(Owner, |entry| entry.settled_by)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of every source file of this crate.
    fn sources(folder: &std::path::Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, texts);
            } else {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_finding_of_this_crate_is_listed_once_and_in_order() {
        let mut texts = Vec::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        sources(&root, &mut texts);
        let key = ["id", ": \""].concat();
        for text in &texts {
            for part in text.split(&key).skip(1) {
                let id = part.split('"').next().unwrap();
                // Identifiers of releases are words of one part.
                if id.contains('-') {
                    assert!(CATALOGUE.iter().any(|entry| entry.id == id), "{id}");
                }
            }
        }
        assert!(CATALOGUE.is_sorted_by(|a, b| a.id < b.id));
    }
}
