//! Unit tests of the journal: copies cut short at every put, and carried on.

use std::num::NonZeroUsize;

use rehost_block::doubles::Faulty;
use rehost_block::{Memory, SameFolder, Storage, StorageDisk};
use rehost_image::{Format, Image, OneFile, TargetSpec, create};

use super::*;
use crate::copy::{CopyOptions, compare, copy};

/// A disk with islands of noise, stretches of zeroes inside of them, and holes of zeroes.
fn disk(size: usize) -> StorageDisk {
    let mut bytes = vec![0u8; size];
    let mut state = 1u64;
    for island in bytes.chunks_mut(300_000).step_by(3) {
        for byte in island.iter_mut() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8 & 0x3f;
        }
        if let Some(quiet) = island.get_mut(100_000..180_000) {
            quiet.fill(0);
        }
    }
    StorageDisk::new(Arc::new(Memory::new("disk", bytes)))
}

fn spec(kind: &str, size: u64) -> TargetSpec {
    let (format, options) = match kind {
        "raw" => (Format::Raw, ""),
        "qcow2" | "qcow2-zlib" => (Format::Qcow2, "cluster_size=4K"),
        "vmdk" => (Format::Vmdk, ""),
        "stream" => (Format::Vmdk, "subformat=streamOptimized"),
        "vhd" => (Format::Vhd, ""),
        "vdi" => (Format::Vdi, ""),
        _ => (Format::Vhdx, ""),
    };
    let mut spec = TargetSpec::new(format, size, "disk").unwrap();
    spec.options.parse(options).unwrap();
    if kind == "qcow2-zlib" {
        spec.compression = Some("zlib".parse().unwrap());
    }
    spec
}

fn identity(size: u64, target: &str) -> Identity {
    Identity::new(&[], size, target.to_owned(), String::new()).unwrap()
}

fn options(journal: &Journal) -> CopyOptions<'_> {
    CopyOptions {
        threads: NonZeroUsize::new(3).unwrap(),
        journal: Some(journal),
        ..CopyOptions::default()
    }
}

/// Begins a copy whose storage fails at write number `writes`; says whether it failed.
fn killed(
    disk: &dyn Disk,
    spec: &TargetSpec,
    file: &Arc<Memory>,
    path: &Path,
    writes: u64,
) -> bool {
    let faulty = Arc::new(Faulty::after(SharedMemory(Arc::clone(file)), writes));
    let storage = Arc::new(Tracked::writing(faulty));
    let _ = std::fs::remove_file(path);
    let run = || {
        let target = create(spec, Arc::clone(&storage) as Arc<dyn StorageMut>, &OneFile)?;
        let id = identity(disk.size(), &format!("{spec:?}"));
        let journal = Journal::begin(path, &id, Arc::clone(&storage), 200_000)?;
        copy(disk, &*target, &options(&journal))?;
        target.publish()
    };
    run().is_err()
}

/// Goes on with it to the end.
fn resumed(disk: &dyn Disk, spec: &TargetSpec, file: &Arc<Memory>, path: &Path) -> Copied {
    let storage = Arc::new(Tracked::replaying(Arc::clone(file) as Arc<dyn StorageMut>));
    let target = create(spec, Arc::clone(&storage) as Arc<dyn StorageMut>, &OneFile).unwrap();
    let id = identity(disk.size(), &format!("{spec:?}"));
    let journal = Journal::resume(path, &id, storage, &*target, disk, None, 200_000).unwrap();
    let copied = copy(disk, &*target, &options(&journal)).unwrap();
    target.publish().unwrap();
    copied
}

/// Memory that several hold.
#[derive(Debug)]
struct SharedMemory(Arc<Memory>);

impl Storage for SharedMemory {
    fn name(&self) -> &Path {
        self.0.name()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
}

impl StorageMut for SharedMemory {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(data, offset)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.0.set_size(size)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.0.zero_at(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_copy_that_fails_at_any_write_goes_on_to_the_same_content() {
    let disk = disk((5 << 20) + 512);
    for kind in [
        "raw",
        "qcow2",
        "qcow2-zlib",
        "vmdk",
        "stream",
        "vhd",
        "vdi",
        "vhdx",
    ] {
        let spec = spec(kind, disk.size());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let whole = Arc::new(Memory::new("whole", Vec::new()));
        assert!(!killed(&disk, &spec, &whole, &path, u64::MAX));
        let mut cuts = 0;
        for writes in (1..).step_by(7) {
            let file = Arc::new(Memory::new("file", Vec::new()));
            if !killed(&disk, &spec, &file, &path, writes) {
                break;
            }
            if !Journal::is_begun(&path) {
                continue;
            }
            cuts += 1;
            let copied = resumed(&disk, &spec, &file, &path);
            let sum = copied.data + copied.zero + copied.hole + copied.below;
            assert_eq!(sum, disk.size());
            let open = |bytes: Vec<u8>| {
                let storage = Arc::new(Memory::new("image", bytes));
                let format = Some(spec.format());
                Image::from_storage("/image".into(), storage, format, &SameFolder).unwrap()
            };
            let image = open(file.to_vec());
            assert!(
                compare(&*image.disk(), &disk).unwrap().same(),
                "{kind} {writes}"
            );
            if matches!(kind, "raw" | "qcow2" | "qcow2-zlib") {
                assert!(
                    file.to_vec() == whole.to_vec(),
                    "{kind} {writes}: other bytes"
                );
            }
        }
        assert!(cuts > 0, "{kind}: never cut");
    }
}

#[test]
fn a_journal_of_another_conversion_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let source = folder.path().join("source");
    std::fs::write(&source, b"before").unwrap();
    let sources = [source.clone()];
    let of = |target: &str, settings: &str| {
        Identity::new(&sources, 6, target.to_owned(), settings.to_owned()).unwrap()
    };
    let before = of("raw", "none");
    drop(Log::create(&path, &before).unwrap());
    let refused = |now: &Identity| {
        let opened = Log::open(&path, now, |_| Ok(()));
        opened.map(drop).unwrap_err().to_string()
    };
    assert!(Log::open(&path, &before, |_| Ok(())).is_ok());
    assert!(refused(&of("qcow2", "none")).contains("other options"));
    assert!(refused(&of("raw", "sha256")).contains("other options"));
    std::fs::write(&source, b"longer than before").unwrap();
    let changed = refused(&of("raw", "none"));
    assert!(changed.contains("source changed"), "{changed}");
}

#[test]
fn a_torn_line_ends_the_journal_and_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let id = identity(10, "raw");
    let mut log = Log::create(&path, &id).unwrap();
    let mark = Tracked::writing(Arc::new(Memory::new("", Vec::new()))).mark();
    for done in [1, 2, 3] {
        log.append(&Checkpoint {
            done,
            copied: Copied::default(),
            file: mark,
            puts: vec![(0, Shape::Packed(vec![1, 2]))],
            leaves: vec![(7, [9; 32])],
        })
        .unwrap();
    }
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    let two = {
        let mut lines = whole.split_inclusive(|byte| *byte == b'\n');
        lines.by_ref().take(3).map(<[u8]>::len).sum::<usize>()
    };
    for cut in [two + 1, two + 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut seen = Vec::new();
        Log::open(&path, &id, |checkpoint| {
            seen.push(checkpoint.done);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [1, 2]);
        assert_eq!(std::fs::read(&path).unwrap(), whole[..two]);
    }
}
