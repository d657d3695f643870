//! Names: long ones in pieces before the short entry, and short ones made for them.
//!
//! Source: Microsoft FAT specification, "Long File Name Implementation". Long names are UTF-16; what
//! is no text (lone surrogates) is shown in the three bytes that UTF-8 would give it, so that every
//! name that is listed can be looked up. Names compare without regard to case.

use std::collections::BTreeSet;

use rehost_block::{Error, Fields, Result};

use super::entry::{LEN, LONG};
use super::number::put;

/// UTF-16 units in one piece, and where they are in its 32 bytes.
const PIECE: usize = 13;
const UNITS: [usize; PIECE] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// Longest name in UTF-16 units.
const MOST_UNITS: usize = 255;

/// Mark of the piece that comes first on the disk and last in the name.
const LAST: u8 = 0x40;

/// Characters that no name may contain.
const FORBIDDEN: &[char] = &['"', '*', '/', ':', '<', '>', '?', '\\', '|', '\u{7f}'];

/// Characters that may be in a short name besides letters and digits.
const SHORT_MARKS: &[u8] = b"$%'-_@~`!(){}^#&";

/// The checksum of a short name that ties the pieces of a long name to it.
pub(super) fn checksum(short: &[u8; 11]) -> u8 {
    short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Pieces of a long name, collected while a directory is read.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// In the order of the disk: the name's end first.
    units: Vec<[u16; PIECE]>,
    /// The number that the next piece must have; 0 when all are there.
    next: u8,
    sum: u8,
}

impl Pieces {
    /// Takes one piece; what does not continue the earlier ones starts anew or is dropped.
    pub(super) fn take(&mut self, raw: &[u8; LEN]) -> Result<()> {
        let f = Fields::new(raw, "long name", 0);
        let (number, sum) = (f.u8(0)?, f.u8(13)?);
        let order = number & 0x3f;
        if number & LAST != 0 && (1..=20).contains(&order) {
            (self.next, self.sum) = (order, sum);
            self.units.clear();
        }
        if self.next == 0 || order != self.next || sum != self.sum {
            *self = Self::default();
            return Ok(());
        }
        let mut units = [0; PIECE];
        for (unit, at) in units.iter_mut().zip(UNITS) {
            *unit = f.u16_le(at)?;
        }
        self.units.push(units);
        self.next = self.next.saturating_sub(1);
        Ok(())
    }

    /// How many entries they take.
    pub(super) const fn len(&self) -> usize {
        self.units.len()
    }

    /// The name, when the pieces are complete and belong to `short`.
    pub(super) fn finish(&self, short: &[u8; 11]) -> Option<Vec<u8>> {
        if self.units.is_empty() || self.next != 0 || self.sum != checksum(short) {
            return None;
        }
        let units = self.units.iter().rev().flatten().copied();
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        Some(to_bytes(&units))
    }
}

/// UTF-8, with lone surrogates in three bytes.
fn to_bytes(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [low, high] = lone.unpaired_surrogate().to_le_bytes();
                bytes.extend([
                    0xe0 | high >> 4,
                    0x80 | (high & 0xf) << 2 | low >> 6,
                    0x80 | low & 0x3f,
                ]);
            }
        }
    }
    bytes
}

/// A name as it is compared: upper case where that is one character.
pub(super) fn folded(name: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(name) else {
        return name.to_vec();
    };
    let upper = |letter: char| {
        let mut upper = letter.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(one), None) => one,
            _ => letter,
        }
    };
    text.chars().map(upper).collect::<String>().into_bytes()
}

/// Refuses what cannot be a name on FAT.
pub(super) fn check(name: &[u8]) -> Result<Vec<u16>> {
    let refuse = |why: &str| {
        let shown = String::from_utf8_lossy(name);
        Err(Error::usage(format!(
            "'{}' cannot be a name on FAT: {why}",
            shown.escape_debug()
        )))
    };
    let Ok(text) = std::str::from_utf8(name) else {
        return refuse("it is not UTF-8");
    };
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.ends_with(['.', ' ']) {
        return refuse("it ends in a point or a blank");
    }
    if text.starts_with(' ') {
        return refuse("it begins with a blank");
    }
    if text
        .chars()
        .any(|letter| letter < ' ' || FORBIDDEN.contains(&letter))
    {
        return refuse("it contains a character that FAT forbids");
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    if units.len() > MOST_UNITS {
        return refuse("it is longer than 255 characters");
    }
    Ok(units)
}

/// A name's own short form, and whether that says all of the name.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    /// The name is the short name.
    Same,
    /// It differs from the short name in case only.
    Case,
    /// Characters were replaced or dropped.
    Lossy,
}

fn form(name: &str) -> ([u8; 11], Form) {
    let bare: String = name
        .trim_start_matches('.')
        .chars()
        .filter(|letter| *letter != ' ')
        .collect();
    let mut how = if bare == name {
        Form::Same
    } else {
        Form::Lossy
    };
    let (base, tail) = bare.rsplit_once('.').unwrap_or((&bare, ""));
    let mut short = [b' '; 11];
    for (text, from, most) in [(base, 0, 8), (tail, 8, 3usize)] {
        let mut letters = text.chars().filter(|letter| *letter != '.');
        if from == 0 && text.contains('.') {
            how = Form::Lossy;
        }
        for place in short.iter_mut().skip(from).take(most) {
            let Some(letter) = letters.next() else { break };
            let upper = letter.to_ascii_uppercase();
            if upper != letter && how == Form::Same {
                how = Form::Case;
            }
            let byte = u8::try_from(upper).unwrap_or(b' ');
            *place = if byte.is_ascii_alphanumeric() || SHORT_MARKS.contains(&byte) {
                byte
            } else {
                how = Form::Lossy;
                b'_'
            };
        }
        if letters.next().is_some() {
            how = Form::Lossy;
        }
    }
    (short, how)
}

/// The entries' bytes for a new name, in the order of the disk and without the short entry, and the
/// short name: one that is not in `taken`.
pub(super) fn made(name: &[u8], taken: &BTreeSet<[u8; 11]>) -> Result<(Vec<[u8; LEN]>, [u8; 11])> {
    let units = check(name)?;
    let (plain, how) = form(&String::from_utf8_lossy(name));
    if how == Form::Same && !taken.contains(&plain) {
        return Ok((Vec::new(), plain));
    }
    let short = if how == Form::Case && !taken.contains(&plain) {
        plain
    } else {
        numbered(&plain, taken)?
    };
    let sum = checksum(&short);
    let mut pieces = Vec::new();
    for (number, part) in (1u8..).zip(units.chunks(PIECE)) {
        let mut raw = [0; LEN];
        put(&mut raw, 0, &[number])?;
        put(&mut raw, 11, &[LONG, 0, sum])?;
        // A zero after the name's end, then ones.
        let padding = std::iter::once(0).chain(std::iter::repeat(0xffff));
        for (unit, at) in part.iter().copied().chain(padding).zip(UNITS) {
            put(&mut raw, at, &unit.to_le_bytes())?;
        }
        pieces.push(raw);
    }
    if let Some([number, ..]) = pieces.last_mut() {
        *number |= LAST;
    }
    pieces.reverse();
    Ok((pieces, short))
}

/// `plain` with the lowest number that makes it one of its kind.
fn numbered(plain: &[u8; 11], taken: &BTreeSet<[u8; 11]>) -> Result<[u8; 11]> {
    let base: Vec<u8> = plain
        .iter()
        .take(8)
        .copied()
        .take_while(|byte| *byte != b' ')
        .collect();
    // Ends because a directory holds at most 65536 names.
    for number in 1..1_000_000u32 {
        let mark = format!("~{number}");
        let keep = 8usize.saturating_sub(mark.len()).min(base.len());
        let mut short = *plain;
        let filled = base
            .iter()
            .take(keep)
            .copied()
            .chain(mark.bytes())
            .chain(std::iter::repeat(b' '));
        for (place, byte) in short.iter_mut().take(8).zip(filled) {
            *place = byte;
        }
        if !taken.contains(&short) {
            return Ok(short);
        }
    }
    Err(Error::internal("no short name is left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short_of(name: &str, taken: &[&[u8; 11]]) -> (usize, String) {
        let taken = taken.iter().map(|name| **name).collect();
        let (pieces, short) = made(name.as_bytes(), &taken).unwrap();
        (pieces.len(), String::from_utf8(short.to_vec()).unwrap())
    }

    #[test]
    fn short_names_follow_the_specification() {
        for (name, pieces, short) in [
            ("BOOTX64.EFI", 0, "BOOTX64 EFI"),
            ("grub.cfg", 1, "GRUB    CFG"),
            ("The quick brown.fox", 2, "THEQUI~1FOX"),
            (".bashrc", 1, "BASHRC~1   "),
            ("a.tar.gz", 1, "ATAR~1  GZ "),
            ("a+b", 1, "A_B~1      "),
            ("日本語.txt", 1, "___~1   TXT"),
            ("vmlinuz-6.1.0-13-amd64", 2, "VMLINU~10-1"),
            ("html.html", 1, "HTML~1  HTM"),
        ] {
            assert_eq!(short_of(name, &[]), (pieces, short.to_owned()), "{name}");
        }
        let taken: [&[u8; 11]; 2] = [b"GRUB    CFG", b"GRUB~1  CFG"];
        assert_eq!(short_of("grub.cfg", &taken), (1, "GRUB~2  CFG".to_owned()));
    }

    #[test]
    fn long_names_come_back_from_their_pieces() {
        for name in [
            "a",
            "thirteen.char",
            "fourteen.chars",
            &"x".repeat(255),
            "Ünï 😀 z",
        ] {
            let (pieces, short) = made(name.as_bytes(), &BTreeSet::new()).unwrap();
            let mut read = Pieces::default();
            for raw in &pieces {
                read.take(raw).unwrap();
            }
            assert_eq!(read.finish(&short).unwrap(), name.as_bytes());
            assert_eq!(read.finish(b"OTHER      "), None);
        }
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a ",
            b"a.",
            b"a/b",
            b"a:b",
            b"\xff",
            b"a\x01",
            &[b'x'; 256],
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn pieces_out_of_order_give_no_name() {
        let (pieces, short) = made(
            "a name of three pieces or so, yes".as_bytes(),
            &BTreeSet::new(),
        )
        .unwrap();
        let mut read = Pieces::default();
        for raw in pieces.iter().rev() {
            read.take(raw).unwrap();
        }
        assert_eq!(read.finish(&short), None);
    }
}
