//! Dirty flags and the free-cluster summary (FSInfo).
//!
//! Windows keeps its flag in table entry 1 (a set bit means clean), Linux in a byte of the boot
//! sector (a set bit means dirty). Both are kept; FAT12 has only the second.

use std::collections::BTreeMap;

use rehost_block::{DiskMut, Result};

use super::super::Fat;
use super::super::boot::{LEN, Width};
use super::super::number::put;
use super::State;

/// The bits of table entry 1 that say: cleanly unmounted, no input or output errors.
const fn clean_bit(width: Width) -> u32 {
    match width {
        Width::Fat12 => 0,
        Width::Fat16 => 0x8000,
        Width::Fat32 => 0x0800_0000,
    }
}

/// What the marks are set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Clean,
    Dirty,
}

/// Whether a sector is a free-cluster summary.
pub(in crate::fat) fn is_summary(raw: &[u8; LEN]) -> bool {
    raw.starts_with(b"RRaA")
        && raw.get(484..488) == Some(b"rrAa")
        && raw.get(508..512) == Some(&[0, 0, 0x55, 0xaa])
}

impl Fat {
    /// Whether neither flag says that it is dirty.
    pub(in crate::fat) fn is_clean(&self) -> Result<bool> {
        let bit = clean_bit(self.boot.width);
        if self.table.raw(1)? & bit != bit {
            return Ok(false);
        }
        let Some(at) = self.boot.state_at else {
            return Ok(true);
        };
        let mut state = [0];
        self.disk.read_at(&mut state, at)?;
        Ok(state.iter().all(|state| state & 1 == 0))
    }
}

impl State {
    /// Marks the filesystem, unless it was dirty before.
    pub(super) fn mark(&self, disk: &dyn DiskMut, mark: Mark) -> Result<()> {
        if !self.clean {
            return Ok(());
        }
        let bit = clean_bit(self.fs.boot.width);
        if bit != 0 {
            let value = self.fs.table.raw(1)?;
            let value = if mark == Mark::Clean {
                value | bit
            } else {
                value & !bit
            };
            self.fs.table.store(disk, &BTreeMap::from([(1, value)]))?;
        }
        if let Some(at) = self.fs.boot.state_at {
            let mut state = [0];
            self.fs.disk.read_at(&mut state, at)?;
            let state = state.map(|byte| {
                if mark == Mark::Clean {
                    byte & !1
                } else {
                    byte | 1
                }
            });
            disk.write_at(&state, at)?;
        }
        disk.sync()
    }

    /// Writes how many clusters are free and where the search for one may begin.
    pub(super) fn summarise(&self, disk: &dyn DiskMut) -> Result<()> {
        let Some(at) = self.fs.boot.summary else {
            return Ok(());
        };
        let mut raw = [0; LEN];
        self.fs.disk.read_at(&mut raw, at)?;
        if !is_summary(&raw) {
            return Ok(());
        }
        put(&mut raw, 488, &self.survey.free.to_le_bytes())?;
        put(&mut raw, 492, &self.hint.to_le_bytes())?;
        disk.write_at(&raw, at)
    }
}
