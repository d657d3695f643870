//! LVM2: physical volumes of several disks become logical volumes.
//!
//! [`PhysicalVolume::read`] reads a label and its metadata, [`assemble`] puts volume groups
//! together. Read are segments of type linear, striped, mirror and raid1 (the first leg that is
//! complete) and zero, and thin volumes with their snapshots and external origins.
//!
//! Left out on purpose, and refused by name: snapshots that are not thin (their origins are
//! read), caches, writecaches, VDO, raid0, raid4, raid5, raid6 and raid10 volumes, integrity; LVM1 and metadata
//! backups in `/etc/lvm`.
//!
//! Volumes can be written, every leg of a mirror alike, unless that would do harm: a leg or a
//! physical volume is missing or out of step, the volume has a snapshot, is thin or read-only.
//! Labels and metadata are never written.

mod assemble;
mod build;
mod group;
mod label;
mod leg;
mod text;
mod thin;
mod thinned;
mod tree;

pub use assemble::{LogicalVolume, PhysicalVolume, VolumeGroup, assemble};
