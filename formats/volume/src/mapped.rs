//! Disks made of parts of other disks: what LVM and MD have in common.
//!
//! A [`Plan`] answers *which byte of which member is this?*; [`Mapped`] makes a disk of it whose
//! `locate` hands the question on to the member, so that a copy still sees the holes, and shares
//! the blocks, of the image at the bottom. A [`Spread`] plan names every place that holds a byte:
//! all of them are written, one after the other, and a failure in between leaves them different,
//! as it does under Linux.

use std::fmt;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Located, Result, Run, Storage};

use crate::backing::Backing;

/// Where one stretch of a mapped disk is.
#[derive(Debug, Clone)]
pub(crate) enum Place<'a> {
    /// On a member, from this byte of it.
    On(&'a Backing, u64),
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

    /// All members that are there.
    fn members(&self) -> Vec<&Backing>;
}

/// All places of a stretch.
pub(crate) type Places<'a> = Vec<(&'a Backing, u64)>;

/// A plan that writes every byte to one or several members, as it is.
pub(crate) trait Spread: Plan {
    /// All places of the byte at `offset`, the one that is read among them; else as
    /// [`Plan::place`].
    fn places(&self, offset: u64, want: u64) -> Result<(Places<'_>, u64)>;
}

/// A plan as a disk.
#[derive(Debug)]
pub(crate) struct Mapped<P>(pub(crate) P);

impl<P: Plan> Mapped<P> {
    /// Refuses a range that reaches past the end.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<()> {
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.0.size())
        {
            return Err(Error::usage("range reaches past the end of the disk").at(offset));
        }
        Ok(())
    }

    /// Syncs every member once.
    pub(crate) fn sync_members(&self) -> Result<()> {
        let mut done: Vec<Arc<dyn DiskMut>> = Vec::new();
        for member in self.0.members() {
            let writer = member.writer()?;
            if !done.iter().any(|known| Arc::ptr_eq(known, &writer)) {
                writer.sync()?;
                done.push(writer);
            }
        }
        Ok(())
    }
}

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
            Place::On(member, at) => {
                let found = member.disk().locate(at, len)?;
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
        self.check(offset, amount(buf.len()))?;
        let mut rest = buf;
        let mut at = offset;
        // Ends because every step takes at least one byte off `rest`.
        while !rest.is_empty() {
            let (place, len) = self.0.place(at, amount(rest.len()))?;
            let (part, tail) = rest.split_at_mut(step(len, rest.len(), at)?);
            match place {
                Place::On(member, from) => member.disk().read_at(part, from)?,
                Place::Zero => part.fill(0),
                Place::Rebuilt(storage) => storage.read_at(part, at)?,
            }
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        Ok(())
    }
}

impl<P: Spread> DiskMut for Mapped<P> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, amount(data.len()))?;
        let mut rest = data;
        let mut at = offset;
        // Ends because every step takes at least one byte off `rest`.
        while !rest.is_empty() {
            let (places, len) = self.0.places(at, amount(rest.len()))?;
            let (part, tail) = rest.split_at(step(len, rest.len(), at)?);
            if places.is_empty() {
                return Err(nowhere(at));
            }
            for (member, from) in places {
                member.writer()?.write_at(part, from)?;
            }
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let mut done = 0;
        // Ends because every step goes on by at least one byte.
        while done < len {
            let at = offset.saturating_add(done);
            let (places, part) = self.0.places(at, len.saturating_sub(done))?;
            if part == 0 {
                return Err(empty(at));
            }
            if places.is_empty() {
                return Err(nowhere(at));
            }
            for (member, from) in places {
                member.writer()?.zero_at(from, part)?;
            }
            done = done.saturating_add(part);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.sync_members()
    }
}

/// How many of `most` bytes a stretch of `len` takes.
fn step(len: u64, most: usize, at: u64) -> Result<usize> {
    match usize::try_from(len).unwrap_or(usize::MAX).min(most) {
        0 => Err(empty(at)),
        step => Ok(step),
    }
}

fn empty(at: u64) -> Error {
    Error::internal("a mapped disk has an empty stretch").at(at)
}

fn nowhere(at: u64) -> Error {
    Error::unsupported("there is no storage behind this part of the volume").at(at)
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
    /// So much of a disk from a byte on; of several, where all hold the same: the first is read.
    Part(Vec<(Backing, u64)>),
    /// Chunks dealt out over parts of disks in turn.
    Dealt(Dealt),
    /// Zeroes.
    Zero,
}

/// Chunks dealt out in turn.
#[derive(Debug)]
pub(crate) struct Dealt {
    /// The disks and where on them their share begins.
    pub(crate) parts: Vec<(Backing, u64)>,
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

    /// The disk of it, to be written where all its parts can be.
    pub(crate) fn into_backing(self) -> Backing {
        let disk = Arc::new(Mapped(self));
        let backing = Backing::made_of(Arc::clone(&disk), disk.0.members());
        let zero = |(_, piece): &(u64, Piece)| matches!(piece, Piece::Zero);
        if disk.0.pieces.iter().any(zero) {
            return backing.shut("a part of it is no storage and reads as zeroes");
        }
        backing
    }

    /// The piece that holds byte `offset`, how far into it that is, and how much of it follows.
    fn find(&self, offset: u64) -> Result<(&Piece, u64, u64)> {
        let after = self.pieces.partition_point(|(start, _)| *start <= offset);
        let (start, piece) = after
            .checked_sub(1)
            .and_then(|nth| self.pieces.get(nth))
            .ok_or_else(|| outside(offset))?;
        let end = self.pieces.get(after).map_or(self.size, |(next, _)| *next);
        let within = offset.saturating_sub(*start);
        Ok((piece, within, end.saturating_sub(offset)))
    }
}

fn outside(offset: u64) -> Error {
    Error::internal("a place between the pieces of a volume").at(offset)
}

impl Plan for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)> {
        let (places, len) = self.places(offset, want)?;
        Ok(match places.first() {
            Some((member, at)) => (Place::On(member, *at), len),
            None => (Place::Zero, len),
        })
    }

    fn members(&self) -> Vec<&Backing> {
        let parts = self.pieces.iter().flat_map(|(_, piece)| match piece {
            Piece::Part(parts) | Piece::Dealt(Dealt { parts, .. }) => parts.as_slice(),
            Piece::Zero => &[],
        });
        parts.map(|(member, _)| member).collect()
    }
}

impl Spread for Joined {
    fn places(&self, offset: u64, want: u64) -> Result<(Places<'_>, u64)> {
        let (piece, within, left) = self.find(offset)?;
        let len = want.min(left);
        match piece {
            Piece::Part(parts) => {
                let mut places = Vec::with_capacity(parts.len());
                for (member, from) in parts {
                    let at = from.checked_add(within).ok_or_else(|| outside(offset))?;
                    places.push((member, at));
                }
                Ok((places, len))
            }
            Piece::Dealt(dealt) => {
                let (member, at, most) = dealt.find(within).ok_or_else(|| outside(offset))?;
                Ok((vec![(member, at)], len.min(most)))
            }
            Piece::Zero => Ok((Vec::new(), len)),
        }
    }
}

impl Dealt {
    fn find(&self, within: u64) -> Option<(&Backing, u64, u64)> {
        let chunk = within.checked_div(self.chunk)?;
        let inside = within.checked_rem(self.chunk)?;
        let count = amount(self.parts.len());
        let (member, from) = self
            .parts
            .get(usize::try_from(chunk.checked_rem(count)?).ok()?)?;
        let row = chunk.checked_div(count)?.checked_mul(self.chunk)?;
        let at = from.checked_add(row)?.checked_add(inside)?;
        Some((member, at, self.chunk.checked_sub(inside)?))
    }
}
