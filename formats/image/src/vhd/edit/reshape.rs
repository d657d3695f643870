//! Another size and another parent for a VHD with blocks.

use rehost_block::{Error, Result, round_up};

use super::{Changed, VhdEdit};
use crate::blocks::amount;
use crate::create::TargetBacking;
use crate::sector_bits::Bit;
use crate::vhd::SECTOR;
use crate::vhd::check::claims;
use crate::vhd::footer::DiskType;
use crate::vhd::naming::{self, Naming, set};
use crate::vhd::sparse::{Absent, UNUSED, stretch};
use crate::vhd::target::whole;

impl VhdEdit {
    /// Changes the size, as [`LayerMut::resize`](crate::LayerMut::resize) does.
    pub(super) fn change_size(&mut self, size: u64) -> Result<()> {
        if whole(size)? != size {
            return Err(
                Error::usage("size cannot be that of a VHD").mismatch("a multiple of 512", size)
            );
        }
        let old = self.sparse.size;
        if size > old && self.sparse.absent == Absent::Below && self.parent.is_none() {
            return Err(Error::usage("cannot be made larger without its parent")
                .in_structure("parent locator entry")
                .hint("put the parent beside it: what it holds past the end must stay hidden"));
        }
        self.changed = Changed::Yes;
        let block = self.sparse.header.block;
        let entries = size.div_ceil(block.get());
        for index in entries..self.sparse.header.entries {
            self.release(index)?;
        }
        // Nobody says what is in the last block past the end, on either side of the change.
        let edge = size.min(old);
        let within = edge % block;
        if within != 0 {
            let to = match self.sparse.absent {
                Absent::Zero => Bit::Set,
                Absent::Below => Bit::Clear,
            };
            let rest = block.get().saturating_sub(within);
            self.blank(edge / block, within, rest, to)?;
        }
        self.fit_table(size)?;
        self.sparse.size = size;
        self.footer.set_size(size);
        let hidden = self.parent.unwrap_or(0).min(size);
        for part in self.parts(old, hidden.saturating_sub(old)) {
            self.ensure(part.index)?;
            self.blank(part.index, part.within, part.len, Bit::Set)?;
        }
        Ok(())
    }

    /// Changes the parent, as [`LayerMut::set_backing`](crate::LayerMut::set_backing) does.
    pub(super) fn change_parent(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        match backing {
            Some(backing) => {
                let naming = Naming::of(backing)?;
                self.name_parent(&naming)?;
                self.sparse.absent = Absent::Below;
                self.parent = Some(backing.size);
                self.footer.set_type(DiskType::Differencing);
            }
            None => {
                if self.sparse.absent == Absent::Below {
                    self.fill_blocks()?;
                }
                naming::forget(&mut self.header);
                self.sparse.header.parent.locators.clear();
                self.sparse.absent = Absent::Zero;
                self.parent = None;
                self.footer.set_type(DiskType::Dynamic);
            }
        }
        self.changed = Changed::Yes;
        Ok(())
    }

    /// The table, as long as the disk of `size` bytes needs it.
    fn fit_table(&mut self, size: u64) -> Result<()> {
        let block = self.sparse.header.block;
        let entries = size.div_ceil(block.get());
        let old = self.sparse.header.entries;
        if entries > old {
            let old_len = round_up(old.saturating_mul(4), SECTOR);
            let len = round_up(entries.saturating_mul(4), SECTOR);
            let table = self.sparse.header.table;
            let room = table.saturating_add(old_len)..table.saturating_add(len);
            let neighbours = claims(&self.sparse.header, &self.sparse.table);
            let blocked = neighbours.starts_in(&room) || room.end > self.end();
            let count = usize::try_from(entries)
                .map_err(|_| Error::unsupported("table exceeds this machine's memory"))?;
            let mut words = self.sparse.table.clone();
            words.resize(count, UNUSED);
            let mut bytes: Vec<u8> = words.iter().copied().flat_map(u32::to_be_bytes).collect();
            bytes.resize(bytes.len().next_multiple_of(512), 0xff);
            if blocked {
                let place = round_up(self.end(), SECTOR);
                self.extend(place, amount(&bytes))?;
                self.sparse.header.table = place;
            }
            self.storage.write_at(&bytes, self.sparse.header.table)?;
            self.sparse.table = words;
        } else {
            let count = usize::try_from(entries).unwrap_or(usize::MAX);
            self.sparse.table.truncate(count);
        }
        self.sparse.header.entries = entries;
        let count = u32::try_from(entries).map_err(|_| Error::internal("too many blocks"))?;
        set(
            &mut self.header,
            16,
            &self.sparse.header.table.to_be_bytes(),
        );
        set(&mut self.header, 28, &count.to_be_bytes());
        Ok(())
    }

    /// Makes all sectors of all blocks the disk's own, with zeroes where they were the parent's.
    fn fill_blocks(&mut self) -> Result<()> {
        let blocks: Vec<(u64, u64)> = self
            .blocks
            .iter()
            .map(|(at, index)| (*at, *index))
            .collect();
        let sectors = self.sparse.header.block.get() / SECTOR;
        for (start, index) in blocks {
            let mut bits = vec![0; usize::try_from(sectors.div_ceil(8)).unwrap_or(0)];
            self.storage.read_at(&mut bits, start)?;
            let data = start.saturating_add(self.sparse.bitmap_len);
            let mut sector = 0;
            // Ends because every stretch has at least a sector.
            while sector < sectors {
                let (set, len) = stretch(&bits, sector, sectors);
                if !set {
                    let at = data.saturating_add(sector.saturating_mul(SECTOR));
                    self.storage.zero_at(at, len.saturating_mul(SECTOR))?;
                }
                sector = sector.saturating_add(len.max(1));
            }
            self.mark(index, start, 0, sectors.saturating_mul(SECTOR), Bit::Set)?;
        }
        Ok(())
    }

    /// Lays `names` into the file and describes the parent in the header.
    fn name_parent(&mut self, naming: &Naming) -> Result<()> {
        let names = naming.names();
        self.sparse.header.parent.locators.clear();
        let gaps = claims(&self.sparse.header, &self.sparse.table).gaps(amount(&names));
        let inside = gaps.iter().map(|gap| round_up(gap.start, SECTOR)..gap.end);
        let place = inside
            .into_iter()
            .find(|gap| gap.end.saturating_sub(gap.start) >= amount(&names) && gap.start < gap.end)
            .map(|gap| gap.start);
        let place = match place {
            Some(place) => place,
            None => {
                let place = round_up(self.end(), SECTOR);
                self.extend(place, amount(&names))?;
                place
            }
        };
        self.storage.write_at(&names, place)?;
        naming.describe(&mut self.header, place);
        self.sparse.header.parent = naming::parsed(&self.header, self.sparse.header.at)?;
        Ok(())
    }
}
