//! `/etc/netplan/*.yaml`.
//!
//! <https://netplan.readthedocs.io/en/stable/netplan-yaml/>. Wireless, modems and tunnels are left
//! out.

use super::yaml::{Node, parse};
use super::{files, interface, mac};
use crate::model::{AddressMethod, Finding, Interface, InterfaceKind, NetworkTool, Severity};
use crate::reader::Reader;
use crate::text::Text;

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    files(reader, "/etc/netplan", |name| {
        name.ends_with(".yaml") || name.ends_with(".yml")
    })
    .flat_map(|text| match parse(&text.content) {
        Ok(document) => interfaces(&text, &document),
        Err(refused) => {
            reader.find(Finding {
                severity: Severity::Note,
                id: "netplan-not-read",
                what: format!("this netplan file is not understood: {}", refused.why),
                evidence: vec![text.place(refused.line)],
                fix: None,
            });
            Vec::new()
        }
    })
    .collect()
}

/// The kinds that are read, and what each is.
const KINDS: [(&str, InterfaceKind); 5] = [
    ("ethernets", InterfaceKind::Ethernet),
    ("bonds", InterfaceKind::Bond),
    ("bridges", InterfaceKind::Bridge),
    ("vlans", InterfaceKind::Vlan),
    ("dummy-devices", InterfaceKind::Virtual),
];

fn interfaces(text: &Text, document: &Node) -> Vec<Interface> {
    let network = document.get("network");
    KINDS
        .iter()
        .filter_map(|(key, kind)| Some((network?.get(key)?, *kind)))
        .flat_map(|(node, kind)| node.entries().iter().map(move |entry| (entry, kind)))
        .map(|((key, node), kind)| Interface {
            kind,
            ..one(text, key, node)
        })
        .collect()
}

fn strings(node: Option<&Node>) -> Vec<String> {
    let items = node.map_or(&[][..], Node::items).iter();
    items.filter_map(Node::scalar).map(str::to_owned).collect()
}

fn one(text: &Text, key: &str, node: &Node) -> Interface {
    let matched = node.get("match");
    let scalar = |parent: Option<&Node>, key: &str| {
        let value = parent?.get(key)?.scalar()?;
        Some(value.to_owned())
    };
    let set_name = scalar(Some(node), "set-name");
    // With a `match:` the key is a mere identifier, not the interface's name.
    let name = match matched {
        Some(_) => set_name.or_else(|| scalar(matched, "name")),
        None => Some(key.to_owned()),
    };
    let yes = |key: &str| {
        let value = node.get(key).and_then(Node::scalar).unwrap_or_default();
        matches!(value, "true" | "yes" | "on" | "y")
    };
    let addresses: Vec<String> = node
        .get("addresses")
        .map_or(&[][..], Node::items)
        .iter()
        .filter_map(|item| match item.entries() {
            // `- 192.0.2.1/24: {label: x}` carries options.
            [(address, _)] => Some(address.clone()),
            _ => item.scalar().map(str::to_owned),
        })
        .collect();
    let routes = node.get("routes").map_or(&[][..], Node::items);
    let default = routes.iter().filter(|route| {
        let to = route.get("to").and_then(Node::scalar);
        matches!(to, Some("default" | "0.0.0.0/0" | "::/0"))
    });
    let gateways = ["gateway4", "gateway6"]
        .iter()
        .filter_map(|key| scalar(Some(node), key))
        .chain(default.filter_map(|route| scalar(Some(route), "via")));
    let method = if yes("dhcp4") || yes("dhcp6") {
        AddressMethod::Dhcp
    } else if addresses.is_empty() {
        AddressMethod::None
    } else {
        AddressMethod::Static
    };
    Interface {
        name,
        mac: scalar(matched, "macaddress").and_then(|value| mac(&value)),
        method,
        addresses,
        gateways: gateways.collect(),
        nameservers: strings(
            node.get("nameservers")
                .and_then(|node| node.get("addresses")),
        ),
        uses: strings(node.get("interfaces"))
            .into_iter()
            .chain(scalar(Some(node), "link"))
            .collect(),
        vlan: scalar(Some(node), "id").and_then(|id| id.parse().ok()),
        ..interface(NetworkTool::Netplan, text.place(node.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ubuntu_server_file_gives_names_macs_addresses_and_gateways() {
        let text = Text::new(
            "/etc/netplan/50-cloud-init.yaml",
            b"network:\n    version: 2\n    ethernets:\n        ens192:\n            addresses:\n\
              \x20           - 192.0.2.10/24\n            nameservers:\n                addresses: [192.0.2.53]\n\
              \x20           routes:\n            -   to: default\n                via: 192.0.2.1\n\
              \x20       lan:\n            match: {macaddress: '00:50:56:AC:CF:51'}\n\
              \x20           set-name: lan0\n            dhcp4: true\n",
        );
        let found = interfaces(&text, &parse(&text.content).unwrap());
        let [first, second] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(first.name.as_deref(), Some("ens192"));
        assert_eq!(first.addresses, ["192.0.2.10/24"]);
        assert_eq!(first.gateways, ["192.0.2.1"]);
        assert_eq!(first.nameservers, ["192.0.2.53"]);
        assert_eq!(
            (first.method, first.place.line),
            (AddressMethod::Static, Some(4))
        );
        assert_eq!(second.name.as_deref(), Some("lan0"));
        assert_eq!(second.mac.as_deref(), Some("00:50:56:ac:cf:51"));
        assert_eq!(second.method, AddressMethod::Dhcp);
    }

    #[test]
    fn a_vlan_on_a_bond_names_both() {
        let text = Text::new(
            "/etc/netplan/01.yaml",
            b"network:\n  bonds:\n    bond0:\n      interfaces: [ens192, ens224]\n\
              \x20 vlans:\n    lan:\n      id: 7\n      link: bond0\n      addresses: [192.0.2.1/24]\n",
        );
        let found = interfaces(&text, &parse(&text.content).unwrap());
        assert_eq!(found[0].kind, InterfaceKind::Bond);
        assert_eq!(found[0].uses, ["ens192", "ens224"]);
        assert_eq!(
            (found[1].kind, found[1].vlan),
            (InterfaceKind::Vlan, Some(7))
        );
        assert_eq!(found[1].uses, ["bond0"]);
    }

    #[test]
    fn anchors_matches_bonds_and_bridges_of_one_file_are_understood() {
        let text = Text::new(
            "/etc/netplan/60-site.yaml",
            b"network:\n  version: 2\n  ethernets:\n    any: &card\n      match: {name: 'ens*', driver: vmxnet3}\n\
              \x20     dhcp4: false\n      mtu: 9000\n    up:\n      match:\n        macaddress: 00:50:56:ac:cf:51\n\
              \x20     set-name: uplink0\n      addresses: &addresses\n        - 192.0.2.10/24:\n            label: x\n\
              \x20       - 2001:db8::1/64\n    spare: *card\n  bonds:\n    bond0:\n      interfaces:\n        - ens224\n\
              \x20       - ens256\n      parameters:\n        mode: 802.3ad\n  bridges:\n    br0:\n      interfaces: [bond0]\n\
              \x20     addresses: *addresses\n      gateway4: 192.0.2.1\n  vlans:\n    bond0.7: {id: 7, link: bond0}\n",
        );
        let found = interfaces(&text, &parse(&text.content).unwrap());
        let names: Vec<Option<&str>> = found.iter().map(|one| one.name.as_deref()).collect();
        assert_eq!(
            names,
            [
                Some("ens*"),
                Some("uplink0"),
                Some("ens*"),
                Some("bond0"),
                Some("br0"),
                Some("bond0.7")
            ]
        );
        assert_eq!(found[1].mac.as_deref(), Some("00:50:56:ac:cf:51"));
        assert_eq!(found[1].addresses, ["192.0.2.10/24", "2001:db8::1/64"]);
        assert_eq!(found[3].uses, ["ens224", "ens256"]);
        assert_eq!(found[4].addresses, found[1].addresses);
        assert_eq!(found[4].gateways, ["192.0.2.1"]);
        assert_eq!(
            (found[5].vlan, &found[5].uses[..]),
            (Some(7), &["bond0".to_owned()][..])
        );
    }
}
