//! Images with random bytes in their tables: checks, repairs and edits end, and end well or with a
//! named error.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use rehost_block::{Memory, Opened, Opener, Result, SameFolder, Storage, StorageMut};
use rehost_image::{Check, Format, LayerMut, Severity};

use crate::judging::{Files, qemu_io};
use crate::support::{have, run};

/// Nothing lies beside an image in memory.
#[derive(Debug)]
struct Alone;

impl Opener for Alone {
    fn open(&self, name: &Path, base: &Path) -> Result<Opened> {
        SameFolder.open(name, base)
    }
}

/// A small image with everything in it: snapshots, bitmaps, compressed clusters.
fn sound(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let image = "disk.qcow2";
    let create = ["create", "-q", "-f", "qcow2", "-o", options, image, "192k"];
    run(folder, "qemu-img", &create);
    let write = |commands: &[&str]| {
        let commands: Vec<_> = commands.iter().map(|x| (*x).to_owned()).collect();
        qemu_io(folder, image, &commands);
    };
    write(&[
        "write -P 1 0 40k",
        "write -c -P 2 64k 32k",
        "write -z 96k 16k",
    ]);
    run(folder, "qemu-img", &["snapshot", "-c", "one", image]);
    run(
        folder,
        "qemu-img",
        &["bitmap", "--add", "-g", "512", image, "b"],
    );
    write(&["write -P 3 8k 60k"]);
    fs::read(folder.join(image)).unwrap()
}

fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        ["cluster_size=512", "cluster_size=16k,extended_l2=on"]
            .map(sound)
            .to_vec()
    })
}

fn check(bytes: Vec<u8>) -> Result<Check> {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new("disk.qcow2", bytes));
    rehost_image::check(Path::new("disk.qcow2"), Format::Qcow2, storage, &Alone)
}

/// Everything that can be done to an image; what fails has to fail with an error.
fn abuse(bytes: &[u8]) {
    let first = check(bytes.to_vec());
    let memory = Arc::new(Memory::new("disk.qcow2", bytes.to_vec()));
    let storage: Arc<dyn StorageMut> = Arc::<Memory>::clone(&memory);
    let path = || "disk.qcow2".into();
    let mended = rehost_image::repair(path(), Format::Qcow2, storage, &Alone, &Files);
    if let (Ok(first), Ok(mended)) = (&first, &mended) {
        assert!(first.is_clean() || mended.corruptions <= first.corruptions);
        // A second repair finds nothing more to do.
        let once = memory.to_vec();
        let storage: Arc<dyn StorageMut> = Arc::<Memory>::clone(&memory);
        let again = rehost_image::repair(path(), Format::Qcow2, storage, &Alone, &Files).unwrap();
        assert_eq!(again.is_clean(), mended.is_clean());
        assert!(!mended.is_clean() || memory.to_vec() == once);
    }
    let storage: Arc<dyn StorageMut> = Arc::<Memory>::clone(&memory);
    let edit = rehost_image::edit(path(), Format::Qcow2, storage, &Alone, &Files);
    if let Ok(mut layer) = edit
        && layer.size() <= 1 << 20
    {
        let _ = change(&mut *layer);
        drop(layer);
        assert_undamaged(memory.to_vec());
        let storage: Arc<dyn StorageMut> = Arc::<Memory>::clone(&memory);
        if let Ok(mut edit) =
            rehost_image::edit_snapshots(path(), Format::Qcow2, storage, &Alone, &Files)
        {
            let made = edit.create("two", UNIX_EPOCH);
            let deleted = edit.delete("one");
            edit.flush().unwrap();
            if made.is_ok() && deleted.is_ok() {
                assert_undamaged(memory.to_vec());
            }
        }
    }
}

/// Two entries of one disk that share a cluster are sound once they are counted. When one of them
/// is changed, the other's copied flag is missing: as in QEMU, and no byte is at risk.
fn assert_undamaged(bytes: Vec<u8>) {
    let found = check(bytes).unwrap();
    let harmless = |text: &str| text.starts_with("copied flag is missing");
    let harmful = found
        .findings
        .iter()
        .find(|finding| finding.severity == Severity::Corruption && !harmless(&finding.text));
    assert_eq!(harmful, None, "{:#?}", found.findings);
}

fn change(layer: &mut dyn LayerMut) -> Result<()> {
    let unit = layer.unit().get();
    let len = usize::try_from(unit).unwrap();
    let done = layer
        .put(0, &vec![7; len])
        .and_then(|()| layer.zero(unit, unit))
        .and_then(|()| layer.forget(2 * unit, unit))
        .and_then(|()| layer.resize(1 << 20));
    layer.flush()?;
    done
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_in_the_tables_never_hang_nor_panic(
        which in 0..2usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..5),
    ) {
        if !have(&["qemu-img", "qemu-io"]) {
            return Ok(());
        }
        let mut bytes = images()[which].clone();
        // The header, or bytes that are not zero: tables and their neighbours.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0 && bytes[*at] > 7).collect();
        for (place, value, kind) in flips {
            let at = match kind {
                0 => place.index(120),
                1 => place.index(bytes.len()),
                _ => used[place.index(used.len())],
            };
            bytes[at] = value;
        }
        abuse(&bytes);
    }
}
