//! Every place that calls a disk by a name that changes with the bus.

use crate::device::{DeviceSpec, Devices};
use crate::model::{DeviceName, DeviceRole, GuestSystem, Place, UnifiedKernel};
use crate::reader::Reader;
use crate::text::Text;

/// Files that hold variables of GRUB's command lines.
const ENVIRONMENTS: [&str; 2] = ["/boot/grub/grubenv", "/boot/grub2/grubenv"];

/// Finds them all, each place once.
pub(crate) fn find(
    reader: &Reader<'_>,
    devices: &Devices,
    system: &GuestSystem,
) -> Vec<DeviceName> {
    let mut names = Names {
        devices,
        found: Vec::new(),
    };
    for mount in &system.mounts {
        names.add(&mount.spec, DeviceRole::Fstab, mount.place.clone());
    }
    for entry in &system.boot.entries {
        for word in entry.command_line.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let role = match key {
                "root" => DeviceRole::BootRoot,
                "resume" => DeviceRole::BootResume,
                _ => continue,
            };
            let image = |path: &str| system.boot.unified.iter().find(|image| image.path == path);
            let inside = image(&entry.place.path);
            let place = match inside {
                Some(image) => command_line(image),
                None => where_it_stands(reader, &entry.place, value),
            };
            let Some(mut device) = names.device(value, role, place) else {
                continue;
            };
            device.inside = inside.map(|image| image.path.clone());
            let unified = entry.kernel.as_deref().and_then(image);
            let has_initramfs =
                !entry.initrds.is_empty() || unified.is_some_and(|image| image.initramfs.is_some());
            // The kernel alone knows no filesystem UUIDs.
            if !has_initramfs && role == DeviceRole::BootRoot {
                let at = device.resolved.as_ref();
                device.stable = at.and_then(|at| devices.stable_for_kernel(at));
            }
            names.push(device);
        }
    }
    let kernel_line = reader.text("/etc/kernel/cmdline");
    let kernel_words = kernel_line.iter().flat_map(words);
    let sources = system.boot.sources.iter().flat_map(|source| {
        let words = source.value.split_whitespace();
        words.map(|word| (word.to_owned(), source.place.clone()))
    });
    for (word, place) in sources.chain(kernel_words) {
        let value = word
            .split_once('=')
            .map_or(word.as_str(), |(_, value)| value);
        names.add(value, DeviceRole::BootSource, place);
    }
    for setting in &system.resume {
        names.add(&setting.spec, DeviceRole::Resume, setting.place.clone());
    }
    if let Some(text) = reader.text("/etc/crypttab") {
        for (line, statement) in text.statements() {
            if let Some(device) = statement.split_whitespace().nth(1) {
                names.add(device, DeviceRole::Crypttab, text.place(line));
            }
        }
    }
    for path in ["/boot/grub/device.map", "/boot/grub2/device.map"] {
        if let Some(text) = reader.text(path) {
            for (word, place) in words(&text) {
                names.add(&word, DeviceRole::DeviceMap, place);
            }
        }
    }
    for initramfs in system
        .kernels
        .iter()
        .filter_map(|kernel| kernel.initramfs.as_ref())
    {
        for hint in &initramfs.hints {
            let text = Text::new(&hint.path, hint.text.as_bytes());
            for (word, place) in words(&text) {
                if let Some(device) = names.device(&word, DeviceRole::Initramfs, place) {
                    names.push(DeviceName {
                        inside: Some(initramfs.path.clone()),
                        ..device
                    });
                }
            }
        }
    }
    names.found
}

/// The words of a text, split at blanks, `=` and quotes as well, so that `ROOT="/dev/sda1"` gives
/// its value. Tags (`UUID=…`) fall apart here; they do not depend on a bus.
fn words(text: &Text) -> Vec<(String, Place)> {
    text.statements()
        .flat_map(|(line, statement)| {
            statement
                .split(|c: char| c.is_whitespace() || matches!(c, '=' | '"' | '\''))
                .filter(|word| word.starts_with("/dev/"))
                .map(move |word| (word.to_owned(), text.place(line)))
        })
        .collect()
}

/// Where the value of a command line really stands: the line of the entry, or GRUB's environment
/// block when a variable brought it in; else the file alone.
fn where_it_stands(reader: &Reader<'_>, place: &Place, value: &str) -> Place {
    let line_with = |path: &str, wanted: Option<u32>| {
        let text = reader.text(path)?;
        let found = text
            .lines()
            .find(|(line, text)| wanted.is_none_or(|w| w == *line) && text.contains(value));
        found.map(|(line, _)| Place::line(path, line))
    };
    line_with(&place.path, place.line)
        .or_else(|| ENVIRONMENTS.iter().find_map(|path| line_with(path, None)))
        .unwrap_or_else(|| Place::file(&place.path))
}

/// The command line inside a unified image; without a line where it is never changed.
fn command_line(image: &UnifiedKernel) -> Place {
    let name = ".cmdline";
    let own = image.sections.iter().filter(|section| *section == name);
    if image.signature.is_none() && !image.measured && own.count() == 1 {
        Place::line(name, 1)
    } else {
        Place::file(name)
    }
}

struct Names<'a> {
    devices: &'a Devices,
    found: Vec<DeviceName>,
}

impl Names<'_> {
    /// Adds `name` when it depends on the bus and was not added for this place.
    fn add(&mut self, name: &str, role: DeviceRole, place: Place) {
        if let Some(device) = self.device(name, role, place) {
            self.push(device);
        }
    }

    /// What `name` is, when it depends on the bus.
    fn device(&self, name: &str, role: DeviceRole, place: Place) -> Option<DeviceName> {
        if !DeviceSpec::parse(name).depends_on_bus() {
            return None;
        }
        let resolved = self.devices.resolve(name);
        Some(DeviceName {
            stable: resolved.as_ref().and_then(|at| self.devices.stable(at)),
            name: name.to_owned(),
            resolved,
            role,
            place,
            inside: None,
        })
    }

    fn push(&mut self, device: DeviceName) {
        if !self.found.contains(&device) {
            self.found.push(device);
        }
    }
}
