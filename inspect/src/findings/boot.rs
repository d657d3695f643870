//! Findings about how a guest boots: firmware, unified images, what an initramfs hides, verified roots.

use crate::device::{DeviceSpec, Devices};
use crate::model::{
    BootLoaderKind, Finding, Firmware, GuestSystem, InitramfsFound, Place, Severity, UnifiedKernel,
};
use crate::reader::Reader;

/// Adds the findings.
pub(super) fn derive(reader: &Reader<'_>, devices: &Devices, system: &GuestSystem) {
    firmware(reader, system);
    let mut seen: Vec<&str> = Vec::new();
    for image in &system.boot.unified {
        unified(reader, image);
        seen.push(&image.path);
    }
    for found in system
        .kernels
        .iter()
        .filter_map(|kernel| kernel.initramfs.as_ref())
    {
        if !seen.contains(&found.path.as_str()) {
            seen.push(&found.path);
            initramfs(reader, found);
        }
    }
    verity(reader, system);
    blacklists(reader);
    resume(reader, devices, system);
}

fn firmware(reader: &Reader<'_>, system: &GuestSystem) {
    let boot = &system.boot;
    let Some(esp) = boot.esp.as_ref().filter(|esp| esp.fallback.is_none()) else {
        return;
    };
    if boot.firmware != Firmware::Uefi || boot.kind == BootLoaderKind::None {
        return;
    }
    let loader = preferred(&esp.loaders);
    let unified = |path: &str| boot.unified.iter().any(|image| image.path == path);
    // What `migrate` copies there.
    let known = loader.filter(|path| is_loader(path) || unified(path));
    reader.find(Finding {
        severity: Severity::Problem,
        id: match known {
            Some(_) => "uefi-entry-lost",
            None => "uefi-loader-unknown",
        },
        what:
            "the boot entry in the firmware's memory does not move with the disk, and there is no \
               EFI/BOOT/BOOTX64.EFI to fall back to"
                .to_owned(),
        evidence: vec![Place::file(format!("{}/EFI", esp.path))],
        fix: Some(match (known, loader) {
            (Some(loader), _) => {
                format!("copies {loader} there, with the files beside it")
            }
            (None, Some(loader)) => {
                format!("copy {loader} there in the guest, with the files beside it")
            }
            (None, None) => "install the removable-media boot loader in the guest".to_owned(),
        }),
    });
}

/// First stages of boot loaders, shim before the loader that it starts.
const LOADERS: [&str; 3] = ["shim", "grub", "systemd-boot"];

/// Whether a path names one of them, for an architecture that is known.
fn is_loader(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let architectures = ["x64.efi", "aa64.efi", "ia32.efi"];
    LOADERS.iter().any(|loader| {
        let rest = name.strip_prefix(loader);
        rest.is_some_and(|rest| architectures.contains(&rest))
    })
}

/// The program that the lost entry most likely started: shim before the loader that it starts.
fn preferred(loaders: &[String]) -> Option<&String> {
    LOADERS
        .iter()
        .find_map(|name| {
            let begins = |path: &&String| {
                let own = path.rsplit('/').next().unwrap_or(path);
                is_loader(path) && own.to_ascii_lowercase().starts_with(name)
            };
            loaders.iter().find(begins)
        })
        .or(loaders.first())
}

fn unified(reader: &Reader<'_>, image: &UnifiedKernel) {
    if let Some(byte) = image.signature {
        reader.find(Finding {
            severity: Severity::Note,
            id: "unified-kernel-signed",
            what: "this unified kernel image is signed: it is never changed, because Secure Boot would \
                   refuse it"
                .to_owned(),
            evidence: vec![Place::byte(&image.path, byte)],
            fix: None,
        });
    }
    if image.measured {
        reader.find(Finding {
            severity: Severity::Warning,
            id: "unified-kernel-measured",
            what: "a TPM policy is bound to this image: what it seals does not open on another machine"
                .to_owned(),
            evidence: vec![Place::file(&image.path)],
            fix: Some("have a passphrase or recovery key at hand for the first boot".to_owned()),
        });
    }
    if let Some(found) = &image.initramfs {
        initramfs(reader, found);
    }
}

fn initramfs(reader: &Reader<'_>, found: &InitramfsFound) {
    if let Some(inner) = &found.squashed {
        reader.find(Finding {
            severity: Severity::Problem,
            id: "initramfs-squashed",
            what: format!(
                "most of this initramfs is packed into {inner} inside it, which is neither looked into \
                 nor changed"
            ),
            evidence: vec![Place::file(&found.path)],
            fix: Some(
                "rebuild it in the guest with `dracut --force --no-hostonly --omit \"squash\"`".to_owned(),
            ),
        });
    }
    if found.host_only == Some(true) {
        reader.find(Finding {
            severity: Severity::Note,
            id: "initramfs-host-only",
            what: format!(
                "made by {} for this machine only: it holds the drivers of its old hardware",
                found.generator
            ),
            evidence: vec![Place::file(&found.path)],
            fix: None,
        });
    }
    if let Some(segment) = found
        .segments
        .iter()
        .find(|segment| segment.compression == "lz4-frame")
    {
        reader.find(Finding {
            severity: Severity::Warning,
            id: "initramfs-lz4-frame",
            what: "compressed with lz4's frame format; kernels unpack only its legacy format"
                .to_owned(),
            evidence: vec![Place::byte(&found.path, segment.offset)],
            fix: Some("rebuild it in the guest with `lz4 -l`".to_owned()),
        });
    }
}

fn verity(reader: &Reader<'_>, system: &GuestSystem) {
    for verified in &system.verified {
        // A boot directory or EFI system partition of its own is not verified, and can be changed; nor is
        // a mere directory, which the filesystem would cover.
        let locate = |path: &str| reader.tree.locate(path).ok().flatten();
        let checked = locate(&verified.point).filter(|top| top.path == b"/");
        let on_it = |path: &str| {
            let (Some(top), Some(file)) = (&checked, locate(path)) else {
                return false;
            };
            top.at.is_view(&file.at)
        };
        let mut images = system
            .kernels
            .iter()
            .filter_map(|kernel| kernel.initramfs.as_ref());
        let within = images.any(|found| on_it(&found.path));
        reader.find(Finding {
            severity: if within {
                Severity::Problem
            } else {
                Severity::Warning
            },
            id: "verity-root",
            what: format!(
                "{} is verified by dm-verity ({}): no change of it can be read, so nothing on it is \
                 changed{}",
                verified.point,
                verified.by,
                if within {
                    ", and the initramfs is on it"
                } else {
                    ""
                }
            ),
            evidence: vec![verified.place.clone()],
            fix: Some(
                "build the image for the new hardware, with the drivers in its initramfs, where it is \
                 built"
                    .to_owned(),
            ),
        });
    }
}

/// `blacklist virtio_blk`, `install virtio_blk /bin/false`.
fn blacklists(reader: &Reader<'_>) {
    let folder = "/etc/modprobe.d";
    for name in reader
        .names(folder)
        .iter()
        .filter(|name| name.ends_with(".conf"))
    {
        let Some(text) = reader.text(&format!("{folder}/{name}")) else {
            continue;
        };
        for (line, statement) in text.statements() {
            let mut words = statement.split_whitespace();
            let stops = match words.next() {
                Some("blacklist") => true,
                Some("install") => ["/bin/false", "/bin/true"]
                    .iter()
                    .any(|end| statement.ends_with(end)),
                _ => false,
            };
            let module = words.next().unwrap_or_default().replace('-', "_");
            if stops && module.starts_with("virtio") {
                reader.find(Finding {
                    severity: Severity::Problem,
                    id: "virtio-blacklisted",
                    what: format!("the guest is told not to load {module}"),
                    evidence: vec![text.place(line)],
                    fix: Some("makes the line a comment, in the initramfs too".to_owned()),
                });
            }
        }
    }
}

/// `resume=` of boot entries that is on none of the disks.
fn resume(reader: &Reader<'_>, devices: &Devices, system: &GuestSystem) {
    for entry in &system.boot.entries {
        let value = entry
            .command_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("resume="));
        let missing = value
            .filter(|name| DeviceSpec::parse(name).names_disk() && devices.resolve(name).is_none());
        if let Some(name) = missing {
            reader.find(Finding {
                severity: Severity::Warning,
                id: "resume-not-found",
                what: format!(
                    "\"{}\" resumes from {name}, which is on none of these disks: every boot waits for it",
                    entry.title
                ),
                evidence: vec![entry.place.clone()],
                fix: Some("add noresume to the kernel's command line in the guest".to_owned()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shim_comes_before_the_loader_it_starts() {
        let paths = |names: &[&str]| -> Vec<String> {
            names
                .iter()
                .map(|name| format!("/boot/efi/EFI/debian/{name}"))
                .collect()
        };
        let loaders = paths(&["fbx64.efi", "grubx64.efi", "shimx64.efi"]);
        assert_eq!(preferred(&loaders), Some(&loaders[2]));
        let loaders = paths(&["other.efi"]);
        assert_eq!(preferred(&loaders), Some(&loaders[0]));
        assert_eq!(preferred(&[]), None);
    }
}
