//! The region table: where the metadata and the block allocation table are.
//!
//! \[MS-VHDX\] §2.2.3. There are two copies; the first valid one counts.

use rehost_block::{Error, Fields, Result, Storage, StorageMut};
use uuid::Uuid;

use super::header::seal;
use super::{KIB64, MIB, Taken, checksum};

/// Where the two copies are.
pub(super) const TABLES: [u64; 2] = [3 * KIB64, 4 * KIB64];

/// Length of a copy, in bytes.
const TABLE_LEN: usize = 1 << 16;

/// Most entries of a region table and of a metadata table (§2.2.3.1, §2.6.1.1).
pub(super) const MAX_ENTRIES: u32 = 2047;

const BAT: Uuid = Uuid::from_u128(0x2DC2_7766_F623_4200_9D64_115E_9BFD_4A08);
const METADATA: Uuid = Uuid::from_u128(0x8B7C_A206_4790_4B9A_B8FE_575F_050F_886E);

const STRUCTURE: &str = "region table";

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The regions that every VHDX has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) bat: Region,
    pub(super) metadata: Region,
}

impl Regions {
    /// The regions of `storage`, which must not lie over what is in `taken`.
    ///
    /// # Errors
    /// Corrupt when no copy of the table is valid, or it contradicts itself or the file;
    /// Unsupported for a region that must be known and is not.
    pub(super) fn read(storage: &dyn Storage, taken: &mut Vec<Taken>) -> Result<Self> {
        let (bytes, stale) = Self::copies(storage)?;
        let [first, second] = TABLES;
        let at = if stale == Some(first) { second } else { first };
        Self::parse(&bytes, at, storage.size(), taken)
    }

    /// The first valid copy, as bytes, and where the other one is if it is not the same.
    ///
    /// # Errors
    /// Corrupt when neither is valid.
    pub(super) fn copies(storage: &dyn Storage) -> Result<(Vec<u8>, Option<u64>)> {
        let mut copies = Vec::new();
        for at in TABLES {
            let mut bytes = vec![0; TABLE_LEN];
            storage.read_at(&mut bytes, at)?;
            let sum = Fields::new(&bytes, STRUCTURE, at).u32_le(4)?;
            let valid = bytes.starts_with(b"regi") && sum == checksum(&bytes);
            copies.push((at, valid, bytes));
        }
        let good = copies.iter().find(|(_, valid, _)| *valid);
        let Some((good_at, _, good)) = good else {
            let [first, _] = TABLES;
            return Err(Error::corrupt("neither copy has a valid checksum")
                .in_structure(STRUCTURE)
                .at(first));
        };
        let stale = copies
            .iter()
            .find(|(at, _, bytes)| at != good_at && bytes != good)
            .map(|(at, _, _)| *at);
        Ok((good.clone(), stale))
    }

    fn parse(bytes: &[u8], base: u64, file_size: u64, taken: &mut Vec<Taken>) -> Result<Self> {
        let fields = Fields::new(bytes, STRUCTURE, base);
        let count = fields.u32_le(8)?;
        if count > MAX_ENTRIES {
            return Err(fields
                .corrupt(8, "has too many entries")
                .mismatch(format!("at most {MAX_ENTRIES}"), count));
        }
        let (mut bat, mut metadata) = (None, None);
        for at in (16..).step_by(32).take(usize::try_from(count).unwrap_or(0)) {
            let guid = Uuid::from_bytes_le(fields.array(at)?);
            let offset_at = at.saturating_add(16);
            let region = Region {
                offset: fields.u64_le(offset_at)?,
                len: u64::from(fields.u32_le(at.saturating_add(24))?),
            };
            let required = fields.u32_le(at.saturating_add(28))? & 1 == 1;
            let (place, what) = match guid {
                BAT => (&mut bat, "block allocation table"),
                METADATA => (&mut metadata, "metadata region"),
                _ if required => {
                    return Err(fields.unsupported(
                        at,
                        format!("needs region {guid}, which this program does not know"),
                    ));
                }
                _ => {
                    // Whose it is does not matter: no block may lie there.
                    taken.push(Taken::new("unknown region", region.offset, region.len));
                    continue;
                }
            };
            if region.offset < MIB || !region.offset.is_multiple_of(MIB) {
                return Err(fields
                    .corrupt(offset_at, format!("offset of the {what} is out of range"))
                    .mismatch("a multiple of 1 MiB, not 0", region.offset));
            }
            if region.len == 0 || !region.len.is_multiple_of(MIB) {
                let len_at = at.saturating_add(24);
                return Err(fields
                    .corrupt(len_at, format!("length of the {what} is out of range"))
                    .mismatch("a multiple of 1 MiB, not 0", region.len));
            }
            let range = Taken::new(what, region.offset, region.len);
            if range.range.end > file_size {
                return Err(fields
                    .corrupt(offset_at, format!("{what} lies past the end of the file"))
                    .mismatch(format!("an end of at most {file_size}"), range.range.end)
                    .hint("the file is truncated or damaged: copy it again from its origin"));
            }
            if let Some(other) = taken.iter().find(|other| other.overlaps(&range.range)) {
                return Err(
                    fields.corrupt(offset_at, format!("{what} lies over the {}", other.what))
                );
            }
            if place.replace(region).is_some() {
                return Err(fields.corrupt(at, format!("lists the {what} twice")));
            }
            taken.push(range);
        }
        let missing = |what: &str| fields.corrupt(8, format!("lists no {what}"));
        Ok(Self {
            bat: bat.ok_or_else(|| missing("block allocation table"))?,
            metadata: metadata.ok_or_else(|| missing("metadata region"))?,
        })
    }

    /// Moves the block allocation table to `region` in both copies of the table in `storage`.
    ///
    /// # Errors
    /// Corrupt when neither copy is valid; Io when the storage fails.
    pub(super) fn move_table(storage: &dyn StorageMut, region: Region) -> Result<()> {
        let (mut bytes, _) = Self::copies(storage)?;
        for entry in bytes.get_mut(16..).unwrap_or_default().chunks_exact_mut(32) {
            if !entry.starts_with(&BAT.to_bytes_le()) {
                continue;
            }
            let len = u32::try_from(region.len).unwrap_or(u32::MAX);
            let values = region
                .offset
                .to_le_bytes()
                .into_iter()
                .chain(len.to_le_bytes());
            for (place, byte) in entry.iter_mut().skip(16).zip(values) {
                *place = byte;
            }
        }
        Self::write_copies(storage, bytes)
    }

    /// Writes `bytes` as both copies of the table, with their checksum.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn write_copies(storage: &dyn StorageMut, mut bytes: Vec<u8>) -> Result<()> {
        seal(&mut bytes);
        for at in TABLES {
            storage.write_at(&bytes, at)?;
        }
        Ok(())
    }

    /// The table as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TABLE_LEN);
        bytes.extend(b"regi\0\0\0\0");
        bytes.extend(2u64.to_le_bytes());
        for (guid, region) in [(BAT, self.bat), (METADATA, self.metadata)] {
            bytes.extend(guid.to_bytes_le());
            bytes.extend(region.offset.to_le_bytes());
            let len = u32::try_from(region.len).unwrap_or(u32::MAX);
            bytes.extend(len.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
        }
        bytes.resize(TABLE_LEN, 0);
        seal(&mut bytes);
        bytes
    }
}
