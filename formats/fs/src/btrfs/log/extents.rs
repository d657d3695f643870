//! Extents of a log: what they cover of a file is cut out of the extents it had.

use rehost_block::{Result, round_up};

use super::super::bytes::put64;
use super::super::extent::{Extent, Held};
use super::super::key::{Key, kind};
use super::super::tree::Item;
use super::Replay;

impl Replay<'_> {
    pub(super) fn extent(&mut self, item: &Item) -> Result<()> {
        let sector = self.edited.nodes.sb.sector;
        let f = item.fields("extent item");
        let extent = Extent::parse(item.key.offset, &f, sector)?;
        let end = round_up(extent.end(), u64::from(sector));
        self.drop_extents(item.key.id, extent.start, end)?;
        if matches!(extent.held, Held::Hole) {
            return Ok(());
        }
        self.edited.set(item.key, item.bytes().to_vec())
    }

    /// Makes a hole from `from` to `to`.
    pub(super) fn drop_extents(&mut self, number: u64, from: u64, to: u64) -> Result<()> {
        let sector = self.edited.nodes.sb.sector;
        let tree = self.edited.tree();
        let start = Key::new(number, kind::EXTENT_DATA, from);
        let first = tree
            .before(start)?
            .map_or(start, |item| item.key.min(start));
        let last = Key::new(number, kind::EXTENT_DATA, to.saturating_sub(1));
        if first > last {
            return Ok(());
        }
        let mut items = tree.range(first, last)?;
        let mut cut = Vec::new();
        // Ends because a walk through a tree does.
        while let Some(item) = items.next()? {
            if !item.key.is(number, kind::EXTENT_DATA) {
                continue;
            }
            let f = item.fields("extent item");
            let extent = Extent::parse(item.key.offset, &f, sector)?;
            if extent.end() > from && extent.start < to {
                cut.push((item.key, extent, item.bytes().to_vec()));
            }
        }
        drop(items);
        for (key, extent, raw) in cut {
            self.edited.delete(key)?;
            if matches!(extent.held, Held::Inline) {
                continue;
            }
            if extent.start < from {
                let mut left = raw.clone();
                put64(&mut left, 45, from.saturating_sub(extent.start))?;
                self.edited.set(key, left)?;
            }
            if extent.end() > to {
                let mut right = raw;
                let skipped = to.saturating_sub(extent.start);
                let f = rehost_block::Fields::new(&right, "extent item", 0);
                let skip = f.u64_le(37)?.saturating_add(skipped);
                put64(&mut right, 37, skip)?;
                put64(&mut right, 45, extent.end().saturating_sub(to))?;
                self.edited.set(Key { offset: to, ..key }, right)?;
            }
        }
        Ok(())
    }
}
