//! rpm's database: finds it, and reads each package's name, version and architecture from its
//! header.
//!
//! A database is a set of header blobs (rpm "Package format V4", section "Header": index entries and
//! a data store, both big-endian, without the lead and the magic that package files have), kept in
//! one of three forms: Berkeley DB ([`bdb`]), rpm's own ndb ([`ndb`]), SQLite ([`sqlite`]). Only the
//! `Packages` table is read, never its indexes, and of a header only its first part, unless a field
//! lies further behind. Signatures and digests are not verified.

pub mod bdb;
pub mod ndb;
pub mod sqlite;

use rehost_block::{Error, Fields, Result};

use super::{Bytes, Database, Listed};
use crate::model::Package;
use crate::reader::Reader;

/// Folders that hold a database, in the order in which they are looked at.
const FOLDERS: [&str; 3] = [
    "/usr/lib/sysimage/rpm",
    "/var/lib/rpm",
    // rpm-ostree
    "/usr/share/rpm",
];

/// Most index entries of a header (rpm's `HEADER_TAGS_MAX`).
const MOST_TAGS: usize = 0xffff;

/// Longest header that is read whole: rpm's `HEADER_DATA_MAX` is 256 MiB; a kernel package's
/// has 2 MiB. Ours.
const MOST_HEADER: u64 = 64 << 20;

/// How much of a header is read at first: its index (a hundred entries) and the short fields.
const FIRST_PART: usize = 8 << 10;

/// Reads the first `len` bytes of one blob; fewer when it is shorter.
type ReadBlob<'a> = dyn Fn(usize) -> Result<Vec<u8>> + 'a;

pub(super) fn find(reader: &Reader<'_>) -> Option<Database> {
    for folder in FOLDERS {
        let open = |name: &str| {
            let path = format!("{folder}/{name}");
            Some((reader.open(&path)?, path))
        };
        if let Some((file, path)) = open("rpmdb.sqlite") {
            let log = open("rpmdb.sqlite-wal").map(|(file, _)| file);
            let log = log.as_ref().map(|log| -> &dyn Bytes { log });
            return Some(("rpm", "sqlite", path, sqlite::read(&file, log)));
        }
        if let Some((file, path)) = open("Packages.db") {
            return Some(("rpm", "ndb", path, ndb::read(&file)));
        }
        if let Some((file, path)) = open("Packages") {
            return Some(("rpm", "berkeley-db", path, bdb::read(&file)));
        }
    }
    None
}

/// Adds the package that a blob of `len` bytes describes, or notes why it cannot be read.
///
/// # Errors
/// Unsupported when there are more packages, or longer headers, than any database has: the caller
/// stops.
fn add(listed: &mut Listed, len: u64, read: &ReadBlob<'_>) -> Result<()> {
    let first = u64::try_from(FIRST_PART).unwrap_or(u64::MAX);
    listed.spend(first.min(len))?;
    let part = match read(FIRST_PART).and_then(|part| parse(&part, len)) {
        Ok(None) => {
            let whole = len.min(MOST_HEADER);
            listed.spend(whole)?;
            read(usize::try_from(whole).unwrap_or(usize::MAX)).and_then(|bytes| parse(&bytes, 0))
        }
        other => other,
    };
    match part {
        Ok(Some(package)) => listed.add(package),
        Ok(None) => {}
        Err(error) => listed.note(error),
    }
    Ok(())
}

/// The package that a header describes, of which `part` is the beginning. `None` when a field lies
/// behind `part` and there are more bytes than that (`len` in all).
///
/// # Errors
/// Corrupt when the header contradicts itself, or has no name.
pub fn parse(part: &[u8], len: u64) -> Result<Option<Package>> {
    const NAME: u32 = 1000;
    const VERSION: u32 = 1001;
    const RELEASE: u32 = 1002;
    const EPOCH: u32 = 1003;
    const ARCH: u32 = 1022;
    const INT32: u32 = 4;
    const STRING: u32 = 6;
    let more = len > u64::try_from(part.len()).unwrap_or(u64::MAX);
    let fields = Fields::new(part, "rpm header", 0);
    let number = |at: usize| {
        usize::try_from(fields.u32_be(at)?).map_err(|_| fields.corrupt(at, "too large"))
    };
    let count = number(0)?;
    if count > MOST_TAGS {
        return Err(fields
            .corrupt(0, "more index entries than rpm allows")
            .mismatch(format!("at most {MOST_TAGS}"), count));
    }
    let store = count.saturating_mul(16).saturating_add(8);
    let end = store.saturating_add(number(4)?);
    let (mut name, mut version, mut release, mut epoch, mut arch) = (None, None, None, None, None);
    for index in 0..count {
        let at = index.saturating_mul(16).saturating_add(8);
        if more && at.saturating_add(16) > part.len() {
            return Ok(None);
        }
        let tag = fields.u32_be(at)?;
        let kind = fields.u32_be(at.saturating_add(4))?;
        let slot = match (tag, kind) {
            (NAME, STRING) => &mut name,
            (VERSION, STRING) => &mut version,
            (RELEASE, STRING) => &mut release,
            (ARCH, STRING) => &mut arch,
            (EPOCH, INT32) => &mut epoch,
            _ => continue,
        };
        let value = store.saturating_add(number(at.saturating_add(8))?);
        if value >= end {
            return Err(fields
                .corrupt(at.saturating_add(8), "a field outside the data store")
                .mismatch(format!("below {end}"), value));
        }
        let found = if kind == INT32 {
            part.get(value..)
                .and_then(|rest| rest.first_chunk::<4>())
                .map(|number| u32::from_be_bytes(*number).to_string())
        } else {
            let rest = part.get(value..).unwrap_or_default();
            let nul = rest.iter().position(|byte| *byte == 0);
            nul.and_then(|nul| rest.get(..nul))
                .map(|text| String::from_utf8_lossy(text).into_owned())
        };
        match found {
            Some(found) => *slot = Some(found),
            None if more => return Ok(None),
            None => return Err(fields.corrupt(value, "the header ends inside a field")),
        }
    }
    let Some(name) = name else {
        return Err(fields.corrupt(0, "a header without a name"));
    };
    let mut full = version.unwrap_or_default();
    if let Some(release) = release {
        full = format!("{full}-{release}");
    }
    if let Some(epoch) = epoch.filter(|epoch| epoch != "0") {
        full = format!("{epoch}:{full}");
    }
    Ok(Some(Package {
        name,
        version: full,
        architecture: arch,
    }))
}

/// `len` bytes at `offset`, which must all be there.
fn exactly(
    file: &(impl Bytes + ?Sized),
    offset: u64,
    len: usize,
    what: &'static str,
) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let read = file.read_at(&mut buf, offset)?;
    if read < len {
        return Err(Error::corrupt("the file ends inside a structure")
            .in_structure(what)
            .at(offset)
            .mismatch(format!("{len} bytes"), read));
    }
    Ok(buf)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header with these fields in the order rpm writes them.
    pub(crate) fn blob(name: &str, version: &str, filler: usize) -> Vec<u8> {
        let mut index = Vec::new();
        let mut store: Vec<u8> = Vec::new();
        let mut add = |tag: u32, kind: u32, value: &[u8]| {
            let offset = u32::try_from(store.len()).unwrap();
            for number in [tag, kind, offset, 1] {
                index.extend(number.to_be_bytes());
            }
            store.extend(value);
        };
        let text = |text: &str| [text.as_bytes(), b"\0"].concat();
        add(1000, 6, &text(name));
        add(1001, 6, &text(version));
        add(1002, 6, &text("7.el9"));
        add(1005, 6, &text(&"d".repeat(filler)));
        add(1022, 6, &text("x86_64"));
        let mut blob = u32::try_from(index.len() / 16)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        blob.extend(u32::try_from(store.len()).unwrap().to_be_bytes());
        blob.extend(index);
        blob.extend(store);
        blob
    }

    #[test]
    fn a_field_behind_the_first_part_makes_the_whole_header_be_read() {
        let blob = blob("bash", "5.1.8", FIRST_PART);
        let len = blob.len() as u64;
        assert_eq!(parse(&blob[..FIRST_PART], len).unwrap(), None);
        let read = |most: usize| Ok(blob[..most.min(blob.len())].to_vec());
        let mut listed = Listed::default();
        add(&mut listed, len, &read).unwrap();
        let [found] = listed.packages.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!(found.version, "5.1.8-7.el9");
        assert_eq!(found.architecture.as_deref(), Some("x86_64"));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_an_error_with_its_byte() {
        let good = blob("bash", "5.1.8", 0);
        let mut bad = good.clone();
        bad[0] = 0xff;
        assert!(parse(&bad, 0).is_err());
        let mut bad = good.clone();
        bad[16..20].copy_from_slice(&9999u32.to_be_bytes());
        assert_eq!(parse(&bad, 0).unwrap_err().offset(), Some(16));
        assert!(parse(&good[..good.len() - 3], 0).is_err());
        assert!(parse(&[], 0).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn damaged_headers_never_panic(at in 0usize..120, byte: u8, cut in 0usize..200, len: u64) {
            let mut bytes = blob("bash", "5.1.8", 20);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            let _ = parse(&bytes, len);
        }
    }
}
