//! `/etc/network/interfaces` and what it sources.
//!
//! interfaces(5). Left out on purpose: `mapping` and `inherits`.

use super::{interface, mac, with_prefix};
use crate::model::{AddressMethod, Interface, InterfaceKind, NetworkTool};
use crate::reader::Reader;
use crate::text::Text;

/// Files that source each other are followed this deep. Ours.
const DEEPEST: u32 = 4;

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    let mut found = Vec::new();
    follow(reader, "/etc/network/interfaces", 0, &mut found);
    found
}

fn follow(reader: &Reader<'_>, path: &str, depth: u32, found: &mut Vec<Interface>) {
    let Some(text) = reader.text(path).filter(|_| depth < DEEPEST) else {
        return;
    };
    found.extend(parse(&text));
    for (_, statement) in text.statements() {
        let (key, value) = statement
            .split_once(char::is_whitespace)
            .unwrap_or((statement, ""));
        let value = value.trim();
        let folder = match key {
            "source" => value.rsplit_once('/').filter(|(_, name)| *name == "*"),
            "source-directory" => Some((value.trim_end_matches('/'), "*")),
            _ => continue,
        };
        let deeper = depth.saturating_add(1);
        match folder {
            Some((folder, _)) => {
                let plain = |name: &String| {
                    name.chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
                };
                for name in reader.names(folder) {
                    if key == "source" || plain(&name) {
                        follow(reader, &format!("{folder}/{name}"), deeper, found);
                    }
                }
            }
            None => follow(reader, value, deeper, found),
        }
    }
}

pub(super) fn parse(text: &Text) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    let mut inside = false;
    let mut netmask: Option<String> = None;
    for (line, statement) in text.statements() {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, rest @ ..] => {
                let method = match rest.get(1).copied() {
                    Some("dhcp" | "auto" | "bootp") => AddressMethod::Dhcp,
                    Some("static") => AddressMethod::Static,
                    _ => AddressMethod::None,
                };
                inside = *name != "lo";
                netmask = None;
                if inside {
                    found.push(Interface {
                        name: Some((*name).to_owned()),
                        method,
                        ..interface(NetworkTool::Ifupdown, text.place(line))
                    });
                }
            }
            [
                "auto" | "mapping" | "source" | "source-directory" | "no-auto-down",
                ..,
            ] => {
                inside = false;
            }
            [key, ..] if key.starts_with("allow-") => inside = false,
            [key, rest @ ..] if inside => {
                let Some(last) = found.last_mut() else {
                    continue;
                };
                match (*key, rest) {
                    ("address", [address, ..]) => {
                        last.addresses
                            .push(with_prefix(address, netmask.as_deref()));
                    }
                    ("netmask", [mask, ..]) => {
                        netmask = Some((*mask).to_owned());
                        if let Some(address) = last.addresses.last_mut() {
                            *address = with_prefix(address, Some(mask));
                        }
                    }
                    ("gateway", [gateway, ..]) => last.gateways.push((*gateway).to_owned()),
                    ("dns-nameservers" | "dns-nameserver", servers) => last
                        .nameservers
                        .extend(servers.iter().map(|server| (*server).to_owned())),
                    ("bond-slaves" | "slaves" | "bond_slaves", members) => {
                        last.kind = InterfaceKind::Bond;
                        last.uses = members_of(members);
                    }
                    ("bridge_ports" | "bridge-ports", members) => {
                        last.kind = InterfaceKind::Bridge;
                        last.uses = members_of(members);
                    }
                    ("bond-master", [master, ..]) => {
                        last.member_of = Some((*master).to_owned());
                    }
                    ("vlan-raw-device" | "vlan_raw_device", [below, ..]) => {
                        last.kind = InterfaceKind::Vlan;
                        last.uses = vec![(*below).to_owned()];
                    }
                    ("vlan-id", [number, ..]) => {
                        last.kind = InterfaceKind::Vlan;
                        last.vlan = number.parse().ok();
                    }
                    ("hwaddress", _) => last.mac = rest.last().and_then(|value| mac(value)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found
}

/// `none`, and `regex` lists, name no interface.
fn members_of(words: &[&str]) -> Vec<String> {
    words
        .iter()
        .filter(|word| **word != "none")
        .take_while(|word| **word != "regex")
        .map(|word| (*word).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_and_a_dhcp_interface_are_read_without_the_loopback() {
        let found = parse(&Text::new(
            "/etc/network/interfaces",
            b"source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\
              allow-hotplug ens192\niface ens192 inet static\n\taddress 192.0.2.10\n\
              \tnetmask 255.255.255.0\n\tgateway 192.0.2.1\n\tdns-nameservers 192.0.2.53\n\
              iface ens192 inet6 static\n  address 2001:db8::10/64\n\
              auto ens224\niface ens224 inet dhcp\n  hwaddress ether 00:0C:29:4B:2B:8C\n",
        ));
        let [v4, v6, second] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(v4.name.as_deref(), Some("ens192"));
        assert_eq!((v4.method, v4.place.line), (AddressMethod::Static, Some(6)));
        assert_eq!(v4.addresses, ["192.0.2.10/24"]);
        assert_eq!(v4.gateways, ["192.0.2.1"]);
        assert_eq!(v4.nameservers, ["192.0.2.53"]);
        assert_eq!(v6.addresses, ["2001:db8::10/64"]);
        assert_eq!(second.method, AddressMethod::Dhcp);
        assert_eq!(second.mac.as_deref(), Some("00:0c:29:4b:2b:8c"));
    }

    #[test]
    fn bonds_bridges_and_vlans_name_what_they_are_made_of() {
        let found = parse(&Text::new(
            "/etc/network/interfaces",
            b"iface bond0 inet manual\n  bond-slaves ens192 ens224\n  bond-mode 802.3ad\n\
              iface vmbr0 inet static\n  address 192.0.2.1/24\n  bridge-ports bond0\n\
              iface lan inet manual\n  vlan-raw-device bond0\n  vlan-id 7\n",
        ));
        let shown: Vec<_> = found
            .iter()
            .map(|interface| (interface.kind, interface.uses.join(" "), interface.vlan))
            .collect();
        assert_eq!(
            shown,
            [
                (InterfaceKind::Bond, "ens192 ens224".to_owned(), None),
                (InterfaceKind::Bridge, "bond0".to_owned(), None),
                (InterfaceKind::Vlan, "bond0".to_owned(), Some(7)),
            ]
        );
    }
}
