//! The DOS partition table: four entries in sector 0 and the chain of extended boot records.
//!
//! After Linux `block/partitions/msdos.c` and util-linux' documentation of `PARTUUID`: numbering,
//! what an extended boot record may hold, and which boot sectors are not tables. A table counts in
//! sectors of its disk and does not say how large they are: 512 bytes, unless only 4096 make sense.

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Disk, Fields, Result};

use crate::{Layout, Table, Volume, signs};

/// Bytes of a boot record, and of a sector unless it turns out otherwise.
const SECTOR: u64 = 512;

/// Bytes of the sectors that disks without the smaller ones present.
const LARGE: u64 = 4096;

/// Extended boot records followed on one disk. Linux stops at 100 without a partition between.
const MOST_RECORDS: usize = 256;

/// Types of extended partitions: CHS, LBA and Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Sector 0, or an extended boot record, with its signature present.
#[derive(Debug)]
pub(crate) struct Sector {
    bytes: [u8; 512],
    at: u64,
}

/// One of its four entries.
#[derive(Debug, Clone, Copy)]
struct Entry {
    status: u8,
    kind: u8,
    start: u32,
    count: u32,
}

impl Entry {
    const fn is_used(self) -> bool {
        self.kind != 0 && self.count != 0
    }

    fn is_extended(self) -> bool {
        EXTENDED.contains(&self.kind)
    }
}

impl Sector {
    /// Sector 0 of `disk`; `None` when the disk is too small or has no boot signature.
    pub(crate) fn read(disk: &Arc<dyn Disk>) -> Result<Option<Self>> {
        Self::read_at(disk, 0)
    }

    fn read_at(disk: &Arc<dyn Disk>, at: u64) -> Result<Option<Self>> {
        if at.checked_add(SECTOR).is_none_or(|end| end > disk.size()) {
            return Ok(None);
        }
        let mut bytes = [0; 512];
        disk.read_at(&mut bytes, at)?;
        Ok(bytes.ends_with(&[0x55, 0xaa]).then_some(Self { bytes, at }))
    }

    fn fields(&self) -> Fields<'_> {
        Fields::new(&self.bytes, "boot record", self.at)
    }

    fn entries(&self) -> Result<[Entry; 4]> {
        let fields = self.fields();
        let entry = |at: usize| -> Result<Entry> {
            Ok(Entry {
                status: fields.u8(at)?,
                kind: fields.u8(at.saturating_add(4))?,
                start: fields.u32_le(at.saturating_add(8))?,
                count: fields.u32_le(at.saturating_add(12))?,
            })
        };
        Ok([entry(446)?, entry(462)?, entry(478)?, entry(494)?])
    }

    /// Whether an entry of type `0xee` says that a GPT follows.
    pub(crate) fn announces_gpt(&self) -> bool {
        self.entries()
            .is_ok_and(|entries| entries.iter().any(|entry| entry.kind == 0xee))
    }

    /// Whether this is a table, and not the boot sector of a filesystem on the whole disk.
    pub(crate) fn is_table(&self, disk: &Arc<dyn Disk>) -> Result<bool> {
        let entries = self.entries()?;
        if entries.iter().any(|entry| entry.status & 0x7f != 0) {
            return Ok(false);
        }
        let fields = self.fields();
        let name = fields.bytes(3, 8)?;
        if name == b"NTFS    " || name == b"EXFAT   " || self.is_fat()? {
            return Ok(false);
        }
        if entries.iter().any(|entry| entry.is_used()) {
            return Ok(true);
        }
        // An empty table, or boot code in front of a filesystem that fills the disk: ext keeps
        // its first 1024 bytes free for such code.
        let mut magic = [0; 2];
        if disk.size() >= 2048 {
            disk.read_at(&mut magic, 0x438)?;
        }
        Ok(magic != [0x53, 0xef])
    }

    /// Whether the sector is a FAT boot sector: its parameter block must make sense as a whole.
    fn is_fat(&self) -> Result<bool> {
        let fields = self.fields();
        let names_itself = fields.bytes(54, 5)? == b"FAT12"
            || fields.bytes(54, 5)? == b"FAT16"
            || fields.bytes(82, 5)? == b"FAT32";
        let sector = fields.u16_le(11)?;
        let cluster = fields.u8(13)?;
        let media = fields.u8(21)?;
        Ok(names_itself
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && cluster.is_power_of_two()
            && fields.u16_le(14)? != 0
            && matches!(fields.u8(16)?, 1 | 2)
            && (media == 0xf0 || media >= 0xf8))
    }
}

/// Reads the table whose first sector is `first`.
pub(crate) fn layout(disk: &Arc<dyn Disk>, first: &Sector) -> Result<Layout> {
    let signature = match first.fields().u32_le(440)? {
        0 => None,
        id => Some(format!("{id:08x}")),
    };
    let sector = sector_size(disk, first)?;
    let mut found = Layout {
        table: Table::Mbr,
        id: signature,
        sector: u32::try_from(sector).unwrap_or(512),
        volumes: Vec::new(),
        damage: Vec::new(),
    };
    let mut extended = Vec::new();
    for (number, entry) in (1..).zip(first.entries()?) {
        if !entry.is_used() {
            continue;
        }
        push(&mut found, number, u64::from(entry.start), entry);
        if entry.is_extended() {
            extended.push(entry);
        }
    }
    let mut chain = Chain {
        next: 5,
        sector,
        seen: BTreeSet::new(),
    };
    for entry in extended {
        chain.follow(disk, entry, &mut found)?;
    }
    Ok(found)
}

/// How large the sectors are that the table counts in. Where nothing that is known begins at the
/// places that it means in sectors of 512 bytes, and something does in sectors of 4096, it is those.
fn sector_size(disk: &Arc<dyn Disk>, first: &Sector) -> Result<u64> {
    let entries = first.entries()?;
    let mut large = false;
    for entry in entries.into_iter().filter(|entry| entry.is_used()) {
        let start = u64::from(entry.start);
        if signs::begins(disk, start.saturating_mul(SECTOR))? {
            return Ok(SECTOR);
        }
        let end = start.saturating_add(u64::from(entry.count));
        if end.saturating_mul(LARGE) > disk.size() {
            return Ok(SECTOR);
        }
        large = large || signs::begins(disk, start.saturating_mul(LARGE))?;
    }
    Ok(if large { LARGE } else { SECTOR })
}

fn push(found: &mut Layout, number: u32, start: u64, entry: Entry) {
    let sector = u64::from(found.sector);
    let from = start.saturating_mul(sector);
    let len = u64::from(entry.count).saturating_mul(sector);
    found.volumes.push(Volume {
        number,
        range: from..from.saturating_add(len),
        kind: format!("{:#x}", entry.kind),
        partuuid: found.id.as_ref().map(|id| format!("{id}-{number:02x}")),
        name: None,
        bootable: entry.status & 0x80 != 0,
    });
}

/// The walk through the extended boot records.
struct Chain {
    next: u32,
    sector: u64,
    seen: BTreeSet<u64>,
}

impl Chain {
    /// Lists the logical partitions of one extended partition.
    fn follow(&mut self, disk: &Arc<dyn Disk>, outer: Entry, found: &mut Layout) -> Result<()> {
        let first = u64::from(outer.start);
        let end = first.saturating_add(u64::from(outer.count));
        let mut record = Some(first);
        // Ends because a record is followed once, and at most MOST_RECORDS are.
        while let Some(here) = record {
            if !self.seen.insert(here) || self.seen.len() > MOST_RECORDS {
                found.damage.push(format!(
                    "the chain of logical partitions loops at sector {here}"
                ));
                return Ok(());
            }
            let Some(sector) = Sector::read_at(disk, here.saturating_mul(self.sector))? else {
                found.damage.push(format!(
                    "the chain of logical partitions breaks off at sector {here}"
                ));
                return Ok(());
            };
            record = None;
            for (nth, entry) in sector.entries()?.into_iter().enumerate() {
                if !entry.is_used() {
                    continue;
                }
                if entry.is_extended() {
                    // Links count from the start of the outermost extended partition.
                    record = record.or(Some(first.saturating_add(u64::from(entry.start))));
                    continue;
                }
                let start = here.saturating_add(u64::from(entry.start));
                let inside = start >= first && start.saturating_add(u64::from(entry.count)) <= end;
                // Linux' rule: the third and fourth entry must make sense to count at all.
                if nth >= 2 && !inside {
                    continue;
                }
                push(found, self.next, start, entry);
                self.next = self.next.saturating_add(1);
            }
        }
        Ok(())
    }
}
