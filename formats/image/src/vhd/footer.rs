//! The hard disk footer: what kind of disk a VHD is, and how large.
//!
//! Specification 1.0, "Hard Disk Footer Format" and the appendix "CHS Calculation".
//!
//! The footer is the last sector of the file; dynamic and differencing disks begin with a copy of
//! it, which is taken when the last sector is damaged or missing. Leaves out on purpose: the
//! feature bits (none changes what is stored) and the saved state.

use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{Error, Fields, Result, Storage};

use super::{COOKIE, SECTOR, checksum};

/// Length in bytes.
pub(super) const FOOTER_LEN: usize = 512;

/// Length of the footers that Virtual PC wrote before 2004.
const OLD_FOOTER_LEN: u64 = 511;

const STRUCTURE: &str = "hard disk footer";

/// Byte of the checksum.
const CHECKSUM_AT: usize = 64;

/// The format's version, 1.0.
pub(super) const VERSION: u32 = 0x0001_0000;

/// What an offset says that is none.
pub(super) const NOWHERE: u64 = u64::MAX;

/// Seconds from 1970 to 2000, where VHD's time begins.
const EPOCH: u64 = 946_684_800;

/// Creators whose guests saw the size of the geometry; everybody else obeys `current_size`. QEMU
/// wrote `qemu` until 2.6 and `qem2` since, where the size is exact.
const BY_GEOMETRY: [&[u8; 4]; 3] = [b"vpc ", b"vs  ", b"qemu"];

/// What we say created a disk. Readers that know the size rule go by a list of creators, on which
/// an unknown name means geometry (QEMU); Hyper-V's is on every list, and means the exact size.
const OURS: ([u8; 4], u32, [u8; 4]) = (*b"win ", 0x000a_0000, *b"Wi2k");

/// Kinds of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

impl DiskType {
    /// As the footer has it.
    const fn number(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// Cylinders, heads, sectors per track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

impl Geometry {
    /// The largest: what larger disks have too, so that it says nothing of the size.
    const MAX: Self = Self {
        cylinders: 65_535,
        heads: 16,
        sectors: 255,
    };

    /// Of a disk of `sectors`.
    #[allow(clippy::arithmetic_side_effects)] // constants and `total`, which is below 2^28
    pub(super) fn of(sectors: u64) -> Self {
        let total = sectors.min(Self::MAX.total());
        let (per_track, heads) = if total >= 65_535 * 16 * 63 {
            (255, 16)
        } else {
            let heads = (total / 17).div_ceil(1024).max(4);
            if heads <= 16 && total / 17 < heads * 1024 {
                (17, heads)
            } else if total / 31 < 16 * 1024 {
                (31, 16)
            } else {
                (63, 16)
            }
        };
        Self {
            cylinders: u16::try_from(total / per_track / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(16),
            sectors: u8::try_from(per_track).unwrap_or(u8::MAX),
        }
    }

    /// Its sectors.
    fn total(self) -> u64 {
        u64::from(self.cylinders)
            .saturating_mul(u64::from(self.heads))
            .saturating_mul(u64::from(self.sectors))
    }
}

/// Which field says how large the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeRule {
    CurrentSize,
    Geometry,
}

/// A footer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    /// Where the dynamic disk header is.
    pub(super) data_offset: u64,
    /// Seconds since 2000.
    pub(super) timestamp: u32,
    pub(super) creator: [u8; 4],
    pub(super) current_size: u64,
    pub(super) geometry: Geometry,
    pub(super) unique_id: [u8; 16],
}

/// A footer and where it was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) footer: Footer,
    /// Where the footer at the end begins; the end of the file when that one is damaged.
    pub(super) end: u64,
    pub(super) from_copy: bool,
}

impl Footer {
    /// A footer of a new disk of `size` bytes.
    pub(super) fn new(disk_type: DiskType, size: u64, data_offset: u64) -> Self {
        Self {
            disk_type,
            data_offset,
            timestamp: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| timestamp(since.as_secs())),
            creator: OURS.0,
            current_size: size,
            geometry: Geometry::of(size / SECTOR),
            unique_id: *uuid::Uuid::new_v4().as_bytes(),
        }
    }

    /// The footer of `storage`, or its copy.
    ///
    /// # Errors
    /// Corrupt when there is none, or none that its checksum proves; Unsupported for a version or
    /// disk type that is not read.
    pub(super) fn find(storage: &dyn Storage) -> Result<Found> {
        let at_end = Self::at_end(storage);
        match at_end {
            Ok((footer, end)) => Ok(Found {
                footer,
                end,
                from_copy: false,
            }),
            Err(error) => match Self::read(storage, 0, FOOTER_LEN) {
                Ok(footer) if footer.disk_type != DiskType::Fixed => Ok(Found {
                    footer,
                    end: storage.size(),
                    from_copy: true,
                }),
                _ => Err(error),
            },
        }
    }

    /// The footer at the end of `storage` and its place.
    fn at_end(storage: &dyn Storage) -> Result<(Self, u64)> {
        let size = storage.size();
        let missing = |at: u64| {
            Error::corrupt("is missing")
                .in_structure(STRUCTURE)
                .at(at)
                .hint("the file is truncated, unfinished or no VHD: copy it again from its origin")
        };
        let at = size.checked_sub(SECTOR).ok_or_else(|| missing(size))?;
        match Self::read(storage, at, FOOTER_LEN) {
            Ok(footer) => Ok((footer, at)),
            Err(error) => {
                let mut cookie = [0; 8];
                storage.read_at(&mut cookie, at)?;
                if cookie == *COOKIE {
                    return Err(error);
                }
                let old = size.saturating_sub(OLD_FOOTER_LEN);
                let footer = Self::read(storage, old, FOOTER_LEN.saturating_sub(1));
                footer.map(|footer| (footer, old)).map_err(|_| missing(at))
            }
        }
    }

    /// The footer of `len` bytes at `at`.
    ///
    /// # Errors
    /// As [`Footer::find`].
    pub(super) fn read(storage: &dyn Storage, at: u64, len: usize) -> Result<Self> {
        let mut bytes = [0; FOOTER_LEN];
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        storage.read_at(bytes, at)?;
        Self::parse(&Fields::new(bytes, STRUCTURE, at), bytes)
    }

    fn parse(fields: &Fields<'_>, bytes: &[u8]) -> Result<Self> {
        if fields.array(0)? != *COOKIE {
            return Err(fields.corrupt(0, "cookie is not \"conectix\""));
        }
        let (computed, stored) = (checksum(bytes, CHECKSUM_AT), fields.u32_be(CHECKSUM_AT)?);
        if computed != stored {
            return Err(fields
                .corrupt(CHECKSUM_AT, "checksum does not match")
                .mismatch(format!("{computed:#010x}"), format!("{stored:#010x}")));
        }
        let version = fields.u32_be(12)?;
        if version >> 16 != VERSION >> 16 {
            return Err(fields
                .unsupported(12, "format version is unknown")
                .mismatch("1.0", format!("{}.{}", version >> 16, version & 0xffff)));
        }
        let disk_type = match fields.u32_be(60)? {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => {
                return Err(fields
                    .unsupported(60, "disk type is not read")
                    .mismatch("2 (fixed), 3 (dynamic) or 4 (differencing)", other));
            }
        };
        Ok(Self {
            disk_type,
            data_offset: fields.u64_be(16)?,
            timestamp: fields.u32_be(24)?,
            creator: fields.array(28)?,
            current_size: fields.u64_be(48)?,
            geometry: Geometry {
                cylinders: u16::from_be_bytes(fields.array(56)?),
                heads: fields.u8(58)?,
                sectors: fields.u8(59)?,
            },
            unique_id: fields.array(68)?,
        })
    }

    /// Guest-visible size in bytes, and which field said so.
    pub(super) fn size(&self) -> (u64, SizeRule) {
        let geometry = self.geometry.total().saturating_mul(SECTOR);
        let obeyed = BY_GEOMETRY.contains(&&self.creator) && self.geometry != Geometry::MAX;
        // A geometry rounds down; one that is larger than the disk, or nothing, is no size.
        if obeyed && geometry > 0 && geometry < self.current_size {
            (geometry, SizeRule::Geometry)
        } else {
            (self.current_size, SizeRule::CurrentSize)
        }
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (_, version, host) = OURS;
        let mut bytes = Vec::with_capacity(FOOTER_LEN);
        bytes.extend(COOKIE);
        bytes.extend(2u32.to_be_bytes()); // features: the reserved bit, always set
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(self.data_offset.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.creator);
        bytes.extend(version.to_be_bytes());
        bytes.extend(host);
        bytes.extend(self.current_size.to_be_bytes()); // original size
        bytes.extend(self.current_size.to_be_bytes());
        bytes.extend(self.geometry.cylinders.to_be_bytes());
        bytes.extend([self.geometry.heads, self.geometry.sectors]);
        bytes.extend(self.disk_type.number().to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.unique_id);
        bytes.resize(FOOTER_LEN, 0);
        seal(bytes, CHECKSUM_AT)
    }
}

/// A footer as it is in the file, with the fields that nobody here reads.
#[derive(Debug, Clone)]
pub(super) struct FooterBytes(Vec<u8>);

impl FooterBytes {
    /// The bytes of the footer that was `found`.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn read(storage: &dyn Storage, found: &Found) -> Result<Self> {
        let at = if found.from_copy { 0 } else { found.end };
        let left = usize::try_from(storage.size().saturating_sub(at)).unwrap_or(FOOTER_LEN);
        let mut bytes = vec![0; FOOTER_LEN];
        storage.read_at(
            bytes.get_mut(..left.min(FOOTER_LEN)).unwrap_or_default(),
            at,
        )?;
        Ok(Self(bytes))
    }

    fn set(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at.saturating_add(value.len())) {
            place.copy_from_slice(value);
        }
    }

    /// Says that the disk has `size` bytes, exactly: by a creator whose geometry nobody obeys.
    pub(super) fn set_size(&mut self, size: u64) {
        let geometry = Geometry::of(size / SECTOR);
        let (creator, version, host) = OURS;
        self.set(28, &creator);
        self.set(32, &version.to_be_bytes());
        self.set(36, &host);
        self.set(48, &size.to_be_bytes());
        self.set(56, &geometry.cylinders.to_be_bytes());
        self.set(58, &[geometry.heads, geometry.sectors]);
    }

    /// Says what kind of disk it is.
    pub(super) fn set_type(&mut self, disk_type: DiskType) {
        self.set(60, &disk_type.number().to_be_bytes());
    }

    /// Says that the disk was changed now.
    pub(super) fn touch(&mut self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| timestamp(since.as_secs()));
        self.set(24, &now.to_be_bytes());
    }

    /// The bytes, with the right checksum.
    pub(super) fn sealed(&self) -> Vec<u8> {
        seal(self.0.clone(), CHECKSUM_AT)
    }
}

/// `bytes` with their checksum at byte `at`.
pub(super) fn seal(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = checksum(&bytes, at).to_be_bytes();
    if let Some(place) = bytes.get_mut(at..at.saturating_add(sum.len())) {
        place.copy_from_slice(&sum);
    }
    bytes
}

/// VHD's count of seconds for Unix's.
pub(super) fn timestamp(unix: u64) -> u32 {
    u32::try_from(unix.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

/// Whether `storage` ends with the footer of a fixed disk: the one type that nothing at the
/// beginning gives away.
pub(crate) fn is_fixed(storage: &dyn Storage) -> bool {
    Footer::at_end(storage).is_ok_and(|(footer, end)| {
        footer.disk_type == DiskType::Fixed && footer.current_size <= end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cylinders: u16, heads: u8, sectors: u8) -> Geometry {
        Geometry {
            cylinders,
            heads,
            sectors,
        }
    }

    #[test]
    fn geometries_are_those_that_windows_writes() {
        // From disks made by Windows 10 and Hyper-V 2012 R2; the last is the specification's limit.
        assert_eq!(Geometry::of((4 << 20) / 512), geometry(120, 4, 17));
        assert_eq!(
            Geometry::of(136_365_211_648 / 512),
            geometry(65_278, 16, 255)
        );
        assert_eq!(Geometry::of(u64::MAX), Geometry::MAX);
    }

    #[test]
    fn only_some_creators_mean_the_geometry() {
        let size = 10 << 20;
        let of = |creator: &[u8; 4]| {
            let mut footer = Footer::new(DiskType::Fixed, size, NOWHERE);
            footer.creator = *creator;
            footer.size()
        };
        let rounded = 301 * 4 * 17 * 512;
        for creator in [b"vpc ", b"vs  ", b"qemu"] {
            assert_eq!(of(creator), (rounded, SizeRule::Geometry));
        }
        for creator in [b"win ", b"d2v ", b"qem2", b"tap\0", b"wa\0\0", b"vbox"] {
            assert_eq!(of(creator), (size, SizeRule::CurrentSize));
        }
    }

    #[test]
    fn the_largest_geometry_says_nothing() {
        let mut footer = Footer::new(DiskType::Fixed, 1 << 40, NOWHERE);
        footer.creator = *b"vpc ";
        assert_eq!(footer.size(), (1 << 40, SizeRule::CurrentSize));
    }

    #[test]
    fn a_footer_comes_back_as_it_was() {
        let footer = Footer::new(DiskType::Dynamic, 12_345 * 512, 512);
        let bytes = footer.encode();
        let back = Footer::parse(&Fields::new(&bytes, STRUCTURE, 0), &bytes).unwrap();
        assert_eq!(back, footer);
    }
}
