//! The header of a hosted sparse extent (`KDMV`), checked on the way in and encoded on the way out.
//!
//! VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents", `SparseExtentHeader`. Versions 1 to 3
//! (2: zeroed grains; 3: streamOptimized, and extents with changed block tracking).
//!
//! The redundant grain directory is named for checks and writers. It repeats the first one, and which
//! of two contradicting directories is right is no question for a reader.

use std::num::NonZeroU64;

use rehost_block::{Fields, Result};

use super::SECTOR;

/// The first four bytes of a sparse extent, `KDMV`.
pub(super) const MAGIC: &[u8; 4] = b"KDMV";

/// The name errors use.
pub(super) const STRUCTURE: &str = "sparse extent header";

/// Length of the header on disk, in bytes.
pub(super) const HEADER_LEN: usize = 512;

/// `gdOffset` of a stream whose grain directory is named by its footer.
pub(super) const GD_AT_END: u64 = u64::MAX;

/// Entries of a grain table. The specification's: always 512.
pub(super) const GTES_PER_GT: NonZeroU64 = NonZeroU64::new(512).unwrap();

/// The newline test bytes are valid.
const FLAG_NEWLINES: u32 = 1;
/// There is a redundant grain directory.
const FLAG_REDUNDANT: u32 = 1 << 1;
/// Grain table entry 1 means a grain of zeroes.
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
/// Grains are compressed.
const FLAG_COMPRESSED: u32 = 1 << 16;
/// Grains and metadata are preceded by markers.
const FLAG_MARKERS: u32 = 1 << 17;

/// Where `uncleanShutdown` is.
pub(super) const UNCLEAN: usize = 72;

/// `compressAlgorithm` 1: RFC 1950 (zlib) streams, which the specification calls deflate.
const COMPRESSION_DEFLATE: u16 = 1;

/// `\n`, ` `, `\r\n`: what a transfer in text mode changes.
const NEWLINES: [u8; 4] = *b"\n \r\n";

/// The largest grain, in sectors. QEMU's (1 GiB).
pub(super) const MAX_GRAIN: u64 = 0x20_0000;
/// The largest compressed grain, in bytes. Ours, for bounded memory; VMware writes 64 KiB.
const MAX_COMPRESSED_GRAIN: u64 = 2 << 20;
/// The most grain directory entries. QEMU's (a directory of 32 MiB: 256 TiB of usual grains).
pub(super) const MAX_GD_ENTRIES: u64 = 8 << 20;

/// How grains are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grains {
    /// As they are.
    Plain,
    /// As zlib streams behind markers.
    Compressed,
}

/// How a directory names its tables, and a table its grains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    /// 32 bits each: a sector of the file.
    Sectors,
    /// 64 bits each: seSparse's numbers of tables and grains, which lie from these bytes on.
    Indexes {
        /// Where table 0 begins.
        tables: u64,
        /// Where grain 0 begins.
        grains: u64,
    },
}

impl Entries {
    /// Bytes per entry.
    pub(super) const fn len(self) -> u64 {
        match self {
            Self::Sectors => 4,
            Self::Indexes { .. } => 8,
        }
    }
}

/// A header without contradictions in itself. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Guest-visible length of the extent.
    pub(super) capacity: u64,
    /// Guest bytes per grain: a power of two.
    pub(super) grain: NonZeroU64,
    /// Entries per grain table: a power of two.
    pub(super) gtes_per_gt: NonZeroU64,
    /// Where the grain directory is; none for a stream, whose footer says it.
    pub(super) gd: Option<u64>,
    /// Its entries.
    pub(super) gd_entries: u64,
    /// Where the redundant grain directory is, where the header says that there is one.
    pub(super) rgd: Option<u64>,
    /// Whether whoever wrote last did not close the file (or has it open).
    pub(super) unclean: bool,
    /// Where the embedded descriptor is and how long, where there is one.
    pub(super) descriptor: Option<(u64, u64)>,
    /// How grains are stored.
    pub(super) grains: Grains,
    /// Whether grain table entry 1 is a grain of zeroes.
    pub(super) zeroed_grains: bool,
    /// How its tables are written.
    pub(super) entries: Entries,
}

impl Header {
    /// Parses the header (or footer) in `bytes`, found at byte `base` of a file of `file_size` bytes.
    ///
    /// # Errors
    /// Corrupt or Unsupported, with the offending field's offset.
    pub(super) fn parse(bytes: &[u8], base: u64, file_size: u64) -> Result<Self> {
        let fields = Fields::new(bytes, STRUCTURE, base);
        if fields.bytes(0, 4)? != MAGIC {
            return Err(fields
                .corrupt(0, "signature is wrong")
                .mismatch("KDMV", format!("{:02x?}", fields.bytes(0, 4)?)));
        }
        let version = fields.u32_le(4)?;
        if !(1..=3).contains(&version) {
            return Err(fields
                .unsupported(4, "version is not known")
                .mismatch("1 to 3", version));
        }
        let flags = fields.u32_le(8)?;
        // Not refused: QEMU, libyal and VMware itself leave out the test when the flag is unset.
        if flags & FLAG_NEWLINES != 0 && fields.array::<4>(73)? != NEWLINES {
            return Err(fields
                .corrupt(73, "newline test bytes are changed")
                .hint("the file was transferred in text mode: copy it again in binary mode"));
        }
        let grain = sectors(&fields, 20, "grain size")?;
        let grain = NonZeroU64::new(grain)
            .filter(|bytes| bytes.is_power_of_two() && bytes.get() / SECTOR <= MAX_GRAIN)
            .ok_or_else(|| {
                fields
                    .corrupt(20, "grain size is out of range")
                    .mismatch("a power of two from 1 to 2097152 sectors", grain / SECTOR)
            })?;
        let gtes_per_gt = fields.u32_le(44)?;
        let gtes_per_gt = NonZeroU64::new(gtes_per_gt.into())
            .filter(|count| count.is_power_of_two() && *count <= GTES_PER_GT)
            .ok_or_else(|| {
                fields
                    .corrupt(44, "grain table length is out of range")
                    .mismatch("a power of two up to 512 entries", gtes_per_gt)
            })?;
        let capacity = sectors(&fields, 12, "capacity")?;
        let covered = grain.get().saturating_mul(gtes_per_gt.get());
        let gd_entries = capacity.div_ceil(covered);
        if capacity == 0 || gd_entries > MAX_GD_ENTRIES {
            return Err(fields.corrupt(12, "capacity is out of range").mismatch(
                format!("at most {MAX_GD_ENTRIES} grain directory entries"),
                gd_entries,
            ));
        }
        let header = Self {
            capacity,
            grain,
            gtes_per_gt,
            gd: match fields.u64_le(56)? {
                GD_AT_END => None,
                _ => Some(sectors(&fields, 56, "grain directory offset")?),
            },
            gd_entries,
            rgd: match fields.u64_le(48)? {
                0 => None,
                _ if flags & FLAG_REDUNDANT == 0 => None,
                _ => Some(sectors(&fields, 48, "redundant grain directory offset")?),
            },
            unclean: fields.u8(UNCLEAN)? != 0,
            descriptor: descriptor(&fields, file_size)?,
            grains: grains(&fields, flags, grain)?,
            zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
            entries: Entries::Sectors,
        };
        header.check_directory(&fields, file_size)?;
        Ok(header)
    }

    /// The directory lies inside the file and over nothing else.
    fn check_directory(&self, fields: &Fields<'_>, file_size: u64) -> Result<()> {
        let Some(gd) = self.gd else { return Ok(()) };
        let end = gd.saturating_add(self.gd_len());
        if end > file_size {
            return Err(fields
                .corrupt(56, "grain directory reaches past the end of the file")
                .mismatch(format!("an end of at most {file_size}"), end)
                .hint("the file is truncated: copy it again from its origin"));
        }
        let over_descriptor = self
            .descriptor
            .is_some_and(|(start, len)| gd < start.saturating_add(len) && start < end);
        if gd < SECTOR || over_descriptor {
            return Err(fields.corrupt(56, "grain directory overlaps the header or the descriptor"));
        }
        Ok(())
    }

    /// Length of the grain directory in bytes.
    pub(super) fn gd_len(&self) -> u64 {
        self.gd_entries.saturating_mul(self.entries.len())
    }

    /// Length of a grain table in bytes.
    pub(super) fn gt_len(&self) -> u64 {
        self.gtes_per_gt.get().saturating_mul(self.entries.len())
    }
}

/// The field of 64 bits at `at`, a count of sectors, in bytes.
fn sectors(fields: &Fields<'_>, at: usize, what: &str) -> Result<u64> {
    let sectors = fields.u64_le(at)?;
    sectors.checked_mul(SECTOR).ok_or_else(|| {
        fields
            .corrupt(at, format!("{what} is past any file's end"))
            .mismatch("fewer than 2^55 sectors", sectors)
    })
}

fn descriptor(fields: &Fields<'_>, file_size: u64) -> Result<Option<(u64, u64)>> {
    let offset = sectors(fields, 28, "descriptor offset")?;
    let len = sectors(fields, 36, "descriptor size")?;
    if offset == 0 {
        return Ok(None);
    }
    if len == 0 || offset.checked_add(len).is_none_or(|end| end > file_size) {
        return Err(fields
            .corrupt(28, "descriptor reaches past the end of the file")
            .mismatch(
                format!("an end of at most {file_size}"),
                format!("{len} bytes at {offset}"),
            ));
    }
    Ok(Some((offset, len)))
}

fn grains(fields: &Fields<'_>, flags: u32, grain: NonZeroU64) -> Result<Grains> {
    if flags & FLAG_COMPRESSED == 0 {
        return Ok(Grains::Plain);
    }
    let algorithm = fields.u16_le(77)?;
    if algorithm != COMPRESSION_DEFLATE {
        return Err(fields
            .unsupported(77, "compression algorithm is not known")
            .mismatch("1 (deflate)", algorithm));
    }
    if flags & FLAG_MARKERS == 0 {
        return Err(fields.unsupported(8, "compressed grains without markers are not read"));
    }
    if grain.get() > MAX_COMPRESSED_GRAIN {
        return Err(fields
            .unsupported(20, "compressed grains are too large")
            .mismatch(format!("at most {MAX_COMPRESSED_GRAIN} bytes"), grain));
    }
    Ok(Grains::Compressed)
}

/// What the writers put into a header. Offsets and lengths are in sectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft {
    pub(super) grains: Grains,
    /// Whether an entry may say that its grain is zeroes.
    pub(super) zeroed_grains: bool,
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) descriptor: (u64, u64),
    pub(super) rgd: u64,
    pub(super) gd: u64,
    pub(super) overhead: u64,
}

impl Draft {
    /// The header sector.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (version, flags, compression) = match self.grains {
            Grains::Plain if self.zeroed_grains => (
                2u32,
                FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS,
                0u16,
            ),
            Grains::Plain => (1, FLAG_NEWLINES | FLAG_REDUNDANT, 0),
            Grains::Compressed => (
                3,
                FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
                COMPRESSION_DEFLATE,
            ),
        };
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(MAGIC);
        bytes.extend(version.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(self.capacity.to_le_bytes());
        bytes.extend(self.grain.to_le_bytes());
        bytes.extend(self.descriptor.0.to_le_bytes());
        bytes.extend(self.descriptor.1.to_le_bytes());
        bytes.extend(512u32.to_le_bytes()); // numGTEsPerGT
        bytes.extend(self.rgd.to_le_bytes());
        bytes.extend(self.gd.to_le_bytes());
        bytes.extend(self.overhead.to_le_bytes());
        bytes.push(0); // uncleanShutdown
        bytes.extend(NEWLINES);
        bytes.extend(compression.to_le_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rehost_block::Kind;

    const FILE: u64 = 1 << 20;

    fn draft() -> Vec<u8> {
        Draft {
            grains: Grains::Plain,
            zeroed_grains: false,
            capacity: 20_480,
            grain: 128,
            descriptor: (1, 20),
            rgd: 21,
            gd: 26,
            overhead: 128,
        }
        .encode()
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let header = Header::parse(&draft(), 0, FILE).unwrap();
        assert_eq!(header.capacity, 10 << 20);
        assert_eq!(header.grain.get(), 65_536);
        assert_eq!(header.gd, Some(26 * 512));
        assert_eq!(header.gd_entries, 1);
        assert_eq!(header.descriptor, Some((512, 20 * 512)));
    }

    #[test]
    fn each_broken_field_is_named_by_its_offset() {
        for (at, bytes, kind) in [
            (0, &b"KDMW"[..], Kind::Corrupt),
            (4, &[4, 0, 0, 0], Kind::Unsupported),
            (12, &[0; 8], Kind::Corrupt),
            (12, &[0xff; 8], Kind::Corrupt),
            (12, &[0, 0, 0, 0, 0, 0, 1, 0], Kind::Corrupt),
            (20, &[0; 8], Kind::Corrupt),
            (20, &[129, 0, 0, 0, 0, 0, 0, 0], Kind::Corrupt),
            (20, &[0, 0, 0x40, 0, 0, 0, 0, 0], Kind::Corrupt),
            (28, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0], Kind::Corrupt),
            (44, &[0; 4], Kind::Corrupt),
            (44, &[0, 4, 0, 0], Kind::Corrupt),
            (56, &[0; 8], Kind::Corrupt),
            (56, &[5, 0, 0, 0, 0, 0, 0, 0], Kind::Corrupt),
            (56, &[0xff, 0xff, 0, 0, 0, 0, 0, 0], Kind::Corrupt),
            (73, b"\r", Kind::Corrupt),
        ] {
            let mut header = draft();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            let error = Header::parse(&header, 0, FILE).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.offset(), Some(at as u64), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(
            changes in prop::collection::vec((4usize..80, any::<u8>()), 0..12),
        ) {
            let mut header = draft();
            for (at, byte) in changes {
                header[at] = byte;
            }
            let _ = Header::parse(&header, 0, FILE);
        }
    }
}
