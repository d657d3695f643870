//! SYSLINUX and EXTLINUX: `LABEL` blocks with `LINUX`, `INITRD` and `APPEND`.
//!
//! <https://wiki.syslinux.org/wiki/index.php?title=Config>. Left out on purpose: `UI` menus that
//! are programs of their own, and `INCLUDE` (reported when met).

use super::{Context, Found, titled, ungrub_path};
use crate::model::{BootEntry, BootLoaderKind, Finding, Severity};
use crate::text::Text;

const CONFIGS: [&str; 6] = [
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux.cfg",
    "/syslinux.cfg",
];

/// Reads the menu; `None` when there is no configuration.
pub(super) fn read(context: &Context<'_>) -> Option<Found> {
    let text = CONFIGS
        .into_iter()
        .find_map(|path| context.reader.text(path))?;
    let mut found = parse(&text);
    for (line, statement) in text.statements() {
        if statement.to_ascii_lowercase().starts_with("include ") {
            context.reader.find(Finding {
                severity: Severity::Note,
                id: "extlinux-not-followed",
                what: "the included file is not followed".to_owned(),
                evidence: vec![text.place(line)],
                fix: None,
            });
        }
    }
    let folder = text.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    found.resolve_paths(|path| {
        if path.starts_with('/') {
            ungrub_path(context, path)
        } else {
            // Relative to the folder of the configuration.
            let full = format!("{folder}/{path}");
            context.reader.canonical(&full).unwrap_or(full)
        }
    });
    Some(found)
}

/// Parses a configuration; paths stay as written.
pub(super) fn parse(text: &Text) -> Found {
    let mut entries: Vec<BootEntry> = Vec::new();
    let mut default: Option<(String, u32)> = None;
    // `APPEND` before the first label holds for every label without its own.
    let mut append = String::new();
    let mut own_append = Vec::new();
    for (line, statement) in text.statements() {
        let (key, value) = statement
            .split_once(char::is_whitespace)
            .unwrap_or((statement, ""));
        let value = value.trim();
        let number = entries.len();
        match (key.to_ascii_lowercase().as_str(), entries.last_mut()) {
            ("default" | "ontimeout", _) => default = Some((value.to_owned(), line)),
            ("label", _) => {
                entries.push(BootEntry {
                    id: Some(value.to_owned()),
                    ..titled(value, number, text.place(line))
                });
                own_append.push(false);
            }
            ("append", None) => value.clone_into(&mut append),
            ("append", Some(entry)) => {
                // `initrd=` on the command line is an initrd as well.
                let words = value.split_whitespace();
                for word in words.filter_map(|word| word.strip_prefix("initrd=")) {
                    entry.initrds.extend(word.split(',').map(str::to_owned));
                }
                let plain = if value == "-" { "" } else { value };
                plain.clone_into(&mut entry.command_line);
                entry.place = text.place(line);
                if let Some(own) = own_append.last_mut() {
                    *own = true;
                }
            }
            ("menu", Some(entry)) => {
                let (what, value) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
                match what.to_ascii_lowercase().as_str() {
                    "label" => entry.title = value.trim().replace('^', ""),
                    "default" => default = Some((entry.id.clone().unwrap_or_default(), line)),
                    _ => {}
                }
            }
            ("kernel" | "linux", Some(entry)) => entry.kernel = Some(value.to_owned()),
            ("initrd", Some(entry)) => {
                entry.initrds = value
                    .split(',')
                    .map(|path| path.trim().to_owned())
                    .collect();
            }
            _ => {}
        }
    }
    for (entry, own) in entries.iter_mut().zip(own_append) {
        if !own {
            entry.command_line.clone_from(&append);
        }
    }
    let at = default.as_ref().and_then(|(name, _)| {
        let same = |entry: &BootEntry| entry.id.as_deref() == Some(name.as_str());
        entries.iter().position(same)
    });
    let default_reason = match (&default, at) {
        (Some((name, line)), Some(_)) => format!("DEFAULT {name} ({})", text.place(*line)),
        (Some((name, _)), None) => format!("DEFAULT {name} names no label: the first one"),
        (None, _) => "no DEFAULT: the first label".to_owned(),
    };
    Found {
        kind: BootLoaderKind::Extlinux,
        config: text.path.clone(),
        default: at.or(entries.first().map(|_| 0)),
        entries,
        default_reason,
        sources: Vec::new(),
        unified: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alpine_menu_gives_its_default_kernel_and_command_line() {
        let found = parse(&Text::new(
            "/boot/extlinux.conf",
            b"# Generated by update-extlinux\nDEFAULT menu.c32\nPROMPT 0\nTIMEOUT 10\n\
              LABEL virt\n  MENU DEFAULT\n  MENU LABEL Linux ^virt\n  LINUX vmlinuz-virt\n\
              INITRD ucode.img,initramfs-virt\n  APPEND root=UUID=1 modules=ext4 quiet\n\
              LABEL lts\n  KERNEL /boot/vmlinuz-lts\n  APPEND initrd=/boot/initramfs-lts ro\n\
              MENU SEPARATOR\n",
        ));
        assert_eq!(found.default, Some(0));
        assert_eq!(found.default_reason, "DEFAULT virt (/boot/extlinux.conf:6)");
        let [virt, lts] = found.entries.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(virt.title, "Linux virt");
        assert_eq!(virt.initrds, ["ucode.img", "initramfs-virt"]);
        assert_eq!(virt.command_line, "root=UUID=1 modules=ext4 quiet");
        assert_eq!(virt.place.line, Some(10));
        assert_eq!(lts.kernel.as_deref(), Some("/boot/vmlinuz-lts"));
        assert_eq!(lts.initrds, ["/boot/initramfs-lts"]);
    }
}
