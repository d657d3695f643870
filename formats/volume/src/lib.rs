//! Partition tables: a disk becomes volumes, and each volume is a disk again.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

use std::ops::Range;

use serde::Serialize;

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
    /// Where it is on the disk, in bytes.
    pub range: Range<u64>,
    /// Its type: `0x83`, or the GUID of a GPT type in lower case.
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
    /// The partitions in table order.
    pub volumes: Vec<Volume>,
}
