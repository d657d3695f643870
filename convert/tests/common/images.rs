//! Making images with qemu-img, and asking it about ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{judge, run};

/// An image of `format` (as qemu-img calls it) with the content of `raw`.
pub(crate) fn image(raw: &Path, format: &str, name: &str) -> PathBuf {
    let path = raw.with_file_name(name);
    let exact: &[&str] = if format == "vpc" {
        &["-o", "force_size=on"]
    } else {
        &[]
    };
    judge(
        Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format])
            .args(exact)
            .arg(raw)
            .arg(&path),
    );
    path
}

/// What qemu-img says of an image.
pub(crate) fn info(path: &Path, format: &str) -> Value {
    let said = judge(
        Command::new("qemu-img")
            .args(["info", "--output=json", "-f", format])
            .arg(path)
            .current_dir(folder(path)),
    );
    serde_json::from_str(&said).unwrap()
}

/// The folder of an image: QEMU looks for data files in the one that it runs in.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The content of an image as qemu-img reads it.
pub(crate) fn content(path: &Path, format: &str) -> Vec<u8> {
    let out = path.with_extension("content");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-f", format, "-O", "raw"])
            .arg(path)
            .arg(&out)
            .current_dir(folder(path)),
    );
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(out).unwrap();
    bytes
}

/// `qemu-img check`, for the formats that it knows how to check.
pub(crate) fn sound(path: &Path, format: &str) {
    if matches!(format, "qcow2" | "vdi" | "vhdx" | "vmdk") {
        judge(
            Command::new("qemu-img")
                .args(["check", "-f", format])
                .arg(path)
                .current_dir(folder(path)),
        );
    }
    let found = run(["check".as_ref(), path.as_os_str(), "--json".as_ref()]).json();
    assert_eq!(found["corruptions"], 0, "{found}");
    // A VMDK that was made smaller keeps the room of what was cut off until it is compacted.
    assert!(format == "vmdk" || found["leaks"] == 0, "{found}");
}

/// The journal of an image.
pub(crate) fn journal(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".rehost-journal");
    name.into()
}
