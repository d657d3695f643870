//! systemd-boot: `loader.conf`, and the entries of the Boot Loader Specification: of type 1
//! (`loader/entries/*.conf`) and type 2 (`EFI/Linux/*.efi`).
//!
//! Left out on purpose: the default that the firmware remembers (`LoaderEntryDefault`), which no
//! disk carries, and profiles inside an image.

use std::cmp::Ordering;

use super::bls::{self, BlsEntry};
use super::{Context, Found, unified};
use crate::model::{BootEntry, BootLoaderKind, Place, UnifiedKernel};
use crate::text::{Text, compare_versions};

/// Where the boot entries may be: the EFI system partition, and the extended boot partition.
const FOLDERS: [&str; 3] = ["/efi", "/boot", "/boot/efi"];

/// An entry and what it is sorted by.
struct Sorted {
    id: String,
    order: BlsEntry,
    entry: BootEntry,
}

/// Reads the menu; `None` when there are no entries.
pub(super) fn read(context: &Context<'_>) -> Option<Found> {
    let mut entries: Vec<Sorted> = Vec::new();
    let mut images: Vec<UnifiedKernel> = Vec::new();
    for folder in FOLDERS {
        let loader = format!("{folder}/loader/entries");
        for name in context.reader.names(&loader) {
            let Some(id) = name.strip_suffix(".conf") else {
                continue;
            };
            if let Some(text) = context.reader.text(&format!("{loader}/{name}")) {
                let id = without_counter(id);
                entries.push(conf(context, folder, id, &text, &mut images));
            }
        }
        for image in unified::find(context, folder) {
            let id = without_counter(&image.id);
            entries.push(Sorted {
                entry: BootEntry {
                    id: Some(id.clone()),
                    ..image.entry(0)
                },
                order: image.order,
                id,
            });
            images.push(image.found);
        }
    }
    if entries.is_empty() {
        return None;
    }
    entries.sort_by(|a, b| order(&a.id, &a.order, &b.id, &b.order));
    let config = FOLDERS
        .into_iter()
        .map(|folder| format!("{folder}/loader/loader.conf"))
        .find(|path| context.reader.exists(path));
    let (default, default_reason) = default(context, config.as_deref(), &entries);
    let installed = config.is_some()
        || FOLDERS
            .iter()
            .any(|folder| context.reader.exists(&format!("{folder}/EFI/systemd")));
    let entries: Vec<BootEntry> = (0usize..)
        .zip(entries)
        .map(|(number, sorted)| BootEntry {
            index: number.to_string(),
            ..sorted.entry
        })
        .collect();
    let only_images = entries.len() == images.len();
    Some(Found {
        kind: if only_images && !installed {
            BootLoaderKind::UnifiedKernel
        } else {
            BootLoaderKind::SystemdBoot
        },
        config: match (&config, entries.first()) {
            (None, Some(entry)) if only_images => entry.place.path.clone(),
            (None, _) => format!("{}/loader/entries", FOLDERS[1]),
            (Some(config), _) => config.clone(),
        },
        default,
        entries,
        default_reason,
        sources: Vec::new(),
        unified: images,
    })
}

/// An entry of type 1. One that names a unified image boots what is inside that.
fn conf(
    context: &Context<'_>,
    folder: &str,
    id: String,
    text: &Text,
    images: &mut Vec<UnifiedKernel>,
) -> Sorted {
    let parsed = bls::parse(text);
    let full = |path: &String| format!("{folder}/{}", path.trim_start_matches('/'));
    let mut entry = BootEntry {
        title: parsed.title.clone().unwrap_or_else(|| id.clone()),
        id: Some(id.clone()),
        index: String::new(),
        kernel: parsed.linux.as_ref().map(full),
        initrds: parsed.initrds.iter().map(full).collect(),
        command_line: parsed.options.join(" "),
        place: text.place(parsed.options_line),
    };
    let program = parsed.program.as_ref().map(full);
    let image = program.as_deref().and_then(|path| {
        let (folder, name) = path.rsplit_once('/')?;
        unified::read(context, folder, name)
    });
    if let (None, Some(image)) = (&entry.kernel, image) {
        entry.kernel = Some(image.found.path.clone());
        if entry.command_line.is_empty() {
            entry.command_line = image.found.command_line.clone().unwrap_or_default();
            entry.place = Place::file(&image.found.path);
        }
        images.push(image.found);
    }
    Sorted {
        id,
        order: parsed,
        entry,
    }
}

/// The name of an entry without its boot counter: `name+3-1` is `name`, `x+2.efi` is `x.efi`.
fn without_counter(file: &str) -> String {
    let (name, ending) = match file.strip_suffix(".efi") {
        Some(name) => (name, ".efi"),
        None => (file, ""),
    };
    let counter =
        |count: &str| !count.is_empty() && count.chars().all(|c| c.is_ascii_digit() || c == '-');
    match name.rsplit_once('+') {
        Some((name, count)) if counter(count) => format!("{name}{ending}"),
        _ => file.to_owned(),
    }
}

/// The entry that `loader.conf` names, else the first in the specification's order.
fn default(
    context: &Context<'_>,
    config: Option<&str>,
    entries: &[Sorted],
) -> (Option<usize>, String) {
    let first = entries.first().map(|_| 0);
    let loader = config.and_then(|path| context.reader.text(path));
    let pattern = loader.as_ref().and_then(|text| {
        text.statements().find_map(|(line, statement)| {
            let value = statement.strip_prefix("default")?;
            let value = value.strip_prefix(char::is_whitespace)?.trim();
            Some((value.to_owned(), text.place(line)))
        })
    });
    let Some((value, place)) = pattern else {
        return (first, "no default is set: the newest entry".to_owned());
    };
    let wanted = value.strip_suffix(".conf").unwrap_or(&value);
    match entries.iter().position(|entry| matches(wanted, &entry.id)) {
        Some(at) => (Some(at), format!("default {value} ({place})")),
        None => (
            first,
            format!("default {value} ({place}) names no entry: the newest one"),
        ),
    }
}

/// The specification's order: entries with a sort key first and by it, then the newer version,
/// then the greater file name.
fn order(a_id: &str, a: &BlsEntry, b_id: &str, b: &BlsEntry) -> Ordering {
    let newest = |a: &Option<String>, b: &Option<String>| {
        compare_versions(b.as_deref().unwrap_or(""), a.as_deref().unwrap_or(""))
    };
    match (&a.sort_key, &b.sort_key) {
        (Some(x), Some(y)) => x.cmp(y).then_with(|| newest(&a.version, &b.version)),
        (Some(_), None) => return Ordering::Less,
        (None, Some(_)) => return Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
    .then_with(|| compare_versions(b_id, a_id))
}

/// Shell patterns with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0usize, 0usize);
    // Where the last `*` was, and how far it reaches into the name.
    let mut star: Option<(usize, usize)> = None;
    // Ends because every round moves forward in the name, or makes the last `*` reach further.
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p = p.saturating_add(1);
            }
            Some(want) if want == byte || *want == b'?' => {
                p = p.saturating_add(1);
                n = n.saturating_add(1);
            }
            _ => {
                let Some((at, reach)) = star else {
                    return false;
                };
                p = at.saturating_add(1);
                n = reach.saturating_add(1);
                star = Some((at, n));
            }
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("debian-*", "debian-6.1", true),
            ("*-6.1", "debian-6.1", true),
            ("a?c*", "abcd", true),
            ("a*b*c", "aXbXbc", true),
            ("a", "b", false),
            ("a*b", "ac", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_boot_counter_is_no_part_of_the_name() {
        for (file, id) in [
            ("arch+3-1", "arch"),
            ("arch+2.efi", "arch.efi"),
            ("c++", "c++"),
            ("linux-6.1+deb12", "linux-6.1+deb12"),
        ] {
            assert_eq!(without_counter(file), id);
        }
    }

    #[test]
    fn newer_versions_come_first_and_sort_keys_before_all() {
        let entry = |key: Option<&str>, version: &str| BlsEntry {
            sort_key: key.map(str::to_owned),
            version: Some(version.to_owned()),
            ..BlsEntry::default()
        };
        assert_eq!(
            order(
                "x",
                &entry(Some("a"), "6.9"),
                "y",
                &entry(Some("a"), "6.10")
            ),
            Ordering::Greater
        );
        assert_eq!(
            order("x", &entry(Some("z"), "1"), "y", &entry(None, "9")),
            Ordering::Less
        );
    }
}
