//! One hosted sparse extent changed in place.
//!
//! VMware "Virtual Disk Format 5.0", "Hosted Sparse Extents". New grains and tables come at the end
//! of the file. Both sets of tables are kept alike. A grain that is to read as zeroes keeps its room
//! (as a hole); one that is to read as the parent gives it up, which is a leak unless it is the
//! file's last.

use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut, round_up};

use super::entries::{self, Grain};
use super::header::Header;
use super::members::ExtentFile;
use super::sparse::Absent;
use super::sparse_file::{ZEROED, entry};
use super::{SECTOR, amount, length};

/// The header's flag for zeroed grains, and the version that has it.
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const ZEROED_GRAINS_VERSION: u32 = 2;

/// An extent that can be changed. Offsets are its own, in bytes.
#[derive(Debug)]
pub(super) struct SparseEdit {
    pub(super) file: ExtentFile,
    storage: Arc<dyn StorageMut>,
    pub(super) header: Header,
}

impl SparseEdit {
    pub(super) fn new(file: ExtentFile, storage: Arc<dyn StorageMut>, header: Header) -> Self {
        Self {
            file,
            storage,
            header,
        }
    }

    /// Stores `plain`, which begins at a grain and ends at one or at the end of the extent.
    pub(super) fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        let grain = self.header.grain;
        for (index, part) in (offset / grain..).zip(plain.chunks(length(grain.get())?)) {
            let at = match self.grain(index)? {
                Grain::Stored(at) => at,
                Grain::Absent | Grain::Zero => {
                    let at = self.end(grain.get())?;
                    self.storage.set_size(at.saturating_add(grain.get()))?;
                    self.enter(index, entry(at / SECTOR)?)?;
                    at
                }
            };
            self.storage.write_at(part, at)?;
        }
        Ok(())
    }

    /// Makes grains read as zeroes.
    pub(super) fn zero(&mut self, offset: u64, len: u64, absent: Absent) -> Result<()> {
        let grain = self.header.grain;
        let end = offset.saturating_add(len).div_ceil(grain.get());
        for index in offset / grain..end {
            match (self.grain(index)?, absent) {
                (Grain::Stored(at), _) => self.storage.zero_at(at, grain.get())?,
                (Grain::Absent, Absent::Below) => {
                    self.allow_zeroed()?;
                    self.enter(index, ZEROED)?;
                }
                (Grain::Zero, _) | (Grain::Absent, Absent::Zero) => {}
            }
        }
        Ok(())
    }

    /// Gives up the room of grains.
    pub(super) fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        let grain = self.header.grain;
        let end = offset.saturating_add(len).div_ceil(grain.get());
        // From the last to the first, because those at the end of the file are cut off.
        for index in (offset / grain..end).rev() {
            let before = self.grain(index)?;
            if before == Grain::Absent {
                continue;
            }
            self.enter(index, 0)?;
            if let Grain::Stored(at) = before {
                if at.saturating_add(grain.get()) == self.storage.size() {
                    self.storage.set_size(at)?;
                } else {
                    self.storage.zero_at(at, grain.get())?;
                }
            }
        }
        Ok(())
    }

    /// Changes the capacity to `capacity` bytes. What is new reads as zeroes.
    pub(super) fn resize(&mut self, capacity: u64, absent: Absent) -> Result<()> {
        let before = self.header.capacity;
        let grain = self.header.grain;
        if capacity < before {
            let kept = round_up(capacity, grain.get());
            self.forget(kept, before.saturating_sub(kept))?;
        }
        // The end of a grain of which the disk has only a part now or had only a part before.
        let edge = before.min(capacity);
        let within = edge % grain;
        if within != 0 {
            match (self.grain(edge / grain)?, absent) {
                (Grain::Stored(at), _) => {
                    let rest = grain.get().saturating_sub(within);
                    self.storage.zero_at(at.saturating_add(within), rest)?;
                }
                (Grain::Absent, Absent::Below) if capacity > before => {
                    return Err(Error::unsupported(
                        "disk ends inside a grain that only its parent has, and cannot grow",
                    )
                    .hint("flatten it first, or convert it into a new image"));
                }
                _ => {}
            }
        }
        let covered = grain.get().saturating_mul(self.header.gtes_per_gt.get());
        let tables = capacity.div_ceil(covered);
        if tables > super::header::MAX_GD_ENTRIES {
            return Err(Error::usage("size cannot be that of a sparse VMDK"));
        }
        if tables > self.header.gd_entries {
            self.grow_directories(tables)?;
        }
        self.header.gd_entries = tables;
        self.header.capacity = capacity;
        self.write_u64(12, capacity / SECTOR)?;
        if capacity > before && absent == Absent::Below {
            let from = round_up(before, grain.get());
            self.zero(from, capacity.saturating_sub(from), absent)?;
        }
        Ok(())
    }

    /// Room for `tables` entries in each directory, at the end of the file where it does not do, and
    /// tables for the new ones: QEMU writes to no grain without a table.
    fn grow_directories(&mut self, tables: u64) -> Result<()> {
        let old = self.header.gd_entries;
        let gd = self.header.gd.unwrap_or(0);
        let gd = self.grow_directory(56, gd, old, tables)?;
        self.header.gd = Some(gd);
        if let Some(rgd) = self.header.rgd {
            self.header.rgd = Some(self.grow_directory(48, rgd, old, tables)?);
        }
        Ok(())
    }

    /// Grows the directory at `at`, named by the header's field at `field`; gives its place.
    fn grow_directory(&self, field: u64, at: u64, old: u64, tables: u64) -> Result<u64> {
        let mut bytes = vec![0; length(old.saturating_mul(4))?];
        self.storage.read_at(&mut bytes, at)?;
        let first = self.end(SECTOR)?;
        let count = tables.saturating_sub(old);
        let gt_len = self.header.gt_len();
        let end = first.saturating_add(count.saturating_mul(gt_len));
        for nth in 0..count {
            let table = first.saturating_add(nth.saturating_mul(gt_len));
            bytes.extend(entry(table / SECTOR)?.to_le_bytes());
        }
        let room = round_up(old.saturating_mul(4), SECTOR);
        let len = amount(bytes.len());
        let (place, end) = if len <= room {
            (at, end)
        } else {
            (end, end.saturating_add(round_up(len, SECTOR)))
        };
        self.storage.set_size(end)?;
        self.storage.write_at(&bytes, place)?;
        self.write_u64(field, place / SECTOR)?;
        Ok(place)
    }

    /// Where something new goes: the end of the file, at a multiple of `align`.
    fn end(&self, align: u64) -> Result<u64> {
        self.storage
            .size()
            .checked_next_multiple_of(align)
            .ok_or_else(|| Error::internal("an alignment of nothing"))
    }

    fn write_u64(&self, at: u64, value: u64) -> Result<()> {
        self.storage.write_at(&value.to_le_bytes(), at)
    }

    /// Where the entry of grain `index` is in the table that the directory at `gd` names; `None`
    /// where it names none.
    fn slot(&self, gd: u64, index: u64) -> Result<Option<u64>> {
        let number = index / self.header.gtes_per_gt;
        let mut word = [0; 4];
        self.storage
            .read_at(&mut word, gd.saturating_add(number.saturating_mul(4)))?;
        let nth = index % self.header.gtes_per_gt;
        Ok(entries::table_at(&self.header, u32::from_le_bytes(word))
            .map(|table| table.saturating_add(nth.saturating_mul(4))))
    }

    /// What is stored of grain `index`.
    fn grain(&self, index: u64) -> Result<Grain> {
        let Some(slot) = self.slot(self.header.gd.unwrap_or(0), index)? else {
            return Ok(Grain::Absent);
        };
        let mut word = [0; 4];
        self.storage.read_at(&mut word, slot)?;
        let grain = entries::grain(&self.header, u32::from_le_bytes(word).into());
        match grain.unwrap_or(Grain::Absent) {
            // A write there would damage more than there is to mend.
            Grain::Stored(at) if self.is_misplaced(at) => Err(Error::corrupt(
                "grain lies outside the file or over its metadata",
            )
            .in_structure("grain table")
            .in_file(&self.file.path)
            .at(slot)
            .hint("run check --repair first")),
            grain => Ok(grain),
        }
    }

    /// Whether no grain can be at `at`.
    fn is_misplaced(&self, at: u64) -> bool {
        let end = at.saturating_add(self.header.grain.get());
        let over = |start: u64, len: u64| at < start.saturating_add(len) && start < end;
        let (text, text_len) = self.header.descriptor.unwrap_or((0, SECTOR));
        let directories = [self.header.gd, self.header.rgd];
        at >= self.storage.size()
            || over(0, SECTOR)
            || over(text, text_len)
            || directories
                .into_iter()
                .flatten()
                .any(|gd| over(gd, self.header.gd_len()))
    }

    /// Writes the entry of grain `index` into both sets of tables, which are made where they are
    /// not.
    fn enter(&self, index: u64, value: u32) -> Result<()> {
        for gd in [self.header.gd, self.header.rgd].into_iter().flatten() {
            let slot = match self.slot(gd, index)? {
                Some(slot) => slot,
                None if value == 0 => continue,
                None => {
                    let table = self.end(SECTOR)?;
                    self.storage
                        .set_size(table.saturating_add(self.header.gt_len()))?;
                    let number = index / self.header.gtes_per_gt;
                    let word = entry(table / SECTOR)?.to_le_bytes();
                    let at = gd.saturating_add(number.saturating_mul(4));
                    self.storage.write_at(&word, at)?;
                    let nth = index % self.header.gtes_per_gt;
                    table.saturating_add(nth.saturating_mul(4))
                }
            };
            self.storage.write_at(&value.to_le_bytes(), slot)?;
        }
        Ok(())
    }

    /// Makes the header allow entries of zeroed grains.
    fn allow_zeroed(&mut self) -> Result<()> {
        if self.header.zeroed_grains {
            return Ok(());
        }
        let mut bytes = [0; 12];
        self.storage.read_at(&mut bytes, 0)?;
        let fields = rehost_block::Fields::new(&bytes, "sparse extent header", 0);
        let version = fields.u32_le(4)?.max(ZEROED_GRAINS_VERSION);
        let flags = fields.u32_le(8)? | FLAG_ZEROED_GRAINS;
        self.storage.write_at(&version.to_le_bytes(), 4)?;
        self.storage.write_at(&flags.to_le_bytes(), 8)?;
        self.header.zeroed_grains = true;
        Ok(())
    }
}
