//! What the tests share: disks to export, and foreign programs to judge the server by.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rehost_block::{DiskMut, Memory, Overlay, StorageDisk};

/// Bytes that repeat with no power of two.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// 4 MiB of pattern with zeroes in the second MiB and in one block of the third.
pub(crate) fn disk() -> (Arc<Overlay>, Vec<u8>) {
    let mut bytes = pattern(4 << 20);
    let base = StorageDisk::new(Arc::new(Memory::new("base", bytes.clone())));
    let overlay = Arc::new(Overlay::in_memory(Arc::new(base)));
    overlay.zero_at(1 << 20, 1 << 20).unwrap();
    overlay.zero_at(0x2_1000 + (2 << 20), 4096).unwrap();
    bytes[1 << 20..2 << 20].fill(0);
    bytes[0x2_1000 + (2 << 20)..][..4096].fill(0);
    (overlay, bytes)
}

/// Whether `tool` can be started; says so when not.
pub(crate) fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("skipped: needs {tool}");
    }
    found
}

/// Runs a foreign program that must succeed, and gives its standard output.
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let output = attempt(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a foreign program.
pub(crate) fn attempt(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().unwrap()
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
