//! `/etc/fstab` and the settings that name a device to resume from.
//!
//! fstab(5); initramfs-tools(7) for `RESUME`.

use crate::device::{DeviceSpec, Devices};
use crate::model::{Finding, Mount, ResumeSetting, Severity};
use crate::reader::Reader;
use crate::text::{Text, unescape_octal};

/// The mounts of `/etc/fstab`, each resolved against the disks.
pub(crate) fn fstab(reader: &Reader<'_>, devices: &Devices) -> Vec<Mount> {
    let Some(text) = reader.text("/etc/fstab") else {
        reader.find(Finding {
            severity: Severity::Note,
            id: "no-fstab",
            what: "there is no /etc/fstab: only the root filesystem is read".to_owned(),
            evidence: Vec::new(),
            fix: None,
        });
        return Vec::new();
    };
    let mounts = parse(&text, devices);
    for mount in &mounts {
        let spec = DeviceSpec::parse(&mount.spec);
        if mount.resolved.is_some() || !spec.names_disk() {
            continue;
        }
        let optional = mount
            .options
            .iter()
            .any(|option| option == "nofail" || option == "noauto")
            || mount.is_swap();
        let removable = ["iso9660", "udf", "auto"].contains(&mount.fstype.as_str());
        let (severity, fix) = if removable {
            (Severity::Note, None)
        } else if optional {
            (Severity::Warning, None)
        } else {
            (
                Severity::Problem,
                Some(
                    "give the disk that holds it as well, or its key, or remove the line"
                        .to_owned(),
                ),
            )
        };
        reader.find(Finding {
            severity,
            id: "mount-not-found",
            what: format!(
                "{} ({}) is on none of these disks",
                mount.spec,
                if mount.is_swap() {
                    "swap"
                } else {
                    mount.point.as_str()
                }
            ),
            evidence: vec![mount.place.clone()],
            fix,
        });
    }
    mounts
}

/// Parses the text of an fstab; lines with fewer than three fields are skipped, as mount(8) does.
pub(super) fn parse(text: &Text, devices: &Devices) -> Vec<Mount> {
    text.statements()
        .filter_map(|(line, statement)| {
            let mut fields = statement.split_whitespace();
            let spec = unescape_octal(fields.next()?);
            let point = unescape_octal(fields.next()?);
            let fstype = fields.next()?.to_owned();
            let options = fields.next().unwrap_or("defaults");
            Some(Mount {
                resolved: devices.resolve(&spec),
                spec,
                point,
                fstype,
                options: options.split(',').map(str::to_owned).collect(),
                place: text.place(line),
            })
        })
        .collect()
}

/// The devices that the guest would look for a hibernation image on.
pub(crate) fn resume(reader: &Reader<'_>, devices: &Devices) -> Vec<ResumeSetting> {
    let folder = "/etc/initramfs-tools/conf.d";
    let drop_ins = reader.names(folder);
    std::iter::once("/etc/initramfs-tools/initramfs.conf".to_owned())
        .chain(drop_ins.into_iter().map(|name| format!("{folder}/{name}")))
        .filter_map(|path| reader.text(&path))
        .filter_map(|text| {
            let found = text.assigned("RESUME")?;
            Some(ResumeSetting {
                resolved: devices.resolve(&found.value),
                spec: found.value,
                place: text.place(found.line),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::devices;

    #[test]
    fn lines_are_resolved_and_keep_their_numbers() {
        let text = Text::new(
            "/etc/fstab",
            b"# <file system> <mount point> <type> <options> <dump> <pass>\n\
              UUID=5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f / ext4 errors=remount-ro 0 1\n\n\
              /dev/sda5 none swap sw 0 0\n\
              LABEL=root\\040disk /mnt/my\\040data ext4 noauto,ro\n\
              tmpfs /tmp tmpfs\nbroken line\n\
              /dev/sdb1 /data xfs defaults 0 2\n",
        );
        let mounts = parse(&text, &devices());
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| {
                let volume = mount.resolved.as_ref().map(|at| at.volume);
                (mount.point.as_str(), volume, mount.place.line.unwrap())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("/", Some(1), 2),
                ("none", Some(5), 4),
                ("/mnt/my data", Some(1), 5),
                ("/tmp", None, 6),
                ("/data", None, 8)
            ]
        );
        assert!(mounts[1].is_swap());
        assert_eq!(mounts[2].options, ["noauto", "ro"]);
    }
}
