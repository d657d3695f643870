//! RAID 10: copies near, far and offset.
//!
//! After md(4) and the kernel's `setup_geo` and `__raid10_find_phys`. Left out on purpose, and
//! refused by name: the first, faulty variant of far sets (layout bit 17), which mdadm never made.

use rehost_block::{Error, Result};

use crate::backing::Backing;
use crate::mapped::{Place, Places, Plan, Spread};

/// How copies are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    members: u64,
    near: u64,
    far: u64,
    offset: bool,
    /// Members that the far copies of a chunk stay within.
    set: u64,
    chunk: u64,
    /// Bytes from one far copy to the next.
    stride: u64,
    /// Bytes of the array.
    pub(crate) size: u64,
}

impl Geometry {
    /// The geometry of layout word `layout`; `None` when it is impossible.
    pub(crate) fn new(layout: u32, members: u64, chunk: u64, used: u64) -> Option<Self> {
        let (near, far) = (u64::from(layout & 255), u64::from(layout >> 8 & 255));
        let copies = near.checked_mul(far).filter(|copies| *copies != 0)?;
        let set = match layout >> 17 {
            0 => members,
            2 => copies,
            _ => return None,
        };
        if copies > members || chunk == 0 {
            return None;
        }
        let offset = layout >> 16 & 1 == 1;
        let chunks = used
            .checked_div(chunk)?
            .checked_div(far)?
            .checked_mul(members)?
            .checked_div(near)?;
        let per_member = chunks.checked_mul(copies)?.div_ceil(members);
        let stride = if offset {
            1
        } else {
            per_member.checked_div(far)?
        };
        Some(Self {
            members,
            near,
            far,
            offset,
            set,
            chunk,
            stride: stride.checked_mul(chunk)?,
            size: chunks.checked_mul(chunk)?,
        })
    }

    /// The members that hold byte `at` of the array, and where, in the kernel's order.
    pub(crate) fn copies(&self, at: u64) -> Option<Vec<(u64, u64)>> {
        let inside = at.checked_rem(self.chunk)?;
        let first = at.checked_div(self.chunk)?.checked_mul(self.near)?;
        let mut row = first.checked_div(self.members)?;
        let mut member = first.checked_rem(self.members)?;
        if self.offset {
            row = row.checked_mul(self.far)?;
        }
        let mut place = row.checked_mul(self.chunk)?.checked_add(inside)?;
        let mut found = Vec::new();
        for _ in 0..self.near {
            let (mut other, mut there) = (member, place);
            found.push((other, there));
            for _ in 1..self.far {
                other = self.next_far(other)?;
                there = there.checked_add(self.stride)?;
                found.push((other, there));
            }
            member = member.checked_add(1)?;
            if member >= self.members {
                member = 0;
                place = place.checked_add(self.chunk)?;
            }
        }
        Some(found)
    }

    /// The member of the next far copy: `near` further on in the same set. The last set takes the
    /// members that fill none.
    fn next_far(&self, member: u64) -> Option<u64> {
        let sets = self.members.checked_div(self.set)?;
        let over = self.members.checked_rem(self.set)?;
        let last = sets.checked_sub(1)?.checked_mul(self.set)?;
        let own = member.checked_div(self.set)?.checked_mul(self.set)?;
        let moved = member.checked_add(self.near)?;
        if over != 0 && moved > last {
            let len = self.set.checked_add(over)?;
            return moved.checked_sub(last)?.checked_rem(len)?.checked_add(last);
        }
        moved.checked_rem(self.set)?.checked_add(own)
    }

    /// The first chunk (of those that differ) of which no member in `there` has a copy.
    pub(crate) fn lost(&self, there: impl Fn(u64) -> bool) -> Option<u64> {
        (0..self.members).find(|nth| {
            let copies = nth.checked_mul(self.chunk).and_then(|at| self.copies(at));
            !copies.is_some_and(|copies| copies.iter().any(|(member, _)| there(*member)))
        })
    }
}

/// An array of copies as a plan.
#[derive(Debug)]
pub(crate) struct Copies {
    pub(crate) geometry: Geometry,
    /// By slot, and where on them the data begin.
    pub(crate) members: Vec<Option<(Backing, u64)>>,
}

impl Plan for Copies {
    fn size(&self) -> u64 {
        self.geometry.size
    }

    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)> {
        let (places, len) = self.places(offset, want)?;
        let (member, at) = places
            .first()
            .ok_or_else(|| Error::corrupt("no member has a copy").at(offset))?;
        Ok((Place::On(member, *at), len))
    }

    fn members(&self) -> Vec<&Backing> {
        let there = self.members.iter().flatten();
        there.map(|(member, _)| member).collect()
    }
}

impl Spread for Copies {
    fn places(&self, offset: u64, want: u64) -> Result<(Places<'_>, u64)> {
        let inside = offset.checked_rem(self.geometry.chunk).unwrap_or(0);
        let len = want.min(self.geometry.chunk.saturating_sub(inside));
        let mut places = Vec::new();
        for (slot, at) in self.geometry.copies(offset).unwrap_or_default() {
            let slot = usize::try_from(slot).ok();
            let member = slot.and_then(|slot| self.members.get(slot));
            if let Some(Some((member, start))) = member {
                places.push((member, start.saturating_add(at)));
            }
        }
        Ok((places, len))
    }
}
