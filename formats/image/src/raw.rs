//! Raw images: the guest's bytes as they are, written sparsely.
//!
//! A raw image has no header that could be missing, so until it is published its first sector says
//! that it is unfinished; the guest's own first sector is kept back until then. On a storage that
//! cannot be emptied first (a block device), ranges that nothing was put into are zeroed.

mod edit;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Presence, Result, StorageMut, fill_holes};

use crate::Format;
use crate::check::Check;
use crate::create::TargetSpec;
use crate::layer::Opening;
use crate::options::{Preallocation, RawOptions};
use crate::target::{Order, Payload, Placed, Target, Written, empty};
use crate::wrapper::wrap;

pub(crate) use edit::edit;

/// Bytes per unit: a page, below which file systems have no holes.
const UNIT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// Bytes kept back: where a partition table or boot sector would be.
const FIRST: usize = 512;

/// What the first sector says until the image is published.
const UNFINISHED: &[u8] = b"rehost: this raw image is unfinished\n";

/// A raw image being written.
#[derive(Debug)]
pub(crate) struct RawTarget {
    storage: Arc<dyn StorageMut>,
    size: u64,
    /// Whether the storage had to be taken as it was.
    before: Before,
    preallocation: Preallocation,
    state: Mutex<State>,
}

/// What an untouched range reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Zeroes: the storage was emptied.
    Zeroes,
    /// What somebody left there.
    OldContent,
}

/// An empty raw image as `options` ask for.
///
/// # Errors
/// Usage for what a raw image cannot do, or a device that is too small; Io when the storage fails.
pub(crate) fn create(
    spec: &TargetSpec,
    options: RawOptions,
    storage: Arc<dyn StorageMut>,
) -> Result<Box<dyn Target>> {
    spec.refuse_compression("raw images")?;
    spec.refuse_backing("raw images")?;
    if let Some(kind) = options.wrap {
        if options.preallocation != Preallocation::Off {
            return Err(Error::usage("a wrapped image takes no room at once")
                .hint("leave preallocation or the wrapper out"));
        }
        return wrap(storage, spec.size, kind);
    }
    let mut target = RawTarget::create(storage, spec.size)?;
    target.preallocation = options.preallocation;
    Ok(Box::new(target))
}

/// Counts what is stored. Nothing about a raw image can be wrong.
///
/// # Errors
/// Io when the storage fails.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let mut check = Check::new(Format::Raw);
    let size = opening.storage.size();
    check.total_units = size.div_ceil(UNIT.get());
    check.image_end = size;
    let mut at = 0;
    // Ends because every stretch is at least a byte long.
    while at < size {
        let (presence, len) = opening.storage.presence(at, size.saturating_sub(at))?;
        let end = at.saturating_add(len.max(1)).min(size);
        if presence == Presence::Data {
            let units = end.div_ceil(UNIT.get()).saturating_sub(at / UNIT);
            check.allocated_units = check.allocated_units.saturating_add(units);
        }
        at = end;
    }
    Ok(check)
}

#[derive(Debug)]
struct State {
    /// The guest's first sector.
    first: Vec<u8>,
    stored: u64,
    /// On old content: everything below is written or zeroed.
    settled: u64,
}

impl RawTarget {
    /// An empty image of `size` bytes on `storage`.
    ///
    /// # Errors
    /// Usage when a device is smaller than that; Io when the storage fails.
    pub(crate) fn create(storage: Arc<dyn StorageMut>, size: u64) -> Result<Self> {
        empty(&*storage)?;
        // A storage that is not empty after that is a device, with whatever was on it.
        let before = if storage.size() == 0 {
            Before::Zeroes
        } else {
            Before::OldContent
        };
        storage.set_size(size)?;
        let first = vec![0; usize::try_from(size).unwrap_or(FIRST).min(FIRST)];
        let notice: Vec<u8> = UNFINISHED
            .iter()
            .copied()
            .chain(std::iter::repeat(0))
            .take(first.len())
            .collect();
        storage.write_at(&notice, 0)?;
        Ok(Self {
            storage,
            size,
            before,
            preallocation: Preallocation::Off,
            state: Mutex::new(State {
                settled: amount(first.len()),
                first,
                stored: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zeroes what lies between the last payload and `offset`.
    fn settle(&self, state: &mut State, offset: u64, end: u64) -> Result<()> {
        let gap = offset.saturating_sub(state.settled);
        if gap > 0 {
            self.storage.zero_at(state.settled, gap)?;
        }
        state.settled = state.settled.max(end);
        Ok(())
    }
}

fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Target for RawTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    /// Ascending over old content, so that the gaps are known without a map of the whole device.
    fn order(&self) -> Order {
        match self.before {
            Before::Zeroes => Order::Any,
            Before::OldContent => Order::Ascending,
        }
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(bytes) = payload else {
            return Err(Error::internal("a raw target takes plain bytes only").at(offset));
        };
        let len = amount(bytes.len());
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.size)
            .ok_or_else(|| Error::usage("data lies past the end of the disk").at(offset))?;
        let kept = {
            let mut state = self.state();
            if self.before == Before::OldContent {
                if offset != 0 && offset < state.settled {
                    return Err(
                        Error::internal("a device takes its data in ascending order").at(offset),
                    );
                }
                self.settle(&mut state, offset, end)?;
            }
            state.stored = state.stored.saturating_add(len);
            if offset == 0 {
                let kept = state.first.len().min(bytes.len());
                for (place, byte) in state.first.iter_mut().zip(bytes) {
                    *place = *byte;
                }
                kept
            } else {
                0
            }
        };
        self.storage.write_at(
            bytes.get(kept..).unwrap_or_default(),
            offset.saturating_add(amount(kept)),
        )
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        let end = offset.saturating_add(len);
        if self.before == Before::OldContent || end > self.size {
            return Ok(None);
        }
        let mut state = self.state();
        // The first unit goes the long way, its first sector being kept back.
        if offset < UNIT.get() {
            return Ok(None);
        }
        state.stored = state.stored.saturating_add(len);
        Ok(Some(Placed {
            storage: Arc::clone(&self.storage),
            offset,
            len,
        }))
    }

    fn publish(&self) -> Result<Written> {
        let mut state = self.state();
        if self.before == Before::OldContent {
            self.settle(&mut state, self.size, self.size)?;
        }
        match self.preallocation {
            Preallocation::Off | Preallocation::Metadata => {}
            Preallocation::Falloc => self.storage.reserve(0, self.size)?,
            Preallocation::Full => fill_holes(&*self.storage, 0, self.size)?,
        }
        self.storage.sync()?;
        self.storage.write_at(&state.first, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: state.stored,
            file_bytes: self.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::{Memory, Storage};
    use std::path::Path;

    /// A device: as long as it is, whatever is asked, and full of old data.
    #[derive(Debug)]
    struct Device(Memory);

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

    #[test]
    fn old_data_on_a_device_does_not_shine_through() {
        for puts in [&[][..], &[0], &[8192], &[0, 4096, 16_384], &[28_672]] {
            let device = Arc::new(Device(Memory::new("device", vec![0xee; 40_960])));
            let target = RawTarget::create(device.clone(), 30_000).unwrap();
            assert_eq!(target.order(), Order::Ascending);
            let mut expected = vec![0; 30_000];
            for at in puts.iter().copied() {
                let end = expected.len().min(at + 4096);
                expected[at..end].fill(7);
                target
                    .put(at as u64, Payload::Plain(&expected[at..end]))
                    .unwrap();
            }
            assert!(device.0.to_vec().starts_with(UNFINISHED));
            target.publish().unwrap();
            let found = device.0.to_vec();
            assert!(found[..30_000] == expected, "{puts:?}");
            assert!(found[30_000..].iter().all(|byte| *byte == 0xee));
        }
    }

    #[test]
    fn disks_shorter_than_a_sector_are_whole() {
        for size in [0usize, 1, 511, 512, 513] {
            let memory = Arc::new(Memory::new("raw", vec![9; 100]));
            let target = RawTarget::create(memory.clone(), size as u64).unwrap();
            let disk = vec![3; size];
            if size > 0 {
                target.put(0, Payload::Plain(&disk)).unwrap();
            }
            assert!(size == 0 || memory.to_vec() != disk);
            target.publish().unwrap();
            assert_eq!(memory.to_vec(), disk);
        }
    }

    #[test]
    fn preallocated_images_take_all_their_room() {
        let folder = tempfile::tempdir().unwrap();
        for word in ["falloc", "full"] {
            let path = folder.path().join(word);
            let mut spec = TargetSpec::new(Format::Raw, 3 << 20, word).unwrap();
            spec.options
                .parse(&format!("preallocation={word}"))
                .unwrap();
            let storage = Arc::new(rehost_block::File::create_new(&path).unwrap());
            let target = crate::create(&spec, storage, &crate::OneFile).unwrap();
            target.put(4096, Payload::Plain(&[7; 4096])).unwrap();
            target.publish().unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 >= 3 << 20);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 3 << 20);
            assert_eq!(bytes.iter().filter(|byte| **byte == 7).count(), 4096);
        }
    }
}
