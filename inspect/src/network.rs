//! Network interfaces that a guest's configuration names, whoever reads the file.

mod ifcfg;
mod ifupdown;
mod naming;
mod netplan;
mod sections;
mod wicked;
mod yaml;

use crate::model::{
    AddressMethod, Finding, Interface, InterfaceKind, NetworkTool, Place, Severity, vlan_of,
};
use crate::reader::Reader;
use crate::text::Text;

/// All interfaces, in the order in which the files are read.
pub(crate) fn find(reader: &Reader<'_>) -> Vec<Interface> {
    let mut interfaces = ifupdown::read(reader);
    interfaces.extend(netplan::read(reader));
    interfaces.extend(sections::network_manager(reader));
    interfaces.extend(sections::networkd(reader));
    interfaces.extend(ifcfg::read(reader));
    interfaces.extend(wicked::read(reader));
    interfaces.extend(naming::read(reader));
    drivers(reader);
    interfaces.into_iter().map(completed).collect()
}

/// Finds configurations that hold only for a card of a certain driver, which the new machine has not.
fn drivers(reader: &Reader<'_>) {
    /// Folder, ending of the names, what stands before the driver's name.
    const PLACES: [(&str, &str, &str); 4] = [
        ("/etc/udev/rules.d", "net.rules", "DRIVERS==\""),
        ("/etc/netplan", ".yaml", "driver: "),
        ("/etc/systemd/network", ".link", "Driver="),
        ("/etc/systemd/network", ".network", "Driver="),
    ];
    for (folder, ending, key) in PLACES {
        for text in files(reader, folder, |name| name.ends_with(ending)) {
            for (line, statement) in text.statements() {
                let Some((_, value)) = statement.split_once(key) else {
                    continue;
                };
                let end = |c: char| c.is_whitespace() || matches!(c, '"' | ',');
                let driver = value.trim_start_matches('"').split(end).next();
                // `?*`: of any driver; virtio's is the new one already.
                let bound = driver.filter(|name| {
                    !name.is_empty() && !name.starts_with('?') && !name.starts_with('*')
                });
                if let Some(driver) = bound.filter(|name| !name.starts_with("virtio")) {
                    // What names a card by its address as well can do without the driver.
                    let (id, fix) = if statement.contains("{address}==") {
                        (
                            "network-driver-rule",
                            "takes any driver for the same address",
                        )
                    } else {
                        (
                            "network-driver-match",
                            "match by MAC address alone in the guest",
                        )
                    };
                    reader.find(Finding {
                        severity: Severity::Warning,
                        id,
                        what: format!("holds only for a network card of the driver {driver}"),
                        evidence: vec![text.place(line)],
                        fix: Some(fix.to_owned()),
                    });
                }
            }
        }
    }
}

/// The texts of the files in `folder` whose name `wanted` likes, in name order.
fn files<'a>(
    reader: &'a Reader<'_>,
    folder: &'a str,
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = Text> + 'a {
    reader
        .names(folder)
        .into_iter()
        .filter(move |name| wanted(name))
        .filter_map(move |name| reader.text(&format!("{folder}/{name}")))
}

/// An interface of which nothing but its place is known yet.
fn interface(tool: NetworkTool, place: Place) -> Interface {
    Interface {
        name: None,
        kind: InterfaceKind::Ethernet,
        mac: None,
        method: AddressMethod::None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        nameservers: Vec::new(),
        uses: Vec::new(),
        member_of: None,
        vlan: None,
        configured_by: tool,
        place,
    }
}

/// What the name of an interface tells, where its configuration did not say more.
fn completed(mut interface: Interface) -> Interface {
    let Some(name) = interface.name.as_deref() else {
        return interface;
    };
    if interface.kind == InterfaceKind::Ethernet {
        interface.kind = InterfaceKind::of_name(name);
    }
    if interface.kind == InterfaceKind::Vlan {
        if let Some((below, number)) = vlan_of(name) {
            interface.vlan.get_or_insert(number);
            if interface.uses.is_empty() {
                interface.uses.push(below.to_owned());
            }
        } else if let Some(number) = name.strip_prefix("vlan") {
            interface.vlan = interface.vlan.or_else(|| number.parse().ok());
        }
    }
    interface
}

/// A MAC address in the usual spelling (`00:0c:29:4b:2b:8c`); `None` when it is not one.
fn mac(written: &str) -> Option<String> {
    let written = written.trim().trim_matches(['"', '\'']);
    let mac = written.replace('-', ":").to_ascii_lowercase();
    let parts: Vec<&str> = mac.split(':').collect();
    let valid = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    valid.then_some(mac)
}

/// Prefix length of a dotted netmask.
fn prefix(netmask: &str) -> Option<u32> {
    let mask: std::net::Ipv4Addr = netmask.parse().ok()?;
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then_some(ones)
}

/// `address` with the prefix length of `netmask`, which may be a length itself.
fn with_prefix(address: &str, netmask: Option<&str>) -> String {
    let length = netmask.and_then(|mask| mask.parse().ok().or_else(|| prefix(mask)));
    match length {
        Some(length) if !address.contains('/') => format!("{address}/{length}"),
        _ => address.to_owned(),
    }
}
