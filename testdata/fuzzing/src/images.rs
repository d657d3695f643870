//! Disk images: opened, read, checked, mended, changed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rehost_block::{Disk, Memory, Run, Storage, StorageMut};
use rehost_image::{
    Format, Image, OpenOptions, Unpacking, bitmaps, check, edit, edit_snapshots, keep_bitmaps,
    repair, snapshots,
};

use crate::storages::{Bounded, Fresh, NAME, Strangers};

/// Answers of `locate` that are asked for, and reads.
const STEPS: u32 = 1000;
const READS: u32 = 24;

/// Where a walk goes on after an error, in bytes.
const BEYOND: u64 = 64 << 10;

/// Plain bytes of a wrapped image at most.
const MOST_PLAIN: u64 = 4 << 20;

/// An image of `format`.
pub(crate) fn image(format: Format, bytes: &[u8]) {
    let strangers = Strangers::raw();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new(NAME, bytes.to_vec()));
    open(Arc::clone(&storage), Some(format), &strangers);
    let _ = check(Path::new(NAME), format, storage, &strangers);
    let storage = Arc::new(Bounded::new(bytes.to_vec()));
    let _ = repair(NAME.into(), format, storage, &strangers, &Fresh);
    change(format, bytes);
    if format == Format::Qcow2 {
        kept(bytes);
    }
}

/// The bitmaps and snapshots of a qcow2 image: looked at, then made, taken back and deleted.
fn kept(bytes: &[u8]) {
    let (name, format) = (Path::new(NAME), Format::Qcow2);
    let storage: Arc<dyn Storage> = Arc::new(Memory::new(NAME, bytes.to_vec()));
    let _ = bitmaps(name, format, Arc::clone(&storage));
    let _ = keep_bitmaps(name, format, &storage);
    let _ = snapshots(name, format, storage);
    let storage = Arc::new(Bounded::new(bytes.to_vec()));
    let strangers = Strangers::raw();
    let edited: Arc<dyn StorageMut> = storage.clone();
    let editor = edit_snapshots(NAME.into(), format, edited, &strangers, &Fresh);
    if let Ok(mut editor) = editor {
        let _ = editor.list();
        let _ = editor.create("another", SystemTime::UNIX_EPOCH);
        let _ = editor.apply("1");
        let _ = editor.delete("1");
        let _ = editor.flush();
        drop(editor);
        open(storage, Some(format), &strangers);
    }
}

/// An extent of a VMDK, under a descriptor that says as much of it as its header does.
pub(crate) fn extent(create_type: &str, kind: &str, bytes: &[u8]) {
    let field = |at: usize, len: usize| {
        bytes.get(at..at + len).map_or(0, |field| {
            let mut number = [0; 8];
            number[..len].copy_from_slice(field);
            u64::from_le_bytes(number)
        })
    };
    let sectors = if kind == "SESPARSE" {
        field(16, 8)
    } else {
        field(12, 4)
    };
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
         createType=\"{create_type}\"\nRW {sectors} {kind} \"extent.vmdk\"\n\
         ddb.adapterType = \"lsilogic\"\n"
    );
    let strangers = Strangers::with(bytes.to_vec());
    let storage: Arc<dyn Storage> = Arc::new(Memory::new(NAME, descriptor.into_bytes()));
    open(Arc::clone(&storage), Some(Format::Vmdk), &strangers);
    let _ = check(Path::new(NAME), Format::Vmdk, storage, &strangers);
}

/// A raw image in a wrapper.
pub(crate) fn wrapped(bytes: &[u8]) {
    let storage = Arc::new(Memory::new(NAME, bytes.to_vec()));
    open(storage, None, &Strangers::raw());
}

fn open(storage: Arc<dyn Storage>, format: Option<Format>, strangers: &Strangers) {
    // Memory where there is such a file system: a fuzzer makes a million of these files.
    let shared = Path::new("/dev/shm");
    let unpacking = Unpacking {
        most: MOST_PLAIN,
        folder: if shared.is_dir() {
            shared.to_owned()
        } else {
            std::env::temp_dir()
        },
    };
    let mut options = OpenOptions {
        format,
        unpacking: Some(unpacking),
        ..OpenOptions::default()
    };
    let open = |options: &OpenOptions<'_>| {
        Image::from_storage_with(NAME.into(), Arc::clone(&storage), options, strangers)
    };
    if let Ok(image) = open(&options) {
        walk(&*image.disk());
    }
    if format == Some(Format::Qcow2) {
        // The snapshot that the seeds have.
        options.snapshot = Some("1");
        if let Ok(image) = open(&options) {
            walk(&*image.disk());
        }
    }
}

/// Asks where a disk's bytes are from its start to its end, or as far as a number of answers goes, and
/// from some places near its end; reads a few of them. Fails where an answer breaks the contract.
pub(crate) fn walk(disk: &dyn Disk) {
    let size = disk.size();
    let mut reads = READS;
    for start in [0, size / 2, size.saturating_sub(BEYOND)] {
        stretch(disk, start, &mut reads);
    }
    if let Ok(located) = disk.locate(size, 1) {
        assert!(matches!(located.run, Run::End) && located.len == 0);
    }
    assert!(disk.read_at(&mut [0], size).is_err());
}

fn stretch(disk: &dyn Disk, start: u64, reads: &mut u32) {
    let size = disk.size();
    let mut at = start;
    // Ends because the number of steps is bounded.
    for _ in 0..STEPS {
        if at >= size {
            return;
        }
        let want = size - at;
        let Ok(located) = disk.locate(at, want) else {
            at = at.saturating_add(BEYOND);
            continue;
        };
        let len = located.len;
        assert!((1..=want).contains(&len), "{len} of {want} bytes at {at}");
        let zero = match &located.run {
            Run::Below | Run::End => panic!("{:?} at {at} of {size}", located.run),
            Run::Zero => true,
            Run::At { .. } => false,
            Run::Packed(packed) => {
                let end = packed.skip.checked_add(len);
                assert!(end.is_some_and(|end| end <= packed.unit.get()));
                false
            }
        };
        if *reads > 0 {
            *reads -= 1;
            let mut buf = vec![0xee; usize::try_from(len.min(4096)).unwrap()];
            let read = disk.read_at(&mut buf, at);
            assert!(!zero || (read.is_ok() && buf.iter().all(|byte| *byte == 0)));
        }
        at += len;
    }
}

/// Changes an image in place in every way there is. What it reads as afterwards is not looked at: it
/// was broken before.
fn change(format: Format, bytes: &[u8]) {
    let storage = Arc::new(Bounded::new(bytes.to_vec()));
    let edited: Arc<dyn StorageMut> = storage.clone();
    let strangers = Strangers::raw();
    let Ok(mut layer) = edit(NAME.into(), format, edited, &strangers, &Fresh) else {
        return;
    };
    let (size, unit) = (layer.size(), layer.unit().get());
    if (1..=1 << 20).contains(&unit) && size >= unit {
        let plain = vec![0x5a; usize::try_from(unit).unwrap()];
        let _ = layer.put(0, &plain);
        let last = (size - 1) / unit * unit;
        let _ = layer.put(last, &plain[..usize::try_from(size - last).unwrap()]);
        let _ = layer.zero(0, unit);
        let _ = layer.forget(0, unit);
    }
    let _ = layer.set_backing(None);
    let _ = layer.resize(size.saturating_add(unit));
    let _ = layer.resize(size / 2);
    let _ = layer.flush();
    drop(layer);
    open(storage, Some(format), &strangers);
}
