//! The codec of compressed grains: one zlib stream (RFC 1950) each.

use std::cell::RefCell;
use std::num::NonZeroU64;

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use rehost_block::{Codec, Error, Result};
use rehost_deflate::is_noise;

thread_local! {
    // Its tables (about 50 KiB) are worth keeping between grains.
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static COMPRESSOR: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static STORER: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
}

/// Decodes grains of one length.
#[derive(Debug)]
pub(super) struct Zlib {
    grain: NonZeroU64,
}

impl Zlib {
    pub(super) const fn new(grain: NonZeroU64) -> Self {
        Self { grain }
    }
}

impl Codec for Zlib {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        if super::amount(plain.len()) == self.grain.get() {
            return match inflate(packed, plain)? {
                len if len == plain.len() => Ok(()),
                len => Err(wrong_length(plain.len(), len)),
            };
        }
        // The last grain of a disk whose size is no multiple of the grain: VMware stores it whole,
        // QEMU cut to what the disk has of it.
        let mut whole = vec![0; super::length(self.grain.get())?];
        let len = inflate(packed, &mut whole)?;
        let wanted = whole
            .get(..len)
            .and_then(|stored| stored.get(..plain.len()))
            .ok_or_else(|| wrong_length(plain.len(), len))?;
        plain.copy_from_slice(wanted);
        Ok(())
    }
}

fn wrong_length(expected: usize, found: usize) -> Error {
    Error::corrupt("compressed grain decodes to a wrong length").mismatch(expected, found)
}

fn inflate(packed: &[u8], plain: &mut [u8]) -> Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        decompressor
            .zlib_decompress(packed, plain)
            .map_err(|error| Error::corrupt("compressed grain is damaged").because(error))
    })
}

/// Appends `plain` to `out` as a zlib stream of deflate level `level` (1 to 12), and returns the
/// stream's length. What looks like noise is stored, which is what the codec would find out in the
/// end: grains have no form without a stream around it.
pub(super) fn deflate(level: i32, plain: &[u8], out: &mut Vec<u8>) -> Result<usize> {
    if is_noise(plain) {
        STORER.with_borrow_mut(|slot| append(slot, 0, plain, out))
    } else {
        COMPRESSOR.with_borrow_mut(|slot| append(slot, level, plain, out))
    }
}

fn append(
    slot: &mut Option<(i32, Compressor)>,
    level: i32,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<usize> {
    let failed = || Error::internal("zlib compression failed");
    if slot.as_ref().is_none_or(|(kept, _)| *kept != level) {
        let lvl = CompressionLvl::new(level).map_err(|_| failed())?;
        *slot = Some((level, Compressor::new(lvl)));
    }
    let (_, compressor) = slot.as_mut().ok_or_else(failed)?;
    let start = out.len();
    let bound = compressor.zlib_compress_bound(plain.len());
    out.resize(start.saturating_add(bound), 0);
    let place = out.get_mut(start..).ok_or_else(failed)?;
    let len = compressor
        .zlib_compress(plain, place)
        .map_err(|_| failed())?;
    out.truncate(start.saturating_add(len));
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAIN: NonZeroU64 = NonZeroU64::new(65_536).unwrap();

    #[test]
    fn a_grain_survives_the_round_trip_and_short_ones_are_refused() {
        let plain: Vec<u8> = (0..65_536u32).map(|i| (i / 7) as u8).collect();
        let mut packed = b"before".to_vec();
        let len = deflate(4, &plain, &mut packed).unwrap();
        assert_eq!(packed.len(), 6 + len);
        let mut back = vec![1; plain.len()];
        Zlib::new(GRAIN).decode(&packed[6..], &mut back).unwrap();
        assert_eq!(back, plain);

        // Part of the last grain, from a whole one and from a cut one.
        let mut part = vec![1; 1536];
        Zlib::new(GRAIN).decode(&packed[6..], &mut part).unwrap();
        assert_eq!(part, plain[..1536]);
        let mut cut = Vec::new();
        deflate(4, &plain[..1536], &mut cut).unwrap();
        Zlib::new(GRAIN).decode(&cut, &mut part).unwrap();
        assert!(Zlib::new(GRAIN).decode(&cut, &mut back).is_err());
        assert!(Zlib::new(GRAIN).decode(&cut, &mut vec![0; 2048]).is_err());
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let mut packed = Vec::new();
        let plain: Vec<u8> = (0..65_536u32).map(|i| ((i * i) >> 9) as u8).collect();
        deflate(4, &plain, &mut packed).unwrap();
        let middle = packed.len() / 2;
        packed[middle] ^= 1;
        assert!(
            Zlib::new(GRAIN)
                .decode(&packed, &mut vec![0; 65_536])
                .is_err()
        );
    }

    #[test]
    fn noise_is_stored_whole_and_read_back() {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let plain: Vec<u8> = (0..65_536).map(|_| next()).collect();
        let mut packed = Vec::new();
        let len = deflate(4, &plain, &mut packed).unwrap();
        // Two stored blocks (5 bytes each) and zlib's 6.
        assert_eq!(len, plain.len() + 16);
        let mut back = vec![1; plain.len()];
        Zlib::new(GRAIN).decode(&packed, &mut back).unwrap();
        assert_eq!(back, plain);
    }
}
