//! `ifcfg-*` files of Red Hat and SUSE, with the routes beside them.
//!
//! Red Hat's `sysconfig.txt` (initscripts); ifcfg(5), ifcfg-bonding(5), ifcfg-vlan(5), ifcfg-bridge(5) and
//! ifroute(5) of SUSE's wicked.

use super::{files, interface, mac, with_prefix};
use crate::model::{AddressMethod, Interface, InterfaceKind, NetworkTool};
use crate::reader::Reader;
use crate::text::{Assignment, Text};

const RED_HAT: &str = "/etc/sysconfig/network-scripts";
const SUSE: &str = "/etc/sysconfig/network";

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    let wanted = |name: &str| {
        name.starts_with("ifcfg-")
            && name != "ifcfg-lo"
            && ![
                ".bak",
                ".orig",
                ".old",
                ".rpmnew",
                ".rpmsave",
                "~",
                ".template",
            ]
            .iter()
            .any(|suffix| name.ends_with(suffix))
    };
    let mut found: Vec<Interface> = files(reader, RED_HAT, wanted)
        .map(|text| parse(&text, NetworkTool::Ifcfg))
        .collect();
    let wicked = ["/etc/wicked", "/usr/sbin/wicked"]
        .iter()
        .any(|path| reader.exists(path));
    let tool = if wicked {
        NetworkTool::Wicked
    } else {
        NetworkTool::Ifcfg
    };
    found.extend(files(reader, SUSE, wanted).map(|text| parse(&text, tool)));
    routes(reader, &mut found);
    adopt(&mut found);
    found
}

/// Default routes that stand in files of their own.
fn routes(reader: &Reader<'_>, found: &mut [Interface]) {
    for interface in found.iter_mut() {
        let Some(name) = &interface.name else {
            continue;
        };
        for path in [
            format!("{RED_HAT}/route-{name}"),
            format!("{SUSE}/ifroute-{name}"),
        ] {
            if !reader.exists(&path) {
                continue;
            }
            if let Some(text) = reader.text(&path) {
                interface
                    .gateways
                    .extend(default_routes(&text).map(|(via, _)| via));
            }
        }
    }
    // SUSE: of all interfaces. A route that names none belongs to the one with addresses.
    let path = format!("{SUSE}/routes");
    if !reader.exists(&path) {
        return;
    }
    let Some(text) = reader.text(&path) else {
        return;
    };
    for (via, device) in default_routes(&text) {
        let named = |interface: &&mut Interface| match &device {
            Some(device) => interface.name.as_ref() == Some(device),
            None => !interface.addresses.is_empty(),
        };
        if let Some(interface) = found.iter_mut().find(named) {
            interface.gateways.push(via);
        }
    }
}

/// `default 192.0.2.1 - eth0` (SUSE), `default via 192.0.2.1 dev eth0` (Red Hat): the gateway, and
/// the device where one is named.
fn default_routes(text: &Text) -> impl Iterator<Item = (String, Option<String>)> {
    text.statements().filter_map(|(_, line)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| {
            let at = words.iter().position(|word| *word == key)?;
            words.get(at.checked_add(1)?).map(|word| (*word).to_owned())
        };
        if !matches!(words.first(), Some(&("default" | "0.0.0.0/0" | "::/0"))) {
            return None;
        }
        let via = after("via").or_else(|| words.get(1).map(|word| (*word).to_owned()))?;
        let device = after("dev").or_else(|| words.get(3).map(|word| (*word).to_owned()));
        Some((via, device.filter(|device| device != "-")))
    })
}

/// Members say which bond or bridge they belong to; the owner shall list them.
fn adopt(found: &mut [Interface]) {
    let members: Vec<(String, String)> = found
        .iter()
        .filter_map(|member| Some((member.member_of.clone()?, member.name.clone()?)))
        .collect();
    for (owner, member) in members {
        let owner = found
            .iter_mut()
            .find(|interface| interface.name.as_deref() == Some(owner.as_str()));
        if let Some(owner) = owner.filter(|owner| !owner.uses.contains(&member)) {
            owner.uses.push(member);
        }
    }
}

fn parse(text: &Text, tool: NetworkTool) -> Interface {
    let file = text
        .path
        .rsplit_once("ifcfg-")
        .map(|(_, name)| name.to_owned());
    let mut found = Interface {
        name: file,
        ..interface(tool, text.place(1))
    };
    let assignments = text.assignments();
    let last = |key: &str| assignments.iter().rev().find(|found| found.key == key);
    let get = |key: &str| last(key).map(|found| found.value.clone());
    let yes = |key: &str| matches!(get(key).as_deref(), Some("yes" | "YES" | "true" | "on"));
    if let Some(device) = last("DEVICE").filter(|device| !device.value.is_empty()) {
        found.name = Some(device.value.clone());
        found.place = text.place(device.line);
    }
    found.mac = get("HWADDR")
        .or_else(|| get("LLADDR"))
        .and_then(|value| mac(&value));
    found.method = match get("BOOTPROTO").unwrap_or_default().as_str() {
        "dhcp" | "dhcp4" | "dhcp+autoip" | "auto" | "bootp" => AddressMethod::Dhcp,
        _ => AddressMethod::None,
    };
    let kind = get("TYPE")
        .or_else(|| get("DEVICETYPE"))
        .unwrap_or_default();
    found.kind = match kind.to_ascii_lowercase().as_str() {
        "bond" => InterfaceKind::Bond,
        "team" => InterfaceKind::Team,
        "bridge" | "ovsbridge" => InterfaceKind::Bridge,
        "vlan" => InterfaceKind::Vlan,
        _ if get("BONDING_OPTS").is_some() || yes("BONDING_MASTER") => InterfaceKind::Bond,
        _ if get("TEAM_CONFIG").is_some() => InterfaceKind::Team,
        _ if get("BRIDGE_PORTS").is_some() || yes("BRIDGE") => InterfaceKind::Bridge,
        _ if yes("VLAN") || get("ETHERDEVICE").is_some() => InterfaceKind::Vlan,
        _ => InterfaceKind::Ethernet,
    };
    found.member_of = get("MASTER")
        .or_else(|| get("TEAM_MASTER"))
        .or_else(|| get("BRIDGE").filter(|_| !yes("BRIDGE")));
    found.vlan = get("VLAN_ID").and_then(|id| id.parse().ok());
    found
        .uses
        .extend(get("PHYSDEV").or_else(|| get("ETHERDEVICE")));
    let ports = get("BRIDGE_PORTS").unwrap_or_default();
    found
        .uses
        .extend(ports.split_whitespace().map(str::to_owned));
    addresses(&assignments, &mut found);
    found
}

fn addresses(assignments: &[Assignment], found: &mut Interface) {
    let get = |key: String| {
        let same = |found: &&Assignment| found.key == key;
        assignments
            .iter()
            .rev()
            .find(same)
            .map(|found| found.value.clone())
    };
    for assignment in assignments.iter().filter(|found| !found.value.is_empty()) {
        let (key, value) = (assignment.key.as_str(), &assignment.value);
        // `IPADDR1` (Red Hat), `IPADDR_1` (SUSE): the mask has the same ending.
        if let Some(ending) = key.strip_prefix("IPADDR") {
            let mask = ["PREFIX", "PREFIXLEN", "NETMASK"]
                .iter()
                .find_map(|name| get(format!("{name}{ending}")));
            found.addresses.push(with_prefix(value, mask.as_deref()));
        } else if key.starts_with("BONDING_SLAVE") {
            found.uses.push(value.clone());
        } else if key.starts_with("DNS") && key.get(3..).is_some_and(is_number) {
            found.nameservers.push(value.clone());
        } else if key == "IPV6ADDR" {
            found.addresses.push(value.clone());
        } else if key == "IPV6ADDR_SECONDARIES" {
            found
                .addresses
                .extend(value.split_whitespace().map(str::to_owned));
        } else if matches!(key, "GATEWAY" | "IPV6_DEFAULTGW") {
            found.gateways.push(value.clone());
        }
    }
    if !found.addresses.is_empty() && found.method == AddressMethod::None {
        found.method = AddressMethod::Static;
    }
}

fn is_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn red_hat(name: &str, text: &str) -> Interface {
        let path = format!("{RED_HAT}/ifcfg-{name}");
        parse(&Text::new(path, text.as_bytes()), NetworkTool::Ifcfg)
    }

    #[test]
    fn red_hat_and_suse_files_give_their_addresses() {
        let found = red_hat(
            "ens192",
            "TYPE=\"Ethernet\"\nBOOTPROTO=\"none\"\nNAME=\"ens192\"\nDEVICE=\"ens192\"\n\
              HWADDR=00:50:56:AC:CF:51\nIPADDR=192.0.2.10\nPREFIX=24\nIPADDR1=192.0.2.11\n\
              NETMASK1=255.255.255.128\nGATEWAY=192.0.2.1\nDNS1=192.0.2.53\nIPADDR2=\n",
        );
        assert_eq!(found.name.as_deref(), Some("ens192"));
        assert_eq!(found.addresses, ["192.0.2.10/24", "192.0.2.11/25"]);
        assert_eq!(found.nameservers, ["192.0.2.53"]);
        assert_eq!(
            (found.method, found.place.line),
            (AddressMethod::Static, Some(4))
        );
        let found = parse(
            &Text::new(
                "/etc/sysconfig/network/ifcfg-eth0",
                b"BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.0.2.11/25'\nIPADDR_1='192.0.2.12'\n\
                  PREFIXLEN_1='26'\n",
            ),
            NetworkTool::Wicked,
        );
        assert_eq!(found.name.as_deref(), Some("eth0"));
        assert_eq!(found.addresses, ["192.0.2.11/25", "192.0.2.12/26"]);
    }

    #[test]
    fn bonds_bridges_and_vlans_of_both_know_their_parts() {
        let mut found = vec![
            red_hat(
                "bond0",
                "DEVICE=bond0\nBONDING_OPTS=\"mode=1\"\nBRIDGE=br0\n",
            ),
            red_hat("ens192", "DEVICE=ens192\nMASTER=bond0\nSLAVE=yes\n"),
            red_hat("br0", "DEVICE=br0\nTYPE=Bridge\n"),
            red_hat("bond0.7", "DEVICE=bond0.7\nVLAN=yes\n"),
            red_hat(
                "bond1",
                "BONDING_MASTER='yes'\nBONDING_SLAVE_0='eth0'\nBONDING_SLAVE_1='eth1'\n",
            ),
            red_hat("vlan9", "ETHERDEVICE='bond1'\nVLAN_ID='9'\n"),
        ];
        adopt(&mut found);
        let shown: Vec<_> = found
            .into_iter()
            .map(super::super::completed)
            .map(|interface| (interface.kind, interface.uses.join(" "), interface.vlan))
            .collect();
        let expected = [
            (InterfaceKind::Bond, "ens192", None),
            (InterfaceKind::Ethernet, "", None),
            (InterfaceKind::Bridge, "bond0", None),
            (InterfaceKind::Vlan, "bond0", Some(7)),
            (InterfaceKind::Bond, "eth0 eth1", None),
            (InterfaceKind::Vlan, "bond1", Some(9)),
        ];
        assert_eq!(
            shown,
            expected.map(|(kind, uses, vlan)| (kind, uses.to_owned(), vlan))
        );
    }

    #[test]
    fn default_routes_beside_the_interfaces_are_read() {
        let routes = |text: &str| -> Vec<(String, Option<String>)> {
            default_routes(&Text::new("/x", text.as_bytes())).collect()
        };
        assert_eq!(
            routes("default 192.0.2.1 - -\n198.51.100.0/24 192.0.2.9 - eth0\n"),
            [("192.0.2.1".to_owned(), None)]
        );
        assert_eq!(
            routes("default via 192.0.2.1 dev eth0\n"),
            [("192.0.2.1".to_owned(), Some("eth0".to_owned()))]
        );
    }
}
