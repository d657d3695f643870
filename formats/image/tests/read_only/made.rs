//! Small images made by hand, field by field, so that each of them can be changed.

use crate::support::noise;

/// Guest bytes per cluster of all images made here.
pub(crate) const CLUSTER: usize = 4096;

/// Little endian words at their places.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What an image made here holds: clusters 1 and 3 of eight and a sector; in a QED, cluster 2 is
/// one of zeroes.
pub(crate) const DISK: usize = 8 * CLUSTER + 512;

/// The guest's bytes in these images.
pub(crate) fn disk() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    put(&mut disk, CLUSTER, &noise(1, CLUSTER));
    put(&mut disk, 3 * CLUSTER, &noise(3, CLUSTER));
    disk
}

/// A QED of two clusters a table (QEMU opens none with one): the L1 table at cluster 1, one L2 table
/// at cluster 3, data at 5 and 6.
pub(crate) fn qed() -> Vec<u8> {
    let mut bytes = vec![0; 7 * CLUSTER];
    put(&mut bytes, 0, b"QED\0");
    for (at, value) in [(4, CLUSTER as u32), (8, 2), (12, 1)] {
        put(&mut bytes, at, &value.to_le_bytes());
    }
    put(&mut bytes, 40, &(CLUSTER as u64).to_le_bytes());
    put(&mut bytes, 48, &(DISK as u64).to_le_bytes());
    put(&mut bytes, CLUSTER, &(QED_L2 as u64).to_le_bytes());
    for (nth, entry) in [(1, 5 * CLUSTER as u64), (2, 1), (3, 6 * CLUSTER as u64)] {
        put(&mut bytes, QED_L2 + nth * 8, &entry.to_le_bytes());
    }
    put(&mut bytes, 5 * CLUSTER, &noise(1, CLUSTER));
    put(&mut bytes, 6 * CLUSTER, &noise(3, CLUSTER));
    bytes
}

/// Where the L2 table of that QED is.
pub(crate) const QED_L2: usize = 3 * CLUSTER;

/// A QCOW of version 1: the L1 table behind the header, one L2 table at cluster 1, data at 2 and 3.
pub(crate) fn qcow() -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER];
    put(&mut bytes, 0, b"QFI\xfb\0\0\0\x01");
    put(&mut bytes, 24, &(DISK as u64).to_be_bytes());
    put(&mut bytes, 32, &[12, 9]);
    put(&mut bytes, 40, &48u64.to_be_bytes());
    put(&mut bytes, 48, &(CLUSTER as u64).to_be_bytes());
    put(&mut bytes, CLUSTER + 8, &(2 * CLUSTER as u64).to_be_bytes());
    put(
        &mut bytes,
        CLUSTER + 24,
        &(3 * CLUSTER as u64).to_be_bytes(),
    );
    put(&mut bytes, 2 * CLUSTER, &noise(1, CLUSTER));
    put(&mut bytes, 3 * CLUSTER, &noise(3, CLUSTER));
    bytes
}

/// A Parallels image with the given magic, data at clusters 2 and 1.
pub(crate) fn parallels(magic: &[u8; 16]) -> Vec<u8> {
    let unit = if magic == b"WithoutFreeSpace" {
        CLUSTER / 512
    } else {
        1
    } as u32;
    let mut bytes = vec![0; 3 * CLUSTER];
    put(&mut bytes, 0, magic);
    let sectors = (CLUSTER / 512) as u32;
    for (at, value) in [
        (16, 2),
        (20, 16),
        (28, sectors),
        (32, 9),
        (36, (DISK / 512) as u32),
        (44, 0x312e_3276),
        (48, sectors),
        (64 + 4, 2 * unit),
        (64 + 12, unit),
    ] {
        put(&mut bytes, at, &value.to_le_bytes());
    }
    put(&mut bytes, 2 * CLUSTER, &noise(1, CLUSTER));
    put(&mut bytes, CLUSTER, &noise(3, CLUSTER));
    bytes
}

/// Both kinds of Parallels image.
pub(crate) const MAGICS: [&[u8; 16]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];

/// All kinds of image, each with its name.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("qed", qed()),
        ("qcow", qcow()),
        ("parallels", parallels(MAGICS[0])),
        ("parallels", parallels(MAGICS[1])),
    ]
}
