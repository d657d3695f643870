//! Members of arrays written by hand: superblocks of every version, and data laid out after the
//! tables that md(4) and the documentation of RAID layouts draw.

use std::sync::Arc;

use rehost_block::{Disk, Memory, StorageDisk};
use rehost_volume::md::{Array, Member, assemble};

pub(crate) const CHUNK: usize = 4096;
/// Stripes of every array here: a multiple of every table's period.
pub(crate) const ROWS: usize = 60;
const DATA: usize = 1 << 20;

/// What the superblocks of an array say.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) version: &'static str,
    pub(crate) level: i32,
    pub(crate) layout: u32,
    pub(crate) members: usize,
}

/// What one member's superblock says beyond that.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    pub(crate) events: u64,
    pub(crate) features: u32,
    pub(crate) resync: u64,
    pub(crate) recovery: u64,
}

pub(crate) const HEALTHY: Own = Own {
    events: 9,
    features: 0,
    resync: u64::MAX,
    recovery: 0,
};

pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn sum(raw: &[u8]) -> u32 {
    let total: u64 = raw
        .chunks(4)
        .map(|word| {
            word.iter()
                .rev()
                .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        })
        .sum();
    ((total & 0xffff_ffff) + (total >> 32)) as u32
}

/// A member whose data are `data`.
pub(crate) fn member(made: Made, slot: usize, data: &[u8], own: Own) -> Vec<u8> {
    let (at, start) = match made.version {
        "1.1" => (0, DATA),
        "1.2" => (4096, DATA),
        "1.0" => (DATA + data.len() + 65_536 - 8192, 0),
        _ => ((data.len() + DATA) & !0xffff, 0),
    };
    let len = match made.version {
        "1.1" | "1.2" => DATA + data.len(),
        "1.0" => at + 8192,
        _ => at + 65_536,
    };
    let mut image = vec![0xe5; len];
    put(&mut image, start, data);
    let raw = if made.version == "0.90" {
        old(made, slot, data.len(), own)
    } else {
        new(
            made,
            slot,
            data.len(),
            own,
            at as u64 / 512,
            start as u64 / 512,
        )
    };
    put(&mut image, at, &raw);
    image
}

fn new(made: Made, slot: usize, len: usize, own: Own, at: u64, start: u64) -> Vec<u8> {
    let mut raw = vec![0; 256 + made.members * 2];
    put(&mut raw, 0, &0xa92b_4efcu32.to_le_bytes());
    put(&mut raw, 4, &1u32.to_le_bytes());
    put(&mut raw, 8, &own.features.to_le_bytes());
    put(&mut raw, 16, b"0123456789abcdef");
    put(&mut raw, 32, b"host:0");
    put(&mut raw, 72, &made.level.to_le_bytes());
    put(&mut raw, 76, &made.layout.to_le_bytes());
    put(&mut raw, 80, &(len as u64 / 512).to_le_bytes());
    put(&mut raw, 88, &(CHUNK as u32 / 512).to_le_bytes());
    put(&mut raw, 92, &(made.members as u32).to_le_bytes());
    put(&mut raw, 128, &start.to_le_bytes());
    put(&mut raw, 136, &(len as u64 / 512).to_le_bytes());
    put(&mut raw, 144, &at.to_le_bytes());
    put(&mut raw, 152, &own.recovery.to_le_bytes());
    put(&mut raw, 160, &(slot as u32).to_le_bytes());
    put(&mut raw, 200, &own.events.to_le_bytes());
    put(&mut raw, 208, &own.resync.to_le_bytes());
    put(&mut raw, 220, &(made.members as u32).to_le_bytes());
    for nth in 0..made.members {
        put(&mut raw, 256 + nth * 2, &(nth as u16).to_le_bytes());
    }
    let check = sum(&raw);
    put(&mut raw, 216, &check.to_le_bytes());
    raw
}

fn old(made: Made, slot: usize, len: usize, own: Own) -> Vec<u8> {
    let mut raw = vec![0; 4096];
    let mut word = |nth: usize, value: u32| put(&mut raw, nth * 4, &value.to_le_bytes());
    word(0, 0xa92b_4efc);
    word(2, 90);
    word(5, 0x3031_3233);
    word(7, made.level as u32);
    word(8, len as u32 / 1024);
    word(9, made.members as u32);
    word(10, made.members as u32);
    word(33, u32::from(own.resync == u64::MAX));
    word(39, own.events as u32);
    word(64, made.layout);
    word(65, CHUNK as u32);
    for nth in 0..made.members {
        word(128 + nth * 32, nth as u32);
        word(128 + nth * 32 + 3, nth as u32);
        word(128 + nth * 32 + 4, 6);
    }
    word(992, slot as u32);
    word(995, slot as u32);
    word(996, 6);
    let check = sum(&raw);
    put(&mut raw, 152, &check.to_le_bytes());
    raw
}

/// The chunk numbered `nth` of an array of noise.
pub(crate) fn chunk(nth: usize) -> Vec<u8> {
    let mut state = nth as u64 * 2 + 1;
    (0..CHUNK)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            (state >> 56) as u8
        })
        .collect()
}

fn times(a: u8, b: u8) -> u8 {
    (0..8).rev().fold(0u8, |product, bit| {
        let carry = if product & 0x80 != 0 { 0x1d } else { 0 };
        (product << 1) ^ carry ^ if b >> bit & 1 == 1 { a } else { 0 }
    })
}

fn cells<'a>(table: &[&'a str]) -> (Vec<Vec<&'a str>>, usize) {
    let rows: Vec<Vec<&str>> = table.iter().map(|row| row.split(' ').collect()).collect();
    let numbers = rows
        .iter()
        .flatten()
        .filter_map(|cell| cell.parse::<usize>().ok());
    let period = numbers.max().unwrap() + 1;
    (rows, period)
}

/// Lays an array of noise out: its bytes and those of its members.
pub(crate) fn lay_out(table: &[&str]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (rows, period) = cells(table);
    let plain: Vec<u8> = (0..ROWS / rows.len() * period).flat_map(chunk).collect();
    let images = lay_out_of(table, &plain);
    (plain, images)
}

/// Lays `plain` out: each row of `table` names a chunk, `P` or `Q` for every member, and the table
/// repeats. Returns the bytes of the members.
pub(crate) fn lay_out_of(table: &[&str], plain: &[u8]) -> Vec<Vec<u8>> {
    let (rows, period) = cells(table);
    let members = rows[0].len();
    let mut images = vec![Vec::new(); members];
    for row in 0..ROWS {
        let cells = &rows[row % rows.len()];
        let base = row / rows.len() * period;
        let content = |cell: &str| {
            let nth = base + cell.parse::<usize>().unwrap();
            plain[nth * CHUNK..][..CHUNK].to_vec()
        };
        let data = |slot: usize| cells[slot] != "P" && cells[slot] != "Q";
        let q = cells.iter().position(|cell| *cell == "Q");
        for (slot, image) in images.iter_mut().enumerate() {
            match cells[slot] {
                "P" => {
                    let mut parity = vec![0; CHUNK];
                    for other in (0..members).filter(|other| data(*other)) {
                        let bytes = content(cells[other]);
                        parity
                            .iter_mut()
                            .zip(bytes)
                            .for_each(|(to, byte)| *to ^= byte);
                    }
                    image.extend(parity);
                }
                "Q" => {
                    // The data weigh 1, 2, 4 … in the order in which they follow Q.
                    let mut parity = vec![0u8; CHUNK];
                    let mut weight = 1;
                    for step in 1..=members {
                        let other = (q.unwrap() + step) % members;
                        if !data(other) {
                            continue;
                        }
                        let bytes = content(cells[other]);
                        for (to, byte) in parity.iter_mut().zip(bytes) {
                            *to ^= times(byte, weight);
                        }
                        weight = times(weight, 2);
                    }
                    image.extend(parity);
                }
                cell => image.extend(content(cell)),
            }
        }
    }
    images
}

pub(crate) fn disk(bytes: Vec<u8>) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(Memory::new("member", bytes))))
}

/// The one array of `images`.
pub(crate) fn array(images: &[Vec<u8>]) -> Array {
    let members: Vec<Member> = images
        .iter()
        .map(|image| Member::read(&disk(image.clone())).unwrap().unwrap())
        .collect();
    let mut arrays = assemble(&members);
    assert_eq!(arrays.len(), 1);
    arrays.remove(0)
}

pub(crate) fn contents(array: &Array) -> Vec<u8> {
    let disk = array.disk.as_ref().unwrap();
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}
