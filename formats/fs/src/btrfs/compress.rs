//! Compressed extents.
//!
//! Source: btrfs.readthedocs.io, "Compression", and for the framing of LZO Linux `fs/btrfs/lzo.c` (its opening
//! comment). An extent holds at most 128 KiB, packed and plain.

use std::io::Read as _;

use flate2::{Decompress, FlushDecompress, Status};
use rehost_block::{Fields, Result};

use super::lzo;
use crate::number::index;

/// `BTRFS_MAX_COMPRESSED` and `BTRFS_MAX_UNCOMPRESSED`.
pub(super) const MOST: u64 = 128 << 10;

/// `ZSTD_BTRFS_MAX_WINDOWLOG`.
const ZSTD_WINDOW: u32 = 17;

/// How an extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    /// Unpacks `f` into `plain`, which is zero; what is packed may be shorter. `sector` is what LZO was
    /// packed by.
    pub(super) fn unpack(self, f: &Fields<'_>, plain: &mut [u8], sector: u32) -> Result<()> {
        let packed = f.bytes(0, f.len())?;
        let done = match self {
            Self::Zlib => zlib(packed, plain),
            Self::Lzo => lzo_segments(f, plain, index(sector))?,
            Self::Zstd => zstd(packed, plain),
        };
        done.ok_or_else(|| f.corrupt(0, format!("compressed extent is not {}", self.name())))
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Lzo => "LZO",
            Self::Zstd => "zstd",
        }
    }
}

fn zlib(packed: &[u8], plain: &mut [u8]) -> Option<()> {
    let mut decoder = Decompress::new(true);
    let room = crate::number::wide(plain.len());
    match decoder
        .decompress(packed, plain, FlushDecompress::Finish)
        .ok()?
    {
        Status::StreamEnd => Some(()),
        // A stream may hold more than the extent.
        Status::Ok | Status::BufError => (decoder.total_out() == room).then_some(()),
    }
}

fn zstd(packed: &[u8], plain: &mut [u8]) -> Option<()> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)
        .ok()?
        .single_frame();
    decoder.window_log_max(ZSTD_WINDOW).ok()?;
    let mut rest = plain;
    // Ends because every round fills at least one byte.
    while !rest.is_empty() {
        let len = decoder.read(rest).ok()?;
        if len == 0 {
            break;
        }
        rest = rest.get_mut(len..)?;
    }
    Some(())
}

/// A length, then segments of a sector each, with their own lengths; no length crosses a sector's end.
fn lzo_segments(f: &Fields<'_>, plain: &mut [u8], sector: usize) -> Result<Option<()>> {
    let total = index(f.u32_le(0)?);
    let mut at = 4usize;
    let mut rest = plain;
    // Ends because every round takes a segment's length.
    while at < total && !rest.is_empty() {
        let left = sector.saturating_sub(at.checked_rem(sector).unwrap_or(0));
        if left < 4 {
            at = at.saturating_add(left);
        }
        let len = index(f.u32_le(at)?);
        let packed = f.bytes(at.saturating_add(4), len)?;
        let room = sector.min(rest.len());
        let (part, tail) = rest.split_at_mut(room);
        let Some(made) = lzo::unpack(packed, part) else {
            return Ok(None);
        };
        if made < room && !tail.is_empty() && at.saturating_add(4).saturating_add(len) < total {
            return Ok(None);
        }
        at = at.saturating_add(4).saturating_add(len);
        rest = tail;
    }
    Ok(Some(()))
}
