//! Blocks taken from the free space of a group, and given back.
//!
//! Every free extent is in two trees, by place and by length; where there is a tree of owners, every
//! block in use is in that. Extents are taken from the front of a free one, so that the records around
//! it stay as they are.

use rehost_block::{Error, Fields, Kind, Result};

use super::super::map::Extent;
use super::btree::{Key, LAST, OFFSET, UNWRITTEN, Which, narrow, pair};
use super::change::{Change, is_refusal};
use super::group::{Header, counter, free_space};
use crate::number::{div, rem, wide};

/// Blocks of an extent, at most: 21 bits.
const MOST_EXTENT: u64 = (1 << 21) - 1;

/// Free blocks that stay in a group, for Linux's own needs when it changes the trees.
const KEPT: u32 = 64;

/// To whom blocks belong: a fork of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) inode: u64,
}

impl Change<'_> {
    /// The group that a file's blocks go to first: that of its inode.
    pub(super) fn home(&self, inode: u64) -> u32 {
        let log = u32::from(self.fs.sb.ag_block_log)
            .saturating_add(u32::from(self.fs.sb.inodes_per_block_log));
        let group = inode.checked_shr(log).unwrap_or(0);
        u32::try_from(group).unwrap_or(0)
    }

    /// All groups, beginning with `first`.
    pub(super) fn groups_from(&self, first: u32) -> impl Iterator<Item = u32> + use<> {
        let count = self.fs.sb.ag_count;
        let first = first.min(count.saturating_sub(1));
        (first..count).chain(0..first)
    }

    /// Takes `blocks` blocks for the content of `owner`, in as few extents as there can be.
    pub(super) fn allocate(
        &mut self,
        owner: Owner,
        blocks: u64,
        most: usize,
    ) -> Result<Vec<Extent>> {
        let mut found: Vec<Extent> = Vec::new();
        let mut file = 0u64;
        // Ends because every round takes at least one block, or fails.
        while file < blocks {
            if found.len() >= most {
                return Err(Error::unsupported(
                    "free space is in too many pieces for a list of extents",
                )
                .in_structure("inode"));
            }
            let want = blocks.saturating_sub(file).min(MOST_EXTENT);
            let extent = self.allocate_at(owner, file, want)?;
            file = file.saturating_add(extent.count);
            found.push(extent);
        }
        Ok(found)
    }

    /// One extent of at most `want` blocks: whole, where a group has one that long.
    pub(super) fn allocate_at(&mut self, owner: Owner, file: u64, want: u64) -> Result<Extent> {
        let free = self.counter(counter::FREE_BLOCKS)?;
        if free < want {
            return Err(full(want, free));
        }
        let mut refusal = None;
        let home = self.home(owner.inode);
        for group in self.groups_from(home) {
            let (free, longest) = self.room_of(group)?;
            if u64::from(longest) < want || u64::from(free.saturating_sub(KEPT)) < want {
                continue;
            }
            match self.attempt(|change| change.take(group, owner, file, want)) {
                Err(error) if is_refusal(&error) => refusal = Some(error),
                other => return other,
            }
        }
        // The longest piece there is.
        let mut best: Option<(u32, u32)> = None;
        for group in self.groups_from(home) {
            let (free, longest) = self.room_of(group)?;
            let usable = longest.min(free.saturating_sub(KEPT));
            if usable > best.map_or(0, |(_, most)| most) {
                best = Some((group, usable));
            }
        }
        let (group, usable) = best.ok_or_else(|| full(want, free))?;
        if u64::from(usable) >= want {
            return Err(refusal.unwrap_or_else(|| full(want, free)));
        }
        self.attempt(|change| change.take(group, owner, file, usable.into()))
    }

    /// Free blocks of a group, and the longest extent of them.
    fn room_of(&self, group: u32) -> Result<(u32, u32)> {
        let raw = self.header(group, Header::FreeSpace)?;
        let f = Fields::new(&raw, "header of free space", 0);
        Ok((f.u32_be(free_space::FREE)?, f.u32_be(free_space::LONGEST)?))
    }

    /// Takes `count` blocks from the shortest extent of a group that has so many.
    fn take(&mut self, group: u32, owner: Owner, file: u64, count: u64) -> Result<Extent> {
        let need = narrow(count)?;
        let below = [count.saturating_sub(1), u64::MAX, 0];
        let record = self
            .after(Which::ByLength, group, below)?
            .ok_or_else(|| Error::corrupt("group has less free space than its header says"))?;
        let (start, free) = pair(&record)?;
        if free < need {
            return Err(Error::corrupt("tree of free space is out of order")
                .in_structure("tree of free space"));
        }
        self.take_piece(group, (start, free), start, need)?;
        self.own(group, start, need, owner.inode, file)?;
        self.settle_space(group, i64::from(need).saturating_neg())?;
        Ok(Extent {
            file,
            disk: self.group_start(group).saturating_add(start.into()),
            count,
            written: true,
        })
    }

    /// Takes the `count` blocks from `from` on out of a free extent, given by start and length.
    pub(super) fn take_piece(
        &mut self,
        group: u32,
        (start, free): (u32, u32),
        from: u32,
        count: u32,
    ) -> Result<()> {
        let place = [start.into(), 0, 0];
        let known = self.at_or_before(Which::ByPlace, group, place)?;
        if known.as_deref().map(pair).transpose()? != Some((start, free)) {
            return Err(Error::corrupt("the two trees of free space disagree")
                .in_structure("tree of free space"));
        }
        let before = from.saturating_sub(start);
        let next = from.saturating_add(count);
        let after = start.saturating_add(free).saturating_sub(next);
        self.remove(Which::ByLength, group, [free.into(), start.into(), 0])?;
        let mut left = Vec::new();
        if before > 0 {
            left.push(free_record(start, before));
        }
        if after > 0 {
            left.push(free_record(next, after));
        }
        for piece in &left {
            self.insert(Which::ByLength, group, piece)?;
        }
        match left.as_slice() {
            [] => self.remove(Which::ByPlace, group, place),
            [one] => self.exchange(Which::ByPlace, group, place, one),
            [one, other, ..] => {
                self.exchange(Which::ByPlace, group, place, one)?;
                self.insert(Which::ByPlace, group, other)
            }
        }
    }

    /// Renews the counters of a group whose free space has changed by `by` blocks.
    pub(super) fn settle_space(&mut self, group: u32, by: i64) -> Result<()> {
        self.check_thinned()?;
        let longest = self.at_or_before(Which::ByLength, group, LAST)?;
        let longest = longest.as_deref().map(pair).transpose()?;
        let longest = longest.map_or(0, |(_, count)| count);
        self.set_header_u32(group, Header::FreeSpace, free_space::LONGEST, longest)?;
        self.count_in_header(group, Header::FreeSpace, free_space::FREE, by)?;
        self.count(counter::FREE_BLOCKS, by)
    }

    /// Enters blocks in the tree of owners, joined to records that they continue.
    pub(super) fn own(
        &mut self,
        group: u32,
        start: u32,
        count: u32,
        owner: u64,
        file: u64,
    ) -> Result<()> {
        if !self.fs.sb.features.owners {
            return Ok(());
        }
        let key = [start.into(), owner, file];
        let end = start.saturating_add(count);
        // Blocks of the filesystem's own have no place in a file.
        let own = owner >> 63 != 0;
        let left = self.at_or_before(Which::Owners, group, key)?;
        let left = left.as_deref().map(Owned::parse).transpose()?;
        let left = left.filter(|left| {
            left.inode == owner
                && left.start.saturating_add(left.count) == start
                && (own || left.offset.saturating_add(left.count.into()) == file)
        });
        let right = self.after(Which::Owners, group, key)?;
        let right = right.as_deref().map(Owned::parse).transpose()?;
        let right = right.filter(|right| {
            right.inode == owner
                && right.start == end
                && (own || right.offset == file.saturating_add(count.into()))
        });
        let whole = Owned {
            start: left.map_or(start, |left| left.start),
            count: left
                .map_or(0, |left| left.count)
                .saturating_add(count)
                .saturating_add(right.map_or(0, |right| right.count)),
            inode: owner,
            offset: left.map_or(file, |left| left.offset),
        };
        match (left, right) {
            (Some(left), right) => {
                if let Some(right) = right {
                    self.remove(Which::Owners, group, right.key())?;
                }
                self.exchange(Which::Owners, group, left.key(), &whole.bytes())
            }
            (None, Some(right)) => self.exchange(Which::Owners, group, right.key(), &whole.bytes()),
            (None, None) => self.insert(Which::Owners, group, &whole.bytes()),
        }
    }

    /// Takes blocks out of the tree of owners; they may be a part of what a record says.
    fn disown(
        &mut self,
        group: u32,
        start: u32,
        count: u32,
        owner: Owner,
        file: u64,
    ) -> Result<()> {
        if !self.fs.sb.features.owners {
            return Ok(());
        }
        let key = [start.into(), owner.inode, file];
        let wrong = || {
            Error::corrupt("tree of owners contradicts the inode").in_structure("tree of owners")
        };
        let record = self
            .at_or_before(Which::Owners, group, key)?
            .ok_or_else(wrong)?;
        let known = Owned::parse(&record)?;
        let before = start.checked_sub(known.start).ok_or_else(wrong)?;
        let end = start.saturating_add(count);
        let after = known.start.saturating_add(known.count).checked_sub(end);
        let after = after.ok_or_else(wrong)?;
        let flags = known.offset & !OFFSET;
        // Nothing of an attribute fork or an extent tree is freed here.
        let plain = flags & !UNWRITTEN == 0;
        let from = (known.offset & OFFSET).saturating_add(before.into());
        if known.inode != owner.inode || !plain || from != file {
            return Err(wrong());
        }
        let head = Owned {
            count: before,
            ..known
        };
        let tail = Owned {
            start: end,
            count: after,
            inode: owner.inode,
            offset: file.saturating_add(count.into()) | flags,
        };
        match (before, after) {
            (0, 0) => self.remove(Which::Owners, group, known.key()),
            (0, _) => self.exchange(Which::Owners, group, known.key(), &tail.bytes()),
            (_, 0) => self.exchange(Which::Owners, group, known.key(), &head.bytes()),
            _ => {
                self.exchange(Which::Owners, group, known.key(), &head.bytes())?;
                self.insert(Which::Owners, group, &tail.bytes())
            }
        }
    }

    /// Gives back the blocks of an extent of `owner`.
    pub(super) fn release(&mut self, owner: Owner, extent: &Extent) -> Result<()> {
        let per = u64::from(self.fs.sb.ag_blocks);
        let group = narrow(div(extent.disk, per))?;
        let (start, count) = (narrow(rem(extent.disk, per))?, narrow(extent.count)?);
        let end = start.saturating_add(count);
        let twice = || {
            Error::corrupt("blocks of a file are free already").in_structure("tree of free space")
        };
        let key = |start: u32| [u64::from(start), 0, 0];
        let by_length = |(start, count): (u32, u32)| [u64::from(count), u64::from(start), 0];
        let left = self.at_or_before(Which::ByPlace, group, key(start))?;
        let left = left.as_deref().map(pair).transpose()?;
        let right = self.after(Which::ByPlace, group, key(start))?;
        let right = right.as_deref().map(pair).transpose()?;
        if left.is_some_and(|(at, len)| at.saturating_add(len) > start)
            || right.is_some_and(|(at, _)| at < end)
        {
            return Err(twice());
        }
        let left = left.filter(|(at, len)| at.saturating_add(*len) == start);
        let right = right.filter(|(at, _)| *at == end);
        let whole_start = left.map_or(start, |(at, _)| at);
        let whole_end = right.map_or(end, |(at, len)| at.saturating_add(len));
        let whole = free_record(whole_start, whole_end.saturating_sub(whole_start));
        for known in left.into_iter().chain(right) {
            self.remove(Which::ByLength, group, by_length(known))?;
        }
        self.insert(Which::ByLength, group, &whole)?;
        match (left, right) {
            (Some((at, _)), None) | (None, Some((at, _))) => {
                self.exchange(Which::ByPlace, group, key(at), &whole)?;
            }
            (Some((at, _)), Some((gone, _))) => {
                self.remove(Which::ByPlace, group, key(gone))?;
                self.exchange(Which::ByPlace, group, key(at), &whole)?;
            }
            (None, None) => self.insert(Which::ByPlace, group, &whole)?,
        }
        self.disown(group, start, count, owner, extent.file)?;
        self.settle_space(group, i64::from(count))
    }

    /// Fails when a part of an extent belongs to another file too.
    pub(super) fn check_unshared(&self, extent: &Extent) -> Result<()> {
        let per = u64::from(self.fs.sb.ag_blocks);
        let group = narrow(div(extent.disk, per))?;
        let start = rem(extent.disk, per);
        let end = start.saturating_add(extent.count);
        let before = self.at_or_before(Which::Shared, group, [start, 0, 0])?;
        let after = self.after(Which::Shared, group, [start, 0, 0])?;
        for record in before.iter().chain(&after) {
            let (first, count) = pair(record)?;
            let (first, count) = (u64::from(first), u64::from(count));
            if first < end && first.saturating_add(count) > start {
                return Err(
                    Error::unsupported("content is shared with another file (reflink)")
                        .in_structure("tree of shared extents")
                        .at(self.fs.blocks.offset(extent.disk)),
                );
            }
        }
        Ok(())
    }
}

/// A record of the tree of owners.
#[derive(Debug, Clone, Copy)]
struct Owned {
    start: u32,
    count: u32,
    inode: u64,
    /// The block of the file, with flags in its highest bits.
    offset: u64,
}

impl Owned {
    fn parse(record: &[u8]) -> Result<Self> {
        let f = Fields::new(record, "tree of owners", 0);
        Ok(Self {
            start: f.u32_be(0)?,
            count: f.u32_be(4)?,
            inode: f.u64_be(8)?,
            offset: f.u64_be(16)?,
        })
    }

    fn key(&self) -> Key {
        [self.start.into(), self.inode, self.offset & !UNWRITTEN]
    }

    fn bytes(&self) -> Vec<u8> {
        let mut record = free_record(self.start, self.count);
        record.extend(self.inode.to_be_bytes());
        record.extend(self.offset.to_be_bytes());
        record
    }
}

fn free_record(start: u32, count: u32) -> Vec<u8> {
    let mut record = start.to_be_bytes().to_vec();
    record.extend(count.to_be_bytes());
    record
}

fn full(want: u64, free: u64) -> Error {
    Error::new(Kind::Io, "filesystem is full").mismatch(format!("{want} free blocks"), free)
}

/// Blocks that a list of extents names.
pub(super) fn blocks_of(extents: &[Extent]) -> u64 {
    extents
        .iter()
        .fold(0, |sum, extent| sum.saturating_add(extent.count))
}

/// An extent as its inode stores it.
pub(super) fn packed(extent: &Extent, start: u64) -> [u8; 16] {
    let unwritten = if extent.written { 0 } else { 1u128 << 127 };
    let record = unwritten
        | (u128::from(extent.file) << 73)
        | (u128::from(start) << 21)
        | u128::from(extent.count);
    record.to_be_bytes()
}

/// The length of a list of extents in its inode.
pub(super) fn list_len(extents: &[Extent]) -> usize {
    usize::try_from(wide(extents.len()).saturating_mul(16)).unwrap_or(usize::MAX)
}
