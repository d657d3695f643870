//! The journal's bytes: a head of 4096 bytes, then records one after the other.
//!
//! Numbers are little-endian. The head is `rehostJ1`, a salt (8 bytes), CRC-32C of both; at byte 512
//! is the mark: the length up to which the journal was flushed (8 bytes) and its CRC-32C. A record is
//! `RJrc`, kind (4), file number (4), offset (8), length (8), CRC-32C of the payload (4), CRC-32C of
//! salt and all of that (4), and the payload: a name for kind 1 (the offset being the file's old
//! length), old bytes for kind 2, nothing for kind 3 (zeroes); kind 4 says what the file was left as
//! (length in the offset's place, nanoseconds since 1970 in the payload).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::kept::Stamp;
use crate::disk::amount;
use crate::{Error, Result, Storage};

/// Bytes before the first record.
pub(super) const HEAD: u64 = 4096;

/// Where the mark is.
pub(super) const MARK: u64 = 512;

/// Bytes of a record before its payload.
const FRAME: usize = 36;

/// Longest payload: records are written in pieces of 1 MiB.
const MOST_PAYLOAD: u64 = 1 << 20;

const MAGIC: &[u8; 8] = b"rehostJ1";
const RECORD: &[u8; 4] = b"RJrc";

/// Keeps what an older journal left on the disk from passing for this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(u64);

impl Salt {
    /// A random one: what the standard library keys its hash maps with.
    pub(super) fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    pub(super) const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    pub(super) const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It is a journal, flushed up to this length.
    Journal { salt: Salt, flushed: u64 },
    /// Its head was never flushed, so nothing was ever changed under it.
    NeverFlushed,
    /// It is something else.
    Foreign,
}

/// A new journal's first bytes.
pub(super) fn head(salt: Salt) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(salt.0.to_le_bytes());
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    head.resize(usize::try_from(MARK).unwrap_or(512), 0);
    head.extend(mark(salt, HEAD));
    head.resize(usize::try_from(HEAD).unwrap_or(4096), 0);
    head
}

/// The mark that `flushed` bytes are on stable storage.
pub(super) fn mark(salt: Salt, flushed: u64) -> [u8; 12] {
    let crc = crc32c::crc32c_append(seed(salt), &flushed.to_le_bytes());
    let mut mark = [0; 12];
    let bytes = flushed.to_le_bytes().into_iter().chain(crc.to_le_bytes());
    for (place, byte) in mark.iter_mut().zip(bytes) {
        *place = byte;
    }
    mark
}

/// Reads the first bytes of a file.
pub(super) fn read_head(storage: &dyn Storage) -> Result<Head> {
    if storage.size() < HEAD {
        return Ok(Head::NeverFlushed);
    }
    let mut start = [0; 20];
    storage.read_at(&mut start, 0)?;
    let (magic, rest) = start.split_at(8);
    if magic != MAGIC {
        let empty = storage.size() == HEAD && start.iter().all(|byte| *byte == 0);
        return Ok(if empty {
            Head::NeverFlushed
        } else {
            Head::Foreign
        });
    }
    let (salt, crc) = rest.split_at(8);
    if crc32c::crc32c(&[magic, salt].concat()).to_le_bytes() != *crc {
        return Ok(if storage.size() == HEAD {
            Head::NeverFlushed
        } else {
            Head::Foreign
        });
    }
    let salt = Salt(word(salt));
    let mut bytes = [0; 12];
    storage.read_at(&mut bytes, MARK)?;
    let flushed = word(bytes.get(..8).unwrap_or_default());
    // A torn mark comes of a crash while the next one was written: then the records themselves
    // decide where the journal ends.
    let flushed = if bytes == mark(salt, flushed) {
        flushed
    } else {
        HEAD
    };
    Ok(Head::Journal { salt, flushed })
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Before {
    /// The file of this number, its length and its name.
    File { size: u64, name: PathBuf },
    /// Old bytes.
    Bytes { offset: u64, bytes: Vec<u8> },
    /// Old bytes that were all zero.
    Zeroes { offset: u64, len: u64 },
    /// No before-image: what the finished change left the file as.
    Left(Stamp),
}

/// One before-image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Which file it is about, counted from 0 in the order of their `File` records.
    pub(super) file: u32,
    pub(super) before: Before,
}

impl Record {
    pub(super) const fn file(file: u32, size: u64, name: PathBuf) -> Self {
        let before = Before::File { size, name };
        Self { file, before }
    }

    pub(super) fn bytes(file: u32, offset: u64, bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        let before = Before::Bytes { offset, bytes };
        Self { file, before }
    }

    pub(super) const fn zeroes(file: u32, offset: u64, len: u64) -> Self {
        let before = Before::Zeroes { offset, len };
        Self { file, before }
    }

    pub(super) const fn stamp(file: u32, stamp: Stamp) -> Self {
        let before = Before::Left(stamp);
        Self { file, before }
    }

    /// How many bytes of the file it covers.
    pub(super) fn len(&self) -> u64 {
        match &self.before {
            Before::File { .. } | Before::Left(_) => 0,
            Before::Bytes { bytes, .. } => amount(bytes.len()),
            Before::Zeroes { len, .. } => *len,
        }
    }

    /// As it is stored.
    pub(super) fn encode(&self, salt: Salt) -> Vec<u8> {
        let changed;
        let (kind, offset, len, payload): (u32, u64, u64, &[u8]) = match &self.before {
            Before::File { size, name } => {
                let name = name.as_os_str().as_bytes();
                (1, *size, amount(name.len()), name)
            }
            Before::Bytes { offset, bytes } => (2, *offset, amount(bytes.len()), bytes),
            Before::Zeroes { offset, len } => (3, *offset, *len, &[]),
            Before::Left(stamp) => {
                changed = stamp.changed.to_le_bytes();
                (4, stamp.size, amount(changed.len()), &changed)
            }
        };
        let mut bytes = Vec::with_capacity(FRAME.saturating_add(payload.len()));
        bytes.extend(RECORD);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(self.file.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c_append(seed(salt), &bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The record at `at` of a journal and where the next one is; `None` when there is none that
    /// is whole.
    ///
    /// # Errors
    /// Io when the journal cannot be read.
    pub(super) fn read(storage: &dyn Storage, salt: Salt, at: u64) -> Result<Option<(Self, u64)>> {
        let behind = at.saturating_add(amount(FRAME));
        if behind > storage.size() {
            return Ok(None);
        }
        let mut frame = [0; FRAME];
        storage.read_at(&mut frame, at)?;
        let (covered, crc) = frame.split_at(FRAME.saturating_sub(4));
        if crc32c::crc32c_append(seed(salt), covered).to_le_bytes() != *crc
            || !covered.starts_with(RECORD)
        {
            return Ok(None);
        }
        let part = |from: usize, to: usize| word(covered.get(from..to).unwrap_or_default());
        let (kind, file, offset, len) = (part(4, 8), part(8, 12), part(12, 20), part(20, 28));
        let file = u32::try_from(file).map_err(|_| Error::internal("a number of 4 bytes"))?;
        if kind == 3 {
            return Ok(Some((Self::zeroes(file, offset, len), behind)));
        }
        let end = behind.saturating_add(len);
        if len > MOST_PAYLOAD || end > storage.size() {
            return Ok(None);
        }
        let mut payload = vec![0; crate::disk::length(len)?];
        storage.read_at(&mut payload, behind)?;
        if u64::from(crc32c::crc32c(&payload)) != part(28, 32) {
            return Ok(None);
        }
        let before = match kind {
            1 => Before::File {
                size: offset,
                name: PathBuf::from(std::ffi::OsString::from_vec(payload)),
            },
            2 => Before::Bytes {
                offset,
                bytes: payload,
            },
            4 => Before::Left(Stamp {
                size: offset,
                changed: word(&payload),
            }),
            _ => return Ok(None),
        };
        Ok(Some((Self { file, before }, end)))
    }
}

/// The salt as the start of a checksum.
fn seed(salt: Salt) -> u32 {
    crc32c::crc32c(&salt.0.to_le_bytes())
}

/// Up to eight bytes as a number, the lowest first.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (place, byte) in word.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u64::from_le_bytes(word)
}
