//! Seeds made by hand: rpm's databases, and a program for EFI firmware.

use super::put;

/// A header of rpm with its name, version, release, epoch and architecture.
fn header(filler: usize) -> Vec<u8> {
    let long = "d".repeat(filler);
    let mut index = Vec::new();
    let mut store: Vec<u8> = Vec::new();
    for (tag, kind, value) in [
        (1000u32, 6u32, &b"bash\0"[..]),
        (1001, 6, b"5.1.8\0"),
        (1002, 6, b"9.el9\0"),
        (1003, 4, &[0, 0, 0, 1]),
        (1005, 6, long.as_bytes()),
        (1022, 6, b"\0x86_64\0"),
    ] {
        let offset = u32::try_from(store.len()).unwrap();
        for number in [tag, kind, offset, 1] {
            index.extend(number.to_be_bytes());
        }
        store.extend(value);
    }
    let mut blob = 6u32.to_be_bytes().to_vec();
    blob.extend(u32::try_from(store.len()).unwrap().to_be_bytes());
    blob.extend(index);
    blob.extend(store);
    blob
}

/// The two forms that no small tool writes.
pub(super) fn databases() -> Vec<(&'static str, Vec<u8>)> {
    vec![("ndb", ndb()), ("bdb", bdb())]
}

/// A page of slots, of which one leads to a package.
fn ndb() -> Vec<u8> {
    let header = header(100);
    let mut file = Vec::new();
    put(&mut file, 0, b"RpmP");
    for (at, value) in [(8, 1u32), (12, 1), (16, 2)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    for slot in (32..4096).step_by(16) {
        put(&mut file, slot, b"Slot");
    }
    let blocks = u32::try_from((header.len() + 28).div_ceil(16)).unwrap();
    for (at, value) in [(36, 1u32), (40, 256), (44, blocks)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 4096, b"BlbS");
    let len = u32::try_from(header.len()).unwrap();
    for (at, value) in [(4100, 1u32), (4104, 1), (4108, len)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 4112, &header);
    put(
        &mut file,
        4096 + usize::try_from(blocks).unwrap() * 16 - 1,
        &[0],
    );
    file
}

/// A hash page with a package on it, and one in two overflow pages.
fn bdb() -> Vec<u8> {
    const PAGE: usize = 512;
    const HEAD: usize = 26;
    let mut file = vec![0; PAGE * 4];
    for (at, value) in [(12, 0x0006_1561u32), (16, 9), (20, 512), (32, 3)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    file[25] = 8;
    let large = header(600);
    let mut off = vec![3, 0, 0, 0, 2, 0, 0, 0];
    off.extend(u32::try_from(large.len()).unwrap().to_le_bytes());
    let small = [&[1][..], &header(0)].concat();
    let items = [vec![1, 1, 0, 0, 0], small, vec![1, 2, 0, 0, 0], off];
    let mut end = PAGE;
    for (nth, item) in items.iter().enumerate() {
        end -= item.len();
        put(&mut file, PAGE + end, item);
        let place = u16::try_from(end).unwrap();
        put(&mut file, PAGE + HEAD + nth * 2, &place.to_le_bytes());
    }
    put(&mut file, PAGE + 20, &4u16.to_le_bytes());
    file[PAGE + 25] = 13;
    for (nth, part) in large.chunks(PAGE - HEAD).enumerate() {
        let at = (2 + nth) * PAGE;
        put(&mut file, at + HEAD, part);
        file[at + 16] = if nth == 0 { 3 } else { 0 };
        let held = u16::try_from(part.len()).unwrap();
        put(&mut file, at + 22, &held.to_le_bytes());
        file[at + 25] = 7;
    }
    file
}

/// Three sections and a signature.
pub(super) fn unified() -> Vec<u8> {
    let mut file = b"MZ".to_vec();
    file.resize(0x400, 0);
    for (at, value) in [(0x3c, 0x80u32), (0x98 + 108, 16)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 0x80, b"PE\0\0");
    for (at, value) in [(0x84, 0x8664u16), (0x86, 3), (0x94, 240), (0x98, 0x20b)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    let parts: [(&[u8], &[u8]); 3] = [
        (b".cmdline", b"root=UUID=1 ro\0"),
        (b".uname", b"6.1.0"),
        (b".linux", b"kernel"),
    ];
    for (nth, (name, content)) in parts.into_iter().enumerate() {
        let at = 0x98 + 240 + nth * 40;
        let from = u32::try_from(file.len()).unwrap();
        let len = u32::try_from(content.len()).unwrap();
        put(&mut file, at, name);
        for (place, value) in [(8, len), (16, 512), (20, from)] {
            put(&mut file, at + place, &value.to_le_bytes());
        }
        file.extend(content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    let from = u32::try_from(file.len()).unwrap();
    put(&mut file, 0x98 + 144, &from.to_le_bytes());
    put(&mut file, 0x98 + 148, &64u32.to_le_bytes());
    file.resize(file.len() + 64, 7);
    file
}
