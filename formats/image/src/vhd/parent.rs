//! Finding the parent of a differencing disk by its locators, and checking that it is the right one.
//!
//! Specification 1.0, "Parent Locator Entries", "Differencing Hard Disk Image". A locator that names
//! a path of the machine that made the disk is followed by its file name, beside the child.
//!
//! The time stamp of the parent is what its footer says (Hyper-V) or when its file was last changed
//! (the specification, Virtual PC); one of the two must be what the child remembers. Windows 10
//! remembers 0, which says nothing; blktap (`tap`) records a time and never keeps it up to date.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rehost_block::{Error, Kind, Opened, Result, Storage};

use super::footer::{Footer, timestamp};
use super::header::{Locator, Parent, STRUCTURE};
use crate::Format;
use crate::layer::{Backing, Opening};

/// Longest name in bytes. Windows allows paths of 32,767 UTF-16 units. Ours.
const MAX_NAME: u64 = 64 << 10;

/// Codes of locators in the order in which they are tried: relative ones first.
const RELATIVE: [&[u8; 4]; 3] = [b"W2ru", b"Wi2r", b"MacX"];
const ABSOLUTE: [&[u8; 4]; 2] = [b"W2ku", b"Wi2k"];

/// Seconds by which a file's time may be off: FAT counts in twos.
const TOLERANCE: u32 = 2;

/// Finds the parent and compares what it is with what the child remembers.
///
/// # Errors
/// Io when no name leads to a file; Usage when the opener refuses one; Corrupt when the file is
/// another disk or was changed, or when a locator lies outside the file.
pub(super) fn check_parent(
    opening: &Opening<'_>,
    child: &Footer,
    parent: &Parent,
) -> Result<Backing> {
    let names = names(&*opening.storage, parent)?;
    let (name, opened) = find(opening, &names)?;
    let footer = Footer::find(&*opened.storage)
        .map_err(|error| error.in_file(&opened.path))?
        .footer;
    if footer.unique_id != parent.unique_id {
        return Err(Error::corrupt(format!(
            "parent {} is another disk than the one this was made from",
            opened.path.display()
        ))
        .in_structure(STRUCTURE)
        .mismatch(
            format!("unique id {}", text_id(parent.unique_id)),
            text_id(footer.unique_id),
        )
        .hint("put the right parent beside the disk: with another one the data would be wrong"));
    }
    if child.creator != *b"tap\0" {
        check_time(&opened, &footer, parent.timestamp)?;
    }
    Ok(Backing {
        name,
        format: Some(Format::Vhd),
    })
}

/// Guest bytes of the parent; nothing when it cannot be opened.
pub(super) fn parent_size(opening: &Opening<'_>, parent: &Parent) -> Option<u64> {
    let names = names(&*opening.storage, parent).ok()?;
    let (_, opened) = find(opening, &names).ok()?;
    let (size, _) = Footer::find(&*opened.storage).ok()?.footer.size();
    Some(size)
}

/// A unique id as it is printed.
pub(super) fn text_id(id: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(id).to_string()
}

fn check_time(opened: &Opened, footer: &Footer, remembered: u32) -> Result<()> {
    let near = |time: u32| time.abs_diff(remembered) <= TOLERANCE;
    let changed = opened.storage.as_file().and_then(|file| {
        let modified = file.metadata().ok()?.modified().ok()?;
        Some(timestamp(
            modified.duration_since(UNIX_EPOCH).ok()?.as_secs(),
        ))
    });
    if remembered == 0 || footer.timestamp == remembered || changed.is_some_and(near) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "parent {} was changed after this disk was made from it",
        opened.path.display()
    ))
    .in_structure(STRUCTURE)
    .mismatch(
        format!("time stamp {remembered}"),
        format!(
            "{} in its footer{}",
            footer.timestamp,
            changed.map_or_else(String::new, |time| format!(" and {time} on its file"))
        ),
    )
    .hint("restore the parent as it was, with the time of its file (cp -p)"))
}

/// The names of the parent, as paths, best first.
fn names(storage: &dyn Storage, parent: &Parent) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for code in RELATIVE.iter().chain(&ABSOLUTE) {
        for locator in parent.locators.iter().filter(|found| found.code == **code) {
            names.extend(decode(**code, &read(storage, *locator)?));
        }
    }
    names.extend(utf16(&parent.unicode_name, u16::from_be_bytes));
    names.retain(|name| !name.is_empty());
    Ok(names)
}

fn read(storage: &dyn Storage, locator: Locator) -> Result<Vec<u8>> {
    let fault = |what: &str| {
        Error::corrupt(what)
            .in_structure("parent locator entry")
            .at(locator.entry)
    };
    if locator.len > MAX_NAME {
        return Err(
            fault("name is too long").mismatch(format!("at most {MAX_NAME} bytes"), locator.len)
        );
    }
    let end = locator.offset.saturating_add(locator.len);
    if end > storage.size() {
        return Err(fault("name lies past the end of the file")
            .mismatch(format!("an end of at most {}", storage.size()), end));
    }
    let mut bytes = vec![0; usize::try_from(locator.len).unwrap_or(0)];
    storage.read_at(&mut bytes, locator.offset)?;
    Ok(bytes)
}

/// The path that a locator of `code` holds; nothing when it is not in the encoding of its code.
fn decode(code: [u8; 4], bytes: &[u8]) -> Option<String> {
    match &code {
        b"W2ru" | b"W2ku" => utf16(bytes, u16::from_le_bytes),
        // ANSI of an unknown code page: what is not ASCII could be anything.
        b"Wi2r" | b"Wi2k" => {
            let text = std::str::from_utf8(bytes)
                .ok()
                .filter(|text| text.is_ascii())?;
            Some(windows(text.trim_end_matches('\0')))
        }
        _ => url(std::str::from_utf8(bytes).ok()?.trim_end_matches('\0')),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    let text: Result<String, _> = char::decode_utf16(units.take_while(|unit| *unit != 0)).collect();
    Some(windows(&text.ok()?))
}

/// A Windows path with this system's separators.
fn windows(text: &str) -> String {
    text.replace('\\', "/")
}

/// The path of a `file:` URL (RFC 2396).
fn url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("file:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let mut bytes = Vec::new();
    let mut left = rest.as_bytes().iter();
    // Ends because every round takes a byte.
    while let Some(byte) = left.next() {
        if *byte == b'%' {
            let digits = [*left.next()?, *left.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether `name` is a path of a Windows machine: a drive, or a share.
fn is_foreign(name: &str) -> bool {
    name.as_bytes().get(1) == Some(&b':') || name.starts_with("//")
}

/// Opens the first of `names` that leads to a file: each as it is, then each by its file name
/// beside the child.
fn find(opening: &Opening<'_>, names: &[String]) -> Result<(PathBuf, Opened)> {
    let whole = names
        .iter()
        .map(String::as_str)
        .filter(|name| !is_foreign(name));
    // A child in another folder may have its parent's name: it is not its own parent.
    let own = opening.path.file_name();
    let last = names
        .iter()
        .filter_map(|name| name.rsplit('/').next())
        .filter(|name| own.is_none_or(|own| own != *name));
    let mut refused: Option<Error> = None;
    for name in whole.chain(last) {
        match opening.opener.open(Path::new(name), opening.path) {
            Ok(opened) => return Ok((PathBuf::from(name), opened)),
            // What the user must allow is worth more than that another name leads nowhere.
            Err(error) => {
                if refused.is_none() || error.kind() == Kind::Usage {
                    refused = Some(error);
                }
            }
        }
    }
    Err(refused.unwrap_or_else(|| {
        Error::corrupt("names no parent")
            .in_structure(STRUCTURE)
            .hint("a differencing disk is nothing without its parent")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_locator_is_a_path() {
        let le: Vec<u8> = ".\\bä.vhd\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(decode(*b"W2ru", &le).unwrap(), "./bä.vhd");
        assert_eq!(
            decode(*b"Wi2r", b"..\\base.vhd\0\0").unwrap(),
            "../base.vhd"
        );
        assert_eq!(decode(*b"Wi2r", b"b\xe4.vhd"), None);
        for (url, path) in [
            ("file://localhost/a%20b/c.vhd", "/a b/c.vhd"),
            ("file:///a/c.vhd", "/a/c.vhd"),
            ("file://./c.vhd", "./c.vhd"),
        ] {
            assert_eq!(decode(*b"MacX", url.as_bytes()).unwrap(), path);
        }
        assert_eq!(decode(*b"MacX", b"http://x/c.vhd"), None);
        assert_eq!(decode(*b"MacX", b"file:///%zz"), None);
    }
}
