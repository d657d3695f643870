//! GRUB 0.97: `menu.lst` or `grub.conf`.
//!
//! GRUB Legacy manual, 13 (commands). Left out on purpose: `savedefault` (its record is inside
//! stage2) and `map`.

use super::{Context, Found, titled, ungrub_path};
use crate::model::{BootEntry, BootLoaderKind};
use crate::text::Text;

const CONFIGS: [&str; 3] = [
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/etc/grub.conf",
];

/// Reads the menu; `None` when there is no configuration.
pub(super) fn read(context: &Context<'_>) -> Option<Found> {
    let text = CONFIGS
        .into_iter()
        .find_map(|path| context.reader.text(path))?;
    let mut found = parse(&text);
    found.resolve_paths(|path| resolve(context, path));
    Some(found)
}

/// `(hd0,0)/vmlinuz`: GRUB Legacy counts partitions from 0.
fn resolve(context: &Context<'_>, path: &str) -> String {
    let Some((device, rest)) = path.strip_prefix('(').and_then(|p| p.split_once(')')) else {
        return ungrub_path(context, path);
    };
    let at = device.split_once(',').and_then(|(disk, partition)| {
        let number: u32 = partition.parse().ok()?;
        let name = format!("{disk},{}", number.checked_add(1)?);
        context.devices.by_grub_name(&name)
    });
    at.and_then(|at| context.reader.tree.guest_path(at, rest))
        .unwrap_or_else(|| ungrub_path(context, rest))
}

/// Parses a configuration; paths are given with their `root (hdX,Y)` in front.
pub(super) fn parse(text: &Text) -> Found {
    let mut entries: Vec<BootEntry> = Vec::new();
    let mut default: Option<(String, u32)> = None;
    let mut root = String::new();
    let located = |root: &str, path: &str| {
        if path.starts_with('(') {
            path.to_owned()
        } else {
            format!("{root}{path}")
        }
    };
    for (line, statement) in text.statements() {
        let (key, value) = statement
            .split_once(|c: char| c.is_whitespace() || c == '=')
            .unwrap_or((statement, ""));
        let value = value.trim();
        let number = entries.len();
        match (key, entries.last_mut()) {
            ("default", None) => default = Some((value.to_owned(), line)),
            ("title", _) => {
                root.clear();
                entries.push(titled(value, number, text.place(line)));
            }
            ("root" | "rootnoverify", Some(_)) => value.clone_into(&mut root),
            ("kernel", Some(entry)) => {
                let mut words = value
                    .split_whitespace()
                    .skip_while(|word| word.starts_with("--"));
                entry.kernel = words.next().map(|path| located(&root, path));
                entry.command_line = words.collect::<Vec<_>>().join(" ");
                entry.place = text.place(line);
            }
            ("initrd", Some(entry)) => {
                let paths = value.split_whitespace().map(|path| located(&root, path));
                entry.initrds = paths.collect();
            }
            _ => {}
        }
    }
    let named = default
        .as_ref()
        .and_then(|(value, _)| value.parse::<usize>().ok())
        .filter(|at| *at < entries.len());
    let default_reason = match (&default, named) {
        (Some((value, line)), Some(_)) => format!("default {value} ({})", text.place(*line)),
        (Some((value, line)), None) => {
            format!(
                "default {value} ({}) names no entry: the first one",
                text.place(*line)
            )
        }
        (None, _) => "no default is set: the first entry".to_owned(),
    };
    Found {
        kind: BootLoaderKind::GrubLegacy,
        config: text.path.clone(),
        default: named.or(entries.first().map(|_| 0)),
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
    fn a_rhel_6_menu_is_read_with_its_default() {
        let found = parse(&Text::new(
            "/boot/grub/grub.conf",
            b"# grub.conf\n#boot=/dev/sda\ndefault=1\ntimeout=5\n\
              splashimage=(hd0,0)/grub/splash.xpm.gz\nhiddenmenu\n\
              title Red Hat (2.6.32-754)\n\troot (hd0,0)\n\
              \tkernel /vmlinuz-2.6.32-754 ro root=/dev/mapper/vg-root rhgb quiet\n\
              \tinitrd /initramfs-2.6.32-754.img\n\
              title Red Hat (2.6.32-71)\n\troot (hd0,0)\n\
              \tkernel /vmlinuz-2.6.32-71 ro root=/dev/sda2\n\tinitrd /initramfs-2.6.32-71.img\n\
              title Windows\n\trootnoverify (hd1,0)\n\tchainloader +1\n",
        ));
        assert_eq!(found.default, Some(1));
        assert_eq!(found.entries.len(), 3);
        let entry = &found.entries[1];
        assert_eq!(entry.kernel.as_deref(), Some("(hd0,0)/vmlinuz-2.6.32-71"));
        assert_eq!(entry.initrds, ["(hd0,0)/initramfs-2.6.32-71.img"]);
        assert_eq!(entry.command_line, "ro root=/dev/sda2");
        assert_eq!(entry.place.line, Some(13));
        assert_eq!(found.entries[2].kernel, None);
    }
}
