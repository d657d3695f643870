//! The header: from the first cluster to a [`Header`] that cannot hold nonsense.
//!
//! QEMU `docs/interop/qcow2.txt`, "Header".

use rehost_block::{Error, Fields, Result, Storage};

use super::CompressionType;
use super::areas::Areas;
use super::entry::Geometry;
use super::extension::Extensions;

/// Largest L1 table, in bytes. QEMU's: `QCOW_MAX_L1_SIZE`.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;

pub(super) const DIRTY: u64 = 1 << 0;
pub(super) const CORRUPT: u64 = 1 << 1;
pub(super) const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;
pub(super) const DATA_FILE_RAW: u64 = 1 << 1;

/// What the header says, checked.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) version: u32,
    /// Guest-visible bytes.
    pub(super) size: u64,
    pub(super) geometry: Geometry,
    pub(super) l1_offset: u64,
    /// Entries the table has; at least as many as the size needs.
    pub(super) l1_entries: u64,
    pub(super) compression: CompressionType,
    pub(super) backing_file: Option<Vec<u8>>,
    pub(super) backing_format: Option<Vec<u8>>,
    pub(super) has_data_file: bool,
    pub(super) data_file: Option<Vec<u8>>,
    pub(super) data_file_raw: bool,
    pub(super) dirty: bool,
    /// A writer found the image damaged: what is read is still checked, entry by entry.
    pub(super) corrupt: bool,
    pub(super) lazy_refcounts: bool,
    pub(super) refcount_bits: u32,
    pub(super) snapshots: u32,
    pub(super) bitmaps: u32,
    /// Where everything else is that only writers and checks look at.
    pub(super) areas: Areas,
}

/// The part that only version 3 has.
#[derive(Debug)]
struct Version3 {
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_length: u32,
    compression_type: u8,
}

impl Header {
    /// Reads and checks the first cluster of `storage`; refuses what cannot be read.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let header = Self::read_any(storage)?;
        header.areas.refuse_encryption()?;
        Ok(header)
    }

    /// As [`Header::read`], of encrypted images too: their tables are plain.
    pub(super) fn read_any(storage: &dyn Storage) -> Result<Self> {
        let mut head = vec![0; 512.min(usize::try_from(storage.size()).unwrap_or(512))];
        storage.read_at(&mut head, 0)?;
        let fields = Fields::new(&head, "header", 0);
        if fields.array(0)? != *b"QFI\xfb" {
            return Err(fields.corrupt(0, "is no qcow2 image: the magic is missing"));
        }
        let version = fields.u32_be(4)?;
        match version {
            2 | 3 => {}
            1 => {
                return Err(fields
                    .unsupported(4, "is qcow version 1, a format of its own")
                    .hint("say --from qcow, or let its signature decide"));
            }
            _ => {
                return Err(fields
                    .unsupported(4, "qcow2 version is unknown")
                    .mismatch("2 or 3", version));
            }
        }
        let cluster_bits = fields.u32_be(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(fields
                .corrupt(20, "cluster_bits is out of range")
                .mismatch("9 to 21", cluster_bits));
        }
        let cluster = 1usize.checked_shl(cluster_bits).unwrap_or(512);
        let mut head = vec![0; cluster.min(usize::try_from(storage.size()).unwrap_or(cluster))];
        storage.read_at(&mut head, 0)?;
        Self::parse(
            &Fields::new(&head, "header", 0),
            version,
            cluster_bits,
            storage.size(),
        )
    }

    fn parse(fields: &Fields<'_>, version: u32, cluster_bits: u32, file_size: u64) -> Result<Self> {
        let v3 = Version3::parse(fields, version)?;
        let cluster = 1usize.checked_shl(cluster_bits).unwrap_or(512);
        let header_length = usize::try_from(v3.header_length).unwrap_or(usize::MAX);
        if header_length > cluster {
            return Err(fields
                .corrupt(100, "header_length exceeds the first cluster")
                .mismatch(format!("at most {cluster}"), header_length));
        }
        let backing_offset = fields.u64_be(8)?;
        let backing_len = fields.u32_be(16)?;
        let backing_file = backing_name(fields, backing_offset, backing_len)?;
        let end = match usize::try_from(backing_offset) {
            Ok(offset) if backing_file.is_some() => offset,
            _ => fields.len(),
        };
        let extensions = Extensions::parse(fields, header_length, end.min(fields.len()))?;

        refuse_features(fields, &v3, &extensions)?;
        let geometry = Geometry::new(cluster_bits, v3.incompatible & EXTENDED_L2 != 0)
            .ok_or_else(|| fields.corrupt(20, "extended L2 entries need clusters of 16 KiB"))?;
        let size = fields.u64_be(24)?;
        let (l1_offset, l1_entries) = l1_table(fields, &geometry, size, file_size)?;
        Ok(Self {
            version,
            size,
            geometry,
            l1_offset,
            l1_entries,
            compression: compression(fields, &v3)?,
            backing_file,
            backing_format: extensions.backing_format,
            has_data_file: v3.incompatible & DATA_FILE != 0,
            data_file: extensions.data_file,
            data_file_raw: v3.autoclear & DATA_FILE_RAW != 0,
            dirty: v3.incompatible & DIRTY != 0,
            corrupt: v3.incompatible & CORRUPT != 0,
            lazy_refcounts: v3.compatible & LAZY_REFCOUNTS != 0,
            refcount_bits: 1u32.checked_shl(v3.refcount_order).unwrap_or(0),
            snapshots: fields.u32_be(60)?,
            bitmaps: extensions.bitmaps,
            areas: Areas::parse(fields, version, header_length, end.min(fields.len()))?,
        })
    }

    /// The version as `qemu-img create -o compat=` names it.
    pub(super) const fn compat(&self) -> &'static str {
        if self.version == 2 { "0.10" } else { "1.1" }
    }
}

impl Version3 {
    fn parse(fields: &Fields<'_>, version: u32) -> Result<Self> {
        if version == 2 {
            // The values that version 2 implies, as the specification lists them.
            return Ok(Self {
                incompatible: 0,
                compatible: 0,
                autoclear: 0,
                refcount_order: 4,
                header_length: 72,
                compression_type: 0,
            });
        }
        let header_length = fields.u32_be(100)?;
        if header_length < 104 || !header_length.is_multiple_of(8) {
            return Err(fields
                .corrupt(100, "header_length is wrong")
                .mismatch("a multiple of 8, at least 104", header_length));
        }
        let refcount_order = fields.u32_be(96)?;
        if refcount_order > 6 {
            return Err(fields
                .corrupt(96, "refcount_order is out of range")
                .mismatch("0 to 6", refcount_order));
        }
        Ok(Self {
            incompatible: fields.u64_be(72)?,
            compatible: fields.u64_be(80)?,
            autoclear: fields.u64_be(88)?,
            refcount_order,
            header_length,
            compression_type: if header_length > 104 {
                fields.u8(104)?
            } else {
                0
            },
        })
    }
}

fn refuse_features(fields: &Fields<'_>, v3: &Version3, extensions: &Extensions) -> Result<()> {
    let unknown = v3.incompatible & !KNOWN;
    if unknown != 0 {
        let bit = unknown.trailing_zeros();
        let name = extensions
            .incompatible_name(bit)
            .map_or_else(String::new, |name| format!(" ({name})"));
        return Err(fields.unsupported(
            72,
            format!("needs incompatible feature bit {bit}{name}, which is unknown here"),
        ));
    }
    Ok(())
}

fn compression(fields: &Fields<'_>, v3: &Version3) -> Result<CompressionType> {
    let stated = v3.incompatible & COMPRESSION_TYPE != 0;
    match (v3.compression_type, stated) {
        (0, false) => Ok(CompressionType::Zlib),
        (1, true) => Ok(CompressionType::Zstd),
        (0 | 1, _) => Err(fields
            .corrupt(
                104,
                "compression_type contradicts incompatible feature bit 3",
            )
            .mismatch(if stated { "not 0" } else { "0" }, v3.compression_type)),
        (other, _) => {
            Err(fields.unsupported(104, format!("compression type {other} is unknown here")))
        }
    }
}

fn backing_name(fields: &Fields<'_>, offset: u64, len: u32) -> Result<Option<Vec<u8>>> {
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    if len > 1023 {
        return Err(fields
            .corrupt(16, "backing file name is too long")
            .mismatch("at most 1023 bytes", len));
    }
    let name = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(len).ok())
        .and_then(|(offset, len)| fields.bytes(offset, len).ok())
        .ok_or_else(|| {
            fields
                .corrupt(8, "backing file name lies outside the first cluster")
                .mismatch(format!("an end of at most {}", fields.len()), offset)
        })?;
    Ok(Some(name.to_vec()))
}

/// Offset and entries of the L1 table, checked against the disk's size and the file's.
fn l1_table(
    fields: &Fields<'_>,
    geometry: &Geometry,
    size: u64,
    file_size: u64,
) -> Result<(u64, u64)> {
    let entries = u64::from(fields.u32_be(36)?);
    let bytes = entries.saturating_mul(8);
    let needed = geometry.l1_entries(size);
    if bytes > MAX_L1_BYTES {
        return Err(fields
            .corrupt(36, "l1_size is too large")
            .mismatch(format!("at most {}", MAX_L1_BYTES / 8), entries));
    }
    if entries < needed {
        return Err(fields
            .corrupt(36, "l1_size is too small for the disk's size")
            .mismatch(format!("at least {needed}"), entries));
    }
    let offset = fields.u64_be(40)?;
    if !geometry.is_aligned(offset) {
        return Err(fields
            .corrupt(40, "l1_table_offset is not at a cluster boundary")
            .mismatch(format!("a multiple of {}", geometry.cluster_size()), offset));
    }
    let end = offset.saturating_add(needed.saturating_mul(8));
    if end > file_size || (needed > 0 && offset == 0) {
        return Err(past_end(
            fields.corrupt(40, "L1 table lies outside the file"),
            end,
            file_size,
        ));
    }
    Ok((offset, entries))
}

/// Adds to `error` that bytes are needed up to `end` and the file ends at `file_size`.
pub(super) fn past_end(error: Error, end: u64, file_size: u64) -> Error {
    error
        .mismatch(format!("a file of at least {end} bytes"), file_size)
        .hint("the file may be truncated: copy it again from its origin")
}
