//! The journal (jbd2): what a crash left in it, replayed.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`. Read: versions 1 to 3 of the
//! checksums, 64-bit tags, revocation, escaping, asynchronous commits. A transaction counts when
//! its commit block is there and right; the first one that is not ends the log, as in Linux.
//!
//! Left out on purpose, and refused by name: journals on another device, and the logical records
//! of fast commits (`fast_commit`) when there are any to replay.

mod header;
mod log;

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Result};

use self::header::JournalHeader;
use self::log::Log;
use super::Ext4;
use super::map::Mapping;
use crate::number::{length, wide};

/// The journal of a filesystem, found and checked.
pub(super) struct Journal {
    header: JournalHeader,
    place: Place,
}

/// Where the journal's blocks are on the filesystem's disk.
struct Place {
    disk: Arc<dyn Disk>,
    mapping: Arc<Mapping>,
    block_size: u32,
    blocks: u64,
}

impl Place {
    /// Byte offset on the disk of a block of the journal.
    fn offset(&self, block: u32) -> Result<u64> {
        let disk = Ext4::block_of(&self.mapping, u64::from(block)).ok_or_else(|| {
            Error::corrupt(format!("block {block} of the journal is not mapped"))
                .in_structure("journal")
        })?;
        Ok(disk.saturating_mul(u64::from(self.block_size)))
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length(u64::from(self.block_size))?];
        self.disk.read_at(&mut bytes, self.offset(block)?)?;
        Ok(bytes)
    }
}

impl Journal {
    /// Opens the journal of `fs`, which must have one inside.
    pub(super) fn open(fs: &Ext4) -> Result<Self> {
        let number = fs.sb.journal_inum;
        if number == 0 {
            return Err(Error::unsupported("journal is on another device")
                .in_structure("superblock")
                .hint("attach both devices to one machine and run e2fsck there first"));
        }
        let node = fs
            .node(number)
            .map_err(|error| error.in_structure("journal"))?;
        node.expect(crate::FileKind::Regular, "a journal")?;
        let place = Place {
            disk: Arc::clone(fs.blocks.disk()),
            mapping: fs.mapping(&node)?,
            block_size: fs.sb.block_size,
            blocks: node
                .size
                .checked_div(u64::from(fs.sb.block_size))
                .unwrap_or(0),
        };
        let at = place.offset(0)?;
        let header = JournalHeader::parse(place.read(0)?, at, fs.sb.block_size, place.blocks)?;
        Ok(Self { header, place })
    }

    /// Writes what the journal holds to `target` and gives how many blocks those are.
    ///
    /// Everything is checked before the first block is written.
    pub(super) fn replay(&self, target: &dyn DiskMut) -> Result<u64> {
        if self.header.start == 0 {
            return Ok(0);
        }
        let log = Log::scan(&self.header, &self.place)?;
        let size = u64::from(self.place.block_size);
        let limit = target.size().checked_div(size).unwrap_or(0);
        for (block, _) in log.writes() {
            if block >= limit {
                return Err(
                    Error::corrupt("a transaction writes outside the filesystem")
                        .in_structure("journal")
                        .mismatch(format!("a block below {limit}"), block),
                );
            }
        }
        for (block, copy) in log.writes() {
            let bytes = log.content(copy, &self.place)?;
            target.write_at(&bytes, block.saturating_mul(size))?;
        }
        Ok(wide(log.writes().count()))
    }

    /// Refuses a journal that recorded an error of its filesystem.
    pub(super) fn check_errno(&self) -> Result<()> {
        if self.header.errno == 0 {
            return Ok(());
        }
        Err(Error::unsupported("journal records errors")
            .in_structure("journal superblock")
            .hint("run e2fsck in the source machine first"))
    }

    /// Marks the journal empty on `target`, after a replay.
    pub(super) fn mark_empty(&self, target: &dyn DiskMut, next: u32) -> Result<()> {
        let bytes = self.header.emptied(next)?;
        target.write_at(&bytes, self.place.offset(0)?)
    }

    /// The sequence number to continue with, as far as `replay` would go.
    pub(super) fn next_sequence(&self) -> Result<u32> {
        if self.header.start == 0 {
            return Ok(self.header.sequence);
        }
        // One more than needed, so that no block of the old log looks like part of a new one.
        Log::scan(&self.header, &self.place).map(|log| log.end.wrapping_add(1))
    }
}
