//! Content of files on the devices, read and compared with the checksum tree.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", `EXTENT_CSUM`. Every sector has a checksum of its own; one that does not
//! match is taken from another copy. Sectors without one are read as they are: files can be
//! exempted, and images without content (`btrfs-image`) have none.

use rehost_block::{Error, Result};

use super::Volume;
use super::checksum::hex;
use super::key::{Key, kind, tree};
use super::superblock::HINT;
use super::tree::Item;
use crate::number::{div, length, rem, wide};

const STRUCTURE: &str = "data extent";

/// Bytes read and verified at a time.
const PART: u64 = 1 << 20;

/// Whether a file's content has checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    Verified,
    None,
}

impl Volume {
    /// Fills `buf` from logical address `logical`.
    pub(super) fn read_data(&self, logical: u64, buf: &mut [u8], sums: Sums) -> Result<()> {
        let sector = u64::from(self.nodes.sb.sector);
        let mut at = logical;
        let mut rest = buf;
        // Ends because every round fills at least one byte of `rest`.
        while !rest.is_empty() {
            let within = rem(at, sector);
            let want = wide(rest.len());
            let (part, tail);
            if within != 0 || want < sector {
                let len = sector.saturating_sub(within).min(want);
                (part, tail) = rest.split_at_mut(length(len)?);
                let mut whole = vec![0; length(sector)?];
                self.read_sectors(at.saturating_sub(within), &mut whole, sums)?;
                let from = length(within)?;
                let bytes = whole.get(from..from.saturating_add(part.len()));
                part.copy_from_slice(bytes.unwrap_or_default());
            } else {
                let len = want.saturating_sub(rem(want, sector)).min(PART);
                (part, tail) = rest.split_at_mut(length(len)?);
                self.read_sectors(at, part, sums)?;
            }
            at = at.saturating_add(wide(part.len()));
            rest = tail;
        }
        Ok(())
    }

    /// Whole sectors.
    fn read_sectors(&self, logical: u64, buf: &mut [u8], sums: Sums) -> Result<()> {
        let copies = self.nodes.pool.copies(logical)?;
        let named = |error: Error| error.in_structure(STRUCTURE);
        let mut read = self.nodes.pool.read(logical, buf, 0);
        for nth in 1..copies {
            if read.is_err() {
                read = self.nodes.pool.read(logical, buf, nth).or(read);
            }
        }
        let place = read.map_err(named)?;
        if sums == Sums::None {
            return Ok(());
        }
        let known = self.sums(logical, wide(buf.len()))?;
        let len = self.nodes.sb.checksum.len();
        let sector = length(u64::from(self.nodes.sb.sector))?;
        let mut at = logical;
        for (bytes, sum) in buf
            .chunks_mut(sector)
            .zip(known.chunks(len.saturating_add(1)))
        {
            if let Some((1, sum)) = sum.split_first()
                && !self.nodes.sb.checksum.matches(bytes, sum)
            {
                self.read_other_copy(at, bytes, sum, copies)
                    .map_err(|error| {
                        error.at(place.offset.saturating_add(at.saturating_sub(logical)))
                    })?;
            }
            at = at.saturating_add(wide(sector));
        }
        Ok(())
    }

    /// A sector from the copies but the first, whichever has the right checksum.
    fn read_other_copy(&self, at: u64, buf: &mut [u8], sum: &[u8], copies: usize) -> Result<()> {
        let found = hex(self
            .nodes
            .sb
            .checksum
            .of(buf)
            .get(..sum.len())
            .unwrap_or_default());
        for nth in 1..copies {
            if self.nodes.pool.read(at, buf, nth).is_ok()
                && self.nodes.sb.checksum.matches(buf, sum)
            {
                return Ok(());
            }
        }
        Err(Error::corrupt("checksum does not match")
            .in_structure(STRUCTURE)
            .mismatch(hex(sum), found)
            .hint(HINT))
    }

    /// For every sector of a range one byte, 1 where its checksum is known, and the checksum.
    fn sums(&self, logical: u64, len: u64) -> Result<Vec<u8>> {
        let sector = u64::from(self.nodes.sb.sector);
        let entry = self.nodes.sb.checksum.len().saturating_add(1);
        let mut found = vec![0; length(div(len, sector))?.saturating_mul(entry)];
        let end = logical.saturating_add(len);
        let start = Key::new(tree::CSUM_OBJECT, kind::EXTENT_CSUM, logical);
        let last = Key::new(tree::CSUM_OBJECT, kind::EXTENT_CSUM, end.saturating_sub(1));
        if let Some(csum) = &self.csum {
            let tree = self.tree(csum.tree);
            let first = tree
                .before(start)?
                .map_or(start, |item| item.key.min(start));
            let mut items = tree.range(first, last)?;
            // Ends because a walk through a tree does.
            while let Some(item) = items.next()? {
                self.take_sums(&item, logical, &mut found)?;
            }
        }
        // A log's are newer.
        for (at, sums) in self.logged_sums.range(..end) {
            self.take_bytes(*at, sums, logical, &mut found);
        }
        Ok(found)
    }

    fn take_sums(&self, item: &Item, logical: u64, found: &mut [u8]) -> Result<()> {
        if !item.key.is(tree::CSUM_OBJECT, kind::EXTENT_CSUM) {
            return Ok(());
        }
        let f = item.fields("checksum item");
        if f.len().checked_rem(self.nodes.sb.checksum.len()) != Some(0) {
            return Err(f.corrupt(0, "does not hold whole checksums").hint(HINT));
        }
        self.take_bytes(item.key.offset, item.bytes(), logical, found);
        Ok(())
    }

    fn take_bytes(&self, start: u64, sums: &[u8], logical: u64, found: &mut [u8]) {
        let sector = u64::from(self.nodes.sb.sector);
        let len = self.nodes.sb.checksum.len();
        let skip = usize::try_from(div(logical.saturating_sub(start), sector));
        let ahead = usize::try_from(div(start.saturating_sub(logical), sector));
        let sums = sums
            .chunks_exact(len.max(1))
            .skip(skip.unwrap_or(usize::MAX));
        let places = found
            .chunks_exact_mut(len.saturating_add(1))
            .skip(ahead.unwrap_or(usize::MAX));
        for (place, sum) in places.zip(sums) {
            if let Some((known, place)) = place.split_first_mut() {
                *known = 1;
                place.copy_from_slice(sum);
            }
        }
    }
}
