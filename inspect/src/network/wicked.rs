//! `/etc/wicked/ifconfig/*.xml`: interfaces in wicked's own form.
//!
//! wicked(8), wicked-config(5), and `wicked show-config`, which writes this form of every ifcfg file. An
//! administrator may keep such files beside or in place of those. Left out on purpose: wireless, modems,
//! tunnels, and rules that stand in `/etc/wicked/common.xml`.

use quick_xml::Reader as Xml;
use quick_xml::events::Event;

use super::{files, interface, mac};
use crate::model::{AddressMethod, Finding, Interface, InterfaceKind, NetworkTool, Severity};
use crate::reader::Reader;
use crate::text::Text;

const FOLDER: &str = "/etc/wicked/ifconfig";

/// Deepest nesting that is followed. Ours: wicked needs six.
const DEEPEST: usize = 32;

pub(super) fn read(reader: &Reader<'_>) -> Vec<Interface> {
    files(reader, FOLDER, |name| name.ends_with(".xml"))
        .flat_map(|text| match interfaces(&text) {
            Ok(found) => found,
            Err((line, why)) => {
                reader.find(Finding {
                    severity: Severity::Note,
                    id: "wicked-not-read",
                    what: format!("this file of wicked is not understood: {why}"),
                    evidence: vec![text.place(line)],
                    fix: None,
                });
                Vec::new()
            }
        })
        .collect()
}

/// The interfaces of a file; the line and the reason where it is no XML.
fn interfaces(text: &Text) -> Result<Vec<Interface>, (u32, String)> {
    let mut xml = Xml::from_str(&text.content);
    // One file may hold several interfaces, without anything around them.
    xml.config_mut().check_end_names = true;
    let mut found: Vec<Interface> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    // A route's destination stands before its gateway, and none is the default.
    let mut elsewhere = false;
    let mut lines = Lines::of(&text.content);
    loop {
        let line = lines.at(xml.buffer_position());
        let event = xml
            .read_event()
            .map_err(|error| (line, error.to_string()))?;
        match event {
            Event::Start(start) => {
                let name = start.name().into_inner().to_owned();
                path.push(name.clone());
                if path.len() > DEEPEST {
                    return Err((line, "nesting deeper than any of wicked's files".to_owned()));
                }
                match name.as_str() {
                    "interface" => found.push(interface(NetworkTool::Wicked, text.place(line))),
                    "route" => elsewhere = false,
                    _ => {}
                }
                if let Some(last) = found.last_mut() {
                    kind(last, &path);
                }
            }
            Event::Empty(start) => {
                path.push(start.name().into_inner().to_owned());
                if let Some(last) = found.last_mut() {
                    kind(last, &path);
                }
                path.pop();
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Text(value) => {
                let value = value.trim();
                if let Some(last) = found.last_mut().filter(|_| !value.is_empty()) {
                    set(last, &path, value, &mut elsewhere);
                }
            }
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

/// The lines of a text, told for places that only move on: each byte is looked at once.
struct Lines<'a> {
    /// What was not counted yet.
    rest: &'a str,
    /// Bytes before it.
    at: usize,
    /// Its line.
    line: u32,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            rest: text,
            at: 0,
            line: 1,
        }
    }

    /// The line of what begins at `at` or, after blanks, behind it.
    fn at(&mut self, at: u64) -> u32 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        // Behind the blanks already where these were counted before.
        let by = at.saturating_sub(self.at);
        let rest = self.rest.get(by..).unwrap_or_default();
        // Blanks before an element belong to what is before it.
        let rest = rest.trim_start();
        let by = self.rest.len().saturating_sub(rest.len());
        let passed = self.rest.get(..by).unwrap_or_default();
        let lines = passed.bytes().filter(|byte| *byte == b'\n').count();
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        self.line = self.line.saturating_add(lines);
        self.at = self.at.saturating_add(by);
        self.rest = rest;
        self.line
    }
}

/// What the elements alone tell.
fn kind(interface: &mut Interface, path: &[String]) {
    let inside = path.iter().rev().take_while(|name| *name != "interface");
    if inside.count() != 1 {
        return;
    }
    match path.last().map(String::as_str) {
        Some("bond") => interface.kind = InterfaceKind::Bond,
        Some("team") => interface.kind = InterfaceKind::Team,
        Some("bridge") => interface.kind = InterfaceKind::Bridge,
        Some("vlan") => interface.kind = InterfaceKind::Vlan,
        Some("dummy" | "macvlan" | "tun" | "tap") => interface.kind = InterfaceKind::Virtual,
        Some("ipv4:dhcp" | "ipv6:dhcp" | "ipv6:auto") => interface.method = AddressMethod::Dhcp,
        _ => {}
    }
}

fn set(interface: &mut Interface, path: &[String], value: &str, elsewhere: &mut bool) {
    let names: Vec<&str> = path
        .iter()
        .map(String::as_str)
        .skip_while(|name| *name != "interface")
        .skip(1)
        .collect();
    match names.as_slice() {
        ["name"] => interface.name = Some(value.to_owned()),
        ["name", "permanent-address" | "ethernet:permanent-address"]
        | ["ethernet", "address" | "permanent-address"] => {
            interface.mac = mac(value);
        }
        ["ipv4:static" | "ipv6:static", "address", "local"] => {
            interface.addresses.push(value.to_owned());
            interface.method = AddressMethod::Static;
        }
        ["ipv4:static" | "ipv6:static", "route", "destination"] => {
            *elsewhere = !matches!(value, "0.0.0.0/0" | "::/0" | "default");
        }
        ["ipv4:static" | "ipv6:static", "route", "nexthop", "gateway"] if !*elsewhere => {
            interface.gateways.push(value.to_owned());
        }
        ["ipv4:dhcp" | "ipv6:dhcp" | "ipv6:auto", "enabled"] if value == "false" => {
            interface.method = match interface.addresses.is_empty() {
                true => AddressMethod::None,
                false => AddressMethod::Static,
            };
        }
        ["vlan", "device"]
        | ["bond", "slaves", "slave", "device"]
        | ["bridge", "ports", "port", "device"] => interface.uses.push(value.to_owned()),
        ["vlan", "tag"] => interface.vlan = value.parse().ok(),
        ["link", "master"] => interface.member_of = Some(value.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Interface> {
        interfaces(&Text::new("/etc/wicked/ifconfig/all.xml", text.as_bytes())).unwrap()
    }

    #[test]
    fn what_wicked_shows_of_a_server_is_read() {
        let found = found(
            "<!-- by hand -->\n<interface origin=\"x\">\n  <name>eth0</name>\n  <control>\n    \
             <mode>boot</mode>\n  </control>\n  <firewall/>\n  <ethernet>\n    \
             <address>00:50:56:AC:CF:51</address>\n  </ethernet>\n  <ipv4>\n    <enabled>true</enabled>\n  </ipv4>\n  <ipv4:static>\n    <address>\n      \
             <local>192.0.2.10/24</local>\n    </address>\n    <route>\n      \
             <destination>198.51.100.0/24</destination>\n      <nexthop>\n        \
             <gateway>192.0.2.9</gateway>\n      </nexthop>\n    </route>\n    <route>\n      \
             <nexthop>\n        <gateway>192.0.2.1</gateway>\n      </nexthop>\n    </route>\n  \
             </ipv4:static>\n</interface>\n<interface>\n  <name>eth1</name>\n  <ipv4:dhcp>\n    \
             <enabled>true</enabled>\n  </ipv4:dhcp>\n</interface>\n",
        );
        let [first, second] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(first.name.as_deref(), Some("eth0"));
        assert_eq!(first.place.line, Some(2));
        assert_eq!(first.mac.as_deref(), Some("00:50:56:ac:cf:51"));
        assert_eq!(first.addresses, ["192.0.2.10/24"]);
        assert_eq!(first.gateways, ["192.0.2.1"]);
        assert_eq!(first.method, AddressMethod::Static);
        assert_eq!(second.name.as_deref(), Some("eth1"));
        assert_eq!(second.method, AddressMethod::Dhcp);
    }

    #[test]
    fn bonds_bridges_and_vlans_know_their_parts() {
        let found = found(
            "<interface><name>bond0</name><bond><slaves><slave><device>eth0</device></slave>\
             <slave><device>eth1</device></slave></slaves></bond></interface>\
             <interface><name>lan</name><vlan><device>bond0</device><tag>7</tag></vlan></interface>\
             <interface><name>br0</name><bridge><ports><port><device>lan</device></port></ports>\
             </bridge></interface>",
        );
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.kind, one.uses.join(" "), one.vlan))
            .collect();
        assert_eq!(
            shown,
            [
                (InterfaceKind::Bond, "eth0 eth1".to_owned(), None),
                (InterfaceKind::Vlan, "bond0".to_owned(), Some(7)),
                (InterfaceKind::Bridge, "lan".to_owned(), None),
            ]
        );
    }

    #[test]
    fn what_is_no_xml_is_told_with_its_line() {
        let text = Text::new("/x.xml", b"<interface>\n<name>eth0</nam>\n</interface>\n");
        assert_eq!(interfaces(&text).unwrap_err().0, 2);
        let deep = Text::new("/x.xml", "<a>".repeat(100).as_bytes());
        assert!(interfaces(&deep).is_err());
    }

    #[test]
    fn lines_are_counted_on_from_the_last_one() {
        let text = "<a>\n \n<b/>x\n</a>";
        let mut lines = Lines::of(text);
        // A place within the blanks that were passed already has the line behind them.
        let told: Vec<u32> = [0, 3, 5, 6, 10, 11, 12, 90].map(|at| lines.at(at)).into();
        assert_eq!(told, [1, 3, 3, 3, 3, 4, 4, 4]);
        // As long as a file may be: counted from its beginning each time, this takes minutes.
        let many = format!("{}\n<interface/><interface><name>", "<a/>".repeat(1 << 18));
        let text = Text::new("/x.xml", many.as_bytes());
        assert_eq!(interfaces(&text).unwrap()[0].place.line, Some(2));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn arbitrary_text_never_panics(text in "(<[/!]?(interface|name|ipv4:static|a)?[ />]|[a-z&;\"\\n]){0,40}") {
            let _ = interfaces(&Text::new("/x.xml", text.as_bytes()));
        }
    }
}
