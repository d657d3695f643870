//! Disks made of parts of other disks: what LVM and MD have in common.
//!
//! A [`Plan`] answers *which byte of which member is this?*; [`Mapped`] makes a disk of it whose
//! `locate` hands the question on to the member, so that a copy still sees the holes, and shares
//! the blocks, of the image at the bottom.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Disk, Error, Located, Result, Run, Storage};

/// Where one stretch of a mapped disk is.
#[derive(Debug, Clone)]
pub(crate) enum Place<'a> {
    /// On a member, from this byte of it.
    On(&'a Arc<dyn Disk>, u64),
    /// Nowhere: it reads as zeroes.
    Zero,
    /// On a member that is not there: worked out from the others by a storage that holds the
    /// whole mapped disk, at the same offset.
    Rebuilt(&'a Arc<dyn Storage>),
}

/// The address arithmetic of a mapped disk.
pub(crate) trait Plan: Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Where the byte at `offset` (inside the disk) is, and for how many of the `want` bytes from
    /// there on that holds: at least one.
    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)>;
}

/// A plan as a disk.
#[derive(Debug)]
pub(crate) struct Mapped<P>(pub(crate) P);

impl<P: Plan> Disk for Mapped<P> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.0.size().saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let (place, len) = self.0.place(offset, want.min(left))?;
        match place {
            Place::On(disk, at) => {
                let found = disk.locate(at, len)?;
                match found.run {
                    Run::End => Err(Error::corrupt("a member ends before its data does").at(at)),
                    _ => Ok(found),
                }
            }
            Place::Zero => Ok(Located::new(Run::Zero, len)),
            Place::Rebuilt(storage) => {
                let run = Run::At {
                    storage: Arc::clone(storage),
                    offset,
                };
                Ok(Located::new(run, len))
            }
        }
    }

    // Not the default: the disks below may cache decoded units.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let total = amount(buf.len());
        if offset
            .checked_add(total)
            .is_none_or(|end| end > self.0.size())
        {
            return Err(Error::usage("range reaches past the end of the disk").at(offset));
        }
        let mut rest = buf;
        let mut at = offset;
        // Ends because every step takes at least one byte off `rest`.
        while !rest.is_empty() {
            let (place, len) = self.0.place(at, amount(rest.len()))?;
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            if take == 0 {
                return Err(Error::internal("a mapped disk has an empty stretch").at(at));
            }
            let (part, tail) = rest.split_at_mut(take);
            match place {
                Place::On(disk, from) => disk.read_at(part, from)?,
                Place::Zero => part.fill(0),
                Place::Rebuilt(storage) => storage.read_at(part, at)?,
            }
            at = at.saturating_add(amount(take));
            rest = tail;
        }
        Ok(())
    }
}

/// A buffer's length in bytes.
pub(crate) fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Parts of disks, one after the other.
#[derive(Debug)]
pub(crate) struct Joined {
    /// First byte of each piece, in order; the pieces leave no gap.
    pieces: Vec<(u64, Piece)>,
    size: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) enum Piece {
    /// So much of a disk from a byte on.
    Part(Arc<dyn Disk>, u64),
    /// Chunks dealt out over parts of disks in turn.
    Dealt(Dealt),
    /// Zeroes.
    Zero,
}

/// Chunks dealt out in turn.
#[derive(Debug)]
pub(crate) struct Dealt {
    /// The disks and where on them their share begins.
    pub(crate) parts: Vec<(Arc<dyn Disk>, u64)>,
    /// Bytes per chunk.
    pub(crate) chunk: u64,
}

impl Joined {
    /// No piece yet.
    pub(crate) const fn new() -> Self {
        Self {
            pieces: Vec::new(),
            size: 0,
        }
    }

    /// Bytes so far.
    pub(crate) const fn len(&self) -> u64 {
        self.size
    }

    /// Adds `len` bytes.
    pub(crate) fn push(&mut self, piece: Piece, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let start = self.size;
        self.size = start
            .checked_add(len)
            .ok_or_else(|| Error::corrupt("a volume is larger than any disk").at(start))?;
        self.pieces.push((start, piece));
        Ok(())
    }
}

impl Plan for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)> {
        let none = || Error::internal("a place between the pieces of a volume").at(offset);
        let after = self.pieces.partition_point(|(start, _)| *start <= offset);
        let (start, piece) = after
            .checked_sub(1)
            .and_then(|nth| self.pieces.get(nth))
            .ok_or_else(none)?;
        let end = self.pieces.get(after).map_or(self.size, |(next, _)| *next);
        let within = offset.saturating_sub(*start);
        let len = want.min(end.saturating_sub(offset));
        match piece {
            Piece::Part(disk, from) => {
                let at = from.checked_add(within).ok_or_else(none)?;
                Ok((Place::On(disk, at), len))
            }
            Piece::Dealt(dealt) => {
                let (disk, at, most) = dealt.find(within).ok_or_else(none)?;
                Ok((Place::On(disk, at), len.min(most)))
            }
            Piece::Zero => Ok((Place::Zero, len)),
        }
    }
}

impl Dealt {
    fn find(&self, within: u64) -> Option<(&Arc<dyn Disk>, u64, u64)> {
        let chunk = within.checked_div(self.chunk)?;
        let inside = within.checked_rem(self.chunk)?;
        let count = amount(self.parts.len());
        let (disk, from) = self
            .parts
            .get(usize::try_from(chunk.checked_rem(count)?).ok()?)?;
        let row = chunk.checked_div(count)?.checked_mul(self.chunk)?;
        let at = from.checked_add(row)?.checked_add(inside)?;
        Some((disk, at, self.chunk.checked_sub(inside)?))
    }
}
