//! The frames in which a neighbour asks for an address, and is answered. Pure.
//!
//! Sources: RFC 826 (ARP), RFC 4861 sections 4.3, 4.4 and 7.1 (neighbour discovery), RFC 4443 section 2.3
//! (its checksum), RFC 4291 (addresses), IEEE 802.1Q (tags). Left out: tags inside tags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Asked;
use crate::Mac;

/// The asking card: locally administered, and of nobody.
const OURS: Mac = Mac([0x02, 0x72, 0x65, 0x68, 0x6f, 0x01]);

const BROADCAST: [u8; 6] = [0xff; 6];

/// EtherType of a VLAN's tag.
const TAG: [u8; 2] = [0x81, 0x00];

/// EtherType of ARP; its hardware and protocol types, and their lengths, for Ethernet and IPv4.
const ARP: [u8; 2] = [0x08, 0x06];
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// EtherType of IPv6, and the number of ICMPv6 in it.
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// What neighbours' messages have as hop limit: no router can have sent them.
const HOPS: u8 = 255;

/// A solicitation for an address and the advertisement that answers it, code 0.
const SOLICITATION: [u8; 2] = [135, 0];
const ADVERTISEMENT: [u8; 2] = [136, 0];

/// The option with the asking card's address: type 1, one unit of eight bytes.
const SOURCE_CARD: [u8; 2] = [1, 1];

/// Bytes of a solicitation with its option.
const SOLICITATION_LEN: u16 = 32;

/// Shortest frame on Ethernet, without its checksum and a tag.
const FRAME_MIN: usize = 60;

/// "Who has this address?"
pub(super) fn question(asked: Asked) -> Vec<u8> {
    let (to, kind, packet) = match asked.address {
        IpAddr::V4(address) => (BROADCAST, ARP, request(address)),
        IpAddr::V6(address) => (group_card(address), IPV6, solicitation(address)),
    };
    let mut frame = Vec::with_capacity(FRAME_MIN + 40);
    frame.extend(to);
    frame.extend(OURS.0);
    if let Some(vlan) = asked.vlan {
        frame.extend(TAG);
        frame.extend((vlan & 0xfff).to_be_bytes());
    }
    frame.extend(kind);
    frame.extend(packet);
    frame.resize(frame.len().max(FRAME_MIN), 0);
    frame
}

/// What a frame answers, and the card that has it; nothing when it answers nothing.
pub(super) fn answer(frame: &[u8]) -> Option<(Mac, Asked)> {
    let (_to, rest) = frame.split_first_chunk::<6>()?;
    let (from, rest) = rest.split_first_chunk::<6>()?;
    let (vlan, rest) = match rest.strip_prefix(&TAG) {
        None => (None, rest),
        Some(tagged) => {
            let (control, rest) = tagged.split_first_chunk::<2>()?;
            let vlan = u16::from_be_bytes(*control) & 0xfff;
            // Number 0 says only how urgent a frame is.
            ((vlan != 0).then_some(vlan), rest)
        }
    };
    let (mac, address) = match rest.split_first_chunk::<2>()? {
        (&ARP, packet) => reply(packet)?,
        (&IPV6, packet) => (Mac(*from), advertised(packet)?),
        _ => return None,
    };
    Some((mac, Asked { address, vlan }))
}

/// A probe (RFC 5227 section 2.1.1): it has no sender address, so that it fits every subnet and leaves
/// nothing behind in the guest.
fn request(address: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(ETHERNET_IPV4);
    packet.extend(REQUEST);
    packet.extend(OURS.0);
    packet.extend([0; 4]);
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

/// Card and address of an ARP reply.
fn reply(packet: &[u8]) -> Option<(Mac, IpAddr)> {
    let rest = packet.strip_prefix(&ETHERNET_IPV4)?;
    let rest = rest.strip_prefix(&REPLY)?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (address, _target) = rest.split_first_chunk::<4>()?;
    Some((Mac(*mac), Ipv4Addr::from(*address).into()))
}

/// Our address on every link. Not the unspecified one: to a guest that has yet to make sure of an address
/// of its own, that would say that somebody else has it (RFC 4862 section 5.4.3).
fn our_address() -> Ipv6Addr {
    let [a, b, c, d, e, f] = OURS.0;
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    octets.into()
}

/// The group in which whoever has `address` listens.
fn group(address: Ipv6Addr) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xff, 2]);
    octets[11..13].copy_from_slice(&[1, 0xff]);
    octets[13..].copy_from_slice(&address.octets()[13..]);
    octets.into()
}

/// The group's address on Ethernet (RFC 2464 section 7).
fn group_card(address: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c] = address.octets();
    [0x33, 0x33, 0xff, a, b, c]
}

fn solicitation(address: Ipv6Addr) -> Vec<u8> {
    let (from, to) = (our_address().octets(), group(address).octets());
    let mut message = Vec::new();
    message.extend(SOLICITATION);
    message.extend([0; 2]);
    message.extend([0; 4]);
    message.extend(address.octets());
    message.extend(SOURCE_CARD);
    message.extend(OURS.0);
    let mut summed = Vec::new();
    summed.extend(from);
    summed.extend(to);
    summed.extend(u32::from(SOLICITATION_LEN).to_be_bytes());
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(&message);
    message[2..4].copy_from_slice(&checksum(&summed).to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(SOLICITATION_LEN.to_be_bytes());
    packet.extend([ICMPV6, HOPS]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(message);
    packet
}

/// The Internet's checksum of whole pairs of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks_exact(2);
    let sum: u32 = pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

/// The address that an advertisement is for. Its checksum is not looked at: nothing damages these frames.
fn advertised(packet: &[u8]) -> Option<IpAddr> {
    let (head, message) = packet.split_first_chunk::<40>()?;
    if head[0] >> 4 != 6 || head[6] != ICMPV6 || head[7] != HOPS {
        return None;
    }
    let rest = message.strip_prefix(&ADVERTISEMENT)?;
    let (_checksum_and_flags, rest) = rest.split_first_chunk::<6>()?;
    let (address, _options) = rest.split_first_chunk::<16>()?;
    Some(Ipv6Addr::from(*address).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
    const CARD: Mac = Mac([0, 0x0c, 0x29, 0x2e, 0xc0, 0x31]);

    fn asked(address: impl Into<IpAddr>, vlan: Option<u16>) -> Asked {
        Asked {
            address: address.into(),
            vlan,
        }
    }

    fn arp_reply() -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(OURS.0);
        frame.extend(CARD.0);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(CARD.0);
        frame.extend(V4.octets());
        frame.extend(OURS.0);
        frame.extend([0; 4]);
        frame
    }

    fn advertisement() -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(OURS.0);
        frame.extend(CARD.0);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(V6.octets());
        frame.extend(our_address().octets());
        // Solicited, override; the checksum is not looked at.
        frame.extend([136, 0, 0, 0, 0x60, 0, 0, 0]);
        frame.extend(V6.octets());
        frame.extend([2, 1]);
        frame.extend(CARD.0);
        frame
    }

    /// The same frame in VLAN 100, priority 3.
    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0x60, 100], &frame[12..]].concat()
    }

    #[test]
    fn an_ipv4_address_is_asked_for_by_a_probe() {
        let question = question(asked(V4, None));
        assert_eq!(question.len(), 60);
        // As tcpdump decodes it: Request who-has 192.0.2.10 tell 0.0.0.0
        assert_eq!(
            question[12..42],
            [
                8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x02, 0x72, 0x65, 0x68, 0x6f, 0x01, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0, 192, 0, 2, 10
            ]
        );
    }

    #[test]
    fn an_ipv6_address_is_asked_for_in_its_group() {
        let question = question(asked(V6, None));
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(question.len(), 14 + 40 + 32);
        let [from, to] = ["fe80::72:65ff:fe68:6f01", "ff02::1:ff12:3456"]
            .map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(question[22..38], from);
        assert_eq!(question[38..54], to);
        // A right checksum makes the sum, itself included, come out as nothing.
        let pseudo = [
            &question[22..54],
            &[0, 0, 0, 32, 0, 0, 0, 58],
            &question[54..],
        ]
        .concat();
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn a_question_in_a_vlan_is_tagged_so() {
        let plain = question(asked(V6, None));
        let tagged = question(asked(V6, Some(100)));
        assert_eq!(tagged[12..16], [0x81, 0, 0, 100]);
        assert_eq!([&tagged[..12], &tagged[16..]].concat(), plain);
    }

    #[test]
    fn answers_are_told_by_address_and_vlan() {
        for (frame, address) in [
            (arp_reply(), IpAddr::from(V4)),
            (advertisement(), V6.into()),
        ] {
            assert_eq!(answer(&frame), Some((CARD, asked(address, None))));
            let in_vlan = Some((CARD, asked(address, Some(100))));
            assert_eq!(answer(&tagged(&frame)), in_vlan);
        }
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        for at in [12, 14, 16, 18, 21] {
            let mut frame = arp_reply();
            frame[at] ^= 0x40;
            assert_eq!(answer(&frame), None, "{at}");
        }
        for at in [12, 14, 20, 21, 54, 55] {
            let mut frame = advertisement();
            frame[at] ^= 0x40;
            assert_eq!(answer(&frame), None, "{at}");
        }
        for (frame, enough) in [(arp_reply(), 32), (advertisement(), 78)] {
            for len in 0..enough {
                assert_eq!(answer(&frame[..len]), None, "{len}");
            }
            assert!(answer(&frame[..enough]).is_some());
        }
        // Questions of the guest's own.
        assert_eq!(answer(&question(asked(V4, None))), None);
        assert_eq!(answer(&question(asked(V6, Some(5)))), None);
    }
}
