//! Whether a guest that is booted answers for the addresses that its configuration gives it.
//!
//! Its cards hang on a wire whose other end is here; nothing else is on it, and nothing is forwarded.
//! Left out: addresses from a DHCP server (there is none); what else is not asked for is told, with why.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rehost_block::{Error, Result};
use rehost_inspect::Inspection;
use rehost_runtime::{Asked, Mac, MachineNic, Neighbours, Next, NicModel, Wire};
use serde::Serialize;

use super::reach::{Reach, Reached};

use crate::source::Nic;

/// Network cards of a proof's machine at most: as many as QEMU's is given.
const MOST_CARDS: usize = 10;

/// Addresses that are asked for at most. Ours: a server has some, and every card is asked for each.
const MOST_ADDRESSES: usize = 256;

/// How long a guest whose login prompt stands is waited for: networks come up beside it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A card that has no address gets this one and the next: locally administered.
const MADE_UP: [u8; 6] = [0x02, 0x72, 0x65, 0x68, 0x6f, 0x80];

/// A guest's cards, and what it is to answer for.
#[derive(Debug, Clone)]
pub struct Network {
    cards: Vec<(NicModel, Mac)>,
    addresses: Vec<(String, Asked)>,
    left_out: Vec<LeftOut>,
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
        let interfaces = inspection
            .system()
            .map_or(&[][..], |system| &system.network);
        let mut reach = Reach::new(interfaces);
        let mut network = Self {
            cards,
            addresses: Vec::new(),
            left_out: Vec::new(),
        };
        let mut known = BTreeSet::new();
        for interface in interfaces {
            let reached = reach.of(interface);
            for written in &interface.addresses {
                let name = interface.name.clone().or_else(|| interface.mac.clone());
                let name = name.unwrap_or_default();
                let mut leave_out = |why: &str| {
                    network.left_out.push(LeftOut {
                        interface: name.clone(),
                        address: written.clone(),
                        why: why.to_owned(),
                    });
                };
                let address = written.split('/').next().unwrap_or_default();
                let Ok(address) = address.parse::<IpAddr>() else {
                    leave_out("it is not understood");
                    continue;
                };
                // Placeholders, and what never leaves the guest.
                if address.is_loopback() || address.is_unspecified() {
                    continue;
                }
                let vlan = match reached {
                    Reached::Untagged => None,
                    Reached::Tagged(vlan) => Some(vlan),
                    Reached::Not(why) => {
                        leave_out(why);
                        continue;
                    }
                };
                let asked = Asked { address, vlan };
                if known.len() == MOST_ADDRESSES && !known.contains(&asked) {
                    leave_out("so many are not asked for");
                } else if known.insert(asked) {
                    network.addresses.push((name, asked));
                }
            }
        }
        network
    }

    /// Refuses more network cards than the machine of a proof takes.
    ///
    /// # Errors
    /// Unsupported.
    pub fn check_cards(count: usize) -> Result<()> {
        if count <= MOST_CARDS {
            return Ok(());
        }
        let error = Error::unsupported("the network of a guest with so many cards is not checked");
        Err(error
            .mismatch(format!("at most {MOST_CARDS}"), count)
            .hint("leave --check-network out"))
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
            left_out: self.network.left_out.clone(),
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
    /// Each static address that it was not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// An address that a guest is not asked for.
#[derive(Debug, Clone, Serialize)]
pub struct LeftOut {
    /// The interface that the configuration gives it to.
    pub interface: String,
    /// The address, as it is written there.
    pub address: String,
    /// Why.
    pub why: String,
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
    /// When, in seconds from the first question on.
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
        for LeftOut {
            interface,
            address,
            why,
        } in &self.left_out
        {
            write!(f, "\n{address} ({interface}) is not asked for: {why}")?;
        }
        Ok(())
    }
}
