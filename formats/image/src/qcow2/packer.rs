//! Compresses clusters, from many threads at once.
//!
//! QEMU writes and some readers expect a deflate window of 4 KiB (`block/qcow2-threads.c` asks zlib
//! for 12 window bits), so that is what is written; zstd frames carry their own parameters. Clusters
//! that look like noise are stored as they are without asking the codec, which is where most of its
//! time would go on a disk with compressed or encrypted files.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use rehost_block::{Error, Result, is_zero};
use rehost_deflate::{Encoder, Level, is_noise};
use zstd::bulk::Compressor;

use super::CompressionType;
use crate::Compression;

/// Packs clusters of one size with one codec.
pub(super) struct Packer {
    compression: Compression,
    cluster_size: usize,
    // Codec states are hundreds of KiB: as many as threads pack at once, kept for the next cluster.
    idle: Mutex<Vec<State>>,
}

enum State {
    Zlib(Box<Encoder>),
    Zstd {
        codec: Compressor<'static>,
        /// Room for the packed form.
        room: Vec<u8>,
    },
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
    pub(super) fn pack<'a>(&self, plain: &'a [u8]) -> Result<Vec<Cow<'a, [u8]>>> {
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

    fn pack_one<'a>(&self, state: &mut State, cluster: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if is_zero(cluster) {
            return Ok(Cow::Borrowed(&[]));
        }
        // The disk's last cluster may be short; what is stored is always a whole one.
        let mut whole = Cow::Borrowed(cluster);
        if cluster.len() < self.cluster_size {
            whole.to_mut().resize(self.cluster_size, 0);
        }
        if is_noise(&whole) {
            return Ok(whole);
        }
        let packed = match state {
            State::Zlib(encoder) => encoder.encode(&whole, self.cluster_size.saturating_sub(1)),
            State::Zstd { codec, room } => {
                let len = codec
                    .compress_to_buffer(&whole, room)
                    .map_err(|error| Error::internal("zstd failed").because(error))?;
                room.get(..len)
                    .filter(|packed| packed.len() < self.cluster_size)
            }
        };
        Ok(match packed {
            Some(packed) => Cow::Owned(packed.to_vec()),
            None => whole,
        })
    }

    fn take(&self) -> Option<State> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn start(&self) -> Result<State> {
        match self.compression {
            Compression::Zlib(level) => Level::new(level)
                .map(|level| State::Zlib(Box::new(Encoder::new(level))))
                .ok_or_else(|| Error::internal("a level that deflate does not have")),
            Compression::Zstd(level) => {
                let codec = Compressor::new(i32::from(level))
                    .map_err(|error| Error::internal("zstd cannot be set up").because(error))?;
                // zstd's worst case, a few bytes of frame included, is far less.
                let room = vec![0; self.cluster_size.saturating_mul(2).saturating_add(64)];
                Ok(State::Zstd { codec, room })
            }
        }
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
            let packed = packer.pack(&plain).unwrap().remove(0).into_owned();
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
            assert!(*packed[1] == *noise);
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
