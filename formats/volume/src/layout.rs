//! What a scan of a disk gives: its volumes, and each of them as a disk.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Result, Window, WindowMut};
use serde::Serialize;

use crate::Backing;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// DOS partition table, primary and logical partitions.
    Mbr,
    /// GUID partition table.
    Gpt,
    /// No table: the whole disk is one volume.
    None,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Its number, as Linux counts (logical partitions from 5); 0 for a whole disk.
    pub number: u32,
    /// Where it is on the disk, in bytes, as the table says (it may reach past a truncated disk;
    /// empty when the table says that it ends before it starts).
    pub range: Range<u64>,
    /// Its type: `0x83`, or the GUID of a GPT type in lower case; empty for a whole disk.
    pub kind: String,
    /// What `PARTUUID=` says for it, in lower case (MBR: `disk-signature` `-` `number`, in hex).
    pub partuuid: Option<String>,
    /// GPT partition name.
    pub name: Option<String>,
    /// The MBR active flag or the GPT legacy-boot attribute.
    pub bootable: bool,
}

/// The volumes of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Which table was found.
    pub table: Table,
    /// `PTUUID`: MBR disk signature (8 hex digits) or GPT disk GUID.
    pub id: Option<String>,
    /// Bytes per logical sector, as the table counts.
    pub sector: u32,
    /// The partitions in table order. An extended partition is listed too, as Linux does.
    pub volumes: Vec<Volume>,
    /// What is wrong with the table without hiding the volumes above: a lost GPT copy, a chain of
    /// logical partitions that breaks off. One sentence each; empty for a healthy table.
    pub damage: Vec<String>,
}

impl Layout {
    /// The volume called `number`.
    #[must_use]
    pub fn volume(&self, number: u32) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.number == number)
    }

    /// Volume `number` of `disk` as a disk of its own.
    ///
    /// # Errors
    /// Usage when there is no such volume; Corrupt when it is empty or reaches past the end of
    /// the disk.
    pub fn open(&self, disk: &Arc<dyn Disk>, number: u32) -> Result<Arc<dyn Disk>> {
        let (start, len) = self.place(number, disk.size())?;
        Ok(Arc::new(Window::new(Arc::clone(disk), start, len)?))
    }

    /// Volume `number` of `disk` as a disk of its own that can be written.
    ///
    /// # Errors
    /// As [`Layout::open`].
    pub fn open_mut(&self, disk: &Arc<dyn DiskMut>, number: u32) -> Result<Arc<dyn DiskMut>> {
        let (start, len) = self.place(number, disk.size())?;
        Ok(Arc::new(WindowMut::new(Arc::clone(disk), start, len)?))
    }

    /// Volume `number` of a disk, to be written where the disk can be.
    pub(crate) fn part(&self, disk: &Backing, number: u32) -> Result<Backing> {
        let (start, len) = self.place(number, disk.size())?;
        disk.window(start, len)
    }

    fn place(&self, number: u32, disk: u64) -> Result<(u64, u64)> {
        let volume = self.volume(number).ok_or_else(|| {
            let known: Vec<String> = self.volumes.iter().map(|v| v.number.to_string()).collect();
            Error::usage(format!("there is no partition {number}"))
                .hint(format!("the disk has: {}", known.join(", ")))
        })?;
        let range = &volume.range;
        if range.end > disk {
            return Err(Error::corrupt(format!(
                "partition {number} reaches past the end of the disk"
            ))
            .in_structure("partition table")
            .at(range.start)
            .mismatch(format!("an end of at most {disk}"), range.end)
            .hint("the image may be truncated: compare its size with the original disk"));
        }
        if range.is_empty() {
            return Err(Error::corrupt(format!("partition {number} is empty"))
                .in_structure("partition table")
                .at(range.start));
        }
        Ok((range.start, range.end.saturating_sub(range.start)))
    }
}
