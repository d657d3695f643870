//! Logical volumes judged by the LVM tools where they are, and groups that lie.

#![allow(clippy::unwrap_used, clippy::panic)]

mod built;
mod thin;
mod tools;
mod writing;

use rehost_block::{Disk as _, Kind, Run};
use rehost_volume::lvm::{PhysicalVolume, assemble};

use built::{MIB, disk, group, linear, made, origin, physical, put, read_group, volume, why};

#[test]
fn a_linear_volume_runs_over_two_disks_and_maps_to_their_storage() {
    let text = [linear(0, 3, "pv1", 2), linear(3, 2, "pv0", 5)];
    let group = made(2, &volume("root", ", \"VISIBLE\"", &[&text[0], &text[1]]));
    let root = &group.volumes[0];
    assert_eq!((root.size, root.kind.as_str()), (5 * MIB / 2, "linear"));
    let disk = root.disk.as_ref().unwrap();
    assert_eq!(disk.size(), 5 * MIB / 2);
    assert_eq!(origin(disk, 0), (1, 2 * MIB));
    assert_eq!(origin(disk, 3 * MIB / 2), (0, MIB + 5 * MIB / 2));
    let found = disk.locate(MIB, 10 * MIB).unwrap();
    assert_eq!(found.len, MIB / 2);
    assert!(matches!(found.run, Run::At { offset, .. } if offset == 3 * MIB));
    let mut across = vec![0; 64];
    disk.read_at(&mut across, 3 * MIB / 2 - 32).unwrap();
    assert!(matches!(disk.locate(5 * MIB / 2, 1).unwrap().run, Run::End));
}

#[test]
fn stripes_are_dealt_out_in_turn() {
    let text = "start_extent = 0\nextent_count = 6\ntype = \"striped\"\nstripe_count = 3\nstripe_size = 8\nstripes = [\n\"pv2\", 0,\n\"pv0\", 1,\n\"pv1\", 2\n]";
    let group = made(3, &volume("str", ", \"VISIBLE\"", &[text]));
    let disk = group.volumes[0].disk.as_ref().unwrap();
    let starts = [(2, MIB), (0, MIB + MIB / 2), (1, 2 * MIB)];
    for chunk in 0..(3 * MIB / 4096) {
        let (nth, start) = starts[(chunk % 3) as usize];
        let at = start + chunk / 3 * 4096 + 8;
        assert_eq!(origin(disk, chunk * 4096 + 8), (nth, at), "chunk {chunk}");
    }
}

#[test]
fn mirrors_are_read_from_the_first_leg_that_is_there() {
    let logical = [
        volume("m_0", "", &[&linear(0, 2, "pv0", 0)]),
        volume("m_1", "", &[&linear(0, 2, "pv1", 4)]),
        volume("m", ", \"VISIBLE\"", &["start_extent = 0\nextent_count = 2\ntype = \"mirror\"\nmirror_count = 2\nregion_size = 1024\nmirrors = [\n\"m_0\", 0,\n\"m_1\", 0\n]"]),
        volume("need", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 9)]),
    ]
    .concat();
    let text = group(2, 7, &logical);
    let disks = [disk(physical(0, &text, 512)), disk(physical(1, &text, 512))];
    let both = read_group(&disks);
    assert_eq!(origin(both.volumes[0].disk.as_ref().unwrap(), 0), (0, MIB));
    let one = read_group(&disks[1..]);
    assert_eq!(
        origin(one.volumes[0].disk.as_ref().unwrap(), 0),
        (1, 3 * MIB)
    );
    assert!(
        one.damage[0].contains("last seen as /dev/sda) is missing"),
        "{:?}",
        one.damage
    );
    let (kind, text) = why(&one, "need");
    assert_eq!(kind, Kind::Usage);
    assert!(text.contains("is missing"), "{text}");
}

#[test]
fn a_raid1_leg_that_was_not_recovered_is_not_read() {
    let logical = [
        volume("r_meta0", "", &[&linear(0, 1, "pv0", 0)]),
        volume("r_image0", "", &[&linear(0, 2, "pv0", 1)]),
        volume("r_meta1", "", &[&linear(0, 1, "pv1", 0)]),
        volume("r_image1", "", &[&linear(0, 2, "pv1", 1)]),
        volume("r", ", \"VISIBLE\"", &["start_extent = 0\nextent_count = 2\ntype = \"raid1\"\ndevice_count = 2\nregion_size = 1024\nraids = [\n\"r_meta0\", \"r_image0\",\n\"r_meta1\", \"r_image1\"\n]"]),
    ]
    .concat();
    let text = group(2, 7, &logical);
    let superblock = |events: u64, failed: u64, recovered: u64| {
        let mut raw = vec![0; 40];
        put(&mut raw, 0, b"DmRd");
        put(&mut raw, 16, &events.to_le_bytes());
        put(&mut raw, 24, &failed.to_le_bytes());
        put(&mut raw, 32, &recovered.to_le_bytes());
        raw
    };
    for (zero, one, leg) in [
        ((5, 0, u64::MAX), (5, 0, u64::MAX), Some(0)),
        ((4, 0, u64::MAX), (5, 0, u64::MAX), Some(1)),
        ((5, 0, 4096), (5, 0, u64::MAX), Some(1)),
        ((5, 1, u64::MAX), (5, 1, u64::MAX), Some(1)),
        ((5, 2, 0), (5, 2, u64::MAX), None),
    ] {
        let disks: Vec<_> = [(0u8, zero), (1, one)]
            .into_iter()
            .map(|(nth, (events, failed, recovered))| {
                let mut image = physical(nth, &text, 512);
                put(
                    &mut image,
                    MIB as usize,
                    &superblock(events, failed, recovered),
                );
                disk(image)
            })
            .collect();
        let group = read_group(&disks);
        match leg {
            Some(leg) => {
                let disk = group.volumes[0].disk.as_ref().unwrap();
                assert_eq!(origin(disk, 64), (leg, 3 * MIB / 2 + 64));
            }
            None => assert_eq!(why(&group, "r").0, Kind::Corrupt),
        }
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let logical = [
        volume("root", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
        volume("snap", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 1)]),
        volume("snapshot0", "", &["start_extent = 0\nextent_count = 1\ntype = \"snapshot\"\nchunk_size = 8\norigin = \"root\"\ncow_store = \"snap\""]),
    ]
    .into_iter()
    .chain(UNREAD.map(|kind| {
        let text = format!("start_extent = 0\nextent_count = 9\ntype = \"{kind}\"");
        volume(&format!("of_{kind}"), ", \"VISIBLE\"", &[&text])
    }))
    .collect::<String>();
    let group = made(1, &logical);
    assert!(group.volumes[0].disk.is_ok());
    let (kind, text) = why(&group, "snap");
    assert_eq!(kind, Kind::Unsupported);
    assert!(text.contains("snap is a snapshot of root"), "{text}");
    for name in UNREAD {
        let (kind, text) = why(&group, &format!("of_{name}"));
        assert_eq!(kind, Kind::Unsupported);
        assert!(text.contains(&format!("of type {name}, which")), "{text}");
    }
}

const UNREAD: [&str; 8] = [
    "cache",
    "cache-pool",
    "writecache",
    "vdo",
    "vdo-pool",
    "raid5_ls",
    "raid6_zr",
    "raid10",
];

#[test]
fn volumes_that_lie_about_their_extents_cost_only_themselves() {
    let logical = [
        volume("good", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
        volume("far", ", \"VISIBLE\"", &[&linear(0, 2, "pv0", 13)]),
        volume("wide", ", \"VISIBLE\"", &[&linear(0, 4, "pv0", 2)]),
        volume("over", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 4)]),
        volume("ouroboros", ", \"VISIBLE\"", &[&linear(0, 1, "tail", 0)]),
        volume("tail", "", &[&linear(0, 1, "ouroboros", 0)]),
        volume("nowhere", ", \"VISIBLE\"", &[&linear(0, 1, "gone", 0)]),
    ]
    .concat();
    let group = made(1, &logical);
    assert!(group.volumes[0].disk.is_ok());
    for (name, said) in [
        ("far", "past the end of pv0"),
        ("wide", "wide and over lie over each other"),
        ("over", "over and wide lie over each other"),
        ("ouroboros", "made of itself"),
        ("nowhere", "there is no volume gone"),
    ] {
        let found = group.volumes.iter().find(|volume| volume.name == name);
        let error = found.unwrap().disk.as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{name}");
        assert!(error.to_string().contains(said), "{name}: {error}");
        assert!(
            error.offset().is_some_and(|at| at > 4096),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn the_newest_metadata_counts_also_where_it_wraps_around() {
    let old = group(
        2,
        3,
        &volume("old", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
    );
    let new = group(
        2,
        4,
        &volume("new", ", \"VISIBLE\"", &[&linear(0, 1, "pv0", 0)]),
    );
    let disks = [
        disk(physical(0, &old, 1024)),
        disk(physical(1, &new, 61_440 - 300)),
    ];
    let group = read_group(&disks);
    assert_eq!(group.volumes[0].name, "new");
    assert!(group.damage[0].contains("metadata of version 3, the group is at 4"));
}

#[test]
fn damaged_labels_and_texts_are_named_with_their_place() {
    let text = group(1, 7, "");
    let mut image = physical(0, &text, 512);
    image[512 + 40] ^= 1;
    let error = PhysicalVolume::read(&disk(image)).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Corrupt, Some(528)));
    let mut image = physical(0, &text, 512);
    image[4096 + 600] ^= 1;
    let volume = PhysicalVolume::read(&disk(image)).unwrap().unwrap();
    assert!(
        volume.damage()[0].contains("checksum"),
        "{:?}",
        volume.damage()
    );
    for (text, said) in [
        ("contents = ", "expected a value"),
        (
            "contents = \"Text Format Volume Group\" vg { a { ",
            "before the end",
        ),
        (
            "contents = \"Text Format Volume Group\" vg { id = 99999999999999999999 }",
            "whole number",
        ),
        (
            "contents = \"Text Format Volume Group\" vg { id = \"x\" extent_size = 0 }",
            "extent_size",
        ),
    ] {
        let disk = disk(physical(0, text, 512));
        let volume = PhysicalVolume::read(&disk).unwrap().unwrap();
        let error = assemble(&[volume]).remove(0).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.offset().is_some_and(|at| at >= 4608), "{error:?}");
    }
    let deep = format!("contents = \"x\" {}", "a { ".repeat(10_000));
    let volume = PhysicalVolume::read(&disk(physical(0, &deep, 512)))
        .unwrap()
        .unwrap();
    let error = assemble(&[volume]).remove(0).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
}
