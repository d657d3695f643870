//! SQLite databases: `rpmdb.sqlite` (RHEL 9, Fedora 33 and later, openSUSE).
//!
//! <https://www.sqlite.org/fileformat2.html>: table b-trees, records and overflow pages, with the pages
//! of a write-ahead log that was not yet copied back laid over the file (`wal`). One table is
//! read, in key order; no SQL, no indexes. Left out on purpose, refused by name: text in UTF-16,
//! which rpm does not use.

mod wal;

use rehost_block::{Error, Fields, Result};

use self::wal::Log;
use super::super::{Bytes, Listed};
use super::{add, exactly};

/// Deepest b-tree (SQLite's `BTCURSOR_MAX_DEPTH`).
const DEEPEST: usize = 20;

/// Columns of a record that are looked at; both tables have fewer.
const MOST_COLUMNS: usize = 32;

struct Database<'a> {
    file: &'a dyn Bytes,
    log: Option<Log<'a>>,
    page: usize,
    /// Bytes of a page that SQLite uses.
    usable: usize,
    pages: u32,
}

/// Reads all packages of a database with its write-ahead log, when there is one.
///
/// # Errors
/// Corrupt when it is no such database, or has no table of packages. A damaged page or package is
/// noted in what is given.
pub fn read(file: &dyn Bytes, log: Option<&dyn Bytes>) -> Result<Listed> {
    let database = Database::open(file, log)?;
    let mut root = None;
    database.walk(1, &mut |row| {
        let (kind, name) = (row.text(0)?, row.text(1)?);
        if kind.as_deref() == Some("table") && name.as_deref() == Some("Packages") {
            root = row.integer(3)?.and_then(|place| u32::try_from(place).ok());
        }
        Ok(())
    })?;
    let root = root.ok_or_else(|| {
        Error::corrupt("there is no table of packages").in_structure("sqlite database")
    })?;
    let mut listed = Listed::default();
    let walked = database.walk(root, &mut |row| {
        if let Some((at, len)) = row.column(1)? {
            let whole = u64::try_from(len).unwrap_or(u64::MAX);
            add(&mut listed, whole, &|most| {
                let part = row.payload(at.saturating_add(most.min(len)))?;
                Ok(part.get(at..).unwrap_or_default().to_vec())
            })?;
        }
        Ok(())
    });
    if let Err(error) = walked {
        listed.note(error);
    }
    Ok(listed)
}

impl<'a> Database<'a> {
    fn open(file: &'a dyn Bytes, log: Option<&'a dyn Bytes>) -> Result<Self> {
        let head = exactly(file, 0, 100, "sqlite header")?;
        let fields = Fields::new(&head, "sqlite header", 0);
        if fields.bytes(0, 16)? != b"SQLite format 3\0" {
            return Err(fields.corrupt(0, "the magic of an sqlite database is missing"));
        }
        let page = match fields.u16_be(16)? {
            1 => 65536,
            size => usize::from(size),
        };
        if !page.is_power_of_two() || page < 512 {
            return Err(fields
                .corrupt(16, "page size is no power of two from 512 to 65536")
                .mismatch("a power of two", page));
        }
        let usable = page.saturating_sub(usize::from(fields.u8(20)?));
        if usable < 480 {
            return Err(fields.corrupt(20, "less than 480 bytes of a page are used"));
        }
        let encoding = fields.u32_be(56)?;
        if encoding > 1 {
            return Err(fields
                .unsupported(56, "text in utf-16")
                .mismatch("encoding 1", encoding));
        }
        let log = match log {
            Some(log) => Log::open(log, page)?,
            None => None,
        };
        let size = u64::try_from(page).unwrap_or(u64::MAX);
        let held = file.size().checked_div(size).unwrap_or_default();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let pages = log.as_ref().map_or(held, Log::pages);
        Ok(Self {
            file,
            log,
            page,
            usable,
            pages,
        })
    }

    /// Where page `number` (from 1) begins in the file.
    fn start(&self, number: u32) -> u64 {
        let page = u64::try_from(self.page).unwrap_or(u64::MAX);
        u64::from(number).saturating_sub(1).saturating_mul(page)
    }

    fn page(&self, number: u32) -> Result<Vec<u8>> {
        let start = self.start(number);
        if number == 0 || number > self.pages {
            return Err(Error::corrupt("a page that the database does not have")
                .in_structure("sqlite page")
                .at(start));
        }
        match self.log.as_ref().and_then(|log| log.find(number)) {
            Some((log, at)) => exactly(log, at, self.page, "sqlite write-ahead log"),
            None => exactly(self.file, start, self.page, "sqlite page"),
        }
    }

    /// Gives every row of the table whose b-tree has its root on page `root`.
    fn walk(&self, root: u32, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        const INTERIOR: u8 = 5;
        const LEAF: u8 = 13;
        let mut left = vec![(root, 0usize)];
        let mut visited = 0u32;
        // Ends because a tree has not more pages than the file.
        while let Some((number, depth)) = left.pop() {
            visited = visited.saturating_add(1);
            if visited > self.pages || depth > DEEPEST {
                return Err(Error::corrupt("a b-tree that leads back into itself")
                    .in_structure("sqlite page")
                    .at(self.start(number)));
            }
            let bytes = self.page(number)?;
            let fields = Fields::new(&bytes, "sqlite page", self.start(number));
            // The database's header takes the first part of page 1.
            let head: usize = if number == 1 { 100 } else { 0 };
            let cells = usize::from(fields.u16_be(head.saturating_add(3))?);
            let kind = fields.u8(head)?;
            let array = match kind {
                INTERIOR => head.saturating_add(12),
                LEAF => head.saturating_add(8),
                other => {
                    return Err(fields
                        .corrupt(head, "a page of another kind in a table")
                        .mismatch("5 or 13", other));
                }
            };
            let cell = |index: usize| -> Result<usize> {
                let at = array.saturating_add(index.saturating_mul(2));
                Ok(usize::from(fields.u16_be(at)?))
            };
            if kind == LEAF {
                for index in 0..cells {
                    take(&self.row(&bytes, number, cell(index)?)?)?;
                }
                continue;
            }
            let deeper = depth.saturating_add(1);
            left.push((fields.u32_be(head.saturating_add(8))?, deeper));
            // The last one pushed comes next, so the first cell's comes last onto the stack.
            for index in (0..cells).rev() {
                left.push((fields.u32_be(cell(index)?)?, deeper));
            }
        }
        Ok(())
    }

    /// The row whose cell begins at byte `at` of a leaf.
    fn row<'r>(&'r self, page: &[u8], number: u32, at: usize) -> Result<Row<'r>> {
        let fields = Fields::new(page, "sqlite cell", self.start(number));
        let (len, after) = varint(&fields, at)?;
        let (_, body) = varint(&fields, after)?;
        let len = usize::try_from(len).map_err(|_| fields.corrupt(at, "a row of no length"))?;
        if u64::try_from(len).unwrap_or(u64::MAX) > self.start(self.pages.saturating_add(1)) {
            return Err(fields.corrupt(at, "a row longer than the database"));
        }
        let room = self.usable;
        // Section 1.6, "Cell payload overflow pages".
        let most = room.saturating_sub(35);
        let least = room
            .saturating_sub(12)
            .saturating_mul(32)
            .checked_div(255)
            .unwrap_or_default()
            .saturating_sub(23);
        let part = len
            .saturating_sub(least)
            .checked_rem(room.saturating_sub(4))
            .unwrap_or_default()
            .saturating_add(least);
        let local = if len <= most {
            len
        } else if part <= most {
            part
        } else {
            least
        };
        let overflow = if local < len {
            fields.u32_be(body.saturating_add(local))?
        } else {
            0
        };
        Ok(Row {
            database: self,
            start: self.start(number),
            local: fields.bytes(body, local)?.to_vec(),
            overflow,
            len,
        })
    }
}

/// One row: what of its record is on the page, and where the rest is.
struct Row<'a> {
    database: &'a Database<'a>,
    start: u64,
    local: Vec<u8>,
    overflow: u32,
    len: usize,
}

impl Row<'_> {
    /// The first `most` bytes of the record; fewer when it is shorter.
    fn payload(&self, most: usize) -> Result<Vec<u8>> {
        let most = most.min(self.len);
        let mut payload = self.local.get(..most).unwrap_or(&self.local).to_vec();
        let mut next = self.overflow;
        let room = self.database.usable.saturating_sub(4);
        // Ends because every round adds a page's content, and there is not more than `most`.
        while payload.len() < most {
            let bytes = self.database.page(next)?;
            let fields = Fields::new(&bytes, "sqlite overflow page", self.database.start(next));
            let want = most.saturating_sub(payload.len()).min(room);
            payload.extend_from_slice(fields.bytes(4, want)?);
            next = fields.u32_be(0)?;
        }
        Ok(payload)
    }

    /// Where the value of column `wanted` lies in the record, and its length; `None` for numbers,
    /// null, and a column that the record has not.
    fn column(&self, wanted: usize) -> Result<Option<(usize, usize)>> {
        Ok(self.value(wanted)?.and_then(|(kind, at, len)| {
            let bytes = kind >= 12;
            bytes.then_some((at, len))
        }))
    }

    /// Serial type, place and length of column `wanted`.
    fn value(&self, wanted: usize) -> Result<Option<(u64, usize, usize)>> {
        let head = self.payload(512)?;
        let fields = Fields::new(&head, "sqlite record", self.start);
        let (len, mut at) = varint(&fields, 0)?;
        let end = usize::try_from(len).unwrap_or(usize::MAX);
        let mut body = end;
        for column in 0..MOST_COLUMNS {
            if at >= end {
                return Ok(None);
            }
            let (kind, after) = varint(&fields, at)?;
            at = after;
            let len = match kind {
                0 | 8 | 9 => 0,
                1..=4 => kind,
                5 => 6,
                6 | 7 => 8,
                10 | 11 => return Err(fields.corrupt(at, "a serial type that is reserved")),
                other => other.saturating_sub(12) / 2,
            };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let past = body.saturating_add(len);
            if past > self.len {
                return Err(fields
                    .corrupt(at, "a column longer than its row")
                    .mismatch(format!("at most {}", self.len), past));
            }
            if column == wanted {
                return Ok(Some((kind, body, len)));
            }
            body = past;
        }
        Ok(None)
    }

    fn text(&self, column: usize) -> Result<Option<String>> {
        let Some((at, len)) = self.column(column)? else {
            return Ok(None);
        };
        // Names of tables are short; the text of a statement is not asked for.
        let len = len.min(1024);
        let bytes = self.payload(at.saturating_add(len))?;
        let text = bytes.get(at..).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    fn integer(&self, column: usize) -> Result<Option<u64>> {
        let Some((kind @ (1..=6 | 8 | 9), at, len)) = self.value(column)? else {
            return Ok(None);
        };
        if kind >= 8 {
            return Ok(Some(kind.saturating_sub(8)));
        }
        let bytes = self.payload(at.saturating_add(len))?;
        let number = bytes
            .get(at..)
            .unwrap_or_default()
            .iter()
            .fold(0u64, |sum, byte| sum.wrapping_shl(8) | u64::from(*byte));
        Ok(Some(number))
    }
}

/// A variable-length integer and where it ends: seven bits a byte, the ninth byte whole.
fn varint(fields: &Fields<'_>, at: usize) -> Result<(u64, usize)> {
    let mut value = 0u64;
    for index in 0..8usize {
        let byte = fields.u8(at.saturating_add(index))?;
        value = value.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, at.saturating_add(index).saturating_add(1)));
        }
    }
    let byte = fields.u8(at.saturating_add(8))?;
    value = value.wrapping_shl(8) | u64::from(byte);
    Ok((value, at.saturating_add(9)))
}

#[cfg(test)]
mod tests;
