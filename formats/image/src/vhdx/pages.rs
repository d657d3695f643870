//! `Pages`: the parts of the block allocation table and of sector bitmaps that were read last.

use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Result, Storage};

use super::patched::Patched;
use super::{KIB64, length};

/// Pages kept: 16 MiB, which cover 2 Mi blocks.
const KEPT: usize = 256;

/// A bounded cache of pages of the replayed file.
#[derive(Debug)]
pub(super) struct Pages {
    storage: Arc<Patched>,
    slots: Vec<Mutex<Option<Page>>>,
}

/// [`KIB64`] bytes of the file, fewer at its end.
#[derive(Debug, Clone)]
pub(super) struct Page {
    number: u64,
    bytes: Arc<Vec<u8>>,
}

impl Page {
    /// The bytes from `at`, an offset in the file, to the page's end; none when `at` is not in it.
    pub(super) fn from(&self, at: u64) -> &[u8] {
        if at / KIB64 != self.number {
            return &[];
        }
        usize::try_from(at % KIB64)
            .ok()
            .and_then(|within| self.bytes.get(within..))
            .unwrap_or_default()
    }
}

impl Pages {
    pub(super) fn new(storage: Arc<Patched>) -> Self {
        Self {
            storage,
            slots: (0..KEPT).map(|_| Mutex::default()).collect(),
        }
    }

    /// The page with the byte at `at`, which lies inside the file.
    pub(super) fn page(&self, at: u64) -> Result<Page> {
        let number = at / KIB64;
        let slot = usize::try_from(number).unwrap_or(0) % KEPT;
        let Some(slot) = self.slots.get(slot) else {
            return self.read(number);
        };
        let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(page) if page.number == number => Ok(page.clone()),
            _ => Ok(kept.insert(self.read(number)?).clone()),
        }
    }

    fn read(&self, number: u64) -> Result<Page> {
        let start = number.saturating_mul(KIB64);
        let left = self.storage.size().saturating_sub(start);
        let mut bytes = vec![0; length(left.min(KIB64))?];
        self.storage.read_at(&mut bytes, start)?;
        Ok(Page {
            number,
            bytes: Arc::new(bytes),
        })
    }
}
