//! Dirty logs, made here as the standard says, replayed here in memory and by qemu-img on a copy.

use std::fs;

use rehost_block::{Error, Kind, Result};
use rehost_image::{Details, Format, Image};

use crate::bytes::{BAT, BLOCK, HEADERS, ITEMS, LOG, headers, image_of, put, spec, u64_at};
use crate::support::{have, noise, open_bytes, qemu_content, read_all, run};

const GUID: [u8; 16] = *b"a log in use now";
const LOG_LEN: usize = 1 << 20;
const SECTOR: usize = 4096;

#[derive(Clone)]
enum Change {
    Data(Vec<u8>),
    Zero(usize),
}

/// One log entry (MS-VHDX 2.3.1).
struct Entry {
    guid: [u8; 16],
    sequence: u64,
    tail: usize,
    flushed: usize,
    last: usize,
    changes: Vec<(usize, Change)>,
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let descriptors = (64 + 32 * self.changes.len()).next_multiple_of(SECTOR);
        let mut head = b"loge\0\0\0\0\0\0\0\0".to_vec();
        let mut data = Vec::new();
        let sequence = self.sequence.to_le_bytes();
        head.extend(u32::try_from(self.tail).unwrap().to_le_bytes());
        head.extend(sequence);
        head.extend((self.changes.len() as u64).to_le_bytes());
        head.extend(self.guid);
        head.extend((self.flushed as u64).to_le_bytes());
        head.extend((self.last as u64).to_le_bytes());
        for (at, change) in &self.changes {
            match change {
                Change::Zero(len) => {
                    head.extend(b"zero\0\0\0\0");
                    head.extend((*len as u64).to_le_bytes());
                }
                Change::Data(bytes) => {
                    head.extend(b"desc");
                    head.extend(&bytes[4092..]);
                    head.extend(&bytes[..8]);
                    data.extend(b"data");
                    data.extend(&sequence[4..]);
                    data.extend(&bytes[8..4092]);
                    data.extend(&sequence[..4]);
                }
            }
            head.extend((*at as u64).to_le_bytes());
            head.extend(sequence);
        }
        head.resize(descriptors, 0);
        let mut bytes = [head, data].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        put(&mut bytes, 8, &len.to_le_bytes());
        let sum = crc32c::crc32c(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }
}

/// Puts `entry` at `at` of the ring and gives the place after it.
fn log(file: &mut [u8], at: usize, entry: &Entry) -> usize {
    let mut at = at;
    for sector in entry.bytes().chunks(SECTOR) {
        put(file, LOG + at, sector);
        at = (at + SECTOR) % LOG_LEN;
    }
    at
}

fn open(bytes: Vec<u8>) -> Result<Image> {
    open_bytes("disk.vhdx", bytes, Some(Format::Vhdx))
}

fn error(bytes: Vec<u8>) -> Error {
    open(bytes).unwrap_err()
}

/// Whether QEMU is asked too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Qemu {
    Agrees,
    /// QEMU 7.2 compares sequences by their first entry and does not look at tails, and so leaves
    /// out the entries before the end of the ring (`vhdx_log_search`); MS-VHDX 2.3.2 says otherwise.
    LosesTheTail,
}

/// What this program and, after a repair, QEMU read of `bytes` is `expected`.
fn judge(bytes: &[u8], expected: &[u8], replayed: usize, qemu: Qemu) {
    let image = open(bytes.to_vec()).unwrap();
    let Details::Vhdx(details) = &image.layers()[0].details else {
        panic!("{:?}", image.layers());
    };
    assert_eq!(details.replayed, replayed);
    for step in [1 << 20, 3000] {
        assert!(
            read_all(&*image.disk(), step) == expected,
            "content differs"
        );
    }
    if qemu == Qemu::LosesTheTail || !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("copy.vhdx"), bytes).unwrap();
    let check = ["check", "-r", "all", "-f", "vhdx", "copy.vhdx"];
    run(folder.path(), "qemu-img", &check);
    assert!(
        qemu_content(folder.path(), "copy.vhdx") == expected,
        "qemu-img replays something else"
    );
}

/// Four blocks of noise, and where each is in the file.
fn clean() -> (Vec<u8>, Vec<u8>, Vec<usize>) {
    let disk = noise(1, 4 * BLOCK);
    let mut bytes = image_of(&disk, &spec(disk.len()));
    headers(&mut bytes, 48, &GUID);
    let places = (0..4)
        .map(|nth| usize::try_from(u64_at(&bytes, BAT + nth * 8) >> 20 << 20).unwrap())
        .collect();
    (disk, bytes, places)
}

fn entry(file: &[u8], sequence: u64, tail: usize, changes: Vec<(usize, Change)>) -> Entry {
    Entry {
        guid: GUID,
        sequence,
        tail,
        flushed: file.len(),
        last: file.len(),
        changes,
    }
}

#[test]
fn a_sequence_around_the_end_of_the_ring_is_replayed_in_its_order() {
    for start in [
        LOG_LEN - 2 * SECTOR,
        LOG_LEN - SECTOR,
        LOG_LEN - 5 * SECTOR,
        0,
    ] {
        let (mut disk, mut file, places) = clean();
        let stale = entry(
            &file,
            3,
            LOG_LEN / 2,
            vec![(places[2], Change::Data(noise(9, SECTOR)))],
        );
        log(&mut file, LOG_LEN / 2, &stale);

        let (a, b) = (noise(2, SECTOR), noise(3, SECTOR));
        let first = entry(
            &file,
            10,
            start,
            vec![(places[0] + 2 * SECTOR, Change::Data(a.clone()))],
        );
        let second = entry(
            &file,
            11,
            start,
            vec![
                (places[1], Change::Zero(16 * SECTOR)),
                (places[1] + SECTOR, Change::Data(b.clone())),
                (places[0] + 3 * SECTOR, Change::Data(b.clone())),
            ],
        );
        let third = entry(
            &file,
            12,
            start,
            vec![(places[0] + 3 * SECTOR, Change::Data(a.clone()))],
        );
        let mut at = start;
        for entry in [&first, &second, &third] {
            at = log(&mut file, at, entry);
        }
        // What follows is of another time: the log was used under another name before.
        let mut foreign = entry(&file, 13, start, vec![(places[3], Change::Zero(BLOCK))]);
        foreign.guid = *b"a log used once!";
        log(&mut file, at, &foreign);

        put(&mut disk, 2 * SECTOR, &a);
        put(&mut disk, BLOCK, &vec![0; 16 * SECTOR]);
        put(&mut disk, BLOCK + SECTOR, &b);
        put(&mut disk, 3 * SECTOR, &a);
        let qemu = if start == 0 {
            Qemu::Agrees
        } else {
            Qemu::LosesTheTail
        };
        judge(&file, &disk, 3, qemu);
    }
}

#[test]
fn entries_before_the_tail_are_done_and_a_torn_head_never_was() {
    let (mut disk, mut file, places) = clean();
    let change = |seed| Change::Data(noise(seed, SECTOR));
    let done = entry(&file, 5, 0, vec![(places[0], change(2))]);
    let one = entry(&file, 6, 2 * SECTOR, vec![(places[1], change(3))]);
    let two = entry(&file, 7, 2 * SECTOR, vec![(places[2], change(4))]);
    let torn = entry(&file, 8, 2 * SECTOR, vec![(places[3], change(5))]);
    let mut at = 0;
    for entry in [&done, &one, &two] {
        at = log(&mut file, at, entry);
    }
    log(&mut file, at, &torn);
    file[LOG + at + SECTOR + 100] ^= 1;
    // Done means that the file has it, and QEMU does it again.
    put(&mut file, places[0], &noise(2, SECTOR));
    put(&mut disk, 0, &noise(2, SECTOR));
    put(&mut disk, BLOCK, &noise(3, SECTOR));
    put(&mut disk, 2 * BLOCK, &noise(4, SECTOR));
    judge(&file, &disk, 2, Qemu::Agrees);
}

#[test]
fn table_metadata_and_length_come_from_the_log_first() {
    let (mut disk, mut file, places) = clean();
    // The last block is gone from the table, another lies past the end of the file, and the disk
    // is one sector shorter.
    let moved = file.len();
    let mut table = file[BAT..BAT + SECTOR].to_vec();
    put(&mut table, 24, &[0; 8]);
    put(&mut table, 8, &(moved as u64 | 6).to_le_bytes());
    let mut items = file[ITEMS..ITEMS + SECTOR].to_vec();
    put(&mut items, 8, &(disk.len() as u64 - 512).to_le_bytes());
    let data = noise(7, SECTOR);
    let mut change = entry(
        &file,
        1,
        0,
        vec![
            (BAT, Change::Data(table)),
            (ITEMS, Change::Data(items)),
            (moved + BLOCK - SECTOR, Change::Data(data.clone())),
        ],
    );
    change.last = moved + BLOCK;
    log(&mut file, 0, &change);
    disk[BLOCK..2 * BLOCK].fill(0);
    put(&mut disk, 2 * BLOCK - SECTOR, &data);
    disk[3 * BLOCK..].fill(0);
    disk.truncate(disk.len() - 512);
    assert_ne!(places[1], moved);
    judge(&file, &disk, 1, Qemu::Agrees);
}

#[test]
fn a_log_that_cannot_be_replayed_is_an_error() {
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let whole = |file: &[u8]| {
        entry(
            file,
            4,
            0,
            vec![(BAT + SECTOR, Change::Data(vec![0; SECTOR]))],
        )
    };
    let cases: [Case<'_>; 9] = [
        ("no valid entry", &|_| {}),
        ("no valid entry", &|file| {
            let entry = whole(file);
            log(file, 0, &entry);
            file[LOG + 200] ^= 1;
        }),
        ("no valid entry", &|file| {
            let mut entry = whole(file);
            entry.sequence = 0;
            log(file, 0, &entry);
        }),
        ("no valid entry", &|file| {
            // Its own tail is gone.
            let mut entry = whole(file);
            entry.tail = 16 * SECTOR;
            log(file, 0, &entry);
        }),
        ("no valid entry", &|file| {
            // The data is of another write, under a checksum that is right.
            let mut bytes = whole(file).bytes();
            bytes[SECTOR + 4092] ^= 1;
            crate::bytes::seal(&mut bytes, 0, 2 * SECTOR);
            put(file, LOG, &bytes);
        }),
        ("no valid entry", &|file| {
            let mut bytes = whole(file).bytes();
            put(&mut bytes, 24, &u32::MAX.to_le_bytes());
            crate::bytes::seal(&mut bytes, 0, 2 * SECTOR);
            put(file, LOG, &bytes);
        }),
        ("ends before what its log relies on", &|file| {
            let entry = whole(file);
            log(file, 0, &entry);
            file.truncate(file.len() - 4096);
        }),
        ("length of a log in use", &|file| {
            headers(file, 68, &0u32.to_le_bytes());
        }),
        ("log: lies past the end of the file", &|file| {
            headers(file, 72, &(1u64 << 40).to_le_bytes());
        }),
    ];
    for (named, change) in cases {
        let (_, mut file, _) = clean();
        change(&mut file);
        let error = error(file);
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn the_log_of_the_older_header_is_not_replayed() {
    let (disk, mut file, places) = clean();
    let change = entry(&file, 1, 0, vec![(places[0], Change::Zero(BLOCK))]);
    log(&mut file, 0, &change);
    // The newer header says that the log is empty.
    let [_, newer] = HEADERS;
    put(&mut file, newer + 48, &[0; 16]);
    crate::bytes::seal(&mut file, newer, SECTOR);
    judge(&file, &disk, 0, Qemu::Agrees);
}
