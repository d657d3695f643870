//! A VHDX in memory, and the tools to change its fields as another program would.

use rehost_image::{Format, TargetSpec};

use crate::support::writing::in_memory;

/// Where our own writer puts things; the fields' offsets are those of the standard.
pub(crate) const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
pub(crate) const TABLES: [usize; 2] = [192 << 10, 256 << 10];
pub(crate) const LOG: usize = 1 << 20;
pub(crate) const METADATA: usize = 2 << 20;
pub(crate) const ITEMS: usize = METADATA + (64 << 10);
pub(crate) const BAT: usize = 3 << 20;
pub(crate) const BLOCK: usize = 1 << 20;

pub(crate) fn spec(size: usize) -> TargetSpec {
    TargetSpec::new(Format::Vhdx, size as u64, "disk.vhdx").unwrap()
}

/// A published image of `disk`.
pub(crate) fn image_of(disk: &[u8], spec: &TargetSpec) -> Vec<u8> {
    in_memory(spec, disk, 64 << 10)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Makes the checksum of the structure of `len` bytes at `at` right again.
pub(crate) fn seal(bytes: &mut [u8], at: usize, len: usize) {
    put(bytes, at + 4, &[0; 4]);
    let sum = crc32c::crc32c(&bytes[at..at + len]);
    put(bytes, at + 4, &sum.to_le_bytes());
}

/// Changes both headers.
pub(crate) fn headers(bytes: &mut [u8], field: usize, value: &[u8]) {
    for at in HEADERS {
        put(bytes, at + field, value);
        seal(bytes, at, 4096);
    }
}

/// Changes both region tables.
pub(crate) fn regions(bytes: &mut [u8], field: usize, value: &[u8]) {
    for at in TABLES {
        put(bytes, at + field, value);
        seal(bytes, at, 64 << 10);
    }
}

/// Sets an option whose value is a number.
pub(crate) fn set(spec: &mut TargetSpec, name: &str, value: u32) {
    spec.options.parse(&format!("{name}={value}")).unwrap();
}
