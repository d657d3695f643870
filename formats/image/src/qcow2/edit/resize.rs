//! Another guest-visible size.

use rehost_block::{Disk, Error, Layer, Result, Run};

use super::super::entry::{amount, index};
use super::super::header::MAX_L1_BYTES;
use super::{Change, Edit};

/// QEMU counts disks in sectors.
const SECTOR: u64 = 512;

impl Edit {
    pub(super) fn change_size(&mut self, size: u64) -> Result<()> {
        let old = self.header.size;
        if size == old {
            return Ok(());
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(
                Error::usage("size is not of whole sectors").mismatch("a multiple of 512", size)
            );
        }
        let geometry = self.rules.geometry;
        if geometry.l1_entries(size).saturating_mul(8) > MAX_L1_BYTES {
            return Err(Error::usage("disk is too large for this cluster size")
                .hint("convert it into an image with larger clusters"));
        }
        self.refuse_for_snapshots(size)?;
        self.begin(Change::Content)?;
        self.begin(Change::Size)?;
        if size < old {
            self.shrink(size)?;
        } else {
            self.grow(size)?;
        }
        if self.header.data_file_raw
            && let Some(data) = &self.data
        {
            data.set_size(size)?;
        }
        self.write_header()
    }

    fn refuse_for_snapshots(&self, size: u64) -> Result<()> {
        let snapshots = &self.snapshots.entries;
        let hint = "delete its snapshots first, or convert it into a new image";
        if snapshots.is_empty() {
            Ok(())
        } else if size < self.header.size {
            Err(Error::unsupported("an image with snapshots cannot be shrunk").hint(hint))
        } else if snapshots.iter().any(|entry| entry.disk_size.is_none()) {
            // Its disk would grow with the active one.
            Err(
                Error::unsupported("a snapshot of this image does not say its disk's size")
                    .hint(hint),
            )
        } else {
            Ok(())
        }
    }

    fn shrink(&mut self, size: u64) -> Result<()> {
        let geometry = self.rules.geometry;
        let old = self.header.size;
        let whole = geometry.round_up(size);
        if whole < old {
            self.forget_range(whole, old.saturating_sub(whole))?;
        }
        // What was cut off must not come back when the disk grows again.
        let tail = self.tail(size)?;
        self.header.size = size;
        match tail {
            Some((start, bytes)) if self.stores(start)? => self.put_range(start, &bytes),
            _ => Ok(()),
        }
    }

    fn stores(&self, offset: u64) -> Result<bool> {
        let run = self.locate(offset, 1)?.run;
        Ok(matches!(run, Run::At { .. } | Run::Packed(_)))
    }

    /// The last cluster of a disk of `size` bytes, if it is not a whole one: its place, and its
    /// bytes up to there.
    fn tail(&self, size: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let within = self.rules.geometry.position(size).within;
        let start = size.saturating_sub(within);
        if within == 0 {
            return Ok(None);
        }
        let below = self.locate_below(start, within)?;
        if !below && !self.stores_any_run(start, within)? {
            return Ok(None);
        }
        let mut bytes = vec![0; index(within)];
        self.read(&mut bytes, start)?;
        Ok(Some((start, bytes)))
    }

    fn runs(&self, offset: u64, len: u64, is: fn(&Run) -> bool) -> Result<bool> {
        let end = offset.saturating_add(len).min(self.header.size);
        let mut at = offset;
        // Ends because every answer before the end has at least one byte.
        while at < end {
            let located = self.locate(at, end.saturating_sub(at))?;
            if is(&located.run) {
                return Ok(true);
            }
            at = at.saturating_add(located.len.max(1));
        }
        Ok(false)
    }

    fn locate_below(&self, offset: u64, len: u64) -> Result<bool> {
        self.runs(offset, len, |run| matches!(run, Run::Below))
    }

    fn stores_any_run(&self, offset: u64, len: u64) -> Result<bool> {
        self.runs(offset, len, |run| {
            matches!(run, Run::At { .. } | Run::Packed(_))
        })
    }

    /// Guest bytes, the parent's where they are not here.
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round fills at least one byte.
        while !rest.is_empty() {
            let located = self.locate(at, amount(rest.len()))?;
            let len = index(located.len).clamp(1, rest.len());
            let (part, tail) = rest.split_at_mut(len);
            match &located.run {
                Run::At { storage, offset } => storage.read_at(part, *offset)?,
                Run::Packed(packed) => {
                    let plain = packed.decode()?;
                    let from = index(packed.skip);
                    let bytes = plain
                        .get(from..from.saturating_add(len))
                        .ok_or_else(|| Error::internal("a packed run reaches past its unit"))?;
                    part.copy_from_slice(bytes);
                }
                Run::Below => self.read_parent(part, at)?,
                Run::Zero | Run::End => part.fill(0),
            }
            at = at.saturating_add(amount(len));
            rest = tail;
        }
        Ok(())
    }

    fn read_parent(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.fill(0);
        let parent: &dyn Disk = match &self.parent {
            None => return Ok(()),
            Some(Ok(parent)) => &**parent,
            Some(Err(why)) => {
                return Err(Error::usage(format!(
                    "the disk's last cluster is the backing file's, which cannot be read: {why}"
                )));
            }
        };
        let len = index(parent.size().saturating_sub(offset)).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        parent.read_at(part, offset)
    }

    fn grow(&mut self, size: u64) -> Result<()> {
        let geometry = self.rules.geometry;
        let old = self.header.size;
        let tail = self.tail(old)?;
        let used = geometry.l1_entries(old);
        // The state of a machine lies behind the disk, and would become a part of it.
        for l1 in used..amount(self.l1.len()) {
            self.drop_l2(l1)?;
        }
        let needed = geometry.l1_entries(size);
        if needed > self.header.l1_entries {
            let mut table = self.l1.clone();
            table.resize(index(needed), 0);
            self.move_l1(table)?;
        }
        self.header.size = size;
        let first = geometry.round_up(old);
        // The rest of the last L2 table.
        let span = geometry.l2_span().saturating_mul(used).min(size);
        if span > first {
            self.forget_range(first, span.saturating_sub(first))?;
        }
        if let Some((start, mut bytes)) = tail {
            let end = geometry.round_up(old).min(size);
            bytes.resize(index(end.saturating_sub(start)), 0);
            self.put_range(start, &bytes)?;
        }
        if self.header.backing_file.is_some() {
            let end = self.parent_size.unwrap_or(size).min(size);
            let end = geometry.round_up(end).min(size);
            if end > first {
                self.zero_range(first, end.saturating_sub(first))?;
            }
        }
        Ok(())
    }

    /// Makes `table` the active L1 table, at a new place.
    pub(super) fn move_l1(&mut self, table: Vec<u64>) -> Result<()> {
        let entries = amount(table.len());
        let offset = self.write_l1(&table)?;
        let old = (
            self.header.l1_offset,
            self.header.l1_entries.saturating_mul(8),
        );
        self.header.l1_offset = offset;
        self.header.l1_entries = entries;
        self.l1 = table;
        self.write_header()?;
        self.room.lower_all(old.0, old.1)
    }

    /// Writes `table` to clusters of its own; gives their place.
    pub(super) fn write_l1(&mut self, table: &[u64]) -> Result<u64> {
        let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let geometry = self.rules.geometry;
        let len = geometry.round_up(amount(bytes.len()).max(1));
        bytes.resize(index(len), 0);
        let offset = self.room.take(geometry.cluster_of(len))?;
        self.file.write_at(&bytes, offset)?;
        Ok(offset)
    }
}
