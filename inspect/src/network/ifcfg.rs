//! `ifcfg-*` files of Red Hat and SUSE.
//!
//! Red Hat's `sysconfig.txt` (initscripts), ifcfg(5) of SUSE.

use super::{files, interface, mac, with_prefix};
use crate::model::{AddressMethod, Interface, NetworkTool};
use crate::reader::Reader;
use crate::text::Text;

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    let wanted = |name: &str| {
        name.starts_with("ifcfg-")
            && name != "ifcfg-lo"
            && ![".bak", ".orig", ".rpmnew", ".rpmsave", "~"]
                .iter()
                .any(|suffix| name.ends_with(suffix))
    };
    ["/etc/sysconfig/network-scripts", "/etc/sysconfig/network"]
        .iter()
        .flat_map(|folder| files(reader, folder, wanted))
        .map(|text| parse(&text))
        .collect()
}

fn parse(text: &Text) -> Interface {
    let file = text
        .path
        .rsplit_once("ifcfg-")
        .map(|(_, name)| name.to_owned());
    let mut found = Interface {
        name: file,
        ..interface(NetworkTool::Ifcfg, text.place(1))
    };
    let get = |key: &str| text.assigned(key).map(|found| found.value);
    if let Some(device) = text.assigned("DEVICE") {
        found.name = Some(device.value);
        found.place = text.place(device.line);
    }
    found.mac = get("HWADDR")
        .or_else(|| get("LLADDR"))
        .and_then(|value| mac(&value));
    found.method = match get("BOOTPROTO").unwrap_or_default().as_str() {
        "dhcp" | "dhcp4" | "auto" | "bootp" => AddressMethod::Dhcp,
        _ => AddressMethod::None,
    };
    for assignment in text.assignments() {
        let key = assignment
            .key
            .trim_end_matches(|c: char| c.is_ascii_digit());
        let number = assignment.key.strip_prefix(key).unwrap_or_default();
        match key {
            "IPADDR" if !assignment.value.is_empty() => {
                let mask = get(&format!("PREFIX{number}"))
                    .or_else(|| get(&format!("PREFIXLEN{number}")))
                    .or_else(|| get(&format!("NETMASK{number}")));
                found
                    .addresses
                    .push(with_prefix(&assignment.value, mask.as_deref()));
            }
            "IPV6ADDR" => found.addresses.push(assignment.value.clone()),
            "GATEWAY" | "IPV6_DEFAULTGW" => found.gateways.push(assignment.value.clone()),
            _ => {}
        }
    }
    if !found.addresses.is_empty() && found.method == AddressMethod::None {
        found.method = AddressMethod::Static;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn red_hat_and_suse_files_give_their_addresses() {
        let found = parse(&Text::new(
            "/etc/sysconfig/network-scripts/ifcfg-ens192",
            b"TYPE=\"Ethernet\"\nBOOTPROTO=\"none\"\nNAME=\"ens192\"\nDEVICE=\"ens192\"\n\
              HWADDR=00:50:56:AC:CF:51\nIPADDR=192.0.2.10\nPREFIX=24\nGATEWAY=192.0.2.1\n",
        ));
        assert_eq!(found.name.as_deref(), Some("ens192"));
        assert_eq!(found.addresses, ["192.0.2.10/24"]);
        assert_eq!(
            (found.method, found.place.line),
            (AddressMethod::Static, Some(4))
        );
        let found = parse(&Text::new(
            "/etc/sysconfig/network/ifcfg-eth0",
            b"BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.0.2.11/25'\nIPADDR_1=x\n",
        ));
        assert_eq!(found.name.as_deref(), Some("eth0"));
        assert_eq!(found.addresses, ["192.0.2.11/25"]);
    }
}
