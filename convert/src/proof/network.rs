//! Whether a guest that is booted answers for the addresses that its configuration gives it.
//!
//! Its cards hang on a wire whose other end is here; nothing else is on it, and nothing is forwarded.
//! Left out: IPv6, addresses from a DHCP server (there is none), and those on a VLAN.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rehost_inspect::Inspection;
use rehost_inspect::model::InterfaceKind;
use rehost_runtime::{Mac, MachineNic, Neighbours, Next, NicModel, Wire};
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
    addresses: Vec<(String, Ipv4Addr)>,
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
        for interface in interfaces {
            let alone = matches!(
                interface.kind,
                InterfaceKind::Ethernet
                    | InterfaceKind::Bond
                    | InterfaceKind::Team
                    | InterfaceKind::Bridge
            );
            for written in interface.addresses.iter().filter(|_| alone) {
                let address = written.split('/').next().unwrap_or_default();
                let Ok(address) = address.parse::<Ipv4Addr>() else {
                    continue;
                };
                let name = interface.name.clone().or_else(|| interface.mac.clone());
                let known = addresses.iter().any(|(_, other)| *other == address);
                if !address.is_loopback() && !known {
                    addresses.push((name.unwrap_or_default(), address));
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
            .map(|_| Neighbours::new(self.addresses.iter().map(|(_, address)| *address)))
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
        self.network.addresses.iter().map(|(interface, address)| {
            let answer = self.wires.iter().find_map(|wire| wire.answer(*address));
            Answered {
                interface: interface.clone(),
                address: *address,
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
    pub address: Ipv4Addr,
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
