//! Readers that share no code with QEMU: libyal's and dissect's (`scripts/second-readers`).

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// What one of them read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// `libvmdk`, `libvhdi` or `dissect`.
    pub(crate) reader: String,
    /// Size and SHA-256 of the content, or why there is none.
    pub(crate) content: Result<(u64, String), String>,
}

/// What each reader of `format` (`vmdk`, `vhd`, `vhdx`, `vdi`, `qcow2`) finds in `image`, whose
/// parents are named nearest first; says so and gives `None` where they are not installed.
pub(crate) fn second_readings(
    format: &str,
    image: &Path,
    parents: &[&Path],
) -> Option<Vec<Reading>> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../second-readers/bin/python");
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if !installed
        .join("../second-readers/requirements.txt")
        .exists()
    {
        println!("skipped: needs scripts/second-readers --install");
        return None;
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/readers/reader.py");
    let output = Command::new(python)
        .arg(script)
        .arg(format)
        .arg(image)
        .args(parents)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && !said.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let reading = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap();
        let (reader, size, rest) = (word(), word(), word());
        Reading {
            reader,
            content: match size.parse() {
                Ok(size) => Ok((size, rest)),
                Err(_) => Err(rest),
            },
        }
    };
    Some(said.lines().map(reading).collect())
}

/// Fails unless the second readers named in `readers` find `disk` in `image`.
pub(crate) fn assert_second(
    format: &str,
    image: &Path,
    parents: &[&Path],
    readers: &[&str],
    disk: &[u8],
) {
    let Some(readings) = second_readings(format, image, parents) else {
        return;
    };
    let hash = Sha256::digest(disk)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = Ok((disk.len() as u64, hash));
    for reader in readers {
        let found = readings.iter().find(|reading| reading.reader == *reader);
        let found = found.unwrap_or_else(|| panic!("{reader} reads no {format}"));
        assert_eq!(found.content, expected, "{reader} of {}", image.display());
    }
}
