//! Changing images in place, and a plain model of what must come of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use rehost_block::{Error, File, Memory, Result, SameFolder, StorageMut};
use rehost_image::{Check, EditFiles, Format, LayerMut, check, edit, repair};

use super::second::assert_second;
use super::sharing::backing;
use super::{assert_content, noise, patchwork};

/// Images of one file have no further ones.
#[derive(Debug)]
pub(crate) struct NoFiles;

impl EditFiles for NoFiles {
    fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
        Err(Error::usage("no further file").in_file(path))
    }
}

/// Opens the image at `path` for changes.
pub(crate) fn open_edit(path: &Path, format: Format) -> Result<Box<dyn LayerMut>> {
    let storage = Arc::new(File::open_mut(path)?);
    edit(path.to_owned(), format, storage, &SameFolder, &NoFiles)
}

/// Checks the image at `path`.
pub(crate) fn checked(path: &Path, format: Format) -> Check {
    let storage = Arc::new(File::open(path).unwrap());
    check(path, format, storage, &SameFolder).unwrap()
}

/// Fails unless a check of the image at `path` finds nothing.
pub(crate) fn assert_clean(path: &Path, format: Format) {
    let check = checked(path, format);
    assert!(check.is_clean(), "{}: {:?}", path.display(), check.findings);
}

/// What a check of the image `bytes` finds.
pub(crate) fn check_bytes(bytes: Vec<u8>, format: Format) -> Result<Check> {
    let storage = Arc::new(Memory::new("x", bytes));
    check(Path::new("x"), format, storage, &SameFolder)
}

/// The image `bytes` after a repair, and what a check finds then.
pub(crate) fn repaired(bytes: Vec<u8>, format: Format) -> (Vec<u8>, Check) {
    let storage = Arc::new(Memory::new("x", bytes));
    let check = repair("x".into(), format, storage.clone(), &SameFolder, &NoFiles).unwrap();
    (storage.to_vec(), check)
}

/// One change: its kind, where it begins and ends, and what is put.
pub(crate) type Step = (u8, Index, Index, u64);

/// Up to fifteen changes.
pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..8, any::<Index>(), any::<Index>(), 1u64..99);
    prop::collection::vec(step, 1..15)
}

/// Does `step` to `layer` and to `model`, its content; `below` is the parent's. New sizes are
/// multiples of `grain`.
pub(crate) fn change(
    layer: &mut dyn LayerMut,
    model: &mut Vec<u8>,
    below: &[u8],
    grain: usize,
    (kind, from, to, seed): Step,
) {
    let unit = usize::try_from(layer.unit().get()).unwrap();
    let units = model.len().div_ceil(unit);
    let (from, to) = (from.index(units), to.index(units));
    let range = from.min(to) * unit..model.len().min((from.max(to) + 1) * unit);
    let (offset, len) = (range.start as u64, range.len() as u64);
    match kind {
        0..=3 => {
            let bytes = noise(seed, range.len().min(3 * unit + 700_000 / unit * unit));
            let bytes = &bytes[..bytes.len().min(range.len())];
            let whole = if bytes.len() == range.len() {
                bytes.len()
            } else {
                bytes.len() / unit * unit
            };
            layer.put(offset, &bytes[..whole]).unwrap();
            model[range.start..range.start + whole].copy_from_slice(&bytes[..whole]);
        }
        4 => {
            layer.zero(offset, len).unwrap();
            model[range].fill(0);
        }
        5 | 6 => {
            layer.forget(offset, len).unwrap();
            for at in range {
                model[at] = below.get(at).copied().unwrap_or(0);
            }
        }
        _ => {
            let size = (model.len() / 2 + from * unit)
                .next_multiple_of(grain)
                .max(grain);
            layer.resize(size as u64).unwrap();
            model.resize(size, 0);
        }
    }
    assert_eq!(layer.size(), model.len() as u64);
}

/// Checks and mends the image `bytes`, however damaged, and fails on an error that is our own.
pub(crate) fn assert_no_verb_fails(bytes: &[u8], format: Format) {
    let ours = |error: &Error| error.kind() == rehost_block::Kind::Internal;
    let check = check_bytes(bytes.to_vec(), format);
    assert!(!check.as_ref().is_err_and(ours), "{check:?}");
    let storage = Arc::new(Memory::new("x", bytes.to_vec()));
    let mended = repair("x".into(), format, storage, &SameFolder, &NoFiles);
    assert!(!mended.as_ref().is_err_and(ours), "{mended:?}");
}

/// How the tests of a format with parents make its images.
pub(crate) struct Family {
    pub(crate) format: Format,
    pub(crate) suffix: &'static str,
    /// A second reader of children.
    pub(crate) reader: &'static str,
    /// Writes a disk as an image without a parent.
    pub(crate) write: fn(&Path, &[u8]),
    /// Writes the second disk as the child `top` over `base`, which holds the first.
    pub(crate) child: fn(&Path, &[u8], &[u8]),
    /// Compares an image without a parent with a disk, by every reader.
    pub(crate) judge: fn(&Path, &[u8]),
}

impl Family {
    /// Renames the parent of a child to a longer name, takes it away, and names it again.
    pub(crate) fn change_parents(&self) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(format!("{name}.{}", self.suffix));
        let base = patchwork(5 << 20);
        (self.write)(&path("base"), &base);
        let mut disk = base.clone();
        disk[1 << 20..2 << 20].copy_from_slice(&noise(3, 1 << 20));
        disk[3_000_000] ^= 1;
        (self.child)(folder.path(), &base, &disk);

        // Renamed, to a name that is longer than the room of the old one.
        let (top, long) = (path("top"), path(&"x".repeat(200)));
        fs::rename(path("base"), &long).unwrap();
        let edit = || open_edit(&top, self.format).unwrap();
        let mut layer = edit();
        layer.set_backing(Some(&backing(&long))).unwrap();
        layer.flush().unwrap();
        let image = assert_content(&top, &disk, "renamed");
        assert_eq!(image.files()[1].file_name(), long.file_name());
        assert_clean(&top, self.format);
        assert_second(self.suffix, &top, &[&long], &[self.reader], &disk);

        // Taken away: what was the parent's is zero, and any reader will do.
        let mut layer = edit();
        layer.set_backing(None).unwrap();
        layer.flush().unwrap();
        let mut alone = disk;
        for (nth, unit) in alone.chunks_mut(4096).enumerate() {
            if *unit == base[nth * 4096..][..unit.len()] {
                unit.fill(0);
            }
        }
        (self.judge)(&top, &alone);

        // Named again.
        let mut layer = edit();
        layer.set_backing(Some(&backing(&long))).unwrap();
        layer.forget(0, 5 << 20).unwrap();
        layer.put(4096, &noise(9, 8192)).unwrap();
        layer.flush().unwrap();
        let mut again = base;
        again[4096..12_288].copy_from_slice(&noise(9, 8192));
        let image = assert_content(&top, &again, "again");
        assert!(image.layers()[0].backing.is_some(), "a parent");
        assert_clean(&top, self.format);
    }
}
