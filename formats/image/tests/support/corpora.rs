//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rehost_block::{Disk, File, Storage};
use rehost_image::Image;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{have, run, runs};

/// Larger disks are compared run by run with qemu-img's reading instead of hashed, which would take
/// too long.
pub(crate) const MOST_HASHED: u64 = 1 << 30;

/// One image of the corpora.
pub(crate) struct Record {
    /// Its file, packed or not.
    pub(crate) file: PathBuf,
    /// What is known of it.
    pub(crate) known: Value,
}

/// The records of the categories that are `wanted`; nothing where there are no corpora.
pub(crate) fn records(wanted: impl Fn(&str) -> bool) -> Option<Vec<Record>> {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        println!("skipped: needs the corpora (REHOST_CORPORA)");
        return None;
    };
    let records = fs::read_to_string(root.join("EXPECTED.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|known: &Value| wanted(known["category"].as_str().unwrap_or_default()))
        .map(|known| Record {
            file: root
                .join(known["origin"].as_str().unwrap())
                .join(known["stored"].as_str().unwrap()),
            known,
        })
        .collect();
    Some(records)
}

impl Record {
    /// Its name in the corpora, for messages.
    pub(crate) fn stored(&self) -> &str {
        self.known["stored"].as_str().unwrap()
    }

    /// Its own name, without the suffix of a packer.
    pub(crate) fn name(&self) -> String {
        let name = match self.file.extension().and_then(|suffix| suffix.to_str()) {
            Some("gz" | "bz2") => self.file.file_stem(),
            _ => self.file.file_name(),
        };
        name.unwrap().to_str().unwrap().to_owned()
    }

    /// Puts it, unpacked, to `path`.
    pub(crate) fn unpack(&self, path: &Path) {
        let file = fs::File::open(&self.file).unwrap();
        let mut plain: Box<dyn Read> = match self.file.extension().and_then(|s| s.to_str()) {
            Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Some("bz2") => Box::new(bzip2::read::MultiBzDecoder::new(file)),
            _ => Box::new(file),
        };
        std::io::copy(&mut plain, &mut fs::File::create(path).unwrap()).unwrap();
    }
}

/// SHA-256 of the whole disk.
pub(crate) fn sha256(disk: &dyn Disk) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < disk.size() {
        let len = buffer.len().min(usize::try_from(disk.size() - at).unwrap());
        disk.read_at(&mut buffer[..len], at).unwrap();
        hash.update(&buffer[..len]);
        at += len as u64;
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Fails unless `image`, which is `name` in `folder`, has the recorded size and content.
pub(crate) fn assert_recorded(folder: &Path, name: &str, image: &Image, known: &Value) {
    assert_eq!(Some(image.size()), known["guest_size"].as_u64(), "{name}");
    if image.size() <= MOST_HASHED {
        let hash = known["guest_sha256"].as_str();
        assert_eq!(Some(sha256(&*image.disk()).as_str()), hash, "{name}");
    } else {
        assert_runs(folder, name, image, known);
    }
}

/// What is not a hole of `image` is the same in qemu-img's reading, and of the recorded length.
fn assert_runs(folder: &Path, name: &str, image: &Image, known: &Value) {
    if !have(&["qemu-img"]) {
        return;
    }
    run(
        folder,
        "qemu-img",
        &["convert", "-O", "raw", name, "judged.raw"],
    );
    let judged = File::open(folder.join("judged.raw")).unwrap();
    let disk = image.disk();
    let (mut at, mut data) = (0, 0);
    for (word, len) in runs(&*disk) {
        if word != "zero" {
            let mut ours = vec![1; usize::try_from(len).unwrap()];
            let mut theirs = vec![2; ours.len()];
            disk.read_at(&mut ours, at).unwrap();
            judged.read_at(&mut theirs, at).unwrap();
            assert!(ours == theirs, "{name} at {at}");
            data += len;
        }
        at += len;
    }
    assert_eq!(
        Some(data),
        known["qemu_map"]["data_bytes"].as_u64(),
        "{name}"
    );
}
