//! VHD against foreign judges: qemu-img and qemu-io make, change and read the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpora;
mod corruption;
#[allow(dead_code)]
#[path = "../qcow2/judge.rs"]
mod judge;
mod parents;
mod reading;
mod writing;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{File, Memory, StorageMut, is_zero};
use rehost_image::{Format, TargetSpec, VhdKind, Written, create};

const KINDS: [(VhdKind, &str); 2] = [(VhdKind::Dynamic, "dynamic"), (VhdKind::Fixed, "fixed")];

/// Writes `disk` as the copy engine does, `step` bytes at a time, zeroes left out.
fn write_to(storage: Arc<dyn StorageMut>, kind: VhdKind, disk: &[u8], step: usize) -> Written {
    let mut spec = TargetSpec::new(Format::Vhd, disk.len() as u64, "disk.vhd");
    spec.vhd = kind;
    let target = create(&spec, storage).unwrap();
    for (nth, piece) in disk.chunks(step).enumerate() {
        if !is_zero(piece) {
            let offset = (nth * step) as u64;
            let payload = target.pack(offset, piece).unwrap();
            target.put(offset, payload).unwrap();
        }
    }
    target.publish().unwrap()
}

fn write(path: &Path, kind: VhdKind, disk: &[u8]) -> Written {
    write_to(
        Arc::new(File::create_new(path).unwrap()),
        kind,
        disk,
        4 << 20,
    )
}

fn in_memory(kind: VhdKind, disk: &[u8]) -> Vec<u8> {
    let memory = Arc::new(Memory::new("disk.vhd", Vec::new()));
    write_to(memory.clone(), kind, disk, 2 << 20);
    memory.to_vec()
}

/// The content of `image` as qemu-img sees it. The format is said: a fixed VHD has nothing at its
/// beginning that qemu-img would know it by.
fn qemu_content(folder: &Path, image: &str) -> Vec<u8> {
    let raw = format!("{image}.judged.raw");
    let args = ["convert", "-f", "vpc", "-O", "raw", image, &raw];
    judge::run(folder, "qemu-img", &args);
    let bytes = fs::read(folder.join(&raw)).unwrap();
    fs::remove_file(folder.join(raw)).unwrap();
    bytes
}

/// Writes `value` at `at` and makes the checksum at `sum` of the structure `from..to` right.
fn patch(bytes: &mut [u8], (from, to, sum): (usize, usize, usize), at: usize, value: &[u8]) {
    bytes[from + at..from + at + value.len()].copy_from_slice(value);
    bytes[from + sum..from + sum + 4].fill(0);
    let total = bytes[from..to].iter().map(|byte| u32::from(*byte)).sum();
    let total: u32 = total;
    bytes[from + sum..from + sum + 4].copy_from_slice(&(!total).to_be_bytes());
}

/// The footer at the end of `bytes`, for [`patch`].
fn footer(bytes: &[u8]) -> (usize, usize, usize) {
    (bytes.len() - 512, bytes.len(), 64)
}

/// The footer's copy and the dynamic disk header, for [`patch`].
const COPY: (usize, usize, usize) = (0, 512, 64);
const HEADER: (usize, usize, usize) = (512, 1536, 36);
