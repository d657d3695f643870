//! A disk that remembers where it was written.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Disk, DiskMut, Located, Result};

/// Passes everything on, and keeps the ranges of writes.
#[derive(Debug)]
pub(super) struct Record {
    disk: Arc<dyn DiskMut>,
    ranges: Mutex<Vec<Range<u64>>>,
}

impl Record {
    pub(super) fn new(disk: Arc<dyn DiskMut>) -> Self {
        Self {
            disk,
            ranges: Mutex::default(),
        }
    }

    /// The ranges written since the last call, in order, merged.
    pub(super) fn take(&self) -> Vec<Range<u64>> {
        let mut ranges = std::mem::take(&mut *self.lock());
        ranges.sort_by_key(|range| range.start);
        ranges.into_iter().fold(Vec::new(), |mut merged, range| {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
            merged
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, offset: u64, len: u64) {
        if len > 0 {
            self.lock().push(offset..offset.saturating_add(len));
        }
    }
}

impl Disk for Record {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.disk.locate(offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buf, offset)
    }
}

impl DiskMut for Record {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.disk.write_at(data, offset)?;
        self.note(offset, data.len() as u64);
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.zero_at(offset, len)?;
        self.note(offset, len);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::{Memory, Overlay, StorageDisk};

    #[test]
    fn ranges_are_merged_and_taken_once() {
        let base = StorageDisk::new(Arc::new(Memory::new("base", vec![0; 1 << 16])));
        let record = Record::new(Arc::new(Overlay::in_memory(Arc::new(base))));
        record.write_at(&[1; 10], 100).unwrap();
        record.write_at(&[1; 10], 4096).unwrap();
        record.zero_at(90, 10).unwrap();
        assert_eq!(record.take(), [90..110, 4096..4106]);
        assert!(record.take().is_empty());
    }
}
