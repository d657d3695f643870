//! Filling targets in the other ways that the copy engine has: over a parent, into places, on a
//! device.

use std::path::Path;
use std::sync::Arc;

use rehost_block::{Memory, Presence, Result, SameFolder, Storage, StorageMut, is_zero};
use rehost_image::{Image, Payload, Target, TargetBacking, Written};

/// Puts what of `disk` differs from `below` into `target`, zeroes as such; publishes.
pub(crate) fn fill_over(target: &dyn Target, below: &[u8], disk: &[u8]) -> Written {
    let unit = usize::try_from(target.unit().get()).unwrap();
    for (nth, piece) in disk.chunks(unit).enumerate() {
        let at = nth * unit;
        let old = below.get(at..disk.len().min(at + unit)).unwrap_or_default();
        if old == piece {
            continue;
        }
        let payload = if is_zero(piece) {
            Payload::Zero(piece.len() as u64)
        } else {
            Payload::Plain(piece)
        };
        target.put(at as u64, payload).unwrap();
    }
    target.publish().unwrap()
}

/// Has `target` place what of `disk` is not zero, `step` bytes at a time, and fills the places;
/// publishes. Fails unless every place is aligned to pages of the file.
pub(crate) fn fill_places(target: &dyn Target, disk: &[u8], step: usize) -> Written {
    for (nth, piece) in disk.chunks(step).enumerate() {
        if is_zero(piece) {
            continue;
        }
        let mut at = nth * step;
        let mut rest = piece;
        while !rest.is_empty() {
            let placed = target.place(at as u64, rest.len() as u64).unwrap().unwrap();
            assert_eq!(placed.offset % 4096, 0);
            let len = usize::try_from(placed.len).unwrap();
            let (part, tail) = rest.split_at(len);
            placed.storage.write_at(part, placed.offset).unwrap();
            rest = tail;
            at += len;
        }
    }
    target.publish().unwrap()
}

/// The image at `path`, as a child beside it needs to know it.
pub(crate) fn backing(path: &Path) -> TargetBacking {
    let name = path.file_name().unwrap().into();
    let image = Image::open(path, None, &SameFolder).unwrap();
    image.as_backing(name).unwrap()
}

/// A device: as long as it is, whatever is asked, and full of old data.
#[derive(Debug)]
pub(crate) struct Device(Memory);

impl Device {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        Arc::new(Self(Memory::new("device", vec![0xee; len])))
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl Storage for Device {
    fn name(&self) -> &Path {
        self.0.name()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.0.presence(offset, want)
    }
}

impl StorageMut for Device {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        assert!(offset + data.len() as u64 <= self.size(), "past the device");
        self.0.write_at(data, offset)
    }
    fn set_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.0.zero_at(offset, len)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
