//! GUID partition tables (UEFI specification 2.10, chapter 5).
//!
//! The logical sector size is found by trying 512 and 4096. The backup is used when the primary
//! header *or its entries* are damaged. Left out on purpose: entries that are not 128 bytes times a
//! power of two, which the specification does not allow.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result, is_zero};

use crate::{Layout, Table, Volume};

const NAME: &str = "GPT";

/// Bytes per logical sector that disks present.
const SECTORS: [u32; 2] = [512, 4096];

/// Bytes of the header that the specification gives a meaning.
const HEADER: u32 = 92;

/// Bytes per entry that it gives a meaning, and the least that an entry can have.
const ENTRY: u32 = 128;

/// Most entries of a table. Ours: UEFI demands room for 128 and Linux has no more than 256 in use.
const MOST_ENTRIES: u32 = 8192;

/// Most bytes of a table's entries. Ours: 8192 of twice the usual size.
const MOST_BYTES: u64 = 2 << 20;

/// A header that was checked.
#[derive(Debug)]
struct Header {
    sector: u32,
    /// Where it is, in bytes.
    at: u64,
    /// The sector of the other copy.
    other: u64,
    id: [u8; 16],
    /// Where the entries are, in bytes.
    entries: u64,
    count: u32,
    size: u32,
    checksum: u32,
}

/// A GUID as text: its first three fields are little endian.
fn text(raw: [u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (nth, place) in order.into_iter().enumerate() {
        if matches!(nth, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let byte = raw.get(place).copied().unwrap_or_default();
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn read(disk: &Arc<dyn Disk>, at: u64, len: u64) -> Result<Vec<u8>> {
    if at.checked_add(len).is_none_or(|end| end > disk.size()) {
        return Err(Error::corrupt("reaches past the end of the disk")
            .in_structure(NAME)
            .at(at)
            .mismatch(format!("an end of at most {}", disk.size()), len));
    }
    let mut raw = vec![0; usize::try_from(len).unwrap_or(0)];
    disk.read_at(&mut raw, at)?;
    Ok(raw)
}

impl Header {
    /// The header at sector `lba`.
    fn read(disk: &Arc<dyn Disk>, sector: u32, lba: u64) -> Result<Self> {
        let bytes = |lba: u64| {
            lba.checked_mul(u64::from(sector))
                .ok_or_else(|| Error::corrupt("a sector is past the address space"))
        };
        let at = bytes(lba)?;
        let raw = read(disk, at, u64::from(sector))?;
        let f = Fields::new(&raw, NAME, at);
        if f.bytes(0, 8)? != b"EFI PART" {
            return Err(f.corrupt(0, "the header has no signature"));
        }
        let len = f.u32_le(12)?;
        if len < HEADER || len > sector {
            return Err(f
                .corrupt(12, "the header's size is impossible")
                .mismatch(format!("{HEADER} to {sector}"), len));
        }
        let stored = f.u32_le(16)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(f.bytes(0, 16)?);
        hasher.update(&[0; 4]);
        let rest = usize::try_from(len.saturating_sub(20)).unwrap_or(0);
        hasher.update(f.bytes(20, rest)?);
        let found = hasher.finalize();
        if stored != found {
            return Err(f
                .corrupt(16, "the header's checksum is wrong")
                .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
        }
        if f.u64_le(24)? != lba {
            return Err(f
                .corrupt(24, "the header is not where it says")
                .mismatch(lba, f.u64_le(24)?));
        }
        let (count, size) = (f.u32_le(80)?, f.u32_le(84)?);
        if size < ENTRY || !size.is_power_of_two() {
            return Err(f
                .corrupt(84, "the size of the entries is impossible")
                .mismatch("128 times a power of two", size));
        }
        let total = u64::from(count).saturating_mul(u64::from(size));
        if count > MOST_ENTRIES || total > MOST_BYTES {
            return Err(f.corrupt(80, "too many partition entries").mismatch(
                format!("at most {MOST_ENTRIES}, of {MOST_BYTES} bytes in all"),
                format!("{count} of {size} bytes"),
            ));
        }
        Ok(Self {
            sector,
            at,
            other: f.u64_le(32)?,
            id: f.array(56)?,
            entries: bytes(f.u64_le(72)?)?,
            count,
            size,
            checksum: f.u32_le(88)?,
        })
    }

    /// The partitions that its entries describe.
    fn volumes(&self, disk: &Arc<dyn Disk>) -> Result<Vec<Volume>> {
        let len = u64::from(self.count).saturating_mul(u64::from(self.size));
        let raw = read(disk, self.entries, len)?;
        let found = crc32fast::hash(&raw);
        if found != self.checksum {
            return Err(Error::corrupt("the checksum of the entries is wrong")
                .in_structure(NAME)
                .at(self.at.saturating_add(88))
                .mismatch(format!("{:#010x}", self.checksum), format!("{found:#010x}")));
        }
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut volumes = Vec::new();
        for ((number, entry), at) in (1..)
            .zip(raw.chunks_exact(size))
            .zip((self.entries..).step_by(size))
        {
            let f = Fields::new(entry, "GPT entry", at);
            if !is_zero(f.bytes(0, 16)?) {
                volumes.push(self.volume(number, &f)?);
            }
        }
        Ok(volumes)
    }

    fn volume(&self, number: u32, f: &Fields<'_>) -> Result<Volume> {
        let sector = u64::from(self.sector);
        let start = f.u64_le(32)?.saturating_mul(sector);
        let end = f.u64_le(40)?.saturating_add(1).saturating_mul(sector);
        let (letters, _) = f.bytes(56, 72)?.as_chunks::<2>();
        let letters = letters.iter().map(|pair| u16::from_le_bytes(*pair));
        let letters: Vec<u16> = letters.take_while(|letter| *letter != 0).collect();
        Ok(Volume {
            number,
            range: start..end.max(start),
            kind: text(f.array(0)?),
            partuuid: Some(text(f.array(16)?)),
            name: Some(String::from_utf16_lossy(&letters)).filter(|name| !name.is_empty()),
            bootable: f.u64_le(48)? & 4 != 0,
        })
    }

    fn layout(&self, volumes: Vec<Volume>, damage: Vec<String>) -> Layout {
        Layout {
            table: Table::Gpt,
            id: Some(text(self.id)),
            sector: self.sector,
            volumes,
            damage,
        }
    }
}

/// A whole copy: the header at sector `lba`, and its partitions.
fn copy(disk: &Arc<dyn Disk>, sector: u32, lba: u64) -> Result<(Header, Vec<Volume>)> {
    let header = Header::read(disk, sector, lba)?;
    let volumes = header.volumes(disk)?;
    Ok((header, volumes))
}

/// Reads the GPT that sector 0 announces.
pub(crate) fn layout(disk: &Arc<dyn Disk>) -> Result<Layout> {
    let mut first_error = None;
    // Where the backup may be: where a primary header says, and at the end of the disk.
    let mut backups = Vec::new();
    for sector in SECTORS {
        let header = match Header::read(disk, sector, 1) {
            Ok(header) => header,
            Err(error) => {
                first_error.get_or_insert(error);
                continue;
            }
        };
        backups.push((sector, header.other));
        match header.volumes(disk) {
            Ok(volumes) => {
                let mut damage = Vec::new();
                if let Err(error) = copy(disk, sector, header.other) {
                    damage.push(format!("the backup GPT cannot be used: {error}"));
                }
                return Ok(header.layout(volumes, damage));
            }
            // What a header that is there lacks tells more than that there is none.
            Err(error) => first_error = Some(error),
        }
    }
    for sector in SECTORS {
        let sectors = disk.size().checked_div(u64::from(sector)).unwrap_or(0);
        backups.push((sector, sectors.saturating_sub(1)));
    }
    for (sector, lba) in backups {
        if let Ok((header, volumes)) = copy(disk, sector, lba) {
            let named = |error| format!("the primary GPT cannot be used: {error}");
            let damage = first_error.map(named).into_iter().collect();
            return Ok(header.layout(volumes, damage));
        }
    }
    Err(first_error
        .unwrap_or_else(|| Error::corrupt("no partition table").in_structure(NAME))
        .hint("neither the primary nor the backup table is whole"))
}
