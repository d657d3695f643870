//! Disks to write, and writing them as the copy engine does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use rehost_block::{File, Memory, Result, StorageMut, is_zero};
use rehost_image::{OneFile, Target, TargetFiles, TargetSpec, Written, create};

use super::{noise, patchwork, text};

/// Puts `disk` into `target`, `step` bytes at a time, zeroes left out; publishes.
pub(crate) fn fill(target: &dyn Target, disk: &[u8], step: usize) -> Written {
    for (nth, piece) in disk.chunks(step).enumerate() {
        if !is_zero(piece) {
            let offset = (nth * step) as u64;
            let payload = target.pack(offset, piece).unwrap();
            target.put(offset, payload).unwrap();
        }
    }
    target.publish().unwrap()
}

/// Makes further files in a folder.
#[derive(Debug)]
pub(crate) struct Beside(pub(crate) PathBuf);

impl TargetFiles for Beside {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        Ok(Arc::new(File::create_new(self.0.join(name))?))
    }
}

/// A new image at `path` with `disk` in it.
pub(crate) fn write(path: &Path, spec: &TargetSpec, disk: &[u8], step: usize) -> Written {
    let storage = Arc::new(File::create_new(path).unwrap());
    let files = Beside(path.parent().unwrap().to_owned());
    fill(&*create(spec, storage, &files).unwrap(), disk, step)
}

/// The bytes of a new image with `disk` in it.
pub(crate) fn in_memory(spec: &TargetSpec, disk: &[u8], step: usize) -> Vec<u8> {
    let memory = Arc::new(Memory::new(&spec.name, Vec::new()));
    fill(
        &*create(spec, memory.clone(), &OneFile).unwrap(),
        disk,
        step,
    );
    memory.to_vec()
}

/// Disks with something of everything: `long` bytes of all kinds and a sector more, a sector of
/// zeroes and one of text, zeroes only, an odd end, and data after a gap of `gap` bytes.
pub(crate) fn samples(long: usize, gap: usize) -> [Vec<u8>; 6] {
    [
        patchwork(long + 512),
        vec![0; 512],
        text(1, 512),
        vec![0; 40 << 20],
        noise(2, 65_536 + 512),
        [vec![0; gap], noise(3, 4096)].concat(),
    ]
}

/// Where, how long and of what seed.
type Write = (Index, usize, u64);

/// Up to eleven writes of noise anywhere on a disk.
pub(crate) fn any_writes() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec((any::<Index>(), 1usize..200_000, 1u64..99), 0..12)
}

/// A disk of zeroes after `writes`.
pub(crate) fn written(sectors: usize, writes: Vec<Write>) -> Vec<u8> {
    let mut disk = vec![0; sectors * 512];
    for (place, len, seed) in writes {
        let at = place.index(disk.len());
        let end = disk.len().min(at + len);
        disk[at..end].copy_from_slice(&noise(seed, end - at));
    }
    disk
}
