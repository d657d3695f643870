//! VDI against foreign judges: qemu-img makes, checks and reads the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changing;
mod corruption;
mod options;
mod parents;
mod reading;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod writing;

use std::path::Path;

use rehost_image::{Format, TargetSpec, Written};

fn spec(disk: &[u8]) -> TargetSpec {
    TargetSpec::new(Format::Vdi, disk.len() as u64, "disk.vdi").unwrap()
}

/// Writes `disk` some blocks at a time.
fn write(path: &Path, disk: &[u8]) -> Written {
    support::writing::write(path, &spec(disk), disk, 2 << 20)
}

fn in_memory(disk: &[u8]) -> Vec<u8> {
    support::writing::in_memory(&spec(disk), disk, 2 << 20)
}
