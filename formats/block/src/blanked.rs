//! `Blanked`: a disk some parts of which read as zeroes, whatever is stored there.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, Located, Run, amount, check_range};
use crate::{Error, Result};

/// A disk without the content of some ranges. For what nobody needs: unused blocks of filesystems, pages
/// of swap areas.
#[derive(Debug)]
pub struct Blanked {
    base: Arc<dyn Disk>,
    /// In order, apart from each other, none empty.
    ranges: Vec<Range<u64>>,
}

impl Blanked {
    /// `base`, with zeroes in `ranges`, which may come in any order and overlap.
    ///
    /// # Errors
    /// Usage when a range reaches past the end of the disk.
    pub fn new(base: Arc<dyn Disk>, mut ranges: Vec<Range<u64>>) -> Result<Self> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        match ranges.last() {
            Some(last) if last.end > base.size() => Err(Error::usage(
                "a range to be blanked reaches past the end of the disk",
            )
            .at(last.start)),
            _ => Ok(Self { base, ranges }),
        }
    }

    /// Whether `offset` is blank, and where that changes.
    fn until(&self, offset: u64) -> (bool, u64) {
        let next = self.ranges.partition_point(|range| range.end <= offset);
        match self.ranges.get(next) {
            Some(range) if range.start <= offset => (true, range.end),
            Some(range) => (false, range.start),
            None => (false, u64::MAX),
        }
    }
}

impl Disk for Blanked {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size().saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let (blank, until) = self.until(offset);
        let want = want.min(left).min(until.saturating_sub(offset));
        if blank {
            return Ok(Located::new(Run::Zero, want));
        }
        self.base.locate(offset, want)
    }

    // Not the default: the disk below may cache decoded units.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round takes at least one byte off `rest`: no range is empty.
        while !rest.is_empty() {
            let (blank, until) = self.until(at);
            let len = usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX);
            let (part, tail) = rest.split_at_mut(len.max(1).min(rest.len()));
            if blank {
                part.fill(0);
            } else {
                self.base.read_at(part, at)?;
            }
            at = at.saturating_add(amount(part.len()));
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, StorageDisk};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blanked_ranges_are_zeroes_and_the_rest_is_as_it_was(
            ranges in prop::collection::vec((0..5000u64, 0..900u64), 0..12),
        ) {
            let mut plain: Vec<u8> = (0..6000usize).map(|nth| (nth % 251 + 1) as u8).collect();
            let base = StorageDisk::new(Arc::new(Memory::new("base", plain.clone())));
            let ranges: Vec<_> = ranges.into_iter().map(|(at, len)| at..at + len).collect();
            for range in &ranges {
                plain[range.start as usize..range.end as usize].fill(0);
            }
            let disk = Blanked::new(Arc::new(base), ranges).unwrap();
            let mut read = vec![9; plain.len()];
            disk.read_at(&mut read, 0).unwrap();
            prop_assert_eq!(&read, &plain);
            let mut located = vec![9; plain.len()];
            crate::disk::read_located(&disk, &mut located, 0, &|p| p.decode().map(Arc::new)).unwrap();
            prop_assert_eq!(&located, &plain);
            prop_assert!(matches!(disk.locate(6000, 9).unwrap().run, Run::End));
        }
    }

    #[test]
    fn a_range_past_the_end_is_refused() {
        let base: Arc<dyn Disk> =
            Arc::new(StorageDisk::new(Arc::new(Memory::new("b", vec![1; 9]))));
        assert!(Blanked::new(base, std::iter::once(8..10).collect()).is_err());
    }
}
