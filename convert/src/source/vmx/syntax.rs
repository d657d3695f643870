//! The lines of a VMX file: `key = "value"`, comments, `|22` escapes, `.encoding`.

use std::collections::BTreeMap;
use std::str::FromStr;

use rehost_block::{Error, Result};

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key, as written.
    pub(super) key: String,
    /// The value, escapes resolved.
    pub(super) value: String,
    /// Line, from 1.
    pub(super) line: u32,
    /// Byte offset of the line.
    pub(super) offset: u64,
}

impl Entry {
    /// An error about this line.
    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(format!("line {}: {} {what}", self.line, self.key)).at(self.offset)
    }

    /// An error about this line.
    pub(super) fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!("line {}: {} {what}", self.line, self.key)).at(self.offset)
    }
}

/// All entries by key. Keys are compared without case, as VMware does.
#[derive(Debug, Clone, Default)]
pub(super) struct Dictionary {
    entries: BTreeMap<String, Entry>,
}

/// How the bytes of values become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Windows1252,
    /// Another one, of which only ASCII is read.
    Other,
}

impl Dictionary {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let encoding = encoding(bytes);
        let mut dictionary = Self::default();
        let mut offset = 0u64;
        for (line, raw) in (1u32..).zip(bytes.split(|byte| *byte == b'\n')) {
            let start = offset;
            let len = u64::try_from(raw.len()).unwrap_or(u64::MAX);
            offset = offset.saturating_add(len).saturating_add(1);
            let at = |what: &str| Error::corrupt(format!("line {line}: {what}")).at(start);
            let text = decode(raw, encoding).ok_or_else(|| {
                at("text that is not in the file's encoding").hint(
                    "the .encoding line must say utf-8 or windows-1252 for names that are not ascii",
                )
            })?;
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| at("neither a comment nor key = \"value\""))?;
            let key = key.trim();
            if key.is_empty() || key.contains(['"', ' ', '\0']) {
                return Err(at("no key before the ="));
            }
            let entry = Entry {
                key: key.to_owned(),
                value: value_of(value.trim())
                    .ok_or_else(|| at("a value whose quotes do not end"))?,
                line,
                offset: start,
            };
            dictionary.insert(entry)?;
        }
        if dictionary.entries.is_empty() {
            return Err(Error::corrupt("holds no setting at all"));
        }
        Ok(dictionary)
    }

    /// VMware refuses a key with two values; a repeated line is harmless.
    fn insert(&mut self, entry: Entry) -> Result<()> {
        let key = entry.key.to_ascii_lowercase();
        match self.entries.get(&key) {
            Some(known) if known.value != entry.value => Err(entry
                .corrupt(&format!("has another value than in line {}", known.line))
                .mismatch(&known.value, &entry.value)
                .hint("VMware would not open this machine; remove one of the lines")),
            Some(_) => Ok(()),
            None => {
                self.entries.insert(key, entry);
                Ok(())
            }
        }
    }

    /// The entry of `key`; an empty value is none.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        let entry = self.entries.get(&key.to_ascii_lowercase())?;
        (!entry.value.is_empty()).then_some(entry)
    }

    /// The value of `key`.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.value.as_str())
    }

    /// Whether `key` says `TRUE`; VMware writes that word and reads a few others.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.text(key).is_some_and(says_yes)
    }

    /// Whether `key` is there and does not say `TRUE`.
    pub(super) fn is_false(&self, key: &str) -> bool {
        self.text(key).is_some_and(|value| !says_yes(value))
    }

    /// The number that `key` holds.
    pub(super) fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        match entry.value.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(entry
                .corrupt("is no number that fits")
                .mismatch("a number", &entry.value)),
        }
    }

    /// All entries in key order; keys in lower case.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
    }
}

fn says_yes(value: &str) -> bool {
    ["true", "yes", "on", "1", "t", "y"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}

/// The encoding that the `.encoding` line names; without one, UTF-8.
fn encoding(bytes: &[u8]) -> Encoding {
    let named = bytes.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(".encoding")
            .then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    match named.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Encoding::Utf8,
        // Text that is Latin-1 means the same in windows-1252.
        Some("windows-1252" | "iso-8859-1" | "latin1") => Encoding::Windows1252,
        Some(_) => Encoding::Other,
    }
}

fn decode(bytes: &[u8], encoding: Encoding) -> Option<String> {
    match encoding {
        Encoding::Utf8 => String::from_utf8(bytes.to_vec()).ok(),
        Encoding::Windows1252 => bytes.iter().map(|byte| windows_1252(*byte)).collect(),
        Encoding::Other => bytes
            .is_ascii()
            .then(|| String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// The WHATWG index of windows-1252: 0x80 to 0x9f differ from Latin-1, five of them are unused.
fn windows_1252(byte: u8) -> Option<char> {
    const HIGH: [u16; 32] = [
        0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039,
        0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc,
        0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
    ];
    match byte {
        0x80..=0x9f => {
            let code = *HIGH.get(usize::from(byte.saturating_sub(0x80)))?;
            char::from_u32(u32::from(code)).filter(|c| *c != '\0')
        }
        _ => Some(char::from(byte)),
    }
}

/// The value between the quotes (or a bare word), with `|XX` resolved. `None` when the quotes do not
/// end.
fn value_of(written: &str) -> Option<String> {
    let inside = match written.strip_prefix('"') {
        Some(rest) => rest.split_once('"')?.0,
        None => written.split('#').next().unwrap_or_default().trim_end(),
    };
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside.as_bytes();
    // Ends because every round takes at least one byte of `rest`.
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'|')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
