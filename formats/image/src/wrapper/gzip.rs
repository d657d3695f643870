//! gzip files whose members say how long they are.
//!
//! RFC 1952, 2.3.1.1 "Extra field": BGZF (the SAM specification, 4.1) puts the member's length less
//! one into subfield `BC`, 16 bits; mgzip puts it into `IG`, 32 bits, which is also what is written
//! here. The plain length is in the member's last four bytes.

use std::io::Read;

use flate2::bufread::GzDecoder;
use rehost_block::{Error, Fields, Result, Storage};

use super::pieces::{Index, Unpack};

/// Bytes of a member's header up to its extra field, and of what follows its deflate stream.
const HEAD: usize = 12;
const TAIL: u64 = 8;

/// Set in `FLG` when there is an extra field.
const FEXTRA: u8 = 1 << 2;

/// Bytes of the extra field that are looked at.
const MOST: u64 = 256;

/// The index of `storage`, where every member has its length.
///
/// # Errors
/// Corrupt when the lengths lead past the end of the file.
pub(super) fn index(storage: &dyn Storage) -> Result<Option<Index>> {
    let size = storage.size();
    let mut index = Index::new(Box::new(Member), 0);
    let mut at = 0;
    // Ends because every member has at least a byte.
    while at < size {
        let Some(len) = member_len(storage, at)? else {
            // An index for a part of the file is none: what follows cannot be found.
            return Ok(None);
        };
        let end = at.saturating_add(len);
        if end > size || len < TAIL.saturating_add(u64::try_from(HEAD).unwrap_or(0)) {
            return Err(Error::corrupt("gzip member lies past the end of the file")
                .in_file(storage.name())
                .at(at)
                .mismatch(format!("an end of at most {size}"), end)
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        let mut tail = [0; 4];
        storage.read_at(&mut tail, end.saturating_sub(4))?;
        if index.push(len, u32::from_le_bytes(tail).into())?.is_none() {
            return Ok(None);
        }
        at = end;
    }
    Ok(Some(index))
}

/// The length of the member at `at`, where its extra field has it.
fn member_len(storage: &dyn Storage, at: u64) -> Result<Option<u64>> {
    let len = MOST.min(storage.size().saturating_sub(at));
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    storage.read_at(&mut bytes, at)?;
    let fields = Fields::new(&bytes, "gzip header", at);
    if bytes.len() < HEAD || fields.array(0)? != [0x1f, 0x8b, 8] || fields.u8(3)? & FEXTRA == 0 {
        return Ok(None);
    }
    let extra_end = usize::from(fields.u16_le(10)?).saturating_add(HEAD);
    let mut place = HEAD;
    // Ends because every subfield has at least its four bytes of header.
    while place.saturating_add(4) <= extra_end.min(bytes.len()) {
        let id: [u8; 2] = fields.array(place)?;
        let len = usize::from(fields.u16_le(place.saturating_add(2))?);
        let body = place.saturating_add(4);
        match (&id, len) {
            (b"BC", 2) => {
                let less_one = u64::from(fields.u16_le(body)?);
                return Ok(Some(less_one.saturating_add(1)));
            }
            (b"IG", 4) => return Ok(Some(fields.u32_le(body)?.into())),
            _ => place = body.saturating_add(len),
        }
    }
    Ok(None)
}

/// One whole member.
#[derive(Debug)]
struct Member;

impl Unpack for Member {
    fn unpack(&self, _number: usize, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let damaged = |error| Error::corrupt("gzip member is damaged").because(error);
        let mut decoder = GzDecoder::new(packed);
        decoder.read_exact(plain).map_err(damaged)?;
        // Reading on is what compares the check sum.
        if decoder.read(&mut [0]).map_err(damaged)? != 0 || !decoder.into_inner().is_empty() {
            return Err(Error::corrupt("gzip member is longer than it says"));
        }
        Ok(())
    }
}
