//! Thin pools: metadata written by `thin_restore`, and by hand where they must lie.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rehost_block::{Disk, Kind, Run};
use rehost_volume::lvm::VolumeGroup;

use crate::built::{MIB, disk, group, linear, origin, physical, put, read_group, volume, why};

const CHUNK: u64 = 64 << 10;
/// Where on the physical volume the pool's metadata, its data and the external origin are.
const META: u64 = MIB;
const DATA: u64 = MIB + MIB / 2;
const BASE: u64 = MIB + 5 * MIB;
/// Blocks of data in the pool.
const BLOCKS: u64 = 64;

fn thin(extents: u32, device: u32, more: &str) -> String {
    format!(
        "start_extent = 0\nextent_count = {extents}\ntype = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {device}\n{more}"
    )
}

/// A group with a pool of transaction `transaction` and these thin volumes.
fn pool(transaction: u32, message: &str, volumes: &str) -> String {
    let text = format!(
        "start_extent = 0\nextent_count = 8\ntype = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = {transaction}\nchunk_size = 128\ndiscards = \"passdown\"\nzero_new_blocks = 1\n{message}"
    );
    let fixed = [
        volume("pool_tmeta", "", &[&linear(0, 1, "pv0", 0)]),
        volume("pool_tdata", "", &[&linear(0, 8, "pv0", 1)]),
        volume("base", ", \"VISIBLE\"", &[&linear(0, 2, "pv0", 10)]),
        volume("pool", ", \"VISIBLE\"", &[&text]),
    ];
    group(1, 7, &(fixed.concat() + volumes))
}

/// The group of `text` on one disk, with these metadata of a pool.
fn with(text: &str, metadata: &[u8]) -> VolumeGroup {
    let mut image = physical(0, text, 512);
    put(&mut image, META as usize, metadata);
    read_group(&[disk(image)])
}

/// What the device with this number maps, and the place of each of its virtual blocks.
type Device = (u32, BTreeMap<u64, u64>);

/// The XML of the thin provisioning tools.
fn xml(transaction: u32, devices: &[Device]) -> String {
    let mut text = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"{transaction}\" flags=\"0\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"{BLOCKS}\">\n"
    );
    for (number, map) in devices {
        text += &format!(
            "<device dev_id=\"{number}\" mapped_blocks=\"{}\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">\n",
            map.len()
        );
        for (from, to) in map {
            text += &format!(
                "<single_mapping origin_block=\"{from}\" data_block=\"{to}\" time=\"1\"/>\n"
            );
        }
        text += "</device>\n";
    }
    text + "</superblock>\n"
}

/// The metadata that `thin_restore` makes of `xml`; `None` where there is no such tool.
fn restored(folder: &Path, xml: &str) -> Option<Vec<u8>> {
    let (from, to) = (folder.join("xml"), folder.join("metadata"));
    std::fs::write(&from, xml).unwrap();
    std::fs::write(&to, vec![0; (MIB / 2) as usize]).unwrap();
    let out = Command::new("thin_restore")
        .args(["-q", "-i"])
        .arg(&from)
        .arg("-o")
        .arg(&to)
        .output();
    let Ok(out) = out else {
        println!("skipped: needs thin_restore");
        return None;
    };
    assert!(out.status.success(), "{out:?}");
    let checked = Command::new("thin_check").arg("-q").arg(&to).status();
    assert!(checked.unwrap().success());
    Some(std::fs::read(&to).unwrap())
}

/// Every block of volume `name` reads from where `map` says, or from `below` (a place on the disk
/// and so many bytes), or as zeroes.
fn maps(group: &VolumeGroup, name: &str, map: &BTreeMap<u64, u64>, below: Option<(u64, u64)>) {
    let found = group.volumes.iter().find(|volume| volume.name == name);
    let disk = found.unwrap().disk.as_ref().unwrap();
    for block in 0..disk.size() / CHUNK {
        for at in [block * CHUNK, (block + 1) * CHUNK - 8] {
            let expected = match (map.get(&block), below) {
                (Some(to), _) => DATA + to * CHUNK + at % CHUNK,
                (None, Some((start, len))) if at < len => start + at,
                _ => 0,
            };
            assert_eq!(origin(disk, at), (0, expected), "{name} at {at}");
        }
    }
}

#[test]
fn volumes_and_snapshots_map_as_thin_restore_was_told() {
    let folder = tempfile::tempdir().unwrap();
    // Two thousand entries make a tree of three levels; blocks are shared at will.
    let big: BTreeMap<u64, u64> = (0..2000)
        .map(|nth| (nth + nth / 7 + nth / 100 * 13, nth * 5 % BLOCKS))
        .collect();
    let mut snapshot = big.clone();
    for block in 0..300 {
        snapshot.insert(block * 3, block % BLOCKS);
    }
    let few: BTreeMap<u64, u64> = [(1, 7), (2, 8), (3, 9), (9, 0)].into();
    let devices = [
        (1, big.clone()),
        (2, snapshot.clone()),
        (3, few.clone()),
        (700, BTreeMap::new()),
    ];
    let Some(metadata) = restored(folder.path(), &xml(9, &devices)) else {
        return;
    };
    let visible = ", \"VISIBLE\"";
    let volumes = [
        volume("big", visible, &[&thin(320, 1, "")]),
        volume("snap", visible, &[&thin(320, 2, "origin = \"big\"")]),
        volume(
            "over",
            visible,
            &[&thin(4, 3, "external_origin = \"base\"")],
        ),
        volume("empty", visible, &[&thin(3, 700, "")]),
        volume("unknown", visible, &[&thin(3, 4, "")]),
    ];
    let group = with(&pool(9, "", &volumes.concat()), &metadata);
    maps(&group, "big", &big, None);
    maps(&group, "snap", &snapshot, None);
    maps(&group, "over", &few, Some((BASE, MIB)));
    maps(&group, "empty", &BTreeMap::new(), None);
    let (kind, said) = why(&group, "unknown");
    assert_eq!(kind, Kind::Corrupt);
    assert!(said.contains("knows no device 4"), "{said}");
    let disk = |name: &str| {
        let mut all = group.volumes.iter();
        all.find(|volume| volume.name == name).unwrap()
    };
    assert_eq!(disk("big").kind, "thin");
    assert_eq!(disk("pool").kind, "thin-pool");
    // Neighbours are one run, holes as long as they are.
    let over = disk("over").disk.as_ref().unwrap();
    let found = over.locate(CHUNK + 5, 1 << 30).unwrap();
    assert_eq!(found.len, 3 * CHUNK - 5);
    assert!(matches!(found.run, Run::At { offset, .. } if offset == DATA + 7 * CHUNK + 5));
    let empty = disk("empty").disk.as_ref().unwrap();
    let found = empty.locate(100, 1 << 30).unwrap();
    assert_eq!(found.len, 3 * MIB / 2 - 100);
    assert!(matches!(found.run, Run::Zero));
    let error = empty.writer().unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
}

#[test]
fn what_merges_or_was_never_used_or_is_of_another_time_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [(1, [(0, 1)].into()), (2, [(0, 2)].into())];
    let Some(metadata) = restored(folder.path(), &xml(4, &devices)) else {
        return;
    };
    let visible = ", \"VISIBLE\"";
    let volumes = [
        volume("root", visible, &[&thin(3, 1, "")]),
        volume("snap", visible, &[&thin(3, 2, "merge = \"root\"")]),
        volume("new", visible, &[&thin(3, 3, "")]),
    ]
    .concat();
    let message = "message1 {\ncreate = \"new\"\n}\n";
    let group = with(&pool(5, message, &volumes), &metadata);
    let (kind, said) = why(&group, "root");
    assert_eq!(kind, Kind::Unsupported);
    assert!(said.contains("being merged into"), "{said}");
    maps(&group, "snap", &[(0, 2)].into(), None);
    let (kind, said) = why(&group, "new");
    assert_eq!(kind, Kind::Unsupported);
    assert!(said.contains("never used since it was made"), "{said}");
    for (transaction, message) in [(5, ""), (3, ""), (6, message)] {
        let group = with(&pool(transaction, message, &volumes), &metadata);
        let (kind, said) = why(&group, "snap");
        assert_eq!(kind, Kind::Corrupt);
        assert!(said.contains("not of the same time"), "{said}");
    }
}

/// The kernel's checksum over a block of metadata.
fn seal(block: &mut [u8], salt: u32) {
    let sum = !crc32c::crc32c(&block[4..4096]) ^ salt;
    put(block, 0, &sum.to_le_bytes());
}

/// A node at block `number`.
fn node(number: u64, leaf: bool, entries: &[(u64, u64)]) -> Vec<u8> {
    let mut block = vec![0; 4096];
    put(&mut block, 4, &(1 + u32::from(leaf)).to_le_bytes());
    put(&mut block, 8, &number.to_le_bytes());
    put(&mut block, 16, &(entries.len() as u32).to_le_bytes());
    put(&mut block, 20, &252u32.to_le_bytes());
    put(&mut block, 24, &8u32.to_le_bytes());
    for (nth, (key, value)) in entries.iter().enumerate() {
        put(&mut block, 32 + nth * 8, &key.to_le_bytes());
        put(&mut block, 32 + 252 * 8 + nth * 8, &value.to_le_bytes());
    }
    seal(&mut block, 121_107);
    block
}

/// Metadata of one device, 1, in blocks: superblock, devices, an inner node and two leaves.
fn by_hand() -> Vec<Vec<u8>> {
    let mut first = vec![0; 4096];
    put(&mut first, 32, &27_022_010u64.to_le_bytes());
    put(&mut first, 40, &2u32.to_le_bytes());
    put(&mut first, 320, &1u64.to_le_bytes());
    put(&mut first, 336, &128u32.to_le_bytes());
    seal(&mut first, 160_774);
    vec![
        first,
        node(1, true, &[(1, 2)]),
        node(2, false, &[(0, 3), (10, 4)]),
        node(3, true, &[(0, 5 << 24 | 1), (1, 6 << 24), (3, 7 << 24)]),
        node(4, true, &[(12, 63 << 24)]),
    ]
}

fn lying(blocks: &[Vec<u8>]) -> VolumeGroup {
    let volumes = volume("root", ", \"VISIBLE\"", &[&thin(8, 1, "")]);
    with(&pool(0, "", &volumes), &blocks.concat())
}

#[test]
fn a_tree_made_by_hand_is_read() {
    let map = [(0, 5), (1, 6), (3, 7), (12, 63)].into();
    maps(&lying(&by_hand()), "root", &map, None);
}

#[test]
fn damaged_pools_are_named_with_their_place() {
    type Lie = (usize, usize, &'static [u8], u64, &'static str);
    // Block, byte in it, what is put there, the offset that is told, and what is said.
    let lies: [Lie; 9] = [
        (0, 32, &[1], 32, "no signature"),
        (0, 40, &[3], 40, "unknown version"),
        (0, 360, &[1], 360, "incompatible features"),
        (0, 336, &[64], 336, "block size"),
        (1, 8, &[9], 4104, "not where it says"),
        (1, 4, &[7], 4100, "neither a leaf"),
        (1, 24, &[24], 4120, "not of 8 bytes"),
        (1, 16, &[255], 4112, "more entries than room"),
        (2, 40, &[0], 8224, "not in order"),
    ];
    for (block, at, bytes, place, text) in lies {
        let mut blocks = by_hand();
        put(&mut blocks[block], at, bytes);
        seal(
            &mut blocks[block],
            if block == 0 { 160_774 } else { 121_107 },
        );
        let group = lying(&blocks);
        let root = group.volumes.last().unwrap();
        let error = root.disk.as_ref().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.offset(), Some(place), "{error}");
    }
    for block in [0, 1, 2, 3] {
        let mut blocks = by_hand();
        blocks[block][100] ^= 1;
        let (kind, said) = why(&lying(&blocks), "root");
        assert_eq!(kind, Kind::Corrupt);
        assert!(said.contains("checksum is wrong"), "{said}");
    }
}

#[test]
fn trees_that_loop_or_point_outside_end_with_an_error() {
    for (second, text) in [
        (node(2, false, &[(0, 2)]), "deeper than any can be"),
        (node(2, false, &[(0, 1 << 60)]), "number is impossible"),
        (node(2, false, &[(0, 128)]), "past the end of the metadata"),
    ] {
        let mut blocks = by_hand();
        blocks[2] = second;
        let (kind, said) = why(&lying(&blocks), "root");
        assert_eq!(kind, Kind::Corrupt);
        assert!(said.contains(text), "{said}");
    }
    for (data, text) in [(64 << 24, "past the end"), (u64::MAX, "past the end")] {
        let mut blocks = by_hand();
        blocks[3] = node(3, true, &[(0, data)]);
        let group = lying(&blocks);
        let disk = group.volumes.last().unwrap().disk.as_ref().unwrap();
        let error = disk.read_at(&mut [0; 8], 0).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (Kind::Corrupt, Some(3 << 12))
        );
        assert!(error.to_string().contains(text), "{error}");
        // What is mapped elsewhere is still there.
        assert_eq!(origin(disk, 12 * CHUNK), (0, DATA + 63 * CHUNK));
    }
}
