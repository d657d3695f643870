//! rpm's own database, `Packages.db` (SUSE): a table of slots, then the headers in blocks.
//!
//! rpm 4.14 to 4.20, `lib/backend/ndb/rpmpkg.c`: a header, 16-byte slots in the first pages, and for
//! each package a blob with a head and a tail. Everything little-endian. The Adler-32 in the tail is
//! not verified: it would make every header be read whole.

use rehost_block::{Fields, Result};

use super::super::{Bytes, Listed};
use super::{add, exactly};

const PAGE: u64 = 4096;
const BLOCK: u64 = 16;
const SLOT: usize = 16;
/// Head and tail of a blob.
const HEAD: u64 = 16;
const TAIL: u64 = 12;

/// Most pages of slots that are read. Ours: 65,536 hold 16 million packages.
const MOST_SLOT_PAGES: u32 = 1 << 16;

/// Reads all packages.
///
/// # Errors
/// Corrupt when it is no such database; Unsupported for another version of it. A damaged package
/// is noted in what is given.
pub fn read(file: &(impl Bytes + ?Sized)) -> Result<Listed> {
    let head = exactly(file, 0, 32, "ndb header")?;
    let fields = Fields::new(&head, "ndb header", 0);
    if fields.bytes(0, 4)? != b"RpmP" {
        return Err(fields.corrupt(0, "the magic of an rpm package database is missing"));
    }
    let version = fields.u32_le(4)?;
    if version != 0 {
        return Err(fields
            .unsupported(4, "another version of rpm's package database")
            .mismatch("version 0", version));
    }
    let pages = fields.u32_le(12)?;
    if pages > MOST_SLOT_PAGES || u64::from(pages).saturating_mul(PAGE) > file.size() {
        return Err(fields.corrupt(12, "more pages of slots than the file has"));
    }
    let mut listed = Listed::default();
    for page in 0..u64::from(pages) {
        let start = page.saturating_mul(PAGE);
        let bytes = exactly(file, start, 4096, "ndb slots")?;
        // The header takes the place of the first two slots.
        let skip = if page == 0 { 2 } else { 0 };
        for slot in bytes.chunks_exact(SLOT).skip(skip) {
            let slot = Fields::new(slot, "ndb slot", start);
            if slot.bytes(0, 4)? != b"Slot" {
                listed.note(slot.corrupt(0, "the magic of a slot is missing"));
                continue;
            }
            let index = slot.u32_le(4)?;
            if index == 0 {
                continue;
            }
            let at = u64::from(slot.u32_le(8)?).saturating_mul(BLOCK);
            let room = u64::from(slot.u32_le(12)?).saturating_mul(BLOCK);
            if let Err(error) = package(file, index, at, room, &mut listed) {
                listed.note(error);
            }
        }
    }
    Ok(listed)
}

fn package(
    file: &(impl Bytes + ?Sized),
    index: u32,
    at: u64,
    room: u64,
    listed: &mut Listed,
) -> Result<()> {
    let head = exactly(file, at, 16, "ndb blob")?;
    let fields = Fields::new(&head, "ndb blob", at);
    if fields.bytes(0, 4)? != b"BlbS" {
        return Err(fields.corrupt(0, "the magic of a blob is missing"));
    }
    let own = fields.u32_le(4)?;
    if own != index {
        return Err(fields
            .corrupt(4, "a slot that leads to another package")
            .mismatch(index, own));
    }
    let len = u64::from(fields.u32_le(12)?);
    let body = at.saturating_add(HEAD);
    let fits = len.saturating_add(HEAD).saturating_add(TAIL) <= room
        && body.saturating_add(len) <= file.size();
    if !fits {
        return Err(fields.corrupt(12, "a header longer than its place"));
    }
    add(listed, len, &|most| {
        let len = most.min(usize::try_from(len).unwrap_or(usize::MAX));
        exactly(file, body, len, "ndb blob")
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::blob;
    use super::*;

    fn database() -> Vec<u8> {
        let mut file = b"RpmP".to_vec();
        for number in [0u32, 3, 1, 3] {
            file.extend(number.to_le_bytes());
        }
        file.resize(32, 0);
        let header = blob("bash", "5.1.8", 100);
        let room = (header.len() + 28).next_multiple_of(16);
        let slot = |index: u32, at: usize, room: usize| {
            let mut slot = b"Slot".to_vec();
            for number in [
                index,
                u32::try_from(at / 16).unwrap(),
                u32::try_from(room / 16).unwrap(),
            ] {
                slot.extend(number.to_le_bytes());
            }
            slot
        };
        file.extend(slot(2, 4096, room));
        while file.len() < 4096 {
            file.extend(slot(0, 0, 0));
        }
        file.extend(b"BlbS");
        for number in [2u32, 1, u32::try_from(header.len()).unwrap()] {
            file.extend(number.to_le_bytes());
        }
        file.extend(header);
        file.resize(4096 + room, 0);
        file
    }

    #[test]
    fn a_package_is_found_through_its_slot() {
        let listed = read(&database()[..]).unwrap();
        assert!(listed.damage.is_none(), "{:?}", listed.damage);
        assert_eq!(listed.packages[0].name, "bash");
    }

    #[test]
    fn each_broken_field_is_told_and_the_rest_is_read() {
        for (at, value) in [(32, 0u8), (40, 0xff), (4096, 0), (4100, 9), (4110, 0xff)] {
            let mut file = database();
            file[at] = value;
            let listed = read(&file[..]).unwrap();
            assert!(listed.damage.is_some(), "byte {at}");
            assert!(listed.packages.is_empty());
        }
        let mut file = database();
        file[4] = 1;
        assert!(read(&file[..]).is_err());
        file[4] = 0;
        file[14] = 1;
        assert!(read(&file[..]).is_err());
        assert!(read(&b"RpmP"[..]).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn damaged_databases_never_panic(place in 0usize..5000, byte: u8, cut in 0usize..6000) {
            let mut file = database();
            if let Some(at) = file.get_mut(place) {
                *at = byte;
            }
            file.truncate(cut);
            let _ = read(&file[..]);
        }
    }
}
