//! zstd files of many frames that say how long they are: RFC 8878, 3.1.1.
//!
//! A frame's header has its plain size where the writer knew it; its packed size is found by going
//! from block to block.

use rehost_block::{Error, Fields, Result, Storage};
use zstd::zstd_safe::DCtx;

use super::MAX_PIECE;
use super::pieces::{Index, Unpack};

const MAGIC: u32 = 0xfd2f_b528;

/// The longest header of a frame, its magic included.
const HEAD: u64 = 18;

/// The index of `storage`, where all frames have their size and none is too large.
///
/// # Errors
/// Io when it cannot be read. What is damaged has no index, and is found when it is decoded.
pub(super) fn index(storage: &dyn Storage) -> Result<Option<Index>> {
    let size = storage.size();
    let mut index = Index::new(Box::new(Frame), 0);
    // Ends because every frame has at least its magic.
    while index.end().0 < size {
        let at = index.end().0;
        let Some((packed, plain)) = frame(storage, at)? else {
            return Ok(None);
        };
        let end = at.saturating_add(packed);
        if end > size || packed > MAX_PIECE || plain > MAX_PIECE {
            return Ok(None);
        }
        if index.push(packed, plain)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(index))
}

/// The sizes of the frame at `at`: packed, plain.
fn frame(storage: &dyn Storage, at: u64) -> Result<Option<(u64, u64)>> {
    let size = storage.size();
    let mut bytes = [0; 18];
    let len = usize::try_from(HEAD.min(size.saturating_sub(at))).unwrap_or(0);
    let bytes = bytes.get_mut(..len).unwrap_or_default();
    storage.read_at(bytes, at)?;
    let fields = Fields::new(bytes, "zstd frame", at);
    let Ok(magic) = fields.u32_le(0) else {
        return Ok(None);
    };
    if magic & 0xffff_fff0 == 0x184d_2a50 {
        let body = fields.u32_le(4).ok().map(u64::from);
        return Ok(body.map(|body| (body.saturating_add(8), 0)));
    }
    let Some((plain, head)) = (magic == MAGIC).then(|| header(&fields).ok()).flatten() else {
        return Ok(None);
    };
    let checksum = fields.u8(4)? & 4 != 0;
    let mut next = at.saturating_add(head);
    // Ends because every block takes at least its header of three bytes, and the file ends.
    loop {
        let mut block = [0; 3];
        if next.saturating_add(3) > size || next.saturating_sub(at) > MAX_PIECE {
            return Ok(None);
        }
        storage.read_at(&mut block, next)?;
        let [low, middle, high] = block;
        let word = u32::from_le_bytes([low, middle, high, 0]);
        // Raw and compressed blocks are stored, of run-length ones a byte.
        let stored = match (word >> 1) & 3 {
            1 => 1,
            3 => return Ok(None),
            _ => u64::from(word >> 3),
        };
        next = next.saturating_add(3).saturating_add(stored);
        if word & 1 == 1 {
            let end = next.saturating_add(if checksum { 4 } else { 0 });
            return Ok(Some((end.saturating_sub(at), plain)));
        }
    }
}

/// The plain size that a frame's header has, and the header's own length. An error when it has none.
fn header(fields: &Fields<'_>) -> Result<(u64, u64)> {
    let descriptor = fields.u8(4)?;
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4]
        .get(usize::from(descriptor & 3))
        .copied()
        .unwrap_or(0);
    let mut at = 5usize;
    if !single_segment {
        at = at.saturating_add(1);
    }
    at = at.saturating_add(dictionary);
    let (plain, len) = match descriptor >> 6 {
        0 if single_segment => (u64::from(fields.u8(at)?), 1),
        0 => return Err(fields.unsupported(4, "frame has no plain size")),
        1 => (u64::from(fields.u16_le(at)?).saturating_add(256), 2),
        2 => (fields.u32_le(at)?.into(), 4),
        _ => (fields.u64_le(at)?, 8),
    };
    let head = at.saturating_add(len);
    Ok((plain, u64::try_from(head).unwrap_or(u64::MAX)))
}

/// One whole frame, or one that is to be skipped.
#[derive(Debug)]
pub(super) struct Frame;

impl Unpack for Frame {
    fn unpack(&self, _number: usize, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let damaged = |code| {
            Error::corrupt("zstd frame is damaged").because(zstd::zstd_safe::get_error_name(code))
        };
        let mut context =
            DCtx::try_create().ok_or_else(|| Error::internal("no memory for a zstd context"))?;
        let len = context.decompress(plain, packed).map_err(damaged)?;
        if len != plain.len() {
            return Err(Error::corrupt("zstd frame is shorter than its index says")
                .mismatch(format!("{} bytes", plain.len()), len));
        }
        Ok(())
    }
}
