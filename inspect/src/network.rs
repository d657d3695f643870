//! Network interfaces that a guest's configuration names, whoever reads the file.

mod ifcfg;
mod ifupdown;
mod naming;
mod netplan;
mod sections;
mod yaml;

use crate::model::{AddressMethod, Interface, NetworkTool, Place};
use crate::reader::Reader;
use crate::text::Text;

/// All interfaces, in the order in which the files are read.
pub(crate) fn find(reader: &Reader<'_>) -> Vec<Interface> {
    let mut interfaces = ifupdown::read(reader);
    interfaces.extend(netplan::read(reader));
    interfaces.extend(sections::network_manager(reader));
    interfaces.extend(sections::networkd(reader));
    interfaces.extend(ifcfg::read(reader));
    interfaces.extend(naming::read(reader));
    interfaces
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
        mac: None,
        method: AddressMethod::None,
        addresses: Vec::new(),
        gateways: Vec::new(),
        configured_by: tool,
        place,
    }
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
