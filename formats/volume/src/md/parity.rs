//! RAID 4, 5 and 6: where data, P and Q are, and how to do without one or two members.
//!
//! After md(4) and the kernel's `raid5_compute_sector`: the layouts left/right, symmetric and
//! asymmetric, parity first and last, and those of RAID 6 whose Q keeps to the last member. Left
//! out on purpose, and refused by name: the layouts of DDF (8 to 10).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rehost_block::{Error, Result, Storage};

use super::galois::{add_times, inverse, power, scale};
use crate::backing::Backing;
use crate::mapped::{Place, Plan, amount};

/// Most bytes that are worked out at once.
pub(crate) const STEP: usize = 64 << 10;

/// A parity layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) level: i32,
    pub(crate) number: u32,
    pub(crate) members: u64,
}

/// Where the data of one stripe are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) data: u64,
    pub(crate) p: u64,
    pub(crate) q: Option<u64>,
}

impl Layout {
    /// Members that hold data in each stripe.
    pub(crate) const fn data(&self) -> u64 {
        self.members
            .saturating_sub(if self.level == 6 { 2 } else { 1 })
    }

    /// The members that hold chunk `nth` of stripe `stripe`, and its P and Q. `None` for a layout
    /// that is not known.
    pub(crate) fn spot(&self, stripe: u64, nth: u64) -> Option<Spot> {
        let all = self.members;
        match (self.level, self.number) {
            (4, _) => self.five(stripe, nth, 5, all),
            (5, number) => self.five(stripe, nth, number, all),
            (6, number @ 16..=20) => {
                let inner = all.checked_sub(1)?;
                let spot = self.five(stripe, nth, number.checked_sub(16)?, inner)?;
                Some(Spot {
                    q: Some(inner),
                    ..spot
                })
            }
            (6, number) => self.six(stripe, nth, number),
            _ => None,
        }
    }

    fn five(&self, stripe: u64, nth: u64, number: u32, all: u64) -> Option<Spot> {
        let last = all.checked_sub(1)?;
        let turn = stripe.checked_rem(all)?;
        let p = match number {
            0 | 2 => last.checked_sub(turn)?,
            1 | 3 => turn,
            4 => 0,
            5 => last,
            _ => return None,
        };
        let data = match number {
            2 | 3 => p.checked_add(1)?.checked_add(nth)?.checked_rem(all)?,
            _ if nth >= p => nth.checked_add(1)?,
            _ => nth,
        };
        Some(Spot { data, p, q: None })
    }

    fn six(&self, stripe: u64, nth: u64, number: u32) -> Option<Spot> {
        let all = self.members;
        let last = all.checked_sub(1)?;
        let turn = stripe.checked_rem(all)?;
        let p = match number {
            0 | 2 => last.checked_sub(turn)?,
            1 | 3 => turn,
            4 => 0,
            5 => last.checked_sub(1)?,
            _ => return None,
        };
        let q = p.checked_add(1)?.checked_rem(all)?;
        let data = match number {
            2 | 3 => p.checked_add(2)?.checked_add(nth)?.checked_rem(all)?,
            // P is last and Q first: only Q lies before the data.
            _ if p == last => nth.checked_add(1)?,
            _ if nth >= p => nth.checked_add(2)?,
            _ => nth,
        };
        Some(Spot {
            data,
            p,
            q: Some(q),
        })
    }

    /// The place of `member` in the order in which Q weighs the data of a stripe.
    pub(crate) fn weight(&self, spot: &Spot, member: u64) -> Option<usize> {
        let first = spot.q?.checked_add(1)?.checked_rem(self.members)?;
        let mut place = 0usize;
        // Ends because `step` is bounded by the number of members.
        for step in 0..self.members {
            let here = first.checked_add(step)?.checked_rem(self.members)?;
            if here == member {
                return Some(place);
            }
            if here != spot.p && Some(here) != spot.q {
                place = place.checked_add(1)?;
            }
        }
        None
    }
}

/// The members of an array with parity.
#[derive(Debug)]
pub(crate) struct Stripes {
    pub(crate) layout: Layout,
    pub(crate) chunk: u64,
    pub(crate) size: u64,
    /// By slot, and where on them the data begin.
    pub(crate) members: Vec<Option<(Backing, u64)>>,
}

impl Stripes {
    /// Spot, and byte within each member's data, of byte `offset`; and what is left of the chunk.
    pub(crate) fn find(&self, offset: u64) -> Result<(Spot, u64, u64)> {
        let found = || {
            let chunk = offset.checked_div(self.chunk)?;
            let inside = offset.checked_rem(self.chunk)?;
            let stripe = chunk.checked_div(self.layout.data())?;
            let nth = chunk.checked_rem(self.layout.data())?;
            let at = stripe.checked_mul(self.chunk)?.checked_add(inside)?;
            let spot = self.layout.spot(stripe, nth)?;
            Some((spot, at, self.chunk.checked_sub(inside)?))
        };
        found().ok_or_else(|| Error::internal("a place outside every stripe").at(offset))
    }

    pub(crate) fn member(&self, slot: u64) -> Option<&(Backing, u64)> {
        self.members.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    pub(crate) fn load(&self, slot: u64, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let Some((member, start)) = self.member(slot) else {
            return Ok(None);
        };
        let mut bytes = vec![0; len];
        member
            .disk()
            .read_at(&mut bytes, start.saturating_add(at))?;
        Ok(Some(bytes))
    }

    /// Works out what the missing member `spot.data` holds from byte `at` of its data on.
    fn rebuild(&self, spot: &Spot, at: u64, buf: &mut [u8]) -> Result<()> {
        let lost = || Error::corrupt("too many members are missing").in_structure("MD array");
        let mut p = self.load(spot.p, at, buf.len())?;
        let mut q = match spot.q {
            Some(q) => self.load(q, at, buf.len())?,
            None => None,
        };
        let mut other = None;
        for slot in 0..self.layout.members {
            if slot == spot.p || Some(slot) == spot.q || slot == spot.data {
                continue;
            }
            let Some(bytes) = self.load(slot, at, buf.len())? else {
                if other.replace(slot).is_some() {
                    return Err(lost());
                }
                continue;
            };
            if let Some(p) = &mut p {
                add_times(p, &bytes, 1);
            }
            if let Some(q) = &mut q {
                let weight = self.layout.weight(spot, slot).ok_or_else(lost)?;
                add_times(q, &bytes, power(weight));
            }
        }
        let weigh = |slot: u64| self.layout.weight(spot, slot).map(power).ok_or_else(lost);
        match (p, q, other) {
            (Some(p), _, None) => buf.copy_from_slice(&p),
            (None, Some(mut q), None) => {
                scale(&mut q, inverse(weigh(spot.data)?));
                buf.copy_from_slice(&q);
            }
            // P is x + y, Q is ax + by: x is (Q + bP) / (a + b).
            (Some(p), Some(mut q), Some(other)) => {
                let (a, b) = (weigh(spot.data)?, weigh(other)?);
                add_times(&mut q, &p, b);
                scale(&mut q, inverse(a ^ b));
                buf.copy_from_slice(&q);
            }
            _ => return Err(lost()),
        }
        Ok(())
    }
}

/// The bytes of missing members, at the offsets that they have in the array.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) name: PathBuf,
    pub(crate) stripes: Arc<Stripes>,
}

impl Storage for Rebuilt {
    fn name(&self) -> &Path {
        &self.name
    }

    fn size(&self) -> u64 {
        self.stripes.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        let mut at = offset;
        // Ends because every round takes bytes off `rest`: a chunk always has some left.
        while !rest.is_empty() {
            let (spot, place, left) = self.stripes.find(at)?;
            let take = usize::try_from(left).unwrap_or(STEP).min(STEP);
            let (part, tail) = rest.split_at_mut(take.min(rest.len()));
            match self.stripes.member(spot.data) {
                Some((member, start)) => {
                    member.disk().read_at(part, start.saturating_add(place))?;
                }
                None => self.stripes.rebuild(&spot, place, part)?,
            }
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        Ok(())
    }
}

/// An array with parity as a plan.
#[derive(Debug)]
pub(crate) struct Parity {
    pub(crate) stripes: Arc<Stripes>,
    pub(crate) rebuilt: Arc<dyn Storage>,
    /// Held while data and their parity are replaced: two writers may share a stripe.
    pub(crate) writing: Mutex<()>,
}

impl Plan for Parity {
    fn size(&self) -> u64 {
        self.stripes.size
    }

    fn place(&self, offset: u64, want: u64) -> Result<(Place<'_>, u64)> {
        let (spot, at, left) = self.stripes.find(offset)?;
        let len = want.min(left);
        Ok(match self.stripes.member(spot.data) {
            Some((member, start)) => (Place::On(member, start.saturating_add(at)), len),
            None => (Place::Rebuilt(&self.rebuilt), len),
        })
    }

    fn members(&self) -> Vec<&Backing> {
        let there = self.stripes.members.iter().flatten();
        there.map(|(member, _)| member).collect()
    }
}
