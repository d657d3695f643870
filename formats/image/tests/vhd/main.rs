//! VHD against foreign judges: qemu-img and qemu-io make, change and read the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changing;
mod checks;
mod corpora;
mod corruption;
mod options;
mod parents;
mod reading;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod writing;

use std::path::Path;

use rehost_image::{Format, TargetOptions, TargetSpec, VhdKind, VhdOptions, Written};

const KINDS: [(VhdKind, &str); 2] = [(VhdKind::Dynamic, "dynamic"), (VhdKind::Fixed, "fixed")];

fn kind_of(kind: VhdKind) -> TargetOptions {
    TargetOptions::Vhd(VhdOptions {
        kind,
        ..VhdOptions::default()
    })
}

fn spec(kind: VhdKind, disk: &[u8]) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vhd, disk.len() as u64, "disk.vhd").unwrap();
    spec.options = kind_of(kind);
    spec
}

fn write(path: &Path, kind: VhdKind, disk: &[u8]) -> Written {
    support::writing::write(path, &spec(kind, disk), disk, 4 << 20)
}

fn in_memory(kind: VhdKind, disk: &[u8]) -> Vec<u8> {
    support::writing::in_memory(&spec(kind, disk), disk, 2 << 20)
}

/// The content of `image` as qemu-img sees it. The format is said: a fixed VHD has nothing at its
/// beginning that qemu-img would know it by.
fn qemu_content(folder: &Path, image: &str) -> Vec<u8> {
    support::qemu_content_with(folder, image, &["-f", "vpc"])
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
