//! Disks that are parts of something: LVM, MD, both and LUKS under one another, thin pools.
//!
//! An input is one disk or several of the same length: its last byte says how many.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Memory, Overlay, Result, StorageDisk};
use rehost_luks::Secret;
use rehost_volume::Backing;
use rehost_volume::lvm::{self, PhysicalVolume};
use rehost_volume::md::{self, Member};
use rehost_volume::stack::Stack;

use crate::images::walk;
use crate::storages::NAME;

/// Disks of one input at most.
const MOST: usize = 8;

/// Volumes of one input that are looked at.
const VOLUMES: usize = 16;

/// The disks of which `bytes` is made.
pub(crate) fn disks(bytes: &[u8]) -> Vec<&[u8]> {
    let Some((count, bytes)) = bytes.split_last() else {
        return Vec::new();
    };
    let count = usize::from(*count) % MOST + 1;
    bytes
        .chunks((bytes.len() / count).max(1))
        .take(count)
        .collect()
}

/// An input of these disks.
pub(crate) fn input(disks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = disks.concat();
    bytes.push(u8::try_from(disks.len() - 1).unwrap());
    bytes
}

fn writable(bytes: &[u8]) -> Vec<Arc<dyn DiskMut>> {
    let over = |bytes: &[u8]| -> Arc<dyn DiskMut> {
        let memory = Memory::new(NAME, bytes.to_vec());
        Arc::new(Overlay::in_memory(Arc::new(StorageDisk::new(Arc::new(
            memory,
        )))))
    };
    disks(bytes).into_iter().map(over).collect()
}

/// Reads a volume here and there and, where it can be, writes to it.
fn use_up(volume: &Result<Backing>) {
    if let Ok(volume) = volume {
        walk(volume);
        if let Ok(writer) = volume.writer() {
            write(&*writer);
            walk(volume);
        }
    }
}

fn write(writer: &dyn DiskMut) {
    let size = writer.size();
    for at in [0, size / 3, size.saturating_sub(5000)] {
        let len = usize::try_from((size - at).min(5000)).unwrap();
        let _ = writer.write_at(&vec![0x5a; len], at);
        let _ = writer.zero_at(at / 2, size / 4);
    }
    let _ = writer.sync();
    assert!(writer.write_at(&[1], size).is_err());
    assert!(writer.zero_at(size, 1).is_err());
}

/// Physical volumes.
pub(crate) fn lvm(bytes: &[u8]) {
    let found: Vec<PhysicalVolume> = writable(bytes)
        .iter()
        .filter_map(|disk| PhysicalVolume::read(disk).ok().flatten())
        .collect();
    for physical in &found {
        let _ = (physical.uuid(), physical.size());
    }
    for group in lvm::assemble(&found).into_iter().flatten() {
        for volume in group.volumes.iter().take(VOLUMES) {
            use_up(&volume.disk);
        }
    }
}

/// Members of arrays.
pub(crate) fn md(bytes: &[u8]) {
    let found: Vec<Member> = writable(bytes)
        .iter()
        .filter_map(|disk| Member::read(disk).ok().flatten())
        .collect();
    for array in md::assemble(&found) {
        use_up(&array.disk);
    }
}

/// Whole disks of a machine.
pub(crate) fn stack(bytes: &[u8]) {
    let disks: Vec<_> = writable(bytes)
        .into_iter()
        .enumerate()
        .map(|(nth, disk)| (format!("sd{nth}"), disk))
        .collect();
    let Ok(stack) = Stack::find_mut(&disks, &[Secret::passphrase("rehost")]) else {
        return;
    };
    for (place, node) in stack.nodes.iter().enumerate().take(VOLUMES * 2) {
        let _ = (stack.named(&node.name), stack.children(place).count());
        if let Some(disk) = &node.disk {
            walk(&**disk);
        }
        if let Ok(writer) = node.writer() {
            write(&*writer);
        }
    }
}

/// The metadata of a thin pool, whose group and physical volume are in order.
pub(crate) fn thin(bytes: &[u8]) {
    let group = made::thin_group();
    let mut image = made::physical(0, &group, 64);
    let room = &mut image[made::EXTENTS..made::EXTENTS + made::THIN_METADATA];
    let len = bytes.len().min(room.len());
    room[..len].copy_from_slice(&bytes[..len]);
    let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(Memory::new(NAME, image))));
    let physical = PhysicalVolume::read(&disk).unwrap().unwrap();
    for group in lvm::assemble(&[physical]) {
        for volume in group.unwrap().volumes {
            use_up(&volume.disk);
        }
    }
}

/// Disks made by hand.
pub(crate) mod made {
    /// Where the extents of a physical volume begin, and how long one is.
    pub(crate) const EXTENTS: usize = 16 << 10;
    const EXTENT: usize = 8 << 10;

    /// Room for the metadata of a thin pool.
    pub(crate) const THIN_METADATA: usize = 64 << 10;

    pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// LVM's checksum.
    pub(crate) fn lvm_sum(bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
        hasher.update(bytes);
        !hasher.finalize()
    }

    /// A physical volume with so many extents.
    pub(crate) fn physical(nth: u8, text: &str, extents: usize) -> Vec<u8> {
        let mut image = vec![0; EXTENTS + extents * EXTENT];
        for extent in image[EXTENTS..].chunks_mut(EXTENT) {
            extent[0] = nth + 1;
        }
        let mut label = [0u8; 512];
        put(&mut label, 0, b"LABELONE");
        put(&mut label, 8, &1u64.to_le_bytes());
        put(&mut label, 20, &32u32.to_le_bytes());
        put(&mut label, 24, b"LVM2 001");
        put(&mut label, 32, format!("{nth:032}").as_bytes());
        put(&mut label, 64, &(image.len() as u64).to_le_bytes());
        put(&mut label, 72, &(EXTENTS as u64).to_le_bytes());
        put(&mut label, 104, &4096u64.to_le_bytes());
        put(&mut label, 112, &12_288u64.to_le_bytes());
        let sum = lvm_sum(&label[20..]);
        put(&mut label, 16, &sum.to_le_bytes());
        put(&mut image, 512, &label);
        let mut area = [0u8; 512];
        put(&mut area, 4, b" LVM2 x[5A%r0N*>");
        put(&mut area, 20, &1u32.to_le_bytes());
        put(&mut area, 24, &4096u64.to_le_bytes());
        put(&mut area, 32, &12_288u64.to_le_bytes());
        put(&mut area, 40, &512u64.to_le_bytes());
        put(&mut area, 48, &(text.len() as u64).to_le_bytes());
        put(&mut area, 56, &lvm_sum(text.as_bytes()).to_le_bytes());
        let sum = lvm_sum(&area[4..]);
        put(&mut area, 0, &sum.to_le_bytes());
        put(&mut image, 4096, &area);
        put(&mut image, 4608, text.as_bytes());
        image
    }

    fn group(physical: u8, extents: usize, volumes: &str) -> String {
        let sections: String = (0..physical)
            .map(|nth| {
                format!(
                    "pv{nth} {{\nid = \"{nth:032}\"\nflags = []\npe_start = 32\npe_count = {extents}\n}}\n"
                )
            })
            .collect();
        format!(
            "contents = \"Text Format Volume Group\"\nversion = 1\nvg {{\nid = \"group\"\nseqno = 3\nextent_size = 16\nphysical_volumes {{\n{sections}}}\nlogical_volumes {{\n{volumes}}}\n}}\n"
        )
    }

    fn volume(name: &str, extents: u32, segment: &str) -> String {
        let shown = if name.contains('_') {
            ""
        } else {
            ", \"VISIBLE\""
        };
        format!(
            "{name} {{\nid = \"{name}\"\nstatus = [\"READ\", \"WRITE\"{shown}]\nsegment_count = 1\nsegment1 {{\nstart_extent = 0\nextent_count = {extents}\n{segment}\n}}\n}}\n"
        )
    }

    fn linear(name: &str, extents: u32, on: &str, at: u32) -> String {
        let segment =
            format!("type = \"striped\"\nstripe_count = 1\nstripes = [\n\"{on}\", {at}\n]");
        volume(name, extents, &segment)
    }

    /// Two physical volumes with volumes of every kind that is read or refused.
    pub(crate) fn lvm() -> Vec<Vec<u8>> {
        let volumes = [
            linear("root", 2, "pv0", 0),
            linear("snap", 1, "pv0", 2),
            volume(
                "pair",
                1,
                "type = \"snapshot\"\nchunk_size = 8\norigin = \"root\"\ncow_store = \"snap\"",
            ),
            volume(
                "str",
                2,
                "type = \"striped\"\nstripe_count = 2\nstripe_size = 8\nstripes = [\"pv0\", 3, \"pv1\", 0]",
            ),
            linear("m_0", 1, "pv0", 4),
            linear("m_1", 1, "pv1", 1),
            volume(
                "mirr",
                1,
                "type = \"mirror\"\nmirror_count = 2\nmirrors = [\"m_0\", 0, \"m_1\", 0]",
            ),
            linear("r_meta", 1, "pv0", 5),
            linear("r_metb", 1, "pv1", 2),
            linear("r_ima", 1, "pv0", 6),
            linear("r_imb", 1, "pv1", 3),
            volume(
                "raid",
                1,
                "type = \"raid1\"\ndevice_count = 2\nraids = [\"r_meta\", \"r_ima\", \"r_metb\", \"r_imb\"]",
            ),
            volume("zero", 4, "type = \"zero\""),
            volume("cached", 4, "type = \"cache\""),
        ];
        let text = group(2, 8, &volumes.concat());
        vec![physical(0, &text, 8), physical(1, &text, 8)]
    }

    /// The group that [`thin`](super::thin) puts metadata into: 64 extents, blocks of one.
    pub(crate) fn thin_group() -> String {
        let pool = "type = \"thin-pool\"\nmetadata = \"p_tmeta\"\npool = \"p_tdata\"\ntransaction_id = 0\nchunk_size = 16";
        let thin = |device: u32, more: &str| {
            format!(
                "type = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {device}{more}"
            )
        };
        let volumes = [
            linear("p_tmeta", 8, "pv0", 0),
            linear("p_tdata", 32, "pv0", 8),
            linear("base", 4, "pv0", 40),
            volume("pool", 32, pool),
            volume("one", 1000, &thin(1, "")),
            volume("two", 50, &thin(2, "\nexternal_origin = \"base\"")),
        ];
        group(1, 64, &volumes.concat())
    }

    /// The checksum of a block of thin metadata.
    pub(crate) fn thin_sum(block: &[u8], salt: u32) -> u32 {
        !crc32c::crc32c(&block[4..]) ^ salt
    }

    fn node(number: u64, kind: u32, entries: &[(u64, u64)]) -> Vec<u8> {
        let mut block = vec![0; 4096];
        put(&mut block, 4, &kind.to_le_bytes());
        put(&mut block, 8, &number.to_le_bytes());
        put(&mut block, 16, &(entries.len() as u32).to_le_bytes());
        put(&mut block, 20, &252u32.to_le_bytes());
        put(&mut block, 24, &8u32.to_le_bytes());
        for (nth, (key, value)) in entries.iter().enumerate() {
            put(&mut block, 32 + nth * 8, &key.to_le_bytes());
            put(&mut block, 32 + (252 + nth) * 8, &value.to_le_bytes());
        }
        let sum = thin_sum(&block, 121_107);
        put(&mut block, 0, &sum.to_le_bytes());
        block
    }

    /// Metadata of a thin pool: two devices, one of them with a tree of two levels.
    pub(crate) fn thin() -> Vec<u8> {
        let mut first = vec![0; 4096];
        put(&mut first, 32, &27_022_010u64.to_le_bytes());
        put(&mut first, 40, &2u32.to_le_bytes());
        put(&mut first, 320, &1u64.to_le_bytes());
        put(&mut first, 336, &16u32.to_le_bytes());
        let sum = thin_sum(&first, 160_774);
        put(&mut first, 0, &sum.to_le_bytes());
        let leaf = |from: u64| (0..20).map(|nth| (from + nth * 2, nth << 24)).collect();
        let leaves: [Vec<(u64, u64)>; 2] = [leaf(0), leaf(300)];
        [
            first,
            node(1, 2, &[(1, 2), (2, 4)]),
            node(2, 1, &[(0, 3), (300, 4)]),
            node(3, 2, &leaves[0]),
            node(4, 2, &leaves[1]),
        ]
        .concat()
    }

    /// MD's checksum, with the word at `skip` left out.
    pub(crate) fn md_sum(raw: &[u8], skip: usize) -> u32 {
        let words = raw.chunks_exact(4).enumerate();
        let sum: u64 = words
            .filter(|(nth, _)| nth * 4 != skip)
            .map(|(_, word)| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
            .fold(0, u64::wrapping_add);
        u32::try_from(((sum & 0xffff_ffff) + (sum >> 32)) & 0xffff_ffff).unwrap()
    }

    /// Members of an array with superblocks of version 1.2; each holds `data`.
    pub(crate) fn md(level: i32, layout: u32, members: u32, data: &[u8]) -> Vec<Vec<u8>> {
        let start = 8 << 10;
        let sectors = data.len() as u64 / 512;
        (0..members)
            .map(|slot| {
                let mut raw = vec![0; 256 + members as usize * 2];
                put(&mut raw, 0, &0xa92b_4efcu32.to_le_bytes());
                put(&mut raw, 4, &1u32.to_le_bytes());
                put(&mut raw, 16, b"0123456789abcdef");
                put(&mut raw, 72, &level.to_le_bytes());
                put(&mut raw, 76, &layout.to_le_bytes());
                put(&mut raw, 80, &sectors.to_le_bytes());
                put(&mut raw, 88, &8u32.to_le_bytes());
                put(&mut raw, 92, &members.to_le_bytes());
                put(&mut raw, 128, &(start as u64 / 512).to_le_bytes());
                put(&mut raw, 136, &sectors.to_le_bytes());
                put(&mut raw, 144, &8u64.to_le_bytes());
                put(&mut raw, 160, &slot.to_le_bytes());
                put(&mut raw, 200, &7u64.to_le_bytes());
                put(&mut raw, 208, &u64::MAX.to_le_bytes());
                put(&mut raw, 220, &members.to_le_bytes());
                for nth in 0..members as usize {
                    put(&mut raw, 256 + nth * 2, &(nth as u16).to_le_bytes());
                }
                let sum = md_sum(&raw, 216);
                put(&mut raw, 216, &sum.to_le_bytes());
                let mut image = vec![0; start + data.len()];
                put(&mut image, 4096, &raw);
                put(&mut image, start, data);
                image
            })
            .collect()
    }

    /// `bytes` in the only partition of a disk.
    pub(crate) fn partitioned(bytes: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; 4096 + bytes.len()];
        disk[450] = 0xfd;
        put(&mut disk, 454, &8u32.to_le_bytes());
        put(&mut disk, 458, &(bytes.len() as u32 / 512).to_le_bytes());
        put(&mut disk, 510, &[0x55, 0xaa]);
        put(&mut disk, 4096, bytes);
        disk
    }
}
