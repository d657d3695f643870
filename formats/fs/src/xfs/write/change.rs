//! One change: everything it will write, held back until all of it is known.
//!
//! Metadata goes to the pending blocks of the reader, sealed as soon as it is changed, so that later
//! steps read it as they would read the disk. [`Change::commit`] writes in the order that the log's
//! rules ask for: content, to blocks that nothing refers to yet; one record of the log with all that
//! changes; the changed structures in their places; and the record of an unmount. Interrupted before
//! the first record is whole, the old state is there; after it, every recovery makes the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{DiskMut, Error, Fields, Kind as Fault, Result};

use super::super::Xfs;
use super::super::inode::Node;
use super::super::log::{Appended, Changed, Position, append};
use super::stamp::{Kind, put, seal_inode};
use crate::content::{self, Content};
use crate::number::{div, length, rem, wide};

/// A change in the making.
pub(super) struct Change<'a> {
    pub(super) fs: &'a mut Xfs,
    position: Position,
    /// The new content of a file, if any.
    content: &'a dyn Content,
    /// Which part of it goes where on the disk.
    writes: Vec<(u64, Range<u64>)>,
    /// What changes, by byte offset.
    buffers: BTreeMap<u64, (usize, Kind)>,
    /// Blocks of trees that lost a record, and must not have lost too many: group and block.
    pub(super) thinned: BTreeSet<(super::btree::Which, u32, u32)>,
    /// Seconds and nanoseconds since 1970.
    pub(super) now: (u64, u32),
}

/// A change, ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    logged: Vec<Changed>,
    record: Appended,
    end: Appended,
}

/// What an attempt may have to take back.
struct Saved {
    pending: BTreeMap<u64, Vec<u8>>,
    buffers: BTreeMap<u64, (usize, Kind)>,
    thinned: BTreeSet<(super::btree::Which, u32, u32)>,
    writes: usize,
}

impl<'a> Change<'a> {
    pub(super) fn begin(fs: &'a mut Xfs, position: Position, content: &'a dyn Content) -> Self {
        let passed = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            fs,
            position,
            content,
            writes: Vec::new(),
            buffers: BTreeMap::new(),
            thinned: BTreeSet::new(),
            now: passed.map_or((0, 0), |passed| (passed.as_secs(), passed.subsec_nanos())),
        }
    }

    pub(super) const fn content(&self) -> &'a dyn Content {
        self.content
    }

    /// The sequence number of this change.
    pub(super) fn lsn(&self) -> u64 {
        append::lsn(self.position)
    }

    pub(super) fn block_size(&self) -> u64 {
        u64::from(self.fs.sb.block_size)
    }

    /// Plans to write a part of the content at byte `offset` of the disk.
    pub(super) fn plan_write(&mut self, offset: u64, part: Range<u64>) {
        self.writes.push((offset, part));
    }

    /// What was planned to be written of the content, and nothing else.
    pub(super) fn into_writes(self) -> Vec<(u64, Range<u64>)> {
        self.writes
    }

    /// Does `act`, or leaves the change as it was when `act` is refused.
    pub(super) fn attempt<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let saved = Saved {
            pending: self.fs.blocks.pending.clone(),
            buffers: self.buffers.clone(),
            thinned: self.thinned.clone(),
            writes: self.writes.len(),
        };
        let done = act(self);
        if done.is_err() {
            self.fs.blocks.pending = saved.pending;
            self.buffers = saved.buffers;
            self.thinned = saved.thinned;
            self.writes.truncate(saved.writes);
        }
        done
    }

    /// Bytes of the disk as this change sees them.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut raw = vec![0; len];
        let size = self.block_size();
        let mut at = offset;
        let mut rest = raw.as_mut_slice();
        // Ends because every round takes at least one byte off `rest`.
        while !rest.is_empty() {
            let within = rem(at, size);
            let here = length(size.saturating_sub(within))?.min(rest.len());
            let (part, tail) = rest.split_at_mut(here);
            self.fs.blocks.read_part(div(at, size), within, part)?;
            at = at.saturating_add(wide(here));
            rest = tail;
        }
        Ok(raw)
    }

    fn store(&mut self, offset: u64, raw: &[u8]) -> Result<()> {
        let size = self.block_size();
        let mut at = offset;
        let mut rest = raw;
        // Ends because every round takes at least one byte off `rest`.
        while !rest.is_empty() {
            let (block, within) = (div(at, size), rem(at, size));
            let here = length(size.saturating_sub(within))?.min(rest.len());
            let (part, tail) = rest.split_at(here);
            let mut bytes = self.fs.blocks.read(block, "changed block")?;
            put(&mut bytes, length(within)?, part)?;
            self.fs.blocks.pending.insert(block, bytes);
            at = at.saturating_add(wide(here));
            rest = tail;
        }
        Ok(())
    }

    /// Puts a structure in place of what was there, sealed.
    pub(super) fn put(&mut self, kind: Kind, offset: u64, mut raw: Vec<u8>) -> Result<()> {
        if self.fs.sb.v5 {
            kind.seal(&mut raw, self.lsn())?;
        }
        self.store(offset, &raw)?;
        self.buffers.insert(offset, (raw.len(), kind));
        Ok(())
    }

    /// Changes an inode's bytes, and seals them.
    pub(super) fn put_inode(&mut self, number: u64, mut raw: Vec<u8>) -> Result<()> {
        let (block, within) = self.inode_place(number)?;
        if self.fs.sb.v5 {
            let f = Fields::new(&raw, "inode", 0);
            let changes = f.u64_be(104)?.wrapping_add(1);
            put(&mut raw, 104, &changes.to_be_bytes())?;
            seal_inode(&mut raw, self.lsn())?;
        }
        let start = self.fs.blocks.offset(block);
        self.store(start.saturating_add(within), &raw)?;
        let len = self.fs.sb.block_len()?;
        self.buffers.insert(start, (len, Kind::InodeTable));
        Ok(())
    }

    /// Block and byte in it of an inode.
    pub(super) fn inode_place(&self, number: u64) -> Result<(u64, u64)> {
        self.fs
            .sb
            .place(number)
            .ok_or_else(|| Error::corrupt(format!("inode {number} lies outside the filesystem")))
    }

    /// An inode as this change sees it.
    pub(super) fn node(&self, number: u64) -> Result<Node> {
        self.fs.node(number)
    }

    /// Undoes the change in memory.
    pub(super) fn roll_back(self) {
        self.fs.blocks.pending.clear();
        self.fs.forget_files();
    }

    /// Everything that will be written, so that nothing is refused after the first write.
    pub(super) fn prepare(&self) -> Result<Prepared> {
        let logged = self.logged()?;
        let record = append::transaction(&self.fs.sb, self.position, &logged)?;
        let end = append::unmount(&self.fs.sb, record.next)?;
        Ok(Prepared {
            logged,
            record,
            end,
        })
    }

    /// Writes the change; gives where the log goes on.
    pub(super) fn commit(self, prepared: &Prepared, disk: &dyn DiskMut) -> Result<Position> {
        let Prepared {
            logged,
            record,
            end,
        } = prepared;
        self.write_content(disk)?;
        disk.sync()?;
        if logged.is_empty() {
            return Ok(self.position);
        }
        for (offset, bytes) in &record.writes {
            disk.write_at(bytes, *offset)?;
        }
        disk.sync()?;
        for (offset, bytes) in runs(logged) {
            disk.write_at(&bytes, offset)?;
            self.fs.blocks.forget(offset, wide(bytes.len()));
        }
        disk.sync()?;
        for (offset, bytes) in &end.writes {
            disk.write_at(bytes, *offset)?;
        }
        disk.sync()?;
        self.fs.blocks.pending.clear();
        self.fs.forget_files();
        self.fs.reload()?;
        Ok(end.next)
    }

    fn write_content(&self, disk: &dyn DiskMut) -> Result<()> {
        let size = self.block_size();
        for (offset, part) in &self.writes {
            let len = content::put(self.content, part, disk, *offset)?;
            self.fs.blocks.forget(*offset, len);
            // The rest of the last block must not show what was there before.
            let end = offset.saturating_add(len);
            let slack = end.next_multiple_of(size).saturating_sub(end);
            if slack > 0 {
                disk.write_at(&vec![0; length(slack)?], end)?;
                self.fs.blocks.forget(end, slack);
            }
        }
        Ok(())
    }

    /// What changes, as it was and as it will be.
    fn logged(&self) -> Result<Vec<Changed>> {
        let mut logged = Vec::with_capacity(self.buffers.len());
        for (offset, (len, kind)) in &self.buffers {
            let mut old = vec![0; *len];
            self.fs.blocks.disk().read_at(&mut old, *offset)?;
            let new = self.read(*offset, *len)?;
            if old != new {
                logged.push(Changed {
                    offset: *offset,
                    kind: kind.logged_as(),
                    old,
                    new,
                });
            }
        }
        Ok(logged)
    }
}

/// Buffers that lie together, as one write each.
fn runs(logged: &[Changed]) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for buffer in logged {
        match runs.last_mut() {
            Some((offset, run)) if offset.saturating_add(wide(run.len())) == buffer.offset => {
                run.extend_from_slice(&buffer.new);
            }
            _ => runs.push((buffer.offset, buffer.new.clone())),
        }
    }
    runs
}

/// Whether something was refused because of what the filesystem is, not because it is wrong.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Fault::Unsupported | Fault::Io)
}
