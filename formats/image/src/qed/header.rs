//! The header of a QED: "Header" in the specification. Everything is little-endian.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage};

/// Bytes of the header.
const LEN: usize = 72;

pub(super) const STRUCTURE: &str = "QED header";

const BACKING_FILE: u64 = 1 << 0;
const NEED_CHECK: u64 = 1 << 1;
const BACKING_FORMAT_NO_PROBE: u64 = 1 << 2;
const KNOWN: u64 = BACKING_FILE | NEED_CHECK | BACKING_FORMAT_NO_PROBE;

/// Longest backing file name. QEMU's.
const MAX_NAME: u32 = 1023;

/// A header, checked.
#[derive(Debug)]
pub(super) struct Header {
    /// Guest-visible bytes, a multiple of 512.
    pub(super) size: u64,
    /// Bytes per cluster, a power of two from 4 KiB to 64 MiB.
    pub(super) cluster: NonZeroU64,
    /// Clusters per table, a power of two up to 16.
    pub(super) table_clusters: u32,
    /// Entries per table.
    pub(super) entries: NonZeroU64,
    /// Guest bytes that one L2 table maps.
    pub(super) span: NonZeroU64,
    /// Bytes of the header, its clusters whole: nothing else may lie there.
    pub(super) header_bytes: u64,
    pub(super) l1: u64,
    pub(super) need_check: bool,
    pub(super) backing_file: Option<Vec<u8>>,
    pub(super) backing_is_raw: bool,
}

impl Header {
    /// The header of `storage`.
    ///
    /// # Errors
    /// Corrupt when it is none, or contradicts itself or the file's length; Unsupported for
    /// features that are not known.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let file_size = storage.size();
        let mut bytes = vec![0; LEN.min(usize::try_from(file_size).unwrap_or(LEN))];
        storage.read_at(&mut bytes, 0)?;
        let fields = Fields::new(&bytes, STRUCTURE, 0);
        let mut header = Self::parse(&fields)?;
        header.check_table(header.l1, file_size).map_err(|found| {
            fields
                .corrupt(40, "L1 table lies outside the file or off its clusters")
                .mismatch(format!("whole clusters before {file_size}"), found)
                .hint("the file is truncated or damaged: copy it again from its origin")
        })?;
        if fields.u64_le(16)? & BACKING_FILE != 0 {
            header.backing_file = Some(header.backing_name(storage, &fields)?);
        }
        Ok(header)
    }

    fn parse(fields: &Fields<'_>) -> Result<Self> {
        if fields.array(0)? != *b"QED\0" {
            return Err(fields.corrupt(0, "is no QED: the magic is missing"));
        }
        let features = fields.u64_le(16)?;
        let unknown = features & !KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            return Err(fields.unsupported(
                16,
                format!("needs feature bit {bit}, which is unknown here"),
            ));
        }
        let power = |at: usize, fault: &str, range: std::ops::RangeInclusive<u32>| {
            let value = fields.u32_le(at)?;
            if range.contains(&value) && value.is_power_of_two() {
                return Ok(value);
            }
            Err(fields.corrupt(at, fault).mismatch(
                format!("a power of two, {} to {}", range.start(), range.end()),
                value,
            ))
        };
        let cluster = power(4, "cluster_size is out of range", 4096..=64 << 20)?;
        let table_clusters = power(8, "table_size is out of range", 1..=16)?;
        let header_clusters = fields.u32_le(12)?;
        let table = u64::from(cluster).saturating_mul(u64::from(table_clusters));
        let whole = |value: u64| {
            NonZeroU64::new(value).ok_or_else(|| fields.corrupt(4, "cluster_size is out of range"))
        };
        let entries = whole(table / 8)?;
        let span = whole(entries.get().saturating_mul(u64::from(cluster)))?;
        let header_bytes = u64::from(header_clusters).saturating_mul(u64::from(cluster));
        if header_bytes == 0 {
            return Err(fields
                .corrupt(12, "header_size is wrong")
                .mismatch("at least 1 cluster", header_clusters));
        }
        let size = fields.u64_le(48)?;
        let most = span.get().saturating_mul(entries.get());
        if size > most || size % 512 != 0 {
            return Err(fields
                .corrupt(48, "image_size is wrong")
                .mismatch(format!("a multiple of 512, at most {most}"), size));
        }
        Ok(Self {
            size,
            cluster: whole(cluster.into())?,
            table_clusters,
            entries,
            span,
            header_bytes,
            l1: fields.u64_le(40)?,
            need_check: features & NEED_CHECK != 0,
            backing_file: None,
            backing_is_raw: features & BACKING_FORMAT_NO_PROBE != 0,
        })
    }

    /// Whether a whole table can be at `offset`.
    ///
    /// # Errors
    /// Where it would be, for a message.
    pub(super) fn check_table(&self, offset: u64, file_size: u64) -> Result<(), String> {
        let end = offset.saturating_add(self.entries.get().saturating_mul(8));
        if self.check_cluster(offset) && end <= file_size {
            return Ok(());
        }
        Err(format!("{offset} to {end}"))
    }

    /// Whether something can be stored from `offset` on.
    pub(super) fn check_cluster(&self, offset: u64) -> bool {
        offset % self.cluster == 0 && offset >= self.header_bytes
    }

    fn backing_name(&self, storage: &dyn Storage, fields: &Fields<'_>) -> Result<Vec<u8>> {
        let (offset, len) = (fields.u32_le(56)?, fields.u32_le(60)?);
        if len == 0 || len > MAX_NAME {
            return Err(fields
                .corrupt(60, "backing file name has an impossible length")
                .mismatch(format!("1 to {MAX_NAME} bytes"), len));
        }
        let end = u64::from(offset).saturating_add(u64::from(len));
        let most = self.header_bytes.min(storage.size());
        if end > most {
            return Err(fields
                .corrupt(56, "backing file name lies outside the header")
                .mismatch(format!("an end of at most {most}"), end));
        }
        let mut name = vec![0; usize::try_from(len).unwrap_or(0)];
        storage.read_at(&mut name, offset.into())?;
        Ok(name)
    }
}

/// Whether `head`, the first bytes of a file, are those of a QED.
pub(crate) fn is_qed(head: &[u8]) -> bool {
    head.starts_with(b"QED\0")
}
