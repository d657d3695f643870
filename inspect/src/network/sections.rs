//! NetworkManager keyfiles, and systemd-networkd's `.network` and `.netdev` files.
//!
//! nm-settings-keyfile(5), systemd.network(5), systemd.netdev(5). Left out on purpose: drop-ins
//! (`NAME.network.d`), and connections of VPNs and wireless cards.

use super::{files, interface, mac};
use crate::model::{AddressMethod, Interface, InterfaceKind, NetworkTool};
use crate::reader::Reader;
use crate::text::{Setting, Text};

pub(super) fn network_manager(reader: &Reader<'_>) -> Vec<Interface> {
    // The second holds what images are shipped with.
    let folders = [
        "/etc/NetworkManager/system-connections",
        "/usr/lib/NetworkManager/system-connections",
    ];
    let found = folders.into_iter().flat_map(|folder| {
        let plain = |name: &str| !name.starts_with('.') && !name.ends_with('~');
        files(reader, folder, plain).filter_map(|text| keyfile(&text))
    });
    with_members(found.collect())
}

/// A member names its bond by name or by the UUID of its connection.
fn with_members(found: Vec<(Interface, String)>) -> Vec<Interface> {
    let name_of = |wanted: &str| {
        let (interface, _) = found.iter().find(|(_, uuid)| uuid == wanted)?;
        interface.name.clone()
    };
    let mut interfaces: Vec<Interface> = found
        .iter()
        .map(|(interface, _)| {
            let mut interface = interface.clone();
            for name in interface.member_of.iter_mut().chain(&mut interface.uses) {
                if let Some(known) = name_of(name) {
                    *name = known;
                }
            }
            interface
        })
        .collect();
    let members: Vec<(String, String)> = interfaces
        .iter()
        .filter_map(|member| Some((member.member_of.clone()?, member.name.clone()?)))
        .collect();
    for (owner, member) in members {
        let owner = interfaces
            .iter_mut()
            .find(|interface| interface.name.as_deref() == Some(owner.as_str()));
        if let Some(owner) = owner.filter(|owner| !owner.uses.contains(&member)) {
            owner.uses.push(member);
        }
    }
    interfaces
}

pub(super) fn networkd(reader: &Reader<'_>) -> Vec<Interface> {
    let folder = "/etc/systemd/network";
    let devices = files(reader, folder, |name| name.ends_with(".netdev"));
    let mut found: Vec<Interface> = devices.filter_map(|text| netdev(&text)).collect();
    let networks = files(reader, folder, |name| name.ends_with(".network"));
    for (network, vlans) in networks.map(|text| network_file(&text)) {
        // The lower interface names the VLANs on it, not the other way round.
        for vlan in vlans {
            let device = found
                .iter_mut()
                .find(|device| device.name.as_deref() == Some(vlan.as_str()));
            if let (Some(device), Some(below)) = (device, &network.name) {
                device.uses.push(below.clone());
            }
        }
        let made = found.iter().find(|device| {
            device.name.is_some()
                && device.name == network.name
                && device.kind != InterfaceKind::Ethernet
        });
        let kind = made.map_or(InterfaceKind::Ethernet, |device| device.kind);
        found.push(Interface { kind, ..network });
    }
    found
}

/// One connection with its UUID; `None` for what is no wired connection of its own (VPN, wireless,
/// loopback).
fn keyfile(text: &Text) -> Option<(Interface, String)> {
    let settings = text.settings();
    let get = |section: &str, key: &str| {
        let wanted = |s: &&Setting| s.section == section && s.key == key;
        settings.iter().find(wanted)
    };
    let value = |section: &str, key: &str| get(section, key).map(|s| s.value.clone());
    let kind = match get("connection", "type").map_or("", |s| s.value.as_str()) {
        "ethernet" | "802-3-ethernet" => InterfaceKind::Ethernet,
        "bond" => InterfaceKind::Bond,
        "team" => InterfaceKind::Team,
        "bridge" => InterfaceKind::Bridge,
        "vlan" => InterfaceKind::Vlan,
        "dummy" => InterfaceKind::Virtual,
        _ => return None,
    };
    let named = get("connection", "interface-name");
    let hardware = get("ethernet", "mac-address").or_else(|| get("802-3-ethernet", "mac-address"));
    let line = named
        .or(hardware)
        .or_else(|| get("connection", "type"))?
        .line;
    let mut found = Interface {
        name: named.map(|s| s.value.clone()),
        kind,
        mac: hardware.and_then(|s| mac(&s.value)),
        member_of: value("connection", "master").or_else(|| value("connection", "controller")),
        uses: value("vlan", "parent").into_iter().collect(),
        vlan: value("vlan", "id").and_then(|id| id.parse().ok()),
        ..interface(NetworkTool::NetworkManager, text.place(line))
    };
    for setting in settings
        .iter()
        .filter(|s| matches!(s.section.as_str(), "ipv4" | "ipv6"))
    {
        let key = setting.key.trim_end_matches(|c: char| c.is_ascii_digit());
        match (key, setting.value.as_str()) {
            ("method", "auto" | "dhcp") if setting.section == "ipv4" => {
                found.method = AddressMethod::Dhcp;
            }
            ("method", "manual") => found.method = AddressMethod::Static,
            // `address1=192.0.2.10/24,192.0.2.1`: the second is the gateway.
            ("address" | "addresses", value) => {
                let mut parts = value.trim_end_matches(';').split([',', ';']);
                found.addresses.extend(parts.next().map(str::to_owned));
                found.gateways.extend(parts.next().map(str::to_owned));
            }
            ("gateway", value) => found.gateways.push(value.to_owned()),
            ("dns", value) => {
                let servers = value.split([';', ',']).filter(|server| !server.is_empty());
                found.nameservers.extend(servers.map(str::to_owned));
            }
            _ => {}
        }
    }
    Some((found, value("connection", "uuid").unwrap_or_default()))
}

/// A device that systemd-networkd makes; `None` for tunnels and other kinds that are no part of the
/// local wiring.
fn netdev(text: &Text) -> Option<Interface> {
    let mut found = interface(NetworkTool::SystemdNetworkd, text.place(1));
    let mut known = false;
    for setting in text.settings() {
        match (setting.section.as_str(), setting.key.as_str()) {
            ("NetDev", "Name") => {
                found.name = Some(setting.value);
                found.place = text.place(setting.line);
            }
            ("NetDev", "Kind") => {
                known = true;
                found.kind = match setting.value.as_str() {
                    "bond" => InterfaceKind::Bond,
                    "team" => InterfaceKind::Team,
                    "bridge" => InterfaceKind::Bridge,
                    "vlan" => InterfaceKind::Vlan,
                    "dummy" | "macvlan" | "ipvlan" | "veth" => InterfaceKind::Virtual,
                    _ => return None,
                };
            }
            ("VLAN", "Id") => found.vlan = setting.value.parse().ok(),
            _ => {}
        }
    }
    known.then_some(found)
}

/// A `.network` file, and the VLANs that it puts on its interface.
fn network_file(text: &Text) -> (Interface, Vec<String>) {
    let mut found = interface(NetworkTool::SystemdNetworkd, text.place(1));
    let mut vlans = Vec::new();
    for setting in text.settings() {
        let value = setting.value.as_str();
        match (setting.section.as_str(), setting.key.as_str()) {
            ("Match", "Name") => {
                found.name = Some(value.to_owned());
                found.place = text.place(setting.line);
            }
            ("Match", "MACAddress" | "PermanentMACAddress") => {
                found.mac = mac(value);
                found.place = text.place(setting.line);
            }
            ("Network", "DHCP") if !matches!(value, "no" | "false" | "off" | "0") => {
                found.method = AddressMethod::Dhcp;
            }
            ("Network" | "Address", "Address") => {
                found.addresses.push(value.to_owned());
                if found.method == AddressMethod::None {
                    found.method = AddressMethod::Static;
                }
            }
            ("Network" | "Route", "Gateway") => found.gateways.push(value.to_owned()),
            ("Network", "DNS") => {
                found
                    .nameservers
                    .extend(value.split_whitespace().map(str::to_owned));
            }
            ("Network", "Bond" | "Bridge") => found.member_of = Some(value.to_owned()),
            ("Network", "VLAN") => vlans.extend(value.split_whitespace().map(str::to_owned)),
            _ => {}
        }
    }
    (found, vlans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyfile_gives_name_mac_address_and_gateway() {
        let text = Text::new(
            "/etc/NetworkManager/system-connections/ens192.nmconnection",
            b"[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n\n[ethernet]\n\
              mac-address=00:50:56:AC:CF:51\n\n[ipv4]\naddress1=192.0.2.10/24,192.0.2.1\n\
              dns=192.0.2.53;\nmethod=manual\n\n[ipv6]\nmethod=auto\n",
        );
        let (found, _) = keyfile(&text).unwrap();
        assert_eq!(found.name.as_deref(), Some("ens192"));
        assert_eq!(found.mac.as_deref(), Some("00:50:56:ac:cf:51"));
        assert_eq!(found.method, AddressMethod::Static);
        assert_eq!(found.addresses, ["192.0.2.10/24"]);
        assert_eq!(found.gateways, ["192.0.2.1"]);
        assert_eq!(found.nameservers, ["192.0.2.53"]);
        assert_eq!(found.place.line, Some(4));
        assert!(keyfile(&Text::new("/x", b"[connection]\ntype=wifi\n")).is_none());
    }

    #[test]
    fn a_bond_of_keyfiles_knows_its_members_by_the_uuid_they_name() {
        let connection = |text: &str| keyfile(&Text::new("/x", text.as_bytes())).unwrap();
        let found = with_members(vec![
            connection("[connection]\nuuid=1111\ntype=bond\ninterface-name=bond0\n"),
            connection(
                "[connection]\nuuid=2\ntype=ethernet\ninterface-name=ens192\nmaster=1111\nslave-type=bond\n",
            ),
            connection(
                "[connection]\nuuid=3\ntype=vlan\ninterface-name=lan\n[vlan]\nid=7\nparent=1111\n",
            ),
        ]);
        assert_eq!(found[0].uses, ["ens192"]);
        assert_eq!(found[1].member_of.as_deref(), Some("bond0"));
        assert_eq!(
            (found[2].uses.as_slice(), found[2].vlan),
            (&["bond0".to_owned()][..], Some(7))
        );
    }

    #[test]
    fn a_network_file_gives_its_match_and_addresses() {
        let (found, vlans) = network_file(&Text::new(
            "/etc/systemd/network/10-lan.network",
            b"[Match]\nName=ens*\n[Network]\nDHCP=no\nAddress=192.0.2.7/24\nVLAN=lan\nDNS=192.0.2.53\n\
              [Route]\nGateway=192.0.2.1\n",
        ));
        assert_eq!(found.name.as_deref(), Some("ens*"));
        assert_eq!(found.method, AddressMethod::Static);
        assert_eq!(found.gateways, ["192.0.2.1"]);
        assert_eq!(vlans, ["lan"]);
        let device = Text::new("/x", b"[NetDev]\nName=lan\nKind=vlan\n[VLAN]\nId=7\n");
        assert_eq!(netdev(&device).unwrap().vlan, Some(7));
        let tunnel = Text::new("/x", b"[NetDev]\nName=wg0\nKind=wireguard\n");
        assert!(netdev(&tunnel).is_none());
    }
}
