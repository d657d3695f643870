//! systemd-boot: `loader.conf` and the entries of the Boot Loader Specification beside it.
//!
//! Left out on purpose: unified kernel images (`EFI/Linux/*.efi`), which are reported, and the
//! default that the firmware remembers (`LoaderEntryDefault`), which no disk carries.

use std::cmp::Ordering;

use super::bls::{self, BlsEntry};
use super::{Context, Found};
use crate::model::{BootEntry, BootLoaderKind, Finding, Place, Severity};
use crate::text::{Text, compare_versions};

const FOLDERS: [&str; 3] = ["/efi", "/boot", "/boot/efi"];

/// Reads the menu; `None` when there are no entries.
pub(super) fn read(context: &Context<'_>) -> Option<Found> {
    let mut entries: Vec<(String, BlsEntry, &str, Text)> = Vec::new();
    for folder in FOLDERS {
        let loader = format!("{folder}/loader/entries");
        for name in context.reader.names(&loader) {
            let Some(id) = name.strip_suffix(".conf") else {
                continue;
            };
            if let Some(text) = context.reader.text(&format!("{loader}/{name}")) {
                entries.push((id.to_owned(), bls::parse(&text), folder, text));
            }
        }
        let unified = format!("{folder}/EFI/Linux");
        for name in context.reader.names(&unified) {
            if name.ends_with(".efi") {
                context.reader.find(Finding {
                    severity: Severity::Warning,
                    id: "unified-kernel-image",
                    what: format!("{name} is a unified kernel image: its parts are not read"),
                    evidence: vec![Place::file(format!("{unified}/{name}"))],
                    fix: None,
                });
            }
        }
    }
    if entries.is_empty() {
        return None;
    }
    entries.sort_by(|(a_id, a, ..), (b_id, b, ..)| order(a_id, a, b_id, b));
    let config = FOLDERS
        .into_iter()
        .map(|folder| format!("{folder}/loader/loader.conf"))
        .find(|path| context.reader.exists(path));
    let loader = config.as_deref().and_then(|path| context.reader.text(path));
    let pattern = loader.as_ref().and_then(|text| {
        text.statements().find_map(|(line, statement)| {
            let value = statement.strip_prefix("default")?;
            let value = value.strip_prefix(char::is_whitespace)?.trim();
            Some((value.to_owned(), text.place(line)))
        })
    });
    let ids: Vec<String> = entries.iter().map(|(id, ..)| id.clone()).collect();
    let named = pattern.as_ref().and_then(|(pattern, _)| {
        let pattern = pattern.strip_suffix(".conf").unwrap_or(pattern);
        ids.iter().position(|id| matches(pattern, id))
    });
    let default_reason = match (&pattern, named) {
        (Some((value, place)), Some(_)) => format!("default {value} ({place})"),
        (Some((value, place)), None) => {
            format!("default {value} ({place}) names no entry: the newest one")
        }
        (None, _) => "no default is set: the newest entry".to_owned(),
    };
    let entries: Vec<BootEntry> = (0usize..)
        .zip(entries)
        .map(|(number, (id, entry, folder, text))| {
            let full = |path: &String| format!("{folder}/{}", path.trim_start_matches('/'));
            BootEntry {
                title: entry.title.clone().unwrap_or_else(|| id.clone()),
                id: Some(id),
                index: number.to_string(),
                kernel: entry.linux.as_ref().map(full),
                initrds: entry.initrds.iter().map(full).collect(),
                command_line: entry.options.join(" "),
                place: text.place(entry.options_line),
            }
        })
        .collect();
    Some(Found {
        kind: BootLoaderKind::SystemdBoot,
        config: config.unwrap_or_else(|| format!("{}/loader/entries", FOLDERS[1])),
        default: named.or(entries.first().map(|_| 0)),
        entries,
        default_reason,
        sources: Vec::new(),
    })
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
