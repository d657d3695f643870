//! Which table a disk has: the order of questions is Linux's own.

use std::sync::Arc;

use rehost_block::{Disk, Result};

use crate::mbr::{self, Sector};
use crate::{Layout, Table, Volume, guid, signs};

/// Reads the partition table of `disk`.
///
/// A GPT counts only where sector 0 announces one (a protective or hybrid entry of type `0xee`),
/// as in Linux, so that a stale GPT under a newer DOS table is not taken. A boot sector of a
/// filesystem that fills the whole disk is not taken for a table. Tables of other kinds, on the
/// disk or in a partition, are named among the damage.
///
/// # Errors
/// Corrupt when a GPT is announced and neither of its copies is whole; otherwise as reading the
/// disk.
pub fn scan(disk: &Arc<dyn Disk>) -> Result<Layout> {
    let mut layout = match Sector::read(disk)? {
        Some(sector) if sector.announces_gpt() => guid::layout(disk)?,
        Some(sector) if sector.is_table(disk)? => mbr::layout(disk, &sector)?,
        _ => whole(disk),
    };
    if let Some(other) = signs::on_disk(disk)? {
        layout
            .damage
            .push(format!("the disk has {other}, which is not read"));
    }
    if layout.table != Table::None {
        for volume in &layout.volumes {
            if let Some(other) = signs::in_partition(disk, volume.range.start)? {
                layout.damage.push(format!(
                    "partition {} has {other}, which is not read",
                    volume.number
                ));
            }
        }
    }
    Ok(layout)
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
