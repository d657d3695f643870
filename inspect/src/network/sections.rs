//! NetworkManager keyfiles and systemd-networkd `.network` files.
//!
//! nm-settings-keyfile(5), systemd.network(5).

use super::{files, interface, mac};
use crate::model::{AddressMethod, Interface, NetworkTool};
use crate::reader::Reader;
use crate::text::{Setting, Text};

pub(super) fn network_manager(reader: &Reader<'_>) -> Vec<Interface> {
    files(reader, "/etc/NetworkManager/system-connections", |_| true)
        .filter_map(|text| keyfile(&text))
        .collect()
}

pub(super) fn networkd(reader: &Reader<'_>) -> Vec<Interface> {
    files(reader, "/etc/systemd/network", |name| {
        name.ends_with(".network")
    })
    .map(|text| network_file(&text))
    .collect()
}

/// One connection; `None` for what is no wired connection of its own (VPN, wireless, loopback).
fn keyfile(text: &Text) -> Option<Interface> {
    let settings = text.settings();
    let get = |section: &str, key: &str| {
        let wanted = |s: &&Setting| s.section == section && s.key == key;
        settings.iter().find(wanted)
    };
    let kind = get("connection", "type").map_or("", |s| s.value.as_str());
    if !matches!(
        kind,
        "ethernet" | "802-3-ethernet" | "bond" | "bridge" | "vlan" | "team"
    ) {
        return None;
    }
    let named = get("connection", "interface-name");
    let hardware = get("ethernet", "mac-address").or_else(|| get("802-3-ethernet", "mac-address"));
    let line = named
        .or(hardware)
        .or_else(|| get("connection", "type"))?
        .line;
    let mut found = Interface {
        name: named.map(|s| s.value.clone()),
        mac: hardware.and_then(|s| mac(&s.value)),
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
            _ => {}
        }
    }
    Some(found)
}

fn network_file(text: &Text) -> Interface {
    let mut found = interface(NetworkTool::SystemdNetworkd, text.place(1));
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
            _ => {}
        }
    }
    found
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
        let found = keyfile(&text).unwrap();
        assert_eq!(found.name.as_deref(), Some("ens192"));
        assert_eq!(found.mac.as_deref(), Some("00:50:56:ac:cf:51"));
        assert_eq!(found.method, AddressMethod::Static);
        assert_eq!(found.addresses, ["192.0.2.10/24"]);
        assert_eq!(found.gateways, ["192.0.2.1"]);
        assert_eq!(found.place.line, Some(4));
        assert!(keyfile(&Text::new("/x", b"[connection]\ntype=wifi\n")).is_none());
    }

    #[test]
    fn a_network_file_gives_its_match_and_addresses() {
        let found = network_file(&Text::new(
            "/etc/systemd/network/10-lan.network",
            b"[Match]\nName=ens*\n[Network]\nDHCP=no\nAddress=192.0.2.7/24\n[Route]\nGateway=192.0.2.1\n",
        ));
        assert_eq!(found.name.as_deref(), Some("ens*"));
        assert_eq!(found.method, AddressMethod::Static);
        assert_eq!(found.gateways, ["192.0.2.1"]);
    }
}
