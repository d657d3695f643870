//! Which IPv4 addresses a guest answers for: a [`Wire`] that asks as a neighbour on its network would.
//!
//! Source: RFC 826 (ARP) and RFC 5227 section 2.1.1: a probe has no sender address, so that it fits
//! every subnet and leaves nothing behind in the guest. Left out: IPv6 (neighbour discovery), frames
//! with a VLAN tag.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Mac, Wire};

/// Between two questions for one address.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The asking card: locally administered, and of nobody.
const OURS: Mac = Mac([0x02, 0x72, 0x65, 0x68, 0x6f, 0x01]);

const BROADCAST: [u8; 6] = [0xff; 6];

/// EtherType of ARP; its hardware and protocol types, and their lengths, for Ethernet and IPv4.
const ARP: [u8; 2] = [0x08, 0x06];
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Shortest frame on Ethernet, without its checksum.
const FRAME_MIN: usize = 60;

/// Who answered for an address.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Answer {
    /// The card.
    pub mac: Mac,
    /// When, in seconds from the first question on.
    pub seconds: f64,
}

/// Asks for addresses until each has been answered.
#[derive(Debug)]
pub struct Neighbours {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Option<Instant>,
    /// Each with when it is to be asked for next.
    open: BTreeMap<Ipv4Addr, Option<Instant>>,
    answers: BTreeMap<Ipv4Addr, Answer>,
}

impl Neighbours {
    /// Will ask for `addresses`.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self {
            state: Mutex::new(State {
                start: None,
                open: addresses
                    .into_iter()
                    .map(|address| (address, None))
                    .collect(),
                answers: BTreeMap::new(),
            }),
        }
    }

    /// Who has answered for `address`.
    #[must_use]
    pub fn answer(&self, address: Ipv4Addr) -> Option<Answer> {
        self.lock().answers.get(&address).copied()
    }

    /// Whether every address has been answered.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// The next question that is due at `now`.
    fn due_at(&self, now: Instant) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.start.get_or_insert(now);
        let (address, next) = state
            .open
            .iter_mut()
            .find(|(_, next)| next.is_none_or(|next| next <= now))?;
        *next = now.checked_add(ASK_EVERY);
        Some(request(*address))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Neighbours {
    fn received(&self, frame: &[u8]) {
        let Some((mac, address)) = reply(frame) else {
            return;
        };
        let mut state = self.lock();
        if state.open.remove(&address).is_some() {
            let since = state.start.map_or(Duration::ZERO, |start| start.elapsed());
            let seconds = since.as_secs_f64();
            state.answers.insert(address, Answer { mac, seconds });
        }
    }

    fn due(&self) -> Option<Vec<u8>> {
        self.due_at(Instant::now())
    }
}

/// "Who has `address`?", to everybody.
fn request(address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_MIN);
    frame.extend(BROADCAST);
    frame.extend(OURS.0);
    frame.extend(ARP);
    frame.extend(ETHERNET_IPV4);
    frame.extend(REQUEST);
    frame.extend(OURS.0);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

/// Card and address of an ARP reply.
fn reply(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let (_addresses, rest) = frame.split_at_checked(12)?;
    let rest = rest.strip_prefix(&ARP)?;
    let rest = rest.strip_prefix(&ETHERNET_IPV4)?;
    let rest = rest.strip_prefix(&REPLY)?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (address, _target) = rest.split_first_chunk::<4>()?;
    Some((Mac(*mac), Ipv4Addr::from(*address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const CARD: Mac = Mac([0, 0x0c, 0x29, 0x2e, 0xc0, 0x31]);

    fn answer() -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(OURS.0);
        frame.extend(CARD.0);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(CARD.0);
        frame.extend(ADDRESS.octets());
        frame.extend(OURS.0);
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn an_address_is_asked_for_until_its_card_answers() {
        let asked = Neighbours::new([ADDRESS]);
        let now = Instant::now();
        let question = asked.due_at(now).unwrap();
        assert_eq!(question.len(), 60);
        // As tcpdump decodes it: Request who-has 192.0.2.10 tell 0.0.0.0
        assert_eq!(
            question[12..42],
            [
                8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x02, 0x72, 0x65, 0x68, 0x6f, 0x01, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0, 192, 0, 2, 10
            ]
        );
        assert_eq!(asked.due_at(now), None, "a second has not passed");
        assert_eq!(asked.due_at(now + ASK_EVERY), Some(question));
        assert!(!asked.all_answered());
        asked.received(&answer());
        assert!(asked.all_answered());
        assert_eq!(asked.answer(ADDRESS).unwrap().mac, CARD);
        assert_eq!(asked.due_at(now + 2 * ASK_EVERY), None);
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let asked = Neighbours::new([ADDRESS]);
        let good = answer();
        for at in [12, 14, 16, 18, 21, 30] {
            let mut frame = good.clone();
            frame[at] ^= 0x40;
            asked.received(&frame);
        }
        for len in 0..32 {
            asked.received(&good[..len]);
        }
        // A question of the guest's own.
        asked.received(&request(ADDRESS));
        assert!(!asked.all_answered());
    }
}
