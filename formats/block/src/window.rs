//! `Window`: a part of a disk as a disk of its own (a partition, an extent).

use std::sync::Arc;

use crate::disk::{Disk, DiskMut, Located, Run, amount, check_range};
use crate::{Error, Result};

/// `len` bytes of a disk from `start`.
#[derive(Debug, Clone)]
pub struct Window<D: ?Sized = dyn Disk> {
    start: u64,
    len: u64,
    disk: Arc<D>,
}

/// A window through which can be written.
pub type WindowMut = Window<dyn DiskMut>;

impl<D: Disk + ?Sized> Window<D> {
    /// `len` bytes of `disk` from byte `start`.
    ///
    /// # Errors
    /// Corrupt when the window reaches past the end of the disk.
    pub fn new(disk: Arc<D>, start: u64, len: u64) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= disk.size() => Ok(Self { start, len, disk }),
            _ => Err(Error::corrupt("part reaches past the end of its disk")
                .at(start)
                .mismatch(
                    format!("an end of at most {}", disk.size()),
                    format!("{len} bytes"),
                )),
        }
    }

    /// Byte offset of the window in its disk.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    fn translate(&self, offset: u64, len: u64) -> Result<u64> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        match self.start.checked_add(offset) {
            Some(at) if inside => Ok(at),
            _ => Err(Error::usage("range reaches past the end of the window").at(offset)),
        }
    }
}

impl<D: Disk + ?Sized> Disk for Window<D> {
    fn size(&self) -> u64 {
        self.len
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.len.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        self.disk.locate(self.translate(offset, want)?, want)
    }

    // Not the default: the disk below may cache decoded units.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len())?;
        self.disk
            .read_at(buf, self.translate(offset, amount(buf.len()))?)
    }
}

impl<D: DiskMut + ?Sized> DiskMut for Window<D> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.disk
            .write_at(data, self.translate(offset, amount(data.len()))?)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.zero_at(self.translate(offset, len)?, len)
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }
}
