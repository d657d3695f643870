//! How a guest boots: which boot loader, its menu, and the entry it would take unattended.

pub(crate) mod bls;
mod choice;
pub(crate) mod esp;
mod extlinux;
mod grub2;
mod legacy;
mod systemd;
mod unified;

pub use choice::BootChoice;

use crate::device::Devices;
use crate::model::{
    BootEntry, BootLoader, BootLoaderKind, BootSource, Finding, Firmware, Place, Severity,
    UnifiedKernel,
};
use crate::reader::Reader;
use crate::tree::OpenedFilesystem;

/// What the readers of boot configurations see.
pub(crate) struct Context<'a> {
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) devices: &'a Devices,
    pub(crate) filesystems: &'a [OpenedFilesystem],
    pub(crate) firmware: Firmware,
    /// Whose boot code is in sector 0 of any disk.
    pub(crate) boot_code: Option<&'static str>,
}

impl Context<'_> {
    /// The opened filesystem that GRUB calls `device`.
    fn on_device(&self, device: &str) -> Option<&OpenedFilesystem> {
        let at = self.devices.by_grub_name(device)?;
        self.filesystems.iter().find(|opened| opened.at.is(at))
    }
}

/// What a boot loader's configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) kind: BootLoaderKind,
    pub(crate) config: String,
    pub(crate) entries: Vec<BootEntry>,
    pub(crate) default: Option<usize>,
    pub(crate) default_reason: String,
    pub(crate) sources: Vec<BootSource>,
    pub(crate) unified: Vec<UnifiedKernel>,
}

impl Found {
    /// Puts every path of the entries as `resolve` has it.
    fn resolve_paths(&mut self, resolve: impl Fn(&str) -> String) {
        for entry in &mut self.entries {
            for path in entry.kernel.iter_mut().chain(&mut entry.initrds) {
                *path = resolve(path);
            }
        }
    }
}

/// Entry `index` of a menu, which names nothing yet.
fn titled(title: &str, index: usize, place: Place) -> BootEntry {
    BootEntry {
        title: title.to_owned(),
        id: None,
        index: index.to_string(),
        kernel: None,
        initrds: Vec::new(),
        command_line: String::new(),
        place,
    }
}

/// Finds the boot loader and reads its menu. Where several are configured, the one whose code is
/// in sector 0 wins; GRUB 2 otherwise.
pub(crate) fn read(context: &Context<'_>) -> BootLoader {
    type Read = fn(&Context<'_>) -> Option<Found>;
    let order: [Read; 4] = match (context.boot_code, context.firmware) {
        (Some("SYSLINUX"), _) => [extlinux::read, grub2::read, systemd::read, legacy::read],
        (None, Firmware::Uefi) => [grub2::read, systemd::read, extlinux::read, legacy::read],
        _ => [grub2::read, extlinux::read, legacy::read, systemd::read],
    };
    // A configuration without any entry (Fedora's stub on the ESP, a leftover file) does not win
    // against one with entries.
    let mut best: Option<Found> = None;
    for read in order {
        match read(context) {
            Some(found) if !found.entries.is_empty() => {
                best = Some(found);
                break;
            }
            Some(found) if best.is_none() => best = Some(found),
            _ => {}
        }
    }
    let Some(found) = best else {
        context.reader.find(Finding {
            severity: Severity::Problem,
            id: "no-boot-loader",
            what: "no boot loader configuration was found".to_owned(),
            evidence: vec![Place::file("/boot")],
            fix: Some(
                "the proof boots the newest kernel directly; install a boot loader in the guest"
                    .to_owned(),
            ),
        });
        return BootLoader {
            kind: BootLoaderKind::None,
            config: None,
            firmware: context.firmware,
            entries: Vec::new(),
            default: None,
            default_reason: "no boot loader configuration was found".to_owned(),
            sources: Vec::new(),
            esp: esp::find(context.reader),
            unified: Vec::new(),
        };
    };
    for (number, entry) in found.entries.iter().enumerate() {
        report_missing(context, entry, found.default == Some(number));
    }
    BootLoader {
        kind: found.kind,
        config: Some(found.config),
        firmware: context.firmware,
        entries: found.entries,
        default: found.default,
        default_reason: found.default_reason,
        sources: found.sources,
        esp: esp::find(context.reader),
        unified: found.unified,
    }
}

fn report_missing(context: &Context<'_>, entry: &BootEntry, is_default: bool) {
    let files = entry.kernel.iter().chain(&entry.initrds);
    for path in files.filter(|path| !context.reader.exists(path)) {
        context.reader.find(Finding {
            severity: if is_default {
                Severity::Problem
            } else {
                Severity::Warning
            },
            id: "boot-file-missing",
            what: format!(
                "the boot entry \"{}\" names {path}, which is not there",
                entry.title
            ),
            evidence: vec![entry.place.clone()],
            fix: None,
        });
    }
}

/// A path that a boot loader counts from its own filesystem, as a path in the guest: below `/boot`
/// when that is a filesystem of its own.
fn ungrub_path(context: &Context<'_>, path: &str) -> String {
    let in_boot = format!("/boot{path}");
    let full = if context.reader.exists(path) || !context.reader.exists(&in_boot) {
        path.to_owned()
    } else {
        in_boot
    };
    context.reader.canonical(&full).unwrap_or(full)
}
