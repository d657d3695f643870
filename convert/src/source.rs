//! Where a machine comes from: readers of hypervisors' machine descriptions, and disks without one.

pub mod disks;
pub mod libvirt;
mod vm;
pub mod vmx;

use std::path::Path;

use rehost_block::{Error, Opener, Result};

pub use vm::{
    Cdrom, Controller, Described, DiskMode, Firmware, LeftOut, Nic, NicModel, Vm, VmDisk,
};

/// Largest description that is read. Ours: real ones have 5 KiB.
const MOST_BYTES: u64 = 1 << 20;

/// In which form the file at `path` describes a machine, by its name: its content is text like any
/// other's. `None` for what is not called so.
#[must_use]
pub fn description(path: &Path) -> Option<Described> {
    let suffix = path.extension()?;
    if suffix.eq_ignore_ascii_case("vmx") {
        Some(Described::Vmx)
    } else if suffix.eq_ignore_ascii_case("xml") {
        Some(Described::Libvirt)
    } else {
        None
    }
}

/// Reads the machine at `path`, which is described in the form `described`; its disks must exist and
/// be let through by `opener`.
///
/// # Errors
/// As the readers; Usage for disks without a description.
pub fn read(path: &Path, described: Described, opener: &dyn Opener) -> Result<Vm> {
    match described {
        Described::Vmx => vmx::read(path, opener),
        Described::Libvirt => libvirt::read(path, opener),
        Described::Disks => Err(Error::usage("does not describe a machine").in_file(path)),
    }
}

/// The bytes of a description that is called a `structure`.
fn bytes(path: &Path, structure: &'static str) -> Result<Vec<u8>> {
    let meta =
        std::fs::metadata(path).map_err(|error| Error::io("cannot open", error).in_file(path))?;
    // Reading a pipe would wait for its writer.
    if !meta.is_file() {
        return Err(Error::usage("is no file").in_file(path));
    }
    let len = meta.len();
    if len > MOST_BYTES {
        return Err(Error::corrupt(format!("too large to be a {structure}"))
            .mismatch(format!("at most {MOST_BYTES} bytes"), len)
            .in_file(path));
    }
    std::fs::read(path).map_err(|error| Error::io("cannot read", error).in_file(path))
}
