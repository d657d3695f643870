//! Zstandard's seekable format 0.1.0: a skippable frame at the end of the file lists the others.

use rehost_block::{Error, Fields, Result, Storage};

use super::pieces::Index;
use super::zstd::Frame;

/// Magic of the skippable frame that holds the table, and of the footer in it.
pub(super) const SKIPPABLE: u32 = 0x184d_2a5e;
pub(super) const SEEKABLE: u32 = 0x8f92_eab1;

/// Bytes of a skippable frame's header, and of the footer.
const HEAD: u64 = 8;
const FOOTER: u64 = 9;

/// Set in the footer when every entry has a check sum; and the bits that are reserved.
const CHECKSUMS: u8 = 1 << 7;
const RESERVED: u8 = 0x7c;

/// The index of `storage`, where it ends with a table.
///
/// # Errors
/// Corrupt when the table is damaged or does not fit the file.
pub(super) fn index(storage: &dyn Storage) -> Result<Option<Index>> {
    let size = storage.size();
    let Some(footer_at) = size.checked_sub(FOOTER) else {
        return Ok(None);
    };
    let mut footer = [0; 9];
    storage.read_at(&mut footer, footer_at)?;
    let fields = Fields::new(&footer, "zstd seek table", footer_at);
    if fields.u32_le(5)? != SEEKABLE {
        return Ok(None);
    }
    let fault = |what: &str| {
        Error::corrupt(what)
            .in_structure("zstd seek table")
            .in_file(storage.name())
            .at(footer_at)
    };
    let descriptor = fields.u8(4)?;
    if descriptor & RESERVED != 0 {
        return Err(fault("reserved bits are set"));
    }
    let entry = if descriptor & CHECKSUMS == 0 { 8 } else { 12 };
    let len = u64::from(fields.u32_le(0)?).saturating_mul(entry);
    let body = len.saturating_add(FOOTER);
    let table_at = footer_at
        .checked_sub(len)
        .and_then(|at| at.checked_sub(HEAD))
        .ok_or_else(|| fault("table is longer than the file"))?;
    let mut head = [0; 8];
    storage.read_at(&mut head, table_at)?;
    let head = Fields::new(&head, "zstd seek table", table_at);
    if head.u32_le(0)? != SKIPPABLE || u64::from(head.u32_le(4)?) != body {
        return Err(fault("frame of the table is damaged"));
    }
    let table = table_at.saturating_add(HEAD);
    let mut index = Index::new(Box::new(Frame), 0);
    let step = usize::try_from(entry).unwrap_or(8);
    let mut bytes = vec![0; step.saturating_mul(4096)];
    let mut at = table;
    // Ends because every round reads a part of the table, which is in the file.
    while at < footer_at {
        let left = usize::try_from(footer_at.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = bytes.len().min(left);
        let part = bytes.get_mut(..len).unwrap_or_default();
        storage.read_at(part, at)?;
        for entry in part.chunks(step) {
            let fields = Fields::new(entry, "zstd seek table", at);
            let (packed, plain) = (fields.u32_le(0)?, fields.u32_le(4)?);
            if index.push(packed.into(), plain.into())?.is_none() {
                return Ok(None);
            }
        }
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    if index.end().0 != table_at {
        return Err(fault("frames do not end where the table begins")
            .mismatch(format!("an end at {table_at}"), index.end().0));
    }
    Ok(Some(index))
}
