//! `Edit`: a qcow2 image being changed in place.
//!
//! Guest clusters, tables and refcounts change together; what a snapshot shares is copied before it
//! is changed. A call that fails may have changed a part: the caller's journal takes that back.
//!
//! Left out on purpose, each refused by name: encrypted images, images whose tables contradict each
//! other (they are to be repaired first), snapshots of images with a data file.

mod content;
mod header;
mod locate;
mod open;
mod pages;
mod resize;
mod room;
mod snapshots;
mod tables;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Codec, Disk, Error, Result, StorageMut};

use super::areas::{AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW, Extension};
use super::bitmap;
use super::entry::{Raw, Rules, amount};
use super::extension::BACKING_FORMAT;
use super::header::Header;
use super::new_header::format_name;
use super::snapshot_table::SnapshotTable;
use crate::create::TargetBacking;
use crate::in_place::LayerMut;
use pages::Pages;
use room::Room;

pub(super) use header::write_header;
pub(super) use open::{data_file, open};

/// Entries of an L2 table that are one guest byte apart.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// Index in the L1 table.
    l1: u64,
    /// First entry.
    first: u64,
    /// One past the last.
    end: u64,
    /// Guest byte of the first.
    guest: u64,
}

/// What of the bitmaps a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Guest bytes: bitmaps that record are behind from now on.
    Content,
    /// The disk's size: all of them are.
    Size,
}

/// One image being changed.
#[derive(Debug)]
pub(super) struct Edit {
    file: Arc<dyn StorageMut>,
    /// Plain clusters, where they are in a file of their own.
    data: Option<Arc<dyn StorageMut>>,
    header: Header,
    rules: Rules,
    /// The whole active L1 table.
    l1: Vec<u64>,
    /// L2 tables.
    l2: Mutex<Pages>,
    room: Room,
    snapshots: SnapshotTable,
    codec: Arc<dyn Codec>,
    /// What is below, or why it cannot be read.
    parent: Option<Result<Arc<dyn Disk>, String>>,
    /// The parent's size, once it is known.
    parent_size: Option<u64>,
    /// Changes that the image was told of.
    begun: Vec<Change>,
}

impl Edit {
    fn pages(&mut self) -> &mut Pages {
        self.l2.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let unit = self.unit();
        let size = self.header.size;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= size)
            .ok_or_else(|| Error::usage("range reaches past the end of the disk").at(offset))?;
        if offset % unit != 0 || (end % unit != 0 && end != size) {
            return Err(Error::usage("range is not of whole clusters").at(offset));
        }
        Ok(())
    }

    /// The range, one L2 table after the other.
    fn groups(&self, offset: u64, len: u64) -> Vec<Group> {
        let geometry = self.rules.geometry;
        let end = geometry.cluster_of(geometry.round_up(offset.saturating_add(len)));
        let mut cluster = geometry.cluster_of(offset);
        let mut groups = Vec::new();
        // Ends because every group has at least one cluster.
        while cluster < end {
            let guest = geometry.offset_of(cluster);
            let position = geometry.position(guest);
            let room = geometry.l2_entries().saturating_sub(position.l2).max(1);
            let count = room.min(end.saturating_sub(cluster));
            groups.push(Group {
                l1: position.l1,
                first: position.l2,
                end: position.l2.saturating_add(count),
                guest,
            });
            cluster = cluster.saturating_add(count);
        }
        groups
    }

    /// Before the first change of a kind: bits that promise what is not kept here are cleared, and
    /// bitmaps that fall behind say so.
    fn begin(&mut self, change: Change) -> Result<()> {
        if self.begun.contains(&change) {
            return Ok(());
        }
        self.begun.push(change);
        let areas = &mut self.header.areas;
        areas.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW;
        areas.drop_stale_bitmaps();
        if let Some(directory) = self.header.areas.bitmap_directory()? {
            for entry in bitmap::read(&directory, &self.header.geometry, &*self.file)? {
                let behind = change == Change::Size || entry.flags & bitmap::AUTO != 0;
                if behind && entry.flags & bitmap::IN_USE == 0 {
                    let flags = entry.flags | bitmap::IN_USE;
                    let place = entry.place.saturating_add(12);
                    self.file.write_at(&flags.to_be_bytes(), place)?;
                }
            }
        }
        self.write_header()
    }

    fn write_header(&mut self) -> Result<()> {
        let areas = &mut self.header.areas;
        areas.refcount_table = self.room.table;
        areas.refcount_clusters = u32::try_from(self.room.table_clusters)
            .map_err(|_| Error::internal("a refcount table outgrew its header field"))?;
        self.header.snapshots = u32::try_from(self.snapshots.entries.len())
            .map_err(|_| Error::internal("too many snapshots"))?;
        write_header(&*self.file, &mut self.header)
    }
}

impl LayerMut for Edit {
    fn unit(&self) -> NonZeroU64 {
        self.rules.geometry.unit()
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        self.check_range(offset, amount(plain.len()))?;
        self.begin(Change::Content)?;
        self.put_range(offset, plain)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check_range(offset, len)?;
        self.begin(Change::Content)?;
        self.zero_range(offset, len)
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        self.check_range(offset, len)?;
        self.begin(Change::Content)?;
        self.forget_range(offset, len)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.change_size(size)
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        let format = backing.map(|backing| format_name(backing.format));
        let name = backing
            .map(|backing| super::stored_name(&backing.name))
            .transpose()?;
        if backing.is_some() && self.header.data_file_raw {
            return Err(
                Error::usage("an image with a raw data file cannot have a backing file")
                    .hint("its data file alone is to be the whole disk"),
            );
        }
        self.begin(Change::Content)?;
        let extensions = &mut self.header.areas.extensions;
        extensions.retain(|extension| extension.kind != BACKING_FORMAT);
        if let Some(format) = format {
            let body = format.as_bytes().to_vec();
            let kind = BACKING_FORMAT;
            extensions.insert(0, Extension { kind, body });
        }
        self.header.backing_file = name;
        self.header.backing_format = format.map(|format| format.as_bytes().to_vec());
        self.parent = backing.map(|_| Err("its backing file was just changed".to_owned()));
        self.parent_size = backing.map(|backing| backing.size);
        self.write_header()
    }

    fn flush(&mut self) -> Result<()> {
        let file = Arc::clone(&self.file);
        self.pages().flush(&*file)?;
        self.room.flush()?;
        self.write_header()
    }
}

/// An entry that stores nothing.
const NOTHING: Raw = Raw {
    descriptor: 0,
    bitmap: 0,
};
