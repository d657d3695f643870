//! `Memory`: a storage in memory, for small overlays and for tests.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::disk::{amount, length};
use crate::{Error, Result, Storage, StorageMut};

/// Bytes in memory. Grows when written past its end.
#[derive(Debug)]
pub struct Memory {
    name: PathBuf,
    bytes: RwLock<Vec<u8>>,
}

impl Memory {
    /// `bytes`, called `name` in messages.
    #[must_use]
    pub fn new(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            bytes: RwLock::new(bytes),
        }
    }

    /// A copy of what it holds.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Storage for Memory {
    fn name(&self) -> &Path {
        &self.name
    }

    fn size(&self) -> u64 {
        amount(
            self.bytes
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .len(),
        )
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let from = length(offset)?;
        let stored = from
            .checked_add(buf.len())
            .and_then(|end| bytes.get(from..end));
        buf.copy_from_slice(stored.ok_or_else(|| {
            Error::corrupt("file is truncated")
                .in_file(&self.name)
                .at(offset)
                .mismatch(
                    format!("{} more bytes", buf.len()),
                    bytes.len().saturating_sub(from),
                )
        })?);
        Ok(())
    }
}

impl StorageMut for Memory {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let from = length(offset)?;
        let end = from
            .checked_add(data.len())
            .ok_or_else(|| Error::usage("write past the address space").at(offset))?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(place) = bytes.get_mut(from..end) {
            place.copy_from_slice(data);
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let size = length(size)?;
        self.bytes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .resize(size, 0);
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let from = length(offset)?.min(bytes.len());
        let end = from.saturating_add(length(len)?).min(bytes.len());
        if let Some(place) = bytes.get_mut(from..end) {
            place.fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
