//! What lies between disks and filesystems, as the guest configures it: encrypted volumes, arrays,
//! multipath, and LVM's list of the disks it may look at.
//!
//! crypttab(5), mdadm.conf(5), multipath.conf(5), lvmdevices(8), lvm.conf(5).

use crate::device::Devices;
use crate::model::{ArrayConfigured, CryptMapping, LvmScope, Multipath};
use crate::reader::Reader;
use crate::text::{Text, unescape_octal};

/// `/etc/crypttab`, each line resolved against the disks.
pub(crate) fn crypt_mappings(reader: &Reader<'_>, devices: &Devices) -> Vec<CryptMapping> {
    let text = reader.text("/etc/crypttab");
    text.map(|text| mappings(&text, devices))
        .unwrap_or_default()
}

fn mappings(text: &Text, devices: &Devices) -> Vec<CryptMapping> {
    text.statements()
        .filter_map(|(line, statement)| {
            let mut fields = statement.split_whitespace();
            let name = unescape_octal(fields.next()?);
            let spec = unescape_octal(fields.next()?);
            let key = fields
                .next()
                .filter(|key| !matches!(*key, "none" | "-"))
                .map(unescape_octal);
            let options = fields.next().unwrap_or_default();
            Some(CryptMapping {
                name,
                resolved: devices.resolve(&spec),
                spec,
                key,
                options: options
                    .split(',')
                    .filter(|option| !option.is_empty())
                    .map(str::to_owned)
                    .collect(),
                place: text.place(line),
            })
        })
        .collect()
}

/// The arrays of `mdadm.conf`, each with the first of its members on these disks.
pub(crate) fn configured_arrays(reader: &Reader<'_>, devices: &Devices) -> Vec<ArrayConfigured> {
    let text = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"]
        .into_iter()
        .find(|path| reader.exists(path))
        .and_then(|path| reader.text(path));
    text.map(|text| configured(&text, devices))
        .unwrap_or_default()
}

fn configured(text: &Text, devices: &Devices) -> Vec<ArrayConfigured> {
    let mut found: Vec<ArrayConfigured> = Vec::new();
    // A line that begins with a blank goes on with the one before.
    let mut open = false;
    for (line, raw) in text.lines() {
        let statement = raw.split('#').next().unwrap_or_default();
        if statement.trim().is_empty() {
            continue;
        }
        let goes_on = statement.starts_with(char::is_whitespace);
        let mut words = statement.split_whitespace();
        if !goes_on {
            let keyword = words.next().unwrap_or_default();
            open = keyword.eq_ignore_ascii_case("array");
            if open {
                found.push(ArrayConfigured {
                    device: String::new(),
                    uuid: None,
                    name: None,
                    resolved: None,
                    place: text.place(line),
                });
            }
        }
        let Some(array) = found.last_mut().filter(|_| open) else {
            continue;
        };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if key.eq_ignore_ascii_case("uuid") => {
                    let uuid = dashed(value);
                    array.resolved = devices.by_uuid(&uuid).cloned();
                    array.uuid = Some(uuid);
                }
                Some((key, value)) if key.eq_ignore_ascii_case("name") => {
                    array.name = Some(value.to_owned());
                }
                Some(_) => {}
                None => word.clone_into(&mut array.device),
            }
        }
    }
    found
}

/// mdadm's `c04c3dd1:7a350f35:2cff2a2b:d7bc1ba4` as blkid writes it.
fn dashed(uuid: &str) -> String {
    let digits: Vec<char> = uuid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|digit| digit.to_ascii_lowercase())
        .collect();
    let part = |from: usize, to: usize| -> String {
        digits.get(from..to).unwrap_or_default().iter().collect()
    };
    if digits.len() != 32 {
        return uuid.to_owned();
    }
    [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(from, to)| part(from, to))
        .join("-")
}

/// Multipath, where it has disks to combine.
pub(crate) fn multipath(reader: &Reader<'_>) -> Option<Multipath> {
    let config = "/etc/multipath.conf";
    let list = "/etc/multipath/wwids";
    let known = reader.exists(list).then(|| reader.text(list)).flatten();
    let wwids: Vec<String> = known
        .iter()
        .flat_map(Text::statements)
        .map(|(_, line)| line.trim_matches('/').to_owned())
        .collect();
    let configured = reader.exists(config);
    if !configured && wwids.is_empty() {
        return None;
    }
    let wants = [
        "/etc/systemd/system/sysinit.target.wants/multipathd.service",
        "/etc/systemd/system/multi-user.target.wants/multipathd.service",
    ];
    // The link's target may be on another filesystem; that it is there is enough.
    let enabled = wants.iter().any(|path| {
        let link = reader.tree.read_link(path);
        link.is_ok_and(|link| link.is_some())
    });
    Some(Multipath {
        enabled,
        wwids,
        place: crate::model::Place::file(if configured { config } else { list }),
    })
}

/// What keeps LVM from looking at disks that it does not know.
pub(crate) fn lvm(reader: &Reader<'_>) -> Option<LvmScope> {
    let list = "/etc/lvm/devices/system.devices";
    let devices = reader.exists(list).then(|| reader.text(list)).flatten();
    let devices = devices.iter().flat_map(|text| {
        text.statements().filter_map(|(line, statement)| {
            let value = |key: &str| {
                statement
                    .split_whitespace()
                    .find_map(|w| w.strip_prefix(key))
            };
            let kind = value("IDTYPE=")?;
            let name = value("IDNAME=")?;
            Some((format!("{kind} {name}"), text.place(line)))
        })
    });
    let devices: Vec<_> = devices.collect();
    let config = "/etc/lvm/lvm.conf";
    let config = reader.exists(config).then(|| reader.text(config)).flatten();
    let filters: Vec<_> = config
        .iter()
        .flat_map(|text| {
            text.statements().filter_map(|(line, statement)| {
                let (key, value) = statement.split_once('=')?;
                let filter = matches!(key.trim(), "filter" | "global_filter");
                filter.then(|| (value.trim().to_owned(), text.place(line)))
            })
        })
        .collect();
    (!devices.is_empty() || !filters.is_empty()).then_some(LvmScope { devices, filters })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::devices;

    #[test]
    fn crypttab_lines_are_resolved() {
        let text = Text::new(
            "/etc/crypttab",
            b"# name device key options\nsda5_crypt UUID=aaaaaaaa-0000-4000-8000-bbbbbbbbbbbb none luks,discard\n\
              home /dev/sdb1 /etc/keys/home.key luks,tpm2-device=auto\nshort\n",
        );
        let found = mappings(&text, &devices());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].resolved.as_ref().map(|at| at.volume), Some(5));
        assert_eq!((found[0].key.as_deref(), found[0].options.len()), (None, 2));
        assert_eq!(found[1].key.as_deref(), Some("/etc/keys/home.key"));
        assert_eq!(
            (found[1].resolved.as_ref(), found[1].place.line),
            (None, Some(3))
        );
    }

    #[test]
    fn arrays_are_resolved_by_their_uuid_also_over_several_lines() {
        let text = Text::new(
            "/etc/mdadm/mdadm.conf",
            b"HOMEHOST <system>\nARRAY /dev/md/0 metadata=1.2\n    UUID=5e4ddd4c:11f54c95:ae236b1d:0a4d9e1f name=host:0\n\
              MAILADDR root\nARRAY /dev/md1 UUID=0:1 # gone\n",
        );
        let found = configured(&text, &devices());
        assert_eq!(
            found[0].uuid.as_deref(),
            Some("5e4ddd4c-11f5-4c95-ae23-6b1d0a4d9e1f")
        );
        assert_eq!(found[0].resolved.as_ref().map(|at| at.volume), Some(1));
        assert_eq!(
            (found[0].device.as_str(), found[0].place.line),
            ("/dev/md/0", Some(2))
        );
        assert_eq!(
            (found[1].device.as_str(), found[1].resolved.as_ref()),
            ("/dev/md1", None)
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_text_never_panics(text in "((ARRAY|UUID=| |#|\n).{0,12}){0,8}") {
            let text = Text::new("/x", text.as_bytes());
            mappings(&text, &devices());
            configured(&text, &devices());
        }
    }
}
