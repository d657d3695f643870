//! The compressors of an initramfs and of module files: recognise a stream, unpack exactly one.
//!
//! Each answer says how many bytes of the input the stream took, because another segment may
//! follow. Formats: RFC 1952 (gzip), RFC 8878 (zstd), the `.xz` and `.lzma` file formats, bzip2, and
//! lz4: its "legacy frame" (lz4 frame format 1.6, section "Legacy frame"), which is the only lz4 that
//! Linux unpacks, and its frame, which is read so that what is inside can be told. Left out on
//! purpose: lzo, refused by name.

use std::io::{BufRead, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;
use rehost_block::{Error, Result};
use serde::Serialize;

/// Memory that an xz or lzma stream may ask for. Ours: the largest preset needs 65 MiB.
const MOST_XZ_MEMORY: u64 = 256 << 20;

/// Largest zstd window, as Linux has it (128 MiB).
const MOST_WINDOW_LOG: u32 = 27;

/// Plain bytes of a full block of the lz4 legacy frame.
const LZ4_BLOCK: usize = 8 << 20;

const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// How a segment is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// A cpio archive as it is.
    None,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// The older lzma-alone format.
    Lzma,
    /// bzip2.
    Bzip2,
    /// lz4 in its legacy frame.
    Lz4,
    /// lz4 in its frame, which no kernel unpacks.
    Lz4Frame,
    /// Zstandard.
    Zstd,
    /// lzo: recognised, not unpacked.
    Lzo,
}

impl Compression {
    /// What `bytes` begin with, if it is anything that the kernel unpacks.
    #[must_use]
    pub fn identify(bytes: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 9] = [
            (super::MAGIC, Compression::None),
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x5d, 0, 0], Compression::Lzma),
            (b"BZh", Compression::Bzip2),
            (&LZ4_MAGIC, Compression::Lz4),
            (&[0x04, 0x22, 0x4d, 0x18], Compression::Lz4Frame),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression)
    }

    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
            Self::Lz4Frame => "lz4-frame",
            Self::Zstd => "zstd",
            Self::Lzo => "lzo",
        }
    }

    /// The kernel option that says whether a kernel unpacks it; `None` where every kernel does.
    #[must_use]
    pub const fn kernel_option(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("CONFIG_RD_GZIP"),
            Self::Xz => Some("CONFIG_RD_XZ"),
            Self::Lzma => Some("CONFIG_RD_LZMA"),
            Self::Bzip2 => Some("CONFIG_RD_BZIP2"),
            Self::Lz4 => Some("CONFIG_RD_LZ4"),
            // Set in no kernel's configuration: none unpacks it.
            Self::Lz4Frame => Some("CONFIG_RD_LZ4_FRAME"),
            Self::Zstd => Some("CONFIG_RD_ZSTD"),
            Self::Lzo => Some("CONFIG_RD_LZO"),
        }
    }
}

/// Unpacks the one stream that `packed` begins with into at most `most` bytes. Gives the plain
/// bytes and how many of `packed` the stream took.
pub(super) fn unpack(
    compression: Compression,
    packed: &[u8],
    most: usize,
) -> Result<(Vec<u8>, usize)> {
    let (plain, rest) = match compression {
        Compression::None => (packed.to_vec(), &[][..]),
        Compression::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(packed);
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.into_inner())
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(MOST_XZ_MEMORY, 0)
                .map_err(|error| broken(compression, error))?;
            let mut decoder = XzDecoder::new_stream(packed, stream);
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.into_inner())
        }
        Compression::Lzma => {
            let stream = Stream::new_lzma_decoder(MOST_XZ_MEMORY)
                .map_err(|error| broken(compression, error))?;
            let mut decoder = XzDecoder::new_stream(packed, stream);
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.into_inner())
        }
        Compression::Bzip2 => {
            let mut decoder = bzip2::bufread::BzDecoder::new(packed);
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.into_inner())
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)
                .map_err(|error| broken(compression, error))?
                .single_frame();
            decoder
                .window_log_max(MOST_WINDOW_LOG)
                .map_err(|error| broken(compression, error))?;
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.finish())
        }
        Compression::Lz4 => unpack_lz4(packed, most)?,
        Compression::Lz4Frame => {
            let mut decoder = lz4_flex::frame::FrameDecoder::new(packed);
            let plain = drain(&mut decoder, compression, most)?;
            (plain, decoder.into_inner())
        }
        Compression::Lzo => {
            return Err(Error::unsupported("initramfs is compressed with lzo")
                .in_structure("initramfs")
                .hint("rebuild it in the guest with another compressor (COMPRESS=zstd)"));
        }
    };
    Ok((plain, packed.len().saturating_sub(rest.len())))
}

/// Unpacks a module file by what its content begins with (`.ko.xz`, `.ko.zst`, `.ko.gz`); a plain
/// `.ko` comes back as it is.
///
/// # Errors
/// Corrupt when the stream is broken; Unsupported when it unpacks to more than 256 MiB.
pub fn unpack_module(file: &[u8]) -> Result<Vec<u8>> {
    let most = 256 << 20;
    match Compression::identify(file) {
        Some(compression @ (Compression::Xz | Compression::Gzip | Compression::Zstd)) => {
            unpack(compression, file, most).map(|(plain, _)| plain)
        }
        _ => Ok(file.to_vec()),
    }
}

/// Reads a decoder to its end, at most `most` bytes.
fn drain(decoder: &mut dyn Read, compression: Compression, most: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    decoder
        .take(limit.saturating_add(1))
        .read_to_end(&mut plain)
        .map_err(|error| broken(compression, error))?;
    if plain.len() > most {
        return Err(too_large(most));
    }
    Ok(plain)
}

/// The lz4 legacy frame: the magic, then blocks of a little-endian length and that many packed
/// bytes, each unpacking to 8 MiB at most. It has no end mark: it ends with the input, at a zero
/// length (padding), or where another segment's magic stands in place of a length.
fn unpack_lz4(packed: &[u8], most: usize) -> Result<(Vec<u8>, &[u8])> {
    let mut plain = Vec::new();
    let mut rest = packed.get(LZ4_MAGIC.len()..).unwrap_or_default();
    let mut block = vec![0; LZ4_BLOCK];
    // Ends because every round takes at least the four bytes of a length from `rest`.
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if len == 0 {
            break;
        }
        if *length == LZ4_MAGIC {
            // `lz4 -l` of several files: the frame goes on.
            rest = after;
            continue;
        }
        let Some(body) = after.get(..len) else {
            if Compression::identify(rest).is_some() {
                break;
            }
            return Err(broken(Compression::Lz4, "block is cut off"));
        };
        let size = lz4_flex::block::decompress_into(body, &mut block)
            .map_err(|error| broken(Compression::Lz4, error))?;
        if plain.len().saturating_add(size) > most {
            return Err(too_large(most));
        }
        plain.extend_from_slice(block.get(..size).unwrap_or_default());
        rest = after.get(len..).unwrap_or_default();
    }
    if rest.len() < 4 && rehost_block::is_zero(rest) {
        rest.consume(rest.len());
    }
    Ok((plain, rest))
}

fn broken(
    compression: Compression,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::corrupt(format!("{} stream is broken", compression.name()))
        .in_structure("initramfs")
        .because(cause)
}

fn too_large(most: usize) -> Error {
    Error::unsupported(format!("initramfs unpacks to more than {most} bytes"))
        .in_structure("initramfs")
}
