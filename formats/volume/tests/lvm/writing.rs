//! Logical volumes that are written: what lands where, and what is refused.

use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut, Kind, Overlay};
use rehost_volume::lvm::{PhysicalVolume, VolumeGroup, assemble};

use crate::built::{MIB, disk, group, linear, patterned, physical, put, volume};

fn over(images: &[Vec<u8>]) -> Vec<Arc<dyn DiskMut>> {
    images
        .iter()
        .map(|image| Arc::new(Overlay::in_memory(disk(image.clone()))) as Arc<dyn DiskMut>)
        .collect()
}

fn read(disks: &[Arc<dyn DiskMut>]) -> VolumeGroup {
    let physical: Vec<PhysicalVolume> = disks
        .iter()
        .map(|disk| PhysicalVolume::read(disk).unwrap().unwrap())
        .collect();
    assemble(&physical).remove(0).unwrap()
}

fn writer(group: &VolumeGroup, name: &str) -> rehost_block::Result<Arc<dyn DiskMut>> {
    let found = group.volumes.iter().find(|volume| volume.name == name);
    found.unwrap().disk.as_ref().unwrap().writer()
}

fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

const STRIPED: &str = "start_extent = 0\nextent_count = 6\ntype = \"striped\"\nstripe_count = 3\nstripe_size = 8\nstripes = [\n\"pv2\", 0,\n\"pv0\", 1,\n\"pv1\", 2\n]";
const MIRROR: &str = "start_extent = 0\nextent_count = 2\ntype = \"mirror\"\nmirror_count = 2\nregion_size = 1024\nmirrors = [\n\"m_0\", 0,\n\"m_1\", 0\n]";
const RAID1: &str = "start_extent = 0\nextent_count = 2\ntype = \"raid1\"\ndevice_count = 2\nregion_size = 1024\nraids = [\n\"r_meta0\", \"r_image0\",\n\"r_meta1\", \"r_image1\"\n]";

fn legs(kind: &str) -> String {
    [
        volume("m_0", "", &[&linear(0, 2, "pv0", 0)]),
        volume("m_1", "", &[&linear(0, 2, "pv1", 4)]),
        volume("r_meta0", "", &[&linear(0, 1, "pv0", 6)]),
        volume("r_image0", "", &[&linear(0, 2, "pv0", 8)]),
        volume("r_meta1", "", &[&linear(0, 1, "pv1", 6)]),
        volume("r_image1", "", &[&linear(0, 2, "pv1", 8)]),
        volume("both", ", \"VISIBLE\"", &[kind]),
    ]
    .concat()
}

fn images(count: u8, logical: &str) -> Vec<Vec<u8>> {
    let text = group(count, 7, logical);
    (0..count).map(|nth| physical(nth, &text, 512)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn volumes_over_several_disks_keep_what_is_written_and_touch_nothing_else(
        changes in proptest::collection::vec((0usize..3_000_000, 1usize..300_000, any::<u8>()), 1..8),
    ) {
        let text = [linear(0, 3, "pv1", 6), linear(3, 2, "pv0", 5)];
        let logical = [
            volume("lin", ", \"VISIBLE\"", &[&text[0], &text[1]]),
            volume("str", ", \"VISIBLE\"", &[STRIPED]),
        ];
        let before = images(3, &logical.concat());
        for name in ["lin", "str"] {
            let disks = over(&before);
            let group = read(&disks);
            let writer = writer(&group, name).unwrap();
            let other = if name == "lin" { 1 } else { 0 };
            let other = group.volumes[other].disk.as_ref().unwrap();
            let untouched = bytes_of(other);
            let mut plain = bytes_of(&*writer);
            for (at, len, fill) in &changes {
                let at = at % plain.len();
                let len = (*len).min(plain.len() - at);
                if *fill < 80 {
                    writer.zero_at(at as u64, len as u64).unwrap();
                    plain[at..at + len].fill(0);
                } else {
                    plain[at..at + len].fill(*fill);
                    writer.write_at(&plain[at..at + len], at as u64).unwrap();
                }
            }
            writer.sync().unwrap();
            prop_assert!(bytes_of(&*writer) == plain);
            prop_assert!(bytes_of(other) == untouched);
            for (disk, image) in disks.iter().zip(&before) {
                // The label and the metadata come before the first extent.
                let mut head = vec![0; MIB as usize];
                disk.read_at(&mut head, 0).unwrap();
                prop_assert!(head == image[..MIB as usize]);
            }
        }
    }
}

#[test]
fn every_leg_of_a_mirror_is_written() {
    for (kind, first, second) in [(MIRROR, 0, 4), (RAID1, 8, 8)] {
        let disks = over(&images(2, &legs(kind)));
        let writer = writer(&read(&disks), "both").unwrap();
        writer.write_at(&[0xab; 5000], 700_000).unwrap();
        writer.zero_at(4096, 8192).unwrap();
        let expected = |nth: u8, extent: u64| {
            let at = (MIB + extent * MIB / 2) as usize;
            let mut leg = patterned(nth, 8)[at..at + MIB as usize].to_vec();
            leg[700_000..705_000].fill(0xab);
            leg[4096..12_288].fill(0);
            leg
        };
        for (nth, extent) in [(0u8, first), (1, second)] {
            let mut leg = vec![0; MIB as usize];
            let at = MIB + extent * MIB / 2;
            disks[usize::from(nth)].read_at(&mut leg, at).unwrap();
            assert!(leg == expected(nth, extent), "{kind} leg {nth}");
        }
    }
}

fn refused(disks: &[Arc<dyn DiskMut>], name: &str, said: &str) {
    let error = writer(&read(disks), name).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn volumes_that_writing_would_harm_are_refused_by_name() {
    for kind in [MIRROR, RAID1] {
        let all = images(2, &legs(kind));
        refused(&over(&all[..1]), "both", "a leg of the mirror is not");
    }
    let superblock = |recovered: u64, resync: u64| {
        let mut raw = vec![0; 48];
        put(&mut raw, 0, b"DmRd");
        put(&mut raw, 16, &5u64.to_le_bytes());
        put(&mut raw, 32, &recovered.to_le_bytes());
        put(&mut raw, 40, &resync.to_le_bytes());
        raw
    };
    for (recovered, resync, said) in [
        (8, u64::MAX, "a leg of the mirror is not complete"),
        (u64::MAX, 8, "not in sync"),
        (u64::MAX, u64::MAX, ""),
    ] {
        let mut all = images(2, &legs(RAID1));
        let meta = (MIB + 3 * MIB) as usize;
        put(&mut all[0], meta, &superblock(u64::MAX, resync));
        put(&mut all[1], meta, &superblock(recovered, resync));
        if said.is_empty() {
            assert!(writer(&read(&over(&all)), "both").is_ok());
        } else {
            refused(&over(&all), "both", said);
        }
    }
    let logical = [
        volume("root", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
        volume("snap", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 1)]),
        volume(
            "snapshot0",
            "",
            &[
                "start_extent = 0\nextent_count = 1\ntype = \"snapshot\"\nchunk_size = 8\norigin = \"root\"\ncow_store = \"snap\"",
            ],
        ),
        volume("still", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 2)]).replace(", \"WRITE\"", ""),
        volume(
            "holey",
            ", \"VISIBLE\"",
            &["start_extent = 0\nextent_count = 1\ntype = \"zero\""],
        ),
    ];
    let disks = over(&images(1, &logical.concat()));
    refused(&disks, "root", "has a snapshot");
    refused(&disks, "still", "is read-only");
    refused(&disks, "holey", "reads as zeroes");
}

#[test]
fn a_physical_volume_that_is_out_of_step_is_not_written() {
    let both = [
        volume("here", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
        volume("there", ", \"VISIBLE\"", &[&linear(0, 1, "pv1", 0)]),
    ]
    .concat();
    let (old, new) = (group(2, 3, &both), group(2, 4, &both));
    let disks = over(&[physical(0, &old, 512), physical(1, &new, 512)]);
    refused(&disks, "here", "missed changes");
    assert!(writer(&read(&disks), "there").is_ok());
    let twice = over(&[
        physical(0, &new, 512),
        physical(1, &new, 512),
        physical(1, &new, 512),
    ]);
    refused(&twice, "there", "is there twice");
    let gone = new.replacen("flags = []", "flags = [\"MISSING\"]", 1);
    let disks = over(&[physical(0, &gone, 512), physical(1, &gone, 512)]);
    refused(&disks, "here", "had been missing");
}
