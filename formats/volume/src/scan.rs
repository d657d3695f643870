//! Which table a disk has: the order of questions is Linux's own.

use std::sync::Arc;

use rehost_block::{Disk, Result};

use crate::mbr::{self, Sector};
use crate::{Layout, Table, Volume, guid};

/// Reads the partition table of `disk`.
///
/// A GPT counts only where sector 0 announces one (a protective or hybrid entry of type `0xee`),
/// as in Linux, so that a stale GPT under a newer DOS table is not taken. A boot sector of a
/// filesystem that fills the whole disk is not taken for a table.
///
/// # Errors
/// Unsupported for GPT entries of an unusual size; Corrupt when a GPT is announced and neither of
/// its copies is whole; otherwise as reading the disk.
pub fn scan(disk: &Arc<dyn Disk>) -> Result<Layout> {
    let Some(sector) = Sector::read(disk)? else {
        return Ok(whole(disk));
    };
    if sector.announces_gpt() {
        return guid::layout(disk);
    }
    if sector.is_table(disk)? {
        mbr::layout(disk, &sector)
    } else {
        Ok(whole(disk))
    }
}

fn whole(disk: &Arc<dyn Disk>) -> Layout {
    Layout {
        table: Table::None,
        id: None,
        sector: 512,
        volumes: vec![Volume {
            number: 0,
            range: 0..disk.size(),
            kind: String::new(),
            partuuid: None,
            name: None,
            bootable: false,
        }],
        damage: Vec::new(),
    }
}
