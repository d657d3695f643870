//! Another size and another parent for a VHDX.

use std::sync::Arc;

use rehost_block::{Error, Result, Storage, round_up};

use super::{NOT_PRESENT, Owner, Touched, VhdxEdit, start_of};
use crate::create::TargetBacking;
use crate::vhdx::items::Items;
use crate::vhdx::layout::{FULLY_PRESENT, PARTIALLY_PRESENT};
use crate::vhdx::locator;
use crate::vhdx::metadata::Geometry;
use crate::vhdx::open::Structures;
use crate::vhdx::region::{Region, Regions};
use crate::vhdx::{MAX_SIZE, MIB, length};

impl VhdxEdit {
    /// Changes the size, as [`LayerMut::resize`](crate::LayerMut::resize) does.
    pub(super) fn change_size(&mut self, size: u64) -> Result<()> {
        let old = *self.geometry();
        let new = Geometry::new(size, old.block.get(), old.sector.get()).ok_or_else(|| {
            Error::usage("size cannot be that of a VHDX").mismatch(
                format!("a multiple of {} up to {MAX_SIZE}", old.sector),
                size,
            )
        })?;
        self.touch(Touched::Data)?;
        self.shrink(&new)?;
        self.fit_table(new.entries(self.differencing()))?;
        self.clear_table(&old, &new)?;
        Items::read(&*self.storage, self.structures.regions.metadata)?.set_size(size)?;
        self.structures.metadata.geometry = new;
        if self.structures.metadata.leave_allocated {
            for block in old.blocks()..new.blocks() {
                self.allocate(Owner::Payload(block), FULLY_PRESENT)?;
            }
        }
        // The last block has more than its guest sees: whatever is there must not be seen now.
        for part in self.parts(old.size, size.saturating_sub(old.size)) {
            self.zero_part(&part)?;
        }
        self.refresh();
        Ok(())
    }

    /// Changes the parent, as [`LayerMut::set_backing`](crate::LayerMut::set_backing) does.
    pub(super) fn change_parent(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        let fixed = self.structures.metadata.leave_allocated;
        let bytes = backing.map(locator::encode).transpose()?;
        if fixed && backing.is_some() {
            return Err(Error::usage("a fixed VHDX cannot have a parent")
                .hint("convert it into a dynamic one first"));
        }
        self.touch(Touched::File)?;
        let old = *self.geometry();
        match &bytes {
            Some(_) if !self.differencing() => {
                self.fit_table(old.entries(true))?;
                let bat = self.structures.regions.bat.offset;
                let from = old.entries(false).saturating_mul(8);
                let to = old.entries(true).saturating_mul(8);
                self.storage
                    .zero_at(bat.saturating_add(from), to.saturating_sub(from))?;
            }
            None if self.differencing() => self.fill_blocks()?,
            _ => {}
        }
        let region = self.structures.regions.metadata;
        Items::read(&*self.storage, region)?.set_parent(bytes.as_deref())?;
        let readable: Arc<dyn Storage> = self.storage.clone();
        self.structures = Structures::read(&readable)?;
        self.refresh();
        Ok(())
    }

    /// Gives the table room for so many entries.
    fn fit_table(&mut self, entries: u64) -> Result<()> {
        let needed = entries.saturating_mul(8);
        let old = self.structures.regions.bat;
        if needed <= old.len {
            return Ok(());
        }
        let len = round_up(needed, MIB);
        let region = Region {
            offset: self.take(len)?,
            len,
        };
        self.copy(old.offset, region.offset, old.len)?;
        Regions::move_table(&*self.storage, region)?;
        self.structures.regions.bat = region;
        for taken in &mut self.structures.taken {
            if taken.range.start == old.offset {
                taken.range = region.offset..region.offset.saturating_add(len);
            }
        }
        Ok(())
    }

    fn shrink(&mut self, new: &Geometry) -> Result<()> {
        for block in new.blocks()..self.geometry().blocks() {
            self.release(Owner::Payload(block), NOT_PRESENT)?;
        }
        if self.differencing() {
            let ratio = self.geometry().chunk_ratio.get();
            let chunks = |geometry: &Geometry| geometry.blocks().div_ceil(ratio);
            for chunk in chunks(new)..chunks(self.geometry()) {
                self.release(Owner::Bitmap(chunk), NOT_PRESENT)?;
            }
        }
        Ok(())
    }

    /// Nothing of what an earlier, longer disk had is in the table.
    fn clear_table(&self, old: &Geometry, new: &Geometry) -> Result<()> {
        let differencing = self.differencing();
        let (from, to) = (old.entries(differencing), new.entries(differencing));
        let at = from.saturating_mul(8);
        let len = to.saturating_mul(8).saturating_sub(at);
        let table = self.structures.regions.bat.offset;
        self.storage.zero_at(table.saturating_add(at), len)
    }

    /// Makes every block the disk's own, with zeroes where its sectors were the parent's.
    fn fill_blocks(&mut self) -> Result<()> {
        let owners: Vec<Owner> = self.blocks.values().copied().collect();
        let sector = self.geometry().sector.get();
        for owner in &owners {
            let Owner::Payload(block) = *owner else {
                continue;
            };
            let entry = self.entry(*owner)?;
            if entry & 7 != PARTIALLY_PRESENT {
                continue;
            }
            let bits = self.geometry().bits(&self.whole(block));
            let bitmap = self.bitmap(block)?;
            let mut bytes = vec![0; length(bits.end.saturating_sub(bits.start).div_ceil(8))?];
            self.storage
                .read_at(&mut bytes, bitmap.saturating_add(bits.start / 8))?;
            for (nth, byte) in (0u64..).zip(bytes) {
                for bit in (0..8u32).filter(|bit| byte.rotate_right(*bit) & 1 == 0) {
                    let nth = nth.saturating_mul(8).saturating_add(u64::from(bit));
                    let at = nth.saturating_mul(sector);
                    self.storage
                        .zero_at(start_of(entry).saturating_add(at), sector)?;
                }
            }
            self.enter(*owner, start_of(entry) | FULLY_PRESENT)?;
        }
        for owner in owners {
            if matches!(owner, Owner::Bitmap(_)) {
                self.release(owner, NOT_PRESENT)?;
            }
        }
        Ok(())
    }
}
