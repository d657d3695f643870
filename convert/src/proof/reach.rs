//! By which frames the interfaces of a guest are reached from its cards.

use std::collections::{BTreeMap, BTreeSet};

use rehost_inspect::model::{Interface, InterfaceKind};

/// Interfaces made of one another at most: a bridge over a VLAN over a bond over cards has four.
const DEEPEST: usize = 8;

/// The numbers that a VLAN can have (IEEE 802.1Q).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// By which frames one is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Frames without a tag.
    Untagged,
    /// Frames with the number of a VLAN.
    Tagged(u16),
    /// By none, and why.
    Not(&'static str),
}

/// What all configuration of one name says together.
#[derive(Debug, Default)]
struct Named<'a> {
    kind: Option<InterfaceKind>,
    /// The interfaces that it is made of.
    below: BTreeSet<&'a str>,
    vlan: Option<u16>,
}

/// The interfaces by name, and what is known of each.
pub(super) struct Reach<'a> {
    named: BTreeMap<&'a str, Named<'a>>,
    known: BTreeMap<&'a str, Reached>,
}

/// The name without the label of a further address (`eth0:1`).
fn own_name(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

impl<'a> Reach<'a> {
    pub(super) fn new(interfaces: &'a [Interface]) -> Self {
        let mut named: BTreeMap<&str, Named<'_>> = BTreeMap::new();
        for interface in interfaces {
            let Some(name) = interface.name.as_deref().map(own_name) else {
                continue;
            };
            let one = named.entry(name).or_default();
            // A card is what is said of nothing else.
            if one.kind.is_none_or(|kind| kind == InterfaceKind::Ethernet) {
                one.kind = Some(interface.kind);
            }
            one.below.extend(interface.uses.iter().map(String::as_str));
            one.vlan = one.vlan.or(interface.vlan);
            if let Some(owner) = interface.member_of.as_deref() {
                named.entry(owner).or_default().below.insert(name);
            }
        }
        Self {
            named,
            known: BTreeMap::new(),
        }
    }

    /// How `interface`, which is one of them, is reached.
    pub(super) fn of(&mut self, interface: &'a Interface) -> Reached {
        match interface.name.as_deref() {
            Some(name) => self.by_name(own_name(name), 0),
            // Found by its card's address.
            None => Reached::Untagged,
        }
    }

    fn by_name(&mut self, name: &'a str, depth: usize) -> Reached {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let Some(one) = self.named.get(name) else {
            return undescribed(name);
        };
        if depth == DEEPEST {
            return Reached::Not("too many interfaces are made of one another");
        }
        // What is met again while it is looked at is made of itself.
        let ring = Reached::Not("interfaces are made of each other");
        let (kind, vlan, below) = (one.kind, one.vlan, one.below.clone());
        self.known.insert(name, ring);
        let is_card = kind.is_none_or(|kind| kind == InterfaceKind::Ethernet);
        let below: Vec<Reached> = below
            .into_iter()
            .filter(|other| !is_card && *other != name)
            .map(|other| self.by_name(other, depth + 1))
            .collect();
        let reached = match kind {
            None | Some(InterfaceKind::Ethernet) => Reached::Untagged,
            Some(InterfaceKind::Bond | InterfaceKind::Team | InterfaceKind::Bridge) => {
                // Members that no file describes are cards.
                let first = below.first().copied().unwrap_or(Reached::Untagged);
                if below.iter().all(|other| *other == first) {
                    first
                } else {
                    Reached::Not("it is in several networks")
                }
            }
            Some(InterfaceKind::Vlan) => match (tagged(vlan), below.first()) {
                (Some(tag), None | Some(Reached::Untagged)) => tag,
                (Some(_), Some(Reached::Not(why))) => Reached::Not(why),
                (Some(_), Some(Reached::Tagged(_))) => Reached::Not("it is a VLAN in a VLAN"),
                (None, _) => Reached::Not("its VLAN has no number"),
            },
            Some(InterfaceKind::Virtual) => Reached::Not("it is no card's"),
        };
        self.known.insert(name, reached);
        reached
    }
}

fn tagged(vlan: Option<u16>) -> Option<Reached> {
    vlan.filter(|vlan| VLANS.contains(vlan))
        .map(Reached::Tagged)
}

/// An interface of which no file says more than its name: a card, or `eth0.100`.
fn undescribed(name: &str) -> Reached {
    let number = name.rsplit_once('.').map(|(_, number)| number);
    tagged(number.and_then(|number| number.parse().ok())).unwrap_or(Reached::Untagged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_inspect::model::{AddressMethod, NetworkTool, Place};

    fn interface(name: &str, kind: InterfaceKind, uses: &[&str]) -> Interface {
        Interface {
            name: Some(name.to_owned()),
            kind,
            mac: None,
            method: AddressMethod::Static,
            addresses: Vec::new(),
            gateways: Vec::new(),
            nameservers: Vec::new(),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
            member_of: None,
            vlan: None,
            configured_by: NetworkTool::Ifupdown,
            place: Place::file("/etc/network/interfaces"),
        }
    }

    fn vlan(name: &str, uses: &[&str], number: u16) -> Interface {
        Interface {
            vlan: Some(number),
            ..interface(name, InterfaceKind::Vlan, uses)
        }
    }

    /// Each as [`Reach`] says, in order.
    fn reached(all: &[Interface]) -> Vec<Reached> {
        let mut reach = Reach::new(all);
        all.iter().map(|one| reach.of(one)).collect()
    }

    #[test]
    fn frames_carry_the_tag_of_the_vlan_below() {
        use InterfaceKind::{Bridge, Ethernet, Virtual};
        let mut joined = interface("eth1", Ethernet, &[]);
        joined.member_of = Some("br1".to_owned());
        let all = [
            interface("eth0", Ethernet, &[]),
            vlan("eth0.100", &["eth0"], 100),
            joined,
            interface("br0", Bridge, &["eth0.100"]),
            interface("br1", Bridge, &[]),
            // Of this one no file says more.
            interface("br2", Bridge, &["eth0.7"]),
            interface("eth0:1", Ethernet, &[]),
            interface("eth0.100:2", Ethernet, &[]),
            vlan("lan", &["eth0.100"], 7),
            interface("both", Bridge, &["eth0", "eth0.100"]),
            interface("ring", Bridge, &["knot"]),
            interface("knot", Bridge, &["ring"]),
            vlan("none", &["eth0"], 0),
            interface("wg0", Virtual, &[]),
        ];
        let said = reached(&all);
        let ways = said[..8].to_vec();
        use Reached::{Tagged, Untagged};
        assert_eq!(
            ways,
            [
                Untagged,
                Tagged(100),
                Untagged,
                Tagged(100),
                Untagged,
                Tagged(7),
                Untagged,
                Tagged(100)
            ]
        );
        for (one, all) in said[8..].iter().zip(&all[8..]) {
            assert!(matches!(one, Reached::Not(_)), "{all:?}: {one:?}");
        }
    }

    #[test]
    fn what_several_entries_say_of_one_name_belongs_together() {
        use InterfaceKind::{Bridge, Ethernet, Vlan};
        // A stanza for each family; a device and its network in files of their own.
        let all = [
            interface("br0", Bridge, &["eth0.100"]),
            interface("br0", Bridge, &[]),
            vlan("lan", &["bond0"], 7),
            interface("lan", Ethernet, &[]),
            vlan("dmz", &["eth0"], 8),
            interface("dmz", Vlan, &[]),
        ];
        use Reached::Tagged;
        assert_eq!(reached(&all), [100, 100, 7, 7, 8, 8].map(Tagged));
    }

    #[test]
    fn many_interfaces_made_of_one_another_take_no_longer() {
        let names: Vec<String> = (0..300).map(|nth| format!("br{nth}")).collect();
        let uses: Vec<&str> = names.iter().map(String::as_str).collect();
        let all: Vec<Interface> = names
            .iter()
            .map(|name| interface(name, InterfaceKind::Bridge, &uses))
            .collect();
        assert_eq!(reached(&all).len(), 300);
    }
}
