//! GUID partition tables (UEFI specification 2.10, chapter 5), parsed by the `gpt` crate.
//!
//! What the crate leaves to its caller is done here: the logical sector size is found by trying
//! 512 and 4096, the entry size and count are checked before the crate sees them (it asserts the
//! size), the backup is used when the primary header *or its entries* are damaged, and every read
//! goes through an adapter that gives up after a bounded number of operations.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::{Partition, file_read_partitions};
use rehost_block::{Disk, Error, Result};

use crate::{Layout, Table, Volume};

/// Most entries of a table. Ours: UEFI demands room for 128 and Linux has no more than 256 in use.
const MOST_ENTRIES: u32 = 16_384;

/// Most operations on the disk for one copy of a table: an entry is one read.
const MOST_OPERATIONS: u32 = MOST_ENTRIES + 64;

/// `Read + Seek` over a disk, from `base` on, with a budget of operations.
struct Cursor<'a> {
    disk: &'a Arc<dyn Disk>,
    base: u64,
    at: u64,
    left: u32,
}

impl<'a> Cursor<'a> {
    const fn new(disk: &'a Arc<dyn Disk>, base: u64) -> Self {
        Self {
            disk,
            base,
            at: 0,
            left: MOST_OPERATIONS,
        }
    }

    fn spend(&mut self) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("the table asks for too many operations"))?;
        Ok(())
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.spend()?;
        let at = self.base.saturating_add(self.at);
        let left = self.disk.size().saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        self.disk.read_at(part, at).map_err(io::Error::other)?;
        self.at = self
            .at
            .saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        Ok(len)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.spend()?;
        let end = self.disk.size().saturating_sub(self.base);
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or_else(|| io::Error::other("seek before the start of the disk"))?;
        Ok(self.at)
    }
}

/// One whole copy of a table.
struct Copy {
    header: Header,
    entries: BTreeMap<u32, Partition>,
    size: LogicalBlockSize,
}

/// Reads the copy whose header is at sector `lba`.
fn copy(disk: &Arc<dyn Disk>, size: LogicalBlockSize, lba: u64) -> Result<Copy> {
    let sector = size.as_u64();
    let at = lba
        .checked_mul(sector)
        .ok_or_else(|| Error::corrupt("header is past the address space"))?;
    let broken = |what: String| Error::corrupt(what).in_structure("GPT").at(at);
    // The crate reads "the primary header" at one sector from the start: move the start.
    let base = at
        .checked_sub(sector)
        .ok_or_else(|| broken("header at sector 0".into()))?;
    let header = read_header_from_arbitrary_device(&mut Cursor::new(disk, base), size)
        .map_err(|error| broken(error.to_string()))?;
    if header.part_size != 128 {
        return Err(Error::unsupported("partition entries are not of 128 bytes")
            .in_structure("GPT")
            .at(at)
            .mismatch(128, header.part_size));
    }
    if header.num_parts > MOST_ENTRIES {
        return Err(broken("too many partition entries".into())
            .mismatch(format!("at most {MOST_ENTRIES}"), header.num_parts));
    }
    let entries = file_read_partitions(&mut Cursor::new(disk, 0), &header, size)
        .map_err(|error| broken(error.to_string()))?;
    Ok(Copy {
        header,
        entries,
        size,
    })
}

/// Reads the GPT that sector 0 announces.
pub(crate) fn layout(disk: &Arc<dyn Disk>) -> Result<Layout> {
    let sizes = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];
    let mut first_error = None;
    let mut damage = Vec::new();
    for size in sizes {
        match copy(disk, size, 1) {
            Ok(table) => {
                let backup = copy(disk, size, table.header.backup_lba);
                if let Err(error) = backup {
                    damage.push(format!("the backup GPT cannot be used: {error}"));
                }
                return Ok(build(table, damage));
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        };
    }
    for size in sizes {
        let sectors = disk.size().checked_div(size.as_u64()).unwrap_or(0);
        let last = sectors.saturating_sub(1);
        if let Ok(table) = copy(disk, size, last) {
            if let Some(error) = &first_error {
                damage.push(format!("the primary GPT cannot be used: {error}"));
            }
            return Ok(build(table, damage));
        }
    }
    Err(first_error
        .unwrap_or_else(|| Error::corrupt("no partition table").in_structure("GPT"))
        .hint("neither the primary nor the backup table is whole"))
}

fn build(table: Copy, damage: Vec<String>) -> Layout {
    let sector = table.size.as_u64();
    let volumes = table
        .entries
        .into_iter()
        .filter(|(_, entry)| entry.is_used())
        .map(|(number, entry)| {
            let start = entry.first_lba.saturating_mul(sector);
            let end = entry.last_lba.saturating_add(1).saturating_mul(sector);
            Volume {
                number,
                range: start..end.max(start),
                kind: entry.part_type_guid.guid.to_string(),
                partuuid: Some(entry.part_guid.to_string()),
                name: Some(entry.name).filter(|name| !name.is_empty()),
                bootable: entry.flags & 4 != 0,
            }
        })
        .collect();
    Layout {
        table: Table::Gpt,
        id: Some(table.header.disk_guid.to_string()),
        sector: u32::try_from(sector).unwrap_or(512),
        volumes,
        damage,
    }
}
