//! `newc` and `crc` cpio archives as Linux reads them from an initramfs.
//!
//! Format: kernel documentation "initramfs buffer format": a header of 6 + 13 x 8 hex digits, the
//! name with its NUL padded to a multiple of 4, the body padded to a multiple of 4; the archive ends
//! with the entry `TRAILER!!!`. Left out on purpose: the checksum of `crc` archives, which Linux
//! (before 5.18) does not check either.

use std::ops::Range;

use rehost_block::{Error, Result};
use rehost_fs::FileKind;

use super::amount;

/// What both kinds of archive begin with; the sixth digit is 1 (`newc`) or 2 (`crc`).
pub const MAGIC: &[u8; 5] = b"07070";

/// Bytes of a header.
const HEADER: usize = 110;

/// Longest name with its NUL that Linux takes (`PATH_MAX`); longer entries are skipped there and
/// refused here.
const LONGEST_NAME: usize = 4096;

/// One file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, as stored.
    pub path: Vec<u8>,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970 (UTC).
    pub mtime: u32,
    /// Number of names; names of one file share [`Entry::identity`].
    pub links: u32,
    /// Device major, minor and inode number when it was packed.
    pub identity: (u32, u32, u32),
    /// Major and minor number of a device file.
    pub device: (u32, u32),
    /// Which of the archives in its segment it is in; hard links do not reach across.
    pub archive: u32,
    /// Its body in the plain bytes of its segment.
    pub body: Range<usize>,
}

impl Entry {
    /// What it is; `None` for a type that no Unix has.
    #[must_use]
    pub const fn kind(&self) -> Option<FileKind> {
        Some(match self.mode & 0o170_000 {
            0o100_000 => FileKind::Regular,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o020_000 => FileKind::CharDevice,
            0o060_000 => FileKind::BlockDevice,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            _ => return None,
        })
    }

    /// Bytes of its body.
    #[must_use]
    pub fn size(&self) -> u64 {
        amount(self.body.len())
    }
}

/// Reads the one archive at `start` of `bytes`, up to its trailer or the end of the bytes. Gives
/// its entries, bodies relative to `start`, and its length. `left` counts entries down.
pub(super) fn read_archive(
    bytes: &[u8],
    start: usize,
    left: &mut usize,
) -> Result<(Vec<Entry>, usize)> {
    let mut entries = Vec::new();
    let mut at = start;
    // Ends because every round moves `at` forward by at least a header.
    while let Some((entry, next)) = read_entry(bytes, at, start)? {
        at = next;
        if entry.path == b"TRAILER!!!" {
            break;
        }
        *left = left.checked_sub(1).ok_or_else(too_many)?;
        entries.push(entry);
    }
    let end = at.min(bytes.len());
    Ok((entries, end.saturating_sub(start)))
}

/// Reads all archives in an unpacked stream, with zero bytes between them.
pub(super) fn read_stream(bytes: &[u8], left: &mut usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut archive = 0u32;
    let mut at = 0usize;
    // Ends because every round moves `at` forward: by a zero byte or by an entry.
    loop {
        match bytes.get(at) {
            None => return Ok(entries),
            Some(0) => {
                at = at.saturating_add(1);
                continue;
            }
            Some(_) if !at.is_multiple_of(4) => {
                return Err(Error::corrupt("archive does not begin at a multiple of 4")
                    .in_structure("cpio archive")
                    .at(amount(at)));
            }
            Some(_) => {}
        }
        let Some((mut entry, next)) = read_entry(bytes, at, 0)? else {
            return Ok(entries);
        };
        at = next;
        if entry.path == b"TRAILER!!!" {
            archive = archive.saturating_add(1);
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(too_many)?;
        entry.archive = archive;
        entries.push(entry);
    }
}

/// The entry at `at` and where the next one begins; `None` at the end of the bytes. Zero bytes
/// before it are skipped, as Linux does.
fn read_entry(bytes: &[u8], at: usize, start: usize) -> Result<Option<(Entry, usize)>> {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    let Some(header) = rest.get(..HEADER) else {
        // The end of a file that has no trailer and some zero padding.
        if rehost_block::is_zero(rest) {
            return Ok(None);
        }
        return Err(corrupt("header is cut off", at));
    };
    if !header.starts_with(MAGIC) || !matches!(header.get(5), Some(b'1' | b'2')) {
        if rehost_block::is_zero(header) {
            return Ok(None);
        }
        return Err(corrupt("entry does not begin with 070701 or 070702", at));
    }
    let mut fields = [0u32; 13];
    for (index, (field, digits)) in fields
        .iter_mut()
        .zip(header.get(6..).unwrap_or_default().chunks_exact(8))
        .enumerate()
    {
        *field = hex(digits).ok_or_else(|| {
            let field = index.saturating_mul(8).saturating_add(6);
            corrupt("header field is not a hex number", at.saturating_add(field))
        })?;
    }
    let [
        ino,
        mode,
        uid,
        gid,
        links,
        mtime,
        size,
        major,
        minor,
        rmajor,
        rminor,
        name_len,
        _,
    ] = fields;
    let name_len = usize::try_from(name_len).unwrap_or(usize::MAX);
    let name_at = at.saturating_add(HEADER);
    if name_len == 0 || name_len > LONGEST_NAME {
        return Err(corrupt("name is empty or longer than 4096 bytes", at));
    }
    let name_end = name_at.saturating_add(name_len);
    let name = bytes
        .get(name_at..name_end)
        .ok_or_else(|| corrupt("name is cut off", name_at))?;
    // dracut-cpio pads names with further NULs.
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // The alignment counts from the archive's start, which itself is aligned.
    let body_at = align(name_end, start);
    let body_end = body_at.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    if body_end > bytes.len() {
        return Err(corrupt("body is cut off", body_at)
            .mismatch(format!("{size} bytes"), bytes.len().saturating_sub(body_at)));
    }
    let entry = Entry {
        path: name.to_vec(),
        mode,
        owner: (uid, gid),
        mtime,
        links,
        identity: (major, minor, ino),
        device: (rmajor, rminor),
        archive: 0,
        body: body_at.saturating_sub(start)..body_end.saturating_sub(start),
    };
    Ok(Some((entry, align(body_end, start).min(bytes.len()))))
}

fn align(at: usize, start: usize) -> usize {
    let within = at.saturating_sub(start);
    at.saturating_add(within.wrapping_neg() % 4)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        value.checked_mul(16)?.checked_add(digit)
    })
}

fn corrupt(what: &str, at: usize) -> Error {
    Error::corrupt(what)
        .in_structure("cpio archive")
        .at(amount(at))
}

fn too_many() -> Error {
    Error::unsupported("initramfs holds more than 262144 files")
}
