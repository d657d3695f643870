//! Writing to RAID 4, 5 and 6: parity is kept in step with the data.
//!
//! A whole stripe gets the parity of its new data, and nothing is read. For a part of one, the
//! parity takes the difference between the old and the new bytes, which needs the old ones and the
//! old parity only. Arrays that lack a member are not written (refused when they are put together).

use std::sync::PoisonError;

use rehost_block::{DiskMut, Error, Result};

use super::galois::{add_times, power};
use super::parity::{Parity, STEP, Spot, Stripes};
use crate::mapped::{Mapped, amount};

impl Stripes {
    /// Bytes of data in one stripe.
    const fn row(&self) -> u64 {
        self.chunk.saturating_mul(self.layout.data())
    }

    /// The number of the stripe that begins at `offset`; `None` where none begins.
    const fn stripe_at(&self, offset: u64) -> Option<u64> {
        match offset.checked_rem(self.row()) {
            Some(0) => offset.checked_div(self.row()),
            _ => None,
        }
    }

    fn store(&self, slot: u64, at: u64, bytes: &[u8]) -> Result<()> {
        let (member, start) = self.member(slot).ok_or_else(incomplete)?;
        member.writer()?.write_at(bytes, start.saturating_add(at))
    }

    fn old(&self, slot: u64, at: u64, len: usize) -> Result<Vec<u8>> {
        self.load(slot, at, len)?.ok_or_else(incomplete)
    }

    /// What Q multiplies the bytes of member `spot.data` with.
    fn factor(&self, spot: &Spot) -> Result<u8> {
        let weight = self.layout.weight(spot, spot.data);
        weight.map(power).ok_or_else(|| {
            Error::internal("a member without a weight in its stripe").in_structure("MD array")
        })
    }

    /// Replaces `new.len()` bytes, all in one chunk, from byte `at` of the members' data on.
    fn replace(&self, spot: &Spot, at: u64, new: &[u8]) -> Result<()> {
        let mut change = self.old(spot.data, at, new.len())?;
        add_times(&mut change, new, 1);
        let mut p = self.old(spot.p, at, new.len())?;
        add_times(&mut p, &change, 1);
        let q = match spot.q {
            Some(slot) => {
                let mut q = self.old(slot, at, new.len())?;
                add_times(&mut q, &change, self.factor(spot)?);
                Some((slot, q))
            }
            None => None,
        };
        self.store(spot.data, at, new)?;
        self.store(spot.p, at, &p)?;
        if let Some((slot, q)) = q {
            self.store(slot, at, &q)?;
        }
        Ok(())
    }

    /// Writes all data of stripe `stripe`: `data` is one row long.
    fn fill(&self, stripe: u64, data: &[u8]) -> Result<()> {
        let chunk = usize::try_from(self.chunk)
            .map_err(|_| Error::unsupported("a chunk exceeds this machine's memory"))?;
        let base = stripe.saturating_mul(self.chunk);
        for from in (0..chunk).step_by(STEP) {
            let len = chunk.saturating_sub(from).min(STEP);
            let at = base.saturating_add(amount(from));
            let mut p = vec![0; len];
            let mut q = vec![0; len];
            let mut last = None;
            for (nth, whole) in (0..).zip(data.chunks_exact(chunk)) {
                let spot = self.layout.spot(stripe, nth).ok_or_else(incomplete)?;
                let part = whole.get(from..from.saturating_add(len));
                let part = part.ok_or_else(|| Error::internal("a row that is too short"))?;
                add_times(&mut p, part, 1);
                if spot.q.is_some() {
                    add_times(&mut q, part, self.factor(&spot)?);
                }
                self.store(spot.data, at, part)?;
                last = Some(spot);
            }
            let spot = last.ok_or_else(incomplete)?;
            self.store(spot.p, at, &p)?;
            if let Some(slot) = spot.q {
                self.store(slot, at, &q)?;
            }
        }
        Ok(())
    }
}

fn incomplete() -> Error {
    Error::internal("a member is missing from an array that is written").in_structure("MD array")
}

impl DiskMut for Mapped<Parity> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, amount(data.len()))?;
        let _alone = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let stripes = &self.0.stripes;
        let row = usize::try_from(stripes.row()).unwrap_or(usize::MAX);
        let mut rest = data;
        let mut at = offset;
        // Ends because every round takes bytes off `rest`: a row has some, a chunk has some left.
        while !rest.is_empty() {
            let taken = match (stripes.stripe_at(at), rest.split_at_checked(row)) {
                (Some(stripe), Some((whole, _))) => {
                    stripes.fill(stripe, whole)?;
                    row
                }
                _ => {
                    let (spot, place, left) = stripes.find(at)?;
                    let len = usize::try_from(left).unwrap_or(STEP).min(STEP);
                    let (part, _) = rest.split_at(len.min(rest.len()));
                    stripes.replace(&spot, place, part)?;
                    part.len()
                }
            };
            at = at.saturating_add(amount(taken));
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let stripes = &self.0.stripes;
        let end = offset.saturating_add(len);
        let mut at = offset;
        // Ends because every round goes on by at least one byte.
        while at < end {
            let left = end.saturating_sub(at);
            let rows = left.checked_div(stripes.row()).unwrap_or(0);
            if let (Some(stripe), 1..) = (stripes.stripe_at(at), rows) {
                // The parity of zeroes is zero: the same range of every member.
                let from = stripe.saturating_mul(stripes.chunk);
                let part = rows.saturating_mul(stripes.chunk);
                let _alone = self
                    .0
                    .writing
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                for (member, start) in stripes.members.iter().flatten() {
                    member.writer()?.zero_at(start.saturating_add(from), part)?;
                }
                at = at.saturating_add(rows.saturating_mul(stripes.row()));
            } else {
                let to_row = stripes
                    .row()
                    .saturating_sub(at.checked_rem(stripes.row()).unwrap_or(0));
                let part = usize::try_from(left.min(to_row)).unwrap_or(STEP).min(STEP);
                self.write_at(&vec![0; part], at)?;
                at = at.saturating_add(amount(part));
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.sync_members()
    }
}
