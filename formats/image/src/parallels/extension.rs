//! The format extension: a list of features, of which dirty bitmaps are the only ones defined.
//! "Format Extension" in `docs/interop/parallels.txt`.

use rehost_block::{Fields, Result, Storage};
use uuid::Uuid;

use super::header::{Header, STRUCTURE};
use crate::details::ParallelsBitmap;

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
const DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;

/// Bytes before the first feature, and of a feature's own header.
const HEAD: usize = 24;

/// Bytes of the extension that are looked at. Ours: its cluster may be as large as 2 TiB.
const MOST: u64 = 1 << 20;

/// What the extension says.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) bitmaps: Vec<ParallelsBitmap>,
}

/// The extension that `header` names. One that was not closed says nothing: its bitmaps are stale.
///
/// # Errors
/// Corrupt when it is damaged or lies outside the file.
pub(super) fn read(storage: &dyn Storage, header: &Header) -> Result<Extension> {
    let Some(at) = header.extension.filter(|_| !header.in_use) else {
        return Ok(Extension::default());
    };
    let len = header
        .cluster
        .get()
        .min(MOST)
        .min(storage.size().saturating_sub(at));
    if len == 0 {
        return Err(Fields::new(&[], STRUCTURE, 0)
            .corrupt(56, "format extension lies past the end of the file")
            .mismatch(format!("before {}", storage.size()), at));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    storage.read_at(&mut bytes, at)?;
    parse(&Fields::new(&bytes, "format extension", at))
}

fn parse(fields: &Fields<'_>) -> Result<Extension> {
    let magic = fields.u64_le(0)?;
    if magic != MAGIC {
        return Err(fields
            .corrupt(0, "magic is missing")
            .mismatch(format!("{MAGIC:#x}"), format!("{magic:#x}")));
    }
    let mut extension = Extension::default();
    let mut at = HEAD;
    // Ends because every feature takes at least its header, or the structure ends.
    loop {
        let magic = fields.u64_le(at)?;
        let flags = fields.u64_le(at.saturating_add(8))?;
        let len = fields.u32_le(at.saturating_add(16))?;
        if magic == 0 {
            if flags != 0 || len != 0 {
                return Err(fields.corrupt(at, "end of features is not empty"));
            }
            return Ok(extension);
        }
        let data = at.saturating_add(HEAD);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        fields.bytes(data, len)?;
        if magic == DIRTY_BITMAP {
            extension.bitmaps.push(ParallelsBitmap {
                id: Uuid::from_bytes(fields.array(data.saturating_add(8))?),
                granularity: u64::from(fields.u32_le(data.saturating_add(24))?)
                    .saturating_mul(super::SECTOR),
            });
        }
        at = data.saturating_add(len.checked_next_multiple_of(8).unwrap_or(usize::MAX));
    }
}
