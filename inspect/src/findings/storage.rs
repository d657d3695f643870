//! Findings about what lies between disks and filesystems: encryption, arrays, LVM, multipath, room.

use crate::device::DeviceSpec;
use crate::model::{CryptMapping, Finding, GuestSystem, Place, Severity};
use crate::reader::Reader;

/// A filesystem with less room than this is called full. Ours: a rebuilt initramfs has 50 MiB, and one
/// edited in place needs none.
const HARDLY_ANY: u64 = 10 << 20;

/// Kinds of entries of LVM's devices file that hold for the old machine's disks only. A disk that is
/// listed by its name is looked for under others (`search_for_devnames` of lvm.conf).
const BOUND: [&str; 9] = [
    "sys_wwid",
    "sys_serial",
    "mpath_uuid",
    "nvme_uuid",
    "scsi_name",
    "scsi_t10",
    "wwid_naa",
    "wwid_eui",
    "wwid_t10",
];

/// Options that unlock a volume with hardware, and what each is for people.
const HARDWARE: [(&str, &str); 3] = [
    ("tpm2-device", "the old machine's TPM"),
    ("fido2-device", "a FIDO2 stick"),
    ("pkcs11-uri", "a smart card"),
];

/// Adds the findings.
pub(super) fn derive(reader: &Reader<'_>, system: &GuestSystem) {
    for mapping in &system.crypttab {
        encrypted(reader, mapping);
    }
    unlocked_at_boot(reader, system);
    for array in &system.arrays {
        if let (Some(uuid), None) = (&array.uuid, &array.resolved) {
            reader.find(Finding {
                severity: Severity::Warning,
                id: "raid-not-found",
                what: format!(
                    "no member of the array {} ({uuid}) is on these disks",
                    array.device
                ),
                evidence: vec![array.place.clone()],
                fix: Some("give the disks that hold it as well, or remove the line".to_owned()),
            });
        }
    }
    lvm(reader, system);
    if let Some(multipath) = system
        .multipath
        .as_ref()
        .filter(|found| !found.wwids.is_empty())
    {
        reader.find(Finding {
            severity: if multipath.enabled { Severity::Warning } else { Severity::Note },
            id: "multipath-in-use",
            what: format!(
                "multipath knows {} by the identity that the old storage gave them; the new disks have \
                 others",
                match multipath.wwids.len() {
                    1 => "a disk".to_owned(),
                    count => format!("{count} disks"),
                }
            ),
            evidence: vec![multipath.place.clone()],
            fix: Some(
                "name filesystems by UUID, and rebuild the initramfs in the guest without multipath"
                    .to_owned(),
            ),
        });
    }
    room(reader);
}

fn encrypted(reader: &Reader<'_>, mapping: &CryptMapping) {
    let has = |names: &[&str]| {
        mapping.options.iter().any(|option| {
            let key = option.split('=').next().unwrap_or(option);
            names.contains(&key)
        })
    };
    if mapping.resolved.is_none() && DeviceSpec::parse(&mapping.spec).names_disk() {
        reader.find(Finding {
            severity: if has(&["nofail", "noauto"]) {
                Severity::Warning
            } else {
                Severity::Problem
            },
            id: "crypttab-not-found",
            what: format!(
                "{} ({}) is on none of these disks",
                mapping.spec, mapping.name
            ),
            evidence: vec![mapping.place.clone()],
            fix: Some("give the disk that holds it as well, or remove the line".to_owned()),
        });
    }
    if let Some((_, means)) = HARDWARE.iter().find(|(option, _)| has(&[option])) {
        // One that the boot does not wait for is missed later.
        let severity = if has(&["nofail", "noauto"]) {
            Severity::Warning
        } else {
            Severity::Problem
        };
        hardware_key(reader, &mapping.name, means, severity, &mapping.place);
    }
    // `/dev/urandom` for swap; `path:device` is on another filesystem.
    let key = mapping.key.as_deref().filter(|key| {
        key.starts_with('/')
            && !key.starts_with("/dev/")
            && !key.contains(':')
            && !has(&["keyscript"])
    });
    if let Some(key) = key.filter(|key| !reader.exists(key)) {
        reader.find(Finding {
            severity: Severity::Warning,
            id: "crypttab-key-missing",
            what: format!("{}, the key of {}, is not there", key, mapping.name),
            evidence: vec![mapping.place.clone()],
            fix: None,
        });
    }
}

fn lvm(reader: &Reader<'_>, system: &GuestSystem) {
    let Some(scope) = &system.lvm else {
        return;
    };
    let on_lvm = |name: &str| name.starts_with("/dev/mapper/") || name.contains("LVM");
    let boots = system.boot.entries.iter().any(|entry| {
        let mut words = entry.command_line.split_whitespace();
        words.any(|word| {
            word.starts_with("rd.lvm.") || word.strip_prefix("root=").is_some_and(on_lvm)
        })
    });
    let severity = if boots || system.mounts.iter().any(|mount| on_lvm(&mount.spec)) {
        Severity::Problem
    } else {
        Severity::Warning
    };
    let bound: Vec<Place> = scope
        .devices
        .iter()
        .filter(|(device, _)| {
            let kind = device.split_whitespace().next().unwrap_or_default();
            BOUND.contains(&kind)
        })
        .map(|(_, place)| place.clone())
        .collect();
    if !bound.is_empty() {
        reader.find(Finding {
            severity,
            id: "lvm-devices-file",
            what: "LVM looks only at the disks of this list, which it knows by the old machine's \
                   identities"
                .to_owned(),
            evidence: bound,
            fix: Some(
                "removes the list, in the initramfs too; LVM then looks at all disks".to_owned(),
            ),
        });
    }
    for (filter, place) in &scope.filters {
        if rejects_virtio(filter) {
            reader.find(Finding {
                severity,
                id: "lvm-filter",
                what: format!("LVM's filter rejects /dev/vda: {filter}"),
                evidence: vec![place.clone()],
                fix: Some("lets it accept the new names of what it accepts".to_owned()),
            });
        }
    }
}

/// `rd.luks.options=UUID=tpm2-device=auto` of a command line: the same before the root is there.
fn unlocked_at_boot(reader: &Reader<'_>, system: &GuestSystem) {
    let mut seen: Vec<&str> = Vec::new();
    for entry in &system.boot.entries {
        for word in entry.command_line.split_whitespace() {
            let Some((_, options)) = word
                .split_once("luks.options=")
                .filter(|(before, _)| matches!(*before, "" | "rd."))
            else {
                continue;
            };
            let means = HARDWARE.iter().find(|(option, _)| options.contains(option));
            if let Some((_, means)) = means.filter(|_| !seen.contains(&word)) {
                seen.push(word);
                hardware_key(
                    reader,
                    "the root's volume",
                    means,
                    Severity::Problem,
                    &entry.place,
                );
            }
        }
    }
}

fn hardware_key(reader: &Reader<'_>, name: &str, means: &str, severity: Severity, place: &Place) {
    reader.find(Finding {
        severity,
        id: "luks-hardware-key",
        what: format!("{name} is unlocked by {means}, which does not move with the disk"),
        evidence: vec![place.clone()],
        fix: Some(
            "have its passphrase or recovery key at hand for the first boot, and enrol the new \
             machine with systemd-cryptenroll"
                .to_owned(),
        ),
    });
}

/// Whether a filter rejects everything that it does not accept by name, and accepts no virtio disk.
fn rejects_virtio(filter: &str) -> bool {
    let mut rules = filter
        .split('"')
        .filter(|rule| rule.starts_with(['a', 'r']) && rule.len() > 2);
    // The first rule that fits decides.
    let decides = rules.find_map(|rule| {
        let (accepts, pattern) = rule.split_at_checked(1)?;
        let delimiter = pattern.chars().next()?;
        let pattern = pattern.trim_matches(delimiter);
        let all = matches!(pattern, ".*" | "." | "/.*" | "/dev/.*" | "/dev/" | "");
        let virtio =
            all || pattern.contains("/vd") || pattern.contains("/[hsv]d") || pattern.contains("vd");
        virtio.then_some(accepts == "a")
    });
    decides == Some(false)
}

fn room(reader: &Reader<'_>) {
    for (point, opened) in reader.tree.mounts() {
        let identity = opened.fs.identity();
        // Images that are read-only by nature are always full.
        let grows = ["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&identity.kind);
        if grows && identity.free < HARDLY_ANY {
            let point = String::from_utf8_lossy(&point).into_owned();
            reader.find(Finding {
                severity: Severity::Warning,
                id: "filesystem-full",
                what: format!("{point} has {} KiB left", identity.free >> 10),
                evidence: vec![Place::file(point)],
                fix: Some("make room in the guest".to_owned()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_that_shut_virtio_out_are_told() {
        for (filter, rejects) in [
            (r#"[ "a|^/dev/sda2$|", "r|.*|" ]"#, true),
            (r#"[ "a/.*/" ]"#, false),
            (r#"[ "r|/dev/cdrom|", "a|.*|" ]"#, false),
            (r#"[ "a|^/dev/sd|", "a|^/dev/vd|", "r/.*/" ]"#, false),
            (r#"[ "r|^/dev/drbd.*|" ]"#, false),
            ("[]", false),
            ("", false),
        ] {
            assert_eq!(rejects_virtio(filter), rejects, "{filter}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_filters_never_panic(filter in "(\"[ar]?.{0,5}\"?){0,5}") {
            rejects_virtio(&filter);
        }
    }
}
