//! Physical volumes and groups written by hand, every eight bytes of which say where they are.

use std::sync::Arc;

use rehost_block::{Disk, Kind, Memory, StorageDisk};
use rehost_volume::lvm::{PhysicalVolume, VolumeGroup, assemble};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    !hasher.finalize()
}

pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Every eight bytes of `mib` MiB say which disk they are of and where.
pub(crate) fn patterned(nth: u8, mib: u64) -> Vec<u8> {
    (0..mib * MIB / 8)
        .flat_map(|word| ((u64::from(nth) << 56) | (word * 8)).to_be_bytes())
        .collect()
}

/// A physical volume with `text` in a metadata area at 4 KiB, `ring` bytes into it.
pub(crate) fn physical(nth: u8, text: &str, ring: usize) -> Vec<u8> {
    let mut image = patterned(nth, 8);
    let mut label = [0u8; 512];
    put(&mut label, 0, b"LABELONE");
    put(&mut label, 8, &1u64.to_le_bytes());
    put(&mut label, 20, &32u32.to_le_bytes());
    put(&mut label, 24, b"LVM2 001");
    put(&mut label, 32, uuid(nth).as_bytes());
    put(&mut label, 64, &(8 * MIB).to_le_bytes());
    put(&mut label, 72, &MIB.to_le_bytes());
    put(&mut label, 104, &4096u64.to_le_bytes());
    put(&mut label, 112, &61_440u64.to_le_bytes());
    let sum = crc(&label[20..]);
    put(&mut label, 16, &sum.to_le_bytes());
    put(&mut image, 512, &label);
    let mut area = [0u8; 512];
    put(&mut area, 4, b" LVM2 x[5A%r0N*>");
    put(&mut area, 20, &1u32.to_le_bytes());
    put(&mut area, 24, &4096u64.to_le_bytes());
    put(&mut area, 32, &61_440u64.to_le_bytes());
    put(&mut area, 40, &(ring as u64).to_le_bytes());
    put(&mut area, 48, &(text.len() as u64).to_le_bytes());
    put(&mut area, 56, &crc(text.as_bytes()).to_le_bytes());
    let sum = crc(&area[4..]);
    put(&mut area, 0, &sum.to_le_bytes());
    put(&mut image, 4096, &area);
    let straight = text.len().min(61_440 - ring);
    put(&mut image, 4096 + ring, &text.as_bytes()[..straight]);
    put(&mut image, 4096 + 512, &text.as_bytes()[straight..]);
    image
}

pub(crate) fn uuid(nth: u8) -> String {
    format!("{nth:032}")
}

/// A group of 512 KiB extents over `count` physical volumes of 14 extents each.
pub(crate) fn group(count: u8, seqno: u32, logical: &str) -> String {
    let physical: String = (0..count)
        .map(|nth| {
            format!(
                "pv{nth} {{\nid = \"{}\"\ndevice = \"/dev/sd{}\"\t# Hint only\nstatus = [\"ALLOCATABLE\"]\nflags = []\npe_start = 2048\npe_count = 14\n}}\n",
                uuid(nth),
                char::from(b'a' + nth)
            )
        })
        .collect();
    format!(
        "# made by a test\ncontents = \"Text Format Volume Group\"\nversion = 1\nvg {{\nid = \"group\"\nseqno = {seqno}\nextent_size = 1024\nphysical_volumes {{\n{physical}}}\nlogical_volumes {{\n{logical}}}\n}}\n"
    )
}

pub(crate) fn volume(name: &str, status: &str, segments: &[&str]) -> String {
    let body: String = (1..)
        .zip(segments)
        .map(|(nth, segment)| format!("segment{nth} {{\n{segment}\n}}\n"))
        .collect();
    format!(
        "{name} {{\nid = \"{name}-id\"\nstatus = [\"READ\", \"WRITE\"{status}]\nflags = []\nsegment_count = {}\n{body}}}\n",
        segments.len()
    )
}

pub(crate) fn linear(start: u32, count: u32, on: &str, extent: u32) -> String {
    format!(
        "start_extent = {start}\nextent_count = {count}\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"{on}\", {extent}\n]"
    )
}

pub(crate) fn disk(bytes: Vec<u8>) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(Memory::new("disk", bytes))))
}

pub(crate) fn read_group(disks: &[Arc<dyn Disk>]) -> VolumeGroup {
    let physical: Vec<PhysicalVolume> = disks
        .iter()
        .map(|disk| PhysicalVolume::read(disk).unwrap().unwrap())
        .collect();
    let mut groups = assemble(&physical);
    assert_eq!(groups.len(), 1);
    groups.remove(0).unwrap()
}

pub(crate) fn made(count: u8, logical: &str) -> VolumeGroup {
    let text = group(count, 7, logical);
    let disks: Vec<_> = (0..count)
        .map(|nth| disk(physical(nth, &text, 512)))
        .collect();
    read_group(&disks)
}

/// The disk and offset that the pattern at `offset` names.
pub(crate) fn origin(disk: &dyn Disk, offset: u64) -> (u8, u64) {
    let mut word = [0; 8];
    disk.read_at(&mut word, offset).unwrap();
    let word = u64::from_be_bytes(word);
    ((word >> 56) as u8, word & 0xff_ffff_ffff)
}

pub(crate) fn why(group: &VolumeGroup, name: &str) -> (Kind, String) {
    let found = group.volumes.iter().find(|volume| volume.name == name);
    let error = found.unwrap().disk.as_ref().unwrap_err();
    (error.kind(), error.to_string())
}
