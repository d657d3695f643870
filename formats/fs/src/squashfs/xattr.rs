//! Extended attributes: a table of sets, and names and values in metadata of their own.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`, section 3.8.

use rehost_block::{Error, Fields, Result};

use super::Squashfs;
use super::metadata::{Cursor, Place};

const STRUCTURE: &str = "extended attributes";

/// The longest name and value (Linux's `XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const MOST_NAME: usize = 255;
const MOST_VALUE: usize = 65_536;

/// Bytes of all attributes of one file, at most. Ours: Linux lists no more than 64 KiB of names.
const MOST_BYTES: usize = 4 << 20;

/// Set in a type when the value is elsewhere.
const ELSEWHERE: u16 = 0x100;

impl Squashfs {
    /// The attributes of set number `nth`.
    pub(super) fn attributes_of(&self, nth: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let found = self.sb.xattr_table.ok_or_else(|| {
            Error::corrupt("a file has attributes, and the filesystem none").in_structure(STRUCTURE)
        })?;
        self.set(found, nth)
            .map_err(|error| error.in_structure(STRUCTURE).at(found))
    }

    fn set(&self, table: u64, nth: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let list = table.saturating_add(16);
        if list > self.sb.used {
            return Err(Error::corrupt("the table lies outside the filesystem"));
        }
        let mut head = [0; 16];
        self.metadata.disk().read_at(&mut head, table)?;
        let f = Fields::new(&head, STRUCTURE, table);
        let (start, count) = (f.u64_le(0)?, f.u32_le(8)?);
        if nth >= count {
            return Err(f
                .corrupt(8, "no such set of attributes")
                .mismatch(format!("less than {count}"), nth));
        }
        let raw = self.metadata.entry::<16>(list, nth)?;
        let f = Fields::new(&raw, STRUCTURE, list);
        let mut cursor = self.metadata.cursor(Place::of(start, f.u64_le(0)?));
        let mut found = Vec::new();
        let mut bytes = 0usize;
        // Ends because each attribute takes bytes of the metadata, and their sum is bounded.
        for _ in 0..f.u32_le(8)? {
            let (name, value) = self.attribute(&mut cursor, start)?;
            bytes = bytes
                .saturating_add(64)
                .saturating_add(name.len())
                .saturating_add(value.len());
            if bytes > MOST_BYTES {
                return Err(Error::unsupported(
                    "more than 4 MiB of attributes of a file",
                ));
            }
            found.push((name, value));
        }
        Ok(found)
    }

    fn attribute(&self, cursor: &mut Cursor<'_>, start: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let [kind, kind_high, len, len_high] = cursor.array::<4>()?;
        let kind = u16::from_le_bytes([kind, kind_high]);
        let prefix: &[u8] = match kind & 0xff {
            0 => b"user.",
            1 => b"trusted.",
            2 => b"security.",
            other => {
                return Err(Error::unsupported(format!("attributes of class {other}")));
            }
        };
        let len = u32::from(u16::from_le_bytes([len, len_high]));
        let mut name = prefix.to_vec();
        name.extend(cursor.bytes(len, MOST_NAME)?);
        let len = u32::from_le_bytes(cursor.array()?);
        if kind & ELSEWHERE == 0 {
            return Ok((name, cursor.bytes(len, MOST_VALUE)?));
        }
        let place = Place::of(start, u64::from_le_bytes(cursor.array()?));
        let mut there = self.metadata.cursor(place);
        let len = u32::from_le_bytes(there.array()?);
        Ok((name, there.bytes(len, MOST_VALUE)?))
    }
}
