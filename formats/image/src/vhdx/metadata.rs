//! The metadata region: what kind of disk it is, its sizes, its identity, its parent.
//!
//! \[MS-VHDX\] §2.6. Items that the standard defines are all needed; others are ignored unless they
//! say that they must be known.

use std::num::NonZeroU64;
use std::ops::Range;

use rehost_block::{Fields, Result, Storage};
use uuid::Uuid;

use super::locator::Locator;
use super::region::{MAX_ENTRIES, Region};
use super::{CHUNK_SECTORS, KIB64, MAX_SIZE, MIB, length};

const STRUCTURE: &str = "metadata table";

/// Length of the table, in bytes; the items come after it.
pub(super) const TABLE_LEN: usize = 1 << 16;

pub(super) const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xCAA1_6737_FA36_4D43_B3B6_33F0_AA44_E76B);
pub(super) const VIRTUAL_DISK_SIZE: Uuid =
    Uuid::from_u128(0x2FA5_4224_CD1B_4876_B211_5DBE_D83B_F4B8);
const VIRTUAL_DISK_ID: Uuid = Uuid::from_u128(0xBECA_12AB_B2E6_4523_93EF_C309_E000_C746);
const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141_BF1D_A96F_4709_BA47_F233_A8FA_AB5F);
const PHYSICAL_SECTOR: Uuid = Uuid::from_u128(0xCDA3_48C7_445D_4471_9CC9_E988_5251_C556);
pub(super) const PARENT_LOCATOR: Uuid = Uuid::from_u128(0xA8D3_5F2D_B30B_454D_ABF7_D3D8_4834_AB0C);

/// Flags of an item.
const IS_USER: u32 = 1;
const IS_VIRTUAL_DISK: u32 = 2;
pub(super) const IS_REQUIRED: u32 = 4;

/// Flag of the file parameters.
pub(super) const HAS_PARENT: u32 = 2;

/// What the metadata of a disk says.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    pub(super) geometry: Geometry,
    /// Whether blocks stay allocated whatever the guest does: a fixed disk.
    pub(super) leave_allocated: bool,
    /// What SCSI inquiry page 83 gives as the disk's identity.
    pub(super) disk_id: Uuid,
    pub(super) physical_sector: u32,
    /// Where a differencing disk's parent is.
    pub(super) parent: Option<Locator>,
}

/// The sizes that place every guest byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Guest-visible size in bytes: whole sectors, at least one.
    pub(super) size: u64,
    /// Bytes per payload block.
    pub(super) block: NonZeroU64,
    /// Bytes per logical sector: 512 or 4096.
    pub(super) sector: NonZeroU64,
    /// Payload blocks per sector bitmap block.
    pub(super) chunk_ratio: NonZeroU64,
}

impl Geometry {
    /// The geometry of a disk; `None` where the values are outside the standard's limits.
    pub(super) fn new(size: u64, block: u64, sector: u64) -> Option<Self> {
        let legal = (MIB..=256 * MIB).contains(&block)
            && block.is_power_of_two()
            && matches!(sector, 512 | 4096)
            && (1..=MAX_SIZE).contains(&size)
            && size.checked_rem(sector) == Some(0);
        if !legal {
            return None;
        }
        let block = NonZeroU64::new(block)?;
        Some(Self {
            size,
            block,
            sector: NonZeroU64::new(sector)?,
            // At least 16: 2^23 * 512 / 256 MiB.
            chunk_ratio: NonZeroU64::new(CHUNK_SECTORS.checked_mul(sector)? / block)?,
        })
    }

    pub(super) const fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block.get())
    }

    /// The place of payload block `block` in the block allocation table: after each chunk's
    /// payload blocks comes its sector bitmap block.
    pub(super) fn payload_entry(&self, block: u64) -> u64 {
        block.saturating_add(block / self.chunk_ratio)
    }

    /// The place of the sector bitmap block that covers payload block `block`.
    pub(super) fn bitmap_entry(&self, block: u64) -> u64 {
        let ratio = self.chunk_ratio.get();
        let chunk = block / self.chunk_ratio;
        chunk
            .saturating_add(1)
            .saturating_mul(ratio)
            .saturating_add(chunk)
    }

    /// The parts of `offset..offset + len`, one a block.
    pub(super) fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<> {
        let block = self.block;
        let end = offset.saturating_add(len);
        let mut at = offset;
        // Ends because every part has at least a byte.
        std::iter::from_fn(move || {
            let (number, within) = (at / block, at % block);
            let len = block
                .get()
                .saturating_sub(within)
                .min(end.saturating_sub(at));
            at = at.saturating_add(len);
            (len > 0).then_some(Part {
                block: number,
                within,
                len,
            })
        })
    }

    /// The bits of `part` in the sector bitmap block of its chunk.
    pub(super) fn bits(&self, part: &Part) -> Range<u64> {
        let first = (part.block % self.chunk_ratio)
            .saturating_mul(self.block.get() / self.sector)
            .saturating_add(part.within / self.sector);
        let end = part.within.saturating_add(part.len);
        let sectors = end
            .div_ceil(self.sector.get())
            .saturating_sub(part.within / self.sector);
        first..first.saturating_add(sectors)
    }

    /// Entries that the table needs, bitmap blocks of a differencing disk included (§2.5).
    pub(super) fn entries(&self, differencing: bool) -> u64 {
        let last = self.blocks().saturating_sub(1);
        let entry = if differencing {
            self.bitmap_entry(last)
        } else {
            self.payload_entry(last)
        };
        entry.saturating_add(1)
    }
}

/// The part of a range that lies in one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) block: u64,
    /// Where it begins in the block.
    pub(super) within: u64,
    pub(super) len: u64,
}

/// An item of the metadata table.
struct Item {
    /// Offset in the file.
    at: u64,
    bytes: Vec<u8>,
}

impl Item {
    fn fields(&self, structure: &'static str) -> Fields<'_> {
        Fields::new(&self.bytes, structure, self.at)
    }
}

#[derive(Default)]
struct Items {
    parameters: Option<Item>,
    size: Option<Item>,
    disk_id: Option<Item>,
    logical: Option<Item>,
    physical: Option<Item>,
    parent: Option<Item>,
}

impl Metadata {
    /// The metadata of `storage`, from `region`.
    ///
    /// # Errors
    /// Corrupt when an item is missing or nonsense; Unsupported for an item that must be known and
    /// is not.
    pub(super) fn read(storage: &dyn Storage, region: Region) -> Result<Self> {
        let mut bytes = vec![0; TABLE_LEN];
        storage.read_at(&mut bytes, region.offset)?;
        let table = Fields::new(&bytes, STRUCTURE, region.offset);
        if table.bytes(0, 8)? != b"metadata" {
            return Err(table.corrupt(0, "signature is missing"));
        }
        let count = u32::from(table.u16_le(10)?);
        if count > MAX_ENTRIES {
            return Err(table
                .corrupt(10, "has too many entries")
                .mismatch(format!("at most {MAX_ENTRIES}"), count));
        }
        let mut items = Items::default();
        for at in (32..).step_by(32).take(usize::try_from(count).unwrap_or(0)) {
            let guid = Uuid::from_bytes_le(table.array(at)?);
            let flags = table.u32_le(at.saturating_add(24))?;
            // A user's item is another one even under the same name.
            let known = match guid {
                _ if flags & IS_USER != 0 => None,
                FILE_PARAMETERS => Some((&mut items.parameters, 8)),
                VIRTUAL_DISK_SIZE => Some((&mut items.size, 8)),
                VIRTUAL_DISK_ID => Some((&mut items.disk_id, 16)),
                LOGICAL_SECTOR => Some((&mut items.logical, 4)),
                PHYSICAL_SECTOR => Some((&mut items.physical, 4)),
                PARENT_LOCATOR => Some((&mut items.parent, 0)),
                _ => None,
            };
            let Some((place, len)) = known else {
                if flags & IS_REQUIRED != 0 {
                    return Err(table.unsupported(
                        at,
                        format!("needs item {guid}, which this program does not know"),
                    ));
                }
                continue;
            };
            let item = read_item(storage, region, &table, at, len)?;
            if place.replace(item).is_some() {
                return Err(table.corrupt(at, format!("lists item {guid} twice")));
            }
        }
        let missing = |what: &str| table.corrupt(10, format!("lists no {what}"));
        Self::parse(
            &items
                .parameters
                .ok_or_else(|| missing("file parameters item"))?,
            &items
                .size
                .ok_or_else(|| missing("virtual disk size item"))?,
            &items
                .disk_id
                .ok_or_else(|| missing("virtual disk ID item"))?,
            [
                &items
                    .logical
                    .ok_or_else(|| missing("logical sector size item"))?,
                &items
                    .physical
                    .ok_or_else(|| missing("physical sector size item"))?,
            ],
            items.parent.as_ref(),
        )
    }

    fn parse(
        parameters: &Item,
        size: &Item,
        disk_id: &Item,
        [logical, physical]: [&Item; 2],
        parent: Option<&Item>,
    ) -> Result<Self> {
        let parameters = parameters.fields("file parameters");
        let block = parameters.u32_le(0)?;
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&u64::from(block)) {
            return Err(parameters
                .corrupt(0, "block size is out of range")
                .mismatch("a power of two from 1 MiB to 256 MiB", block));
        }
        let flags = parameters.u32_le(4)?;
        let sector = |item: &Item, structure| {
            let fields = item.fields(structure);
            match fields.u32_le(0)? {
                size @ (512 | 4096) => Ok(size),
                other => Err(fields
                    .corrupt(0, "sector size is out of range")
                    .mismatch("512 or 4096", other)),
            }
        };
        let logical = sector(logical, "logical sector size")?;
        let fields = size.fields("virtual disk size");
        let size = fields.u64_le(0)?;
        let geometry =
            Geometry::new(size, u64::from(block), u64::from(logical)).ok_or_else(|| {
                fields
                    .corrupt(0, "size is out of range")
                    .mismatch(format!("a multiple of {logical} up to {MAX_SIZE}"), size)
            })?;
        let parent = match (flags & HAS_PARENT != 0, parent) {
            (false, _) => None,
            (true, Some(item)) => Some(Locator::parse(&item.fields("parent locator"))?),
            (true, None) => {
                return Err(parameters.corrupt(4, "disk has a parent and no parent locator"));
            }
        };
        Ok(Self {
            geometry,
            leave_allocated: flags & 1 != 0,
            disk_id: Uuid::from_bytes_le(disk_id.fields("virtual disk ID").array(0)?),
            physical_sector: sector(physical, "physical sector size")?,
            parent,
        })
    }

    /// The used part of a metadata region as bytes; `parent` is the parent locator of a
    /// differencing disk.
    pub(super) fn encode(&self, parent: Option<&[u8]>) -> Vec<u8> {
        let block = u32::try_from(self.geometry.block.get()).unwrap_or(u32::MAX);
        let sector = u32::try_from(self.geometry.sector.get()).unwrap_or(u32::MAX);
        let allocated = u32::from(self.leave_allocated);
        let flags = match parent {
            Some(_) => allocated | HAS_PARENT,
            None => allocated,
        };
        let parameters = [block.to_le_bytes(), flags.to_le_bytes()].concat();
        let size = self.geometry.size.to_le_bytes();
        let disk_id = self.disk_id.to_bytes_le();
        let (logical, physical) = (sector.to_le_bytes(), self.physical_sector.to_le_bytes());
        let disk = IS_VIRTUAL_DISK | IS_REQUIRED;
        let mut items: Vec<(Uuid, u32, &[u8])> = vec![
            (FILE_PARAMETERS, IS_REQUIRED, &parameters),
            (VIRTUAL_DISK_SIZE, disk, &size),
            (VIRTUAL_DISK_ID, disk, &disk_id),
            (LOGICAL_SECTOR, disk, &logical),
            (PHYSICAL_SECTOR, disk, &physical),
        ];
        if let Some(parent) = parent {
            items.push((PARENT_LOCATOR, IS_REQUIRED, parent));
        }
        let mut table = b"metadata\0\0".to_vec();
        let count = u16::try_from(items.len()).unwrap_or(u16::MAX);
        table.extend(count.to_le_bytes());
        table.resize(32, 0);
        let mut values: Vec<u8> = Vec::new();
        for (guid, flags, value) in items {
            table.extend(entry(
                guid,
                TABLE_LEN.saturating_add(values.len()),
                value,
                flags,
            ));
            values.extend(value);
        }
        table.resize(TABLE_LEN, 0);
        table.extend(values);
        table
    }
}

/// A table entry of the item `value`, which is at `offset` of the region.
pub(super) fn entry(guid: Uuid, offset: usize, value: &[u8], flags: u32) -> Vec<u8> {
    let mut bytes = guid.to_bytes_le().to_vec();
    for word in [offset, value.len()] {
        bytes.extend(u32::try_from(word).unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// The item of the entry at `at` of the table. It has `len` bytes, or any number when that is 0.
fn read_item(
    storage: &dyn Storage,
    region: Region,
    table: &Fields<'_>,
    at: usize,
    len: u64,
) -> Result<Item> {
    let offset_at = at.saturating_add(16);
    let offset = u64::from(table.u32_le(offset_at)?);
    let found = u64::from(table.u32_le(at.saturating_add(20))?);
    if found == 0 || found > MIB || (len > 0 && len != found) {
        return Err(table
            .corrupt(at.saturating_add(20), "length of an item is out of range")
            .mismatch(
                if len > 0 {
                    format!("{len} bytes")
                } else {
                    "1 byte to 1 MiB".to_owned()
                },
                found,
            ));
    }
    if offset < KIB64 || offset.saturating_add(found) > region.len {
        return Err(table
            .corrupt(offset_at, "item lies outside the metadata region")
            .mismatch(
                format!("{KIB64} to {}", region.len.saturating_sub(found)),
                offset,
            ));
    }
    let at = region.offset.saturating_add(offset);
    // At most 1 MiB, and inside a region that lies inside the file.
    let mut bytes = vec![0; length(found)?];
    storage.read_at(&mut bytes, at)?;
    Ok(Item { at, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_long_as_their_bitmap() {
        // §2.5: ChunkRatio = 2^23 * LogicalSectorSize / BlockSize.
        for (block, sector, ratio) in [
            (MIB, 512, 4096),
            (32 * MIB, 512, 128),
            (256 * MIB, 512, 16),
            (MIB, 4096, 32_768),
            (256 * MIB, 4096, 128),
        ] {
            let geometry = Geometry::new(1 << 40, block, sector).unwrap();
            assert_eq!(geometry.chunk_ratio.get(), ratio);
            assert_eq!(geometry.payload_entry(ratio - 1), ratio - 1);
            assert_eq!(geometry.bitmap_entry(ratio - 1), ratio);
            assert_eq!(geometry.payload_entry(ratio), ratio + 1);
            assert_eq!(geometry.bitmap_entry(ratio), 2 * ratio + 1);
        }
    }

    #[test]
    fn tables_have_the_length_of_the_standard() {
        // 10 GiB in blocks of 32 MiB: 320 payload blocks, chunks of 128.
        let geometry = Geometry::new(10 << 30, 32 * MIB, 512).unwrap();
        assert_eq!(geometry.blocks(), 320);
        assert_eq!(geometry.entries(false), 320 + 319 / 128);
        assert_eq!(geometry.entries(true), 3 * 129);
    }

    #[test]
    fn sizes_outside_the_standard_are_none() {
        for (size, block, sector) in [
            (0, MIB, 512),
            (513, MIB, 512),
            (512, MIB, 4096),
            (MAX_SIZE + 512, MIB, 512),
            (MIB, MIB / 2, 512),
            (MIB, 512 * MIB, 512),
            (MIB, 3 * MIB, 512),
            (MIB, MIB, 1024),
        ] {
            assert!(
                Geometry::new(size, block, sector).is_none(),
                "{size} {block} {sector}"
            );
        }
    }
}
