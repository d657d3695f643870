//! Compresses clusters, from many threads at once.
//!
//! QEMU writes and some readers expect a deflate window of 4 KiB (`block/qcow2-threads.c` asks zlib
//! for 12 window bits), so that is what is written; zstd frames carry their own parameters.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, FlushCompress, Status};
use rehost_block::{Error, Result, is_zero};
use zstd::bulk::Compressor;

use super::CompressionType;
use crate::Compression;

/// Window bits of deflate: 4 KiB.
const WINDOW_BITS: u8 = 12;

/// Packs clusters of one size with one codec.
pub(super) struct Packer {
    compression: Compression,
    cluster_size: usize,
    // Codec states are hundreds of KiB: as many as threads pack at once, kept for the next cluster.
    idle: Mutex<Vec<State>>,
}

struct State {
    codec: Codec,
    /// Room for the packed form.
    room: Vec<u8>,
}

enum Codec {
    Zlib(Box<Compress>),
    Zstd(Compressor<'static>),
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer")
            .field("compression", &self.compression)
            .field("cluster_size", &self.cluster_size)
            .finish_non_exhaustive()
    }
}

impl Packer {
    /// Packs clusters of `cluster_size` bytes.
    ///
    /// # Errors
    /// Usage when the codec has no such level.
    pub(super) fn new(compression: Compression, cluster_size: usize) -> Result<Self> {
        let (level, most) = match compression {
            Compression::Zlib(level) => (level, 9),
            Compression::Zstd(level) => (level, 22),
        };
        if !(1..=most).contains(&level) {
            return Err(
                Error::usage(format!("{compression} has no such compression level"))
                    .mismatch(format!("1 to {most}"), level),
            );
        }
        Ok(Self {
            compression,
            cluster_size,
            idle: Mutex::default(),
        })
    }

    /// What the header says about it.
    pub(super) const fn kind(&self) -> CompressionType {
        match self.compression {
            Compression::Zlib(_) => CompressionType::Zlib,
            Compression::Zstd(_) => CompressionType::Zstd,
        }
    }

    /// The stored form of each cluster of `plain`: nothing for zeroes, a shorter form where the
    /// codec finds one, else the whole cluster as it is.
    pub(super) fn pack(&self, plain: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut state = match self.take() {
            Some(state) => state,
            None => self.start()?,
        };
        let packed = plain
            .chunks(self.cluster_size)
            .map(|cluster| self.pack_one(&mut state, cluster))
            .collect();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(state);
        packed
    }

    fn pack_one(&self, state: &mut State, cluster: &[u8]) -> Result<Vec<u8>> {
        if is_zero(cluster) {
            return Ok(Vec::new());
        }
        // The disk's last cluster may be short; what is stored is always a whole one.
        let mut whole = Cow::Borrowed(cluster);
        if cluster.len() < self.cluster_size {
            whole.to_mut().resize(self.cluster_size, 0);
        }
        let room = &mut state.room;
        let len = match &mut state.codec {
            Codec::Zlib(zlib) => {
                // zlib-rs 0.6.8 panics in a later cluster when a stream that did not fit is reset
                // (its pending buffer keeps its start), so the room is enough for any cluster.
                zlib.reset();
                zlib.compress(&whole, room, FlushCompress::Finish)
                    .ok()
                    .filter(|status| *status == Status::StreamEnd)
                    .and_then(|_| usize::try_from(zlib.total_out()).ok())
                    .ok_or_else(|| Error::internal("deflate outgrew its room"))?
            }
            Codec::Zstd(zstd) => zstd
                .compress_to_buffer(&whole, room)
                .map_err(|error| Error::internal("zstd failed").because(error))?,
        };
        match room.get(..len) {
            Some(packed) if len < self.cluster_size => Ok(packed.to_vec()),
            _ => Ok(whole.into_owned()),
        }
    }

    fn take(&self) -> Option<State> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn start(&self) -> Result<State> {
        let codec = match self.compression {
            Compression::Zlib(level) => {
                let level = flate2::Compression::new(u32::from(level));
                let zlib = Compress::new_with_window_bits(level, false, WINDOW_BITS);
                Codec::Zlib(Box::new(zlib))
            }
            Compression::Zstd(level) => Compressor::new(i32::from(level))
                .map(Codec::Zstd)
                .map_err(|error| Error::internal("zstd cannot be set up").because(error))?,
        };
        // Deflate's worst case is 9 bits a byte, zstd's is less; both have a few bytes of frame.
        let quarter = self.cluster_size / 4;
        let room = self.cluster_size.saturating_add(quarter).saturating_add(64);
        Ok(State {
            codec,
            room: vec![0; room],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    #[test]
    fn deflate_never_reaches_back_further_than_4_kib() {
        // Repeats at distance 20,000: a wider window would use them.
        let piece: Vec<u8> = (0..20_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8)
            .collect();
        let plain: Vec<u8> = piece.iter().copied().cycle().take(65536).collect();
        for level in 1..=9 {
            let packer = Packer::new(Compression::Zlib(level), 65536).unwrap();
            let packed = packer.pack(&plain).unwrap().remove(0);
            assert!(packed.len() < 65536, "level {level}");
            let mut out = vec![0; 65536];
            let mut strict = Decompress::new_with_window_bits(false, 12);
            // In small steps, so that the decoder has nothing but its window to look back into.
            let (mut at, mut filled) = (0, 0);
            while filled < out.len() {
                let end = (at + 64).min(packed.len());
                let room = (filled + 256).min(out.len());
                strict
                    .decompress(
                        &packed[at..end],
                        &mut out[filled..room],
                        FlushDecompress::None,
                    )
                    .unwrap();
                at = strict.total_in() as usize;
                filled = strict.total_out() as usize;
            }
            assert!(out == plain, "level {level}");
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn clusters_that_do_not_get_smaller_do_not_disturb_the_next() {
        for level in 1..=9 {
            let packer = Packer::new(Compression::Zlib(level), 65536).unwrap();
            let mut plain = noise(8 * 65536);
            plain.extend([5; 65536]);
            let packed = packer.pack(&plain).unwrap();
            assert!(packed[..8].concat() == plain[..8 * 65536], "level {level}");
            assert!(packed[8].len() < 1000, "level {level}");
        }
    }

    #[test]
    fn zeroes_vanish_and_noise_stays_as_it_is() {
        for compression in [Compression::Zlib(6), Compression::Zstd(3)] {
            let packer = Packer::new(compression, 512).unwrap();
            let noise = noise(512);
            let mut plain = vec![0; 512];
            plain.extend(&noise);
            plain.extend([7; 100]);
            let packed = packer.pack(&plain).unwrap();
            assert!(packed[0].is_empty());
            assert!(packed[1] == noise);
            assert!((1..512).contains(&packed[2].len()));
        }
    }

    #[test]
    fn a_level_the_codec_does_not_have_is_refused() {
        for compression in [
            Compression::Zlib(0),
            Compression::Zlib(10),
            Compression::Zstd(23),
        ] {
            assert!(Packer::new(compression, 512).is_err());
        }
    }
}
