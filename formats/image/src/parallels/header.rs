//! The header of an expanding image. "Header" and "BAT" in `docs/interop/parallels.txt`.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result, Storage, round_up};

use super::SECTOR;

/// Bytes of the header; the BAT follows it.
pub(super) const LEN: u64 = 64;

pub(super) const STRUCTURE: &str = "Parallels header";

/// `in_use` of an image that is open, and of one that was closed by software that keeps it.
const OPEN: u32 = 0x746f_6e59;
const CLOSED: u32 = 0x312e_3276;

/// `flags` bit 0: the image is to be considered clear.
const EMPTY: u32 = 1;

/// Entries of a BAT that are kept in memory (64 MiB): 16 TiB in usual clusters. Ours.
const MAX_ENTRIES: u64 = 16 << 20;

/// The two kinds, which differ in what a BAT entry counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `WithoutFreeSpace`: sectors.
    Sectors,
    /// `WithouFreSpacExt`: clusters.
    Clusters,
}

impl Kind {
    fn of(magic: [u8; 16]) -> Option<Self> {
        match &magic {
            b"WithoutFreeSpace" => Some(Self::Sectors),
            b"WithouFreSpacExt" => Some(Self::Clusters),
            _ => None,
        }
    }

    /// The magic, which is the only name that the kinds have.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Sectors => "WithoutFreeSpace",
            Self::Clusters => "WithouFreSpacExt",
        }
    }
}

/// A header, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Guest-visible bytes.
    pub(super) size: u64,
    /// Bytes per cluster, any number of sectors.
    pub(super) cluster: NonZeroU64,
    /// Entries of the BAT that the disk needs.
    pub(super) entries: u64,
    /// The first byte where a cluster may lie.
    pub(super) data: u64,
    /// Where the format extension is, if there is one.
    pub(super) extension: Option<u64>,
    /// Whether the last program that wrote did not close the image.
    pub(super) in_use: bool,
    /// Whether the image says that it is empty, whatever its BAT says.
    pub(super) empty: bool,
}

impl Header {
    /// The header of `storage`.
    ///
    /// # Errors
    /// Corrupt when it is none, or contradicts itself or the file's length; Unsupported for a
    /// version or a size that is not read.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let len = LEN.min(storage.size());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        storage.read_at(&mut bytes, 0)?;
        Self::parse(&Fields::new(&bytes, STRUCTURE, 0), storage.size())
    }

    fn parse(fields: &Fields<'_>, file_size: u64) -> Result<Self> {
        let kind = Kind::of(fields.array(0)?)
            .ok_or_else(|| fields.corrupt(0, "is no Parallels image: the magic is missing"))?;
        let version = fields.u32_le(16)?;
        if version != 2 {
            return Err(fields
                .unsupported(16, "version is not read")
                .mismatch(2, version));
        }
        let cluster = NonZeroU64::new(u64::from(fields.u32_le(28)?).saturating_mul(SECTOR))
            .ok_or_else(|| {
                fields
                    .corrupt(28, "tracks (cluster size) is wrong")
                    .mismatch("at least 1 sector", 0)
            })?;
        let sectors = match kind {
            // "The highest 4 bytes must be cleared": programs that do not are known, and obeyed.
            Kind::Sectors => fields.u32_le(36)?.into(),
            Kind::Clusters => fields.u64_le(36)?,
        };
        let size = sectors.checked_mul(SECTOR).ok_or_else(|| {
            fields
                .corrupt(36, "nb_sectors is out of range")
                .mismatch("at most 2^55", sectors)
        })?;
        let entries = size.div_ceil(cluster.get());
        let stored = u64::from(fields.u32_le(32)?);
        if entries > stored {
            return Err(fields
                .corrupt(32, "BAT is too short for the disk")
                .mismatch(format!("at least {entries} entries"), stored));
        }
        if entries > MAX_ENTRIES {
            return Err(fields
                .unsupported(32, "BAT is too long")
                .mismatch(format!("at most {MAX_ENTRIES} entries"), entries));
        }
        let bat_end = LEN.saturating_add(entries.saturating_mul(4));
        if bat_end > file_size {
            return Err(fields
                .corrupt(32, "BAT lies past the end of the file")
                .mismatch(format!("an end of at most {file_size}"), bat_end)
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        let in_use = match fields.u32_le(44)? {
            OPEN => true,
            0 | CLOSED => false,
            other => {
                return Err(fields.corrupt(44, "in_use is wrong").mismatch(
                    format!("0, {OPEN:#x} or {CLOSED:#x}"),
                    format!("{other:#x}"),
                ));
            }
        };
        Ok(Self {
            kind,
            size,
            cluster,
            entries,
            data: data_offset(fields, kind, cluster, bat_end)?,
            extension: extension_offset(fields)?,
            in_use,
            empty: fields.u32_le(52)? & EMPTY != 0,
        })
    }
}

/// Where clusters may begin. The specification wants no more than the end of the BAT.
fn data_offset(fields: &Fields<'_>, kind: Kind, cluster: NonZeroU64, bat_end: u64) -> Result<u64> {
    let data = u64::from(fields.u32_le(48)?).saturating_mul(SECTOR);
    match kind {
        Kind::Sectors if data == 0 => Ok(round_up(bat_end, SECTOR)),
        Kind::Clusters if data == 0 || data % cluster != 0 => Err(fields
            .corrupt(48, "data_off is wrong")
            .mismatch(format!("a multiple of {cluster}"), data)),
        _ if data < bat_end => Err(fields
            .corrupt(48, "data lies over the BAT")
            .mismatch(format!("at least {bat_end}"), data)),
        _ => Ok(data),
    }
}

fn extension_offset(fields: &Fields<'_>) -> Result<Option<u64>> {
    let sectors = fields.u64_le(56)?;
    Ok((sectors != 0).then(|| sectors.saturating_mul(SECTOR)))
}

/// Whether `head`, the first bytes of a file, are those of an expanding image.
pub(super) fn is_image(head: &[u8]) -> bool {
    head.first_chunk::<16>()
        .is_some_and(|magic| Kind::of(*magic).is_some())
}
