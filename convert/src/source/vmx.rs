//! VMware's `.vmx`: a machine as ESXi, Workstation and Fusion describe it.
//!
//! There is no public specification; keys and defaults are those that VMware's products write, as
//! seen in the machines of the test corpora. Every disk is opened through the caller's [`Opener`],
//! so that a machine can name no file that its user did not mean to hand over.
//!
//! Refused by name: encrypted machines, raw device maps and physical disks, redo logs of undoable
//! disks. Left out, and listed in [`Vm::left_out`]: floppies, USB, serial and parallel ports, sound,
//! pass-through and shared folders.

mod devices;
mod machine;
mod syntax;

use std::path::Path;

use rehost_block::{Opener, Result};

use super::Vm;
use syntax::Dictionary;

/// Reads the machine at `path`; its disks must exist and be let through by `opener`.
///
/// # Errors
/// Io when a file cannot be read; Usage when `opener` refuses a disk; Unsupported, by name, for
/// what the module's head lists; Corrupt, with line and byte offset, for what is no VMX.
pub fn read(path: &Path, opener: &dyn Opener) -> Result<Vm> {
    let bytes = super::bytes(path, "VMX file")?;
    parse(&bytes, path, opener).map_err(|error| error.in_structure("VMX").in_file(path))
}

/// As [`read`], for content that is in memory; `path` is where it came from.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path, opener: &dyn Opener) -> Result<Vm> {
    let dictionary = Dictionary::parse(bytes)?;
    machine::build(&dictionary, path, opener)
}

#[cfg(test)]
mod tests;
