//! Which addresses a guest answers for: a [`Wire`] that asks as a neighbour on its network would, by ARP
//! for IPv4 and neighbour discovery for IPv6, inside VLANs too.

mod frames;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Mac, Wire};

/// Between two questions for one address.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// An address that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// The address.
    pub address: IpAddr,
    /// The VLAN in which it is, where it is in one.
    pub vlan: Option<u16>,
}

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
    open: BTreeMap<Asked, Option<Instant>>,
    answers: BTreeMap<Asked, Answer>,
}

impl Neighbours {
    /// Will ask for `addresses`.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = Asked>) -> Self {
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
    pub fn answer(&self, address: Asked) -> Option<Answer> {
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
        Some(frames::question(*address))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Neighbours {
    fn received(&self, frame: &[u8]) {
        let Some((mac, address)) = frames::answer(frame) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)),
        vlan: None,
    };
    const CARD: Mac = Mac([0, 0x0c, 0x29, 0x2e, 0xc0, 0x31]);

    /// An ARP reply, in VLAN 7 or in none.
    fn answer(tag: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 6];
        frame.extend(CARD.0);
        frame.extend(tag);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(CARD.0);
        frame.extend([192, 0, 2, 10]);
        frame
    }

    #[test]
    fn an_address_is_asked_for_until_its_card_answers() {
        let asked = Neighbours::new([ASKED]);
        let now = Instant::now();
        let question = asked.due_at(now).unwrap();
        assert_eq!(asked.due_at(now), None, "a second has not passed");
        assert_eq!(asked.due_at(now + ASK_EVERY), Some(question.clone()));
        assert!(!asked.all_answered());
        // Its own question, and another network's answer.
        asked.received(&question);
        asked.received(&answer(&[0x81, 0, 0, 7]));
        assert!(!asked.all_answered());
        asked.received(&answer(&[]));
        assert!(asked.all_answered());
        assert_eq!(asked.answer(ASKED).unwrap().mac, CARD);
        assert_eq!(asked.due_at(now + 2 * ASK_EVERY), None);
    }
}
