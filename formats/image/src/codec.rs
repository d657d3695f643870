//! Codecs of compressed units: raw deflate and Zstandard as qcow2 stores them.
//!
//! RFC 1951 and RFC 8878; how qcow2 uses them: QEMU `docs/interop/qcow2.txt`, "Compressed Clusters
//! Descriptor" and "compression_type". A packed unit may be followed by bytes of its neighbour,
//! because its length is stored in sectors: what follows the stream is not looked at.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress};
use rehost_block::{Codec, Error, Result};
use zstd::zstd_safe::{self, DCtx};

thread_local! {
    // Codec states are tens to hundreds of KiB: made once per thread, not once per cluster.
    static INFLATE: RefCell<libdeflater::Decompressor> =
        RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// Deflate without a wrapper, any window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawDeflate;

impl Codec for RawDeflate {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let whole = INFLATE.with_borrow_mut(|inflate| inflate.deflate_decompress(packed, plain));
        if whole.is_ok_and(|len| len == plain.len()) {
            return Ok(());
        }
        // QEMU also takes a stream that fills the unit and does not end there; the fast decoder
        // does not.
        let mut inflate = Decompress::new(false);
        match inflate.decompress(packed, plain, FlushDecompress::Finish) {
            Ok(_) if usize::try_from(inflate.total_out()) == Ok(plain.len()) => Ok(()),
            Ok(_) => Err(
                Error::corrupt("deflate stream ends before its cluster does").mismatch(
                    format!("{} bytes", plain.len()),
                    format!("{} bytes", inflate.total_out()),
                ),
            ),
            Err(error) => Err(Error::corrupt("deflate stream is damaged").because(error)),
        }
    }
}

/// Zstandard frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Zstd;

impl Codec for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let damaged =
            |code| Error::corrupt("zstd frame is damaged").because(zstd_safe::get_error_name(code));
        ZSTD.with_borrow_mut(|context| {
            let context = context
                .as_mut()
                .ok_or_else(|| Error::internal("no memory for a zstd context"))?;
            let mut packed = packed;
            let mut filled = 0;
            // Ends because every frame takes at least one byte of `packed`.
            while let Some(room) = plain.get_mut(filled..).filter(|room| !room.is_empty()) {
                if packed.is_empty() {
                    return Err(Error::corrupt("zstd frame ends before its cluster does"));
                }
                let len = zstd_safe::find_frame_compressed_size(packed).map_err(damaged)?;
                let (frame, rest) = packed
                    .split_at_checked(len.max(1))
                    .ok_or_else(|| Error::internal("a zstd frame reaches past its bytes"))?;
                let got = context.decompress(room, frame).map_err(damaged)?;
                filled = filled.saturating_add(got);
                packed = rest;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use rehost_block::Kind;

    fn plain() -> Vec<u8> {
        (0..65536u32).map(|i| (i / 7 % 251) as u8).collect()
    }

    fn deflated(plain: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len());
        Compress::new(Compression::default(), false)
            .compress_vec(plain, &mut out, flush)
            .unwrap();
        out
    }

    #[test]
    fn bytes_of_the_neighbour_after_the_stream_are_not_looked_at() {
        let plain = plain();
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        let cases: [(&dyn Codec, Vec<u8>); 2] = [
            (&RawDeflate, deflated(&plain, FlushCompress::Finish)),
            (&Zstd, zstd),
        ];
        for (codec, mut packed) in cases {
            packed.extend(std::iter::repeat_n(0xff, 511));
            let mut out = vec![0; plain.len()];
            codec.decode(&packed, &mut out).unwrap();
            assert!(out == plain, "{}", codec.name());
        }
    }

    #[test]
    fn a_deflate_stream_without_an_end_is_taken_when_it_fills_the_cluster() {
        let plain = plain();
        let packed = deflated(&plain, FlushCompress::Sync);
        let mut out = vec![0; plain.len()];
        RawDeflate.decode(&packed, &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn a_cut_stream_is_a_corrupt_error_never_zeroes() {
        let plain = plain();
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        let cases: [(&dyn Codec, Vec<u8>); 2] = [
            (&RawDeflate, deflated(&plain, FlushCompress::Finish)),
            (&Zstd, zstd),
        ];
        for (codec, packed) in cases {
            for len in [0, 1, packed.len() / 2, packed.len() - 5] {
                let error = codec
                    .decode(&packed[..len], &mut vec![0; plain.len()])
                    .unwrap_err();
                assert_eq!(error.kind(), Kind::Corrupt, "{} {len}", codec.name());
            }
        }
    }
}
