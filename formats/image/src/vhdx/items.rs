//! `Items`: the metadata of an image that is changed in place, with the items that nobody here
//! knows kept as they are.
//!
//! \[MS-VHDX\] §2.6.

use rehost_block::{Error, Fields, Result, StorageMut, round_up};
use uuid::Uuid;

use super::amount;
use super::metadata::{
    FILE_PARAMETERS, HAS_PARENT, IS_REQUIRED, PARENT_LOCATOR, TABLE_LEN, VIRTUAL_DISK_SIZE, entry,
};
use super::region::Region;

/// Length of a table entry in bytes, and of what comes before the first.
const ENTRY_LEN: usize = 32;

const STRUCTURE: &str = "metadata table";

/// One entry of the table.
#[derive(Debug, Clone)]
struct Item {
    guid: Uuid,
    /// In the region.
    offset: u64,
    len: u64,
    bytes: Vec<u8>,
}

/// The table of a metadata region.
#[derive(Debug)]
pub(super) struct Items<'a> {
    storage: &'a dyn StorageMut,
    region: Region,
    head: Vec<u8>,
    items: Vec<Item>,
}

impl<'a> Items<'a> {
    /// The items of `region`, which was read and understood before.
    ///
    /// # Errors
    /// Corrupt when the table is too short; Io when the storage fails.
    pub(super) fn read(storage: &'a dyn StorageMut, region: Region) -> Result<Self> {
        let mut bytes = vec![0; TABLE_LEN];
        storage.read_at(&mut bytes, region.offset)?;
        let fields = Fields::new(&bytes, STRUCTURE, region.offset);
        let count = usize::from(fields.u16_le(10)?);
        let mut items = Vec::new();
        for at in (ENTRY_LEN..).step_by(ENTRY_LEN).take(count) {
            items.push(Item {
                guid: Uuid::from_bytes_le(fields.array(at)?),
                offset: u64::from(fields.u32_le(at.saturating_add(16))?),
                len: u64::from(fields.u32_le(at.saturating_add(20))?),
                bytes: fields.bytes(at, ENTRY_LEN)?.to_vec(),
            });
        }
        Ok(Self {
            storage,
            region,
            head: fields.bytes(0, ENTRY_LEN)?.to_vec(),
            items,
        })
    }

    fn place(&self, guid: Uuid) -> Result<u64> {
        let item = self.items.iter().find(|item| item.guid == guid);
        item.map(|item| self.region.offset.saturating_add(item.offset))
            .ok_or_else(|| Error::internal("an item that was there is gone"))
    }

    /// Writes another size of the disk.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn set_size(&self, size: u64) -> Result<()> {
        let at = self.place(VIRTUAL_DISK_SIZE)?;
        self.storage.write_at(&size.to_le_bytes(), at)
    }

    /// Writes another parent locator, or none.
    ///
    /// # Errors
    /// Unsupported when the region has no room for it; Io when the storage fails.
    pub(super) fn set_parent(mut self, locator: Option<&[u8]>) -> Result<()> {
        self.items.retain(|item| item.guid != PARENT_LOCATOR);
        let parameters = self.place(FILE_PARAMETERS)?.saturating_add(4);
        let mut flags = [0; 4];
        self.storage.read_at(&mut flags, parameters)?;
        let flags = u32::from_le_bytes(flags) & !HAS_PARENT;
        let flags = match locator {
            None => flags,
            Some(locator) => {
                let ends = self
                    .items
                    .iter()
                    .map(|item| item.offset.saturating_add(item.len));
                let table = u64::try_from(TABLE_LEN).unwrap_or(u64::MAX);
                let offset = round_up(ends.max().unwrap_or(0).max(table), 8);
                let len = amount(locator.len());
                if offset.saturating_add(len) > self.region.len {
                    return Err(Error::unsupported("has no room for a parent's name")
                        .in_structure("metadata region")
                        .at(self.region.offset)
                        .hint("convert it into a new image instead"));
                }
                let at = self.region.offset.saturating_add(offset);
                self.storage.write_at(locator, at)?;
                let place = usize::try_from(offset).unwrap_or(usize::MAX);
                self.items.push(Item {
                    guid: PARENT_LOCATOR,
                    offset,
                    len,
                    bytes: entry(PARENT_LOCATOR, place, locator, IS_REQUIRED),
                });
                flags | HAS_PARENT
            }
        };
        self.storage.write_at(&flags.to_le_bytes(), parameters)?;
        let count = u16::try_from(self.items.len()).unwrap_or(u16::MAX);
        let mut table = self.head;
        if let Some(place) = table.get_mut(10..12) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        for item in &self.items {
            table.extend(&item.bytes);
        }
        // The entry that may have been the last.
        table.resize(table.len().saturating_add(ENTRY_LEN).min(TABLE_LEN), 0);
        self.storage.write_at(&table, self.region.offset)
    }
}
