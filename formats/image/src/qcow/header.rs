//! The 48 bytes that a QCOW begins with, big-endian, and the name of its backing file.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage};

/// Bytes of the header.
const LEN: usize = 48;

pub(super) const STRUCTURE: &str = "QCOW header";

/// Longest backing file name. QEMU's.
const MAX_NAME: u32 = 1023;

/// A header, checked.
#[derive(Debug)]
pub(super) struct Header {
    /// Guest-visible bytes.
    pub(super) size: u64,
    /// Bytes per cluster, a power of two from 512 to 64 KiB.
    pub(super) cluster: NonZeroU64,
    pub(super) cluster_bits: u32,
    pub(super) l2_entries: NonZeroU64,
    /// Guest bytes that one L2 table maps.
    pub(super) span: NonZeroU64,
    pub(super) l1: u64,
    pub(super) backing_file: Option<Vec<u8>>,
    /// `mtime`: when the backing file was last changed, in seconds since 1970; QEMU writes 0.
    pub(super) backing_modified: u32,
}

impl Header {
    /// The header of `storage`.
    ///
    /// # Errors
    /// Corrupt when it is none, or contradicts itself or the file's length; Unsupported for
    /// encryption.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let file_size = storage.size();
        let mut bytes = vec![0; LEN.min(usize::try_from(file_size).unwrap_or(LEN))];
        storage.read_at(&mut bytes, 0)?;
        let fields = Fields::new(&bytes, STRUCTURE, 0);
        let mut header = Self::parse(&fields, file_size)?;
        header.backing_file = backing_name(storage, &fields)?;
        Ok(header)
    }

    fn parse(fields: &Fields<'_>, file_size: u64) -> Result<Self> {
        if fields.array(0)? != *b"QFI\xfb" {
            return Err(fields.corrupt(0, "is no QCOW: the magic is missing"));
        }
        let version = fields.u32_be(4)?;
        if version != 1 {
            return Err(fields
                .unsupported(4, "is not version 1 of QCOW")
                .mismatch(1, version)
                .hint("versions 2 and 3 are the format qcow2"));
        }
        match fields.u32_be(36)? {
            0 => {}
            1 => {
                return Err(fields
                    .unsupported(36, "is encrypted with AES, which is not read")
                    .hint("decrypt it first: qemu-img convert --image-opts with its secret"));
            }
            other => {
                return Err(fields
                    .unsupported(36, "encryption method is unknown")
                    .mismatch("0 (none)", other));
            }
        }
        let cluster_bits = bits(fields, 32, "cluster_bits is out of range", 9..=16)?;
        // A table has the size of a cluster of 512 bytes to 64 KiB.
        let l2_bits = bits(fields, 33, "l2_bits is out of range", 6..=13)?;
        let power = |bits: u32| NonZeroU64::new(1u64.checked_shl(bits).unwrap_or(1));
        let internal = || fields.corrupt(32, "cluster_bits is out of range");
        let cluster = power(cluster_bits).ok_or_else(internal)?;
        let l2_entries = power(l2_bits).ok_or_else(internal)?;
        let span = power(cluster_bits.saturating_add(l2_bits)).ok_or_else(internal)?;
        let size = fields.u64_be(24)?;
        let l1 = fields.u64_be(40)?;
        let end = size
            .div_ceil(span.get())
            .checked_mul(8)
            .and_then(|len| l1.checked_add(len));
        if l1 < 48 || end.is_none_or(|end| end > file_size) {
            return Err(fields
                .corrupt(40, "L1 table lies outside the file")
                .mismatch(
                    format!("48 to {file_size}"),
                    format!("{l1} to {}", end.unwrap_or(u64::MAX)),
                )
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        Ok(Self {
            size,
            cluster,
            cluster_bits,
            l2_entries,
            span,
            l1,
            backing_file: None,
            backing_modified: fields.u32_be(20)?,
        })
    }
}

fn bits(
    fields: &Fields<'_>,
    at: usize,
    fault: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32> {
    let bits = u32::from(fields.u8(at)?);
    if range.contains(&bits) {
        return Ok(bits);
    }
    Err(fields
        .corrupt(at, fault)
        .mismatch(format!("{} to {}", range.start(), range.end()), bits))
}

fn backing_name(storage: &dyn Storage, fields: &Fields<'_>) -> Result<Option<Vec<u8>>> {
    let (offset, len) = (fields.u64_be(8)?, fields.u32_be(16)?);
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    if len > MAX_NAME {
        return Err(fields
            .corrupt(16, "backing file name is too long")
            .mismatch(format!("at most {MAX_NAME} bytes"), len));
    }
    let end = offset.saturating_add(u64::from(len));
    if end > storage.size() {
        return Err(fields
            .corrupt(8, "backing file name lies past the end of the file")
            .mismatch(format!("an end of at most {}", storage.size()), end));
    }
    let mut name = vec![0; usize::try_from(len).unwrap_or(0)];
    storage.read_at(&mut name, offset)?;
    Ok(Some(name))
}

/// Whether `head`, the first bytes of a file, are those of version 1 and not of QCOW2.
pub(crate) fn is_qcow(head: &[u8]) -> bool {
    head.starts_with(b"QFI\xfb\0\0\0\x01")
}
