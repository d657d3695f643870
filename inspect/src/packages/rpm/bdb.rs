//! Berkeley DB hash files: `Packages` of RHEL up to 8, SLES up to 12, Fedora up to 32.
//!
//! Berkeley DB 4.8 to 5.3, `src/dbinc/db_page.h`: a metadata page, then pages of one size; hash pages
//! hold pairs of items, and an item too large for its page is a chain of overflow pages. Both byte
//! orders. All hash pages are read in file order, so buckets and hash functions do not matter.
//! Left out on purpose, refused by name: encrypted databases, B-trees, duplicate sets (rpm has none
//! in this table).

use rehost_block::{Error, Fields, Result};

use super::super::{Bytes, Listed};
use super::{add, exactly};

/// Length of a page's header.
const HEAD: usize = 26;

const MAGIC: u32 = 0x0006_1561;

/// Types of pages that hold pairs: unsorted, and sorted since 4.6.
const HASH: [u8; 2] = [2, 13];
const OVERFLOW: u8 = 7;

/// Item types.
const KEYDATA: u8 = 1;
const OFFPAGE: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, fields: &Fields<'_>, at: usize) -> Result<u16> {
        match self {
            Self::Little => fields.u16_le(at),
            Self::Big => fields.u16_be(at),
        }
    }

    fn u32(self, fields: &Fields<'_>, at: usize) -> Result<u32> {
        match self {
            Self::Little => fields.u32_le(at),
            Self::Big => fields.u32_be(at),
        }
    }
}

struct Database<'a, B: Bytes + ?Sized> {
    file: &'a B,
    order: Order,
    page: usize,
    pages: u32,
}

/// Reads all packages.
///
/// # Errors
/// Corrupt when it is no such database; Unsupported for other kinds of Berkeley DB. A damaged page
/// or package is noted in what is given.
pub fn read(file: &(impl Bytes + ?Sized)) -> Result<Listed> {
    let database = Database::open(file)?;
    let mut listed = Listed::default();
    for number in 1..database.pages {
        if let Err(error) = database.hash_page(number, &mut listed) {
            listed.note(error);
        }
    }
    Ok(listed)
}

impl<'a, B: Bytes + ?Sized> Database<'a, B> {
    fn open(file: &'a B) -> Result<Self> {
        let meta = exactly(file, 0, 96, "berkeley db metadata")?;
        let fields = Fields::new(&meta, "berkeley db metadata", 0);
        let order = match (fields.u32_le(12)?, fields.u32_be(12)?) {
            (MAGIC, _) => Order::Little,
            (_, MAGIC) => Order::Big,
            (0x0005_3162, _) | (_, 0x0005_3162) => {
                return Err(fields.unsupported(12, "a b-tree, not a hash"));
            }
            _ => return Err(fields.corrupt(12, "the magic of a berkeley db hash is missing")),
        };
        let version = order.u32(&fields, 16)?;
        // 8: Berkeley DB 4.1 (RHEL 4); 9: 4.6 to 5.3.
        if !(7..=10).contains(&version) {
            return Err(fields
                .unsupported(16, "another version of berkeley db's hash")
                .mismatch("version 7 to 10", version));
        }
        let page = order.u32(&fields, 20)?;
        if !page.is_power_of_two() || !(512..=65536).contains(&page) {
            return Err(fields
                .corrupt(20, "page size is no power of two from 512 to 65536")
                .mismatch("a power of two", page));
        }
        if fields.u8(24)? != 0 {
            return Err(fields.unsupported(24, "the database is encrypted"));
        }
        let held = file.size().checked_div(u64::from(page)).unwrap_or_default();
        let last = order.u32(&fields, 32)?;
        let pages = u64::from(last).saturating_add(1).min(held);
        Ok(Self {
            file,
            order,
            page: usize::try_from(page).unwrap_or(usize::MAX),
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
        })
    }

    fn start(&self, number: u32) -> u64 {
        let page = u64::try_from(self.page).unwrap_or(u64::MAX);
        u64::from(number).saturating_mul(page)
    }

    /// Adds the packages on page `number`, when it is a page of pairs.
    fn hash_page(&self, number: u32, listed: &mut Listed) -> Result<()> {
        let start = self.start(number);
        let head = exactly(self.file, start, HEAD, "berkeley db page")?;
        let kind = Fields::new(&head, "berkeley db page", start).u8(25)?;
        if !HASH.contains(&kind) {
            return Ok(());
        }
        let bytes = exactly(self.file, start, self.page, "berkeley db page")?;
        let fields = Fields::new(&bytes, "berkeley db page", start);
        let entries = usize::from(self.order.u16(&fields, 20)?);
        let place = |index: usize| -> Result<usize> {
            let at = index.saturating_mul(2).saturating_add(HEAD);
            Ok(usize::from(self.order.u16(&fields, at)?))
        };
        for key in (0..entries).step_by(2) {
            let value = key.saturating_add(1);
            // Items lie from the end of the page downwards, so each ends where the one before begins.
            let from = place(value)?;
            let to = place(key)?;
            let key_end = match key.checked_sub(1) {
                Some(before) => place(before)?,
                None => self.page,
            };
            let key_from = to;
            if from >= to || key_from >= key_end || key_end > self.page {
                return Err(fields.corrupt(HEAD.saturating_add(key), "items that overlap"));
            }
            // Key 0 is no package: its value is the number for the next one.
            let name = bytes
                .get(key_from.saturating_add(1)..key_end)
                .unwrap_or_default();
            if rehost_block::is_zero(name) {
                continue;
            }
            let item = Fields::new(
                bytes.get(from..to).unwrap_or_default(),
                "berkeley db item",
                start.saturating_add(u64::try_from(from).unwrap_or_default()),
            );
            if let Err(error) = self.package(&item, listed) {
                listed.note(error);
            }
        }
        Ok(())
    }

    fn package(&self, item: &Fields<'_>, listed: &mut Listed) -> Result<()> {
        match item.u8(0)? {
            KEYDATA => {
                let body = item.bytes(1, item.len().saturating_sub(1))?;
                let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
                add(listed, len, &|most| {
                    Ok(body.get(..most).unwrap_or(body).to_vec())
                })
            }
            OFFPAGE => {
                let first = self.order.u32(item, 4)?;
                let len = self.order.u32(item, 8)?;
                if u64::from(len) > self.start(self.pages) {
                    return Err(item
                        .corrupt(8, "a package longer than the database")
                        .mismatch(format!("at most {}", self.start(self.pages)), len));
                }
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                add(listed, u64::try_from(len).unwrap_or(u64::MAX), &|most| {
                    self.chain(first, most.min(len))
                })
            }
            other => Err(item
                .unsupported(0, "a set of duplicates in the table of packages")
                .mismatch("item type 1 or 3", other)),
        }
    }

    /// The first `len` bytes of a chain of overflow pages.
    fn chain(&self, first: u32, len: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut next = first;
        // Ends because every round adds at least one byte, and there are not more than `len`.
        while body.len() < len {
            if next == 0 || next >= self.pages {
                return Err(Error::corrupt("a chain of overflow pages that breaks off")
                    .in_structure("berkeley db page")
                    .at(self.start(next)));
            }
            let start = self.start(next);
            let bytes = exactly(self.file, start, self.page, "berkeley db page")?;
            let fields = Fields::new(&bytes, "berkeley db page", start);
            let kind = fields.u8(25)?;
            if kind != OVERFLOW {
                return Err(fields
                    .corrupt(25, "a chain that leads to another kind of page")
                    .mismatch(OVERFLOW, kind));
            }
            let held = usize::from(self.order.u16(&fields, 22)?);
            if held == 0 {
                return Err(fields.corrupt(22, "an overflow page that holds nothing"));
            }
            let part = fields.bytes(HEAD, held)?;
            let want = len.saturating_sub(body.len());
            body.extend_from_slice(part.get(..want).unwrap_or(part));
            next = self.order.u32(&fields, 16)?;
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::blob;
    use super::*;

    const PAGE: usize = 512;

    fn head(page: &mut [u8], next: u32, entries: u16, offset: u16, kind: u8) {
        page[16..20].copy_from_slice(&next.to_le_bytes());
        page[20..22].copy_from_slice(&entries.to_le_bytes());
        page[22..24].copy_from_slice(&offset.to_le_bytes());
        page[25] = kind;
    }

    /// One hash page with the counter, a small package in it, and one in two overflow pages.
    fn database() -> Vec<u8> {
        let mut file = vec![0u8; PAGE * 4];
        for (at, number) in [(12, MAGIC), (16, 9), (20, PAGE as u32), (32, 3)] {
            file[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        file[25] = 8;
        let small = blob("bash", "5.1.8", 3);
        let large = blob("kernel", "4.18.0", 600);
        let mut off = vec![OFFPAGE, 0, 0, 0];
        off.extend(2u32.to_le_bytes());
        off.extend(u32::try_from(large.len()).unwrap().to_le_bytes());
        let key = |number: u32| [&[KEYDATA][..], &number.to_le_bytes()].concat();
        let items = [
            key(0),
            vec![KEYDATA, 3, 0, 0, 0],
            key(1),
            [&[KEYDATA][..], &small].concat(),
            key(2),
            off,
        ];
        let page = &mut file[PAGE..2 * PAGE];
        let mut end = PAGE;
        for (index, item) in items.iter().enumerate() {
            end -= item.len();
            page[end..end + item.len()].copy_from_slice(item);
            page[HEAD + index * 2..HEAD + index * 2 + 2]
                .copy_from_slice(&(end as u16).to_le_bytes());
        }
        head(page, 0, 6, end as u16, 13);
        let room = PAGE - HEAD;
        for (number, part) in large.chunks(room).enumerate() {
            let page = &mut file[(2 + number) * PAGE..(3 + number) * PAGE];
            page[HEAD..HEAD + part.len()].copy_from_slice(part);
            let next = if number == 0 { 3 } else { 0 };
            head(page, next, 1, part.len() as u16, OVERFLOW);
        }
        file
    }

    #[test]
    fn packages_on_the_page_and_in_overflow_pages_are_read() {
        let listed = read(&database()[..]).unwrap();
        assert!(listed.damage.is_none(), "{:?}", listed.damage);
        let names: Vec<&str> = listed.packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["bash", "kernel"]);
    }

    #[test]
    fn a_chain_that_loops_or_leaves_the_file_ends_with_an_error() {
        for (at, value) in [
            (2 * PAGE + 16, 2u8),
            (2 * PAGE + 16, 200),
            (2 * PAGE + 22, 0),
            (2 * PAGE + 25, 13),
        ] {
            let mut file = database();
            file[at] = value;
            if at == 2 * PAGE + 22 {
                file[at + 1] = 0;
            }
            let listed = read(&file[..]).unwrap();
            assert_eq!(listed.packages[0].name, "bash");
            // The loop gives enough bytes, of which the header is not made.
            assert!(listed.damage.is_some() || value == 2, "byte {at}");
        }
    }

    #[test]
    fn other_kinds_of_database_are_refused_by_name() {
        for (at, value, said) in [
            (12, 0u32, "magic"),
            (12, 0x0005_3162, "b-tree"),
            (16, 3, "version"),
            (20, 1000, "page size"),
            (24, 1, "encrypted"),
        ] {
            let mut file = database();
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let error = read(&file[..]).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn damaged_databases_never_panic(places: Vec<(u16, u8)>, cut in 0usize..2100) {
            let mut file = database();
            for (place, byte) in places.into_iter().take(4) {
                if let Some(at) = file.get_mut(usize::from(place) % (4 * PAGE)) {
                    *at = byte;
                }
            }
            file.truncate(cut);
            let _ = read(&file[..]);
        }
    }
}
