//! The compressors that squashfs knows, by number: how a block is unpacked.
//!
//! Source: Linux `Documentation/filesystems/squashfs.rst`; the LZMA form is that of squashfs-tools, a
//! `.lzma` header with the plain length.

use std::cell::RefCell;

use liblzma::stream::{Action, Status, Stream};
use rehost_block::{Error, Fields, Result};
use zstd::zstd_safe::{self, DCtx};

/// Memory for one block's dictionary, in bytes. Ours: the largest block, and so the largest useful
/// dictionary, is 1 MiB.
const MOST_MEMORY: u64 = 32 << 20;

thread_local! {
    // Made once per thread, not once per block.
    static INFLATE: RefCell<libdeflater::Decompressor> =
        RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// What packed the blocks of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compressor {
    Gzip,
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl Compressor {
    /// By the number at byte `at` of the superblock.
    pub(super) fn parse(f: &Fields<'_>, at: usize) -> Result<Self> {
        Ok(match f.u16_le(at)? {
            1 => Self::Gzip,
            2 => Self::Lzma,
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            other => return Err(f.unsupported(at, format!("squashfs compressor {other}"))),
        })
    }

    /// Unpacks one block into `plain`; gives how much of that it filled.
    pub(super) fn unpack(self, packed: &[u8], plain: &mut [u8]) -> Result<usize> {
        match self {
            Self::Gzip => INFLATE
                .with_borrow_mut(|inflate| inflate.zlib_decompress(packed, plain))
                .map_err(|error| Error::corrupt("zlib stream is damaged").because(error)),
            Self::Lzma => lzma(Stream::new_lzma_decoder(MOST_MEMORY), packed, plain),
            Self::Lzo => crate::btrfs::lzo::unpack(packed, plain)
                .ok_or_else(|| Error::corrupt("lzo block is damaged")),
            Self::Xz => lzma(Stream::new_stream_decoder(MOST_MEMORY, 0), packed, plain),
            Self::Lz4 => lz4_flex::block::decompress_into(packed, plain)
                .map_err(|error| Error::corrupt("lz4 block is damaged").because(error)),
            Self::Zstd => zstd(packed, plain),
        }
    }
}

fn lzma(
    stream: Result<Stream, liblzma::stream::Error>,
    packed: &[u8],
    plain: &mut [u8],
) -> Result<usize> {
    let damaged = |error| Error::corrupt("xz or lzma stream is damaged").because(error);
    let mut stream = stream.map_err(damaged)?;
    let status = stream
        .process(packed, plain, Action::Finish)
        .map_err(damaged)?;
    let len = usize::try_from(stream.total_out()).unwrap_or(usize::MAX);
    // The decoder of `.lzma` need not say that it came to the end once the room is full.
    if status == Status::StreamEnd || len == plain.len() {
        return Ok(len);
    }
    Err(Error::corrupt("xz or lzma stream ends early"))
}

fn zstd(packed: &[u8], plain: &mut [u8]) -> Result<usize> {
    ZSTD.with_borrow_mut(|context| {
        let context = context
            .as_mut()
            .ok_or_else(|| Error::internal("no memory for a zstd context"))?;
        context.decompress(plain, packed).map_err(|code| {
            Error::corrupt("zstd frame is damaged").because(zstd_safe::get_error_name(code))
        })
    })
}
