//! Disk names that change with the bus become names that do not.
//!
//! Never the target's names (`/dev/vda`): with UUIDs the same disk still boots where it came from.
//! Where a guest uses UUIDs already there is nothing to do.

use rehost_inspect::model::{DeviceName, DeviceRole, Place, Severity};

use super::text::{LineEdit, TextChanges, change_line};
use super::{Need, Note, Planner};
use crate::initramfs::Override;
use rehost_inspect::initramfs::Initramfs;

impl Planner<'_> {
    /// Wishes for every configuration file that names a disk by its bus.
    pub(super) fn rename_devices(&mut self, changes: &mut TextChanges) {
        for device in &self.system.device_names {
            let (path, line) = match (&device.inside, device.role) {
                (Some(_), DeviceRole::Initramfs) => continue,
                // All of the command line inside a unified image; a signed one is told when it is looked at.
                (Some(image), _) => (image, Some(1)),
                (None, _) => (&device.place.path, device.place.line),
            };
            match (&device.stable, line) {
                (Some(stable), Some(line)) => changes.add(
                    path,
                    line,
                    replace(device, stable),
                    (
                        format!(
                            "{}, {}, is called otherwise on another bus",
                            device.name,
                            what(device.role)
                        ),
                        need(device.role),
                    ),
                ),
                _ => self.notes.push(unresolved(device)),
            }
        }
    }

    /// The files inside the initramfs at `path` that name a disk by its bus, changed.
    pub(super) fn renamed_inside(&mut self, path: &str, initramfs: &Initramfs) -> Vec<Override> {
        let mut overrides: Vec<Override> = Vec::new();
        for device in &self.system.device_names {
            if device.inside.as_deref() != Some(path) {
                continue;
            }
            let inner = device.place.path.trim_start_matches('/').to_owned();
            let known = overrides.iter().position(|one| one.path == inner);
            let mut content = match known.and_then(|at| overrides.get(at)) {
                Some(one) => one.content.clone(),
                None => match initramfs.read(inner.as_bytes()) {
                    Some(content) => content.to_vec(),
                    None => continue,
                },
            };
            let change = match (&device.stable, device.place.line) {
                (Some(stable), Some(line)) => {
                    change_line(&mut content, line, &[&replace(device, stable)])
                }
                _ => None,
            };
            match (change, known.and_then(|at| overrides.get_mut(at))) {
                (None, _) => self.notes.push(unresolved(device)),
                (Some(_), Some(one)) => one.content = content,
                (Some(_), None) => overrides.push(Override {
                    path: inner,
                    content,
                }),
            }
        }
        overrides
    }
}

fn replace(device: &DeviceName, stable: &str) -> LineEdit {
    LineEdit::Replace {
        from: device.name.clone(),
        to: stable.to_owned(),
    }
}

fn what(role: DeviceRole) -> &'static str {
    match role {
        DeviceRole::Fstab => "a name for a mounted filesystem",
        DeviceRole::BootRoot => "the root device",
        DeviceRole::BootResume | DeviceRole::Resume => "the device to resume from",
        DeviceRole::BootSource => "a disk in a kernel command line",
        DeviceRole::Crypttab => "an encrypted volume",
        DeviceRole::DeviceMap => "GRUB's name for a disk",
        DeviceRole::Initramfs => "a disk that the initramfs waits for",
    }
}

fn need(role: DeviceRole) -> Need {
    match role {
        DeviceRole::Fstab | DeviceRole::Crypttab | DeviceRole::BootRoot | DeviceRole::Initramfs => {
            Need::Boot
        }
        // What entries are made of later, and what is read by grub-install alone.
        DeviceRole::BootSource | DeviceRole::DeviceMap => Need::Extra,
        DeviceRole::BootResume | DeviceRole::Resume => Need::Extra,
    }
}

fn unresolved(device: &DeviceName) -> Note {
    let severity = match device.role {
        DeviceRole::BootRoot => Severity::Problem,
        // Read by grub-install alone, which asks again.
        DeviceRole::DeviceMap => Severity::Note,
        _ => Severity::Warning,
    };
    let why = match (&device.resolved, &device.stable) {
        (None, _) => "and is on none of these disks",
        (Some(_), None) => "and has no name that does not depend on the bus",
        (Some(_), Some(_)) => "and is not written where it can be changed",
    };
    Note::new(
        severity,
        "device-name-stays",
        format!(
            "{} is {}, {why}; it stays as it is",
            device.name,
            what(device.role)
        ),
        vec![match &device.inside {
            Some(file) => Place {
                path: format!("{file}:{}", device.place.path),
                ..device.place.clone()
            },
            None => device.place.clone(),
        }],
    )
}
