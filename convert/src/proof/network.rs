//! Whether a guest that is booted answers for the addresses that its configuration gives it.
//!
//! Its cards hang on a wire whose other end is here; nothing else is on it, and nothing is forwarded.
//! Left out: addresses from a DHCP server (there is none), and those on a VLAN inside a VLAN.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rehost_inspect::Inspection;
use rehost_inspect::model::{Interface, InterfaceKind};
use rehost_runtime::{Asked, Mac, MachineNic, Neighbours, Next, NicModel, Wire};
use serde::Serialize;

use crate::source::Nic;

/// How long a guest whose login prompt stands is waited for: networks come up beside it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A card that has no address gets this one and the next: locally administered.
const MADE_UP: [u8; 6] = [0x02, 0x72, 0x65, 0x68, 0x6f, 0x80];

/// A guest's cards, and what it is to answer for.
#[derive(Debug, Clone)]
pub struct Network {
    cards: Vec<(NicModel, Mac)>,
    addresses: Vec<(String, Asked)>,
}

impl Network {
    /// The cards `nics`, of the models that `model` has for them, and the static addresses of the chosen
    /// system of `inspection`.
    #[must_use]
    pub fn of(inspection: &Inspection, nics: &[Nic], model: impl Fn(&Nic) -> NicModel) -> Self {
        let cards = nics
            .iter()
            .enumerate()
            .map(|(nth, nic)| {
                let [a, b, c, d, high, low] = MADE_UP;
                let nth = u16::try_from(nth).unwrap_or(u16::MAX);
                let [high, low] = u16::from_be_bytes([high, low])
                    .wrapping_add(nth)
                    .to_be_bytes();
                let made_up = Mac([a, b, c, d, high, low]);
                let mac = nic.mac.as_deref().and_then(|mac| mac.parse().ok());
                (model(nic), mac.unwrap_or(made_up))
            })
            .collect();
        let mut addresses = Vec::new();
        let interfaces = inspection
            .system()
            .map_or(&[][..], |system| &system.network);
        let mut tags = Tags::new(interfaces);
        for (nth, interface) in interfaces.iter().enumerate() {
            let Some(vlan) = tags.of(nth, 0) else {
                continue;
            };
            for written in &interface.addresses {
                let address = written.split('/').next().unwrap_or_default();
                let Ok(address) = address.parse::<IpAddr>() else {
                    continue;
                };
                let asked = Asked { address, vlan };
                let name = interface.name.clone().or_else(|| interface.mac.clone());
                let known = addresses.iter().any(|(_, other)| *other == asked);
                if !address.is_loopback() && !known {
                    addresses.push((name.unwrap_or_default(), asked));
                }
            }
        }
        Self { cards, addresses }
    }

    /// Whether there is nothing to answer for, or no card to do it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cards.is_empty() || self.addresses.is_empty()
    }

    /// The question, for one boot.
    pub(super) fn ask(&self) -> Question {
        let wires = self
            .cards
            .iter()
            .map(|_| Neighbours::new(self.addresses.iter().map(|(_, asked)| *asked)))
            .map(Arc::new)
            .collect();
        Question {
            network: self.clone(),
            wires,
        }
    }
}

/// What is asked of a guest while it boots.
#[derive(Debug)]
pub(super) struct Question {
    network: Network,
    /// One a card.
    wires: Vec<Arc<Neighbours>>,
}

impl Question {
    /// The cards on their wires.
    pub(super) fn nics(&self) -> Vec<MachineNic> {
        self.network
            .cards
            .iter()
            .zip(&self.wires)
            .map(|((model, mac), wire)| MachineNic {
                model: *model,
                mac: *mac,
                wire: Arc::clone(wire) as Arc<dyn Wire>,
            })
            .collect()
    }

    fn answers(&self) -> impl Iterator<Item = Answered> {
        self.network.addresses.iter().map(|(interface, asked)| {
            let answer = self.wires.iter().find_map(|wire| wire.answer(*asked));
            Answered {
                interface: interface.clone(),
                address: asked.address,
                vlan: asked.vlan,
                card: answer.map(|answer| answer.mac),
                seconds: answer.map(|answer| answer.seconds),
            }
        })
    }

    /// `next`, but a guest that has yet to answer runs on for a while from when it is first to stop.
    pub(super) fn or(&self, next: Next, since: &mut Option<Instant>) -> Next {
        if next == Next::Continue {
            return next;
        }
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        if waited < PATIENCE && self.answers().any(|answer| answer.card.is_none()) {
            Next::Continue
        } else {
            Next::Stop
        }
    }

    /// What came of it.
    pub(super) fn proof(&self) -> NetworkProof {
        NetworkProof {
            cards: self
                .network
                .cards
                .iter()
                .map(|(model, mac)| Card {
                    model: *model,
                    mac: *mac,
                })
                .collect(),
            answers: self.answers().collect(),
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkProof {
    /// The cards that the guest had.
    pub cards: Vec<Card>,
    /// Each address that it was asked for.
    pub answers: Vec<Answered>,
}

/// A card that a guest was booted with.
#[derive(Debug, Clone, Serialize)]
pub struct Card {
    /// Its model.
    pub model: NicModel,
    /// Its address.
    pub mac: Mac,
}

/// An address, and who answered for it.
#[derive(Debug, Clone, Serialize)]
pub struct Answered {
    /// The interface that the configuration gives it to.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The VLAN in which it is, where it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The card that answered; `None` when none did.
    pub card: Option<Mac>,
    /// When, in seconds from when the machine started.
    pub seconds: Option<f64>,
}

impl NetworkProof {
    /// Whether every address was answered for.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.answers.iter().all(|answer| answer.card.is_some())
    }
}

impl fmt::Display for NetworkProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, answer) in self.answers.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            let Answered {
                interface, address, ..
            } = answer;
            let address = match answer.vlan {
                Some(vlan) => format!("{address} in VLAN {vlan}"),
                None => address.to_string(),
            };
            match (answer.card, answer.seconds) {
                (Some(card), Some(seconds)) => write!(
                    f,
                    "card {card} answers for {address} ({interface}) after {seconds:.0} s"
                )?,
                _ => write!(f, "nobody answers for {address} ({interface})")?,
            }
        }
        Ok(())
    }
}

/// Interfaces made of one another at most: a bridge over a VLAN over a bond over cards has four.
const DEEPEST: usize = 8;

/// By which frames interfaces are reached from their cards.
struct Tags<'a> {
    all: &'a [Interface],
    /// What is known of each, and that it is being looked at: then it is made of itself.
    known: Vec<Option<Tag>>,
}

/// Frames without a tag, or with the number of a VLAN. Nothing where that is not one network: a tag inside a
/// tag, software alone, interfaces made of each other.
type Tag = Option<Option<u16>>;

impl<'a> Tags<'a> {
    fn new(all: &'a [Interface]) -> Self {
        let known = vec![None; all.len()];
        Self { all, known }
    }

    fn of(&mut self, nth: usize, depth: usize) -> Tag {
        if let Some(known) = self.known[nth] {
            return known;
        }
        if depth == DEEPEST {
            return None;
        }
        self.known[nth] = Some(None);
        let (all, interface) = (self.all, &self.all[nth]);
        let is_member = |other: &Interface| {
            other
                .name
                .as_ref()
                .is_some_and(|name| interface.uses.contains(name))
                || other.member_of.is_some() && other.member_of == interface.name
        };
        let made_of_others = interface.kind != InterfaceKind::Ethernet;
        let below: Vec<Tag> = (0..all.len())
            .filter(|other| made_of_others && *other != nth && is_member(&all[*other]))
            .map(|other| self.of(other, depth + 1))
            .collect();
        let tag = match interface.kind {
            InterfaceKind::Ethernet => Some(None),
            InterfaceKind::Bond | InterfaceKind::Team | InterfaceKind::Bridge => {
                // Members that no file describes are cards.
                let first = below.first().copied().unwrap_or(Some(None));
                below
                    .iter()
                    .all(|tag| *tag == first)
                    .then_some(first)
                    .flatten()
            }
            InterfaceKind::Vlan => {
                let plain = below.iter().all(|tag| *tag == Some(None));
                (plain && interface.vlan.is_some()).then_some(interface.vlan)
            }
            _ => None,
        };
        self.known[nth] = Some(tag);
        tag
    }
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

    #[test]
    fn frames_carry_the_tag_of_the_vlan_below() {
        use InterfaceKind::{Bridge, Ethernet, Vlan};
        let mut vlan = interface("eth0.100", Vlan, &["eth0"]);
        vlan.vlan = Some(100);
        let mut inner = interface("eth0.100.7", Vlan, &["eth0.100"]);
        inner.vlan = Some(7);
        let mut joined = interface("eth1", Ethernet, &[]);
        joined.member_of = Some("br1".to_owned());
        let all = [
            interface("eth0", Ethernet, &[]),
            vlan,
            inner,
            joined,
            interface("br0", Bridge, &["eth0.100"]),
            interface("br1", Bridge, &[]),
            // Of a card and of a VLAN on it: in no one network.
            interface("br2", Bridge, &["eth0", "eth0.100"]),
            interface("ring", Bridge, &["knot"]),
            interface("knot", Bridge, &["ring"]),
        ];
        let mut tags = Tags::new(&all);
        let tags: Vec<Tag> = (0..all.len()).map(|nth| tags.of(nth, 0)).collect();
        let of_no_card = None;
        assert_eq!(
            tags,
            [
                Some(None),
                Some(Some(100)),
                of_no_card,
                Some(None),
                Some(Some(100)),
                Some(None),
                of_no_card,
                of_no_card,
                of_no_card,
            ]
        );
    }
}
