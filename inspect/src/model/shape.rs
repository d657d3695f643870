//! The shape in JSON of values that other crates define, for the schema alone. A test holds them against
//! what is really written.
#![allow(dead_code)]

use schemars::JsonSchema;

/// How a disk is divided.
#[derive(JsonSchema)]
pub(super) struct Layout {
    /// Which table was found.
    table: Table,
    /// MBR disk signature (8 hex digits) or GPT disk GUID.
    id: Option<String>,
    /// Bytes per logical sector, as the table counts.
    sector: u32,
    /// The partitions in table order.
    volumes: Vec<Partition>,
    /// What is wrong with the table, one sentence each.
    damage: Vec<String>,
}

/// A kind of partition table.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Table {
    /// DOS partition table, primary and logical partitions.
    Mbr,
    /// GUID partition table.
    Gpt,
    /// No table: the whole disk is one volume.
    None,
}

/// One partition.
#[derive(JsonSchema)]
struct Partition {
    /// Its number, as Linux counts; 0 for a whole disk.
    number: u32,
    /// Where it is on the disk, in bytes.
    range: Bytes,
    /// Its type: `0x83`, or the GUID of a GPT type in lower case; empty for a whole disk.
    kind: String,
    /// What `PARTUUID=` says for it.
    partuuid: Option<String>,
    /// GPT partition name.
    name: Option<String>,
    /// The MBR active flag or the GPT legacy-boot attribute.
    bootable: bool,
}

/// A range of bytes, without its end.
#[derive(JsonSchema)]
struct Bytes {
    /// The first byte.
    start: u64,
    /// The byte after the last one.
    end: u64,
}

/// What a filesystem says of itself.
#[derive(JsonSchema)]
pub(super) struct Identity {
    /// `ext4`, `xfs`, …, as `blkid` prints them.
    kind: String,
    /// UUID as `blkid` prints it.
    uuid: Option<String>,
    /// Label, without padding.
    label: Option<String>,
    /// Bytes per block.
    block_size: u32,
    /// Size in bytes.
    size: u64,
    /// Free bytes.
    free: u64,
    /// Whether a log was replayed (in memory) to read it.
    replayed: bool,
}

/// What a volume is.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A disk of the machine.
    Disk,
    /// A partition.
    Part,
    /// A Linux RAID array.
    Raid,
    /// An LVM logical volume.
    Lvm,
    /// The plain side of an encrypted volume.
    Crypt,
}
