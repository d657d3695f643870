//! Writing a raw image as gzip or zstd, in independent pieces that are packed in parallel.
//!
//! Each unit of the disk is a gzip member that says its own length (subfield `IG`, as mgzip has it)
//! or a zstd frame with its size and check sum, listed in a seek table at the end of the file. `zcat`
//! and `zstd -d` see one stream; a reader that knows the sizes has random access. Units that were
//! never put are pieces of zeroes.
//!
//! Until it is published the file begins with bytes that are of no wrapper.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Result, StorageMut};

use super::seekable::{SEEKABLE, SKIPPABLE};
use crate::options::Wrap;
use crate::target::{Order, Payload, Target, Written, empty};

/// Plain bytes per piece.
const UNIT: NonZeroU64 = NonZeroU64::new(1 << 20).unwrap();

/// Bytes of a member's header, and where in it its length is.
const GZIP_HEAD: usize = 20;
const GZIP_LEN: usize = 16;

/// A wrapped raw image being written.
#[derive(Debug)]
struct WrapTarget {
    storage: Arc<dyn StorageMut>,
    wrap: Wrap,
    size: u64,
    /// A whole unit of zeroes, packed.
    zeroes: Vec<u8>,
    stream: Mutex<Stream>,
}

/// How far the stream is.
#[derive(Debug, Default)]
struct Stream {
    /// The next byte of the file, and the next of the disk.
    at: u64,
    plain: u64,
    /// The first piece, kept back until the image is published.
    first: Vec<u8>,
    /// The seek table, where there will be one.
    table: Vec<u8>,
    stored: u64,
}

/// A raw image of `size` bytes, wrapped as `wrap` says, on `storage`.
///
/// # Errors
/// Usage for a block device, which has no end that a stream could have; Io when the storage fails.
pub fn wrap(storage: Arc<dyn StorageMut>, size: u64, wrap: Wrap) -> Result<Box<dyn Target>> {
    empty(&*storage)?;
    if storage.size() != 0 {
        return Err(
            Error::usage("a wrapped image cannot be written to a device")
                .in_file(storage.name())
                .hint("write it to a file, or write raw to the device"),
        );
    }
    let unit = usize::try_from(UNIT.get()).unwrap_or(0);
    Ok(Box::new(WrapTarget {
        storage,
        wrap,
        size,
        zeroes: pack(wrap, &vec![0; unit])?,
        stream: Mutex::default(),
    }))
}

/// One piece.
fn pack(wrap: Wrap, plain: &[u8]) -> Result<Vec<u8>> {
    match wrap {
        Wrap::Gzip(level) => gzip(level, plain),
        Wrap::Zstd(level) => zstd_frame(level, plain),
    }
}

fn gzip(level: u8, plain: &[u8]) -> Result<Vec<u8>> {
    let failed = |what: &str| Error::internal(format!("gzip: {what}"));
    let level = libdeflater::CompressionLvl::new(level.into())
        .map_err(|_| Error::usage("compression level is out of range"))?;
    let mut compressor = libdeflater::Compressor::new(level);
    // Deflate, an extra field of 8 bytes: IG, 4 bytes; no time, system unknown.
    let mut piece = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'I', b'G', 4, 0];
    piece.resize(GZIP_HEAD, 0);
    let room = compressor.deflate_compress_bound(plain.len());
    piece.resize(GZIP_HEAD.saturating_add(room), 0);
    let body = piece.get_mut(GZIP_HEAD..).unwrap_or_default();
    let len = compressor
        .deflate_compress(plain, body)
        .map_err(|_| failed("no room for a member"))?;
    piece.truncate(GZIP_HEAD.saturating_add(len));
    piece.extend(libdeflater::crc32(plain).to_le_bytes());
    piece.extend(word(plain.len())?.to_le_bytes());
    let len = word(piece.len())?.to_le_bytes();
    if let Some(field) = piece.get_mut(GZIP_LEN..GZIP_HEAD) {
        field.copy_from_slice(&len);
    }
    Ok(piece)
}

fn zstd_frame(level: u8, plain: &[u8]) -> Result<Vec<u8>> {
    let failed = |error| Error::internal("zstd cannot compress a unit").because(error);
    let mut compressor = zstd::bulk::Compressor::new(level.into()).map_err(failed)?;
    compressor.include_checksum(true).map_err(failed)?;
    compressor.compress(plain).map_err(failed)
}

fn word(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::internal("a piece of 4 GiB"))
}

impl WrapTarget {
    /// Appends a piece of `plain` bytes.
    fn append(&self, stream: &mut Stream, piece: &[u8], plain: u64) -> Result<()> {
        if stream.at == 0 {
            stream.first = piece.to_vec();
            let blank = vec![0; piece.len()];
            self.storage.write_at(&blank, 0)?;
        } else {
            self.storage.write_at(piece, stream.at)?;
        }
        if matches!(self.wrap, Wrap::Zstd(_)) {
            let plain = usize::try_from(plain).unwrap_or(usize::MAX);
            stream.table.extend(word(piece.len())?.to_le_bytes());
            stream.table.extend(word(plain)?.to_le_bytes());
        }
        let len = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        stream.at = stream.at.saturating_add(len);
        stream.plain = stream.plain.saturating_add(plain);
        Ok(())
    }

    /// Appends zeroes up to byte `end` of the disk.
    fn zeroes(&self, stream: &mut Stream, end: u64) -> Result<()> {
        // Ends because every round appends a unit, or the last part of one.
        while stream.plain < end {
            let len = end.saturating_sub(stream.plain).min(UNIT.get());
            if len == UNIT.get() {
                self.append(stream, &self.zeroes, len)?;
            } else {
                let plain = vec![0; usize::try_from(len).unwrap_or(0)];
                self.append(stream, &pack(self.wrap, &plain)?, len)?;
            }
        }
        Ok(())
    }

    fn table(stream: &Stream) -> Result<Vec<u8>> {
        let body = word(stream.table.len().saturating_add(9))?;
        let mut frame = SKIPPABLE.to_le_bytes().to_vec();
        frame.extend(body.to_le_bytes());
        frame.extend(&stream.table);
        frame.extend(word(stream.table.len() / 8)?.to_le_bytes());
        frame.push(0);
        frame.extend(SEEKABLE.to_le_bytes());
        Ok(frame)
    }
}

impl Target for WrapTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Ascending
    }

    fn pack<'a>(&self, _offset: u64, plain: &'a [u8]) -> Result<Payload<'a>> {
        let unit = usize::try_from(UNIT.get()).unwrap_or(usize::MAX);
        let pieces: Result<_> = plain
            .chunks(unit)
            .map(|unit| pack(self.wrap, unit).map(Cow::Owned))
            .collect();
        Ok(Payload::Packed(pieces?))
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let pieces = match payload {
            Payload::Packed(pieces) => pieces,
            // What is never put is zero.
            Payload::Zero(_) => return Ok(()),
            Payload::Plain(plain) => match self.pack(offset, plain)? {
                Payload::Packed(pieces) => pieces,
                _ => return Err(Error::internal("pack gave plain bytes")),
            },
        };
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < stream.plain || offset % UNIT != 0 {
            return Err(
                Error::internal("a stream takes whole units in ascending order").at(offset),
            );
        }
        self.zeroes(&mut stream, offset)?;
        for piece in pieces {
            let len = self.size.saturating_sub(stream.plain).min(UNIT.get());
            if len == 0 {
                return Err(Error::usage("data lies past the end of the disk").at(offset));
            }
            self.append(&mut stream, &piece, len)?;
            stream.stored = stream.stored.saturating_add(len);
        }
        Ok(())
    }

    fn publish(&self) -> Result<Written> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.zeroes(&mut stream, self.size)?;
        if stream.at == 0 {
            // An empty disk is an empty piece.
            self.append(&mut stream, &pack(self.wrap, &[])?, 0)?;
        }
        let mut file_bytes = stream.at;
        if matches!(self.wrap, Wrap::Zstd(_)) {
            let table = Self::table(&stream)?;
            self.storage.write_at(&table, stream.at)?;
            file_bytes = file_bytes.saturating_add(u64::try_from(table.len()).unwrap_or(0));
        }
        self.storage.sync()?;
        self.storage.write_at(&stream.first, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: stream.stored,
            file_bytes,
        })
    }
}
