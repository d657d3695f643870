//! Files that give an interface its name by MAC: udev's persistent rules and systemd `.link` files.
//!
//! udev(7), systemd.link(5).

use super::{files, interface, mac};
use crate::model::{Interface, NetworkTool};
use crate::reader::Reader;
use crate::text::Text;

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    let rules = files(reader, "/etc/udev/rules.d", |name| {
        name.ends_with(".rules") && name.contains("net")
    });
    let mut found: Vec<Interface> = rules.flat_map(|text| udev(&text)).collect();
    let links = files(reader, "/etc/systemd/network", |name| {
        name.ends_with(".link")
    });
    found.extend(links.filter_map(|text| link(&text)));
    found
}

/// Lines with `ATTR{address}=="…"` and `NAME="…"`.
fn udev(text: &Text) -> Vec<Interface> {
    text.statements()
        .filter_map(|(line, statement)| {
            let value = |key: &str| {
                let (_, rest) = statement.split_once(key)?;
                rest.split_once('"').map(|(value, _)| value.to_owned())
            };
            Some(Interface {
                mac: Some(mac(&value("ATTR{address}==\"")?)?),
                name: Some(value("NAME=\"")?),
                ..interface(NetworkTool::UdevRule, text.place(line))
            })
        })
        .collect()
}

fn link(text: &Text) -> Option<Interface> {
    let settings = text.settings();
    let get = |section: &str, keys: &[&str]| {
        settings
            .iter()
            .find(|s| s.section == section && keys.contains(&s.key.as_str()))
    };
    let name = get("Link", &["Name"])?;
    let address = get("Match", &["MACAddress", "PermanentMACAddress"])?;
    Some(Interface {
        mac: Some(mac(&address.value)?),
        name: Some(name.value.clone()),
        ..interface(NetworkTool::SystemdLink, text.place(name.line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_mac_are_found_in_rules_and_link_files() {
        let found = udev(&Text::new(
            "/etc/udev/rules.d/70-persistent-net.rules",
            b"# PCI device\nSUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00:0c:29:4b:2b:8c\", \
              ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\nSUBSYSTEM==\"net\", NAME=\"x\"\n",
        ));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name.as_deref(), Some("eth0"));
        assert_eq!(found[0].place.line, Some(2));
        let found = link(&Text::new(
            "/etc/systemd/network/10-lan.link",
            b"[Match]\nMACAddress=00-0C-29-4B-2B-8C\n[Link]\nName=lan0\n",
        ));
        assert_eq!(found.unwrap().mac.as_deref(), Some("00:0c:29:4b:2b:8c"));
    }
}
