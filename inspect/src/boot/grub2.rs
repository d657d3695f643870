//! GRUB 2: finds its configuration, runs it, and says which entry it would take unattended.
//!
//! GRUB manual 2.06: 6 (configuration), 16.3.36 (`menuentry`), 15 (environment block).

mod commands;
mod run;
mod script;
mod test;
mod words;

use rehost_fs::path;

use self::run::{DevicePath, Menu, RawEntry, SearchBy, World, run};
use super::{Context, Found};
use crate::model::{BootEntry, BootLoaderKind, BootSource, Finding, Firmware, Place, Severity};
use crate::reader::MOST_TEXT;
use crate::text::Text;

/// Where distributions keep the configuration, in the order in which they are looked for.
const CONFIGS: [&str; 2] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];

/// Reads GRUB's menu; `None` when there is no GRUB 2 configuration.
pub(super) fn read(context: &Context<'_>) -> Option<Found> {
    let esp: Vec<String> = ["/boot/efi/EFI", "/efi/EFI"]
        .iter()
        .flat_map(|folder| {
            let names = context.reader.names(folder);
            names
                .into_iter()
                .map(move |name| format!("{folder}/{name}/grub.cfg"))
        })
        .collect();
    let config = CONFIGS
        .into_iter()
        .map(str::to_owned)
        .chain(esp)
        .find(|path| context.reader.exists(path))?;
    let text = context.reader.text(&config)?;
    let location = context.reader.tree.locate(&config).ok().flatten()?;
    let here = context
        .filesystems
        .iter()
        .find(|opened| opened.at.is(&location.at))?;
    let device = context.devices.grub_name(&here.at)?;
    let inside = String::from_utf8_lossy(&location.path).into_owned();
    // GRUB's paths begin at the top of a Btrfs filesystem.
    let inside = match &location.at.subvolume {
        Some(subvolume) => format!("/{subvolume}{inside}"),
        None => inside,
    };
    let prefix = inside.rsplit_once('/').map_or("", |(folder, _)| folder);
    let platform = match context.firmware {
        Firmware::Uefi => "efi",
        _ => "pc",
    };
    let menu = run(context, &device, prefix, platform, &text);
    for (place, what) in &menu.problems {
        context.reader.find(Finding {
            severity: Severity::Note,
            id: "grub-not-followed",
            what: what.clone(),
            evidence: vec![place.clone()],
            fix: None,
        });
    }
    let (default, default_reason) = default(&menu);
    let entries = menu
        .entries
        .into_iter()
        .map(|entry| entry_found(context, entry))
        .collect();
    Some(Found {
        kind: BootLoaderKind::Grub2,
        config,
        entries,
        default,
        default_reason,
        sources: sources(context),
        unified: Vec::new(),
    })
}

/// The entry that `default` names, as GRUB looks it up: by position, identifier or title, level by
/// level at `>`; the first one when nothing matches.
fn default(menu: &Menu) -> (Option<usize>, String) {
    let first = menu.entries.first().map(|_| 0);
    let Some((value, place)) = &menu.default else {
        return (first, "no default is set: the first entry".to_owned());
    };
    if value.is_empty() {
        return (
            first,
            format!("default is empty ({place}): the first entry"),
        );
    }
    let named =
        |entry: &RawEntry, name: &str| entry.id.as_deref() == Some(name) || entry.title == name;
    let last = value.rsplit('>').next().unwrap_or(value);
    let inside = format!("{value}>");
    let found = menu
        .entries
        .iter()
        .position(|entry| entry.index == *value)
        .or_else(|| menu.entries.iter().position(|entry| named(entry, value)))
        .or_else(|| menu.entries.iter().position(|entry| named(entry, last)))
        .or_else(|| {
            menu.entries
                .iter()
                .position(|e| e.index.starts_with(&inside))
        });
    match found {
        Some(_) => (found, format!("default=\"{value}\" ({place})")),
        None => (
            first,
            format!("default=\"{value}\" ({place}) names no entry: the first one"),
        ),
    }
}

fn entry_found(context: &Context<'_>, entry: RawEntry) -> BootEntry {
    let guest = |at: &DevicePath| guest_path(context, at);
    BootEntry {
        title: entry.title,
        id: entry.id,
        index: entry.index,
        kernel: entry.loads.kernel.as_ref().map(guest),
        initrds: entry.loads.initrds.iter().map(guest).collect(),
        command_line: entry.loads.command_line,
        place: entry.loads.place.unwrap_or(entry.place),
    }
}

/// The path in the guest of a file that GRUB names by device. A device that is not on these disks
/// (a RAID, a volume group) is taken to be the filesystem of `/boot`, then `/`.
fn guest_path(context: &Context<'_>, at: &DevicePath) -> String {
    let on_device = context
        .devices
        .by_grub_name(&at.device)
        .and_then(|reference| context.reader.tree.guest_path(reference, &at.path));
    if let Some(path) = on_device {
        return path;
    }
    let path = format!("/{}", at.path.trim_start_matches('/'));
    let in_boot = format!("/boot{path}");
    if !context.reader.exists(&path) && context.reader.exists(&in_boot) {
        return in_boot;
    }
    path
}

/// `GRUB_*` settings of `/etc/default/grub` and its drop-ins.
fn sources(context: &Context<'_>) -> Vec<BootSource> {
    let drop_ins = context.reader.names("/etc/default/grub.d");
    let drop_ins = drop_ins
        .into_iter()
        .filter(|name| name.ends_with(".cfg"))
        .map(|name| format!("/etc/default/grub.d/{name}"));
    std::iter::once("/etc/default/grub".to_owned())
        .chain(drop_ins)
        .filter_map(|path| context.reader.text(&path))
        .flat_map(|text| {
            let path = text.path.clone();
            text.assignments().into_iter().map(move |found| BootSource {
                key: found.key,
                value: found.value,
                place: Place::line(&path, found.line),
            })
        })
        .filter(|source| source.key.starts_with("GRUB_"))
        .collect()
}

impl World for Context<'_> {
    fn text(&self, device: &str, path: &str) -> Option<Text> {
        let opened = self.on_device(device)?;
        let fs = opened.fs.as_ref();
        let inode = path::find(fs, path.as_bytes(), path::LastLink::Follow).ok()??;
        if fs.attributes(inode).ok()?.size > MOST_TEXT {
            return None;
        }
        let bytes = path::read(fs, path.as_bytes()).ok()??;
        let shown = self.reader.tree.guest_path(&opened.at, path);
        Some(Text::new(
            shown.unwrap_or_else(|| format!("({device}){path}")),
            &bytes,
        ))
    }

    fn size(&self, device: &str, path: &str) -> Option<u64> {
        let opened = self.on_device(device)?;
        let fs = opened.fs.as_ref();
        let inode = path::find(fs, path.as_bytes(), path::LastLink::Follow).ok()??;
        Some(fs.attributes(inode).ok()?.size)
    }

    fn list(&self, device: &str, path: &str) -> Vec<String> {
        let list = || {
            let fs = self.on_device(device)?.fs.as_ref();
            let inode = path::find(fs, path.as_bytes(), path::LastLink::Follow).ok()??;
            fs.read_dir(inode).ok()
        };
        list()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|entry| String::from_utf8(entry.name).ok())
            .collect()
    }

    fn search(&self, by: SearchBy, value: &str) -> Option<String> {
        let found = match by {
            SearchBy::Uuid => self.devices.by_uuid(value),
            SearchBy::Label => self.devices.by_label(value),
            SearchBy::File => self
                .filesystems
                .iter()
                .find(|opened| {
                    let fs = opened.fs.as_ref();
                    path::find(fs, value.as_bytes(), path::LastLink::Follow)
                        .is_ok_and(|inode| inode.is_some())
                })
                .map(|opened| &opened.at),
        };
        self.devices.grub_name(found?)
    }
}

#[cfg(test)]
mod tests;
